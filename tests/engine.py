"""Runs a file in llama.cpp (the embedded engine), for every test that makes one. About 0.1 s per call.

Each call is one child process: a file that crashes llama.cpp fails its test and nothing else.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from mtpgraft.bench.engine import CompletionRequest, CompletionResult, DraftSpec, LaunchSpec
from mtpgraft.bench.engines.embedded import EmbeddedEngine
from mtpgraft.bench.engines.enginelog import telling_lines
from mtpgraft.errors import EngineError

# Keeps random-weight models to whole characters, and from ending the text before anything can be drafted.
LETTERS = "root ::= [a-z ]{64}"


def launch(model: Path, sidecar: Path | None = None, n_max: int = 0) -> LaunchSpec:
    """A start as small and quick as llama.cpp makes it. n_max 0: without drafting."""
    draft = DraftSpec(n_max, sidecar=sidecar) if n_max else None
    return LaunchSpec(model, n_ctx=256, draft=draft, n_threads=1, n_batch=64, warmup=False)


def load_and_draft(
    model: Path,
    sidecar: Path | None = None,
    n_max: int = 1,
    grammar: str | None = LETTERS,
    n_predict: int = 16,
    prompt: str = "def read(self",
) -> CompletionResult:
    """Loads with draft-mtp and completes. Fails unless something was drafted: a load alone is no pass."""
    result = _complete(launch(model, sidecar, n_max), CompletionRequest(prompt, n_predict, grammar=grammar))
    assert result.draft_n > 0, f"{model.name} loaded and drafted nothing: {result}"
    return result


def load_only(
    model: Path, grammar: str | None = LETTERS, n_predict: int = 16, prompt: str = "def read(self"
) -> CompletionResult:
    """Loads without drafting and completes. Its greedy text is what load_and_draft's should equal."""
    result = _complete(launch(model), CompletionRequest(prompt, n_predict, grammar=grammar))
    assert result.draft_n == 0
    return result


def refusal(model: Path, sidecar: Path | None = None, n_max: int = 0) -> tuple[str, ...]:
    """What llama.cpp says about a file that it refuses or crashes on; how it ended comes last. Fails if it loads."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            EmbeddedEngine(Path(folder), start_timeout_s=60).start(launch(model, sidecar, n_max)).close()
        except EngineError as error:
            (log,) = Path(folder).iterdir()
            return (*telling_lines(log.read_text(encoding="utf-8", errors="replace"), limit=10), error.what)
    raise AssertionError(f"llama.cpp loads {model.name}")


def _complete(spec: LaunchSpec, request: CompletionRequest) -> CompletionResult:
    with tempfile.TemporaryDirectory() as folder:
        engine = EmbeddedEngine(Path(folder), start_timeout_s=60, request_timeout_s=60)
        with engine.start(spec) as session:
            return session.complete(request)
