"""What an audit found, as a table, details, JSON and Markdown. SARIF is in audit_sarif.py."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from mtpgraft.audit.values import AuditResult, Finding, Severity, Verdict
from mtpgraft.modelspec import is_remote
from mtpgraft.report.surgery import Json
from mtpgraft.report.text import clean, counts, nbytes
from mtpgraft.source.splits import parse_shard_name

SCHEMA_VERSION = 1

COLUMNS = ("verdict", "model", "head", "size", "advice")
_RUNS = (Verdict.OK, Verdict.LOW_QUANT)
_DRAFTING = "--spec-type draft-mtp --spec-draft-n-max 2"
_NOTHING = "nothing to mend"
_ORDER = (Severity.ERROR, Severity.WARNING, Severity.NOTE)


def audit_json(results: Sequence[AuditResult]) -> dict[str, Json]:
    """What `mtpgraft audit --json` prints."""
    return {
        "schema_version": SCHEMA_VERSION,
        "summary": {verdict.value: n for verdict, n in summary(results).items()},
        "fetched_nbytes": sum(result.fetched_nbytes for result in results),
        "results": [result_json(result) for result in results],
    }


def result_json(result: AuditResult) -> dict[str, Json]:
    """One model's result."""
    return {
        "target": result.target,
        "verdict": result.verdict.value,
        "architecture": result.architecture,
        "n_head_blocks": result.n_head_blocks,
        "head_types": dict(result.head_types),
        "head_nbytes": result.head_nbytes,
        "nbytes": result.n_bytes,
        "fetched_nbytes": result.fetched_nbytes,
        "error": result.error,
        "findings": [finding_json(finding) for finding in result.findings],
    }


def finding_json(finding: Finding) -> dict[str, Json]:
    """One finding."""
    return {
        "rule": finding.rule.id,
        "title": finding.rule.title,
        "severity": finding.rule.severity.value,
        "expected": finding.expected,
        "observed": finding.observed,
        "evidence": list(finding.evidence),
        "consequence": finding.consequence,
        "fix": finding.fix,
    }


def summary(results: Iterable[AuditResult]) -> dict[Verdict, int]:
    """Number of models by verdict, in the order of the verdicts."""
    found: dict[Verdict, int] = {}
    for result in results:
        found[result.verdict] = found.get(result.verdict, 0) + 1
    return {verdict: found[verdict] for verdict in Verdict if verdict in found}


def table_rows(results: Iterable[AuditResult]) -> list[tuple[str, ...]]:
    """One row per model: see COLUMNS."""
    return [(r.verdict.value, clean(r.target), _head(r), _size(r), _advice(r)) for r in results]


def detail_lines(results: Iterable[AuditResult]) -> list[str]:
    """Every finding with all that is known of it, for `-v`."""
    lines: list[str] = []
    for result in results:
        if not result.findings:
            continue
        lines += ["", f"{clean(result.target)}: {result.verdict.value}"]
        for found in _most_severe_first(result.findings):
            lines.append(f"  {found.rule.id} {found.rule.severity.value}: {found.rule.title}")
            parts = [("expected", found.expected), ("observed", found.observed)]
            parts += [("evidence", text) for text in found.evidence]
            parts += [("then", found.consequence), ("fix", found.fix)]
            lines += [f"    {label:<9} {clean(text)}" for label, text in parts if text]
    return lines


def next_lines(results: Sequence[AuditResult]) -> list[str]:
    """Of a model that was audited alone: what follows from its findings, and the command that comes next."""
    if len(results) != 1:
        return []
    result = results[0]
    parts: list[tuple[str, str]] = []
    for found in _most_severe_first(result.findings):
        parts += [("then", found.consequence), ("fix", "" if found.fix == _NOTHING else found.fix)]
    if result.error is not None or result.verdict is Verdict.NOT_MTP:
        parts = []
    elif result.verdict in _RUNS and not parts:
        parts = [("run", _start_command(result.target))]
    return [f"  {label:<5} {clean(text)}" for label, text in parts if text]


def summary_line(results: Sequence[AuditResult]) -> str:
    """`5 models: 2 dropped, 3 ok; 1.2 MB fetched`."""
    parts = ", ".join(f"{n} {verdict.value}" for verdict, n in summary(results).items())
    fetched = sum(result.fetched_nbytes for result in results)
    of = sum(result.n_bytes or 0 for result in results if result.fetched_nbytes)
    tail = f"; {nbytes(fetched)} fetched of {nbytes(of)}" if fetched else ""
    return f"{len(results)} model{'s' if len(results) != 1 else ''}: {parts or 'none'}{tail}"


def markdown_lines(results: Iterable[AuditResult]) -> list[str]:
    """A table for a model card, and the findings that matter, those that several models share once."""
    seen = list(results)
    lines = ["| Model | MTP head | Verdict | Advice |", "|---|---|---|---|"]
    lines += [
        f"| {_cell(_short(r.target))} | {_cell(_head(r))} | {_cell(r.verdict.value)} | {_cell(_advice(r))} |"
        for r in seen
    ]
    shared: dict[tuple[str, ...], list[str]] = {}
    for result in seen:
        telling = tuple(
            f"- {f.rule.id} {f.rule.title}: expected {_cell(f.expected)}, found {_cell(f.observed)}. "
            f"{_cell(f.consequence)}"
            for f in result.findings
            if f.rule.severity is not Severity.NOTE
        )
        if telling:
            shared.setdefault(telling, []).append(_cell(_short(result.target)))
    for paragraph, names in shared.items():
        lines += ["", f"**{', '.join(names)}**", "", *paragraph]
    if any(result.verdict in _RUNS and result.target.lower().endswith(".gguf") for result in seen):
        lines += ["", f"With a head, a current llama.cpp drafts: `llama-server -m FILE.gguf {_DRAFTING}`"]
    return lines


def main_finding(result: AuditResult) -> Finding | None:
    """The finding that made the verdict, or else the most severe one."""
    made = [f for f in result.findings if f.verdict is result.verdict]
    return next(iter(made), None) or next(iter(_most_severe_first(result.findings)), None)


def _most_severe_first(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda f: _ORDER.index(f.rule.severity))


def _start_command(target: str) -> str:
    """What starts a local GGUF with drafting; empty for what llama-server does not take by this name."""
    if is_remote(target) or not target.lower().endswith(".gguf"):
        return ""
    name = target[target.replace("\\", "/").rfind("/") + 1 :]
    shard = parse_shard_name(name)  # llama.cpp wants the first
    first = target if shard is None else target[: len(target) - len(name)] + shard.sibling(1)
    return f"llama-server -m {shlex.quote(first)} {_DRAFTING}; `mtpgraft plan` fits it to your memory"


def _head(result: AuditResult) -> str:
    if not result.n_head_blocks:
        return "-"
    blocks = f"{result.n_head_blocks} block{'s' if result.n_head_blocks > 1 else ''}"
    types = counts(dict(result.head_types))
    return f"{blocks}: {types}" if types else blocks


def _size(result: AuditResult) -> str:
    return "-" if result.n_bytes is None else nbytes(result.n_bytes)


def _advice(result: AuditResult) -> str:
    found = main_finding(result)
    if found is None:
        return ""
    if result.verdict in (Verdict.OK, Verdict.NOT_MTP) and found.rule.severity is Severity.NOTE:
        return clean(found.observed) if result.verdict is Verdict.NOT_MTP else ""
    if result.error is not None:
        return clean(result.error)
    return f"{found.rule.id} {found.rule.title}"


def _short(target: str) -> str:
    return target.replace("\\", "/").rsplit("/", 1)[-1]


def _cell(text: str) -> str:
    return clean(text).replace("|", "\\|").replace("<", "&lt;")
