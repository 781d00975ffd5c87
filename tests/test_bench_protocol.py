"""The protocol with the real engine: several heads, engines and slots, runs that end early, and the result's file."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mtpgraft.bench.engine import Engine, EngineInfo, LaunchSpec, Session
from mtpgraft.bench.engines.embedded import EmbeddedEngine
from mtpgraft.bench.gpu import gpus, vram_use
from mtpgraft.bench.heads import made_heads
from mtpgraft.bench.host import GpuInfo
from mtpgraft.bench.labels import draft_flags, engine_labels
from mtpgraft.bench.metrics import VramUse
from mtpgraft.bench.mtpbench import mtp_bench_json
from mtpgraft.bench.prompts import Prompt, Suite
from mtpgraft.bench.protocol import HeadChoice, plan_bench
from mtpgraft.bench.result import BenchResult
from mtpgraft.bench.resultfile import read_result
from mtpgraft.bench.run import execute
from mtpgraft.bench.suites import builtin_suite
from mtpgraft.cli.bench_input import local_model
from mtpgraft.errors import EngineDiedError, EngineError, ExitCode, InputError, RefusedError, UsageError
from mtpgraft.surgery import extract
from tests.conftest import TRAINED
from tests.inprocess import InProcess

DONOR = TRAINED / "donor-bf16.gguf"
BASE = TRAINED / "base-Q2_K.gguf"
SIDECAR = TRAINED / "mtp-q8_0.gguf"
TWO = Suite(
    "two",
    "completion",
    16,
    (Prompt("def", "code", "def read("), Prompt("cache", "prose", "A cache keeps the results of")),
)
LAUNCH = LaunchSpec(DONOR, n_ctx=512, n_threads=1)


@dataclass(frozen=True)
class Failing:
    """A real engine that cannot run some settings, or stops after a number of starts."""

    engine: Engine
    fails: Callable[[LaunchSpec], bool]
    error: Callable[[], BaseException] = lambda: EngineError("no room for this")
    is_fixed: bool = False

    def info(self) -> EngineInfo:
        return self.engine.info()

    def start(self, spec: LaunchSpec) -> Session:
        if self.fails(spec):
            raise self.error()
        return self.engine.start(spec)


@pytest.fixture
def mtpgraft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    monkeypatch.chdir(tmp_path)
    return InProcess()


def ends_after(n_starts: int, error: Callable[[], BaseException]) -> Failing:
    starts: list[LaunchSpec] = []

    def fails(spec: LaunchSpec) -> bool:
        starts.append(spec)
        return len(starts) > n_starts

    return Failing(EmbeddedEngine(), fails, error)


# The plan


def test_engines_take_turns_at_the_same_setting() -> None:
    plan = plan_bench(LAUNCH, TWO, n_max=(1, 2), engines=("a", "b"), repeats=2)
    assert [arm.name for arm in plan.arms] == ["a: off", "a: n=1", "a: n=2", "b: off", "b: n=1", "b: n=2"]
    back = ["a: off", "b: off", "a: n=1", "b: n=1", "a: n=2", "b: n=2"]
    assert [visit.arm.name for visit in plan.visits] == [*back[::-1], *back]
    assert {arm.engine for arm in plan.arms} == {"a", "b"}


def test_every_head_gets_every_setting_and_off_runs_once() -> None:
    heads = (HeadChoice("q8_0", Path("8.gguf")), HeadChoice("q4_0", Path("4.gguf")))
    plan = plan_bench(LAUNCH, TWO, heads=heads, n_max=(1, 2), p_min=(0, 0.5))
    assert [arm.name for arm in plan.arms][:4] == ["off", "n=1 [q8_0]", "n=1 p>=0.5 [q8_0]", "n=2 [q8_0]"]
    assert len(plan.arms) == 1 + 2 * 4
    assert Counter(arm.head for arm in plan.arms) == {"": 1, "q8_0": 4, "q4_0": 4}
    assert {arm.launch.draft.sidecar for arm in plan.arms if arm.launch.draft and arm.head == "q4_0"} == {
        Path("4.gguf")
    }


def test_a_running_server_has_one_arm_and_a_note() -> None:
    plan = plan_bench(LAUNCH, TWO, engines=("a", "b"), fixed={"b"}, n_max=(1,))
    assert [arm.name for arm in plan.arms] == ["a: off", "a: n=1", "b: as it runs"]
    last = plan.arms[-1]
    assert last.as_it_runs and not last.is_off and last.launch.draft is None
    assert any("b: a running server is measured as it runs" in note for note in plan.notes)
    assert len(plan.visits) == 3 * len(plan.arms)


def test_a_running_server_that_drafts_by_request_has_an_arm_per_setting() -> None:
    plan = plan_bench(LAUNCH, TWO, engines=("a", "b"), fixed={"a", "b"}, by_request={"b"}, n_max=(1, 2), p_min=(0, 0.5))
    assert [arm.name for arm in plan.arms] == [
        "a: as it runs", "b: n=1", "b: n=1 p>=0.5", "b: n=2", "b: n=2 p>=0.5"
    ]  # fmt: skip
    assert all(arm.as_it_runs and not arm.is_off for arm in plan.arms)
    assert [(arm.has_known_depth, arm.n_max) for arm in plan.arms] == [(0, 0), (1, 1), (1, 1), (1, 2), (1, 2)]
    assert any("b: the running server is told with each request" in note for note in plan.notes)


def test_synthetic_rates_are_cut_to_the_depth() -> None:
    plan = plan_bench(LAUNCH, TWO, n_max=(1, 3), synth_rates=(0.9, 0.6, 0.3, 0.1))
    rates = [arm.launch.draft.synth_rates for arm in plan.arms if arm.launch.draft]
    assert rates == [(0.9,), (0.9, 0.6, 0.3)]
    assert [arm.is_synthetic for arm in plan.arms] == [False, True, True]


def test_every_prompt_visits_every_slot() -> None:
    for n_parallel in (1, 2, 3, 5):
        plan = plan_bench(replace(LAUNCH, n_parallel=n_parallel, n_ctx=512 * n_parallel), TWO)
        assert all(len(prompts) == n_parallel for prompts in plan.rounds)
        for slot in range(n_parallel):
            assert Counter(prompts[slot].id for prompts in plan.rounds) == {"def": 1, "cache": 1}
        assert plan.n_ctx == 512
        assert plan.n_samples == len(plan.arms) * plan.repeats * 2 * n_parallel


def test_depths_beyond_the_context_are_left_out_with_a_note() -> None:
    suite = builtin_suite("long-context")
    plan = plan_bench(replace(LAUNCH, n_ctx=16384), suite)
    assert [prompt.id for prompt in plan.suite.prompts] == ["depth-2k", "depth-8k"]
    assert sum("was left out" in note for note in plan.notes) == len(suite.prompts) - 2
    assert plan.suite.hash != suite.hash
    with pytest.raises(UsageError, match="n_ctx"):
        plan_bench(replace(LAUNCH, n_ctx=1024), suite)


def test_labels_and_flags() -> None:
    info = EngineInfo("llama-server", "1", "b11434 (abc)", "", (), "llama.cpp", 11434)
    ik = replace(info, kind="ik_llama.cpp", version="0.2", build_number=None)
    assert engine_labels([info]) == ("",)
    assert engine_labels([info, ik, info]) == ("llama.cpp b11434", "ik_llama.cpp 0.2", "llama.cpp b11434 (2)")
    assert engine_labels([info, replace(ik, version="b0-unknown")])[1] == "ik_llama.cpp"
    arms = plan_bench(LAUNCH, TWO, heads=(HeadChoice("", Path("s.gguf")),), n_max=(2,), p_min=(0.75,)).arms
    assert draft_flags(arms[0].launch.draft) == ()
    flags = "-md s.gguf --spec-type draft-mtp --spec-draft-n-max 2 --spec-draft-p-min 0.75"
    assert " ".join(draft_flags(arms[1].launch.draft)) == flags
    assert draft_flags(arms[1].launch.draft, "ik_llama.cpp")[-1] == "mtp:n_max=2,p_min=0.75"


# Runs


def test_two_engines_two_slots(tmp_path: Path) -> None:
    launch = replace(LAUNCH, n_parallel=2, n_ctx=1024)
    plan = plan_bench(launch, TWO, n_max=(1,), repeats=2, engines=("a", "b"))
    result = execute(plan, (EmbeddedEngine(tmp_path / "a"), EmbeddedEngine(tmp_path / "b")))
    assert len(result.engines) == 2
    assert {arm.arm.name: len(arm.samples) for arm in result.arms} == dict.fromkeys(
        ("a: off", "a: n=1", "b: off", "b: n=1"), 2 * 2 * 2
    )
    a_off, a_on, b_off, b_on = result.arms
    assert (result.off_of(a_on), result.off_of(b_on)) == (a_off, b_off)
    for arm in result.arms:
        assert {sample.slot for sample in arm.samples} == {0, 1}
        throughput = arm.throughput
        assert throughput is not None and throughput == arm.speed and len(arm.wall_s) == 2
        expected = [tally.n_predicted / arm.wall_s[repeat] for repeat, tally in arm.by_repeat().items()]
        assert sorted(expected) == [throughput.low, throughput.high]
        assert result.break_even(arm) is None, "steps that slots share have no time of their own"
    assert a_on.total.draft_n > 0 and a_on.total.acceptance == b_on.total.acceptance
    logs = {label: len(list((tmp_path / label).iterdir())) for label in ("a", "b")}
    assert logs == {"a": 5, "b": 5}, "info once, and a start per visit"
    assert BenchResult.from_json(json.loads(json.dumps(result.to_json()))) == result


@pytest.fixture(scope="module")
def compared() -> BenchResult:
    """A base with the user's sidecar and two made of the donor's head."""
    with made_heads(BASE, (SIDECAR,), ("keep", "Q4_0"), str(DONOR)) as heads:
        plan = plan_bench(replace(LAUNCH, model=BASE), TWO, heads=heads.choices, n_max=(2,), repeats=1)
        result = execute(plan, (EmbeddedEngine(),))
        files = [head.sidecar for head in heads.choices]
        assert all(file is not None and file.is_file() for file in files)
    assert [file for file in files if file is not None and file.exists()] == [SIDECAR]
    return result


def test_heads_are_compared_on_one_base(compared: BenchResult, tmp_path: Path) -> None:
    assert [arm.arm.name for arm in compared.arms] == ["off", "n=2 [mtp-q8_0]", "n=2 [keep]", "n=2 [q4_0]"]
    assert all(arm.drafted for arm in compared.on)
    own, keep, q4_0 = compared.heads
    assert (own.label, dict(own.types)) == ("mtp-q8_0", {"Q8_0": 8, "F32": 7})
    assert (keep.label, dict(keep.types)) == ("keep", {"BF16": 8, "F32": 7})
    assert (q4_0.label, dict(q4_0.types)) == ("q4_0", {"Q4_0": 8, "F32": 7})
    # The same head as `extract` takes: the digest does not depend on the file it is in.
    report = extract(DONOR, tmp_path / "head.gguf", wanted_type="q4_0").report
    assert report is not None and report.head_sha256 == q4_0.head_sha256


def test_a_made_sidecar_drafts_as_the_graft_does(tmp_path: Path, mtpgraft: InProcess) -> None:
    mtpgraft("graft", BASE, DONOR, "-o", tmp_path / "out.gguf", "--type", "q8_0")
    with made_heads(BASE, (), ("q8_0",), str(DONOR)) as heads:
        plan = plan_bench(replace(LAUNCH, model=BASE), TWO, heads=heads.choices, n_max=(2,), repeats=1)
        beside = execute(plan, (EmbeddedEngine(),)).on[0].total
    plan = plan_bench(replace(LAUNCH, model=tmp_path / "out.gguf"), TWO, n_max=(2,), repeats=1)
    grafted = execute(plan, (EmbeddedEngine(),)).on[0].total
    assert (beside.draft_n, beside.draft_n_accepted) == (grafted.draft_n, grafted.draft_n_accepted)


def test_heads_out_of_a_checkpoint_and_out_of_the_model_itself() -> None:
    with made_heads(BASE, (), ("q8_0",), str(TRAINED / "hf")) as heads:
        (only,) = heads.choices
        assert only.label == "" and only.sidecar is not None and only.sidecar.is_file()
    with made_heads(DONOR) as heads:
        assert heads.choices == (HeadChoice(),)
    with made_heads(DONOR, (), ("q8_0", "q5_0")) as heads:
        assert [head.label for head in heads.choices] == ["q8_0", "q5_0"]


def test_precision_does_not_come_back() -> None:
    with made_heads(BASE, (), ("bf16",), str(SIDECAR)) as heads:
        assert any("does not come back" in note for note in heads.notes)
    with (
        made_heads(BASE, (), ("q4_0",), str(DONOR)) as low,
        pytest.raises(RefusedError, match="does not come back") as caught,
        made_heads(BASE, (), ("q8_0",), str(low.choices[0].sidecar)),
    ):
        raise AssertionError
    assert "Q4_0" in str(caught.value.found) and "--donor" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("drafts", "types", "donor", "error", "words"),
    [
        ((), ("q4_k",), str(DONOR), UsageError, "q8_0, q5_1"),
        ((), ("q8_0", "Q8_0"), str(DONOR), UsageError, "twice"),
        ((Path("none.gguf"),), (), None, InputError, "no such file"),
        ((), ("q8_0",), None, RefusedError, "no MTP head"),
        ((), ("q8_0",), "none.gguf", InputError, "none.gguf"),
    ],
)
def test_heads_that_cannot_be(
    drafts: tuple[Path, ...], types: tuple[str, ...], donor: str | None, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words), made_heads(BASE, drafts, types, donor):
        raise AssertionError


# Runs that do not go as planned


@pytest.mark.parametrize(
    ("error", "says"),
    [(KeyboardInterrupt, "interrupted"), (lambda: EngineDiedError("the engine ended by SIGKILL"), "SIGKILL")],
)
def test_whole_repeats_survive_an_early_end(error: Callable[[], BaseException], says: str) -> None:
    plan = plan_bench(LAUNCH, TWO, n_max=(1,), repeats=3)
    result = execute(plan, (ends_after(2 * 2 + 1, error),))
    assert says in result.cut_short and any("2 of 3 repeats" in note for note in result.notes)
    assert result.plan.repeats == 2
    assert {sample.repeat for arm in result.arms for sample in arm.samples} == {0, 1}
    assert all(len(arm.wall_s) == 2 and len(arm.samples) == 4 for arm in result.arms)
    assert BenchResult.from_json(result.to_json()) == result


def test_without_a_whole_repeat_there_is_no_result() -> None:
    plan = plan_bench(LAUNCH, TWO, n_max=(1,), repeats=3)
    with pytest.raises(KeyboardInterrupt):
        execute(plan, (ends_after(1, KeyboardInterrupt),))
    with pytest.raises(EngineDiedError):
        execute(plan, (ends_after(1, lambda: EngineDiedError("gone")),))


def test_a_prompt_that_does_not_fit_is_named() -> None:
    long = Prompt("very-long", "code", "def f(x): return x\n" * 300)
    suite = replace(TWO, prompts=(*TWO.prompts, long))
    with pytest.raises(EngineError, match="very-long") as caught:
        execute(plan_bench(LAUNCH, suite, n_max=(1,), repeats=1), (EmbeddedEngine(),))
    assert "512" in str(caught.value.expected) and "--ctx" in str(caught.value.hint)
    assert "tokens" in str(caught.value.found), "the engine says how many there are"

    deep = replace(suite, prompts=(*TWO.prompts, replace(long, depth=300)))
    result = execute(plan_bench(LAUNCH, deep, n_max=(1,), repeats=1), (EmbeddedEngine(),))
    assert [prompt.id for prompt in result.plan.suite.prompts] == ["def", "cache"]
    assert any("very-long was left out" in note for note in result.notes)
    assert all(len(arm.samples) == 2 for arm in result.arms)
    with pytest.raises(EngineError, match="no prompt"):
        execute(plan_bench(LAUNCH, replace(deep, prompts=deep.prompts[2:]), n_max=(1,)), (EmbeddedEngine(),))


def test_an_early_stop_is_seen(compared: BenchResult) -> None:
    arm = compared.arms[1]
    assert compared.early_stops(arm) == () and arm.total.stops == {"length": 2}
    short = replace(arm.samples[0], result=replace(arm.samples[0].result, n_predicted=3, stop="stop"))
    stopped = replace(arm, samples=(short, arm.samples[1]))
    assert compared.early_stops(stopped) == (short,) and stopped.total.stops == {"stop": 1, "length": 1}


# The result's file


def test_the_file_gives_the_result_back(compared: BenchResult, tmp_path: Path) -> None:
    arm = replace(compared.arms[1], vram=VramUse("GPU", 1, 2), command=("llama-server", "-m", "x"))
    full = replace(compared, arms=(compared.arms[0], arm, *compared.arms[2:]), notes=("a note",))
    path = tmp_path / "r.json"
    path.write_text(json.dumps(full.to_json()))
    again = read_result(path)
    assert again == full
    assert json.dumps(again.to_json()) == json.dumps(full.to_json())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda doc: doc.update(schema_version=2), "schema_version"),
        (lambda doc: doc.pop("arms"), "not a bench result"),
        (lambda doc: doc.update(arms=[]), "arms"),
        (lambda doc: doc["engines"].clear(), "arms"),
        (lambda doc: doc["suite"].update(prompts=[]), "prompts"),
        (lambda doc: doc["host"].pop("cpu"), r"\.host"),
        (lambda doc: doc["arms"][1]["launch"].update(n_ctx="many"), r"\.arms\[1\]\.launch\.n_ctx"),
        (lambda doc: doc["arms"][0]["launch"].update(n_parallel=0), r"\.arms\[0\]\.launch\.n_parallel"),
        (lambda doc: doc["arms"][0]["samples"][1].update(repeat=-1), r"samples\[1\]\.repeat"),
        (lambda doc: doc["arms"][1]["samples"][0].pop("text"), r"\.arms\[1\]\.samples\[0\]"),
    ],
)
def test_another_file_is_refused_with_the_place(
    compared: BenchResult, tmp_path: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    document = json.loads(json.dumps(compared.to_json()))
    change(document)
    path = tmp_path / "r.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=words) as caught:
        read_result(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("{\n]")
    with pytest.raises(InputError, match="line 2"):
        read_result(tmp_path / "r.json")
    with pytest.raises(InputError, match="no such file"):
        read_result(tmp_path / "none.json")


def test_the_mtp_bench_form(compared: BenchResult) -> None:
    document = json.loads(json.dumps(mtp_bench_json(compared, compared.arms[2])))
    assert document["arm"] == "n=2 [keep]"
    samples = compared.arms[2].samples
    for row, sample in zip(document["results"], samples, strict=True):
        assert list(row) == [
            *("name", "wall_s", "predicted_n", "predicted_per_second", "draft_n", "draft_n_accepted", "accept_rate")
        ]
        assert (row["name"], row["predicted_n"], row["draft_n"]) == (sample.prompt, 16, sample.result.draft_n)
        assert row["accept_rate"] == round(row["draft_n_accepted"] / row["draft_n"], 4)
        assert row["wall_s"] > 0
    total = document["aggregate"]
    assert total["n_requests"] == 2 and total["total_predicted"] == 32
    assert total["total_draft"] == sum(row["draft_n"] for row in document["results"])
    assert total["aggregate_accept_rate"] == round(total["total_draft_accepted"] / total["total_draft"], 4)
    assert set(document["arms"]) == {arm.arm.name for arm in compared.arms}
    off = document["arms"]["off"]
    assert off["aggregate"]["aggregate_accept_rate"] is None and off["results"][0]["accept_rate"] is None
    fastest = mtp_bench_json(compared)["arm"]
    assert fastest in {arm.arm.name for arm in compared.on}


# The command


def test_the_command_writes_what_it_was_asked_for(mtpgraft: InProcess, tmp_path: Path) -> None:
    suite = {"schema_version": 1, "name": "mine", "prompts": [{"id": "a", "text": "def read("}]}
    (tmp_path / "suite.json").write_text(json.dumps(suite))
    short = ("--suite", "suite.json", "--n-predict", 16, "--repeats", 1, "--n-max", 1, "--threads", 1)
    done = mtpgraft("bench", DONOR, *short, "--json", "--save", "a.json", "--mtp-bench", "b.json", "--markdown", "a.md")
    printed = json.loads(done.stdout)
    assert printed.pop("diagnosis")["checks"], "only printed: it is made of the rest"
    assert printed == json.loads((tmp_path / "a.json").read_text())
    assert printed["suite"]["name"] == "mine" and printed["settings"]["n_ctx"] == 4096
    assert json.loads((tmp_path / "b.json").read_text())["results"][0]["name"] == "a"
    assert "n=1" in (tmp_path / "a.md").read_text()
    assert not list(tmp_path.glob(".*tmp*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--save", "none/a.json"), "no such folder"),
        (("--save", "a.json", "--html", "a.json"), "twice"),
        (("--markdown", "."), "is a folder"),
        (("--suite", "qick"), "mtp-bench, quick, long-context"),
        (("--shape", "raw"), "completion or chat"),
        (("--n-max", "1,x"), "--n-max"),
        (("--p-min", "1.5"), "p_min"),
        (("--synth-rates", "0.5"), "synth_rates"),
        (("--head-type", "q4_k"), "llama-quantize"),
        (("--ctx", "64"), "n_ctx"),
        (("--rpc", "host-without-port"), "host:50052"),
        (("stray",), "behind --"),
        (("--engine", "http://127.0.0.1:9", "--sweep"), "as it runs"),
        (("--engine", "http://127.0.0.1:9", "--cache-type-k", "q8_0"), "found --cache-type-k"),
        (("--engine", "http://127.0.0.1:9", "--rpc", "a:1"), "found --rpc"),
        (("--engine", "http://127.0.0.1:9", "--threads", "4"), "found --threads"),
        (("--engine", "http://127.0.0.1:9", "--n-max", "1", "--synth-rates", "0.5"), "found --synth-rates"),
    ],
)
def test_mistakes_are_found_before_anything_runs(
    mtpgraft: InProcess, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    """The model is not there: whoever looked at it first would say so."""
    done = mtpgraft("bench", "none.gguf", *options, expect=ExitCode.BAD_INPUT)
    assert words in done.stderr and not list(tmp_path.iterdir())


def test_a_model_without_a_head_gets_audits_verdict(mtpgraft: InProcess) -> None:
    done = mtpgraft("bench", BASE, expect=ExitCode.BAD_INPUT)
    assert "audit says dropped" in done.stderr and f"mtpgraft repair {BASE}" in done.stderr


def test_a_model_that_no_engine_could_run_is_refused_in_plain_words(mtpgraft: InProcess, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for model, words in (
        (SIDECAR, "is a head without its model"),
        ("hf:org/repo:Q4_K_M", "found hf:org/repo:Q4_K_M"),
        ("https://host/x.gguf", "found https://host/x.gguf"),
        (TRAINED, "several GGUF models"),
        ("empty", "empty"),
    ):
        assert words in mtpgraft("bench", model, expect=ExitCode.BAD_INPUT).stderr


def test_the_model_in_a_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "only.gguf").symlink_to(DONOR)
    assert local_model(tmp_path) == tmp_path / "only.gguf"
    assert local_model(DONOR) == DONOR


def test_existing_files_and_inputs_are_safe(mtpgraft: InProcess, tmp_path: Path) -> None:
    kept = tmp_path / "a.json"
    kept.write_text("mine")
    assert "exists already" in mtpgraft("bench", DONOR, "--save", "a.json", expect=ExitCode.BAD_INPUT).stderr
    assert "input" in mtpgraft("bench", kept, "--save", "a.json", "--force", expect=ExitCode.BAD_INPUT).stderr
    assert kept.read_text() == "mine"


# The GPU, where there is one


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_gpus_are_read_from_the_drivers_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that answers as nvidia-smi does, and refuses other questions: few test machines have a GPU."""
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == () and vram_use() is None

    def answers(**replies: str) -> None:
        cases = "".join(f"  *={fields.replace('__', ',')}) printf '{text}' ;;\n" for fields, text in replies.items())
        check = '[ "$2" = --format=csv,noheader,nounits ] || exit 6'
        script = f'#!/bin/sh\n{check}\ncase "$1" in\n{cases}  *) exit 2 ;;\nesac\n'
        tool.write_text(script.replace("memory_", "memory."))
        tool.chmod(0o755)

    answers(
        name__driver_version__memory_total="NVIDIA H100 80GB, 570.1, 81559\\nNVIDIA GB10, 580.2, [N/A]\\n",
        name__memory_used__memory_total="A, 100, 1000\\nB, 900, 1000\\nC, [N/A], [N/A]\\n",
    )
    assert gpus() == (GpuInfo("NVIDIA H100 80GB", "570.1", 81559 << 20),)
    assert vram_use() == VramUse("B", 900 << 20, 1000 << 20)
    tool.write_text("#!/bin/sh\necho no devices were found\nexit 6\n")
    assert gpus() == () and vram_use() is None
