"""Reports of inspect, extract, graft, strip and verify: JSON documents and lines of text from the same values."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Union

from mtpgraft.container import GGUFModel
from mtpgraft.head import Head, HeadState, n_runnable_blocks
from mtpgraft.plan import FilePlan, SurgeryPlan
from mtpgraft.report.text import clean, counts, nbytes, shape
from mtpgraft.surgery import Outcome
from mtpgraft.verify import VerifyReport

Json = Union[  # noqa: UP007  (a recursive alias cannot be written with | on Python 3.10)
    None, bool, int, float, str, Sequence["Json"], Mapping[str, "Json"]
]

SCHEMA_VERSION = 1


def inspect_json(model: GGUFModel, head: Head) -> dict[str, Json]:
    """What `mtpgraft inspect --json` prints."""
    return {
        "schema_version": SCHEMA_VERSION,
        "model": model.name,
        "name": model.text("general.name"),
        "architecture": head.architecture,
        "known_architecture": head.spec is not None,
        "verdict": head.state.value,
        "block_count": head.block_count,
        "nextn_predict_layers": head.declared,
        "n_trunk_blocks": head.n_trunk,
        "n_head_blocks": len(head.blocks),
        "n_head_blocks_run": n_runnable_blocks(head),
        "head_nbytes": head.n_bytes,
        "head_types": head.types,
        "n_tensors": len(model.tensors),
        "nbytes": model.size,
        "n_shards": len(model.shards),
        "tensor_types": _type_counts(model),
        "problems": list(head.problems),
        "assumptions": list(head.assumptions),
        "provenance": {
            key.name: str(key.scalar())
            for key in model.keys
            if key.name.startswith("mtpgraft.") and not key.is_array and not key.name.startswith("mtpgraft.undo.")
        },
        "head": [
            {
                "block": block.index,
                "tensors": [
                    {
                        "name": t.name,
                        "shape": list(t.shape),
                        "type": t.type.name,
                        "nbytes": t.n_bytes,
                        "offset": t.offset,
                    }
                    for t in block.tensors
                ],
            }
            for block in head.blocks
        ],
    }


def inspect_facts(model: GGUFModel, head: Head) -> list[tuple[str, str]]:
    """The same for people, as (label, text) rows."""
    declared = "no" if head.declared is None else str(head.declared)
    rows = [
        ("model", clean(model.name)),
        ("name", clean(model.text("general.name") or "-")),
        ("architecture", clean(head.architecture) + (f" ({head.spec.title})" if head.spec else " (no row for it)")),
        ("size", f"{nbytes(model.size)}, {len(model.tensors)} tensors" + _shards(model)),
        ("tensor types", counts(_type_counts(model))),
        ("blocks", f"block_count {head.block_count}, of them {head.n_trunk} trunk"),
        ("head declared", f"nextn_predict_layers {declared}"),
        ("head present", _present(head)),
        ("verdict", head.state.value),
    ]
    if head.spec is not None and head.blocks:
        rows.append(("llama.cpp runs", f"{n_runnable_blocks(head)} of {len(head.blocks)} head block(s)"))
    rows += [("problem", clean(problem)) for problem in head.problems]
    if head.state not in (HeadState.OK, HeadState.NOT_MTP):
        rows.append(("next", f"what it means, and what mends it: mtpgraft audit {shlex.quote(clean(model.name))}"))
    rows += [("assumed", clean(text)) for text in head.assumptions]
    return rows


def head_rows(head: Head) -> list[tuple[str, str, str, str]]:
    """(tensor, shape, type, size) for each head tensor."""
    return [(clean(t.name), shape(t.shape), t.type.name, nbytes(t.n_bytes)) for t in head.tensors]


def plan_json(plan: SurgeryPlan) -> dict[str, Json]:
    """A plan as `--dry-run --json` prints it."""
    return {
        "operation": plan.operation,
        "base": plan.base,
        "donor": plan.donor,
        "outputs": [{"path": str(f.path), "nbytes": f.file_nbytes, **_copied(f)} for f in plan.files],
        "head_nbytes": plan.head_nbytes,
        "key_changes": [{"key": c.name, "before": c.before, "after": c.after} for c in plan.key_changes],
        "head": [
            {
                "donor_name": row.donor_name,
                "name": row.name,
                "shape": list(row.shape),
                "from_type": row.from_type,
                "to_type": row.to_type,
                "nbytes": row.n_bytes,
            }
            for row in plan.head
        ],
        "warnings": list(plan.warnings),
    }


def report_json(report: VerifyReport) -> dict[str, Json]:
    """A proof as JSON."""
    return {
        "ok": report.ok,
        "trunk_nbytes": report.trunk_nbytes,
        "head_nbytes": report.head_nbytes,
        "head_sha256": report.head_sha256,
        "key_changes": [{"key": c.name, "before": c.before, "after": c.after} for c in report.key_changes],
        "added_tensors": list(report.added_tensors),
        "checks": [
            {"check": c.name, "ok": c.ok, "expected": c.expected, "observed": c.observed, "detail": c.detail}
            for c in report.checks
        ],
    }


def outcome_json(outcome: Outcome) -> dict[str, Json]:
    """What extract, graft and strip print with --json."""
    return {
        "schema_version": SCHEMA_VERSION,
        "dry_run": outcome.report is None,
        **plan_json(outcome.plan),
        "verified": None if outcome.report is None else report_json(outcome.report),
    }


def verify_json(report: VerifyReport) -> dict[str, Json]:
    """What `mtpgraft verify --json` prints."""
    return {"schema_version": SCHEMA_VERSION, **report_json(report)}


def outcome_lines(outcome: Outcome) -> list[str]:
    """The same for people."""
    plan, report = outcome.plan, outcome.report
    would = "" if report else "would write "
    lines = [f"{would}{clean(f.path)}: {nbytes(f.file_nbytes)}, {len(f.tensors)} tensors" for f in plan.files]
    verb = "without" if plan.operation == "strip" else "with"
    lines.append(f"{verb} a head of {len(plan.head)} tensors, {nbytes(plan.head_nbytes)}: {_head_types(plan)}")
    lines += change_lines(plan)
    if report is not None:
        lines.append(proof_line(report))
    return lines


def change_lines(plan: SurgeryPlan | VerifyReport) -> list[str]:
    """The key changes as a diff."""
    lines = []
    for change in plan.key_changes:
        if change.before is not None:
            lines.append(f"  - {clean(change.name)} = {clean(change.before)}")
        if change.after is not None:
            lines.append(f"  + {clean(change.name)} = {clean(change.after)}")
    return lines


def proof_line(report: VerifyReport) -> str:
    """One line that says what was proven."""
    parts = []
    if report.trunk_nbytes:
        parts.append(f"trunk {nbytes(report.trunk_nbytes)} identical to the base's")
    if report.head_nbytes:
        parts.append(f"head {nbytes(report.head_nbytes)} equal to the donor's")
    parts.append(f"{sum(c.ok for c in report.checks)} of {len(report.checks)} checks hold")
    return "verified: " + ", ".join(parts)


def check_rows(report: VerifyReport) -> list[tuple[str, str, str, str]]:
    """(verdict, check, expected, observed) for each check."""
    return [
        (
            "ok" if check.ok else "FAIL",
            clean(check.name),
            clean(check.expected)[:40],
            clean(check.observed)[:40] + (f" ({clean(check.detail)})" if check.detail else ""),
        )
        for check in report.checks
    ]


def _type_counts(model: GGUFModel) -> dict[str, int]:
    found: dict[str, int] = {}
    for tensor in model.tensors:
        found[tensor.type.name] = found.get(tensor.type.name, 0) + 1
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _shards(model: GGUFModel) -> str:
    return f", {len(model.shards)} shards" if model.is_split else ""


def _present(head: Head) -> str:
    if not head.blocks:
        return "no"
    blocks = ", ".join(f"blk.{block.index}" for block in head.blocks)
    return f"{blocks}: {len(head.tensors)} tensors, {nbytes(head.n_bytes)} ({counts(head.types)})"


def _copied(file: FilePlan) -> dict[str, Json]:
    copied = sum(t.n_bytes for t in file.tensors if t.is_copied)
    return {"copied_nbytes": copied, "converted_nbytes": file.data_nbytes - copied, "n_tensors": len(file.tensors)}


def _head_types(plan: SurgeryPlan) -> str:
    found: dict[str, int] = {}
    for row in plan.head:
        label = row.to_type if row.from_type == row.to_type else f"{row.from_type} -> {row.to_type}"
        label = row.from_type if plan.operation == "strip" else label
        found[label] = found.get(label, 0) + 1
    return counts(dict(sorted(found.items(), key=lambda item: -item[1])))
