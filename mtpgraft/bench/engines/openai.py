"""Completions from any OpenAI-compatible server, streamed and timed by our own clock, and vLLM's own counters.

Such a server tells how many tokens it made and nothing of how it made them: no drafts, no timings. vLLM counts drafts
for all requests together in `/metrics`, so a difference tells of one request when no other runs beside it.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mtpgraft.bench.engine import CompletionRequest, CompletionResult, Json
from mtpgraft.bench.engines.atonce import all_at_once
from mtpgraft.bench.engines.client import Rejected
from mtpgraft.bench.engines.http import Http, Reply
from mtpgraft.bench.engines.timings import as_float, as_int, choice_text, stop_of

# vLLM v1/spec_decode/metrics.py. prometheus_client writes counters with `_total`, one line per engine (data parallel):
#   vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="1"} 12.0
_VLLM = re.compile(
    r"^vllm:spec_decode_num_(?P<what>drafts|draft_tokens|accepted_tokens_per_pos|accepted_tokens)(?:_total)?"
    r"(?:\{(?P<labels>[^}]*)\})? (?P<value>\d\S*)$",
    re.MULTILINE,
)
_POSITION = re.compile(r'\bposition="(\d+)"')
_METRICS_TIMEOUT_S = 60.0
# vLLM answers first and counts then, in one event loop: a moment later two readings agree.
_SETTLE_S, _SETTLE_TRIES = 0.05, 20


@dataclass(frozen=True, slots=True)
class SpecCounters:
    """vLLM's speculative counters since its start, all engines together."""

    n_drafts: int
    n_draft_tokens: int
    n_accepted: int
    per_position: tuple[int, ...]

    def since(self, before: SpecCounters) -> SpecCounters:
        earlier = before.per_position + (0,) * (len(self.per_position) - len(before.per_position))
        return SpecCounters(
            self.n_drafts - before.n_drafts,
            self.n_draft_tokens - before.n_draft_tokens,
            self.n_accepted - before.n_accepted,
            tuple(now - then for now, then in zip(self.per_position, earlier, strict=True)),
        )


def vllm_counters(metrics: str) -> SpecCounters | None:
    """None where vLLM runs without speculative decoding: it lists none of them then."""
    sums: dict[str, float] = {}
    positions: dict[int, float] = {}
    for match in _VLLM.finditer(metrics):
        value = float(match["value"])
        if match["what"] == "accepted_tokens_per_pos":
            at = _POSITION.search(match["labels"] or "")
            if at is not None:
                positions[int(at[1])] = positions.get(int(at[1]), 0.0) + value
        else:
            sums[match["what"]] = sums.get(match["what"], 0.0) + value
    if not sums:
        return None
    return SpecCounters(
        int(sums.get("drafts", 0)),
        int(sums.get("draft_tokens", 0)),
        int(sums.get("accepted_tokens", 0)),
        tuple(int(positions.get(at, 0)) for at in range(max(positions, default=-1) + 1)),
    )


@dataclass(frozen=True, slots=True)
class OpenAiClient:
    """Asks one model of one server. Raises http.Unreachable and Rejected.

    is_vllm: its `/metrics` are read, and each request gets a `cache_salt` of its own, which keeps its prompt out of
    the prefix cache; other servers have no such switch.
    """

    http: Http
    model: str
    is_vllm: bool = False

    def complete(self, request: CompletionRequest, *, alone: bool = True) -> CompletionResult:
        """alone: no other request runs meanwhile, so the server's own counters tell of this one."""
        before = self._counters() if alone else None
        answer = self._stream(request)
        after = self._settled_counters() if alone else None
        counters = None if after is None else after.since(before or SpecCounters(0, 0, 0, ()))
        result = answer.result(counters)
        return replace(result, stop=stop_of(result.stop, result.n_predicted, request.n_predict))

    def complete_all(self, requests: Sequence[CompletionRequest]) -> tuple[CompletionResult, ...]:
        """All at once, answers in the order of the requests."""
        return all_at_once(lambda request: self.complete(request, alone=False), requests)

    def _stream(self, request: CompletionRequest) -> _Answer:
        started = time.perf_counter()
        text: list[str] = []
        text_ms: list[float] = []
        stop = ""
        last: dict[str, Json] = {}
        for event in self.http.stream(*self._endpoint_and_body(request)):
            if isinstance(event, Reply):
                raise Rejected("it does not stream its answers" if event.ok else event.message)
            if (error := event.data.get("error")) is not None:
                raise Rejected(str(error.get("message")) if isinstance(error, Mapping) else str(error))
            for key in ("usage", "timings"):
                if isinstance(event.data.get(key), Mapping):
                    last[key] = event.data[key]
            choices = event.data.get("choices")
            if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
                stop = str(choices[0].get("finish_reason") or stop)
                if piece := choice_text(choices[0]):
                    text.append(piece)
                    text_ms.append(event.ms)
        wall_ms = 1000 * (time.perf_counter() - started)
        usage, timings = last.get("usage"), last.get("timings")
        if not isinstance(usage, Mapping):
            raise Rejected("it does not say how many tokens it made (stream_options.include_usage)")
        return _Answer("".join(text), text_ms, stop, usage, timings if isinstance(timings, Mapping) else None, wall_ms)

    def _endpoint_and_body(self, request: CompletionRequest) -> tuple[str, dict[str, Json]]:
        if request.grammar is not None:
            raise Rejected("grammars are llama.cpp's own; an OpenAI-compatible server takes none")
        body: dict[str, Json] = {
            "model": self.model,
            "max_tokens": request.n_predict,
            "temperature": request.temperature,
            "seed": request.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.is_vllm and not request.cache_prompt:
            body["cache_salt"] = secrets.token_hex(16)
        if request.shape == "chat":
            return "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": request.prompt}]}
        return "/v1/completions", {**body, "prompt": request.prompt}

    def _counters(self) -> SpecCounters | None:
        if not self.is_vllm:
            return None
        reply = self.http.get("/metrics", timeout_s=_METRICS_TIMEOUT_S)
        return vllm_counters(reply.text) if reply.ok else None

    def _settled_counters(self) -> SpecCounters | None:
        seen = self._counters()
        for _ in range(_SETTLE_TRIES if seen is not None else 0):
            time.sleep(_SETTLE_S)
            again = self._counters()
            if again == seen:
                break
            seen = again
        return seen


@dataclass(frozen=True, slots=True)
class _Answer:
    """One streamed answer. text_ms: when each piece of text came, after the request."""

    text: str
    text_ms: list[float]
    stop: str
    usage: Mapping[str, Json]
    timings: Mapping[str, Json] | None
    wall_ms: float

    def result(self, counters: SpecCounters | None) -> CompletionResult:
        """Its own timings where the server behind a proxy is llama.cpp, else by our clock: the prompt ends with the
        first piece of text, which a drafting server may make of several tokens, so decoding looks a little faster."""
        first_ms = self.text_ms[0] if self.text_ms else self.wall_ms
        decode_ms = self.text_ms[-1] - first_ms if self.text_ms else 0.0
        n_predicted = as_int(self.usage.get("completion_tokens", 0))
        own = self.timings or {}
        return CompletionResult(
            text=self.text,
            tokens=None,
            n_predicted=n_predicted,
            predicted_ms=as_float(own.get("predicted_ms", decode_ms)),
            predicted_per_second=as_float(
                own.get("predicted_per_second", 1000 * (n_predicted - 1) / decode_ms if decode_ms > 0 else 0.0)
            ),
            prompt_n=as_int(own.get("prompt_n", as_int(self.usage.get("prompt_tokens", 0)) - _cached(self.usage))),
            prompt_ms=as_float(own.get("prompt_ms", first_ms)),
            draft_n=counters.n_draft_tokens if counters else as_int(own.get("draft_n", 0)),
            draft_n_accepted=counters.n_accepted if counters else as_int(own.get("draft_n_accepted", 0)),
            n_draft_steps=counters.n_drafts if counters else None,
            accepted_per_position=(counters.per_position or None) if counters else None,
            stop=self.stop,
            wall_ms=self.wall_ms,
            first_token_ms=first_ms,
        )


def _cached(usage: Mapping[str, Json]) -> int:
    details = usage.get("prompt_tokens_details")
    return as_int(details.get("cached_tokens") or 0) if isinstance(details, Mapping) else 0
