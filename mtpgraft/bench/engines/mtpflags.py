"""How engines spell MTP on their command lines: the one place that knows, for whatever prints or starts one.

A bench spells for the build at hand (`dialect.py` picks the spelling from its `--help`); a plan and a sweep, which do
not know the user's build, print the current spelling of each engine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mtpgraft.bench.engine import DraftSpec


@dataclass(frozen=True, slots=True)
class MtpSpelling:
    """How builds turn MTP on.

    option, pattern: the option whose help text shows it, and what that text must match; the first that does counts.
    words: what turns it on, with {n} for the depth and {p} for the least probability where it takes them itself.
    n_max, p_min: names of the options beside it that take them, the current one first; () where `words` does.
    """

    option: str
    pattern: str
    words: tuple[str, ...]
    n_max: tuple[str, ...] = ()
    p_min: tuple[str, ...] = ()


# common/arg.cpp @ b10434, b11434
LLAMA_CPP = MtpSpelling(
    "--spec-type",
    r"\bdraft-mtp\b",
    ("--spec-type", "draft-mtp"),
    ("--spec-draft-n-max", "--draft-max"),
    ("--spec-draft-p-min", "--draft-p-min"),
)
# common/common.cpp @ 8337e4cd3 (August 2026)
IK_LLAMA_CPP = MtpSpelling("--spec-type", r"\bmtp:n_max=", ("--spec-type", "mtp:n_max={n},p_min={p}"))

SPELLINGS = (
    LLAMA_CPP,
    IK_LLAMA_CPP,
    # ik_llama.cpp before mid 2026, and before that
    MtpSpelling("--spec-type", r"(?<![\w-])mtp(?![\w-])", ("--spec-type", "mtp"), ("--draft-max",), ("--draft-p-min",)),
    MtpSpelling("-mtp", "", ("-mtp",), ("--draft-max",), ("--draft-p-min",)),
    MtpSpelling("--multi-token-prediction", "", ("--multi-token-prediction",), ("--draft-max",), ("--draft-p-min",)),
)
"""Newest first."""


def spelling_of(options: Mapping[str, str]) -> MtpSpelling | None:
    """The spelling of a build with these options (name to help text); None when it cannot draft with MTP."""
    for spelling in SPELLINGS:
        if spelling.option in options and re.search(spelling.pattern, options[spelling.option]):
            return spelling
    return None


def current_spelling(kind: str) -> MtpSpelling:
    """Of today's builds of an engine (`EngineInfo.kind`)."""
    return IK_LLAMA_CPP if kind == "ik_llama.cpp" else LLAMA_CPP


def _first(*names: str) -> str:
    return names[0]


def mtp_words(
    spelling: MtpSpelling, draft: DraftSpec, sidecar: str | None, pick: Callable[..., str] = _first
) -> tuple[str, ...]:
    """The arguments that draft in this way, `draft.synth_rates` aside.

    sidecar: as the command line is to name it. pick: which of an option's names the build knows.
    """
    n, p = str(draft.n_max), f"{draft.p_min:g}"
    beside = ((spelling.n_max, n), (spelling.p_min, p))
    return (
        *(() if sidecar is None else ("-md", sidecar)),
        *(word.format(n=n, p=p) for word in spelling.words),
        *(word for names, value in beside if names for word in (pick(*names), value)),
    )
