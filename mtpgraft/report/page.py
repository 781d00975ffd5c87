"""A page as one file: nothing is fetched, and its own content policy forbids it.

Templates are jinja2's: its escaping is on for every value, and names out of files are also stripped of what a terminal
or a page would obey (`text.clean`) before they are escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import mtpgraft
from mtpgraft.errors import UsageError
from mtpgraft.report.charts import NARROW, WIDE, Chart, chart_svg
from mtpgraft.report.chartstyle import LIGHT, Palette
from mtpgraft.report.text import clean

if TYPE_CHECKING:
    from markupsafe import Markup

DARK = Palette(
    "#e6ebf1",
    "#a3b0c0",
    "#2b3644",
    "#77869a",
    "#6cb0ff",
    "#ff9d5c",
    ("#6cb0ff", "#ff9d5c", "#3ecfbd", "#e58bf0", "#e2bd4a", "#b3c0d0"),
)
LIGHT_SURFACES = {"page": "#f6f8fa", "card": "#ffffff", "edge": "#c6ced8", "tint": "#eaf2fd"}
DARK_SURFACES = {"page": "#10161e", "card": "#18212c", "edge": "#46556a", "tint": "#1c2f47"}
THEMES = ((LIGHT, LIGHT_SURFACES), (DARK, DARK_SURFACES))
"""(colours by role, surfaces of a page) in light and in dark."""


INSTALL = "pip install 'mtpgraft[report]'"


@dataclass(frozen=True, slots=True)
class ChartParts:
    """A chart in both widths, ready for the page."""

    title: str
    wide: Markup
    narrow: Markup


def require(*, page: bool) -> None:
    """Raise UsageError, with what to install, unless charts can be drawn (and pages be made)."""
    names = ("matplotlib", "jinja2") if page else ("matplotlib",)
    for name in names:
        if find_spec(name) is None:
            raise UsageError(f"charts and pages need {name}, which is not installed", hint=INSTALL)


def render(template: str, **values: object) -> str:
    """The page of one of `templates/`. Raises UsageError when jinja2 is not installed."""
    require(page=True)
    import jinja2
    from markupsafe import Markup

    def safe(value: object) -> object:
        return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mtpgraft.report"),
        autoescape=True,
        finalize=safe,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    css = environment.get_template("page.css").render(light=_variables(*THEMES[0]), dark=_variables(*THEMES[1]))
    js = environment.get_template("page.js").render()
    policy = (
        f"default-src 'none'; style-src {_source(css)}; script-src {_source(js)}; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template(template).render(
        css=Markup(css), js=Markup(js), policy=policy, version=mtpgraft.__version__, **values
    )


def drawn(charts: Iterable[Chart]) -> list[ChartParts]:
    """The charts as SVG. Raises UsageError when matplotlib is not installed."""
    from markupsafe import Markup

    return [
        ChartParts(chart.title, Markup(chart_svg(chart, WIDE)), Markup(chart_svg(chart, NARROW))) for chart in charts
    ]


def _variables(palette: Palette, surfaces: dict[str, str]) -> dict[str, str]:
    series = {f"series-{n}": colour for n, colour in enumerate(palette.series, 1)}
    return {
        "text": palette.text,
        "muted": palette.muted,
        "line": palette.grid,
        "off": palette.off,
        "good": palette.good,
        "bad": palette.bad,
        **series,
        **surfaces,
    }


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
