"""What is known of llama.cpp's builds, as data: features with the option that shows them, and builds with trouble.

A feature is judged by the build's own `--help` where an option shows it: numbers lie in forks and archives. Trouble
has no option, so it goes by number, and only where the number is known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

UPDATE = "update llama.cpp: `brew upgrade llama.cpp`, `winget upgrade llama.cpp`, or a release of ggml-org/llama.cpp"


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that builds have from some point on.

    option, pattern: the option whose help text shows it, and what that text must match. Empty: no option shows it.
    since: a build that is known to have it; is_first: and no earlier one has. None where no number is known.
    after: a build that is known to lack it, so whoever lists the option is newer than that.
    without: what a build that lacks it cannot do.
    embedded: False for what the embedded engine does not pass on, whatever its build.
    """

    name: str
    option: str
    pattern: str
    since: int | None
    source: str
    without: str
    advice: str = UPDATE
    is_first: bool = False
    after: int | None = None
    embedded: bool = True


@dataclass(frozen=True, slots=True)
class Trouble:
    """Builds from `since` to `until`, both included, that are known to go wrong.

    blocks_mtp: MTP cannot start in them at all, so no engine starts an arm with MTP on.
    """

    name: str
    since: int
    until: int
    source: str
    consequence: str
    advice: str = UPDATE
    blocks_mtp: bool = False


DRAFT_MTP = Feature(
    "draft-mtp",
    "--spec-type",
    r"\bdraft-mtp\b",
    9180,
    "ggml-org/llama.cpp#22673, merged 16 May 2026",
    "cannot draft with MTP at all",
    is_first=True,
)

FEATURES: tuple[Feature, ...] = (
    DRAFT_MTP,
    Feature(
        "Gemma 4 assistants",
        "",
        "",
        9550,
        "ggml-org/llama.cpp#23398, merged 7 June 2026",
        "unknown model architecture: 'gemma4-assistant'",
    ),
    Feature(
        "KV-copy fix",
        "",
        "",
        9551,
        "ggml-org/llama.cpp#24267, after comments of 7 June 2026 in #23398",
        "a sidecar that shares the trunk's KV cache ends in GGML_ASSERT when it starts (Gemma 4, Step)",
        is_first=True,
    ),
    Feature(
        "counters per draft position",
        "",
        "",
        10434,
        "ggml-org/llama.cpp#26389 (August 2026; seen in b10434)",
        "tells drafted and accepted tokens only: steps are derived, acceptance per position is unknown",
    ),
    Feature(
        "synthetic acceptance",
        "--spec-synth-rates",
        "",
        11434,
        "ggml-org/llama.cpp#27711 (after b10434, in b11434)",
        "no control run that tells the engine's overhead from the head's quality",
        after=10434,
    ),
    Feature(
        "probabilistic drafts",
        "--spec-draft-sampling",
        "",
        11434,
        "ggml-org/llama.cpp#27694 (after b10434, in b11434)",
        "drafts greedily only, which costs acceptance at a temperature above 0",
        after=10434,
    ),
    Feature(
        "RPC",
        "--rpc",
        "",
        None,
        "listed only by builds made with -DGGML_RPC=ON",
        "cannot run a model over several machines",
        "build it with -DGGML_RPC=ON",
        embedded=False,
    ),
)

TROUBLES: tuple[Trouble, ...] = (
    Trouble(
        "draft-mtp does not start",
        10741,
        10748,
        "ggml-org/llama.cpp#28188 and #28197; mended by #28183 of 1 September 2026",
        "ends in `failed to create MTP context` or GGML_ASSERT(hparams.n_layer_nextn < hparams.n_layer_all)",
        blocks_mtp=True,
    ),
)


def has_feature(feature: Feature, options: Mapping[str, str] | None, build_number: int | None) -> bool | None:
    """Whether a build has it; None when neither its help nor its number tells. options: None for the embedded engine,
    which has no command line."""
    if options is None and not feature.embedded:
        return False
    if options is not None and feature.option:
        return feature.option in options and re.search(feature.pattern, options[feature.option]) is not None
    if feature.since is None:
        return None
    if build_number is None:
        return True if _at_least(options or {}) >= feature.since else None
    if build_number >= feature.since:
        return True
    return False if feature.is_first else None


def _at_least(options: Mapping[str, str]) -> int:
    """A build that this one is newer than, by the options that it lists; 0 where they do not tell."""
    return max((feature.after or 0 for feature in FEATURES if feature.option in options), default=0)


def troubles_of(build_number: int | None) -> tuple[Trouble, ...]:
    """Known trouble of llama.cpp's build of this number. An unknown number has none that is known."""
    if build_number is None:
        return ()
    return tuple(trouble for trouble in TROUBLES if trouble.since <= build_number <= trouble.until)


def build_label(number: str | None, commit: str) -> str:
    """`b11434 (1a2b3c4)`. Builds from an archive or a shallow clone tell no number: `unnumbered build (1a2b3c4)`."""
    told = commit if commit != "unknown" else ""
    return (number or "unnumbered build") + (f" ({told})" if told else "")


def unmatched(kind: str, build_number: int | None) -> str:
    """Why a build of llama.cpp is held against no known trouble; "" where it is, and for other projects' builds."""
    if kind != "llama.cpp" or build_number is not None:
        return ""
    known = ", ".join(f"b{trouble.since} to b{trouble.until}" for trouble in TROUBLES)
    return f"this build tells no number, so it cannot be told from the known-bad ones ({known})"


def blocking_trouble(build_number: int | None) -> Trouble | None:
    """Why MTP cannot start in this build, where that is known."""
    return next((trouble for trouble in troubles_of(build_number) if trouble.blocks_mtp), None)
