"""A bench result as Markdown: what people paste into a model card or a discussion."""

from __future__ import annotations

from mtpgraft.bench.diagnosis import Diagnosis, diagnose
from mtpgraft.bench.result import BenchResult
from mtpgraft.report.bench_setup import all_notes, bench_command, commands, engine_line, machine_line, setup_rows
from mtpgraft.report.bench_tables import tables
from mtpgraft.report.bench_verdict import headline, verdict
from mtpgraft.report.diagnosis import diagnosis_markdown
from mtpgraft.report.markdown import fenced, markdown, table_lines


def bench_markdown(result: BenchResult, diagnosis: Diagnosis | None = None) -> str:
    """Heading, verdict, tables, diagnosis (None: what the result itself tells), and how to measure it again."""
    best = headline(result)
    labels = zip(result.plan.engines, result.engines, strict=True)
    engines = "; ".join(f"{label}: {engine_line(engine)}" if label else engine_line(engine) for label, engine in labels)
    lines = [
        f"## MTP bench: {markdown(result.model.name)}",
        "",
        f"**{markdown(best.figure)}** {markdown(best.text)}",
        "",
        f"{markdown(engines)}; {markdown(machine_line(result))}",
        "",
        *(f"- {markdown(line)}" for line in verdict(result)),
    ]
    if result.cut_short:
        lines.append(f"- the run was cut short: {markdown(result.cut_short)}")
    for table in tables(result):
        lines += ["", f"### {markdown(table.title)}", "", *table_lines(table)]
    lines += ["", *diagnosis_markdown(diagnosis or diagnose(result))]
    lines += ["", "### Measure it again", "", *fenced(bench_command(result))]
    started = commands(result)
    if started:
        lines += ["", "Engine commands:", "", *fenced("\n".join(text for _, text in started))]
    lines += ["", "<details><summary>Setup</summary>", ""]
    lines += [f"- {markdown(name)}: {markdown(value)}" for name, value in setup_rows(result)]
    lines += [f"- note: {markdown(note)}" for note in all_notes(result)]
    lines += ["", "</details>"]
    return "\n".join(lines) + "\n"
