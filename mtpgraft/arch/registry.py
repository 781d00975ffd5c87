"""Look-up of architecture rows by the value of `general.architecture`."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from mtpgraft.arch.spec import ArchSpec

_FAMILIES = (
    *("bailing", "cohere", "deepseek", "dots", "exaone", "gemma", "glm", "headless"),
    *("hunyuan", "mimo", "nemotron", "qwen", "stepfun"),
)
"""Modules of this package that hold rows, in a tuple named SPECS. A new family is one more name here."""


@cache
def _by_name() -> dict[str, ArchSpec]:
    # Imported on first use: `mtpgraft --help` should not pay for the rows.
    rows: list[ArchSpec] = []
    for family in _FAMILIES:
        rows += import_module(f"mtpgraft.arch.{family}").SPECS
    return {row.name: row for row in sorted(rows, key=lambda row: row.name)}


def spec_for(name: str) -> ArchSpec | None:
    """The row of one architecture; None when the generic rule is all there is."""
    return _by_name().get(name)


def all_specs() -> tuple[ArchSpec, ...]:
    """Every row, sorted by name."""
    return tuple(_by_name().values())
