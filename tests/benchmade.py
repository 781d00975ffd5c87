"""Bench results made by hand, for reports: figures that are known beforehand, from one engine or from several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mtpgraft.bench.engine import CompletionResult, EngineInfo, LaunchSpec
from mtpgraft.bench.host import GpuInfo, HostInfo
from mtpgraft.bench.metrics import ArmResult, Sample, VramUse
from mtpgraft.bench.prompts import Prompt, Suite
from mtpgraft.bench.protocol import Arm, BenchPlan, HeadChoice, plan_bench
from mtpgraft.bench.result import BenchResult, FileFacts, HeadFacts
from mtpgraft.bench.sweep import Trial

NINE = (
    "code_python", "code_cpp", "explain_concept", "summarize", "qa_factual", "translation", "creative_short",
    "stepwise_math", "long_code_review",
)  # fmt: skip
N_PREDICT = 101  # 100 tokens are decoded: a speed of s is 100000 / s ms

GPU = GpuInfo("RTX 4070 SUPER", "570.86", 12 << 30)

Speeds = Mapping[str, tuple[float, int, int]]
"""By arm: tokens per second, tokens drafted and accepted per completion."""

PUBLIC = {
    "llama.cpp: off": (62.0, 0, 0),
    "llama.cpp: n=2": (84.0, 64, 61),
    "llama.cpp: n=3": (90.0, 66, 62),
    "ik_llama.cpp: off": (66.0, 0, 0),
    "ik_llama.cpp: n=2": (98.0, 66, 60),
    "ik_llama.cpp: n=3": (110.0, 80, 70),
}
"""The shape of a public comparison: 90 tok/s at .939 against 110 at .875 (12 GB card, 35B-A3B, n=3)."""


def suite(categories: Sequence[str] = NINE, name: str = "mtp-bench", shape: str = "chat") -> Suite:
    prompts = tuple(Prompt(f"{category}-1", category, f"Prompt of {category}.") for category in categories)
    return Suite(name, shape, N_PREDICT, prompts)


def made(
    speeds: Speeds,
    *,
    categories: Sequence[str] = NINE,
    n_max: Sequence[int] = (2, 3),
    p_min: Sequence[float] = (0.0,),
    engines: Sequence[str] = ("",),
    heads: Sequence[HeadChoice] = (HeadChoice(),),
    repeats: int = 3,
    noise: float = 0.02,
    against: bool = False,
    model: str = "Qwen3.6-35B-A3B-IQ4_XS.gguf",
    shape: str = "chat",
    notes: tuple[str, ...] = (),
    texts: Mapping[str, str] | None = None,
    n_predicted: int = N_PREDICT,
    synth_rates: Sequence[float] = (),
    sweep: tuple[Trial, ...] = (),
) -> BenchResult:
    """speeds: by arm. Repeat 0 is `noise` slower than repeat 1, repeat 2 as much faster; with `against`, MTP arms the
    other way round, so that speed-ups have a spread. Category i is i % faster."""
    launch = LaunchSpec(Path("/models") / model, n_ctx=8192, cache_type_k="q8_0", cache_type_v="q8_0")
    plan = plan_bench(
        launch, suite(categories, shape=shape), heads=heads, n_max=n_max, p_min=p_min, synth_rates=synth_rates,
        repeats=repeats, engines=engines,
    )  # fmt: skip
    said = texts or {}
    arms = tuple(
        _arm(plan, arm, speeds[arm.name], sign * noise, said.get(arm.name, "same"), n_predicted)
        for arm in plan.arms
        for sign in (-1 if against and not arm.is_off else 1,)
    )
    infos = tuple(
        EngineInfo(label or "llama-server", "1.0", "b11434", "CUDA : ARCHS = 890", ("CUDA0",), build_number=11434)
        for label in engines
    )
    return BenchResult(
        plan=plan,
        arms=arms,
        engines=infos,
        host=HostInfo("AMD Ryzen 9 5900X", 24, 12, "Linux-6.8", "3.11.9", (GPU,)),
        model=FileFacts(model, 18_700_000_000, None),
        heads=tuple(_head(head) for head in heads),
        started_at="2026-08-20T10:00:00+00:00",
        wall_s=742.0,
        mtpgraft_version="0.1.0",
        notes=notes,
        sweep=sweep,
    )


def _head(head: HeadChoice) -> HeadFacts:
    file = FileFacts(head.sidecar.name, 900_000_000, "ab" * 32) if head.sidecar else None
    return HeadFacts(head.label, file, "cd" * 32, (("F32", 7), ("Q8_0", 8)))


def _arm(plan: BenchPlan, arm: Arm, figures: tuple[float, int, int], noise: float, text: str, n: int) -> ArmResult:
    speed, draft_n, accepted = figures
    samples = []
    walls = []
    for repeat in range(plan.repeats):
        wall = 0.0
        for number, prompt in enumerate(plan.suite.prompts):
            own = speed * (1 + noise * (repeat - 1)) * (1 + number / 100)
            ms = 1000 * (n - 1) / own
            prefill = 250.0 if arm.is_off else 300.0
            samples.append(
                Sample(repeat, prompt.id, prompt.category, _completion(arm, n, ms, draft_n, accepted, prefill, text))
            )
            wall += (ms + prefill) / 1000
        walls.append(wall)
    vram = VramUse("RTX 4070 SUPER", 11 << 30, 12 << 30)
    command = ("llama-server", "-m", arm.launch.model.name, "-c", "8192")
    if arm.launch.draft:
        command += ("--spec-type", "draft-mtp", "--spec-draft-n-max", str(arm.n_max))
    return ArmResult(arm, 12, tuple(samples), tuple(walls), vram, command)


def _completion(
    arm: Arm, n: int, ms: float, draft_n: int, accepted: int, prompt_ms: float, text: str
) -> CompletionResult:
    depth = arm.n_max
    steps = max(1, n - 1 - accepted) if draft_n else None
    # positions that add up to what was accepted, never rising
    share = [accepted // depth + (1 if i < accepted % depth else 0) for i in range(depth)] if depth else []
    return CompletionResult(
        text=text,
        tokens=None,
        n_predicted=n,
        predicted_ms=ms,
        predicted_per_second=1000 * (n - 1) / ms,
        prompt_n=512,
        prompt_ms=prompt_ms,
        draft_n=draft_n,
        draft_n_accepted=accepted,
        n_draft_steps=steps,
        accepted_per_position=tuple(share) if draft_n else None,
        stop="length",
        wall_ms=ms + prompt_ms,
        first_token_ms=prompt_ms,
    )
