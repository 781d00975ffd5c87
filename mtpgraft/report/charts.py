"""The charts of a bench, drawn by matplotlib from plain figures: what `bench_figures` picks out of a result.

Each chart is a value with a `draw`: onto a figure of its own for a page (`chart_svg`), or into a part of a picture
(`bench_png`). matplotlib is imported on first use, and only its object interface: no state outlives a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mtpgraft.bench.metrics import Spread
from mtpgraft.report import chartstyle as style
from mtpgraft.report.bench_tables import seen
from mtpgraft.report.chartstyle import PLACEHOLDERS, VARIABLES, Palette, matplotlib_context
from mtpgraft.report.svg import inline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE, NARROW = 540, 330
"""Widths of a chart in CSS pixels: half of a page on a desk, and a phone."""


class Chart(Protocol):
    """Something that can be drawn. title and description are also what a screen reader says."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def description(self) -> str: ...

    def height(self, width: int) -> int:
        """In CSS pixels, for a chart of this width."""
        ...

    def draw(self, axes: Axes, palette: Palette) -> None: ...


def chart_svg(chart: Chart, width: int) -> str:
    """The chart as one `<svg>` element whose colours are the page's variables."""
    with matplotlib_context():
        from matplotlib.figure import Figure

        size = (width / 72, chart.height(width) / 72)  # matplotlib's SVG has 72 units to the inch
        figure = Figure(figsize=size, dpi=72, layout="constrained", frameon=False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        chart.draw(axes, PLACEHOLDERS)
        return inline_svg(
            figure,
            name=f"{chart.name}-{width}",
            title=chart.title,
            description=chart.description,
            colours=VARIABLES,
        )


@dataclass(frozen=True, slots=True)
class CategorySpeeds:
    """Decode speed by category, tokens per second, off beside one arm. A category without a figure is left empty."""

    label: str
    off_label: str
    categories: tuple[str, ...]
    off: tuple[Spread | None, ...]
    on: tuple[Spread | None, ...]
    gains: tuple[Spread | None, ...]
    name: str = "category-speeds"
    title: str = "Decode speed by category"

    @property
    def description(self) -> str:
        rows = (
            f"{category}: {gain.median:.2f} times off"
            for category, gain in zip(self.categories, self.gains, strict=True)
            if gain
        )
        return f"Tokens per second, {self.label} beside {self.off_label}. " + "; ".join(rows)

    def height(self, width: int) -> int:
        return 62 + 40 * len(self.categories)

    def draw(self, axes: Axes, palette: Palette) -> None:
        for shift, spreads, colour in ((-0.19, self.off, palette.off), (0.19, self.on, palette.good)):
            for row, spread in enumerate(spreads):
                if spread:
                    axes.barh(row + shift, spread.median, height=0.34, color=colour, linewidth=0)
                    axes.plot([spread.low, spread.high], [row + shift] * 2, color=palette.text, linewidth=1.2)
        for row, (off, on, gain) in enumerate(zip(self.off, self.on, self.gains, strict=True)):
            if off and on and gain:
                # break-even: how far the arm's bar must reach
                axes.plot([off.median] * 2, [row + 0.02, row + 0.38], color=palette.text, linewidth=1.4)
                colour = palette.text if seen(gain) else palette.muted
                axes.annotate(
                    f"{gain.median:.2f}×",
                    (max(on.high, off.high), row + 0.19),
                    (6, 0),
                    textcoords="offset points",
                    va="center",
                    color=colour,
                )
        highest = max((s.high for s in (*self.off, *self.on) if s), default=1.0)
        axes.set_xlim(0, highest * 1.18)
        style.rows(axes, self.categories)
        axes.set_xlabel("tokens per second (tick: break-even)")
        style.finish(axes, palette, grid="x")
        style.legend(axes, palette, [style.Entry(self.off_label, palette.off), style.Entry(self.label, palette.good)])


@dataclass(frozen=True, slots=True)
class CategoryGains:
    """Speed-up over off by category: one row per category, one mark per arm."""

    categories: tuple[str, ...]
    series: tuple[tuple[str, tuple[Spread | None, ...]], ...]
    name: str = "category-gains"
    title: str = "Speed-up over off by category"

    @property
    def description(self) -> str:
        ranges = (
            f"{label}: {min(known):.2f} to {max(known):.2f} times off"
            for label, spreads in self.series
            if (known := [spread.median for spread in spreads if spread])
        )
        return "Median of the repeats with the lowest and highest; 1 is break-even. " + "; ".join(ranges)

    def height(self, width: int) -> int:
        return 62 + _legend_height(self.series, width) + max(26, 12 * len(self.series) + 8) * len(self.categories)

    def draw(self, axes: Axes, palette: Palette) -> None:
        n = len(self.series)
        for number, (_, spreads) in enumerate(self.series):
            shift = (number - (n - 1) / 2) * min(0.24, 0.8 / n)
            colour, marker = style.look(palette, number)
            for row, spread in enumerate(spreads):
                if spread:
                    axes.plot([spread.low, spread.high], [row + shift] * 2, color=colour, linewidth=1.6)
                    axes.plot(spread.median, row + shift, marker, color=colour, markersize=5.5)
        axes.axvline(1.0, color=palette.text, linewidth=1.1, linestyle=(0, (4, 3)), zorder=0.5)
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, 0.95), max(high, 1.05))
        for row in range(1, len(self.categories)):
            axes.axhline(row - 0.5, color=palette.grid, linewidth=0.8, zorder=0.4)
        style.rows(axes, self.categories)
        axes.set_xlabel("times off (dashed: break-even)")
        style.finish(axes, palette, grid="x")
        style.legend(
            axes, palette, [style.Entry(label, *style.look(palette, i)) for i, (label, _) in enumerate(self.series)]
        )


@dataclass(frozen=True, slots=True)
class Positions:
    """Share of verification steps that accepted the draft's 1st, 2nd, ... token."""

    series: tuple[tuple[str, tuple[float, ...]], ...]
    name: str = "positions"
    title: str = "Acceptance by draft position"

    @property
    def description(self) -> str:
        rows = (f"{label}: " + ", ".join(f"{rate:.2f}" for rate in rates) for label, rates in self.series)
        return "Share of verification steps that accepted the draft's 1st, 2nd, ... token. " + "; ".join(rows)

    def height(self, width: int) -> int:
        return 230 + _legend_height(self.series, width)

    def draw(self, axes: Axes, palette: Palette) -> None:
        deepest = max((len(rates) for _, rates in self.series), default=1)
        for number, (_, rates) in enumerate(self.series):
            colour, marker = style.look(palette, number)
            axes.plot(range(1, len(rates) + 1), rates, color=colour, marker=marker, markersize=5.5, linewidth=1.8)
        axes.set_ylim(0, 1.03)
        axes.set_xlim(0.75, deepest + 0.25)
        axes.set_xticks(range(1, deepest + 1))
        axes.set_xlabel("position in the draft")
        axes.set_ylabel("share of steps")
        style.finish(axes, palette, grid="y")
        style.legend(
            axes, palette, [style.Entry(label, *style.look(palette, i)) for i, (label, _) in enumerate(self.series)]
        )


@dataclass(frozen=True, slots=True)
class Depths:
    """Decode speed over draft depth, tokens per second. off: one level per engine."""

    series: tuple[tuple[str, tuple[tuple[int, Spread], ...]], ...]
    off: tuple[tuple[str, Spread], ...]
    name: str = "depths"
    title: str = "Decode speed by draft depth"

    @property
    def description(self) -> str:
        rows = [f"{label}: {spread.median:.4g}" for label, spread in self.off]
        rows += [
            f"{label}: " + ", ".join(f"{spread.median:.4g} at n={n}" for n, spread in points)
            for label, points in self.series
        ]
        return "Tokens per second, median of the repeats with the lowest and highest. " + "; ".join(rows)

    def height(self, width: int) -> int:
        return 230 + _legend_height((*self.series, *self.off), width)

    def draw(self, axes: Axes, palette: Palette) -> None:
        dashes = ((0, (5, 3)), (0, (1.5, 2)), (0, (6, 2, 1.5, 2)))
        legend: list[style.Entry] = []
        for number, (label, spread) in enumerate(self.off):
            dash = dashes[number % len(dashes)]
            axes.axhspan(spread.low, spread.high, color=palette.off, alpha=0.18, linewidth=0)
            axes.axhline(spread.median, color=palette.off, linewidth=1.6, linestyle=dash)
            legend.append(style.Entry(label, palette.off, dashes=dash))
        for number, (label, points) in enumerate(self.series):
            colour, marker = style.look(palette, number)
            axes.plot(
                [n for n, _ in points],
                [spread.median for _, spread in points],
                color=colour,
                marker=marker,
                markersize=5.5,
                linewidth=1.8,
            )
            for n, spread in points:
                axes.plot([n, n], [spread.low, spread.high], color=colour, linewidth=1.4)
            legend.append(style.Entry(label, colour, marker))
        depths = sorted({n for _, points in self.series for n, _ in points})
        highs = [spread.high for _, spread in self.off]
        highs += [spread.high for _, points in self.series for _, spread in points]
        axes.set_ylim(0, max(highs) * 1.08)
        axes.set_xlim(depths[0] - 0.3, depths[-1] + 0.3)
        axes.set_xticks(depths)
        axes.set_xlabel("n_max: tokens drafted per step, at most")
        axes.set_ylabel("tokens per second")
        style.finish(axes, palette, grid="y")
        style.legend(axes, palette, legend)


@dataclass(frozen=True, slots=True)
class Grid:
    """Speed-up over off for each n_max x p_min. cells: by row (p_min), then by column (n_max)."""

    n_max: tuple[int, ...]
    p_min: tuple[float, ...]
    cells: tuple[tuple[Spread | None, ...], ...]
    label: str = ""
    name: str = "grid"

    @property
    def title(self) -> str:
        return "Speed-up by n_max and p_min" + (f": {self.label}" if self.label else "")

    @property
    def description(self) -> str:
        rows = (
            f"p_min {p:g}: " + ", ".join(f"{c.median:.2f} at n={n}" for n, c in zip(self.n_max, row, strict=True) if c)
            for p, row in zip(self.p_min, self.cells, strict=True)
        )
        return "Times off, median of the repeats. " + "; ".join(rows)

    def height(self, width: int) -> int:
        return 60 + 40 * len(self.p_min)

    def draw(self, axes: Axes, palette: Palette) -> None:
        from matplotlib.patches import Rectangle

        known = [abs(cell.median - 1) for row in self.cells for cell in row if cell]
        largest = max([*known, 0.05])
        best = max((cell.median for row in self.cells for cell in row if cell), default=0.0)
        for y, row in enumerate(self.cells):
            for x, cell in enumerate(row):
                if cell is None:
                    axes.text(x, y, "–", ha="center", va="center", color=palette.muted)
                    continue
                colour = palette.good if cell.median >= 1 else palette.bad
                # no deeper than 0.5: the text on it stays readable in light and dark
                alpha = round(0.06 + 0.44 * abs(cell.median - 1) / largest, 3)
                axes.add_patch(Rectangle((x - 0.47, y - 0.46), 0.94, 0.92, facecolor=colour, alpha=alpha, linewidth=0))
                if cell.median == best:
                    axes.add_patch(
                        Rectangle((x - 0.47, y - 0.46), 0.94, 0.92, fill=False, edgecolor=palette.text, linewidth=1.6)
                    )
                axes.text(x, y, f"{cell.median:.2f}×", ha="center", va="center", color=palette.text)
        axes.set_xlim(-0.5, len(self.n_max) - 0.5)
        axes.set_ylim(len(self.p_min) - 0.5, -0.5)
        axes.set_xticks(range(len(self.n_max)), [str(n) for n in self.n_max])
        axes.set_yticks(range(len(self.p_min)), [f"{p:g}" for p in self.p_min])
        axes.set_xlabel("n_max (framed: the fastest)")
        axes.set_ylabel("p_min")
        axes.spines["bottom"].set_visible(False)
        style.finish(axes, palette, grid=None)


def _legend_height(series: Sequence[tuple[str, object]], width: int) -> int:
    longest = max((len(label) for label, _ in series), default=0)
    return 18 * style.legend_rows(len(series), longest, width)


def _legend(axes: Axes, palette: Palette, series: Sequence[tuple[str, object]]) -> None:
    entries = [style.Entry(label, *style.look(palette, number)) for number, (label, _) in enumerate(series)]
    style.legend(axes, palette, entries)
