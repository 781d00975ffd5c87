"""Look-up of architecture rows by the value of `general.architecture`."""

from __future__ import annotations

from functools import cache

from mtpgraft.arch.spec import ArchSpec


@cache
def _by_name() -> dict[str, ArchSpec]:
    # Imported on first use: `mtpgraft --help` should not pay for the rows.
    from mtpgraft.arch import deepseek, glm, qwen

    rows = [*deepseek.SPECS, *glm.SPECS, *qwen.SPECS]
    return {row.name: row for row in sorted(rows, key=lambda row: row.name)}


def spec_for(name: str) -> ArchSpec | None:
    """The row of one architecture; None when the generic rule is all there is."""
    return _by_name().get(name)


def all_specs() -> tuple[ArchSpec, ...]:
    """Every row, sorted by name."""
    return tuple(_by_name().values())
