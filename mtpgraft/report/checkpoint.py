"""Report of inspect for a safetensors checkpoint."""

from __future__ import annotations

from mtpgraft.container.checkpoint import Checkpoint
from mtpgraft.hf import HfHead
from mtpgraft.report.surgery import SCHEMA_VERSION, Json
from mtpgraft.report.text import clean, counts, shape


def checkpoint_json(checkpoint: Checkpoint, head: HfHead) -> dict[str, Json]:
    """What `mtpgraft inspect CHECKPOINT --json` prints."""
    return {
        "schema_version": SCHEMA_VERSION,
        "model": checkpoint.name,
        "architecture": head.layout.arch,
        "verdict": "ok",
        "n_trunk_blocks": head.n_trunk,
        "n_head_blocks": head.n_blocks,
        "head_types": _types(head),
        "warnings": list(head.warnings),
        "head": [
            {"name": p.name, "shape": list(p.shape), "type": p.dtype, "origins": list(p.origins)} for p in head.parts
        ],
    }


def checkpoint_facts(checkpoint: Checkpoint, head: HfHead) -> list[tuple[str, str]]:
    """The same for people, as (label, text) rows."""
    return [
        ("model", clean(checkpoint.name)),
        ("architecture", f"{head.layout.arch}, as a Hugging Face checkpoint"),
        ("blocks", f"{head.n_trunk} trunk, {head.n_blocks} head"),
        ("head present", f"{len(head.parts)} tensors in GGUF's names ({counts(_types(head))})"),
        ("verdict", "ok"),
        *(("warning", clean(text)) for text in head.warnings),
    ]


def checkpoint_rows(head: HfHead) -> list[tuple[str, str, str, str]]:
    """(GGUF name, shape, stored type, Hugging Face names) of each head tensor."""
    return [(p.name, shape(p.shape), p.dtype, clean(", ".join(p.origins[:2]))) for p in head.parts]


def _types(head: HfHead) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in head.parts:
        found[part.dtype] = found.get(part.dtype, 0) + 1
    return dict(sorted(found.items(), key=lambda item: -item[1]))
