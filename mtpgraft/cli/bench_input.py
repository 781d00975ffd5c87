"""What `mtpgraft bench` was asked for, checked: text of options to values, and a model that has a head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mtpgraft.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from mtpgraft.bench.prompts import Suite

_Number = TypeVar("_Number", int, float)


def numbers(text: str, option: str, kind: type[_Number]) -> tuple[_Number, ...]:
    """Numbers separated by commas. Raises UsageError."""
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{option} takes numbers separated by commas", expected="1,2,3", found=text, hint="mtpgraft bench --help"
        ) from None


def words(text: str | None) -> tuple[str, ...]:
    """Words separated by commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip()) if text else ()


def chosen_suite(text: str, shape: str | None) -> Suite:
    """A bundled suite by name, or a file. shape: replaces the suite's own, and so changes its hash."""
    from dataclasses import replace

    from mtpgraft.bench.prompts import SHAPES
    from mtpgraft.bench.suites import SUITE_NAMES, builtin_suite, read_suite

    looks_like_file = text.endswith(".json") or "/" in text or (text not in SUITE_NAMES and Path(text).is_file())
    suite = read_suite(Path(text)) if looks_like_file else builtin_suite(text)
    if shape is None:
        return suite
    if shape not in SHAPES:
        raise UsageError("--shape names no shape", expected=" or ".join(SHAPES), found=shape)
    return replace(suite, shape=shape)


def engine_arguments(given: Sequence[str] | None) -> tuple[str, ...]:
    """What stood behind `--`. Raises UsageError for a stray word, which was meant to be something else."""
    arguments = tuple(given or ())
    if arguments and not arguments[0].startswith("-"):
        raise UsageError(
            "one model at a time; the engine's own arguments go behind --",
            found=arguments[0],
            hint="mtpgraft bench MODEL [options] -- --flash-attn on",
        )
    return arguments


def rpc_places(text: str | None) -> tuple[str, ...]:
    """Addresses of RPC servers. Raises UsageError for one that llama-server would abort on."""
    places = words(text)
    for place in places:
        host, _, port = place.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UsageError("--rpc takes addresses separated by commas", expected="host:50052,...", found=place)
    return places


def local_model(model: Path) -> Path:
    """The file to hand to an engine: the first shard of a split set, the model in a folder.

    Raises UsageError for a remote model, InputError for a missing one, RefusedError for a head without its model.
    """
    from mtpgraft.head import HeadState, find_head
    from mtpgraft.open import open_model
    from mtpgraft.source.splits import find_local_shards

    text = str(model).replace(":/", "://", 1)  # a path keeps one of the slashes of https://host
    if text.lower().startswith(("hf:", "https://", "http://")) and not model.exists():
        raise UsageError(
            "bench runs a file of this machine",
            expected="a GGUF",
            found=text,
            hint="download it first, as with `hf download ORG/REPO FILE.gguf`; `mtpgraft plan` reads remote models",
        )
    first = find_local_shards(model)[0]
    with open_model(first) as opened:
        state = find_head(opened).state
    if state in (HeadState.SIDECAR, HeadState.HEAD_FILE):
        raise RefusedError(
            "is a head without its model", file=model, found=state.value, hint=f"mtpgraft bench BASE --draft {model}"
        )
    return first


def require_head(model: Path) -> None:
    """Refuse, with audit's verdict and its cure, before an engine does in its own words. Raises RefusedError."""
    from mtpgraft.audit.gguf import judge
    from mtpgraft.open import open_model

    with open_model(model) as opened:
        judged = judge(opened, str(model))
        result = judged.result()
        if judged.head is not None and judged.head.is_whole:
            return
    worst = next((found for found in result.findings if found.verdict is result.verdict), None)
    fix = worst.fix if worst and worst.fix else f"mtpgraft repair {model}"
    raise RefusedError(
        f"has no MTP head that could draft: audit says {result.verdict.value}",
        file=model,
        expected=worst.expected if worst else "a model with a head, or --draft SIDECAR",
        found=worst.observed if worst else None,
        hint=f"{fix}; or --draft SIDECAR, or --donor DONOR",
    )
