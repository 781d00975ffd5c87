"""What a bench result is shown as: tables, sentences, Markdown, pages, pictures, and runs side by side."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mtpgraft.bench.result import BenchResult
from mtpgraft.bench.run import run_bench
from mtpgraft.bench.sweep import Trial
from mtpgraft.errors import ExitCode, RefusedError, UsageError
from mtpgraft.report import page
from mtpgraft.report.bench import bench_heading, bench_tables, bench_verdict
from mtpgraft.report.bench_charts import bench_charts
from mtpgraft.report.bench_compare import compare, comparison_table, comparison_verdict, differing_table
from mtpgraft.report.bench_compare_show import comparison_html, comparison_json, comparison_markdown
from mtpgraft.report.bench_html import bench_html
from mtpgraft.report.bench_markdown import bench_markdown
from mtpgraft.report.bench_png import bench_png
from mtpgraft.report.bench_setup import bench_command
from mtpgraft.report.bench_verdict import headline, verdict
from mtpgraft.report.charts import NARROW, WIDE, chart_svg
from mtpgraft.report.markdown import fenced, markdown
from tests.benchmade import NINE, PUBLIC, made
from tests.conftest import TRAINED
from tests.inprocess import InProcess

OFF = {"off": (50.0, 0, 0)}
ENGINES = ("llama.cpp", "ik_llama.cpp")
HOSTILE = "<script>alert(1)</script>"


def one(speed: float, drafted: int = 66, accepted: int = 50, **more: object) -> BenchResult:
    """Off at 50 tok/s, and n=2."""
    return made({**OFF, "n=2": (speed, drafted, accepted)}, n_max=(2,), **more)  # type: ignore[arg-type]


def grid() -> BenchResult:
    speeds = {f"n={n}" + (f" p>={p:g}" if p else ""): (50 + 10 * n + p, 60, 50) for n in (1, 2, 3) for p in (0, 0.5)}
    return made({**OFF, **speeds}, n_max=(1, 2, 3), p_min=(0.0, 0.5))


@pytest.fixture(scope="module")
def real() -> BenchResult:
    """A real run of the trained model."""
    return run_bench(TRAINED / "donor-bf16.gguf", n_max=(1, 2), repeats=2, n_predict=24, n_threads=1)


def reread(result: BenchResult) -> BenchResult:
    return BenchResult.from_json(json.loads(json.dumps(result.to_json())))


# A saved run is shown as the run itself


def test_a_saved_result_is_shown_as_the_live_one(real: BenchResult) -> None:
    saved = reread(real)
    for render in (bench_heading, bench_tables, bench_verdict, bench_markdown, bench_html, bench_png):
        assert render(saved) == render(real), render.__name__
    assert bench_html(real) == bench_html(real), "the same result gives the same bytes"


def test_a_real_run_is_reported_whole(real: BenchResult) -> None:
    text = bench_markdown(real)
    assert "donor-bf16.gguf" in text and real.plan.suite.hash in text
    assert str(real.model.sha256) in text and "mtpgraft bench donor-bf16.gguf" in text
    arms, categories, positions, costs = bench_tables(real)
    assert [row[0] for row in arms.rows] == ["off", "n=1", "n=2"]
    for row, arm in zip(arms.rows, real.arms, strict=True):
        if arm.total.acceptance is not None:
            assert row[3] == f"{arm.total.acceptance:.3f}"
    assert {row[0] for row in categories.rows} == {"code", "prose"}
    assert [len(row) for row in positions.rows] == [3, 3] and positions.rows[0][2] == "-"
    assert all(row[4].endswith(" s") or "s (" in row[4] for row in costs.rows)


# What is concluded


def test_a_gain_that_every_repeat_shows_is_one() -> None:
    result = one(75.0)
    best = headline(result)
    assert (best.figure, best.mood) == ("1.50x", "good")
    assert verdict(result)[0] == "fastest: n=2, 1.50x the speed of MTP off (78.0 against 52.0 tok/s)"


def test_a_gain_within_the_spread_is_none() -> None:
    result = one(51.0, noise=0.04, against=True)
    assert headline(result).mood == "plain" and "no difference from MTP off seen" in headline(result).text
    assert verdict(result)[0].startswith("no difference seen: n=2")


def test_a_loss_is_said_with_what_the_head_would_have_to_accept() -> None:
    result = one(45.0, drafted=66, accepted=20)
    assert headline(result).mood == "bad"
    said = verdict(result)
    assert said[0].startswith("MTP off is the fastest: n=2, the best MTP arm, is 0.90x its speed")
    need = result.break_even(result.on[0])
    assert need is not None
    assert f"n=2 accepts 0.30 and would need {need.acceptance:.2f} to be as fast as MTP off here" in said


def test_nothing_drafted_is_a_finding_and_no_chart() -> None:
    result = one(49.0, drafted=0, accepted=0)
    assert headline(result).mood == "bad" and "nothing was drafted" in verdict(result)[0]
    assert bench_charts(result) == []
    assert "<svg" not in bench_html(result)


def test_the_lower_acceptance_may_win_and_the_report_says_why() -> None:
    """The public comparison: 90 tok/s at .939 against 110 at .875."""
    result = made(PUBLIC, engines=ENGINES)
    said = verdict(result)
    assert said[0].startswith("fastest: ik_llama.cpp: n=3, 1.67x")
    assert any(line.startswith("ik_llama.cpp is 1.22x as fast as llama.cpp, each at its best") for line in said)
    (misleads,) = [line for line in said if "acceptance alone misleads" in line]
    assert "llama.cpp: n=3 accepts 0.939" in misleads and "ik_llama.cpp: n=3 only 0.875" in misleads
    assert "tokens per pass" in misleads
    (wall,) = [line for line in said if line.startswith("least wall time")]
    assert "ik_llama.cpp: n=3" in wall and "llama.cpp: off" in wall
    assert not any("acceptance alone misleads" in line for line in verdict(one(75.0)))


def test_cautions() -> None:
    assert "one repeat only: nothing tells a difference from noise" in verdict(one(75.0, repeats=1))
    synthetic = made({**OFF, "n=2 synthetic": (80.0, 60, 50)}, n_max=(2,), synth_rates=(0.9, 0.8))
    assert any("synthetic arms accept at random" in line for line in verdict(synthetic))
    assert "synthetic" in bench_tables(synthetic)[0].rows[1][3]
    assert any("ended before 101 tokens" in line for line in verdict(one(75.0, n_predicted=60)))
    differing = verdict(one(75.0, texts={"n=2": "sane"}))
    assert any("greedy text differs from off's in 9 of 9 prompts" in line for line in differing)
    assert any("prompts are read 17 % slower with n=2" in line for line in differing)


# Charts


def test_charts_that_the_figures_call_for() -> None:
    names = [chart.name for chart in bench_charts(grid())]
    assert names == ["category-speeds", "category-gains", "depths", "positions", "grid-0"]
    assert [chart.name for chart in bench_charts(one(75.0))] == ["category-speeds", "positions"]
    trials = (Trial(0, 0.0, 50.0), *(Trial(n, p, 50.0 + n) for n in (1, 2) for p in (0.0, 0.5)))
    swept = [chart.name for chart in bench_charts(made({**OFF, "n=2": (75.0, 60, 50)}, n_max=(2,), sweep=trials))]
    assert swept[-2:] == ["sweep", "sweep-grid-0"]


def test_a_chart_is_small_inline_svg_that_the_page_colours() -> None:
    charts = bench_charts(grid())
    ids: list[str] = []
    for chart in charts:
        for width in (WIDE, NARROW):
            svg = chart_svg(chart, width)
            assert svg == chart_svg(chart, width)
            assert svg.startswith("<svg") and 'role="img"' in svg and "<title" in svg and "<desc" in svg
            assert "style=" not in svg and "<style" not in svg and "xmlns" not in svg and "metadata" not in svg
            assert "var(--text)" in svg and "<text" in svg
            assert not re.search(r"#[0-9a-f]{6}\b", svg), "a fixed colour would be lost in the dark"
            own = re.findall(r'\bid="([^"]+)"', svg)
            assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) <= set(own)
            ids += own
    assert len(ids) == len(set(ids))


def test_labels_are_words_and_not_mathematics() -> None:
    svg = chart_svg(bench_charts(one(75.0, categories=("_a$x^2$", "b\x07\ufffe")))[0], WIDE)
    assert "_a$x^2$" in svg and "\\x07\ufffd" in svg


def test_a_picture_has_the_size_of_a_post() -> None:
    for result in (grid(), one(49.0, drafted=0, accepted=0)):
        data = bench_png(result)
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">II", data[16:24]) == (2400, 1350)


def test_marks_of_a_chart_stand_out_in_light_and_dark() -> None:
    """At least 3:1 against the card, which WCAG 2.1 asks of graphics; text at least 4.5:1."""

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    def contrast(a: str, b: str) -> float:
        low, high = sorted((light(a), light(b)))
        return (high + 0.05) / (low + 0.05)

    for palette, surfaces in page.THEMES:
        for colour in (*palette.series, palette.good, palette.bad, palette.off):
            assert contrast(colour, surfaces["card"]) >= 3, colour
        for surface in surfaces["card"], surfaces["page"], surfaces["tint"]:
            assert contrast(palette.text, surface) >= 4.5 and contrast(palette.muted, surface) >= 4.5


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="not installed") as caught:
        page.require(page=True)
    assert caught.value.hint == "pip install 'mtpgraft[report]'"


# Pages


class _Page(HTMLParser):
    """Every element with its attributes, and the text outside of script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.words.append(data)


def hostile() -> BenchResult:
    return one(
        75.0,
        categories=(HOSTILE, "a | b `c` *d*", "\u202ebidi\x1b[31m", "x" * 300),
        model=f"<img src=x onerror=alert(1)>{HOSTILE}.gguf",
        notes=(f"</style>{HOSTILE}", "```"),
        texts={"n=2": f"</code></pre>{HOSTILE}\ud800"},
    )


def test_names_out_of_files_stay_text() -> None:
    result = hostile()
    tags = _Page(bench_html(result)).tags
    assert [tag for tag, _ in tags].count("script") == 1
    assert not [tag for tag, _ in tags if tag == "img"]
    assert not [name for _, attrs in tags for name in attrs if name.startswith("on") or name == "style"]
    words = "".join(_Page(bench_html(result)).words)
    assert HOSTILE in words and "\u202e" not in words and "\x1b" not in words
    assert bench_html(result).encode()
    plain = "\n".join((*bench_heading(result), *bench_verdict(result), *(str(t) for t in bench_tables(result))))
    assert "\x1b" not in plain and "\u202e" not in plain


def test_a_page_needs_nothing_else() -> None:
    for text in (bench_html(grid()), comparison_html(compare([("a.json", one(75.0)), ("b.json", one(80.0))]))):
        tags = _Page(text).tags
        policy = next(attrs["content"] for tag, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy")
        assert policy and policy.startswith("default-src 'none'") and "unsafe" not in policy
        assert not [tag for tag, _ in tags if tag in ("link", "img", "iframe", "object", "base")]
        links = [attrs[name] for _, attrs in tags for name in ("src", "href", "action") if name in attrs]
        assert all(link and link.startswith("#") for link in links)
        assert "url(http" not in text and "@import" not in text


def test_markdown_is_a_table_whatever_the_names_are() -> None:
    text = bench_markdown(hostile())
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| category"))
    rows = lines[start : start + 6]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [3] * 6
    text = re.sub(r"^(```+)sh\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)  # in code it is text anyway
    assert HOSTILE not in text and "&lt;script>" in text and "<img" not in text
    assert markdown("a_b _c_ `d` | <e>") == "a_b \\_c\\_ \\`d\\` \\| &lt;e>"
    assert fenced("a ``` b")[0] == "````sh"


def test_the_command_measures_the_same_again() -> None:
    command = bench_command(grid())
    assert "--n-max 1,2,3 --p-min 0,0.5" in command
    assert "--suite mtp-bench --shape chat --n-predict 101 --repeats 3 --ctx 8192" in command
    assert "--cache-type-k q8_0" in command and "--engine llama-server" in command


# Runs side by side


def test_runs_are_compared_arm_by_arm() -> None:
    a, b = one(60.0), replace(one(90.0), mtpgraft_version="0.2.0")
    comparison = compare([("a.json", a), ("b.json", b)])
    off_a, off_b, on_a, on_b = comparison_table(comparison).rows
    assert off_b[:2] == ("B", "off") and off_b[3] == "1.00x (0.96-1.04), within the spread"
    assert on_b[3] == "1.50x (1.44-1.56)" and on_a[3] == off_a[3] == "-"
    assert differing_table(comparison).rows == (("mtpgraft", "0.1.0", "0.2.0"),)
    said = comparison_verdict(comparison)
    assert said[0] == "B n=2 is 1.50x (1.44-1.56) as fast as A n=2, each run's best (93.5 against 62.4 tok/s)"
    assert said[1].startswith("least wall time for the suite: B n=2")
    document = json.loads(json.dumps(comparison_json(comparison)))
    assert document["kind"] == "bench-comparison" and document["fastest"] == {"run": "B", "arm": "n=2"}
    assert "| B | n=2 |" in comparison_markdown(comparison)


def test_single_repeats_are_remarked() -> None:
    said = comparison_verdict(compare([("a.json", one(60.0)), ("b.json", one(90.0, repeats=1))]))
    assert "one repeat only in B: nothing tells a difference from noise" in said
    both = comparison_verdict(compare([("a.json", one(60.0, repeats=1)), ("b.json", one(90.0, repeats=1))]))
    assert "one repeat only in A and B: nothing tells a difference from noise" in both
    assert not any("one repeat" in line for line in comparison_verdict(compare([("a", one(60.0)), ("b", one(9.0))])))


def test_throughput_of_slots_and_decode_speed_of_requests_have_their_names() -> None:
    arms = (replace(arm, arm=replace(arm.arm, launch=replace(arm.arm.launch, n_parallel=4))) for arm in one(75.0).arms)
    slots = replace(one(75.0), arms=tuple(arms))
    slots = replace(slots, plan=replace(slots.plan, arms=tuple(arm.arm for arm in slots.arms)))
    table, by_category, *_ = bench_tables(slots)
    assert table.columns[1:3] == ("throughput tok/s, 4 slots", "throughput over off")
    assert by_category.title == "Single requests by category" and "not throughput" in by_category.note
    assert "tok/s of all 4 slots)" in verdict(slots)[0] and "the throughput of MTP off" in verdict(slots)[0]
    titles = {chart.name: chart.title for chart in bench_charts(slots)}
    assert titles["category-speeds"] == "Decode speed by category, of single requests"
    both = compare([("a.json", slots), ("b.json", slots)])
    assert comparison_table(both).columns[2] == "throughput tok/s, 4 slots"
    single, singles, *_ = bench_tables(one(75.0))
    assert single.columns[1:3] == ("tok/s", "speed-up") and singles.title == "By category"


def test_what_is_not_mtp_is_told_apart() -> None:
    fast = made({"off": (70.0, 0, 0), "n=2": (80.0, 66, 40)}, n_max=(2,))
    said = comparison_verdict(compare([("a.json", one(60.0, accepted=60)), ("b.json", fast)]))
    assert "with MTP off, B is 1.40x (1.35-1.46) as fast as A: that is not MTP" in said
    assert any(line.startswith("acceptance alone misleads: A n=2 accepts 0.909") for line in said)
    same = comparison_verdict(compare([("a.json", one(60.0)), ("b.json", one(60.5))]))
    assert same[0].startswith("no difference seen between B n=2 and A n=2")


def test_one_engine_is_compared_with_one_of_several() -> None:
    comparison = compare([("a.json", one(75.0)), ("b.json", made(PUBLIC, engines=ENGINES))])
    gains = {c.name: c.gain for c in comparison.arms}
    assert gains["B llama.cpp: n=2"] is not None and gains["B ik_llama.cpp: n=3"] is None


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"categories": NINE[:4]}, "another suite"),
        ({"shape": "completion"}, "another suite"),
        ({"n_predict": 64}, "number of tokens"),
    ],
)
def test_other_shapes_are_refused(other: dict[str, object], what: str) -> None:
    n_predict = other.pop("n_predict", None)
    b = one(75.0, **other)
    if isinstance(n_predict, int):
        b = replace(b, plan=replace(b.plan, n_predict=n_predict))
    with pytest.raises(RefusedError, match=what) as caught:
        compare([("a.json", one(75.0)), ("b.json", b)])
    assert caught.value.file == "b.json" and caught.value.expected != caught.value.found


# The command


@pytest.fixture
def mtpgraft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    monkeypatch.chdir(tmp_path)
    return InProcess()


def save(path: Path, result: BenchResult) -> Path:
    path.write_text(json.dumps(result.to_json()))
    return path


def test_report_shows_one_run_and_compares_two(mtpgraft: InProcess, tmp_path: Path) -> None:
    a, b = save(tmp_path / "a.json", one(75.0)), save(tmp_path / "b.json", one(80.0))
    assert "fastest: n=2" in mtpgraft("report", a, "--html", "a.html", "--markdown", "a.md", "--png", "a.png").stdout
    assert (tmp_path / "a.html").read_text() == bench_html(one(75.0))
    assert (tmp_path / "a.md").read_text() == bench_markdown(one(75.0))
    shown = json.loads(mtpgraft("report", a, "--json").stdout)
    assert {name: shown[name] for name in json.loads(a.read_text())} == json.loads(a.read_text())
    done = mtpgraft("report", a, b, "--html", "c.html", "--markdown", "c.md")
    assert "\n  A  B\n" not in mtpgraft("report", a, a).stdout, "a table of nothing"
    assert "B n=2 is" in done.stdout and "2 runs compared" in (tmp_path / "c.html").read_text()
    assert mtpgraft("report", a, "--markdown", "-").stdout == bench_markdown(one(75.0))
    assert mtpgraft("report", a, b, "--markdown", "-").stdout == (tmp_path / "c.md").read_text()
    both = mtpgraft("report", a, "--markdown", "-", "--json", expect=ExitCode.BAD_INPUT)
    assert "stdout takes one answer" in both.stderr
    again = mtpgraft("report", a, "--html", "a.html", expect=ExitCode.BAD_INPUT)
    assert "exists already" in again.stderr and "--force" in again.stderr


def test_report_tells_files_apart_by_content(mtpgraft: InProcess, tmp_path: Path) -> None:
    census = tmp_path / "census.json"
    census.write_text('{"target": "hf:org/repo", "results": []}\n')
    before = census.read_bytes()
    assert "1 targets" in mtpgraft("report", census).stdout
    a = save(tmp_path / "a.jsonl", one(75.0))
    assert "fastest: n=2" in mtpgraft("report", a).stdout
    for arguments, words in (
        ((census, a), "a census is reported alone"),
        ((census, "--html", "x.html"), "are for bench results"),
        ((tmp_path / "none.json",), "no such file"),
        ((a, save(tmp_path / "b.json", one(75.0, shape="completion"))), "not comparable"),
        ((a, a, "--png", "x.png"), "--png shows one run"),
    ):
        assert words in mtpgraft("report", *arguments, expect=ExitCode.BAD_INPUT).stderr
    for content in ("text", "[1, 2]", '{"schema_version": 1}', '{"arms": [], "schema_version": 99}', "\x00"):
        (tmp_path / "wrong.json").write_text(content)
        mtpgraft("report", "wrong.json", expect=ExitCode.BAD_INPUT)
    assert census.read_bytes() == before and not (tmp_path / "x.html").exists()


def test_numbers_that_no_run_gives_are_shown_and_crash_nothing(mtpgraft: InProcess, tmp_path: Path) -> None:
    document = json.loads(json.dumps(one(75.0).to_json()))
    samples = document["arms"][1]["samples"]
    samples[0]["predicted_ms"] = float("nan")
    samples[1]["prompt_ms"] = float("inf")
    samples[2]["draft_n"] = -5
    samples[3]["repeat"] = 10**18
    (tmp_path / "odd.json").write_text(json.dumps(document))
    mtpgraft("report", "odd.json", "--html", "odd.html", "--png", "odd.png", "--markdown", "odd.md")
    assert (tmp_path / "odd.html").stat().st_size > 10_000
