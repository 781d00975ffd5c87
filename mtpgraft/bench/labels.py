"""What reports call the engines of one run."""

from __future__ import annotations

from collections.abc import Sequence

from mtpgraft.bench.engine import DraftSpec, EngineInfo
from mtpgraft.bench.engines.mtpflags import current_spelling, mtp_words


def engine_labels(infos: Sequence[EngineInfo]) -> tuple[str, ...]:
    """A short label of its own for each: `llama.cpp b11434`, `ik_llama.cpp 1.2`; ("",) for a single one."""
    if len(infos) == 1:
        return ("",)
    labels: list[str] = []
    for info in infos:
        build = f"b{info.build_number}" if info.build_number else info.version
        build = "" if build == "0" or "unknown" in build else build  # a checkout without its history
        label = unique = f"{info.kind} {build}".strip()
        number = 2
        while unique in labels:
            unique = f"{label} ({number})"
            number += 1
        labels.append(unique)
    return tuple(labels)


def draft_flags(draft: DraftSpec | None, kind: str = "llama.cpp") -> tuple[str, ...]:
    """The arguments of a current llama-server (or ik_llama.cpp's) that draft in this way; () for off."""
    if draft is None:
        return ()
    return mtp_words(current_spelling(kind), draft, None if draft.sidecar is None else str(draft.sidecar))
