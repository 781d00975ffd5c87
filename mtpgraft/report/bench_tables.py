"""The tables of a bench, made once and shown by a terminal, by Markdown and by a page.

Cells are text as it came, names out of files included: whoever shows a table escapes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mtpgraft.bench.metrics import ArmResult, Spread
from mtpgraft.bench.protocol import BenchPlan
from mtpgraft.bench.result import BenchResult
from mtpgraft.report.text import nbytes

NOTHING = "-"
_MAX_COMPARED = 4


@dataclass(frozen=True, slots=True)
class Table:
    """right: the columns whose cells are numbers. note: what a reader must know to read it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int]
    note: str = ""


def arms_table(result: BenchResult) -> Table:
    """Speed and acceptance of every arm."""
    several = result.plan.n_parallel > 1
    gain = "throughput over off" if several else "speed-up"
    columns = (
        "arm", speed_unit(result.plan), gain, "acceptance", "accepted/drafted", "mean length", "greedy text equal"
    )  # fmt: skip
    notes = ["Throughput: all tokens of a repeat over its wall time, prompts included."] if several else []
    if any(arm.arm.is_synthetic for arm in result.arms):
        notes.append("Synthetic: accepted at random; the speed is real, acceptance and text are not.")
    if result.plan.repeats > 1:
        notes.append("In brackets: the lowest and the highest of the repeats.")
    rows = tuple(_arm_row(result, arm) for arm in result.arms)
    return Table("Arms", columns, rows, frozenset(range(1, 7)), " ".join(notes))


def costs_table(result: BenchResult) -> Table:
    """What an arm costs besides decoding: prefill, the first token, wall time, memory; and texts that ended early."""
    columns = (
        "arm",
        "prefill tok/s",
        "prefill change",
        "first token",
        "wall per repeat",
        "tokens",
        "early stops",
        "VRAM",
    )
    rows = []
    for arm in result.arms:
        total, prefill = arm.total, arm.prefill_tokens_per_second
        wall = Spread.of(arm.wall_s)
        n_early = len(result.early_stops(arm))
        rows.append(
            (
                arm.arm.name,
                spread(prefill, rate),
                _prefill_change(result, arm),
                NOTHING if total.first_token_ms is None else milliseconds(total.first_token_ms),
                spread(wall, seconds),
                str(total.n_predicted),
                f"{n_early} of {len(arm.samples)}" if n_early else "none",
                _vram(arm),
            )
        )
    keep = [i for i in range(len(columns)) if i != 7 or any(row[7] != NOTHING for row in rows)]
    return Table(
        "Beyond decoding",
        tuple(columns[i] for i in keep),
        tuple(tuple(row[i] for i in keep) for row in rows),
        frozenset(range(1, len(keep))),
        "First token: the median. Early stop: the text ended before the tokens asked for.",
    )


def categories_table(result: BenchResult) -> Table:
    """Speed-up and acceptance per category, for the arms that matter (`compared_arms`)."""
    arms = compared_arms(result)
    gains = [result.category_speed_up(arm) for arm in arms]
    tallies = [arm.by_category() for arm in arms]
    rows = []
    for category in categories(result):
        cells = []
        for by_category, gain in zip(tallies, gains, strict=True):
            tally = by_category.get(category)
            accepted = "" if tally is None or tally.acceptance is None else f", {tally.acceptance:.3f}"
            cells.append(spread(gain.get(category), times) + accepted)
        rows.append((category, *cells))
    n_left_out = len(result.on) - len(arms)
    left_out = f" {n_left_out} more arms are in the JSON." if n_left_out else ""
    title, what = "By category", "Speed-up"
    if result.plan.n_parallel > 1:
        title, what = "Single requests by category", "Decode speed of a single request over off's (not throughput)"
    columns = ("category", *(arm.arm.name for arm in arms))
    return Table(title, columns, tuple(rows), frozenset(range(1, len(columns))), f"{what}, then acceptance.{left_out}")


def positions_table(result: BenchResult) -> Table | None:
    """Acceptance of the draft's 1st, 2nd, ... token; None where no engine says so."""
    found = [(arm, rates) for arm in result.on if (rates := arm.total.acceptance_per_position)]
    if not found:
        return None
    deepest = max(len(rates) for _, rates in found)
    rows = tuple(
        (arm.arm.name, *(f"{rates[i]:.3f}" if i < len(rates) else NOTHING for i in range(deepest)))
        for arm, rates in found
    )
    columns = ("arm", *(f"token {i}" for i in range(1, deepest + 1)))
    note = "Share of the verification steps that accepted the draft's 1st, 2nd, ... token."
    return Table("Acceptance by draft position", columns, rows, frozenset(range(1, deepest + 1)), note)


def tables(result: BenchResult) -> list[Table]:
    """All of them, in the order of reading."""
    found = [arms_table(result), categories_table(result), positions_table(result), costs_table(result)]
    return [table for table in found if table is not None and table.rows and len(table.columns) > 1]


def compared_arms(result: BenchResult, limit: int = _MAX_COMPARED) -> list[ArmResult]:
    """The arms that a chart or a table has room for: the fastest of each engine and head, then the next fastest."""
    ranked = sorted((arm for arm in result.on if arm.speed), key=median_speed, reverse=True)
    best: dict[tuple[str, str], ArmResult] = {}
    for arm in ranked:
        best.setdefault((arm.arm.engine, arm.arm.head), arm)
    firsts = list(best.values())
    chosen = [*firsts, *(arm for arm in ranked if all(arm is not first for first in firsts))][:limit]
    return [arm for arm in result.arms if any(arm is one for one in chosen)]


def categories(result: BenchResult) -> tuple[str, ...]:
    """In the suite's order."""
    return tuple(dict.fromkeys(prompt.category for prompt in result.plan.suite.prompts))


def speed_word(plan: BenchPlan) -> str:
    """What the speed of an arm is (`ArmResult.speed`)."""
    return "speed" if plan.n_parallel == 1 else "throughput"


def speed_unit(plan: BenchPlan) -> str:
    """What the speed of an arm is counted in (`ArmResult.speed`)."""
    return "tok/s" if plan.n_parallel == 1 else f"throughput tok/s, {plan.n_parallel} slots"


def arm_speed(arm: ArmResult, against: ArmResult | None = None) -> str:
    """`90.0 tok/s`, `90.0 against 62.0 tok/s`; of several slots `tok/s of all 4 slots`."""
    n_slots = arm.arm.launch.n_parallel
    sides = " against ".join(rate(median_speed(one)) for one in (arm, against) if one is not None)
    return f"{sides} tok/s" + (f" of all {n_slots} slots" if n_slots > 1 else "")


def median_speed(arm: ArmResult) -> float:
    """0 where nothing was measured."""
    return arm.speed.median if arm.speed else 0.0


def seen(ratio: Spread | None) -> bool:
    """Whether a ratio is a difference: its whole spread lies on one side of 1, so every repeat shows it."""
    return ratio is not None and (ratio.low > 1 or ratio.high < 1)


def rate(value: float) -> str:
    """`3139`, `48.3`, `6.02`: three digits or more."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def times(value: float) -> str:
    return f"{value:.2f}x"


def seconds(value: float) -> str:
    return f"{rate(value)} s"


def milliseconds(value: float) -> str:
    return f"{rate(value)} ms" if value < 10_000 else seconds(value / 1000)


def spread(figure: Spread | None, text: Callable[[float], str]) -> str:
    """`1.52x (1.48x-1.55x)`, or the median alone where there is one repeat."""
    if figure is None:
        return NOTHING
    low, median, high = text(figure.low), text(figure.median), text(figure.high)
    return median if low == high else f"{median} ({low.removesuffix(_unit(low))}-{high.removesuffix(_unit(high))})"


def _unit(text: str) -> str:
    return text.lstrip("0123456789.")


def _arm_row(result: BenchResult, arm: ArmResult) -> tuple[str, ...]:
    total = arm.total
    accepted = NOTHING if total.acceptance is None else f"{total.acceptance:.3f}"
    n_equal = None if arm.arm.is_off else result.n_equal(arm)
    return (
        arm.arm.name,
        spread(arm.speed, rate),
        "1.00x" if arm.arm.is_off else spread(result.speed_up(arm), times),
        f"{accepted} synthetic" if arm.arm.is_synthetic else accepted,
        f"{total.draft_n_accepted}/{total.draft_n}" if total.draft_n else NOTHING,
        NOTHING if total.mean_accepted_length is None else f"{total.mean_accepted_length:.2f}",
        NOTHING if n_equal is None else f"{n_equal} of {result.n_prompts}",
    )


def _prefill_change(result: BenchResult, arm: ArmResult) -> str:
    ratio = None if arm.arm.is_off else result.prefill_ratio(arm)
    if ratio is None:
        return NOTHING
    return f"{100 * (ratio.median - 1):+.0f} %" if seen(ratio) else "none seen"


def _vram(arm: ArmResult) -> str:
    use = arm.vram
    return f"{nbytes(use.used_nbytes)} of {nbytes(use.total_nbytes)}, {use.share:.0%}" if use else NOTHING
