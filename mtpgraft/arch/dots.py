"""dots3-note: head tensors are taken when they are there, never required and never run."""

from __future__ import annotations

from mtpgraft.arch.common import (
    DENSE_FFN,
    MLA,
    NEXTN_CORE,
    NEXTN_EMBED_TOKENS,
    NEXTN_SHARED_HEAD_NORM,
    first_known,
    moe_arrays,
    norm,
    weights,
)
from mtpgraft.arch.spec import ArchSpec, GraphSupport, HeadTensor, LoadPolicy, Need

_BLOCK = (
    norm("attn_norm"),
    *MLA,
    *weights("attn_k_norm", "attn_gate"),
    norm("ffn_norm"),
    *DENSE_FFN,
    *NEXTN_CORE,
    NEXTN_EMBED_TOKENS,
    NEXTN_SHARED_HEAD_NORM,
)

DOTS3NOTE = ArchSpec(
    name="dots3note",
    title="dots3-note",
    policy=LoadPolicy.IGNORED,
    graph=GraphSupport.NONE,
    tensors=tuple(HeadTensor(t.name, Need.OPTIONAL, t.shape, t.fallback) for t in _BLOCK),
    # head_count of a head block is the sliding layers'. conversion/dots3.py:114-117 @ b11434.
    arrays=moe_arrays("src/models/dots3note.cpp:14 @ b11434"),
    trunk_arrays=("attention.sliding_window_pattern", "attention.indexer.types"),
    sidecar=False,
    hf_architectures=(*("Dots3NoteForCausalLM", "Dots3NoteForConditionalGeneration", "Dots3NoteTextForCausalLM"),),
    notes=(first_known(LoadPolicy.IGNORED, GraphSupport.NONE),),
    remarks=("takes no shared_head_head of its own",),
    source="src/models/dots3note.cpp:78-146; no graph: 148-150; conversion/dots3.py:18-176 @ b11434",
)

SPECS = (DOTS3NOTE,)
