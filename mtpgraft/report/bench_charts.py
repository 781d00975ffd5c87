"""The charts that a bench calls for: plain figures picked out of a result, for `charts` to draw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from mtpgraft.bench.metrics import ArmResult, Spread
from mtpgraft.bench.result import BenchResult
from mtpgraft.bench.sweep import Trial
from mtpgraft.report.bench_tables import categories, compared_arms
from mtpgraft.report.bench_verdict import fastest_of
from mtpgraft.report.charts import CategoryGains, CategorySpeeds, Chart, Depths, Grid, Positions
from mtpgraft.report.text import clean

_MAX_SERIES = 6
_MAX_GRIDS = 4

_Line = tuple[str, str, float]
"""Engine, head and p_min: a line over draft depth."""


def bench_charts(result: BenchResult) -> list[Chart]:
    """In the order of reading. Empty where nothing was measured that a chart could show."""
    if not result.drafted_anything:
        return []
    found: list[Chart | None] = [
        category_speeds(result),
        _category_gains(result),
        depths(result),
        positions(compared_arms(result)),
        *_grids(result),
        *_sweep(result.sweep, f"Sweep: {speed_name(result).lower()} of each trial"),
    ]
    return [chart for chart in found if chart is not None]


def category_speeds(result: BenchResult) -> CategorySpeeds | None:
    """Off beside the best arm."""
    best = fastest_of(result.on)
    off = result.off_of(best)
    if off is None:
        return None
    names = categories(result)
    gains = result.category_speed_up(best)
    return CategorySpeeds(
        label_text(best.arm.name),
        label_text(off.arm.name),
        tuple(map(label_text, names)),
        tuple(_category_speed(off, name) for name in names),
        tuple(_category_speed(best, name) for name in names),
        tuple(gains.get(name) for name in names),
        title="Decode speed by category" + _of_single_requests(result),
    )


def _of_single_requests(result: BenchResult) -> str:
    """What a title must add where arms are ranked by another figure: the throughput of all slots."""
    return "" if result.plan.n_parallel == 1 else ", of single requests"


def positions(arms: Iterable[ArmResult]) -> Positions | None:
    """Of the arms whose engine counts them."""
    series = [(label_text(arm.arm.name), rates) for arm in arms if (rates := arm.total.acceptance_per_position)]
    return Positions(tuple(series)) if any(len(rates) > 1 for _, rates in series) else None


def depths(result: BenchResult) -> Depths | None:
    """A line for each engine, head and p_min; None unless some line has two depths."""
    return depths_of([("", arm) for arm in result.arms], f"{speed_name(result)} by draft depth")


def speed_name(result: BenchResult) -> str:
    """What `ArmResult.speed` is."""
    n_slots = result.plan.n_parallel
    return "Decode speed" if n_slots == 1 else f"Throughput of {n_slots} slots"


def depths_of(arms: Sequence[tuple[str, ArmResult]], title: str) -> Depths | None:
    """The same of any arms. Each comes with the label of its run, "" if there is only one."""
    lines: dict[_Line, dict[int, Spread]] = {}
    off: list[tuple[str, Spread]] = []
    for run, arm in arms:
        if arm.speed is None or not arm.arm.has_known_depth:
            continue
        if arm.arm.is_off:
            off.append((label_text(f"{run} {arm.arm.name}".strip()), arm.speed))
        else:
            key = (" ".join(filter(None, (run, arm.arm.engine))), arm.arm.head, arm.arm.p_min)
            lines.setdefault(key, {})[arm.arm.n_max] = arm.speed
    return _depth_chart(lines, off, "depths", title)


def _category_gains(result: BenchResult) -> CategoryGains | None:
    arms = [arm for arm in compared_arms(result) if result.category_speed_up(arm)]
    if len(arms) < 2:
        return None
    names = categories(result)
    series = []
    for arm in arms:
        gains = result.category_speed_up(arm)
        series.append((label_text(arm.arm.name), tuple(gains.get(name) for name in names)))
    title = "Speed-up over off by category" + _of_single_requests(result)
    return CategoryGains(tuple(map(label_text, names)), tuple(series), title=title)


def _depth_chart(
    lines: dict[_Line, dict[int, Spread]], off: Sequence[tuple[str, Spread]], name: str, title: str
) -> Depths | None:
    if not any(len(points) > 1 for points in lines.values()):
        return None
    fastest = sorted(lines, key=lambda key: max(spread.median for spread in lines[key].values()), reverse=True)
    kept = [key for key in lines if key in fastest[:_MAX_SERIES]]
    several_p = len({p for _, _, p in lines}) > 1
    series = tuple((_line_label(key, several_p), tuple(sorted(lines[key].items()))) for key in kept)
    return Depths(series, tuple(off), name, title)


def _line_label(key: _Line, several_p: bool) -> str:
    engine, head, p_min = key
    parts = [engine, f"[{head}]" if head else "", f"p_min {p_min:g}" if several_p else ""]
    return label_text(" ".join(part for part in parts if part) or "MTP")


def _grids(result: BenchResult) -> list[Grid]:
    cells: dict[tuple[str, str], dict[tuple[int, float], Spread]] = {}
    for arm in result.on:
        gain = result.speed_up(arm)
        if gain:
            cells.setdefault((arm.arm.engine, arm.arm.head), {})[arm.arm.n_max, arm.arm.p_min] = gain
    charts = (
        _grid(found, " ".join(filter(None, key)), f"grid-{number}") for number, (key, found) in enumerate(cells.items())
    )
    return [chart for chart in charts if chart][:_MAX_GRIDS]


def _grid(cells: dict[tuple[int, float], Spread], label: str, name: str) -> Grid | None:
    columns, rows = sorted({n for n, _ in cells}), sorted({p for _, p in cells})
    if len(columns) < 2 or len(rows) < 2:
        return None
    table = tuple(tuple(cells.get((n, p)) for n in columns) for p in rows)
    return Grid(tuple(columns), tuple(rows), table, label_text(label), name)


def _sweep(trials: Sequence[Trial], title: str) -> list[Chart]:
    """The trials by which a sweep chose its arms: one run each, so without a spread."""
    off = {trial.engine: trial.tokens_per_second for trial in trials if not trial.n_max}
    lines: dict[_Line, dict[int, Spread]] = {}
    cells: dict[tuple[str, str], dict[tuple[int, float], Spread]] = {}
    for trial in trials:
        if trial.n_max:
            line = lines.setdefault((trial.engine, trial.head, trial.p_min), {})
            line[trial.n_max] = _exactly(trial.tokens_per_second)
            if off.get(trial.engine):
                gain = trial.tokens_per_second / off[trial.engine]
                cells.setdefault((trial.engine, trial.head), {})[trial.n_max, trial.p_min] = _exactly(gain)
    levels = [(label_text(f"{engine}: off" if engine else "off"), _exactly(speed)) for engine, speed in off.items()]
    charts: list[Chart | None] = [_depth_chart(lines, levels, "sweep", title)]
    charts += [
        _grid(found, " ".join(filter(None, ("sweep", *key))), f"sweep-grid-{number}")
        for number, (key, found) in enumerate(cells.items())
    ]
    return [chart for chart in charts if chart is not None][: 1 + _MAX_GRIDS]


def _category_speed(arm: ArmResult, category: str) -> Spread | None:
    return replace(arm, samples=tuple(s for s in arm.samples if s.category == category)).tokens_per_second


def _exactly(value: float) -> Spread:
    return Spread(value, value, value)


def label_text(text: str) -> str:
    """A name out of a file as a chart may hold it: XML has no place for what is not printable."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in clean(text))
