"""A memory plan as a table, a bar, and JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mtpgraft.audit.values import AuditResult
from mtpgraft.report.text import clean
from mtpgraft.vram.advice import ADVICE, Advice
from mtpgraft.vram.budget import Budget, MemoryUse
from mtpgraft.vram.plan import GRID_TYPES, MemoryPlan
from mtpgraft.vram.search import MIN_CTX

SCHEMA_VERSION = 1
_GIB = 2**30
_BAR_WIDTH = 60
_WRAP = 116


@dataclass(frozen=True, slots=True)
class _Part:
    """One line of the budget: its name, the sign it has in the bar, its style there, its bytes."""

    title: str
    sign: str
    style: str
    attribute: str


_PARTS = (
    _Part("weights", "█", "blue", "weights"),
    _Part("MTP head", "▓", "magenta", "head"),
    _Part("caches", "▒", "green", "kv"),
    _Part("draft's cache", "░", "cyan", "kv_draft"),
    _Part("compute buffers (estimate)", "=", "yellow", "compute"),
    _Part("reserve", "-", "bright_black", "reserve"),
)


def plan_heading(plan: MemoryPlan, name: str) -> list[str]:
    """What is planned, in a line or two."""
    head = f"{len(plan.head.blocks)} head block{'s' * (len(plan.head.blocks) != 1)}" if plan.can_draft else "no MTP"
    lines = [f"{clean(name)}: {plan.head.architecture}, {plan.bits_per_weight:.2f} bits per weight, {head}"]
    shown = plan.budget or plan.short
    if shown is not None:
        serving, placement = shown.serving, shown.placement
        parts = [
            f"MTP n={serving.n_draft}" if serving.n_draft else "MTP off",
            f"{serving.n_ctx:,} tokens"
            + (f" in {serving.n_parallel} slots" if serving.n_parallel > 1 else "")
            + f", cache {serving.cache_type_k}",
        ]
        if placement.n_cpu_moe:
            parts.append(f"experts of {placement.n_cpu_moe} layers in RAM")
        if placement.n_gpu_layers is not None:
            parts.append(f"{placement.n_gpu_layers} of {plan.n_layers + 1} layers on the GPU")
        lines.append(("fits: " if plan.fits else "does not fit: ") + "; ".join(parts))
    return lines


def plan_columns(plan: MemoryPlan) -> tuple[str, ...]:
    shown = plan.budget or plan.short
    return ("GiB", *(device.name for device in shown.devices), "RAM") if shown is not None else ()


def plan_rows(plan: MemoryPlan) -> list[tuple[str, ...]]:
    """The budget: one row per part, one column per place."""
    shown = plan.budget or plan.short
    if shown is None:
        return []
    places = (*shown.uses, shown.host)
    rows = [
        (part.title, *(_gib(getattr(use, part.attribute)) if getattr(use, part.attribute) else "" for use in places))
        for part in _PARTS
        if any(getattr(use, part.attribute) for use in places)
    ]
    rows.append(("in all", *(_gib(use.total) for use in places)))
    rows.append(("there is", *(_gib(device.n_bytes) for device in shown.devices), ""))
    return rows


def plan_bars(plan: MemoryPlan) -> list[list[tuple[str, str]]]:
    """One bar per device, as (signs, style) pieces: the parts in the order of the table, then what is left."""
    shown = plan.budget or plan.short
    return [] if shown is None else [_bar(use, of.n_bytes) for use, of in zip(shown.uses, shown.devices, strict=True)]


def _bar(use: MemoryUse, n_bytes: int) -> list[tuple[str, str]]:
    scale = _BAR_WIDTH / max(n_bytes, use.total)
    pieces, done, drawn = [], 0, 0
    for part in _PARTS:
        done += getattr(use, part.attribute)
        end = round(done * scale)
        pieces.append((part.sign * (end - drawn), part.style))
        drawn = end
    pieces.append((" " * (_BAR_WIDTH - drawn), ""))
    share = f"| {_gib(use.total)} of {_gib(n_bytes)} GiB, {100 * use.total / n_bytes:.0f} %"
    return [("|", ""), *[piece for piece in pieces if piece[0]], (share, "" if use.total <= n_bytes else "red")]


def bar_legend(plan: MemoryPlan) -> str:
    """What the signs of the bar mean."""
    shown = plan.budget or plan.short
    used = [p for p in _PARTS if shown is not None and any(getattr(use, p.attribute) for use in shown.uses)]
    return "   ".join(f"{part.sign} {part.title}" for part in used)


def context_columns() -> tuple[str, ...]:
    return ("largest context", *GRID_TYPES)


def context_rows(plan: MemoryPlan) -> list[tuple[str, ...]]:
    """One row per depth, one column per cache type."""
    cells = {(cell.n_draft, cell.cache_type): cell for cell in plan.contexts}
    most = plan.n_ctx_train * plan.request.n_parallel
    rows = []
    for depth in sorted({cell.n_draft for cell in plan.contexts}):
        row = ["MTP off" if depth == 0 else f"MTP n={depth}"]
        for name in GRID_TYPES:
            cell = cells[depth, name]
            if cell.why_not is not None:
                row.append("refused")
            else:
                row.append(f"{cell.n_ctx:,}{' (all)' if cell.n_ctx >= most else ''}" if cell.n_ctx else "none")
        rows.append(tuple(row))
    return rows


def advice_lines(plan: MemoryPlan) -> list[str]:
    """How deep to draft for the workload, and why."""
    row = plan.request.advice
    said = [f"{row.title}: {_depth(row)}, as {row.reason} ({row.source})"]
    if plan.why_no_draft is not None:
        said = [f"MTP cannot be used: {plan.why_no_draft}"]
    else:
        others = ", ".join(f"{other.workload} {_depth(other)}" for other in ADVICE if other is not row)
        said.append(f"other workloads: {others}. These are other people's figures: `mtpgraft bench` measures yours")
    said += [f"note: {note}" for note in plan.notes]
    return [line for text in said for line in textwrap.wrap(clean(text), _WRAP, subsequent_indent="  ")]


def _depth(row: Advice) -> str:
    return f"n={row.n_draft}" if row.n_draft else "MTP off"


def instead_lines(plan: MemoryPlan) -> Iterator[str]:
    """What would fit where not all of the plan does."""
    if plan.short is None:
        return
    reserve = sum(use.reserve for use in plan.short.uses)
    yield (
        f"all of it on the GPU takes {_gib(plan.short.n_bytes)} GiB at {plan.short.serving.n_ctx:,} tokens"
        + (f", {_gib(reserve)} GiB of it the reserve (--reserve)" if reserve else "")
    )
    least = MIN_CTX * plan.request.n_parallel
    fitting = [cell for cell in (plan.whole_contexts or plan.contexts) if cell.n_ctx >= least]
    for depth in sorted({cell.n_draft for cell in fitting}, reverse=True)[:1]:
        best = max((cell for cell in fitting if cell.n_draft == depth), key=lambda cell: cell.n_ctx)
        name = f"MTP n={depth}" if depth else "MTP off"
        yield f"with less, all of it fits: {name}, --kv {best.cache_type}, --ctx {best.n_ctx}"
    if plan.quant_bits is not None:
        bits = f"{plan.quant_bits:.1f} bits per weight"
        yield f"with a smaller quant, all of it fits: about {bits}; this one has {plan.bits_per_weight:.1f}"
    if not plan.fits:
        yield "weights kept in RAM (--n-cpu-moe, -ngl) do not make enough room here"


def audit_lines(result: AuditResult) -> list[str]:
    """The audit's verdict on a model that cannot draft, and what mends it."""
    lines = [f"audit: {result.verdict.value}"]
    for finding in result.findings:
        if finding.verdict is result.verdict or len(result.findings) == 1:
            lines += [
                f"  {clean(finding.observed)}: {clean(finding.consequence)}",
                f"  to mend it: {clean(finding.fix)}",
            ]
            break
    return lines


def plan_json(
    plan: MemoryPlan, target: str, commands: Mapping[str, str], audited: AuditResult | None
) -> dict[str, object]:
    """What `mtpgraft plan --json` prints."""
    shown = plan.budget or plan.short
    request = plan.request
    return {
        "schema_version": SCHEMA_VERSION,
        "target": target,
        "architecture": plan.head.architecture,
        "bits_per_weight": round(plan.bits_per_weight, 4),
        "n_ctx_train": plan.n_ctx_train,
        "head": {"state": plan.head.state.value, "can_draft": plan.can_draft, "why_not": plan.why_no_draft},
        "fits": plan.fits,
        "unknown": plan.why_unknown,
        "setting": None if shown is None else _setting(shown),
        "devices": [] if shown is None else _devices(shown),
        "host": None if shown is None else _use(shown.host),
        "largest_contexts": [
            {"n_max": cell.n_draft, "cache_type": cell.cache_type, "n_ctx": cell.n_ctx, "refused": cell.why_not}
            for cell in plan.contexts
        ],
        "bits_per_weight_that_fit": plan.quant_bits,
        "advice": {
            "workload": request.advice.workload,
            "n_max": request.advice.n_draft,
            "reason": request.advice.reason,
            "source": request.advice.source,
        },
        "notes": list(plan.notes),
        "audit": None if audited is None else {"verdict": audited.verdict.value, "lines": audit_lines(audited)},
        "commands": dict(commands),
    }


def _setting(shown: Budget) -> dict[str, object]:
    serving, placement = shown.serving, shown.placement
    return {
        "n_ctx": serving.n_ctx,
        "n_parallel": serving.n_parallel,
        "n_max": serving.n_draft,
        "cache_type": serving.cache_type_k,
        "n_ubatch": serving.n_ubatch,
        "n_gpu_layers": placement.n_gpu_layers,
        "n_cpu_moe": placement.n_cpu_moe,
        "tensor_split": list(placement.splits) if len(placement.splits) > 1 else None,
    }


def _devices(shown: Budget) -> list[dict[str, object]]:
    return [
        {"name": device.name, "nbytes": device.n_bytes, "fits": use.total <= device.n_bytes, **_use(use)}
        for device, use in zip(shown.devices, shown.uses, strict=True)
    ]


def _use(use: MemoryUse) -> dict[str, object]:
    return {
        "weights_nbytes": use.weights,
        "head_nbytes": use.head,
        "caches_nbytes": use.kv,
        "draft_caches_nbytes": use.kv_draft,
        "compute_nbytes": use.compute,
        "reserve_nbytes": use.reserve,
        "total_nbytes": use.total,
    }


def _gib(n_bytes: int) -> str:
    return "<0.01" if 0 < n_bytes < _GIB / 200 else f"{n_bytes / _GIB:.2f}"
