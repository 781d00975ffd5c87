"""A matplotlib figure as inline SVG for a page: small, deterministic, and coloured by the page.

matplotlib writes a document of its own: fixed colours, `style` attributes (which a page's content policy may forbid),
a style sheet that would reach the whole page, and ids that repeat in the next figure. All of that is undone here.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# In place of matplotlib's style sheet `*{stroke-linejoin: round; stroke-linecap: butt}`.
_ROOT_STYLE = {"stroke-linejoin": "round", "stroke-linecap": "butt"}
# The page's own font is used: matplotlib lays out with a wider one, so what fitted there fits here.
_DROPPED_STYLES = ("font-family", "font")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def inline_svg(figure: Figure, *, name: str, title: str, description: str, colours: Mapping[str, str]) -> str:
    """The figure as one `<svg>` element.

    name: of the chart, unlike that of any other on the page; all ids start with it.
    title, description: what a screen reader says.
    colours: `#rrggbb` as drawn to what the page shall see, `var(--text)`.
    Call it inside the `rc` context that the figure was made in, which is where the salt of its ids comes from.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    root = ElementTree.fromstring(buffer.getvalue())
    _drop_style_sheet(root)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        _rewrite(element, name, colours)
    _head(root, name, title, description)
    return ElementTree.tostring(root, encoding="unicode").strip()


def _drop_style_sheet(root: ElementTree.Element) -> None:
    for child in list(root):
        if child.tag.endswith("}metadata") or (child.tag.endswith("}defs") and child[0].tag.endswith("}style")):
            root.remove(child)


def _rewrite(element: ElementTree.Element, name: str, colours: Mapping[str, str]) -> None:
    """Attributes in place of styles, the page's colours, ids of our own, two decimals."""
    old = dict(element.attrib)
    element.attrib.clear()
    element.tail = None
    for key, value in old.items():
        if key == "style":
            for part in value.split(";"):
                style, _, text = part.partition(":")
                if text and style.strip() not in _DROPPED_STYLES:
                    element.set(style.strip(), _value(text.strip(), name, colours))
        elif key == "id":
            # only what is referred to needs one: clip paths and markers
            if element.tag in ("clipPath", "path"):
                element.set("id", f"{name}-{value}")
        elif key.endswith("href"):
            element.set("href", f"#{name}-{value.removeprefix('#')}")
        else:
            element.set(key, _value(value, name, colours))
    if element.tag != "text":
        element.text = None


def _value(value: str, name: str, colours: Mapping[str, str]) -> str:
    value = _REFERENCE.sub(lambda found: f"url(#{name}-{found[1]})", value)
    value = _NUMBER.sub(lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), value)
    return colours.get(value.lower(), " ".join(value.split()))


def _head(root: ElementTree.Element, name: str, title: str, description: str) -> None:
    width, height = root.get("viewBox", "0 0 0 0").split()[2:]
    root.attrib.clear()
    root.attrib.update(
        {
            "viewBox": f"0 0 {width} {height}",
            "width": width,
            "height": height,
            "role": "img",
            "aria-labelledby": f"{name}-title {name}-description",
            **_ROOT_STYLE,
        }
    )
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        child = ElementTree.Element(tag, {"id": f"{name}-{'description' if tag == 'desc' else tag}"})
        child.text = text
        root.insert(position, child)
