"""The pages in a real browser: headless Chromium, light and dark, on a desk and on a phone.

    pip install 'mtpgraft[report,browser]'   and a Chromium (Debian: apt install chromium)
    pytest -n 0 -m browser                        CHROMIUM=/path/to/chromium, if it is not on PATH

Skipped where there is no Chromium.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from mtpgraft.bench.sweep import Trial
from mtpgraft.report.bench_compare import compare
from mtpgraft.report.bench_compare_show import comparison_html
from mtpgraft.report.bench_html import bench_html
from tests.benchmade import PUBLIC, made

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)
WIDTHS = (1280, 390, 360)
HOSTILE = "<img src=http://127.0.0.1:9/x onerror=alert(1)>"

Scheme = Literal["light", "dark"]

# Lowest ratios of WCAG 2.1 AA: text, and text from 24 px on.
TEXT, LARGE = 4.5, 3.0

_CONTRAST = """
() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((v) => {
      const c = v / 255;
      return c <= 0.03928 ? c / 12.92 : Math.pow((c + 0.055) / 1.055, 2.4);
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$|transparent/.test(colour)) { return colour; }
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  const shown = (e) => e.getClientRects().length > 0;
  const text = "h1, h2, h3, p, li, dt, dd, th, td, code, button, strong, small, svg text";
  for (const e of document.querySelectorAll(text)) {
    if (!shown(e) || !e.textContent.trim()) { continue; }
    const style = getComputedStyle(e);
    const front = e.tagName === "text" ? style.fill : style.color;
    const a = light(front), b = light(behind(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found.push([ratio, parseFloat(style.fontSize), e.tagName, e.textContent.trim().slice(0, 40), front, behind(e)]);
  }
  return found;
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine; set CHROMIUM to its path")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # its sandbox needs rights that root and most containers lack; the pages are our own
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of all kinds: two engines, a map of settings with a sweep, hostile names, nothing drafted, a comparison."""
    folder = tmp_path_factory.mktemp("pages")
    settings = {f"n={n}" + (f" p>={p:g}" if p else ""): (50 + 9 * n, 60, 40) for n in (1, 2, 3, 4) for p in (0, 0.5)}
    trials = (Trial(0, 0.0, 50.0), *(Trial(n, p, 50.0 + n) for n in (1, 2) for p in (0.0, 0.5)))
    engines = made(PUBLIC, engines=("llama.cpp", "ik_llama.cpp"), texts={"llama.cpp: n=3": "other"})
    result = made({"off": (50.0, 0, 0), **settings}, n_max=(1, 2, 3, 4), p_min=(0.0, 0.5), sweep=trials)
    hostile = made(
        {"off": (50.0, 0, 0), "n=2": (48.0, 60, 20)},
        n_max=(2,),
        categories=(HOSTILE, "W" * 200, "日本語"),
        model=f"{HOSTILE}{'very-long-name-' * 12}.gguf",
        notes=(f"</script>{HOSTILE}",),
        texts={"n=2": f"{HOSTILE}{'x' * 500}"},
    )
    nothing = made({"off": (50.0, 0, 0), "n=2": (49.0, 0, 0)}, n_max=(2,))
    texts = {
        "engines": bench_html(engines),
        "grid": bench_html(result),
        "hostile": bench_html(hostile),
        "nothing": bench_html(nothing),
        "comparison": comparison_html(compare([("a.json", engines), ("b.json", result)])),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in texts}


class Seen:
    """One page, and everything that it said or asked for."""

    def __init__(self, browser: Browser, path: Path, width: int = 1280, scheme: Scheme = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page: Page = self.context.new_page()
        self.trouble: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.trouble.append(message.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.trouble.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Seen:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["engines", "grid", "hostile", "nothing", "comparison"])
def test_a_page_fits_and_can_be_read(
    browser: Browser, pages: dict[str, Path], name: str, width: int, scheme: Scheme
) -> None:
    with Seen(browser, pages[name], width, scheme) as seen:
        page = seen.page
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        wide = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide[0] <= wide[1], "the page scrolls sideways"
        beyond = page.evaluate(
            """[...document.querySelectorAll("main *")].filter((e) => !e.closest(".scroll, svg, pre"))
                .filter((e) => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
                .map((e) => e.outerHTML.slice(0, 80))"""
        )
        assert beyond == [], "cut off at the right"

        charts = page.locator("svg:visible")
        n_charts = page.locator("figure").count()
        assert charts.count() == n_charts and (n_charts > 0) == (name != "nothing")
        for number in range(n_charts):
            box = charts.nth(number).bounding_box()
            assert box is not None and box["width"] > 250 and box["height"] > 80
        small = page.evaluate(
            "[...document.querySelectorAll('svg text')].filter((e) => e.getClientRects().length)"
            ".map((e) => e.getBoundingClientRect().height).filter((height) => height < 9)"
        )
        assert small == [], "labels too small to read"

        for ratio, size, *what in page.evaluate(_CONTRAST):
            assert ratio >= (LARGE if size >= 24 else TEXT), (ratio, size, what)
        assert seen.trouble == []
        assert seen.requests == [pages[name].as_uri()], "nothing is fetched"


def test_labels_of_a_chart_do_not_overlap(browser: Browser, pages: dict[str, Path]) -> None:
    for name in ("engines", "grid", "comparison"):
        for width in WIDTHS:
            with Seen(browser, pages[name], width) as seen:
                overlaps = seen.page.evaluate(
                    """() => [...document.querySelectorAll("svg")].filter((s) => s.getClientRects().length)
                        .flatMap((s) => {
                            const boxes = [...s.querySelectorAll("text")].map(
                                (text) => [text.textContent, text.getBoundingClientRect()]);
                            return boxes.flatMap(([a, p], i) => boxes.slice(i + 1)
                                .filter(([b, q]) => p.left + 1 < q.right && q.left + 1 < p.right
                                    && p.top + 2 < q.bottom && q.top + 2 < p.bottom)
                                .map(([b]) => [s.getAttribute("aria-labelledby"), a, b]));
                        })"""
                )
                assert overlaps == [], (name, width)


def test_dark_is_dark_and_the_button_overrides_it(browser: Browser, pages: dict[str, Path]) -> None:
    def background(page: Page) -> int:
        colour: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))

    with Seen(browser, pages["grid"], scheme="dark") as seen:
        button = seen.page.get_by_role("button", name="Theme")
        assert button.inner_text() == "Theme: auto" and background(seen.page) < 150
        button.click()
        assert button.inner_text() == "Theme: light" and background(seen.page) > 700
        fill = "getComputedStyle(document.querySelector('svg text')).fill"
        light_text = seen.page.evaluate(fill)
        button.click()
        assert button.inner_text() == "Theme: dark" and background(seen.page) < 150
        assert seen.page.evaluate(fill) != light_text, "charts follow"
    with Seen(browser, pages["grid"], scheme="light") as seen:
        assert background(seen.page) > 700


def test_commands_are_copied(browser: Browser, pages: dict[str, Path]) -> None:
    with Seen(browser, pages["grid"]) as seen:
        seen.context.grant_permissions(["clipboard-read", "clipboard-write"])
        copy = seen.page.locator("[data-copy]").first
        command = seen.page.locator(".command code").first.inner_text()
        copy.click()
        seen.page.wait_for_function("document.querySelector('[data-copy]').textContent === 'Copied'")
        assert seen.page.evaluate("navigator.clipboard.readText()") == command
        assert command.startswith("mtpgraft bench ")


def test_commands_are_copied_where_there_is_no_clipboard(browser: Browser, pages: dict[str, Path]) -> None:
    """As on a page of a plain-HTTP server: the text is selected, and copied the old way where that is allowed."""
    with Seen(browser, pages["grid"]) as seen:
        seen.page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
        seen.page.locator("[data-copy]").first.click()
        assert seen.page.locator("[data-copy]").first.inner_text() in ("Copied", "Selected")
        assert seen.page.evaluate("getSelection().toString()").startswith("mtpgraft bench ")


def test_everything_can_be_reached_by_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    with Seen(browser, pages["grid"]) as seen:
        reached = []
        for _ in range(12):
            seen.page.keyboard.press("Tab")
            reached.append(seen.page.evaluate("document.activeElement.className || document.activeElement.tagName"))
        assert reached[0] == "BUTTON" and "scroll" in reached
