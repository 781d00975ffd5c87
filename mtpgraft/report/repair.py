"""A repair, before and after, as text and JSON."""

from __future__ import annotations

from mtpgraft.repair import Repaired
from mtpgraft.repair.run import Diagnosis
from mtpgraft.report.audit import finding_json
from mtpgraft.report.surgery import Json, change_lines, plan_json, proof_line, report_json
from mtpgraft.report.text import clean, nbytes

SCHEMA_VERSION = 1
_MAX_ROWS = 40


def repair_json(done: Repaired) -> dict[str, Json]:
    """What `mtpgraft repair --json` prints."""
    before, smoke = done.diagnosis, done.smoke
    return {
        "schema_version": SCHEMA_VERSION,
        "target": before.target,
        "verdict": before.verdict.value,
        "findings": [finding_json(finding) for finding in before.findings],
        "action": before.strategy.action.value,
        "why": before.strategy.why,
        "donor_why": before.donor_why,
        "norms": [{"tensor": n.tensor, "before": n.before, "after": n.after} for n in before.norms],
        "plan": None if before.plan is None else plan_json(before.plan),
        "verified": None if done.report is None else report_json(done.report),
        "verdict_after": None if done.after is None else done.after.value,
        "smoke": None if smoke is None else {"drafts": smoke.drafts, "text": smoke.text},
    }


def diagnosis_lines(before: Diagnosis) -> list[str]:
    """What is wrong, what will be done, and what it costs."""
    lines = [f"{clean(before.target)}: {before.verdict.value}"]
    lines += [
        f"  {f.rule.id} {f.rule.title}: expected {clean(f.expected)}, found {clean(f.observed)}"
        for f in before.findings
        if f.verdict is not None
    ]
    lines.append(f"{before.strategy.action.value}: {clean(before.strategy.why)}")
    plan = before.plan
    if plan is None:
        return lines
    if before.donor is not None:
        lines.append(f"donor {clean(before.donor)} ({clean(before.donor_why or '')})")
    lines += [f"  {clean(n.tensor)}: mean {n.before:.3f} -> {n.after:.3f}" for n in before.norms]
    changed = [row for row in plan.head if row.from_type != row.to_type]
    for row in changed[:_MAX_ROWS]:
        lines.append(f"  + {clean(row.name)}: {clean(row.from_type)} -> {row.to_type}, {nbytes(row.n_bytes)}")
    if len(changed) > _MAX_ROWS:
        lines.append(f"  ... and {len(changed) - _MAX_ROWS} more")
    lines += change_lines(plan)
    total = sum(file.file_nbytes for file in plan.files)
    lines.append(f"writes {clean(before.out)}: {nbytes(total)}, of it a head of {nbytes(plan.head_nbytes)}")
    return lines


def outcome_lines(done: Repaired) -> list[str]:
    """What was proven of the result."""
    if done.report is None:
        return []
    lines = [proof_line(done.report)]
    if done.after is not None:
        lines.append(f"audit of the result: {done.after.value}")
    if done.smoke is not None:
        lines.append(done.smoke.text)
    return lines
