"""How deep to draft for which work, as data: the rules that people agree on in public, with where they come from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Advice:
    """One row. n_draft 0: leave MTP off."""

    workload: str
    n_draft: int
    title: str
    reason: str
    source: str


ADVICE: tuple[Advice, ...] = (
    Advice(
        "code",
        2,
        "code at moderate context",
        "code is the easiest text to foresee, and a third token is accepted too rarely to pay for itself everywhere",
        "27B, ggml-org/llama.cpp#22673: 83 % of the drafts accepted at n=2, 72 % at n=3; 45 to 75 tok/s at n=2 on a "
        "16 GB RTX 4080",
    ),
    Advice(
        "chat",
        1,
        "mixed conversation",
        "the first token is accepted most often; more only helps where the text is predictable",
        "35B-A3B at n=1 on a 16 GB RTX 4080: 146 to 186 tok/s",
    ),
    Advice(
        "creative",
        1,
        "creative writing, higher temperatures",
        "sampled text is hard to foresee: what is drafted beyond the first token is mostly thrown away",
        "27B at Q8_0, n=2, on an R9700: 82 % accepted, and still 18.9 instead of 20.1 tok/s. Acceptance is not speed",
    ),
    Advice(
        "agent",
        0,
        "long agentic context",
        "prompts are most of the work there, MTP makes reading them slower, and its memory costs context",
        "context on a 16 GB RTX 4080: 80 K to 40 K (27B, n=2), 80 K to 15 K (35B-A3B, n=1); prompt reading 19 % slower "
        "in ikawrakow/ik_llama.cpp#1736",
    ),
)
"""Figures as published by their authors, on their machines: `mtpgraft bench` measures yours."""


def advice_for(workload: str) -> Advice | None:
    """The row of a workload, None when there is none of that name."""
    return next((row for row in ADVICE if row.workload == workload), None)
