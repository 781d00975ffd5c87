"""Control runs, the subject in turn with the same arm with one thing changed; and what the files tell of the head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mtpgraft.bench.diagnosis.speed import is_steep
from mtpgraft.bench.diagnosis.values import Case, Control, ControlPlan, Controls, HeadEvidence, HeadFinding, subject_of
from mtpgraft.bench.engine import Engine, LaunchSpec
from mtpgraft.bench.protocol import BenchPlan
from mtpgraft.bench.result import BenchResult
from mtpgraft.errors import EngineError, MtpgraftError

if TYPE_CHECKING:
    from mtpgraft.bench.run import ProgressCallback

_MAX_PROMPTS = 4
"""A control asks one question of one arm: a few prompts, one of each category, are enough."""

_LEAST_REPEATS = 3
"""With fewer a spread tells nothing, and `seen` would call noise a difference every other time."""

_NO_GRAPHS = ("GGML_CUDA_DISABLE_GRAPHS", "1")
_P_MIN = 0.75

_HEAD_RULES = tuple(f"MTP05{digit}" for digit in (*"01234568",))
"""The audit's rules on the head's data and origin; MTP057 only says what could not be read."""


def controls_wanted(result: BenchResult) -> tuple[ControlPlan, ...]:
    """The control runs that would settle a check of this result. None for servers that mtpgraft did not start."""
    subject = subject_of(result)
    case = Case(result, Controls(), subject)
    if subject is None or not subject.drafted or subject.arm.as_it_runs or subject.arm.is_synthetic:
        return ()
    wanted = []
    rates = subject.total.acceptance_per_position
    if rates and case.off is not None and not subject.arm.p_min and case.engine.kind == "llama.cpp":
        why = "the same acceptance by chance: what is left of a slow-down is the engine's"
        wanted.append(_control(result, "overhead", "synthetic", why, _synthetic(subject.arm.launch, rates)))
    if case.on_cuda and subject.arm.launch.n_gpu_layers != 0:
        why = "CUDA graphs off: drafting changes the shape of the graph all the time"
        launch = subject.arm.launch
        launch = replace(launch, env=(*launch.env, _NO_GRAPHS))
        wanted.append(_control(result, "cuda-graphs", "no CUDA graphs", why, launch))
    raised = any(arm.arm.p_min >= 0.5 for arm in result.on)
    if is_steep(subject) and not raised and subject.arm.launch.draft is not None:
        launch = replace(subject.arm.launch, draft=replace(subject.arm.launch.draft, p_min=_P_MIN))
        why = "later draft tokens are rarely accepted: a least probability would not draft them"
        wanted.append(_control(result, "p-min", f"p>={_P_MIN:g}", why, launch))
    return tuple(wanted)


def run_controls(
    result: BenchResult,
    engines: Sequence[Engine],
    progress: ProgressCallback | None = None,
    on_control: Callable[[ControlPlan], None] | None = None,
) -> Controls:
    """Runs what `controls_wanted` names, and reads the head's files.

    engines: in the order of `result.plan.engines`. on_control: told of each before it starts.
    A control that the engine cannot run becomes a note, never an error; EngineDiedError too, as the bench is done.
    """
    from mtpgraft.bench.run import execute

    by_label = dict(zip(result.plan.engines, engines, strict=True))
    runs: list[Control] = []
    notes: list[str] = []
    for wanted in controls_wanted(result):
        if on_control is not None:
            on_control(wanted)
        try:
            done = execute(wanted.plan, (by_label[wanted.plan.engines[0]],), progress)
        except EngineError as error:
            notes.append(f"control run for {wanted.check} left out: {error}")
        else:
            runs.append(Control(wanted.check, done))
    subject = subject_of(result)
    head = None
    if subject is not None:
        launch = subject.arm.launch
        head = head_evidence(launch.model, launch.draft.sidecar if launch.draft else None)
    return Controls(tuple(runs), head, tuple(notes))


def head_evidence(model: Path, sidecar: Path | None = None) -> HeadEvidence | None:
    """What the files tell of the head: its data and its kinship with the trunk. None where they are not at hand."""
    from mtpgraft.audit import AuditOptions, audit
    from mtpgraft.kinship import Verdict, kinship
    from mtpgraft.open import open_model

    file = sidecar or model
    if not (model.is_file() and file.is_file()):
        return None
    findings = tuple(
        HeadFinding(finding.rule.id, finding.rule.title, finding.observed, finding.fix)
        for audited in audit([str(file)], AuditOptions(deep=True))
        for finding in audited.findings
        if finding.rule.id in _HEAD_RULES
    )
    related, explanation = Verdict.UNKNOWN.value, "the head's data is live; nothing tells which model it was made for"
    if sidecar is not None:
        try:
            with open_model(model) as trunk, open_model(sidecar) as head:
                found = kinship(trunk, head)
            related, explanation = found.verdict.value, found.explanation
        except MtpgraftError as error:
            explanation = f"not known: {error}"
    return HeadEvidence(related, explanation, findings)


def _control(result: BenchResult, check: str, change: str, why: str, launch: LaunchSpec) -> ControlPlan:
    """The subject, and the same arm with `launch`, over a few prompts of the same suite."""
    subject = subject_of(result)
    assert subject is not None, "a control has a subject"
    plan, arm = result.plan, subject.arm
    changed = replace(arm, name=f"{arm.name} {change}", launch=launch)
    first_of: dict[str, str] = {}
    for prompt in plan.suite.prompts:
        first_of.setdefault(prompt.category, prompt.id)
    ids = list(first_of.values())
    ids = [prompt.id for prompt in plan.suite.prompts if prompt.id in ids[:_MAX_PROMPTS]]
    suite = replace(plan.suite, prompts=tuple(prompt for prompt in plan.suite.prompts if prompt.id in ids))
    arms = (arm, changed)
    repeats = max(_LEAST_REPEATS, plan.repeats)
    short = BenchPlan(arms, suite, plan.n_predict, repeats, plan.seed, engines=(arm.engine,))
    return ControlPlan(check, why, short)


def _synthetic(launch: LaunchSpec, rates: tuple[float, ...]) -> LaunchSpec:
    """Accepts at random at the measured rates. llama.cpp wants one per token of n_max, none above the one before it."""
    assert launch.draft is not None, "only an MTP arm has rates"
    falling: list[float] = []
    for i in range(launch.draft.n_max):
        rate = rates[i] if i < len(rates) else 0.0
        falling.append(round(min(rate, falling[-1] if falling else 1.0), 4))
    return replace(launch, draft=replace(launch.draft, synth_rates=tuple(falling)))
