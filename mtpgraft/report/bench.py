"""A bench result on a terminal: what was measured, tables, and what to conclude."""

from __future__ import annotations

from mtpgraft.bench.result import BenchResult
from mtpgraft.report.bench_setup import all_notes, engine_line, machine_line, protocol_line
from mtpgraft.report.bench_tables import Table, tables
from mtpgraft.report.bench_verdict import verdict
from mtpgraft.report.text import clean


def bench_tables(result: BenchResult) -> list[Table]:
    """All tables, safe to print."""
    return [printable(table) for table in tables(result)]


def printable(table: Table) -> Table:
    """The table without what a terminal would obey."""
    rows = tuple(tuple(map(clean, row)) for row in table.rows)
    return Table(clean(table.title), tuple(map(clean, table.columns)), rows, table.right, clean(table.note))


def bench_heading(result: BenchResult) -> list[str]:
    """What was measured, on what, and how."""
    plan = result.plan
    lines = [clean(result.model.name)]
    for label, engine in zip(plan.engines, result.engines, strict=True):
        lines.append("  " + clean(f"{label}: {engine_line(engine)}" if label else engine_line(engine)))
    lines.append("  " + clean(machine_line(result)))
    lines.append("  " + clean(protocol_line(result)))
    return lines


def bench_verdict(result: BenchResult) -> list[str]:
    """What the figures say, and what was left out."""
    return [*map(clean, verdict(result)), *(f"note: {clean(note)}" for note in all_notes(result))]
