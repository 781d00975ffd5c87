"""The `bench` and `shape` steps: what is run on the models, as plans of mtpgraft's own bench."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from gpu_bench.models import Fixture, graft_path, head_types, shape_model_unit, shape_path
from gpu_bench.state import Unit, UnitFailedError, Work, write_json
from gpu_bench.toolchain import Tools, version_text
from mtpgraft.bench.buffers import read_buffers
from mtpgraft.bench.engine import CompletionRequest, DraftSpec, Engine, LaunchSpec
from mtpgraft.bench.engines.binary import BinaryEngine
from mtpgraft.bench.engines.embedded import EmbeddedEngine
from mtpgraft.bench.protocol import Arm, BenchPlan, HeadChoice, plan_bench
from mtpgraft.bench.run import BenchProgress, execute
from mtpgraft.bench.suites import builtin_suite
from mtpgraft.bench.sweeprun import sweep

ALL_LAYERS = 999
_SWEEP_VISITS = 25  # some 12 trials, and three repeats of off and the finalists
NO_GRAPHS = (("GGML_CUDA_DISABLE_GRAPHS", "1"),)


@dataclass(frozen=True, slots=True)
class Shape:
    """A shape-faithful model to make. write_s, visit_s: estimates, of writing it and of one start with its prompts."""

    name: str
    write_s: float
    visit_s: float
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured. n_predict None: the suite's own. n_prompts: of the quick suite, for the shape models.

    conditional: chances, for the synthetic runs, that a draft's token is accepted when the one before it was.
    visit_s: estimate of one start of the trained model with its prompts.
    """

    bases: tuple[str, ...]
    suites: tuple[str, ...]
    n_max: tuple[int, ...]
    repeats: int
    n_predict: int | None
    n_prompts: int
    conditional: tuple[float, ...]
    shapes: tuple[Shape, ...]
    visit_s: float
    sweep: bool = True


# The estimates are guesses until a GPU has run this: they decide what is started, never what is reported.
FULL = Scale(
    bases=("Q4_K_M", "Q3_K_M", "Q2_K"),
    suites=("mtp-bench", "quick"),
    n_max=(1, 2, 3),
    repeats=3,
    n_predict=None,
    n_prompts=2,
    conditional=(0.6, 0.8, 0.9),
    shapes=(Shape("27b", 120, 14), Shape("35b-a3b", 150, 16)),
    visit_s=5,
)
DRY = Scale(
    bases=("Q2_K",),
    suites=("quick",),
    n_max=(1, 2),
    repeats=1,
    n_predict=8,
    n_prompts=1,
    conditional=(0.8,),
    shapes=(Shape("tiny", 5, 1),),
    visit_s=1,
    sweep=False,
)


@dataclass(frozen=True, slots=True)
class Target:
    """What runs the models. on_gpu: all layers go to the GPU, and the proof of it is asked for."""

    tools: Tools
    on_gpu: bool
    log_dir: Path

    def engine(self) -> Engine:
        if self.tools.server is None:
            return EmbeddedEngine(self.log_dir)
        return BinaryEngine(self.tools.server, self.log_dir)

    def launch(self, model: Path, n_ctx: int) -> LaunchSpec:
        return LaunchSpec(model, n_ctx=n_ctx, n_gpu_layers=ALL_LAYERS if self.on_gpu else None)


def smoke_unit(work: Work, make_target: Callable[[], Target], fixture: Fixture) -> Unit:
    """The server's own word on its build and devices, and one short completion that drafts, with its log."""
    out = work.results / "smoke.json"

    def smoke() -> None:
        target = make_target()
        server = target.tools.server
        text = "" if server is None else version_text(server)
        # -lv 4: the level of the loader's own lines
        launch = replace(target.launch(fixture.donor, 512), draft=DraftSpec(2), args=("-lv", "4") if server else ())
        with target.engine().start(launch) as session:
            result = session.complete(CompletionRequest("def read(self", 16))
            facts = session.facts()
        if not result.draft_n:
            raise UnitFailedError("the server ran the bundled model and drafted nothing")
        # `offloaded 6/6 layers to GPU` is no proof: b11434 with the RPC backend and without a GPU says so, too
        weights = {buffer.device: buffer.mib for model in read_buffers(facts.log).models for buffer in model}
        if target.on_gpu and not any(device.startswith("CUDA") for device in weights):
            raise UnitFailedError(f"no weights went to the GPU; by the server's log they lie on {list(weights)}")
        write_json(
            out,
            {
                "on_gpu": target.on_gpu,
                "weights_mib": weights,
                "version": text,
                "command": list(facts.command),
                "drafted": result.draft_n,
                "accepted": result.draft_n_accepted,
            },
        )

    return Unit("smoke", 15, (out,), smoke)


def bench_units(work: Work, target: Target, fixture: Fixture, scale: Scale) -> list[Unit]:
    """The trained model: its suites, each head type on each base, the sweep, CUDA graphs on and off."""
    best = graft_path(work, scale.bases[0], "q8_0")
    units = [
        _bench(work, target, f"suite-{suite}", partial(_suite_plan, target, best, suite, scale), scale.visit_s)
        for suite in scale.suites
    ]
    units += [
        _bench(work, target, f"heads-{base}", partial(_heads_plan, work, target, base, scale), scale.visit_s)
        for base in scale.bases
    ]
    if scale.sweep:
        plan = partial(_sweep_plan, target, best, scale)
        units.append(_bench(work, target, "sweep", plan, scale.visit_s, is_sweep=True))
    if target.on_gpu:
        units.append(_bench(work, target, "cuda-graphs", partial(_graphs_plan, target, best, scale), scale.visit_s))
    return units


def _suite_plan(target: Target, model: Path, suite: str, scale: Scale) -> BenchPlan:
    return plan_bench(
        target.launch(model, 8192),
        builtin_suite(suite),
        n_max=scale.n_max,
        repeats=scale.repeats,
        n_predict=scale.n_predict,
    )


def _heads_plan(work: Work, target: Target, base: str, scale: Scale) -> BenchPlan:
    """Each head type as a graft of its own; off runs on the first of them, whose trunk is that of all."""
    kinds = head_types(target.tools)
    plan = plan_bench(
        target.launch(graft_path(work, base, kinds[0]), 4096),
        builtin_suite("quick"),
        heads=[HeadChoice(kind, graft_path(work, base, kind)) for kind in kinds],
        n_max=scale.n_max,
        repeats=1,
        n_predict=scale.n_predict,
    )

    def own_head(arm: Arm) -> Arm:
        draft = arm.launch.draft
        if draft is None or draft.sidecar is None:
            return arm
        return replace(arm, launch=replace(arm.launch, model=draft.sidecar, draft=replace(draft, sidecar=None)))

    return replace(plan, arms=tuple(own_head(arm) for arm in plan.arms))


def _sweep_plan(target: Target, model: Path, scale: Scale) -> BenchPlan:
    """The grid that the sweep searches, as `mtpgraft bench --sweep` has it."""
    return plan_bench(
        target.launch(model, 4096),
        builtin_suite("quick"),
        n_max=range(1, 7),
        p_min=(0.0, 0.25, 0.5, 0.75, 0.9),
        repeats=scale.repeats,
        n_predict=scale.n_predict,
    )


def _graphs_plan(target: Target, model: Path, scale: Scale) -> BenchPlan:
    """The same server twice, the second time without CUDA graphs: labels of engines make them neighbours in time."""
    labels = ("graphs", "no graphs")
    plan = plan_bench(
        target.launch(model, 4096),
        builtin_suite("quick"),
        n_max=scale.n_max[-1:],
        repeats=scale.repeats,
        n_predict=scale.n_predict,
        engines=labels,
    )
    arms = (
        replace(arm, launch=replace(arm.launch, env=NO_GRAPHS)) if arm.engine == labels[1] else arm for arm in plan.arms
    )
    return replace(plan, arms=tuple(arms))


def shape_units(work: Work, target: Target, shape: Shape, scale: Scale) -> list[Unit]:
    """Write the model, then measure it with synthetic acceptance; both are skipped where the model does not fit."""
    path = shape_path(work, shape.name)
    name = f"synthetic-{shape.name}"
    measure = _bench(work, target, name, partial(_synthetic_plan, target, path, scale), shape.visit_s)
    if measure.is_done:
        return [measure]
    return [shape_model_unit(work, shape.name, shape.write_s, shape.arguments), measure]


def _synthetic_plan(target: Target, model: Path, scale: Scale) -> BenchPlan:
    """Off, and each n_max at each chance: a draft's i-th token is accepted with chance^i."""
    quick = builtin_suite("quick")
    suite = replace(quick, name=f"quick, first {scale.n_prompts}", prompts=quick.prompts[: scale.n_prompts])
    arms: list[Arm] = []
    plan = None
    for chance in scale.conditional:
        rates = [round(chance**i, 6) for i in range(1, max(scale.n_max) + 1)]
        plan = plan_bench(
            target.launch(model, 2048), suite,
            n_max=scale.n_max, synth_rates=rates, repeats=min(2, scale.repeats), n_predict=scale.n_predict,
        )  # fmt: skip
        arms += [replace(arm, name=f"{arm.name} {chance:g}") for arm in plan.arms if not arm.is_off]
    assert plan is not None, "a scale has chances"
    return replace(plan, arms=(plan.arms[0], *arms))


def _bench(
    work: Work,
    target: Target,
    name: str,
    make_plan: Callable[[], BenchPlan],
    visit_s: float,
    *,
    is_sweep: bool = False,
) -> Unit:
    """One bench, its result in results/bench-NAME.json."""
    out = work.results / f"bench-{name}.json"

    def measure() -> None:
        def on_progress(at: BenchProgress) -> None:
            work.check_time()

        plan = make_plan()
        engines = (target.engine(),) * len(plan.engines)
        result = sweep(plan, engines, on_progress) if is_sweep else execute(plan, engines, on_progress)
        write_json(out, result.to_json())

    n_visits = _SWEEP_VISITS if is_sweep else len(make_plan().visits)
    return Unit(f"bench {name}", 5 + visit_s * n_visits, (out,), measure)


def all_results(work: Work) -> Sequence[Path]:
    """Every result so far, in the order of the report."""
    order = ("bench-suite", "bench-heads", "bench-cuda", "bench-synthetic")
    found = sorted(work.results.glob("bench-*.json"))
    return sorted(found, key=lambda path: next((i for i, start in enumerate(order) if path.name.startswith(start)), 9))
