"""Carries out a bench: starts engines in the plan's order, asks, and collects."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

import mtpgraft
from mtpgraft.bench.engine import (
    CompletionRequest,
    CompletionResult,
    Engine,
    EngineInfo,
    LaunchSpec,
    Scalar,
    Session,
)
from mtpgraft.bench.engines.builds import unmatched
from mtpgraft.bench.engines.embedded import EmbeddedEngine
from mtpgraft.bench.facts import head_facts, model_facts
from mtpgraft.bench.gpu import gpus, vram_use
from mtpgraft.bench.host import host_info
from mtpgraft.bench.metrics import ArmResult, Sample, VramUse
from mtpgraft.bench.prompts import Prompt, Suite
from mtpgraft.bench.protocol import Arm, BenchPlan, HeadChoice, Visit, plan_bench
from mtpgraft.bench.result import BenchResult
from mtpgraft.bench.suites import builtin_suite
from mtpgraft.errors import EngineDiedError, EngineError, MtpgraftError


@dataclass(frozen=True, slots=True)
class BenchProgress:
    """Told when an engine starts (prompt None) and after each measured completion. n_done: of n_total samples."""

    arm: str
    repeat: int
    prompt: str | None
    n_done: int
    n_total: int


ProgressCallback = Callable[[BenchProgress], None]


def run_bench(
    model: Path,
    *,
    sidecar: Path | None = None,
    n_max: Sequence[int] = (1, 2, 3),
    p_min: Sequence[float] = (0.0,),
    repeats: int = 3,
    suite: Suite | None = None,
    n_predict: int | None = None,
    n_ctx: int = 4096,
    n_threads: int | None = None,
    seed: int = 1,
    extra: tuple[tuple[str, Scalar], ...] = (),
    engine: Engine | None = None,
    progress: ProgressCallback | None = None,
) -> BenchResult:
    """Measures `model` with MTP off and on at each n_max x p_min, in one engine: `plan_bench` and `execute` at their
    simplest.

    sidecar: take the head from this file. suite: None is `quick`. n_predict: None is the suite's own. n_threads: None
    lets the engine choose. engine: None is the embedded one.
    Raises UsageError, InputError (no such file), EngineError (the engine is missing or cannot run this model, which
    is what a model without a head ends in) and EngineDiedError. A run in which nothing was drafted returns: see
    `BenchResult.drafted_anything`.
    """
    plan = plan_bench(
        LaunchSpec(model, n_ctx=n_ctx, n_threads=n_threads, extra=extra),
        suite or builtin_suite("quick"),
        heads=(HeadChoice("", sidecar),),
        n_max=n_max,
        p_min=p_min,
        repeats=repeats,
        n_predict=n_predict,
        seed=seed,
    )
    return execute(plan, (engine or EmbeddedEngine(),), progress)


@dataclass(slots=True)
class _Collected:
    """What has been measured so far of one arm."""

    n_threads: int | None = None
    samples: list[Sample] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    vram: VramUse | None = None
    command: tuple[str, ...] = ()

    def result(self, arm: Arm, repeats: int) -> ArmResult:
        """Of the first `repeats` repeats."""
        samples = tuple(sample for sample in self.samples if sample.repeat < repeats)
        return ArmResult(arm, self.n_threads, samples, tuple(self.wall_s[:repeats]), self.vram, self.command)


def execute(plan: BenchPlan, engines: Sequence[Engine], progress: ProgressCallback | None = None) -> BenchResult:
    """Runs every visit of the plan. engines: in the order of `plan.engines`.

    A KeyboardInterrupt, or an engine that fails, after at least one whole repeat ends the run and not the result: what
    whole repeats measured is returned, with `cut_short` set. Earlier, both are raised. A prompt with a depth that turns
    out not to fit is left out, with a note, and the run starts again without it.
    Raises what `run_bench` raises, UsageError excepted.
    """
    started = Started.now()
    model, heads = model_facts(plan), head_facts(plan)
    by_label = dict(zip(plan.engines, engines, strict=True))
    infos = tuple(by_label[label].info() for label in plan.engines)
    host = host_info()
    host = host if host.gpus else replace(host, gpus=gpus())
    measured = measure(plan, by_label, progress)
    return BenchResult(
        plan=measured.plan,
        arms=measured.arms,
        engines=infos,
        host=host,
        model=model,
        heads=heads,
        started_at=started.at,
        wall_s=time.monotonic() - started.monotonic_s,
        mtpgraft_version=mtpgraft.__version__,
        notes=(*measured.plan.notes, *_unmatched_builds(plan.engines, infos)),
        cut_short=measured.cut_short,
    )


def _unmatched_builds(labels: Sequence[str], infos: Sequence[EngineInfo]) -> Iterator[str]:
    for label, info in zip(labels, infos, strict=True):
        if why := unmatched(info.kind, info.build_number):
            yield f"{label or info.name}: {why}"


@dataclass(frozen=True, slots=True)
class Started:
    """A moment, for people (ISO 8601, UTC) and for differences."""

    at: str
    monotonic_s: float

    @classmethod
    def now(cls) -> Started:
        return cls(datetime.now(timezone.utc).isoformat(timespec="seconds"), time.monotonic())


@dataclass(frozen=True, slots=True)
class Measured:
    """plan: as it was carried out: without prompts that did not fit, and with the repeats that were finished."""

    plan: BenchPlan
    arms: tuple[ArmResult, ...]
    cut_short: str = ""


def measure(plan: BenchPlan, engines: Mapping[str, Engine], progress: ProgressCallback | None = None) -> Measured:
    """The visits of the plan and nothing else; see `execute`. engines: by label."""
    while True:
        run = _Run(plan, engines, progress)
        try:
            cut_short = run.all_visits()
            break
        except _TooLongError as error:
            plan = _without(plan, error)
    if cut_short:
        note = f"the run ended after {run.n_repeats} of {plan.repeats} repeats: {cut_short}"
        plan = replace(plan, repeats=run.n_repeats, notes=(*plan.notes, note))
    return Measured(plan, tuple(run.collected[arm.name].result(arm, plan.repeats) for arm in plan.arms), cut_short)


class _TooLongError(Exception):
    """A prompt does not fit into the engine's context. reason: in the engine's words."""

    def __init__(self, prompt: Prompt, reason: str) -> None:
        super().__init__(reason)
        self.prompt = prompt
        self.reason = reason


class _Run:
    """One execution of a plan. n_repeats: whole ones so far."""

    def __init__(self, plan: BenchPlan, engines: Mapping[str, Engine], progress: ProgressCallback | None) -> None:
        self.collected = {arm.name: _Collected() for arm in plan.arms}
        self.n_repeats = 0
        self._plan = plan
        self._engines = engines
        self._progress = progress
        self._n_done = 0

    def all_visits(self) -> str:
        """Why it ended early; "" when it did not."""
        visits = self._plan.visits
        try:
            for number, visit in enumerate(visits):
                self._visit(visit)
                if number + 1 == len(visits) or visits[number + 1].repeat != visit.repeat:
                    self.n_repeats = visit.repeat + 1
        except (KeyboardInterrupt, MtpgraftError) as error:
            if not self.n_repeats:
                raise
            return str(error) or "interrupted"
        return ""

    def _visit(self, visit: Visit) -> None:
        plan, collected = self._plan, self.collected[visit.arm.name]
        self._tell(visit, None)
        with self._engines[visit.arm.engine].start(visit.arm.launch) as session:
            collected.n_threads = session.n_threads
            with self._naming(plan.suite.prompts):
                _ask(session, (plan.warm_up,) * plan.n_parallel)
            wall_s = 0.0
            for prompts in plan.rounds:
                started = time.monotonic()
                with self._naming(prompts):
                    results = _ask(session, [plan.request(prompt) for prompt in prompts])
                wall_s += time.monotonic() - started
                for slot, (prompt, result) in enumerate(zip(prompts, results, strict=True)):
                    collected.samples.append(Sample(visit.repeat, prompt.id, prompt.category, result, slot))
                    self._n_done += 1
                    self._tell(visit, prompt.id)
            collected.wall_s.append(wall_s)
            collected.vram = vram_use()
            collected.command = collected.command or session.facts().command

    @contextmanager
    def _naming(self, prompts: Sequence[Prompt]) -> Iterator[None]:
        """Turns an engine's refusal of a long prompt into one that names it: one of these was asked."""
        try:
            yield
        except EngineDiedError:
            raise
        except EngineError as error:
            if not _says_too_long(error):
                raise
            longest = max(prompts, key=lambda prompt: len(prompt.text))
            if longest.depth:
                raise _TooLongError(longest, str(error.found)) from error
            raise EngineError(
                f"prompt {longest.id} of suite {self._plan.suite.name} does not fit into the context",
                file=error.file,
                expected=f"at most {self._plan.n_ctx} tokens",
                found=error.found,
                hint="more context (--ctx N), or another suite",
            ) from error

    def _tell(self, visit: Visit, prompt: str | None) -> None:
        if self._progress is not None:
            self._progress(BenchProgress(visit.arm.name, visit.repeat, prompt, self._n_done, self._plan.n_samples))


def _ask(session: Session, requests: Sequence[CompletionRequest]) -> Sequence[CompletionResult]:
    """One alone by `complete`, which counts more than `complete_all` can."""
    return (session.complete(requests[0]),) if len(requests) == 1 else session.complete_all(requests)


def _says_too_long(error: EngineError) -> bool:
    """llama.cpp: `request (N tokens) exceeds the available context size (M tokens)`, type exceed_context_size_error
    (tools/server/server-context.cpp @ b11434); vLLM: `maximum context length`."""
    said = f"{error.what} {error.found}".lower()
    return any(words in said for words in ("context size", "exceed_context", "context length"))


def _without(plan: BenchPlan, error: _TooLongError) -> BenchPlan:
    rest = tuple(prompt for prompt in plan.suite.prompts if prompt.id != error.prompt.id)
    if not rest:
        raise EngineError(
            f"no prompt of suite {plan.suite.name} fits into the context",
            expected=f"at most {plan.n_ctx} tokens", found=error.reason, hint="more context (--ctx N)",
        )  # fmt: skip
    note = f"prompt {error.prompt.id} was left out: {error.reason}"
    return replace(plan, suite=replace(plan.suite, prompts=rest), notes=(*plan.notes, note))
