"""The summary of a census: by verdict, by architecture and by publisher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from mtpgraft.audit.census import Census
from mtpgraft.report.surgery import Json
from mtpgraft.report.text import clean, nbytes

SCHEMA_VERSION = 1

_MAX_PUBLISHERS = 40


def census_lines(census: Census) -> list[str]:
    """What a census found, for people."""
    new = census.n_targets - census.n_skipped
    lines = [
        f"{census.n_targets} targets, {census.n_models} models ({new} targets in this run, {census.n_skipped} before)",
        f"{nbytes(census.fetched_nbytes)} fetched"
        + (f", {nbytes(census.fetched_nbytes // census.n_models)} per model" if census.n_models else ""),
    ]
    if census.n_failed:
        lines.append(f"{census.n_failed} targets could not be reached: run it again to try them")
    lines += ["", *_counts("verdict", {"": census.verdicts})]
    lines += ["", *_counts("by architecture", census.by_architecture)]
    lines += ["", *_counts("by publisher", census.by_publisher, _MAX_PUBLISHERS)]
    return lines


def census_json(census: Census) -> dict[str, Json]:
    """The same as JSON."""
    return {
        "schema_version": SCHEMA_VERSION,
        "n_targets": census.n_targets,
        "n_models": census.n_models,
        "fetched_nbytes": census.fetched_nbytes,
        "verdicts": dict(census.verdicts),
        "by_architecture": {name: dict(counts) for name, counts in census.by_architecture.items()},
        "by_publisher": {name: dict(counts) for name, counts in census.by_publisher.items()},
    }


def _counts(title: str, groups: Mapping[str, Counter[str]], limit: int | None = None) -> list[str]:
    lines = [title]
    ordered = sorted(groups.items(), key=lambda item: (-item[1].total(), item[0]))
    for name, verdicts in ordered[:limit]:
        text = ", ".join(f"{n} {verdict}" for verdict, n in verdicts.most_common())
        lines.append(f"  {clean(name)}: {text}" if name else f"  {text or 'none'}")
    if limit is not None and len(ordered) > limit:
        lines.append(f"  ... and {len(ordered) - limit} more")
    return lines
