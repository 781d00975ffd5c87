"""Heads of Hugging Face checkpoints, converted as llama.cpp's converter would."""

from __future__ import annotations

from mtpgraft.hf.head import HfHead, find_checkpoint_head
from mtpgraft.hf.norms import checkpoint_fingerprint, checkpoint_head_norms
from mtpgraft.hf.plan import plan_extract_checkpoint, refuse_sidecar
from mtpgraft.hf.verify import verify_extract_checkpoint

__all__ = [
    "HfHead",
    "checkpoint_fingerprint",
    "checkpoint_head_norms",
    "find_checkpoint_head",
    "plan_extract_checkpoint",
    "refuse_sidecar",
    "verify_extract_checkpoint",
]
