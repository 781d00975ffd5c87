"""How every chart looks: colours by role, matplotlib's settings, and the parts that charts share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mtpgraft.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What is legible in the narrowest chart: beside a row, and in a legend, which may take a line for each name.
_ROW_CHARS, _LEGEND_CHARS = 22, 36
_TAIL_CHARS = 9
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours by their role. series: told apart by people who see no red or green, too; markers differ as well."""

    text: str
    muted: str
    grid: str
    off: str
    good: str
    bad: str
    series: tuple[str, ...]


LIGHT = Palette(
    "#1b2430",
    "#566374",
    "#dfe4ea",
    "#8793a3",
    "#1a6fd6",
    "#c2500e",
    ("#1a6fd6", "#c2500e", "#0f766e", "#a21caf", "#8a6100", "#4d5b6e"),
)

# Colours that no chart uses for themselves: the page's variables take their places.
PLACEHOLDERS = Palette(
    "#010101",
    "#010102",
    "#010103",
    "#010104",
    "#010105",
    "#010106",
    tuple(f"#01010{n}" for n in "789abc"),
)
VARIABLES = {
    PLACEHOLDERS.text: "var(--text)",
    PLACEHOLDERS.muted: "var(--muted)",
    PLACEHOLDERS.grid: "var(--line)",
    PLACEHOLDERS.off: "var(--off)",
    PLACEHOLDERS.good: "var(--good)",
    PLACEHOLDERS.bad: "var(--bad)",
    **{colour: f"var(--series-{n})" for n, colour in enumerate(PLACEHOLDERS.series, 1)},
}


@contextmanager
def matplotlib_context() -> Iterator[None]:
    """matplotlib with our settings, for the length of the block. Raises UsageError when it is not installed."""
    import warnings

    try:
        import matplotlib
    except ImportError:
        raise UsageError(
            "charts need matplotlib, which is not installed", hint="pip install 'mtpgraft[report]'"
        ) from None
    with warnings.catch_warnings():
        # a letter that matplotlib's font lacks is drawn by the page's
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        with matplotlib.rc_context(
            {
                "svg.fonttype": "none",  # text stays text
                "svg.hashsalt": "mtpgraft",  # ids that do not change from run to run
                "text.parse_math": False,  # names come out of files, and `$` is a letter there
                "font.size": 11.5,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.spines.left": False,
                "axes.axisbelow": True,
                "figure.constrained_layout.h_pad": 0.05,
                "figure.constrained_layout.w_pad": 0.02,
            }
        ):
            yield


@dataclass(frozen=True, slots=True)
class Entry:
    """A legend's line. marker: of a line with marks; dashes: of a line without; neither: a bar."""

    label: str
    colour: str
    marker: str = ""
    dashes: tuple[float, tuple[float, ...]] | None = None


def shown(label: str, limit: int = _ROW_CHARS) -> str:
    """A name as charts write it: no longer than they have room for, and with its end, where arms differ."""
    if len(label) <= limit:
        return label
    return f"{label[: limit - _TAIL_CHARS - 1]}…{label[-_TAIL_CHARS:]}"


def look(palette: Palette, number: int) -> tuple[str, str]:
    """Colour and marker of a chart's series, from 0."""
    return palette.series[number % len(palette.series)], _MARKERS[number % len(_MARKERS)]


def rows(axes: Axes, names: Sequence[str]) -> None:
    """A row for each name, the first one on top."""
    axes.set_yticks(range(len(names)), [shown(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)


def finish(axes: Axes, palette: Palette, grid: Literal["x", "y"] | None) -> None:
    """Quiet axes: no ticks, no frame, and a grid across the measured direction only."""
    axes.tick_params(length=0, colors=palette.text)
    axes.xaxis.label.set_color(palette.muted)
    axes.yaxis.label.set_color(palette.muted)
    axes.spines["bottom"].set_color(palette.grid)
    if grid:
        axes.grid(True, axis=grid, color=palette.grid, linewidth=0.8)


def legend_rows(n_labels: int, longest: int, width: float) -> int:
    """Lines that a legend takes in a chart of `width` CSS pixels."""
    return -(-n_labels // _legend_columns(n_labels, longest, width)) if n_labels else 0


def legend(axes: Axes, palette: Palette, entries: Sequence[Entry]) -> None:
    """Above the plot: beside it there is no room on a phone."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Line2D | Patch] = []
    for entry in entries:
        if entry.marker:
            handles.append(Line2D([], [], color=entry.colour, marker=entry.marker, markersize=5.5, linewidth=1.8))
        elif entry.dashes:
            handles.append(Line2D([], [], color=entry.colour, linewidth=1.6, linestyle=entry.dashes))
        else:
            handles.append(Patch(facecolor=entry.colour, linewidth=0))
    # matplotlib takes a label that starts with `_` for one to hide
    labels = [shown(f" {e.label}" if e.label.startswith("_") else e.label, _LEGEND_CHARS) for e in entries]
    width = axes.figure.bbox.width / axes.figure.dpi * 72
    axes.figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=_legend_columns(len(labels), max(map(len, labels)), width),
        frameon=False,
        labelcolor=palette.text,
        handlelength=1.6,
        columnspacing=1.4,
        borderpad=0.1,
        labelspacing=0.35,
    )


def _legend_columns(n_labels: int, longest: int, width: float) -> int:
    # a letter of matplotlib's font is about 7 wide at our size, a handle with its gaps 40
    return max(1, min(n_labels, int((width - 20) // (min(longest, _LEGEND_CHARS) * 7 + 40))))
