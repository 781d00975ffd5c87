"""The embedded engine: llama.cpp's own server from the PyPI wheel xllamacpp, one child process per start.

Always in a child: llama.cpp ends its process with GGML_ASSERT on a head that is declared and not there, and with a
segmentation fault on a sidecar given as the model (both seen at b11549).
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import mtpgraft
from mtpgraft.bench.child import Gone, JsonChild
from mtpgraft.bench.engine import CompletionRequest, CompletionResult, EngineInfo, Json, LaunchSpec
from mtpgraft.bench.enginelog import hint_for, telling_lines
from mtpgraft.bench.host import default_threads
from mtpgraft.errors import EngineDiedError, EngineError, InputError

INSTALL_HINT = "pip install 'mtpgraft[bench]'"
_CLOSE_GRACE_S = 10.0


@dataclass(frozen=True, slots=True)
class EmbeddedEngine:
    """Starts xllamacpp.

    log_dir: where engine logs are kept. None: a temporary file, removed after a session without trouble.
    start_timeout_s: for loading the model; a large one comes off a slow disk only once per start.
    request_timeout_s: for one completion.
    """

    log_dir: Path | None = None
    start_timeout_s: float = 900.0
    request_timeout_s: float = 900.0

    def info(self) -> EngineInfo:
        child, log, info = _spawn(self.log_dir, self.start_timeout_s)
        child.close(_CLOSE_GRACE_S)
        if self.log_dir is None:
            log.unlink(missing_ok=True)
        return info

    def start(self, spec: LaunchSpec) -> EmbeddedSession:
        sidecar = spec.draft.sidecar if spec.draft else None
        for file in (spec.model, sidecar):
            if file is not None and not file.is_file():
                raise InputError("no such file", file=file, hint="check the path")
        n_threads = spec.n_threads or default_threads(spec.model.stat().st_size)
        child, log, info = _spawn(self.log_dir, self.start_timeout_s)
        try:
            message = _start_message(replace(spec, n_threads=n_threads))
            answer = child.ask(message, self.start_timeout_s)
            if isinstance(answer, Gone) or "error" in answer:
                child.kill()
                raise _refused(spec, answer, log)
        except BaseException:  # KeyboardInterrupt too: no engine may outlive the caller
            child.kill()
            raise
        return EmbeddedSession(spec, n_threads, info, child, log, self)


class EmbeddedSession:
    """One xllamacpp process with one model. `log_path` exists until close(), and after it when kept."""

    __slots__ = ("_child", "_closed", "_engine", "_in_trouble", "info", "log_path", "n_threads", "spec")

    def __init__(
        self,
        spec: LaunchSpec,
        n_threads: int,
        info: EngineInfo,
        child: JsonChild,
        log_path: Path,
        engine: EmbeddedEngine,
    ) -> None:
        self.spec = spec
        self.n_threads: int | None = n_threads
        self.info = info
        self.log_path = log_path
        self._child = child
        self._engine = engine
        self._closed = False
        self._in_trouble = False

    @property
    def pid(self) -> int:
        return self._child.pid

    def complete(self, request: CompletionRequest) -> CompletionResult:
        answer = self._child.ask({"op": "complete", "body": _body(request)}, self._engine.request_timeout_s)
        if isinstance(answer, Gone):
            self._in_trouble = True
            self._child.kill()
            raise self._died(answer)
        if "error" in answer:
            raise self._rejected(str(answer["error"]))
        reply, counters = answer["answer"], answer["counters"]
        assert isinstance(reply, Mapping) and isinstance(counters, Mapping)
        error = reply.get("error")
        if error is not None:
            raise self._rejected(str(error["message"]) if isinstance(error, Mapping) else str(error))
        return parse_completion(reply, counters)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        exit_code = self._child.close(_CLOSE_GRACE_S)
        if self._engine.log_dir is None and exit_code == 0 and not self._in_trouble:
            self.log_path.unlink(missing_ok=True)

    def __enter__(self) -> EmbeddedSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _died(self, gone: Gone) -> EngineDiedError:
        lines = telling_lines(_read(self.log_path))
        return EngineDiedError(
            f"the embedded llama.cpp {gone.reason} in the middle of a completion",
            file=self.spec.model,
            found="; ".join(lines) or None,
            hint=f"run it again; the engine's log: {self.log_path}",
        )

    def _rejected(self, message: str) -> EngineError:
        return EngineError(
            "the embedded llama.cpp rejected a completion",
            file=self.spec.model,
            found=message,
            hint="use a shorter prompt or more context" if "context size" in message else None,
        )


def parse_completion(reply: Mapping[str, Json], counters: Mapping[str, Json]) -> CompletionResult:
    """llama.cpp's `/v1/completions` JSON as a value, with the counters' differences over this one request."""
    choices, timings = reply["choices"], reply["timings"]
    assert isinstance(choices, list) and isinstance(timings, Mapping)
    choice = choices[0]
    assert isinstance(choice, Mapping)
    by_position = sorted(
        (int(name.partition('position="')[2].rstrip('"}')), _int(n))
        for name, n in counters.items()
        if name.startswith("spec_decode_num_accepted_tokens_per_pos_total{")
    )
    n_steps = counters.get("spec_decode_num_drafts_total")
    return CompletionResult(
        text=str(choice["text"]),
        tokens=None,  # this endpoint gives none
        n_predicted=_int(timings["predicted_n"]),
        predicted_ms=_float(timings["predicted_ms"]),
        predicted_per_second=_float(timings["predicted_per_second"]),
        prompt_n=_int(timings["prompt_n"]),
        prompt_ms=_float(timings["prompt_ms"]),
        draft_n=_int(timings.get("draft_n", 0)),
        draft_n_accepted=_int(timings.get("draft_n_accepted", 0)),
        n_draft_steps=None if n_steps is None else _int(n_steps),
        accepted_per_position=tuple(n for _, n in by_position) or None,
        stop=str(choice["finish_reason"]),
    )


def _start_message(spec: LaunchSpec) -> dict[str, Json]:
    draft: dict[str, Json] | None = None
    if spec.draft is not None:
        sidecar = spec.draft.sidecar
        draft = {
            "n_max": spec.draft.n_max,
            "p_min": spec.draft.p_min,
            "sidecar": None if sidecar is None else str(sidecar.absolute()),
        }
    return {
        "op": "start",
        "spec": {
            "model": str(spec.model.absolute()),
            "n_ctx": spec.n_ctx,
            "n_parallel": spec.n_parallel,
            "n_threads": spec.n_threads,
            "n_batch": spec.n_batch,
            "warmup": spec.warmup,
            "extra": dict(spec.extra),
            "draft": draft,
        },
    }


def _body(request: CompletionRequest) -> dict[str, Json]:
    body: dict[str, Json] = {
        "prompt": request.prompt,
        "n_predict": request.n_predict,
        "temperature": request.temperature,
        "seed": request.seed,
        "cache_prompt": request.cache_prompt,
    }
    if request.grammar is not None:
        body["grammar"] = request.grammar
    return body


def _spawn(log_dir: Path | None, timeout_s: float) -> tuple[JsonChild, Path, EngineInfo]:
    """A worker that has loaded xllamacpp and no model."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise EngineError("the embedded engine is not installed", expected="xllamacpp", hint=INSTALL_HINT)
    if log_dir is not None:
        log_dir.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix="mtpgraft-engine-", suffix=".log", dir=log_dir)
    os.close(handle)
    log = Path(name)
    child = JsonChild.spawn([sys.executable, "-m", "mtpgraft.bench.embedded_worker"], _environment(), log)
    try:
        answer = child.hear(timeout_s)
        if isinstance(answer, Gone) or "error" in answer:
            child.kill()
            why = answer.reason if isinstance(answer, Gone) else str(answer["error"])
            lines = telling_lines(_read(log))
            raise EngineError(
                "xllamacpp is installed and cannot run here",
                found="; ".join((why, *lines)),
                hint=f"reinstall it: {INSTALL_HINT} (the log: {log})",
            )
    except BaseException:
        child.kill()
        raise
    return child, log, _parse_info(answer["info"])


def _parse_info(info: Json) -> EngineInfo:
    assert isinstance(info, Mapping) and isinstance(info["devices"], list)
    return EngineInfo(
        name=str(info["name"]),
        version=str(info["version"]),
        build=str(info["build"]),
        system=str(info["system"]),
        devices=tuple(str(device) for device in info["devices"]),
    )


def _environment() -> dict[str, str]:
    """The parent's, so that the child finds this very mtpgraft, without the working directory's modules."""
    env = dict(os.environ)
    root = Path(mtpgraft.__file__).resolve().parent.parent
    if root.name not in ("site-packages", "dist-packages"):
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), env.get("PYTHONPATH"))))
    env["PYTHONSAFEPATH"] = "1"
    # Else a failed GGML_ASSERT starts gdb, where there is one, and takes seconds to end.
    env["GGML_NO_BACKTRACE"] = "1"
    return env


def _refused(spec: LaunchSpec, answer: Gone | Mapping[str, Json], log: Path) -> EngineError:
    """llama.cpp said no, or crashed, which is its other way to say no: the same file will do it again."""
    lines = telling_lines(_read(log))
    if isinstance(answer, Gone):
        what = f"the embedded llama.cpp {answer.reason} while it loaded the model"
    else:
        what = "the embedded llama.cpp cannot run this model"
        lines = lines or (str(answer["error"]),)
    return EngineError(
        what,
        file=spec.model,
        found="; ".join(lines) or None,
        hint=f"{hint_for((*lines, what), str(spec.model))}; the engine's log: {log}",
    )


def _read(log: Path) -> str:
    try:
        return log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _int(value: Json) -> int:
    assert isinstance(value, (int, float))
    return int(value)


def _float(value: Json) -> float:
    assert isinstance(value, (int, float))
    return float(value)
