"""The diagnosis: real runs where a situation can be had here, results with known figures where it cannot (GPUs)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mtpgraft import surgery
from mtpgraft.bench.diagnosis import CHECKS, Check, Control, Controls, Verdict, controls_wanted, diagnose, run_controls
from mtpgraft.bench.diagnosis.controls import head_evidence
from mtpgraft.bench.diagnosis.values import HeadEvidence
from mtpgraft.bench.engine import CompletionResult, LaunchSpec
from mtpgraft.bench.engines.binary import BinaryEngine
from mtpgraft.bench.engines.embedded import EmbeddedEngine
from mtpgraft.bench.metrics import ArmResult, VramUse
from mtpgraft.bench.protocol import Arm, HeadChoice
from mtpgraft.bench.result import BenchResult
from mtpgraft.bench.run import run_bench
from mtpgraft.container import open_gguf
from mtpgraft.report.diagnosis import advice_lines, diagnosis_markdown, diagnosis_table, finding_lines
from tests.benchmade import NINE, made
from tests.conftest import TRAINED
from tests.inprocess import InProcess

DONOR = TRAINED / "donor-bf16.gguf"
BASE = TRAINED / "base-Q2_K.gguf"
BAD, WARN, OK, UNKNOWN = Verdict.BAD, Verdict.WARN, Verdict.OK, Verdict.UNKNOWN


@pytest.fixture(scope="module")
def real() -> BenchResult:
    """A real run of the trained model with its own head."""
    return run_bench(DONOR, n_max=(1,), repeats=1, n_predict=32, n_threads=1)


@pytest.fixture(scope="module")
def dead(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model, one tensor of its head zeroed."""
    out = tmp_path_factory.mktemp("dead") / "dead.gguf"
    data = bytearray(DONOR.read_bytes())
    with open_gguf(DONOR) as model:
        tensor = next(tensor for tensor in model.tensors if "eh_proj" in tensor.name)
        data[tensor.offset : tensor.offset + tensor.n_bytes] = bytes(tensor.n_bytes)
    out.write_bytes(data)
    return out


def one(speed: float = 75, drafted: int = 66, accepted: int = 50, **more: object) -> BenchResult:
    """Off at 50 tok/s, and n=2. A step yields 1 + accepted / (100 - accepted) tokens."""
    return made({"off": (50, 0, 0), "n=2": (speed, drafted, accepted)}, n_max=(2,), **more)  # type: ignore[arg-type]


def of(result: BenchResult, check_id: str, controls: Controls | None = None) -> Check:
    return diagnose(result, controls).check(check_id)


def control(check_id: str, before: float, after: float) -> Controls:
    """A control run with these speeds."""
    result = made({"off": (before, 0, 0), "n=2": (after, 66, 50)}, n_max=(2,))
    return Controls((Control(check_id, result),))


def edited(result: BenchResult, change: Callable[[ArmResult], ArmResult]) -> BenchResult:
    return replace(result, arms=tuple(change(arm) for arm in result.arms))


def on_samples(
    result: BenchResult, change: Callable[[CompletionResult], CompletionResult], category: str = ""
) -> BenchResult:
    """Change the samples of the MTP arms, of one category or of all."""

    def of_arm(arm: ArmResult) -> ArmResult:
        if arm.arm.is_off:
            return arm
        samples = tuple(
            replace(sample, result=change(sample.result)) if category in ("", sample.category) else sample
            for sample in arm.samples
        )
        return replace(arm, samples=samples)

    return edited(result, of_arm)


def launched(result: BenchResult, **changes: object) -> BenchResult:
    """Every arm started with these settings."""

    def arm_of(arm: Arm) -> Arm:
        return replace(arm, launch=replace(arm.launch, **changes))  # type: ignore[arg-type]

    plan = replace(result.plan, arms=tuple(arm_of(arm) for arm in result.plan.arms))
    return edited(replace(result, plan=plan), lambda arm: replace(arm, arm=arm_of(arm.arm)))


def built(result: BenchResult, **changes: object) -> BenchResult:
    return replace(result, engines=tuple(replace(engine, **changes) for engine in result.engines))  # type: ignore[arg-type]


# Real runs


def test_a_trained_head_is_engaged_and_accepted(real: BenchResult) -> None:
    assert of(real, "engaged").verdict is OK
    # about 0.8 on this fixture; what is enough depends on the speed of a tiny model, so only the head is judged here
    assert of(real, "acceptance").observed.startswith(("0.7", "0.8", "0.9"))
    assert of(real, "greedy-text").verdict in (OK, WARN)  # some CPU may flip a near-tie
    for check_id in ("build", "head-type", "kv-types", "slots", "early-stops"):
        assert of(real, check_id).verdict is OK, check_id
    for check_id in ("vram", "cuda-graphs", "kinship", "depth-cliff"):
        assert of(real, check_id).verdict is UNKNOWN, check_id
    assert of(real, "noise").verdict is WARN  # one repeat


def test_a_dead_head_is_found_by_its_acceptance_and_by_its_data(dead: Path) -> None:
    result = run_bench(dead, n_max=(1,), repeats=1, n_predict=32, n_threads=1)
    check = of(result, "acceptance")
    assert check.verdict is BAD and check.observed.startswith("0.0")
    assert "audit --deep dead.gguf" in check.advice
    evidence = head_evidence(dead)
    assert evidence is not None and [finding.id for finding in evidence.findings] == ["MTP051"]
    kin = of(result, "kinship", Controls(head=evidence))
    assert kin.verdict is BAD and "MTP051" in kin.observed and "graft" in kin.advice


def test_the_synthetic_control_runs_at_the_measured_rates(real: BenchResult) -> None:
    (wanted,) = controls_wanted(real)
    assert wanted.check == "overhead"
    before, changed = wanted.plan.arms
    assert before == real.on[0].arm and changed.launch.draft is not None
    rates = real.on[0].total.acceptance_per_position
    assert rates is not None and changed.launch.draft.synth_rates == pytest.approx(rates, abs=1e-4)

    controls = run_controls(real, [EmbeddedEngine()])
    assert controls.notes == ()
    done = controls.run("overhead")
    assert done is not None and done.change is not None
    again, synthetic = done.result.arms
    n_drafted, rate = synthetic.total.draft_n, synthetic.total.acceptance
    assert rate is not None and n_drafted > 30
    # accepted by chance: four standard deviations of a rate near 0.8 over this many tokens
    assert abs(rate - rates[0]) < 4 * (rates[0] * (1 - rates[0]) / n_drafted) ** 0.5 + 0.02
    # the subject again drafts exactly what it drafted
    prompts = {sample.prompt: sample.result.draft_n_accepted for sample in real.on[0].samples}
    assert all(sample.result.draft_n_accepted == prompts[sample.prompt] for sample in again.samples)
    assert "at random" in of(real, "overhead", controls).observed
    assert controls.head is not None and controls.head.findings == ()


def test_a_control_that_the_engine_cannot_run_is_a_note(real: BenchResult, tmp_path: Path) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    controls = run_controls(real, [BinaryEngine(program)])
    assert controls.runs == () and len(controls.notes) == 1
    assert diagnose(real, controls).notes == controls.notes
    assert any("overhead" in line for line in advice_lines(diagnose(real, controls)))


def test_a_sidecar_says_which_trunk_it_was_made_for(tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    surgery.extract(DONOR, own, "sidecar", "q8_0")
    evidence = head_evidence(BASE, own)
    assert evidence is not None and (evidence.related, evidence.findings) == ("same", ())
    foreign = head_evidence(BASE, TRAINED / "mtp-q8_0.gguf")  # llama.cpp's converter leaves no fingerprint
    assert foreign is not None and foreign.related == "unknown"
    assert head_evidence(tmp_path / "gone.gguf") is None


def test_bench_and_report_say_it(tmp_path: Path) -> None:
    mtpgraft, saved = InProcess(), tmp_path / "run.json"
    args = (DONOR, "--n-max", "1", "--n-predict", "16", "--repeats", "1", "--threads", "1", "--save", saved)
    doc = json.loads(mtpgraft("bench", *args, "--diagnose", "--json").stdout)["diagnosis"]
    checks = {check["id"]: check for check in doc["checks"]}
    assert len(checks) == len(CHECKS) and doc["subject"] == "n=1" and doc["schema_version"] == 1
    assert "at random" in checks["overhead"]["observed"]
    assert {"title", "expected", "observed", "verdict", "advice"} < set(checks["engaged"])
    # a saved run has no control runs and no files; all else is the same
    shown = mtpgraft("report", saved, "--diagnose").stdout
    assert "did MTP draft at all" in shown and "Diagnosis" in shown
    short = mtpgraft("report", saved).stdout
    assert "Diagnosis" not in short and "one repeat" in short
    mtpgraft("report", saved, saved, "--diagnose", expect=2)


# Figures that are known beforehand


def test_nothing_drafted() -> None:
    assert of(one(), "engaged").verdict is OK
    idle = one(49, 0, 0)
    check = of(idle, "engaged")
    assert check.verdict is BAD and "mtpgraft audit" in check.advice
    assert of(built(idle, kind="openai"), "engaged").verdict is UNKNOWN
    some = made({"off": (50, 0, 0), "n=2": (75, 66, 50), "n=3": (50, 0, 0)})
    assert of(some, "engaged").verdict is WARN and "n=3" in of(some, "engaged").observed
    for check_id in ("acceptance", "overhead", "p-min", "categories"):
        assert of(idle, check_id).verdict is UNKNOWN, check_id
    assert controls_wanted(idle) == ()


@pytest.mark.parametrize(
    ("speed", "drafted", "accepted", "verdict", "said"),
    [
        (75, 66, 50, OK, "break-even"),  # a step of 1.33 tokens' time, break-even 0.25, accepted 0.76
        (60, 100, 50, WARN, "break-even"),  # 1.67 and 0.33 against 0.50: it gains, below the rule of thumb
        (45, 100, 50, BAD, "break-even"),  # 2.22 and 0.61 against 0.50
        (30, 66, 50, OK, "rule of thumb"),  # 3.33 and 1.77: no head could; 0.76 is a good head all the same
        (30, 80, 40, BAD, "rule of thumb"),  # 2.78 and 1.33 against 0.50
        (45, 100, 4, BAD, "break-even"),
    ],
)
def test_acceptance_is_held_against_the_break_even_of_this_machine(
    speed: float, drafted: int, accepted: int, verdict: Verdict, said: str
) -> None:
    check = of(one(speed, drafted, accepted), "acceptance")
    assert check.verdict is verdict, check
    assert said in check.expected
    assert ("audit --deep" in check.advice) is (accepted == 4)


def test_break_even_is_the_time_of_a_step() -> None:
    # 100 tokens in 2 s at 75 tok/s are 50 steps of 26.7 ms each; off needs 20 ms per token
    check = of(one(75, 66, 50), "overhead")
    assert check.verdict is OK
    assert "the time of 1.33 tokens and yields 2.00; break-even acceptance 0.25" in check.observed
    assert of(one(45, 66, 50), "overhead").verdict is WARN  # 0.93
    assert of(one(30, 66, 50), "overhead").verdict is BAD  # 1.77
    small = replace(one(30, 66, 50), model=replace(one().model, n_bytes=5_000_000))
    assert "small-model" in of(small, "overhead").advice


def test_a_synthetic_control_tells_engine_from_head() -> None:
    slow = one(40, 66, 50)
    assert "the engine sets the speed" in of(slow, "overhead", control("overhead", 40, 40)).observed
    assert "1.50 x as fast" in of(slow, "overhead", control("overhead", 40, 60)).observed


def test_p_min_hides_the_time_of_a_step() -> None:
    only = made({"off": (50, 0, 0), "n=2 p>=0.75": (75, 60, 50)}, n_max=(2,), p_min=(0.75,))
    assert of(only, "overhead").verdict is UNKNOWN
    both = made({"off": (50, 0, 0), "n=2": (70, 66, 50), "n=2 p>=0.75": (75, 60, 50)}, n_max=(2,), p_min=(0, 0.75))
    assert diagnose(both).subject == "n=2 p>=0.75" and of(both, "overhead").observed.startswith("n=2:")


def test_a_small_model_is_not_blamed() -> None:
    small = replace(one(30), model=replace(one().model, n_bytes=5_000_000))
    assert of(small, "small-model").verdict is WARN
    assert of(replace(small, arms=one(75).arms), "small-model").verdict is OK
    assert of(one(30), "small-model").verdict is OK
    assert of(replace(small, model=replace(small.model, n_bytes=0)), "small-model").verdict is UNKNOWN


def test_a_cliff_between_depths() -> None:
    check = of(made({"off": (50, 0, 0), "n=2": (84, 66, 50), "n=3": (6, 90, 55)}), "depth-cliff")
    assert check.verdict is BAD and "n=3 at 0.07 x the speed of n=2" in check.observed
    assert of(made({"off": (50, 0, 0), "n=2": (84, 66, 50), "n=3": (80, 90, 55)}), "depth-cliff").verdict is OK
    assert of(one(), "depth-cliff").verdict is UNKNOWN


def test_vram() -> None:
    def filled(result: BenchResult, used: int | None) -> BenchResult:
        use = None if used is None else VramUse("RTX 4070 SUPER", used, 12 << 30)
        return edited(result, lambda arm: replace(arm, vram=use))

    assert of(filled(one(), 11 << 30), "vram").verdict is OK
    assert of(filled(one(), 11_800 << 20), "vram").verdict is WARN
    slow = of(filled(one(40), 11_800 << 20), "vram")
    assert slow.verdict is BAD and "96.0%" in slow.observed and "mtpgraft plan" in slow.advice
    assert of(filled(one(), None), "vram").verdict is UNKNOWN


def test_cuda_graphs_need_a_control() -> None:
    assert "--diagnose" in of(one(), "cuda-graphs").advice
    assert of(built(one(), devices=()), "cuda-graphs").observed == "no CUDA device took part"
    assert of(one(), "cuda-graphs", control("cuda-graphs", 75, 90)).verdict is WARN
    assert of(one(), "cuda-graphs", control("cuda-graphs", 75, 60)).verdict is OK
    noisy = replace(
        control("cuda-graphs", 75, 76),
        runs=(Control("cuda-graphs", made({"off": (75, 0, 0), "n=2": (76, 66, 50)}, n_max=(2,), against=True)),),
    )
    assert of(one(), "cuda-graphs", noisy).verdict is OK


def test_controls_that_a_gpu_run_wants() -> None:
    def wanted(result: BenchResult) -> dict[str, LaunchSpec]:
        return {control.check: control.plan.arms[1].launch for control in controls_wanted(result)}

    graphs = wanted(one())["cuda-graphs"]
    assert graphs.env == (("GGML_CUDA_DISABLE_GRAPHS", "1"),)
    assert replace(graphs, env=()) == one().on[0].arm.launch
    assert set(wanted(one())) == {"overhead", "cuda-graphs"}
    assert set(wanted(built(one(), devices=("Vulkan0: NVIDIA GeForce RTX 4070",)))) == {"overhead"}
    listed = built(one(), devices=("0: NVIDIA GeForce RTX 4070, compute capability 8.9",))
    assert set(wanted(listed)) == {"overhead", "cuda-graphs"}
    assert set(wanted(built(one(), kind="ik_llama.cpp"))) == {"cuda-graphs"}
    assert set(wanted(launched(one(), n_gpu_layers=0))) == {"overhead"}
    steep = on_samples(one(), lambda r: replace(r, accepted_per_position=(45, 5)))
    p_min = wanted(steep)["p-min"].draft
    assert p_min is not None and p_min.p_min == 0.75
    for control in controls_wanted(steep):
        assert control.plan.repeats == 3 and len(control.plan.suite.prompts) == 4
        draft = control.plan.arms[1].launch.draft
        assert draft is not None and list(draft.synth_rates) == sorted(draft.synth_rates, reverse=True)


def test_head_types() -> None:
    low = (("F32", 7), ("Q4_0", 8))
    assert of(one(), "head-type").verdict is OK
    alone = replace(one(), heads=(replace(one().heads[0], types=low),))
    assert of(alone, "head-type").verdict is WARN and "--head-type q8_0" in of(alone, "head-type").advice
    unknown = replace(one(), heads=(replace(one().heads[0], types=()),))
    assert of(unknown, "head-type").verdict is UNKNOWN

    heads = [HeadChoice("q8_0", Path("a.gguf")), HeadChoice("q4_0", Path("b.gguf"))]

    def beside(accepted: int) -> Check:
        speeds = {"off": (50.0, 0, 0), "n=2 [q8_0]": (75.0, 66, 50), "n=2 [q4_0]": (70.0, 66, accepted)}
        result = made(speeds, n_max=(2,), heads=heads)
        q8_0, q4_0 = result.heads
        return of(replace(result, heads=(q8_0, replace(q4_0, types=low))), "head-type")

    assert beside(50).verdict is OK
    assert beside(49).verdict is OK  # 0.015 less: heads of equal worth differ as much
    assert beside(40).verdict is WARN and "q8_0" in beside(40).advice


def test_p_min() -> None:
    steep = on_samples(one(), lambda r: replace(r, accepted_per_position=(45, 5)))
    flat = on_samples(one(), lambda r: replace(r, accepted_per_position=(28, 22)))
    assert (of(steep, "p-min").verdict, of(flat, "p-min").verdict) == (WARN, OK)
    assert of(steep, "p-min", control("p-min", 75, 90)).advice == "draft with --p-min 0.75"
    assert of(steep, "p-min", control("p-min", 75, 60)).verdict is OK
    unsaid = on_samples(one(), lambda r: replace(r, accepted_per_position=None))
    assert of(unsaid, "p-min").verdict is UNKNOWN


def test_build() -> None:
    for number, verdict in ((11434, OK), (10745, BAD), (10749, OK), (None, UNKNOWN)):
        assert of(built(one(), build_number=number), "build").verdict is verdict, number
    assert of(built(one(), build_number=10745, kind="ik_llama.cpp"), "build").verdict is UNKNOWN


def test_kinship() -> None:
    assert of(one(), "kinship").verdict is UNKNOWN
    for related, verdict in (("same", OK), ("close", WARN), ("different", BAD), ("unknown", UNKNOWN)):
        assert of(one(), "kinship", Controls(head=HeadEvidence(related, "norms"))).verdict is verdict, related


def test_kv_types() -> None:
    def stored(k: str | None, v: str | None, devices: tuple[str, ...] = ("CUDA0",)) -> Check:
        return of(built(launched(one(), cache_type_k=k, cache_type_v=v), devices=devices), "kv-types")

    assert stored(None, None).verdict is OK
    assert stored("q8_0", "q8_0").verdict is OK
    assert stored("q8_0", "f16").verdict is WARN and "converted" in stored("q8_0", "f16").advice
    assert stored("q8_0", "f16", ()).verdict is OK
    assert stored("q4_0", "q4_0").verdict is WARN
    assert stored("turbo3", "turbo3", ()).verdict is WARN


def test_slots() -> None:
    assert of(one(), "slots").verdict is OK
    assert of(launched(one(75), n_parallel=4), "slots").verdict is OK
    crowded = of(launched(one(20), n_parallel=4), "slots")
    assert crowded.verdict is WARN and "--parallel 1" in crowded.advice
    assert of(launched(one(), n_parallel=4), "overhead").verdict is UNKNOWN


def test_prefill() -> None:
    assert of(one(), "prefill").verdict is WARN  # 250 ms against 300 in these results
    assert of(on_samples(one(), lambda r: replace(r, prompt_ms=255.0)), "prefill").verdict is OK


def test_categories() -> None:
    assert of(one(), "categories").verdict is OK
    harder = on_samples(one(), lambda r: replace(r, draft_n_accepted=20), "creative_short")
    check = of(harder, "categories")
    assert check.verdict is WARN and "creative_short 0.30" in check.observed
    losing = of(on_samples(one(), lambda r: replace(r, predicted_ms=3 * r.predicted_ms), "translation"), "categories")
    assert losing.verdict is WARN and "slower than off: translation" in losing.observed
    assert of(one(categories=NINE[:1]), "categories").verdict is UNKNOWN


def test_greedy_text() -> None:
    assert of(one(), "greedy-text").verdict is OK
    late = {"off": "a" * 40 + "b", "n=2": "a" * 40 + "c"}
    assert of(one(texts=late), "greedy-text").verdict is WARN
    assert of(one(texts={"off": "abc", "n=2": "xyz"}), "greedy-text").verdict is BAD


def test_early_stops_and_noise() -> None:
    assert of(one(), "early-stops").verdict is OK
    assert of(one(accepted=10, drafted=20, n_predicted=30), "early-stops").verdict is WARN
    assert of(one(), "noise").verdict is OK
    assert of(one(repeats=1), "noise").verdict is WARN
    assert of(one(51, noise=0.2, against=True), "noise").verdict is WARN
    assert of(one(90, noise=0.2), "noise").verdict is OK  # it varies, and every repeat shows the gain


def test_synthetic_arms_are_not_judged_for_acceptance() -> None:
    result = made({"off": (50, 0, 0), "n=2 synthetic": (75, 66, 50)}, n_max=(2,), synth_rates=(0.9, 0.7))
    diagnosis = diagnose(result)
    for check_id in ("acceptance", "categories", "greedy-text", "p-min"):
        assert diagnosis.check(check_id).verdict is UNKNOWN, check_id
    assert diagnosis.check("overhead").verdict is OK and controls_wanted(result) == ()


def test_a_running_server_is_diagnosed_without_off() -> None:
    engines = ("a", "b")
    speeds = {f"{name}: off": (50.0, 0, 0) for name in engines} | {f"{name}: n=2": (75.0, 66, 50) for name in engines}
    result = made(speeds, n_max=(2,), engines=engines)
    served = edited(result, lambda arm: replace(arm, arm=replace(arm.arm, as_it_runs=not arm.arm.is_off)))
    served = replace(served, arms=tuple(arm for arm in served.arms if not arm.arm.is_off))
    diagnosis = diagnose(served)
    for check_id in ("overhead", "prefill", "greedy-text", "kv-types"):
        assert diagnosis.check(check_id).verdict is UNKNOWN, check_id
    assert diagnosis.check("acceptance").verdict is OK
    small = replace(served, model=replace(served.model, n_bytes=1 << 20))
    assert of(small, "small-model").verdict is UNKNOWN, "nothing says whether it is slower"
    assert controls_wanted(served) == ()


# What it is shown as


def test_findings_come_worst_first_and_few() -> None:
    result = built(one(30, 150, 50, repeats=1), build_number=10745)
    diagnosis = diagnose(result)
    verdicts = [check.verdict for check in diagnosis.findings]
    assert verdicts == sorted(verdicts, key=lambda verdict: [BAD, WARN].index(verdict))
    assert diagnosis.findings[0].id == "build"
    lines = finding_lines(diagnosis)
    assert len(lines) == 4 and lines[0].startswith("bad: ") and lines[3].startswith("and ")
    assert [row[0] for row in diagnosis_table(diagnosis).rows].count("bad") == verdicts.count(BAD)


def test_names_from_files_cannot_hurt() -> None:
    result = replace(one(4, 150, 2), model=replace(one().model, name="<b>|\x1b[31m`x`.gguf"))
    text = "\n".join([*diagnosis_markdown(diagnose(result)), *finding_lines(diagnose(result))])
    assert "\x1b" not in text
    assert "<b>" not in "\n".join(diagnosis_markdown(diagnose(result)))


def test_every_check_has_an_answer_for_every_result() -> None:
    ids = [check.id for check in diagnose(one()).checks]
    assert len(set(ids)) == len(ids) == len(CHECKS)
    json.dumps(diagnose(one()).to_json())
    with pytest.raises(KeyError):
        diagnose(one()).check("nonsense")
