"""The embedded engine: llama.cpp's own server from the PyPI wheel xllamacpp, one child process per start.

Always in a child: llama.cpp ends its process with GGML_ASSERT on a head that is declared and not there, and with a
segmentation fault on a sidecar given as the model (both seen at b11549).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import mtpgraft
from mtpgraft.bench.engine import CompletionRequest, CompletionResult, EngineInfo, Json, LaunchSpec, SessionFacts
from mtpgraft.bench.engines.child import Gone, JsonChild
from mtpgraft.bench.engines.childsession import CLOSE_GRACE_S, ChildSession, EngineLog, require_files
from mtpgraft.bench.engines.enginelog import settled_log, telling_lines
from mtpgraft.bench.engines.refusal import refuse_known_bad, rejected
from mtpgraft.bench.engines.timings import as_float, as_int, completion_body, parse_completion
from mtpgraft.bench.host import default_threads
from mtpgraft.errors import EngineError, UsageError

INSTALL_HINT = "pip install 'mtpgraft[bench]'"
# b11549 common/arg.cpp, kv_cache_types: with any other type it ends itself
_CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")


@dataclass(frozen=True, slots=True)
class EmbeddedEngine:
    """Starts xllamacpp.

    log_dir: where engine logs are kept. None: temporary files (bench/engines/childsession.py).
    start_timeout_s: for loading the model; a large one comes off a slow disk only once per start.
    request_timeout_s: for one completion.
    """

    log_dir: Path | None = None
    start_timeout_s: float = 900.0
    request_timeout_s: float = 900.0

    @property
    def is_fixed(self) -> bool:
        return False

    def info(self) -> EngineInfo:
        child, log, info = _spawn(self.log_dir, self.start_timeout_s)
        child.close(CLOSE_GRACE_S)
        log.close()
        return info

    def start(self, spec: LaunchSpec) -> EmbeddedSession:
        require_files(spec)
        _require_possible(spec)
        n_threads = spec.n_threads or default_threads(spec.model.stat().st_size)
        child, log, info = _spawn(self.log_dir, self.start_timeout_s, dict(spec.env))
        try:
            if spec.draft is not None:
                refuse_known_bad(info, info.name)
            message = _start_message(replace(spec, n_threads=n_threads))
            answer = child.ask(message, self.start_timeout_s)
            if isinstance(answer, Gone) or "error" in answer:
                child.kill()
                raise _refused(spec, answer, log)
        except BaseException:  # KeyboardInterrupt too: no engine may outlive the caller
            child.kill()
            log.close()
            raise
        return EmbeddedSession(spec, n_threads, info, child, log, self.request_timeout_s)


class EmbeddedSession(ChildSession):
    """One xllamacpp process."""

    __slots__ = ("_request_timeout_s",)

    def __init__(
        self,
        spec: LaunchSpec,
        n_threads: int,
        info: EngineInfo,
        child: JsonChild,
        log: EngineLog,
        request_timeout_s: float,
    ) -> None:
        super().__init__(spec, n_threads, info, child, log)
        self._request_timeout_s = request_timeout_s

    @property
    def pid(self) -> int:
        return self._child.pid

    def complete(self, request: CompletionRequest) -> CompletionResult:
        (result,) = self._ask((request,))
        return result

    def complete_all(self, requests: Sequence[CompletionRequest]) -> tuple[CompletionResult, ...]:
        return self._ask(requests) if requests else ()

    def facts(self) -> SessionFacts:
        return SessionFacts(log=settled_log(self.log_path))

    def _ask(self, requests: Sequence[CompletionRequest]) -> tuple[CompletionResult, ...]:
        messages: list[Json] = [{"shape": request.shape, "body": completion_body(request)} for request in requests]
        answer = self._child.ask({"op": "complete", "requests": messages}, self._request_timeout_s)
        if isinstance(answer, Gone):
            self._child.kill()
            raise self._died(f"the embedded llama.cpp {answer.reason}")
        if "error" in answer:
            raise self._rejected(str(answer["error"]))
        answers, counters = answer["answers"], answer["counters"]
        assert isinstance(answers, list)
        return tuple(self._result(one, counters) for one in answers)

    def _result(self, answer: Json, counters: Json) -> CompletionResult:
        assert isinstance(answer, Mapping)
        reply = answer["reply"]
        assert isinstance(reply, Mapping)
        error = reply.get("error")
        if error is not None:
            raise self._rejected(str(error["message"]) if isinstance(error, Mapping) else str(error))
        # the counters are of all slots together, and tell nothing of one request among several
        return parse_completion(reply, counters if isinstance(counters, Mapping) else None, as_float(answer["wall_ms"]))

    def _rejected(self, message: str) -> EngineError:
        return rejected("the embedded llama.cpp", message, self.spec)


def _require_possible(spec: LaunchSpec) -> None:
    for kind in (spec.cache_type_k, spec.cache_type_v):
        if kind is not None and kind not in _CACHE_TYPES:
            raise EngineError(
                "the embedded llama.cpp does not know this KV cache type",
                found=kind,
                expected=", ".join(_CACHE_TYPES),
                hint="types of a fork need its llama-server: --engine /path/to/llama-server",
            )
    for what, given in (("--rpc", spec.rpc), ("command-line arguments", spec.args)):
        if given:
            raise UsageError(
                f"the embedded engine takes no {what}",
                found=" ".join(given),
                expected="a llama-server binary",
                hint="--engine llama-server (`mtpgraft doctor` lists the engines of this machine)",
            )


def _start_message(spec: LaunchSpec) -> dict[str, Json]:
    draft: dict[str, Json] | None = None
    if spec.draft is not None:
        sidecar = spec.draft.sidecar
        draft = {
            "n_max": spec.draft.n_max,
            "p_min": spec.draft.p_min,
            "sidecar": None if sidecar is None else str(sidecar.absolute()),
            "synth_rates": list(spec.draft.synth_rates),
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
            "n_gpu_layers": spec.n_gpu_layers,
            "cache_type_k": spec.cache_type_k,
            "cache_type_v": spec.cache_type_v,
            "extra": dict(spec.extra),
            "draft": draft,
        },
    }


def _spawn(
    log_dir: Path | None, timeout_s: float, env: Mapping[str, str] = MappingProxyType({})
) -> tuple[JsonChild, EngineLog, EngineInfo]:
    """A worker that has loaded xllamacpp and no model. env: variables on top of this process's own."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise EngineError("the embedded engine is not installed", expected="xllamacpp", hint=INSTALL_HINT)
    log = EngineLog.new(log_dir)
    child = JsonChild.spawn(
        [sys.executable, "-m", "mtpgraft.bench.engines.embedded_worker"], {**_environment(), **env}, log.path
    )
    try:
        answer = child.hear(timeout_s)
        if isinstance(answer, Gone) or "error" in answer:
            child.kill()
            why = answer.reason if isinstance(answer, Gone) else str(answer["error"])
            raise EngineError(
                "xllamacpp is installed and cannot run here",
                found="; ".join((why, *telling_lines(log.text()))),
                hint=f"reinstall it: {INSTALL_HINT}",
            )
    except BaseException:
        child.kill()
        log.close()
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
        build_number=as_int(number) if (number := info["build_number"]) is not None else None,
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


def _refused(spec: LaunchSpec, answer: Gone | Mapping[str, Json], log: EngineLog) -> EngineError:
    """llama.cpp said no, or crashed, which is its other way to say no: the same file will do it again."""
    if isinstance(answer, Gone):
        return log.failure(f"the embedded llama.cpp {answer.reason} while it loaded the model", spec.model)
    return log.failure("the embedded llama.cpp cannot run this model", spec.model, otherwise=str(answer["error"]))
