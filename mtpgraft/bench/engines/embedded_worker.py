"""The process behind the embedded engine: `python -m mtpgraft.bench.engines.embedded_worker`.

Runs llama.cpp's own server (PyPI xllamacpp) and answers JSON lines on stdin and stdout:

    (start-up)                     -> {"info": EngineInfo}
    {"op": "start", "spec": ...}   -> {"ready": true}
    {"op": "complete", "requests": [{"shape": ..., "body": ...}, ...]}
                                   -> {"answers": [{"reply": llama.cpp's JSON, "wall_ms": ...}, ...],
                                       "counters": {name: value}, or null for several requests}
    end of input                   -> exits with 0

or `{"error": message}` in place of an answer. stdout is duplicated for the answers before llama.cpp is loaded and
then points at stderr, the log, so nothing that llama.cpp prints can reach the parent as an answer.
"""

from __future__ import annotations

import importlib
import json
import os
import secrets
import sys
import time
from collections.abc import Mapping
from enum import Enum
from typing import IO, Protocol, cast

from mtpgraft.bench.engines.atonce import all_at_once
from mtpgraft.bench.engines.timings import counted, spec_counters


class _Model(Protocol):
    path: str


class _Draft(Protocol):
    n_max: int
    p_min: float
    mparams: _Model


class _Speculative(Protocol):
    types: list[object]
    draft: _Draft
    synth_rates: list[float]


class _CpuParams(Protocol):
    n_threads: int


class _Params(Protocol):
    """The part of llama.cpp's common_params that this worker sets."""

    model: _Model
    n_ctx: int
    n_parallel: int
    n_batch: int
    n_ubatch: int
    n_gpu_layers: int
    cache_type_k: Enum
    cache_type_v: Enum
    warmup: bool
    fit_params: bool
    cache_ram_mib: int
    cpuparams: _CpuParams
    cpuparams_batch: _CpuParams
    speculative: _Speculative
    endpoint_metrics: bool
    endpoint_slots: bool
    ui: bool
    api_keys: list[str]


class _Server(Protocol):
    def handle_completions(self, body: Mapping[str, object]) -> dict[str, object]: ...

    def handle_chat_completions(self, body: Mapping[str, object]) -> dict[str, object]: ...

    def handle_metrics(self) -> object: ...


class _Xllamacpp(Protocol):
    """The part of xllamacpp that this worker uses; the package has no type stubs."""

    __version__: str
    BUILD_INFO: dict[str, object]
    common_speculative_type: type[Enum]
    ggml_type: type[Enum]

    def CommonParams(self) -> _Params: ...  # noqa: N802

    def Server(self, params: _Params) -> _Server: ...  # noqa: N802

    def get_system_info(self) -> str: ...

    def get_device_info(self) -> list[dict[str, object]]: ...


def main() -> int:
    answers = _claim_stdout()
    _no_core_dump()

    def say(answer: Mapping[str, object]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        llama = cast(_Xllamacpp, importlib.import_module("xllamacpp"))
    except ImportError as error:
        say({"error": str(error)})
        return 1
    say({"info": _info(llama)})

    server: _Server | None = None
    for line in sys.stdin:
        message = json.loads(line)
        try:
            if message["op"] == "start":
                server = llama.Server(_params(llama, message["spec"]))
                say({"ready": True})
            elif server is not None:
                say(_complete(server, message["requests"]))
        except (RuntimeError, AttributeError, KeyError, TypeError, ValueError) as error:
            _let_log_settle()
            say({"error": str(error)})
    return 0


def _let_log_settle(longest_s: float = 3.0, quiet_s: float = 0.05) -> None:
    """Wait until llama.cpp's log thread has written what it holds: its last lines say why, and exit drops them."""
    give_up = time.monotonic() + longest_s
    size, since = -1, time.monotonic()
    while time.monotonic() < give_up:
        now = os.fstat(2).st_size
        if now != size:
            size, since = now, time.monotonic()
        elif size > 0 and time.monotonic() - since > quiet_s:
            return
        time.sleep(0.005)


def _complete(server: _Server, requests: list[Mapping[str, object]]) -> dict[str, object]:
    """Several requests go at once, in threads: the server's calls release the interpreter's lock."""
    if len(requests) > 1:
        return {"answers": all_at_once(lambda request: _answer(server, request), requests), "counters": None}
    before = spec_counters(str(server.handle_metrics()))
    answers = [_answer(server, request) for request in requests]
    return {"answers": answers, "counters": counted(before, spec_counters(str(server.handle_metrics())))}


def _answer(server: _Server, request: Mapping[str, object]) -> dict[str, object]:
    body = cast("Mapping[str, object]", request["body"])
    started = time.perf_counter()
    reply = server.handle_chat_completions(body) if request["shape"] == "chat" else server.handle_completions(body)
    return {"reply": reply, "wall_ms": 1000 * (time.perf_counter() - started)}


def _params(llama: _Xllamacpp, spec: Mapping[str, object]) -> _Params:
    params = llama.CommonParams()
    params.model.path = cast(str, spec["model"])
    params.n_ctx = cast(int, spec["n_ctx"])
    params.n_parallel = cast(int, spec["n_parallel"])
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = cast(int, spec["n_threads"])
    params.warmup = cast(bool, spec["warmup"])
    if spec["n_batch"] is not None:
        params.n_batch = params.n_ubatch = cast(int, spec["n_batch"])
    if spec["n_gpu_layers"] is not None:
        params.n_gpu_layers = cast(int, spec["n_gpu_layers"])
    if spec["cache_type_k"] is not None:
        params.cache_type_k = _cache_type(llama, cast(str, spec["cache_type_k"]))
    if spec["cache_type_v"] is not None:
        params.cache_type_v = _cache_type(llama, cast(str, spec["cache_type_v"]))
    # Both arms must run with the same settings: `fit` would shrink the arm that needs more memory.
    params.fit_params = False
    # The host-memory prompt cache (8 GiB by default) saves and restores slots between requests: not what is measured.
    params.cache_ram_mib = 0
    params.endpoint_metrics = True
    # The server also opens a loopback port. Nobody needs it, so nobody gets the key; in-process calls pass without.
    params.endpoint_slots = params.ui = False
    params.api_keys = [secrets.token_hex(16)]
    draft = cast("Mapping[str, object] | None", spec["draft"])
    if draft is not None:
        params.speculative.types = [llama.common_speculative_type["COMMON_SPECULATIVE_TYPE_DRAFT_MTP"]]
        params.speculative.draft.n_max = cast(int, draft["n_max"])
        params.speculative.draft.p_min = cast(float, draft["p_min"])
        params.speculative.synth_rates = cast("list[float]", draft["synth_rates"])
        if draft["sidecar"] is not None:
            params.speculative.draft.mparams.path = cast(str, draft["sidecar"])
    for name, value in cast("Mapping[str, object]", spec["extra"]).items():
        _set_extra(params, name, value)
    return params


def _cache_type(llama: _Xllamacpp, name: str) -> Enum:
    return llama.ggml_type[f"GGML_TYPE_{name.upper()}"]


def _set_extra(params: _Params, name: str, value: object) -> None:
    """Sets one CommonParams attribute by its dotted name; an enum by its member's name."""
    *path, last = name.split(".")
    owner: object = params
    for part in path:
        owner = getattr(owner, part)
    current: object = getattr(owner, last)
    setattr(owner, last, type(current)[str(value)] if isinstance(current, Enum) else value)


def _info(llama: _Xllamacpp) -> dict[str, object]:
    build, number = _build(llama)
    return {
        "name": "xllamacpp",
        "version": llama.__version__,
        "build": build,
        "build_number": number,
        "system": llama.get_system_info().strip().rstrip("|").strip(),
        "devices": [f"{device['name']}: {device['description']}" for device in llama.get_device_info()],
    }


def _build(llama: _Xllamacpp) -> tuple[str, int | None]:
    """`b11549 (1a2b3c)`, and the number. Wheels built from an archive report build 0; theirs ends their version."""
    number, commit = llama.BUILD_INFO.get("build_number"), llama.BUILD_INFO.get("commit")
    if number:
        return f"b{number} ({commit})", int(str(number))
    last = llama.__version__.split("+")[0].rpartition(".")[2]
    return f"b{last} (from the wheel's version)", int(last) if last.isdecimal() else None


def _claim_stdout() -> IO[str]:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _no_core_dump() -> None:
    """A crash here is an answer, not something to debug: it should not fill a disk with the model's memory."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    sys.exit(main())
