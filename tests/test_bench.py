"""The bench against a real engine and real files; its arithmetic against numbers worked out by hand."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mtpgraft.bench.engine import CompletionRequest, CompletionResult, DraftSpec, LaunchSpec
from mtpgraft.bench.engines.childsession import LOGS_KEPT_S, EngineLog
from mtpgraft.bench.engines.embedded import EmbeddedEngine, EmbeddedSession
from mtpgraft.bench.engines.enginelog import DraftLine, draft_lines, hint_for, telling_lines
from mtpgraft.bench.metrics import (
    ArmResult,
    BreakEven,
    Sample,
    Spread,
    Tally,
    break_even,
    category_speed_up,
    differences,
    prefill_ratio,
    speed_up,
)
from mtpgraft.bench.prompts import Prompt
from mtpgraft.bench.protocol import Arm, HeadChoice, plan_bench
from mtpgraft.bench.result import BenchResult
from mtpgraft.bench.run import BenchProgress, run_bench
from mtpgraft.bench.suites import builtin_suite
from mtpgraft.errors import EngineDiedError, EngineError, ExitCode, InputError, UsageError
from tests.conftest import TINY, TRAINED
from tests.engine import LETTERS, launch, load_and_draft, load_only, refusal

DONOR = TRAINED / "donor-bf16.gguf"
BASE = TRAINED / "base-Q2_K.gguf"
SIDECAR = TRAINED / "mtp-q8_0.gguf"  # llama.cpp's own `--mtp` conversion
RANDOM = TINY / "qwen35"
QUICK = builtin_suite("quick")
SHORT = replace(QUICK, name="short", prompts=(Prompt("def", "code", "def read("),))


@dataclass(frozen=True)
class Run:
    result: BenchResult
    log_dir: Path
    progress: list[BenchProgress]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The trained model with its own head: off, n=1, n=3, twice each."""
    log_dir = tmp_path_factory.mktemp("logs")
    progress: list[BenchProgress] = []
    result = run_bench(
        DONOR, n_max=(1, 3), repeats=2, n_predict=48, engine=EmbeddedEngine(log_dir), progress=progress.append
    )
    return Run(result, log_dir, progress)


# The engine and the figures


def test_a_trained_head_drafts_and_is_believed(trained: Run) -> None:
    off, one, three = trained.result.arms
    assert (off.total.draft_n, off.total.acceptance, off.total.mean_accepted_length) == (0, None, None)
    assert trained.result.drafted_anything
    for arm in (one, three):
        tally = arm.total
        # 0.9 and 0.7 for the finished fixture; a head of random weights has about 0
        assert tally.acceptance is not None and tally.acceptance > 0.4
        assert tally.draft_n <= arm.arm.n_max * tally.n_draft_steps
        assert tally.mean_accepted_length is not None and 1 < tally.mean_accepted_length <= 1 + arm.arm.n_max
        positions = tally.acceptance_per_position
        assert positions is not None and len(positions) == arm.arm.n_max
        assert list(positions) == sorted(positions, reverse=True)
        assert sum(positions) == pytest.approx(tally.mean_accepted_length - 1)


def test_drafting_leaves_the_greedy_text_alone(trained: Run) -> None:
    result = trained.result
    texts = {arm.arm.name: {s.prompt: s.result.text for s in arm.samples} for arm in result.arms}
    assert all(text for text in texts["off"].values())
    for arm in result.on:
        equal = sum(texts[arm.arm.name][prompt] == text for prompt, text in texts["off"].items())
        assert result.n_equal(arm) == equal
        # batching may flip a near-tie on some CPU: one at most
        assert equal >= result.n_prompts - 1


def test_figures_are_those_of_llama_cpps_own_log(trained: Run) -> None:
    """One log per visit, the warm-up's line first; the formula for the mean accepted length is llama.cpp's."""
    logs = [draft_lines(path.read_text()) for path in trained.log_dir.iterdir()]
    logs = [lines for lines in logs if lines]
    n_prompts = trained.result.n_prompts
    assert [len(lines) for lines in logs] == [1 + n_prompts] * 4
    logged = sorted((n.drafted, n.accepted, n.mean_length or 0) for lines in logs for n in lines[1:])
    measured = []
    for arm in trained.result.on:
        for sample in arm.samples:
            tally = Tally((sample,))
            assert tally.steps_are_counted and tally.mean_accepted_length is not None
            measured.append((tally.draft_n, tally.draft_n_accepted, tally.mean_accepted_length))
    assert len(measured) == len(logged) == 4 * n_prompts
    for ours, theirs in zip(sorted(measured), logged, strict=True):
        assert ours[:2] == theirs[:2]
        assert ours[2] == pytest.approx(theirs[2], abs=0.0051)  # the log rounds to two digits


def test_derived_steps_are_close_to_the_counted_ones(trained: Run) -> None:
    """Engines without the counter: the formula must agree with the counter where both exist."""
    for arm in trained.result.on:
        for sample in arm.samples:
            counted = Tally((sample,)).n_draft_steps
            derived = Tally((replace(sample, result=replace(sample.result, n_draft_steps=None)),))
            assert not derived.steps_are_counted
            assert abs(derived.n_draft_steps - counted) <= arm.arm.n_max


def test_speed_is_the_engines_own(trained: Run) -> None:
    for arm in trained.result.arms:
        for sample in arm.samples:
            assert Tally((sample,)).tokens_per_second == pytest.approx(sample.result.predicted_per_second)
        spread = arm.tokens_per_second
        assert spread is not None and 0 < spread.low <= spread.median <= spread.high
    assert trained.result.off is not None
    assert trained.result.speed_up(trained.result.off) == Spread(1.0, 1.0, 1.0)


def test_the_same_run_again_gives_the_same_figures(trained: Run) -> None:
    for arm in trained.result.arms:
        repeats = arm.by_repeat()
        assert list(repeats) == [0, 1]
        first, second = (
            [(s.prompt, s.result.text, s.result.draft_n, s.result.draft_n_accepted) for s in tally.samples]
            for tally in repeats.values()
        )
        assert first == second


def test_progress_counts_every_sample(trained: Run) -> None:
    measured = [p for p in trained.progress if p.prompt is not None]
    assert [p.n_done for p in measured] == list(range(1, trained.result.plan.n_samples + 1))
    assert {p.n_total for p in measured} == {3 * 2 * trained.result.n_prompts}
    starts = [(p.arm, p.repeat) for p in trained.progress if p.prompt is None]
    assert starts == [("n=3", 0), ("n=1", 0), ("off", 0), ("off", 1), ("n=1", 1), ("n=3", 1)]


def test_json_holds_the_figures_and_all_raw_samples(trained: Run) -> None:
    data = json.loads(json.dumps(trained.result.to_json()))
    assert data["schema_version"] == 1
    assert data["model"]["name"] == DONOR.name and len(data["model"]["sha256"]) == 64
    assert data["engine"]["name"] == "xllamacpp" and data["engine"]["build"].startswith("b")
    assert data["suite"]["hash"] == QUICK.hash
    assert data["settings"]["n_threads"] == 1
    off, one, three = data["arms"]
    assert [arm["n_max"] for arm in data["arms"]] == [0, 1, 3]
    assert (off["draft_n"], off["acceptance"], off["drafted"]) == (0, None, False)
    for arm in (one, three):
        assert arm["acceptance"] == pytest.approx(arm["draft_n_accepted"] / arm["draft_n"])
        assert arm["tokens_per_second"] > 0 and arm["mean_accepted_length"] > 1
        assert arm["draft_n"] == sum(sample["draft_n"] for sample in arm["samples"])
        assert len(arm["samples"]) == 2 * len(QUICK.prompts)
        assert set(arm["categories"]) == {"code", "prose"}
        assert arm["greedy_equal"]["n_equal"] + len(arm["greedy_equal"]["differences"]) == len(QUICK.prompts)
        assert arm["speed_up"]["low"] <= arm["speed_up"]["median"] <= arm["speed_up"]["high"]


def test_a_base_drafts_with_a_sidecar_and_not_without(tmp_path: Path) -> None:
    engine = EmbeddedEngine(tmp_path)
    result = run_bench(BASE, sidecar=SIDECAR, n_max=(1,), repeats=1, n_predict=32, engine=engine)
    (on,) = result.on
    assert on.total.acceptance is not None and on.total.acceptance > 0.4
    assert result.off is not None and result.off.total.draft_n == 0
    (head,) = result.heads
    assert head.file is not None and head.file.name == SIDECAR.name
    assert head.head_sha256 is not None and dict(head.types).keys() == {"Q8_0", "F32"}

    with pytest.raises(EngineError, match="doesn't contain MTP layers") as caught:
        run_bench(BASE, n_max=(1,), repeats=1, n_predict=32, engine=engine)
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    assert f"mtpgraft audit {BASE}" in str(caught.value.hint)


def test_a_run_that_drafts_nothing_says_so() -> None:
    """A random head is never 99 % sure, so p_min ends every draft before its first token."""
    result = run_bench(
        RANDOM / "whole.gguf", n_max=(2,), p_min=(0.99,), repeats=1, n_predict=16, suite=SHORT, n_ctx=256
    )
    (on,) = result.on
    assert on.arm.name == "n=2 p>=0.99"
    assert on.total.n_predicted > 0
    assert not result.drafted_anything and on.total.acceptance is None
    assert result.to_json()["drafted_anything"] is False


def test_helpers_cannot_pass_without_drafting() -> None:
    off = load_only(RANDOM / "no-mtp.gguf")
    own = load_and_draft(RANDOM / "whole.gguf")
    beside = load_and_draft(RANDOM / "no-mtp.gguf", RANDOM / "mtp.gguf", n_max=3)
    assert off.n_predicted == 16 and off.text == own.text == beside.text
    assert beside.draft_n > own.draft_n > 0
    with pytest.raises(AssertionError, match="drafted nothing"):
        load_and_draft(RANDOM / "whole.gguf", n_predict=1)
    with pytest.raises(AssertionError, match="loads"):
        refusal(RANDOM / "whole.gguf")


# When the engine refuses, dies or is not there


@pytest.fixture
def session(tmp_path: Path) -> Iterator[EmbeddedSession]:
    engine = EmbeddedEngine(tmp_path / "logs", request_timeout_s=1.5)
    with engine.start(launch(RANDOM / "whole.gguf", n_max=1)) as started:
        yield started


def test_refusals_quote_the_engines_reason(tmp_path: Path) -> None:
    whole = (RANDOM / "whole.gguf").read_bytes()

    undeclared = tmp_path / "undeclared.gguf"
    undeclared.write_bytes(whole.replace(b"qwen35.nextn_predict_layers", b"qwen35.nextn_predict_lay_rs"))
    assert any("wrong number of tensors; expected 43, got 39" in line for line in refusal(undeclared))

    short = tmp_path / "short.gguf"
    short.write_bytes(whole[: len(whole) - 10_000])
    assert any("data is not within the file bounds" in line for line in refusal(short))

    text = tmp_path / "text.gguf"
    text.write_text("not a model")
    assert any("invalid magic" in line for line in refusal(text))


def test_a_crash_at_load_is_a_refusal_with_the_signal() -> None:
    """llama.cpp has no trunk to build a graph from when a sidecar is the main model."""
    *_, what = refusal(RANDOM / "mtp.gguf")
    assert "SIGSEGV" in what or "SIGABRT" in what


def test_an_engine_error_carries_its_data(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        EmbeddedEngine(tmp_path).start(launch(RANDOM / "no-mtp.gguf", n_max=1))
    error = caught.value
    (log,) = tmp_path.iterdir()
    assert error.file == str(RANDOM / "no-mtp.gguf")
    assert "doesn't contain MTP layers" in str(error.found)
    assert str(log) in str(error.hint) and "doesn't contain MTP layers" in log.read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("how", "words"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGSTOP, "did not answer")])
def test_a_dead_or_silent_engine_is_reported_and_gone(
    session: EmbeddedSession, how: signal.Signals, words: str
) -> None:
    assert session.complete(CompletionRequest("abc", 8)).n_predicted > 0
    os.kill(session.pid, how)
    with pytest.raises(EngineDiedError, match=words) as caught:
        session.complete(CompletionRequest("abc", 8))
    assert caught.value.exit_code == ExitCode.RETRY
    assert caught.value.found, "the log's last lines"
    assert session.log_path.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(session.pid, 0)
    with pytest.raises(EngineDiedError):
        session.complete(CompletionRequest("abc", 8))


def test_a_rejected_request_leaves_the_session_alive(session: EmbeddedSession) -> None:
    with pytest.raises(EngineError, match="context size") as caught:
        session.complete(CompletionRequest("a b " * 500, 8))
    assert not isinstance(caught.value, EngineDiedError)
    with pytest.raises(EngineError, match="grammar"):
        session.complete(CompletionRequest("abc", 8, grammar="root ::= ["))
    assert session.complete(CompletionRequest("abc", 8)).n_predicted > 0


def test_a_prompt_is_processed_anew_each_time(session: EmbeddedSession) -> None:
    first, second = (session.complete(CompletionRequest("a longer prompt", 8)) for _ in range(2))
    assert first.prompt_n == second.prompt_n > 5
    assert first.text == second.text


def test_the_engines_own_output_never_reaches_the_answers(tmp_path: Path) -> None:
    spec = replace(launch(RANDOM / "whole.gguf", n_max=1), extra=(("verbosity", 9), ("cache_type_k", "GGML_TYPE_F32")))
    with EmbeddedEngine(tmp_path).start(spec) as session:
        assert session.complete(CompletionRequest("abc", 8, grammar=LETTERS)).draft_n > 0
    (log,) = tmp_path.iterdir()
    text = log.read_text(errors="replace")
    assert len(text.splitlines()) > 200 and "K (f32)" in text
    with pytest.raises(EngineError, match="no_such_setting"):
        EmbeddedEngine(tmp_path).start(replace(spec, extra=(("no_such_setting", 1),)))


def test_logs_are_kept_only_where_they_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    engine = EmbeddedEngine()
    assert engine.info().name == "xllamacpp"
    with engine.start(launch(RANDOM / "whole.gguf")) as session:
        assert session.log_path.exists()
    session.close()  # again
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(EngineError) as caught:
        engine.start(launch(RANDOM / "no-mtp.gguf", n_max=1))
    (log,) = tmp_path.iterdir()
    assert str(log) in str(caught.value.hint), "a log is kept for an error that names it"


def test_kept_logs_go_a_week_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    week = LOGS_KEPT_S + 60
    others = ("mtpgraft-engine-x.txt", "engine.log", "mtpgraft-heads-1.log")
    for name, age_s in (
        ("mtpgraft-engine-old.log", week),
        ("mtpgraft-engine-old.key", week),
        ("mtpgraft-engine-new.log", 60),
        *((name, week) for name in others),
    ):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    (tmp_path / "mtpgraft-engine-dangling.log").symlink_to("nowhere")
    (tmp_path / "mtpgraft-engine-folder.log").mkdir()
    EngineLog.new(tmp_path / "logs")
    assert (tmp_path / "mtpgraft-engine-old.log").exists(), "who names a folder for logs keeps no house in another"
    log = EngineLog.new(None)
    assert {path.name for path in tmp_path.iterdir()} == {
        log.path.name, "mtpgraft-engine-new.log", "mtpgraft-engine-dangling.log", "mtpgraft-engine-folder.log", "logs",
        *others,
    }  # fmt: skip
    log.close()
    assert not log.path.exists()


def test_missing_files_and_missing_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no such file"):
        run_bench(tmp_path / "none.gguf")
    with pytest.raises(InputError, match=r"none-md\.gguf"):
        run_bench(RANDOM / "whole.gguf", sidecar=tmp_path / "none-md.gguf")
    assert list(tmp_path.iterdir()) == []

    broken_wheel = "import os; os.write(1, b'noise'); raise ImportError('libcuda.so.1: cannot open')"
    (tmp_path / "xllamacpp.py").write_text(broken_wheel)
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        with pytest.raises(EngineError, match="libcuda") as broken:
            EmbeddedEngine(tmp_path).info()
    assert "pip install 'mtpgraft[bench]'" in str(broken.value.hint)

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "xllamacpp", None)
        with pytest.raises(EngineError, match="not installed") as missing:
            EmbeddedEngine(tmp_path).info()
    assert missing.value.hint == "pip install 'mtpgraft[bench]'"


# The plan


def test_arms_run_there_and_back_and_the_deepest_first() -> None:
    plan = plan_bench(LaunchSpec(Path("m.gguf")), QUICK, n_max=(1, 2), p_min=(0.0, 0.75), repeats=3)
    names = [arm.name for arm in plan.arms]
    assert names == ["off", "n=1", "n=1 p>=0.75", "n=2", "n=2 p>=0.75"]
    order = [(visit.arm.name, visit.repeat) for visit in plan.visits]
    there = [(name, 0) for name in reversed(names)]
    back = [(name, 1) for name in names]
    assert order == there + back + [(name, 2) for name in reversed(names)]
    assert plan.n_samples == 5 * 3 * len(QUICK.prompts)


def test_arms_differ_in_nothing_but_the_draft() -> None:
    plan = plan_bench(
        LaunchSpec(Path("m.gguf"), n_threads=3, extra=(("n_gpu_layers", 0),)),
        QUICK,
        heads=(HeadChoice("", Path("s.gguf")),),
        n_max=(1, 2),
    )
    assert len({replace(arm.launch, draft=None) for arm in plan.arms}) == 1
    assert [arm.launch.draft for arm in plan.arms] == [None, *(DraftSpec(n, 0.0, Path("s.gguf")) for n in (1, 2))]
    request = plan.request(QUICK.prompts[0])
    assert (request.temperature, request.cache_prompt, request.seed) == (0.0, False, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_max": ()},
        {"n_max": (1, 0)},
        {"n_max": (1, 65)},
        {"p_min": (1.0,)},
        {"p_min": (-0.1,)},
        {"repeats": 0},
        {"n_predict": 1},
        {"heads": (HeadChoice("a"), HeadChoice("a"))},
        {"engines": ()},
        {"synth_rates": (0.5,)},
        {"synth_rates": (0.5, 0.6, 0.1)},
        {"synth_rates": (1.5, 0.6, 0.1)},
    ],
)
def test_numbers_that_measure_nothing_are_refused(wrong: dict[str, object]) -> None:
    (name,) = wrong
    with pytest.raises(UsageError, match=name):
        plan_bench(LaunchSpec(Path("m.gguf")), QUICK, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "launch", [{"n_ctx": 100}, {"n_parallel": 0}, {"n_ctx": 4 * 100, "n_parallel": 4}, {"n_ctx": 2**31}]
)
def test_a_context_that_no_answer_fits_is_refused(launch: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=r"n_ctx|n_parallel"):
        plan_bench(replace(LaunchSpec(Path("m.gguf")), **launch), QUICK)  # type: ignore[arg-type]


def test_a_suites_hash_is_of_what_the_model_sees() -> None:
    assert replace(QUICK, name="other").hash == QUICK.hash
    assert replace(QUICK, shape="chat").hash != QUICK.hash
    assert replace(QUICK, prompts=(*QUICK.prompts, Prompt("x", "code", "y"))).hash != QUICK.hash
    assert len({prompt.id for prompt in QUICK.prompts}) == len(QUICK.prompts)


# The arithmetic


def completion(
    text: str = "text",
    *,
    n: int = 11,
    ms: float = 100.0,
    drafted: int = 0,
    accepted: int = 0,
    steps: int | None = None,
    positions: tuple[int, ...] | None = None,
) -> CompletionResult:
    return CompletionResult(text, None, n, ms, 0.0, 5, 50.0, drafted, accepted, steps, positions, "length")


def arm_of(*results: CompletionResult, prompts: int = 1) -> ArmResult:
    samples = (Sample(i // prompts, f"p{i % prompts}", "code", result) for i, result in enumerate(results))
    return ArmResult(Arm("n=2", LaunchSpec(Path("m.gguf"), draft=DraftSpec(2))), 1, tuple(samples))


def test_rates_are_sums_over_sums() -> None:
    tally = arm_of(completion(n=11, ms=10), completion(n=31, ms=90)).total
    assert tally.tokens_per_second == pytest.approx(1000 * (10 + 30) / 100)
    assert tally.prefill_tokens_per_second == pytest.approx(100.0)
    assert arm_of(completion(n=1, ms=0.001)).total.tokens_per_second is None, "one token has no decode time"


def test_acceptance_and_mean_length() -> None:
    tally = arm_of(
        completion(drafted=10, accepted=6, steps=5, positions=(4, 2)),
        completion(drafted=10, accepted=2, steps=5, positions=(2, 0)),
    ).total
    assert (tally.acceptance, tally.n_draft_steps, tally.mean_accepted_length) == (0.4, 10, 1.8)
    assert tally.acceptance_per_position == (0.6, 0.2)

    derived = arm_of(completion(n=11, drafted=10, accepted=6)).total
    assert (derived.n_draft_steps, derived.mean_accepted_length) == (4, 2.5)
    assert not derived.steps_are_counted and derived.acceptance_per_position is None

    nothing = arm_of(completion()).total
    assert (nothing.drafted, nothing.acceptance, nothing.n_draft_steps) == (False, None, 0)

    rejected = arm_of(completion(drafted=10, accepted=0, steps=5, positions=(0, 0))).total
    assert (rejected.drafted, rejected.acceptance, rejected.mean_accepted_length) == (True, 0.0, 1.0)


def test_speed_up_pairs_the_repeats() -> None:
    off = arm_of(completion(ms=100), completion(ms=200), completion(ms=400))
    on = arm_of(completion(ms=50), completion(ms=160), completion(ms=100))
    assert speed_up(on, off) == Spread(median=2.0, low=1.25, high=4.0)
    assert on.tokens_per_second == Spread(median=100.0, low=62.5, high=200.0)


def test_break_even_is_the_length_that_a_step_must_yield() -> None:
    """10 tokens in 100 ms off; 5 steps of 2 drafted tokens in 100 ms on: a step of 20 ms must yield two tokens."""
    off = arm_of(completion(n=11, ms=100))
    on = arm_of(completion(n=9, ms=100, drafted=10, accepted=3, steps=5, positions=(2, 1)))
    assert break_even(on, off) == BreakEven(mean_accepted_length=2.0, acceptance=0.5)
    cheap = arm_of(completion(n=9, ms=10, drafted=10, accepted=3, steps=5))
    assert break_even(cheap, off) == BreakEven(1.0, 0.0)
    assert break_even(off, off) is None


def test_throughput_ranks_slots_and_decode_speed_ranks_one() -> None:
    arm = replace(arm_of(completion(n=11, ms=100), completion(n=11, ms=200)), wall_s=(0.5, 1.1))
    assert arm.throughput == Spread(median=16.0, low=10.0, high=22.0)
    assert arm.speed == arm.tokens_per_second == Spread(75.0, 50.0, 100.0)
    slots = replace(arm, arm=replace(arm.arm, launch=replace(arm.arm.launch, n_parallel=2)))
    assert slots.speed == slots.throughput
    assert arm_of(completion()).throughput is None


def test_prefill_and_categories_are_paired_too() -> None:
    def arm(prefill_ms: float, code_ms: float, prose_ms: float) -> ArmResult:
        results = [replace(completion(ms=ms), prompt_ms=prefill_ms) for ms in (code_ms, prose_ms)]
        samples = tuple(Sample(0, kind, kind, r) for kind, r in zip(("code", "prose"), results, strict=True))
        return replace(arm_of(), samples=samples)

    off, on = arm(50, 100, 100), arm(100, 50, 200)
    assert prefill_ratio(on, off) == Spread(0.5, 0.5, 0.5)
    assert category_speed_up(on, off) == {"code": Spread(2.0, 2.0, 2.0), "prose": Spread(0.5, 0.5, 0.5)}
    assert category_speed_up(on, arm_of(completion())) == {"code": Spread(2.0, 2.0, 2.0)}, "no prose to compare with"


def test_times_and_stops_of_a_group() -> None:
    tally = arm_of(
        replace(completion(), first_token_ms=10.0, wall_ms=100.0),
        replace(completion(), first_token_ms=30.0, wall_ms=250.0, stop="stop"),
    ).total
    assert (tally.first_token_ms, tally.wall_s, tally.stops) == (20.0, 0.35, {"length": 1, "stop": 1})
    bare = arm_of(completion(), replace(completion(), wall_ms=1.0)).total
    assert (bare.first_token_ms, bare.wall_s) == (None, None)


def test_differences_are_counted_per_prompt() -> None:
    off = arm_of(completion("same"), completion("abcdef"), completion("same"), completion("abcdef"), prompts=2)
    on = arm_of(completion("same"), completion("abcxef"), completion("same"), completion("abcdefgh"), prompts=2)
    (difference,) = differences(on, off)
    assert (difference.prompt, difference.repeat, difference.offset) == ("p1", 0, 3)
    assert (difference.off, difference.on) == ("def", "xef")
    ended = replace(completion("ab"), stop="stop")
    (early,) = differences(arm_of(ended), arm_of(completion("abc")))
    assert (early.offset, early.off, early.on) == (2, "c", "")
    assert not differences(arm_of(completion("ab")), arm_of(completion("abc"))), "both cut by the limit"
    (longer,) = differences(arm_of(completion("abc")), arm_of(completion("ab")))
    assert (longer.offset, longer.off, longer.on) == (2, "", "c")


# The log


def test_telling_lines() -> None:
    log = """0.00.003.635 I srv          init: loading model
0.00.009.446 E llama_model_load: error loading model: check_tensor_dims: tensor 'blk.4.attn_q.weight' not found
0.00.009.491 E llama_model_load_from_file_impl: failed to load model
0.00.009.814 E srv          init: exiting due to model loading error
"""
    (line,) = telling_lines(log)
    assert line == "llama_model_load: error loading model: check_tensor_dims: tensor 'blk.4.attn_q.weight' not found"
    assert hint_for((line,), "m.gguf").startswith("`mtpgraft audit m.gguf`")
    (alone,) = telling_lines("/b/llama.cpp/ggml/src/ggml-rpc/ggml-rpc.cpp:547: Failed to connect to 127.0.0.1:9\n")
    assert "ggml-rpc-server" in hint_for((alone,), "m.gguf")
    failed = '/build/llama.cpp/src/models/qwen35.cpp:513: GGML_ASSERT(layer.nextn.eh_proj && "M") failed'
    assert telling_lines(failed) == ('src/models/qwen35.cpp:513: GGML_ASSERT(layer.nextn.eh_proj && "M") failed',)
    assert telling_lines("0.00.003.635 I one\n0.00.003.635 W two\nthree\nfour\n") == ("two", "three", "four")
    assert telling_lines("") == ()


def test_draft_lines_of_three_generations() -> None:
    log = """
0.00.1 I draft acceptance = 0.87500 (    7 accepted /     8 generated), mean len =  1.88
draft acceptance = 0.64479 (  167 accepted /   259 generated), mean acceptance length = 2.92, acceptance rate ...
draft acceptance rate = 0.57576 (  171 accepted /   297 generated)
"""
    assert draft_lines(log) == (DraftLine(8, 7, 1.88), DraftLine(259, 167, 2.92), DraftLine(297, 171, None))
