"""Carries out a bench: starts engines in the plan's order, asks, and collects. The one entry is `run_bench`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import mtpgraft
from mtpgraft.bench.embedded import EmbeddedEngine
from mtpgraft.bench.engine import Engine, Scalar
from mtpgraft.bench.host import host_info
from mtpgraft.bench.metrics import ArmResult, Sample
from mtpgraft.bench.prompts import QUICK, Suite
from mtpgraft.bench.protocol import BenchPlan, Visit, plan_bench
from mtpgraft.bench.result import BenchResult, FileFacts

# A second or two of hashing. Larger files are named by size: reading 20 GB would double a bench's disk work.
_HASH_LIMIT_NBYTES = 1 << 30


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
    suite: Suite = QUICK,
    n_predict: int | None = None,
    n_ctx: int = 4096,
    n_threads: int | None = None,
    seed: int = 1,
    extra: tuple[tuple[str, Scalar], ...] = (),
    engine: Engine | None = None,
    progress: ProgressCallback | None = None,
) -> BenchResult:
    """Measures `model` with MTP off and on at each n_max x p_min.

    sidecar: take the head from this file. n_predict: None is the suite's own. n_threads: None lets the engine choose.
    engine: None is the embedded one.
    Raises UsageError, InputError (no such file), EngineError (the engine is missing or cannot run this model, which
    is what a model without a head ends in) and EngineDiedError. A run in which nothing was drafted returns: see
    `BenchResult.drafted_anything`.
    """
    plan = plan_bench(
        model,
        sidecar=sidecar,
        n_max=n_max,
        p_min=p_min,
        repeats=repeats,
        suite=suite,
        n_predict=n_predict,
        n_ctx=n_ctx,
        n_threads=n_threads,
        seed=seed,
        extra=extra,
    )
    return execute(plan, engine or EmbeddedEngine(), progress)


def execute(plan: BenchPlan, engine: Engine, progress: ProgressCallback | None = None) -> BenchResult:
    """Runs every visit of the plan. Raises what `run_bench` raises, UsageError excepted."""
    started_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    started = time.monotonic()
    info = engine.info()
    samples: dict[str, list[Sample]] = {arm.name: [] for arm in plan.arms}
    n_threads: dict[str, int | None] = {}
    n_done = 0

    def tell(visit: Visit, prompt: str | None) -> None:
        if progress is not None:
            progress(BenchProgress(visit.arm.name, visit.repeat, prompt, n_done, plan.n_samples))

    for visit in plan.visits:
        tell(visit, None)
        with engine.start(visit.arm.launch) as session:
            n_threads[visit.arm.name] = session.n_threads
            session.complete(plan.warm_up)
            for prompt in plan.suite.prompts:
                result = session.complete(plan.request(prompt))
                samples[visit.arm.name].append(Sample(visit.repeat, prompt.id, prompt.category, result))
                n_done += 1
                tell(visit, prompt.id)

    wall_s = time.monotonic() - started
    draft = plan.arms[-1].launch.draft
    return BenchResult(
        plan=plan,
        arms=tuple(ArmResult(arm, n_threads[arm.name], tuple(samples[arm.name])) for arm in plan.arms),
        engine=info,
        host=host_info(),
        model=_file_facts(plan.arms[0].launch.model),
        sidecar=_file_facts(draft.sidecar) if draft and draft.sidecar else None,
        started_at=started_at,
        wall_s=wall_s,
        mtpgraft_version=mtpgraft.__version__,
    )


def _file_facts(path: Path) -> FileFacts:
    n_bytes = path.stat().st_size
    if n_bytes > _HASH_LIMIT_NBYTES:
        return FileFacts(path.name, n_bytes, None)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return FileFacts(path.name, n_bytes, digest.hexdigest())
