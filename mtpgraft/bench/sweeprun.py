"""Runs a sweep: the search of `sweep`, one short run at a time, then the finalists by the full protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from mtpgraft.bench.engine import Engine
from mtpgraft.bench.metrics import ArmResult, Spread
from mtpgraft.bench.protocol import Arm, BenchPlan
from mtpgraft.bench.result import BenchResult
from mtpgraft.bench.run import ProgressCallback, execute, measure
from mtpgraft.bench.sweep import OFF, Choice, Setting, Space, Trial, choose, finalists, next_setting
from mtpgraft.errors import EngineError, UsageError

TrialCallback = Callable[[Trial], None]


def sweep(
    plan: BenchPlan,
    engines: Sequence[Engine],
    progress: ProgressCallback | None = None,
    on_trial: TrialCallback | None = None,
) -> BenchResult:
    """Searches among the plan's arms, for each of its engines and heads, and measures the finalists with off.

    plan: the whole grid, from `plan_bench`; its arms say what may be tried. The result's arms are off and the
    finalists; its `sweep` has every trial. A setting that the engine cannot run (too little memory, as a rule)
    counts as a cliff.
    Raises UsageError for a running server, and what `execute` raises.
    """
    if any(arm.as_it_runs for arm in plan.arms):
        raise UsageError(
            "a running server cannot be swept: each setting needs a start of its own",
            hint="give the llama-server binary as --engine",
        )
    by_label = dict(zip(plan.engines, engines, strict=True))
    trials: list[Trial] = []
    notes: list[str] = []
    kept: set[str] = set()
    heads = list(dict.fromkeys(arm.head for arm in plan.arms if not arm.is_off))
    for engine in plan.engines:
        offs: list[Trial] = []
        for head in heads:
            arms = _arms(plan, engine, head)
            found, plan = _search(plan, arms, by_label[engine], offs, progress, on_trial, notes)
            trials += found if not offs else [trial for trial in found if trial.n_max]
            offs = offs or [trial for trial in found if not trial.n_max]
            kept |= {arms[setting].name for setting in (OFF, *finalists(found))}
    final = replace(plan, arms=tuple(arm for arm in plan.arms if arm.name in kept))
    result = execute(final, engines, progress)
    return replace(result, sweep=tuple(trials), notes=(*result.notes, *notes))


def decision(result: BenchResult, engine: str = "") -> Choice:
    """What the finalists' measurement says for one engine."""
    speeds: dict[str, Spread] = {}
    off = ""
    for arm in result.arms:
        if arm.arm.engine == engine and (spread := arm.speed) is not None:
            speeds[arm.arm.name] = spread
            off = arm.arm.name if arm.arm.is_off else off
    return choose(speeds, off)


def _arms(plan: BenchPlan, engine: str, head: str) -> dict[Setting, Arm]:
    return {
        Setting(arm.n_max, arm.p_min): arm
        for arm in plan.arms
        if arm.engine == engine and (arm.is_off or arm.head == head)
    }


def _search(
    plan: BenchPlan,
    arms: dict[Setting, Arm],
    engine: Engine,
    offs: Sequence[Trial],
    progress: ProgressCallback | None,
    on_trial: TrialCallback | None,
    notes: list[str],
) -> tuple[list[Trial], BenchPlan]:
    """All trials of one engine and head; the plan, without prompts that turned out not to fit. offs: the engine's off
    trial, when another head has made it already."""
    on = [setting for setting in arms if setting.n_max]
    space = Space(tuple(sorted({s.n_max for s in on})), tuple(sorted({s.p_min for s in on})))
    trials = list(offs)
    while (setting := next_setting(space, trials)) is not None:
        arm = arms[setting]
        try:
            single = replace(plan, arms=(arm,), engines=(arm.engine,), repeats=1)
            measured = measure(single, {arm.engine: engine}, progress)
            plan = replace(plan, suite=measured.plan.suite, notes=measured.plan.notes)
            trial = _trial(measured.arms[0])
        except EngineError as error:
            if len(trials) < 2:  # off, or MTP at its shallowest: nothing can be searched
                raise
            notes.append(f"{arm.name} was not measured: {error}")
            trial = Trial(arm.n_max, arm.p_min, 0.0, None, arm.engine, arm.head)
        trials.append(trial)
        if on_trial is not None:
            on_trial(trial)
    return trials, plan


def _trial(result: ArmResult) -> Trial:
    arm, speed = result.arm, result.speed
    head = "" if arm.is_off else arm.head
    return Trial(arm.n_max, arm.p_min, speed.median if speed else 0.0, result.total.acceptance, arm.engine, head)
