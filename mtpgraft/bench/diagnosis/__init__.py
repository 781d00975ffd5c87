"""Why a bench came out as it did: checks over its result and, where they help, over control runs.

result -> controls_wanted -> run_controls -> diagnose -> Diagnosis
"""

from __future__ import annotations

from mtpgraft.bench.diagnosis import setup, speed
from mtpgraft.bench.diagnosis.controls import controls_wanted, head_evidence, run_controls
from mtpgraft.bench.diagnosis.values import Case, Check, Checker, Control, ControlPlan, Controls, Diagnosis, Verdict
from mtpgraft.bench.result import BenchResult

CHECKS: tuple[Checker, ...] = (
    setup.engaged,
    setup.build,
    setup.kinship,
    speed.acceptance,
    speed.overhead,
    speed.depth_cliff,
    setup.vram,
    setup.cuda_graphs,
    speed.small_model,
    setup.greedy_text,
    setup.head_type,
    speed.p_min,
    setup.kv_types,
    speed.slots,
    speed.prefill,
    speed.categories,
    setup.early_stops,
    speed.noise,
)
"""In the order of importance: what explains others comes first."""


def diagnose(result: BenchResult, controls: Controls | None = None) -> Diagnosis:
    """Every check, over the result and what else is known. Never raises for a result that ran."""
    case = Case.of(result, controls or Controls())
    subject = case.subject.arm.name if case.subject else ""
    return Diagnosis(subject, tuple(check(case) for check in CHECKS), case.controls.notes)


__all__ = [
    "CHECKS",
    "Check",
    "Control",
    "ControlPlan",
    "Controls",
    "Diagnosis",
    "Verdict",
    "controls_wanted",
    "diagnose",
    "head_evidence",
    "run_controls",
]
