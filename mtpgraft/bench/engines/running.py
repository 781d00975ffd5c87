"""A server that somebody else started: llama.cpp's, ik_llama.cpp's, vLLM, or any OpenAI-compatible one.

Nothing is started or changed, so it runs in the one setting that it has. Which server it is shows in what it answers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from types import TracebackType
from typing import TypeVar

from mtpgraft.bench.engine import (
    CompletionRequest,
    CompletionResult,
    DraftSpec,
    EngineInfo,
    Json,
    LaunchSpec,
    SessionFacts,
)
from mtpgraft.bench.engines.builds import build_label
from mtpgraft.bench.engines.client import LlamaClient, Rejected
from mtpgraft.bench.engines.http import Http, Reply, Unreachable, shown_url
from mtpgraft.bench.engines.openai import OpenAiClient
from mtpgraft.bench.engines.refusal import rejected
from mtpgraft.errors import EngineDiedError, EngineError, TransientError

# The second is sent only to a server that asks for a key: it is often set, and meant for somebody else.
KEY_VARIABLES = ("MTPGRAFT_API_KEY", "OPENAI_API_KEY")
_ASK_TIMEOUT_S = 30.0
_BUILD_INFO = re.compile(r"^b(\d+)-(\S+)$")  # b11434-1a2b3c4, b0-unknown

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RunningEngine:
    """A server at `base`, without trailing slash or `/v1`. request_timeout_s: for one completion."""

    base: str
    request_timeout_s: float = 900.0

    @property
    def is_fixed(self) -> bool:
        return True

    def info(self) -> EngineInfo:
        """Raises EngineError when nothing answers, or nothing that this can measure; TransientError while it loads."""
        found = _find(self.base, self.request_timeout_s)
        found.http.close()
        return found.info

    def start(self, spec: LaunchSpec) -> RunningSession:
        """Starts nothing: of `spec` only the model's name is used, where the server serves several, and `draft`, which
        goes with each request, where the server drafts as a request says."""
        found = _find(self.base, self.request_timeout_s)
        if found.info.kind in ("llama.cpp", "ik_llama.cpp"):
            wishes = _wishes(spec.draft) if drafts_by_request(found.info) else {}
            return RunningSession(spec, found, LlamaClient(found.http, wishes))
        model = _model_for(spec, found)
        return RunningSession(spec, found, OpenAiClient(found.http, model, found.info.kind == "vllm"))


def drafts_by_request(info: EngineInfo) -> bool:
    """Whether a running server drafts as each request says.

    ik_llama.cpp does, up to the depth that it was started with (examples/server/server-context.cpp @ 8337e4cd3).
    llama.cpp has that compiled out (tools/server/server-schema.cpp @ b11434) and ignores it, as b10434 does.
    """
    return info.kind == "ik_llama.cpp"


class RunningSession:
    """Requests to a running server. Closing it ends our connections and leaves the server alone."""

    __slots__ = ("_client", "_found", "info", "n_threads", "spec")

    def __init__(self, spec: LaunchSpec, found: _Found, client: LlamaClient | OpenAiClient) -> None:
        self.spec = spec
        self.info = found.info
        self.n_threads: int | None = None
        self._found = found
        self._client = client

    def complete(self, request: CompletionRequest) -> CompletionResult:
        return self._obeyed(self._asked(lambda: self._client.complete(request)))

    def complete_all(self, requests: Sequence[CompletionRequest]) -> tuple[CompletionResult, ...]:
        return tuple(map(self._obeyed, self._asked(lambda: self._client.complete_all(requests))))

    def facts(self) -> SessionFacts:
        return SessionFacts()

    def close(self) -> None:
        self._found.http.close()

    def __enter__(self) -> RunningSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _obeyed(self, result: CompletionResult) -> CompletionResult:
        """The result, unless a build that ignores what a request says drafted more than that."""
        depth, asked = len(result.accepted_per_position or ()), self.spec.draft
        if asked is not None and drafts_by_request(self.info) and depth > asked.n_max:
            raise EngineError(
                f"the server at {shown_url(self._found.http.base)} does not draft as a request says",
                expected=f"{asked.n_max} tokens at most",
                found=depth,
                hint="leave --n-max and --p-min out, and it is measured as it runs",
            )
        return result

    def _asked(self, ask: Callable[[], _T]) -> _T:
        url = shown_url(self._found.http.base)
        try:
            return ask()
        except Rejected as refusal:
            raise rejected(f"the server at {url}", refusal.why, self.spec) from None
        except Unreachable as silence:
            raise EngineDiedError(
                f"the server at {url} did not finish a completion",
                found=silence.why,
                hint="see the server's own log, and run it again",
            ) from None


def _wishes(draft: DraftSpec | None) -> dict[str, Json]:
    return {} if draft is None else {"speculative.n_max": draft.n_max, "speculative.p_min": draft.p_min}


@dataclass(frozen=True, slots=True)
class _Found:
    """A server that answered. models: the names that it serves, where it lists them."""

    info: EngineInfo
    http: Http
    models: tuple[str, ...]


def _find(base: str, timeout_s: float) -> _Found:
    url = shown_url(base)
    http = Http(base, os.environ.get(KEY_VARIABLES[0]) or None, timeout_s)
    try:
        props = http.get("/props", _ASK_TIMEOUT_S)
        if props.status in (401, 403) and not http.api_key and os.environ.get(KEY_VARIABLES[1]):
            http = replace(http, api_key=os.environ[KEY_VARIABLES[1]])
            props = http.get("/props", _ASK_TIMEOUT_S)
        models = http.get("/v1/models", _ASK_TIMEOUT_S)
        if models.status in (401, 403) and not http.api_key and os.environ.get(KEY_VARIABLES[1]):
            http = replace(http, api_key=os.environ[KEY_VARIABLES[1]])
            models = http.get("/v1/models", _ASK_TIMEOUT_S)
        version = http.get("/version", _ASK_TIMEOUT_S)
        _require_open(url, props, models)
        info = _identify(url, props, models, version, lambda: http.get("/metrics", _ASK_TIMEOUT_S))
    except Unreachable as silence:
        http.close()
        raise EngineError(
            f"no HTTP server answers at {url}", found=silence.why, hint="start it, or check its host and port"
        ) from None
    except BaseException:
        http.close()
        raise
    return _Found(info, http, _model_names(models))


def _require_open(url: str, props: Reply, models: Reply) -> None:
    for reply in (props, models):
        if reply.status in (401, 403):
            raise EngineError(
                f"the server at {url} wants an API key", found=reply.message, hint=f"set {KEY_VARIABLES[0]}"
            )
        if reply.status == 503:
            raise TransientError(
                f"the server at {url} is not ready", found=reply.message, hint="run it again when its model is loaded"
            )


def _identify(url: str, props: Reply, models: Reply, version: Reply, metrics: Callable[[], Reply]) -> EngineInfo:
    said = (props.json or {}) if props.ok else {}
    told = (version.json or {}) if version.ok else {}
    if said.get("role") == "router":
        raise EngineError(
            f"the server at {url} is llama.cpp's router of several models",
            expected="the server of one model",
            hint="start llama-server with -m MODEL, or give mtpgraft the binary",
        )
    if "default_generation_settings" in said:
        return _llama_info(url, said, told)
    names = _model_names(models)
    if isinstance(told.get("version"), str) and (reply := metrics()).ok and "vllm:" in reply.text:
        return EngineInfo("vLLM", str(told["version"]), "", _at(names, url), (), kind="vllm")
    if models.ok and names:
        return EngineInfo("OpenAI-compatible server", "", "", _at(names, url), (), kind="openai")
    raise EngineError(
        f"the server at {url} is neither llama.cpp's nor OpenAI-compatible",
        expected="an answer to /props or /v1/models",
        found=f"/props: {props.message}; /v1/models: {models.message}",
        hint="check the port, and give the server's root (http://HOST:PORT)",
    )


def _llama_info(url: str, props: Mapping[str, Json], version: Mapping[str, Json]) -> EngineInfo:
    """ik_llama.cpp says no build in /props, and has a /version with the features of its web interface."""
    model = PurePath(str(props.get("model_path") or props.get("model_alias") or "a model"))
    where = _at((model.name,), url)
    if "build_info" not in props and "features" in version:
        return EngineInfo("llama-server", "", build_label(None, ""), where, (), kind="ik_llama.cpp")
    said = str(props.get("build_info", "unknown"))
    build = _BUILD_INFO.match(said)
    number = int(build[1]) if build and int(build[1]) >= 1000 else None  # 0 or 1: built from an archive, or shallow
    label = build_label(f"b{number}" if number else None, build[2] if build else said)
    return EngineInfo("llama-server", said if number else "", label, where, (), build_number=number)


def _model_names(models: Reply) -> tuple[str, ...]:
    listed = (models.json or {}).get("data") if models.ok else None
    if not isinstance(listed, list):
        return ()
    return tuple(str(model["id"]) for model in listed if isinstance(model, Mapping) and "id" in model)


def _model_for(spec: LaunchSpec, found: _Found) -> str:
    if len(found.models) == 1:
        return found.models[0]
    for name in (str(spec.model), spec.model.name, spec.model.stem):
        if name in found.models:
            return name
    raise EngineError(
        f"the server at {shown_url(found.http.base)} serves several models",
        expected="one of its names as MODEL",
        found=", ".join(found.models[:8]),
    )


def _at(names: Sequence[str], url: str) -> str:
    return f"{', '.join(names[:3])} at {url}"
