"""All tiny models, in the order in which they are built."""

from __future__ import annotations

from tiny import bailing, glm, hyper, no_graph, others, qwen, qwen4exp, step_mimo
from tiny.shapes import TinyModel

MODELS: tuple[TinyModel, ...] = (
    *qwen.MODELS,
    *glm.MODELS,
    *step_mimo.MODELS,
    *others.MODELS,
    *bailing.MODELS,
    *qwen4exp.MODELS,
    *no_graph.MODELS,
    *hyper.MODELS,
)

# Why an architecture that has to do with NextN has no fixture here (llama.cpp b11434).
NOT_BUILT: dict[str, str] = {
    "hy_v4": "the converter drops the head: conversion/hy_v4.py:57",
    "minimax-m3": "neither the converter nor the loader knows a head: conversion/minimax.py",
    "nemotron_h": "the converter writes a head for the MoE kind only: conversion/nemotron.py, _mtp_bid",
    "gemma4-assistant": "a model of its own beside its target, not a head in the target's file",
    "graniteswitch": "its last layer is a router that the loader calls NextN, not a head",
}
