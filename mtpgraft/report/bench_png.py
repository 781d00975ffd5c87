"""A bench result as one picture for a post: the headline, the main charts, and what was measured on what."""

from __future__ import annotations

import io

from mtpgraft.bench.result import BenchResult
from mtpgraft.report.bench_charts import bench_charts
from mtpgraft.report.bench_setup import engine_line, machine_line, protocol_line
from mtpgraft.report.bench_tables import arm_speed
from mtpgraft.report.bench_verdict import Headline, headline
from mtpgraft.report.charts import Chart
from mtpgraft.report.chartstyle import LIGHT, matplotlib_context
from mtpgraft.report.text import clean

_WIDTH, _HEIGHT = 1200, 675
"""In CSS pixels, 16:9 as posts show pictures; drawn at twice that."""
_TOP, _BOTTOM = 168, 58
_N_CHARTS = 2
_MOODS = {"good": LIGHT.good, "bad": LIGHT.bad, "plain": LIGHT.text}


def bench_png(result: BenchResult) -> bytes:
    """The picture, 2400 x 1350. Raises UsageError when matplotlib is not installed."""
    best = headline(result)
    charts = _chosen(bench_charts(result))
    with matplotlib_context():
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        layout = ConstrainedLayoutEngine(rect=(0.025, _BOTTOM / _HEIGHT, 0.95, 1 - (_TOP + _BOTTOM) / _HEIGHT))
        figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72), dpi=72, facecolor="white", layout=layout)
        figure.text(0.03, 0.955, _cut(clean(result.model.name), 100), size=13, color=LIGHT.muted, va="center")
        shown = figure.text(0.03, 0.835, clean(best.figure), size=46, weight="bold", color=_MOODS[best.mood])
        beside = shown.get_window_extent().x1 / _WIDTH + 0.015
        figure.text(beside, 0.897, _cut(clean(best.text), 80), size=18, color=LIGHT.text, va="center")
        figure.text(beside, 0.85, clean(_figures(result, best)), size=13.5, color=LIGHT.muted, va="center")
        setup = "; ".join((*(engine_line(engine) for engine in result.engines), machine_line(result)))
        for y, text in ((0.052, setup), (0.022, protocol_line(result))):
            figure.text(0.03, y, _cut(clean(text), 165), size=11.5, color=LIGHT.muted)
        for number, chart in enumerate(charts):
            left = 0.03 + 0.48 * number
            figure.text(left, 1 - (_TOP - 12) / _HEIGHT, clean(chart.title), size=13.5, weight="bold", color=LIGHT.text)
        parts = figure.subfigures(1, len(charts), squeeze=False)[0] if charts else ()
        for part, chart in zip(parts, charts, strict=True):
            axes = part.add_subplot()
            axes.patch.set_visible(False)
            chart.draw(axes, LIGHT)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=144, metadata={"Software": None})
    return buffer.getvalue()


def _figures(result: BenchResult, best: Headline) -> str:
    """`114 against 68.6 tok/s, acceptance 0.875`."""
    if best.arm is None:
        return ""
    off, accepted = result.off_of(best.arm), best.arm.total.acceptance
    speed = arm_speed(best.arm, off)
    kind = "synthetic acceptance" if best.arm.arm.is_synthetic else "acceptance"
    return speed if accepted is None else f"{speed}, {kind} {accepted:.3f}"


def _chosen(charts: list[Chart]) -> list[Chart]:
    """The categories, and then what shows the choice of settings best: the map, the depths, the positions."""
    order = ("category-speeds", "grid-0", "depths", "category-gains", "positions")
    return sorted((c for c in charts if c.name in order), key=lambda c: order.index(c.name))[:_N_CHARTS]


def _cut(text: str, n_chars: int) -> str:
    return text if len(text) <= n_chars else text[: n_chars - 1] + "…"
