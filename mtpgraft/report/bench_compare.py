"""Saved bench runs side by side: what may be compared, what differs, and who wins.

Runs were made at different times, so their repeats are no pairs: a ratio's spread goes from the slowest repeat of one
over the fastest of the other to the opposite, and a difference must show in all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mtpgraft.bench.metrics import ArmResult, Spread
from mtpgraft.bench.result import BenchResult
from mtpgraft.errors import RefusedError, UsageError
from mtpgraft.report.bench_setup import setup_rows
from mtpgraft.report.bench_tables import (
    NOTHING,
    Table,
    arm_speed,
    median_speed,
    rate,
    seconds,
    seen,
    speed_unit,
    spread,
    times,
)
from mtpgraft.report.bench_verdict import fastest_of, listed

# Of the setup: what may differ between runs of the same thing without being worth a word.
_NOT_COMPARED = ("Run", "Protocol", "Suite hash")

_Key = tuple[int, float, bool, str, str]


@dataclass(frozen=True, slots=True)
class Run:
    """One of the runs. label: `A`, `B`, ...; name: its file's."""

    label: str
    name: str
    result: BenchResult


@dataclass(frozen=True, slots=True)
class ComparedArm:
    """One arm of one run. gain: its speed over the same arm's of the first run; None where that has no such arm."""

    run: Run
    arm: ArmResult
    gain: Spread | None

    @property
    def name(self) -> str:
        return f"{self.run.label} {self.arm.arm.name}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """runs: at least two, of the same suite. differing: (what, its value in each run)."""

    runs: tuple[Run, ...]
    differing: tuple[tuple[str, tuple[str, ...]], ...]
    arms: tuple[ComparedArm, ...]

    @property
    def fastest(self) -> ComparedArm:
        return max(self.arms, key=lambda compared: median_speed(compared.arm))


def compare(named: Sequence[tuple[str, BenchResult]]) -> Comparison:
    """Compares runs: (file name, result). Raises UsageError for one run, RefusedError for runs of different shape."""
    if len(named) < 2:
        raise UsageError("a comparison takes two runs or more", found=len(named))
    runs = tuple(Run(_label(number), name, result) for number, (name, result) in enumerate(named))
    first = runs[0]
    for run in runs[1:]:
        _require_same_shape(first, run)
    base = {_key(arm): arm for arm in first.result.arms}
    arms = tuple(
        ComparedArm(run, arm, None if run is first else _gain(arm, _match(base, _key(arm))))
        for run in runs
        for arm in run.result.arms
    )
    return Comparison(runs, _differing(runs), arms)


def ratio(a: Spread | None, b: Spread | None) -> Spread | None:
    """a over b, of repeats that are no pairs."""
    if a is None or b is None or b.low <= 0:
        return None
    return Spread(a.median / b.median, a.low / b.high, a.high / b.low)


def comparison_table(comparison: Comparison) -> Table:
    """Every arm of every run, the same setting of all runs together."""
    first = comparison.runs[0]
    speed = speed_unit(first.result.plan)
    columns = ("run", "arm", speed, f"against {first.label}", "over its own off", "acceptance", "wall per repeat")
    order = {_setting(compared.arm): None for compared in comparison.arms}
    rows = tuple(
        _row(compared) for setting in order for compared in comparison.arms if _setting(compared.arm) == setting
    )
    note = f"Against {first.label}: the speed over the same arm's of {first.label}."
    return Table("Arms of all runs", columns, rows, frozenset(range(2, 7)), note)


def differing_table(comparison: Comparison) -> Table:
    """What differs between the runs."""
    columns = ("", *(run.label for run in comparison.runs))
    rows = tuple((what, *values) for what, values in comparison.differing)
    return Table("What differs", columns, rows, frozenset())


def comparison_verdict(comparison: Comparison) -> list[str]:
    """Who wins on speed and on wall time, and what must not be read into it."""
    best = comparison.fastest
    others = [run for run in comparison.runs if run is not best.run]
    lines = []
    for run in others:
        other = fastest_of(run.result.arms)
        against = ratio(best.arm.speed, other.speed)
        sides = arm_speed(best.arm, other)
        theirs = f"{run.label} {other.arm.name}"
        if seen(against):
            lines.append(f"{best.name} is {spread(against, times)} as fast as {theirs}, each run's best ({sides})")
        else:
            lines.append(f"no difference seen between {best.name} and {theirs}, each run's best ({sides})")
        lines += _misleading(best, run, other) if seen(against) else []
    lines += _wall(comparison)
    lines += _off(comparison)
    lines += _single_repeats(comparison)
    if any(compared.arm.arm.is_synthetic for compared in comparison.arms):
        lines.append("synthetic arms accept at random: their speed may be compared, their acceptance may not")
    if len(comparison.differing) > 1:
        what = ", ".join(name for name, _ in comparison.differing)
        lines.append(f"more than one thing differs ({what}): the figures do not say which of them made a difference")
    return lines


def _misleading(best: ComparedArm, run: Run, other: ArmResult) -> list[str]:
    mine, theirs = best.arm.total.acceptance, other.total.acceptance
    if mine is None or theirs is None or theirs <= mine or best.arm.arm.is_synthetic or other.arm.is_synthetic:
        return []
    return [
        f"acceptance alone misleads: {run.label} {other.arm.name} accepts {theirs:.3f} and is slower, {best.name} only "
        f"{mine:.3f} and wins; acceptance says nothing of the time that drafting and verifying take"
    ]


def _wall(comparison: Comparison) -> list[str]:
    """The arm that is done first, over all runs, against the best of each other run."""
    timed = [(c, wall) for c in comparison.arms if (wall := Spread.of(c.arm.wall_s))]
    if not timed:
        return []
    best, least = min(timed, key=lambda pair: pair[1].median)
    text = f"least wall time for the suite: {best.name}, {spread(least, seconds)}"
    for run in comparison.runs:
        walls = [(c, wall) for c, wall in timed if c.run is run]
        if run is not best.run and walls:
            other, wall = min(walls, key=lambda pair: pair[1].median)
            within = ", within the spread" if least.high >= wall.low else ""
            text += f"; {other.name} {spread(wall, seconds)}{within}"
    return [text]


def _off(comparison: Comparison) -> list[str]:
    """Where runs differ without MTP already, that part of a difference is not MTP's."""
    first, *others = comparison.runs
    lines = []
    for run in others:
        mine, base = run.result.off, first.result.off
        against = ratio(mine.speed, base.speed) if mine and base else None
        if seen(against):
            lines.append(
                f"with MTP off, {run.label} is {spread(against, times)} as fast as {first.label}: that is not MTP"
            )
    return lines


def _single_repeats(comparison: Comparison) -> list[str]:
    """A single repeat has no spread, so that any difference of it looks like one."""
    single = [run.label for run in comparison.runs if run.result.plan.repeats == 1]
    return [f"one repeat only in {listed(single)}: nothing tells a difference from noise"] if single else []


def _require_same_shape(first: Run, run: Run) -> None:
    a, b = first.result.plan, run.result.plan
    suites = [f"{plan.suite.name} {plan.suite.hash[:16]}" for plan in (a, b)]
    checks = (
        ("suite (its prompts or its shape)", *suites),
        ("number of tokens per prompt", a.n_predict, b.n_predict),
        ("number of slots", a.n_parallel, b.n_parallel),
    )
    for what, expected, found in checks:
        if expected != found:
            raise RefusedError(
                f"is not comparable with {first.name}: another {what}",
                file=run.name, expected=expected, found=found,
                hint="measure both with the same --suite, --n-predict, --ctx and --parallel",
            )  # fmt: skip


def _differing(runs: Sequence[Run]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    setups = [dict(setup_rows(run.result)) for run in runs]
    names = dict.fromkeys(name for setup in setups for name in setup if name not in _NOT_COMPARED)
    rows = [(name, tuple(setup.get(name, NOTHING) for setup in setups)) for name in names]
    rows.append(("Repeats", tuple(str(run.result.plan.repeats) for run in runs)))
    rows.append(("mtpgraft", tuple(run.result.mtpgraft_version for run in runs)))
    return tuple((name, values) for name, values in rows if len(set(values)) > 1)


def _key(arm: ArmResult) -> _Key:
    return (arm.arm.n_max, arm.arm.p_min, arm.arm.as_it_runs, arm.arm.head, arm.arm.engine)


def _match(base: dict[_Key, ArmResult], key: _Key) -> ArmResult | None:
    """The same setting of the same head and engine, or the only one with this setting."""
    if key in base:
        return base[key]
    same = [arm for other, arm in base.items() if other[:3] == key[:3]]
    return same[0] if len(same) == 1 else None


def _gain(arm: ArmResult, base: ArmResult | None) -> Spread | None:
    return ratio(arm.speed, base.speed) if base else None


def _setting(arm: ArmResult) -> tuple[bool, int, float]:
    return (arm.arm.as_it_runs, arm.arm.n_max, arm.arm.p_min)


def _row(compared: ComparedArm) -> tuple[str, ...]:
    arm, total = compared.arm, compared.arm.total
    own = None if arm.arm.is_off else compared.run.result.speed_up(arm)
    gain = spread(compared.gain, times)
    accepted = NOTHING if total.acceptance is None else f"{total.acceptance:.3f}"
    return (
        compared.run.label,
        arm.arm.name,
        spread(arm.speed, rate),
        f"{gain}, within the spread" if compared.gain and not seen(compared.gain) else gain,
        spread(own, times),
        f"{accepted} synthetic" if arm.arm.is_synthetic else accepted,
        spread(Spread.of(arm.wall_s), seconds),
    )


def _label(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else str(number + 1)
