"""A bench result as a page: one file, light and dark, for a desk and a phone."""

from __future__ import annotations

from dataclasses import dataclass

from mtpgraft.bench.diagnosis import Diagnosis, diagnose
from mtpgraft.bench.metrics import ArmResult, Tally
from mtpgraft.bench.result import BenchResult
from mtpgraft.report.bench_charts import bench_charts
from mtpgraft.report.bench_setup import (
    all_notes,
    bench_command,
    commands,
    engine_line,
    machine_line,
    setup_rows,
)
from mtpgraft.report.bench_tables import NOTHING, Table, median_speed, rate, spread, tables, times
from mtpgraft.report.bench_verdict import Headline, break_even_of, headline, verdict
from mtpgraft.report.diagnosis import advice_lines, diagnosis_table
from mtpgraft.report.page import drawn, render


@dataclass(frozen=True, slots=True)
class _Tile:
    """A figure and what it is."""

    name: str
    value: str
    detail: str = ""


def bench_html(result: BenchResult, diagnosis: Diagnosis | None = None) -> str:
    """The whole page. diagnosis: None shows what the result itself tells, without control runs.

    Raises UsageError when matplotlib or jinja2 is not installed.
    """
    head = headline(result)
    checks = diagnosis or diagnose(result)
    labels = result.plan.engines
    return render(
        "bench.html.jinja",
        result=result,
        plural=False,
        headline=head,
        best=head.arm.arm.name if head.arm else "",
        engines=[
            f"{n}: {engine_line(e)}" if n else engine_line(e) for n, e in zip(labels, result.engines, strict=True)
        ],
        machine=machine_line(result),
        tiles=_tiles(result, head),
        verdict=verdict(result),
        charts=drawn(bench_charts(result)),
        tables=tables(result),
        diagnosis=diagnosis_table(checks),
        advice=advice_lines(checks),
        differences=_differences(result),
        bench_command=bench_command(result),
        commands=commands(result),
        setup=setup_rows(result),
        notes=all_notes(result),
        samples=[_samples(arm, result.plan.n_parallel > 1) for arm in result.arms],
    )


def _tiles(result: BenchResult, head: Headline) -> list[_Tile]:
    best = head.arm
    if best is None:
        return []
    off, total, gain = result.off_of(best), best.total, result.speed_up(best)
    tiles = []
    if gain:
        name = "Speed-up" if result.plan.n_parallel == 1 else "Throughput over off"
        tiles.append(_Tile(name, times(gain.median), _range(spread(gain, times), result)))
    against = f"MTP off: {rate(median_speed(off))}" if off else ""
    name = "Decode speed" if result.plan.n_parallel == 1 else f"Throughput, {result.plan.n_parallel} slots"
    tiles.append(_Tile(name, f"{rate(median_speed(best))} tok/s", against))
    if total.acceptance is not None:
        kept = f"{total.draft_n_accepted} of {total.draft_n} drafted tokens"
        name = "Acceptance, synthetic" if best.arm.is_synthetic else "Acceptance"
        tiles.append(_Tile(name, f"{total.acceptance:.3f}", kept))
    if total.mean_accepted_length is not None:
        need = break_even_of(result, best)
        even = f"break-even: {need.mean_accepted_length:.2f}" if need else "tokens per verification step"
        tiles.append(_Tile("Mean accepted length", f"{total.mean_accepted_length:.2f}", even))
    n_equal = result.n_equal(best)
    if n_equal is not None:
        tiles.append(_Tile("Greedy text equal", f"{n_equal} of {result.n_prompts}", "prompts, to MTP off"))
    return tiles


def _range(text: str, result: BenchResult) -> str:
    """What stands in brackets of a spread."""
    inner = text.partition("(")[2].rstrip(")")
    return f"{inner} over {result.plan.repeats} repeats" if inner else ""


def _differences(result: BenchResult) -> Table:
    rows = tuple(
        (arm.arm.name, found.prompt, str(found.offset), found.off, found.on)
        for arm in result.on
        for found in result.differences(arm)
    )
    return Table("", ("arm", "prompt", "character", "MTP off", "this arm"), rows, frozenset({2}))


def _samples(arm: ArmResult, several_slots: bool) -> Table:
    slot = ("slot",) if several_slots else ()
    columns = (
        "repeat", *slot, "prompt", "category", "tokens", "drafted", "accepted", "decode ms", "tok/s",
        "prompt tokens", "prompt ms", "first token ms", "stop",
    )  # fmt: skip
    rows = []
    for sample in arm.samples:
        r, speed = sample.result, Tally((sample,)).tokens_per_second
        numbers = (
            str(r.n_predicted), str(r.draft_n), str(r.draft_n_accepted), f"{r.predicted_ms:.1f}",
            NOTHING if speed is None else rate(speed), str(r.prompt_n), f"{r.prompt_ms:.1f}",
            NOTHING if r.first_token_ms is None else f"{r.first_token_ms:.1f}",
        )  # fmt: skip
        own_slot = (str(sample.slot),) if several_slots else ()
        rows.append((str(sample.repeat + 1), *own_slot, sample.prompt, sample.category, *numbers, r.stop))
    first = 3 + len(slot)
    return Table(arm.arm.name, columns, tuple(rows), frozenset(range(first, first + 8)))
