"""Reads llama.cpp's log: what it says about a model it refused, and what it says about drafting."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

# `0.00.009.446 E llama_model_load: ...`: minutes.seconds.ms.us, then the level (b11434 common/log.cpp).
_PREFIX = re.compile(r"^\d+\.\d\d\.\d{3}\.\d{3} (?P<level>[A-Z]) ")
# Builds print the path of the machine that built them: .../llama.cpp/src/models/qwen35.cpp:513
_BUILD_PATH = re.compile(r"\S*/llama\.cpp/(?=\S+:\d+)")
_ABORT = re.compile(r"GGML_ASSERT|GGML_ABORT|terminate called|what\(\):|^Traceback|\w+Error: |^[Ee]rror(?: while|:) ")
# True of every failed load, so they explain none.
_BOILERPLATE = re.compile(
    r"failed to load model|exiting due to model loading error|cleaning up before exit|Failed to init server"
    r"|^Traceback|failed to create MTP context|failed to create[ _]context"
)
_TELLING_WARNING = re.compile(
    r"doesn't contain MTP layers|failed to allocate|out of memory|cudaMalloc failed|unable to allocate|couldn't bind"
)

_DRAFT = re.compile(
    r"draft acceptance(?: rate)?\s*=\s*[\d.]+ \(\s*(?P<accepted>\d+) accepted /\s*(?P<drafted>\d+) generated\)"
    r"(?:, mean (?:len|acceptance length)\s*=\s*(?P<mean>[\d.]+))?"
)

# What a user can do about a line. The first match wins; {model} is the model as a user would name it.
_HINTS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"doesn't contain MTP layers"),
        "the model declares no head: `mtpgraft audit {model}` says why, `mtpgraft graft` adds one",
    ),
    (
        re.compile(r"ggml-rpc\.cpp:\d+: Failed to (?:connect|parse)"),
        "an --rpc host does not answer: start `ggml-rpc-server -H ADDRESS -p PORT` there, of the same build",
    ),
    (
        re.compile(r"failed to allocate|out of memory|bad_alloc|SIGKILL|cudaMalloc failed|unable to allocate"),
        "not enough memory: `mtpgraft plan {model}` says what fits this machine, and at which context",
    ),
    (
        re.compile(r"SIGILL"),
        "this build uses instructions that this CPU does not have: get one made for it, or build it here",
    ),
    (
        re.compile(r"(?:[Uu]nsupported|Invalid) cache type|(?:invalid|unknown) argument|error while handling argument"),
        "this build does not know that argument or its value: its --help lists what it takes",
    ),
    (
        re.compile(r"invalid ggml type"),
        "this build does not know the tensor type (ik_llama.cpp's own types run in ik_llama.cpp only)",
    ),
    (
        re.compile(r"unknown model architecture"),
        "this build does not know the architecture: update the engine (`pip install -U xllamacpp`)",
    ),
    (
        re.compile(r"not within the file bounds|invalid magic|failed to open"),
        "the file is incomplete or no GGUF: download or copy it again",
    ),
)


@dataclass(frozen=True, slots=True)
class DraftLine:
    """One `draft acceptance = ...` line. mean_length: None in builds that do not print it."""

    drafted: int
    accepted: int
    mean_length: float | None


def telling_lines(log: str, limit: int = 3) -> tuple[str, ...]:
    """The lines that say why an engine gave up, without time stamps; its last lines when none stands out."""
    errors: list[str] = []
    boilerplate: list[str] = []
    others: list[str] = []
    for raw in log.splitlines():
        match = _PREFIX.match(raw)
        level = match["level"] if match else ""
        line = _BUILD_PATH.sub("", " ".join(raw[match.end() if match else 0 :].split()))
        if not line:
            continue
        if level != "E" and not _ABORT.search(line) and not _TELLING_WARNING.search(line):
            others.append(line)
        elif _BOILERPLATE.search(line):
            boilerplate.append(line)
        else:
            errors.append(line)
    return tuple(dict.fromkeys(errors or boilerplate or others))[-limit:]


def hint_for(lines: tuple[str, ...], model: str, *, died: bool = False) -> str:
    """The next step to try after these lines. died: the model had loaded, so the file is not what is wrong."""
    text = "\n".join(lines)
    for pattern, hint in _HINTS:
        if pattern.search(text):
            return hint.format(model=model)
    return "run it again" if died else f"`mtpgraft audit {model}` compares the file with what llama.cpp requires"


def read_log(path: Path) -> str:
    """An engine's log as text; empty when it is gone."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def settled_log(path: Path, longest_s: float = 3.0, quiet_s: float = 0.05) -> str:
    """A running engine's log, as soon as nothing more is added to it: llama.cpp writes it in a thread of its own."""
    give_up = time.monotonic() + longest_s
    text, since = "", time.monotonic()
    while time.monotonic() < give_up and time.monotonic() - since <= quiet_s:
        time.sleep(0.01)
        if len(now := read_log(path)) != len(text):
            text, since = now, time.monotonic()
    return text


def draft_lines(log: str) -> tuple[DraftLine, ...]:
    """Every per-request drafting summary, in order."""
    return tuple(
        DraftLine(int(m["drafted"]), int(m["accepted"]), None if m["mean"] is None else float(m["mean"]))
        for m in _DRAFT.finditer(log)
    )
