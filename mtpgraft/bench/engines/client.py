"""Completions from a llama.cpp server over HTTP: the one client for a server that mtpgraft starts and one that runs.

`/completion` takes raw text and returns token ids; `/v1/chat/completions` puts the text through the chat template.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mtpgraft.bench.engine import CompletionRequest, CompletionResult, Json
from mtpgraft.bench.engines.atonce import all_at_once
from mtpgraft.bench.engines.http import Http, Reply
from mtpgraft.bench.engines.timings import completion_body, counted, parse_completion, spec_counters, stop_of

# Answered by the server's main loop, which may be busy with a long prompt's batch.
_METRICS_TIMEOUT_S = 60.0


class Rejected(Exception):  # noqa: N818 (its callers turn it into the error that fits)
    """The server answered, and not with a completion. `why` is what it said."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class LlamaClient:
    """Asks one server. Raises http.Unreachable and Rejected.

    extra: what every request says beside its own, by the server's names.
    """

    http: Http
    extra: Mapping[str, Json] = field(default_factory=dict)

    def complete(self, request: CompletionRequest, *, alone: bool = True) -> CompletionResult:
        """alone: no other request runs meanwhile, so the server's own counters tell of this one."""
        before = self._counters() if alone else {}
        started = time.perf_counter()
        endpoint, body = _endpoint_and_body(request)
        reply = self.http.post(endpoint, {**body, **self.extra})
        wall_ms = 1000 * (time.perf_counter() - started)
        answer = _completion_of(reply)
        counters = counted(before, self._counters()) if alone else None
        result = parse_completion(answer, counters, wall_ms)
        return replace(result, stop=stop_of(result.stop, result.n_predicted, request.n_predict))

    def complete_all(self, requests: Sequence[CompletionRequest]) -> tuple[CompletionResult, ...]:
        """All at once, answers in the order of the requests."""
        return all_at_once(lambda request: self.complete(request, alone=False), requests)

    def props(self) -> Mapping[str, Json]:
        """`/props`; empty when the server has none, or none for us."""
        reply = self.http.get("/props", timeout_s=_METRICS_TIMEOUT_S)
        return (reply.json or {}) if reply.ok else {}

    def _counters(self) -> dict[str, int]:
        reply = self.http.get("/metrics", timeout_s=_METRICS_TIMEOUT_S)
        return spec_counters(reply.text) if reply.ok else {}  # 501: started without --metrics


def _endpoint_and_body(request: CompletionRequest) -> tuple[str, dict[str, Json]]:
    body = completion_body(request)
    if request.shape == "chat":
        return "/v1/chat/completions", body
    return "/completion", {**body, "return_tokens": True}


def _completion_of(reply: Reply) -> Mapping[str, Json]:
    answer = reply.json
    if not reply.ok or answer is None:
        raise Rejected(reply.message)
    if "timings" not in answer:
        raise Rejected("a completion without timings: not a llama.cpp server's")
    return answer
