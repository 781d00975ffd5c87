"""A diagnosis as lines, as a table and as Markdown."""

from __future__ import annotations

from mtpgraft.bench.diagnosis.values import Check, Diagnosis, Verdict
from mtpgraft.report.bench_tables import Table
from mtpgraft.report.markdown import markdown, table_lines
from mtpgraft.report.text import clean

MAX_FINDINGS = 3
_MARKS = {Verdict.BAD: "bad", Verdict.WARN: "warn", Verdict.OK: "ok", Verdict.UNKNOWN: "?"}


def diagnosis_table(diagnosis: Diagnosis) -> Table:
    """Every check, in the order of importance; safe to print. `?`: this run does not tell."""
    rows = tuple(
        (_MARKS[check.verdict], clean(check.title), clean(check.expected), clean(check.observed))
        for check in diagnosis.checks
    )
    return Table("Diagnosis", ("", "check", "expected", "observed"), rows, frozenset())


def advice_lines(diagnosis: Diagnosis) -> list[str]:
    """What to do about each finding, and what was left out."""
    lines = [f"{check.id}: {clean(check.advice)}" for check in diagnosis.findings if check.advice]
    if not diagnosis.findings:
        lines.append("nothing is wrong that these checks can see")
    return [*lines, *(f"note: {clean(note)}" for note in diagnosis.notes)]


def finding_lines(diagnosis: Diagnosis, limit: int = MAX_FINDINGS) -> list[str]:
    """The most important findings of a run that was not asked for a diagnosis."""
    findings = diagnosis.findings
    lines = [_finding(check) for check in findings[:limit]]
    if len(findings) > limit:
        lines.append(f"and {len(findings) - limit} more: --diagnose explains them")
    return lines


def diagnosis_markdown(diagnosis: Diagnosis) -> list[str]:
    """A section: the table, then the advice."""
    advice = [f"- {markdown(check.id)}: {markdown(check.advice)}" for check in diagnosis.findings if check.advice]
    notes = [f"- note: {markdown(note)}" for note in diagnosis.notes]
    return ["### Diagnosis", "", *table_lines(diagnosis_table(diagnosis)), "", *advice, *notes]


def _finding(check: Check) -> str:
    return f"{check.verdict.value}: {check.title}? {clean(check.observed)}. {clean(check.advice)}".rstrip(". ")
