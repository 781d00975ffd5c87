"""A comparison of bench runs as text, Markdown, JSON and a page."""

from __future__ import annotations

from dataclasses import asdict

from mtpgraft.bench.metrics import Spread
from mtpgraft.report.bench_charts import depths_of, label_text, speed_name
from mtpgraft.report.bench_compare import Comparison, comparison_table, comparison_verdict, differing_table
from mtpgraft.report.bench_setup import protocol_line
from mtpgraft.report.bench_tables import arm_speed
from mtpgraft.report.charts import Chart, Positions
from mtpgraft.report.markdown import markdown, table_lines
from mtpgraft.report.page import drawn, render
from mtpgraft.report.surgery import Json
from mtpgraft.report.text import clean

SCHEMA_VERSION = 1


def comparison_heading(comparison: Comparison) -> list[str]:
    """Which runs, and what they have in common."""
    lines = [
        f"{run.label}: {clean(run.name)}, {clean(run.result.model.name)}, {run.result.started_at}"
        for run in comparison.runs
    ]
    return [*lines, clean(protocol_line(comparison.runs[0].result))]


def comparison_json(comparison: Comparison) -> dict[str, Json]:
    """What `mtpgraft report A.json B.json --json` prints."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "bench-comparison",
        "suite": {
            "name": comparison.runs[0].result.plan.suite.name,
            "hash": comparison.runs[0].result.plan.suite.hash,
        },
        "runs": [
            {"label": run.label, "file": run.name, "started_at": run.result.started_at} for run in comparison.runs
        ],
        "differing": {name: list(values) for name, values in comparison.differing},
        "fastest": {"run": comparison.fastest.run.label, "arm": comparison.fastest.arm.arm.name},
        "verdict": comparison_verdict(comparison),
        "arms": [
            {
                "run": compared.run.label,
                "name": compared.arm.arm.name,
                "speed": _spread(compared.arm.speed),
                "gain": _spread(compared.gain),
                "speed_up": _spread(compared.run.result.speed_up(compared.arm)),
                "acceptance": compared.arm.total.acceptance,
                "synthetic": compared.arm.arm.is_synthetic,
                "wall_s": _spread(Spread.of(compared.arm.wall_s)),
            }
            for compared in comparison.arms
        ],
    }


def comparison_markdown(comparison: Comparison) -> str:
    """For a discussion."""
    lines = ["## MTP bench: runs compared", "", *(f"- {markdown(line)}" for line in comparison_heading(comparison)), ""]
    lines += [f"- {markdown(line)}" for line in comparison_verdict(comparison)]
    lines += ["", *table_lines(comparison_table(comparison))]
    if comparison.differing:
        lines += ["", "### What differs", "", *table_lines(differing_table(comparison))]
    return "\n".join(lines) + "\n"


def comparison_html(comparison: Comparison) -> str:
    """The whole page. Raises UsageError when matplotlib or jinja2 is not installed."""
    best = comparison.fastest
    return render(
        "compare.html.jinja",
        plural=True,
        runs=comparison.runs,
        figure=arm_speed(best.arm),
        text=f"{best.name}: {best.run.name}",
        verdict=comparison_verdict(comparison),
        charts=drawn(_charts(comparison)),
        table=comparison_table(comparison),
        differing=differing_table(comparison),
    )


def _charts(comparison: Comparison) -> list[Chart]:
    arms = [(compared.run.label, compared.arm) for compared in comparison.arms]
    deepest = [
        max((c for c in comparison.arms if c.run is run), key=lambda c: len(c.arm.total.acceptance_per_position or ()))
        for run in comparison.runs
    ]
    series = tuple((label_text(c.name), rates) for c in deepest if (rates := c.arm.total.acceptance_per_position))
    charts: list[Chart | None] = [
        depths_of(arms, f"{speed_name(comparison.runs[0].result)} by draft depth"),
        Positions(series) if len(series) > 1 else None,
    ]
    return [chart for chart in charts if chart is not None]


def _spread(figure: Spread | None) -> Json:
    return None if figure is None else asdict(figure)
