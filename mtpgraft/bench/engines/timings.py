"""llama.cpp's answers as values: one parser for the embedded engine, a binary's server, and one that already runs."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mtpgraft.bench.engine import CompletionRequest, CompletionResult, Json

# `llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position="0"} 7` (b10434 and later, with --metrics)
_COUNTER = re.compile(r"^llamacpp:(spec_decode_\S+) (\d+)$", re.MULTILINE)
_PER_POSITION = "spec_decode_num_accepted_tokens_per_pos_total{"


def spec_counters(metrics: str) -> dict[str, int]:
    """The speculative counters of `/metrics`, since start-up. Empty for a build without, ik_llama.cpp included."""
    return {name: int(value) for name, value in _COUNTER.findall(metrics)}


def counted(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """What happened between two readings."""
    return {name: n - before.get(name, 0) for name, n in after.items()}


def completion_body(request: CompletionRequest) -> dict[str, Json]:
    """The JSON of a request to llama.cpp, without its prompt's shape."""
    body: dict[str, Json] = {
        "n_predict": request.n_predict,
        "temperature": request.temperature,
        "seed": request.seed,
        "cache_prompt": request.cache_prompt,
    }
    if request.shape == "chat":
        body["messages"] = [{"role": "user", "content": request.prompt}]
        body["max_tokens"] = request.n_predict
    else:
        body["prompt"] = request.prompt
    if request.grammar is not None:
        body["grammar"] = request.grammar
    return body


def parse_completion(
    reply: Mapping[str, Json], counters: Mapping[str, Json] | None, wall_ms: float | None = None
) -> CompletionResult:
    """llama.cpp's `/completion`, `/v1/completions` or `/v1/chat/completions` JSON as a value.

    counters: the differences of `spec_counters` over this one request; None where other requests ran beside it.
    ik_llama.cpp has no such counters and tells `draft_by_depth` instead: each depth's drafted tokens are the steps
    that came that far.
    """
    timings = reply["timings"]
    assert isinstance(timings, Mapping)
    text, stop = _text_and_stop(reply)
    n_steps, by_position = _steps(counters or {})
    if not by_position:
        n_steps, by_position = _steps_by_depth(timings.get("draft_by_depth"))
    tokens = reply.get("tokens")
    prompt_ms = as_float(timings["prompt_ms"])
    return CompletionResult(
        text=text,
        tokens=tuple(as_int(token) for token in tokens) if isinstance(tokens, list) and tokens else None,
        n_predicted=as_int(timings["predicted_n"]),
        predicted_ms=as_float(timings["predicted_ms"]),
        predicted_per_second=as_float(timings["predicted_per_second"]),
        prompt_n=as_int(timings["prompt_n"]),
        prompt_ms=prompt_ms,
        draft_n=as_int(timings.get("draft_n", 0)),
        draft_n_accepted=as_int(timings.get("draft_n_accepted", 0)),
        n_draft_steps=n_steps,
        accepted_per_position=by_position or None,
        stop=stop,
        wall_ms=wall_ms,
        first_token_ms=prompt_ms,
    )


def _text_and_stop(reply: Mapping[str, Json]) -> tuple[str, str]:
    choices = reply.get("choices")
    if not isinstance(choices, list):
        # /completion says what the others call `length` and `stop` in words of its own, ik_llama.cpp in flags
        cut = reply.get("stop_type") == "limit" or reply.get("stopped_limit") is True
        return str(reply["content"]), "length" if cut else "stop"
    choice = choices[0]
    assert isinstance(choice, Mapping)
    return choice_text(choice), str(choice["finish_reason"])


def stop_of(said: str, n_predicted: int, n_predict: int) -> str:
    """ik_llama.cpp says `stop` through its OpenAI endpoints even where the limit ended the text."""
    return "length" if n_predicted >= n_predict else said


def choice_text(choice: Mapping[str, Json]) -> str:
    """A choice's text, or its piece of one in a stream. A reasoning model's thoughts count: it decoded them."""
    message = choice.get("message", choice.get("delta"))
    if not isinstance(message, Mapping):
        return str(choice.get("text") or "")
    return "".join(str(message.get(part) or "") for part in ("reasoning_content", "reasoning", "content"))


def _steps(counters: Mapping[str, Json]) -> tuple[int | None, tuple[int, ...]]:
    by_position = sorted(
        (int(name.partition('position="')[2].rstrip('"}')), as_int(n))
        for name, n in counters.items()
        if name.startswith(_PER_POSITION)
    )
    n_steps = counters.get("spec_decode_num_drafts_total")
    return None if n_steps is None else as_int(n_steps), tuple(n for _, n in by_position)


def _steps_by_depth(depths: Json) -> tuple[int | None, tuple[int, ...]]:
    """ik_llama.cpp (examples/server/server-task.cpp): `[{"depth": 1, "draft_n": 30, "draft_n_accepted": 21}, ...]`."""
    if not isinstance(depths, list):
        return None, ()
    rows = sorted(
        (as_int(row["depth"]), as_int(row["draft_n"]), as_int(row["draft_n_accepted"]))
        for row in depths
        if isinstance(row, Mapping)
    )
    return (rows[0][1] if rows else None), tuple(accepted for _, _, accepted in rows)


def as_int(value: Json) -> int:
    assert isinstance(value, (int, float))
    return int(value)


def as_float(value: Json) -> float:
    assert isinstance(value, (int, float))
    return float(value)
