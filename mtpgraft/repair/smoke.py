"""Does llama.cpp draft with it? A start and a few tokens in the embedded engine, where that is installed."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from mtpgraft.errors import EngineError

_LETTERS = "root ::= [a-z ]{64}"
"""Keeps models of any quality, random ones too, to text that does not end before something was drafted."""
_N_PREDICT = 16
_MEMORY_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class Smoke:
    """drafts: None when it was not tried. text: what happened."""

    drafts: bool | None
    text: str


def smoke_test(model: Path, n_bytes: int) -> Smoke:
    """Load `model` with draft-mtp and complete a few tokens. Never raises: a failure is a result."""
    if importlib.util.find_spec("xllamacpp") is None:
        return Smoke(
            None, "not tried in llama.cpp: the embedded engine is not installed (pip install 'mtpgraft[bench]')"
        )
    free = _free_memory_nbytes()
    if free is not None and n_bytes > _MEMORY_SHARE * free:
        return Smoke(None, "not tried in llama.cpp: the model does not fit into this machine's free memory")
    from mtpgraft.bench.engine import CompletionRequest, DraftSpec, LaunchSpec
    from mtpgraft.bench.engines.embedded import EmbeddedEngine

    spec = LaunchSpec(model, n_ctx=256, draft=DraftSpec(1), n_batch=64, warmup=False)
    try:
        with EmbeddedEngine().start(spec) as session:
            result = session.complete(CompletionRequest("def read(self", _N_PREDICT, grammar=_LETTERS))
    except EngineError as error:
        return Smoke(False, f"llama.cpp does not run it with draft-mtp: {error}")
    if not result.draft_n:
        return Smoke(False, "llama.cpp runs it and drafted nothing")
    return Smoke(True, f"llama.cpp drafts with it: {result.draft_n} tokens drafted, {result.draft_n_accepted} accepted")


def _free_memory_nbytes() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return None
    return None
