"""Engines: how they are found, spelled, started, asked, lost and ended.

Everything that answers here is llama.cpp itself (the embedded engine, and its own HTTP server started by
tests/xllama_server.py), except where a docstring says so.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from mtpgraft.bench.engine import CompletionRequest, CompletionResult, DraftSpec, EngineInfo, LaunchSpec
from mtpgraft.bench.engines import binary
from mtpgraft.bench.engines.binary import BinaryEngine
from mtpgraft.bench.engines.builds import DRAFT_MTP, FEATURES, TROUBLES, blocking_trouble, has_feature, troubles_of
from mtpgraft.bench.engines.dialect import arguments, drafting
from mtpgraft.bench.engines.embedded import EmbeddedEngine
from mtpgraft.bench.engines.find import find_binary, find_engine, server_base
from mtpgraft.bench.engines.http import Http, shown_url
from mtpgraft.bench.engines.openai import OpenAiClient, SpecCounters, vllm_counters
from mtpgraft.bench.engines.probe import Probe, parse_help, probe
from mtpgraft.bench.engines.refusal import refuse_known_bad
from mtpgraft.bench.engines.running import RunningEngine, drafts_by_request
from mtpgraft.bench.engines.timings import parse_completion
from mtpgraft.bench.gpu import gpus, vram_use
from mtpgraft.bench.labels import draft_flags
from mtpgraft.bench.protocol import plan_bench
from mtpgraft.bench.run import execute
from mtpgraft.bench.suites import builtin_suite
from mtpgraft.errors import EngineDiedError, EngineError, ExitCode, InputError, RefusedError, UsageError
from mtpgraft.launch.command import DIALECTS, Start, command_line
from tests.conftest import TRAINED, Program

DONOR = TRAINED / "donor-bf16.gguf"
BASE = TRAINED / "base-Q2_K.gguf"
SIDECAR = TRAINED / "mtp-q8_0.gguf"
PROMPTS = ("def read(self, size=-1):\n", "class Queue:\n    def __init__(self", "import os\n\ndef main():\n")
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def launch(n_max: int = 0, model: Path = DONOR, **more: object) -> LaunchSpec:
    draft = DraftSpec(n_max) if n_max else None
    spec = LaunchSpec(model, n_ctx=512, draft=draft, n_threads=1, n_batch=64, warmup=False)
    return replace(spec, **more)  # type: ignore[arg-type]


def ask(prompt: str = PROMPTS[0], n_predict: int = 32, shape: str = "completion") -> CompletionRequest:
    return CompletionRequest(prompt, n_predict, shape=shape)


def drafted(results: list[CompletionResult]) -> list[tuple[str, int, int, int | None, tuple[int, ...] | None]]:
    return [(r.text, r.draft_n, r.draft_n_accepted, r.n_draft_steps, r.accepted_per_position) for r in results]


@pytest.fixture(scope="session")
def server_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program called llama-server: tests/xllama_server.py under this interpreter."""
    program = tmp_path_factory.mktemp("bin") / "llama-server"
    script = Path(__file__).with_name("xllama_server.py")
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    program.chmod(0o755)
    return program


@pytest.fixture(scope="module")
def embedded_results() -> list[CompletionResult]:
    with EmbeddedEngine().start(launch(2)) as session:
        return [session.complete(ask(prompt)) for prompt in PROMPTS]


# Finding one


def test_what_users_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server_program: Path) -> None:
    assert isinstance(find_engine(None), EmbeddedEngine) and isinstance(find_engine("embedded"), EmbeddedEngine)
    running = find_engine("http://127.0.0.1:8080/v1/")
    assert isinstance(running, RunningEngine) and running.base == "http://127.0.0.1:8080" and running.is_fixed
    for text in (str(server_program), str(server_program.parent)):
        engine = find_engine(text, log_dir=tmp_path)
        assert isinstance(engine, BinaryEngine) and engine.binary == server_program and engine.log_dir == tmp_path
        assert not engine.is_fixed
    monkeypatch.setenv("PATH", str(server_program.parent), prepend=os.pathsep)
    assert find_binary("llama-server") == server_program
    (tmp_path / "build" / "bin").mkdir(parents=True)
    (tmp_path / "build" / "bin" / "llama-server").touch()
    assert find_binary(str(tmp_path)) == tmp_path / "build" / "bin" / "llama-server"


@pytest.mark.parametrize("text", ["no-such-engine", "./no/such/engine"])
def test_an_engine_that_is_not_there_says_how_to_install_one(text: str) -> None:
    with pytest.raises(EngineError) as caught:
        find_engine(text)
    assert "brew install llama.cpp" in str(caught.value.hint) and caught.value.exit_code == ExitCode.BAD_INPUT


def test_a_folder_without_one(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="holds no llama-server"):
        find_engine(str(tmp_path))


@pytest.mark.parametrize("url", ["http://", "http://host:0", "http://host:port", "https:///v1"])
def test_no_url_of_a_server(url: str) -> None:
    with pytest.raises(UsageError):
        find_engine(url)


def test_credentials_in_a_url_are_not_shown() -> None:
    assert shown_url("http://me:secret@host:8080/x") == "http://host:8080/x"
    assert server_base("http://host/api/v1") == "http://host/api"


def test_programs_that_are_no_llama_server(tmp_path: Path) -> None:
    true = shutil.which("true")
    assert true is not None
    with pytest.raises(EngineError, match="is not a llama-server"):
        BinaryEngine(Path(true)).info()
    text = tmp_path / "llama-server"
    text.write_text("no program\n")
    with pytest.raises(EngineError, match="may not be executed") as caught:
        BinaryEngine(text).info()
    assert caught.value.hint == f"chmod +x {text}"
    text.chmod(0o755)
    os.utime(text, (1, 1))
    with pytest.raises(EngineError, match="cannot be run on this machine"):
        BinaryEngine(text).info()
    cli = tmp_path / "llama-cli"
    cli.write_text('#!/bin/sh\necho "version: 9200 (abc)"\necho "-m, --model FNAME  model"\n')
    cli.chmod(0o755)
    with pytest.raises(EngineError, match="and not its server"):
        BinaryEngine(cli).info()


# Builds and their dialects: help texts as the builds print them, shortened to the options that matter

MAINLINE = """
-fit,  --fit [on|off]                   whether to adjust unset arguments to fit in device memory ('on' or
                                        'off', default: 'on')
-cram, --cache-ram N                    set the maximum cache size in MiB (default: 8192, -1 - no limit, 0 -
                                        disable)
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM
-ctk,  --cache-type-k TYPE              KV cache data type for K
                                        allowed values: f32, f16, bf16, q8_0, q4_0
-ctv,  --cache-type-v TYPE              KV cache data type for V
--rpc SERVERS                           comma-separated list of RPC servers (host:port)
--metrics                               enable prometheus compatible metrics endpoint (default: disabled)
--slots, --no-slots                     expose slots monitoring endpoint (default: enabled)
--spec-draft-n-max N                    number of tokens to draft for speculative decoding (default: 3)
--spec-draft-p-min, --draft-p-min P     minimum speculative decoding probability (greedy) (default: 0.00)
--spec-synth-rates P0,P1,...            comma-separated unconditional per-position synthetic acceptance
                                        probabilities (benchmarking only)
--spec-type none,draft-simple,draft-eagle3,draft-mtp,draft-dflash
                                        comma-separated list of types of speculative decoding to use (default:
                                        none)

--draft, --draft-n, --draft-max N       the argument has been removed. use --spec-draft-n-max or
                                        --spec-ngram-mod-n-max
"""
BEFORE_MTP = """
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM
--spec-type [none|ngram-cache|ngram-simple]
                                        type of speculative decoding to use when no draft model is provided
--draft, --draft-n, --draft-max N       number of tokens to draft for speculative decoding (default: 16)
"""
IK_NEW = """
  -cram, --cache-ram N            set the maximum cache size in MiB (default: 8192, -1 - no limit, 0 - disable)
  -mtprot, --mtp-requantize-output-tensor type
                                  Use output requantized to type for MTP (default: none)
         --fit                    automatically determine which tensors to offload to the GPU(s)
         --log-disable            Disable trace logs
         --metrics                enable prometheus compatible metrics endpoint (default: disabled)
  --spec-type SPEC[:k=v,...]      canonical speculative stage entry; repeat for a supported two-stage chain.
                                  types: none, draft, dflash, dspark, mtp, ngram-cache, ngram-simple, suffix
                                  examples: --spec-type mtp:n_max=1,p_min=0.0
                                            --model-draft draft.gguf --spec-type dflash:n_max=4,cross_ctx=512
"""
IK_MIDDLE = """
  -mla,  --mla-use                enable MLA (default: 3)
  --draft-max, --draft, --draft-n N
                                  number of tokens to draft for speculative decoding (default: 16)
  --draft-p-min P                 minimum speculative decoding probability (greedy) (default: 0.8)
  --spec-type Name                type of speculative decoding to use when no draft model is provided (default: none)
                                  none | mtp | ngram-cache | ngram-simple
"""
IK_OLD = """
  -mla,  --mla-use                enable MLA (default: 3)
  -mtp, --multi-token-prediction  whether to use multi-token-prediction (if supported) (default: false)
  --draft-max, --draft, --draft-n N
                                  number of tokens to draft for speculative decoding (default: 16)
  --draft-p-min P                 minimum speculative decoding probability (greedy) (default: 0.8)
"""


def a_build(text: str, kind: str = "llama.cpp", number: int | None = None) -> Probe:
    return Probe(Path("llama-server"), kind, "", "unknown", number, "", (), None, parse_help(text))


def spelled(text: str, spec: LaunchSpec, kind: str = "llama.cpp") -> str:
    return " ".join(arguments(a_build(text, kind), spec, 4)).replace(str(DONOR.absolute()), "MODEL")


def test_help_is_read_whatever_its_layout() -> None:
    mainline = parse_help(MAINLINE)
    assert {"-fit", "--fit", "--n-gpu-layers", "--no-slots", "--draft-p-min", "--rpc"} <= set(mainline)
    assert "draft-mtp" in mainline["--spec-type"] and "default" in mainline["--spec-type"]
    assert "--draft-max" not in mainline, "an option that was removed is not there"
    ik = parse_help(IK_NEW)
    assert {"-mtprot", "--fit", "--spec-type", "--metrics"} <= set(ik)
    assert "--model-draft" not in ik, "an example is no option"


def test_each_build_in_its_own_words() -> None:
    on = launch(3, n_batch=None)
    common = "-m MODEL -c 512 -np 1 -t 4 -tb 4 --no-warmup"
    assert spelled(MAINLINE, on) == (
        f"{common} --fit off --cache-ram 0 --metrics --no-slots "
        "--spec-type draft-mtp --spec-draft-n-max 3 --spec-draft-p-min 0"
    )
    assert spelled(MAINLINE, launch(0)).endswith("--fit off --cache-ram 0 --metrics --no-slots")
    # its --fit takes no value and is off unless given
    assert spelled(IK_NEW, on) == f"{common} --cache-ram 0 --metrics --log-disable --spec-type mtp:n_max=3,p_min=0"
    assert spelled(IK_MIDDLE, on) == f"{common} --spec-type mtp --draft-max 3 --draft-p-min 0"
    assert spelled(IK_OLD, on) == f"{common} -mtp --draft-max 3 --draft-p-min 0"
    assert [drafting(a_build(text)) is None for text in (MAINLINE, BEFORE_MTP, IK_NEW, IK_OLD)] == [0, 1, 0, 0]


def test_a_plan_and_a_sweep_print_what_a_bench_says() -> None:
    for text, kind, engine in ((MAINLINE, "llama.cpp", "llama.cpp"), (IK_NEW, "ik_llama.cpp", "ik")):
        said = spelled(text, launch(draft=DraftSpec(3, sidecar=SIDECAR)), kind)
        assert said.endswith(" ".join(draft_flags(DraftSpec(3, sidecar=SIDECAR), kind)))
        start = Start("m.gguf", 512, 1, "f16", 3, str(SIDECAR))
        assert " ".join(draft_flags(DraftSpec(3, sidecar=SIDECAR), kind)) in command_line("x", start, DIALECTS[engine])


def test_every_wish_reaches_the_command_line() -> None:
    draft = DraftSpec(2, 0.75, SIDECAR, (0.9, 0.6))
    spec = launch(n_gpu_layers=99, cache_type_k="turbo3", cache_type_v="q8_0", rpc=("a:1", "b:2"), draft=draft,
                  args=("-fa", "on"))  # fmt: skip
    text = spelled(MAINLINE, spec)
    for part in (
        "-ngl 99", "-ctk turbo3", "-ctv q8_0", "--rpc a:1,b:2", f"-md {SIDECAR}", "--spec-draft-n-max 2",
        "--spec-draft-p-min 0.75", "--spec-synth-rates 0.9,0.6", "-b 64 -ub 64",
    ):  # fmt: skip
        assert part in text
    assert text.endswith("-fa on"), "the user's own arguments win"


@pytest.mark.parametrize(
    ("text", "kind", "wish", "lack"),
    [
        (BEFORE_MTP, "llama.cpp", {"draft": DraftSpec(1)}, "cannot draft with MTP"),
        (BEFORE_MTP, "llama.cpp", {"rpc": ("a:1",)}, "no --rpc"),
        (IK_NEW, "ik_llama.cpp", {"n_gpu_layers": 9}, "no -ngl"),
        (IK_NEW, "ik_llama.cpp", {"draft": DraftSpec(1, synth_rates=(0.5,))}, "no --spec-synth-rates"),
    ],
)
def test_what_a_build_lacks_is_said(text: str, kind: str, wish: dict[str, object], lack: str) -> None:
    with pytest.raises(EngineError, match=lack) as caught:
        spelled(text, launch(**wish), kind)  # type: ignore[arg-type]
    assert caught.value.hint


def test_mtp_is_told_by_its_pull_request() -> None:
    with pytest.raises(EngineError, match=r"ggml-org/llama\.cpp#22673, merged 16 May 2026"):
        spelled(BEFORE_MTP, launch(1))


@pytest.mark.parametrize("args", [("--host", "0.0.0.0"), ("--api-key=x",)])
def test_arguments_that_would_cut_the_server_off(args: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="set by mtpgraft itself"):
        spelled(MAINLINE, launch(args=args))


def test_settings_of_the_embedded_engine_are_none_of_a_binarys() -> None:
    with pytest.raises(UsageError, match="n_keep"):
        spelled(MAINLINE, launch(extra=(("n_keep", 4),)))


def test_builds_in_which_mtp_does_not_start_are_refused_with_the_reason() -> None:
    assert [blocking_trouble(n) is not None for n in (10740, 10741, 10745, 10748, 10749)] == [0, 1, 1, 1, 0]
    assert blocking_trouble(None) is None, "nothing is held against a build that does not tell its number"
    with pytest.raises(RefusedError, match="b10741 to b10748") as caught:
        refuse_known_bad(EngineInfo("llama-server", "", "b10743 (8887a48f0)", "", (), build_number=10743), "it")
    assert "28188" in str(caught.value) and "update" in str(caught.value.hint)


def test_a_bad_build_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    program = tmp_path / "llama-server"
    program.write_text(
        f"#!/bin/sh\ncase $1 in\n--version) echo 'version: 0.3.0-dev (build 10743, commit 8887a48f0)';;\n"
        f"--help) cat '{tmp_path}/help';;\n*) touch '{tmp_path}/started';;\nesac\n"
    )
    (tmp_path / "help").write_text(MAINLINE + "--port PORT    port to listen\n--api-key-file FNAME   keys\n")
    program.chmod(0o755)
    engine = BinaryEngine(program)
    assert engine.info().build == "b10743 (8887a48f0)" and engine.info().version == "0.3.0-dev"
    with pytest.raises(RefusedError):
        engine.start(launch(1))
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    ("said", "version", "build"),
    [
        ("0.6.0-dev (build 11434, commit 1a2b3c4)", "0.6.0-dev", "b11434 (1a2b3c4)"),
        ("6543 (1a2b3c4)", "6543", "b6543 (1a2b3c4)"),
        ("0.6.0-dev (build 0, commit unknown)", "0.6.0-dev", "unnumbered build"),
        ("0 (unknown)", "", "unnumbered build"),
        ("1 (8337e4cd3)", "", "unnumbered build (8337e4cd3)"),
    ],
)
def test_a_build_has_a_short_label(tmp_path: Path, mtpgraft: Program, said: str, version: str, build: str) -> None:
    program = tmp_path / "llama-server"
    program.write_text(
        f"#!/bin/sh\ncase $1 in\n--version) echo 'version: {said}';;\n*) cat '{tmp_path}/help';;\nesac\n"
    )
    (tmp_path / "help").write_text(MAINLINE + "--port PORT    port to listen\n")
    program.chmod(0o755)
    info = BinaryEngine(program).info()
    assert (info.version, info.build) == (version, build)
    text = mtpgraft("doctor", "--engine", program).stdout
    assert f", {build}\n" in text
    assert ("cannot be told from the known-bad ones (b10741 to b10748)" in text) is (info.build_number is None)


def test_an_unnumbered_build_is_remarked_in_a_bench(server_program: Path) -> None:
    """The same program, telling no number."""
    unnumbered = server_program.with_name("unnumbered")
    tells = "[ \"$1\" = --version ] && echo 'version: 0 (unknown)' && exit\n"
    unnumbered.write_text(server_program.read_text().replace("exec ", f"{tells}exec "))
    unnumbered.chmod(0o755)
    plan = plan_bench(launch(), builtin_suite("quick"), n_max=(1,), repeats=1, n_predict=8)
    plan = replace(plan, suite=replace(plan.suite, prompts=plan.suite.prompts[:1]))
    notes = [execute(plan, (BinaryEngine(program),)).notes for program in (server_program, unnumbered)]
    assert notes[0] == () and len(notes[1]) == 1 and "known-bad ones" in notes[1][0]


def test_rows_of_builds_are_complete() -> None:
    for row in (*FEATURES, *TROUBLES):
        assert "llama.cpp#" in row.source or row.name == "RPC"
        assert row.advice and row.name
    assert all(trouble.since <= trouble.until for trouble in TROUBLES)
    assert troubles_of(10741) and not troubles_of(11434)


def test_a_feature_is_judged_by_help_first_and_then_by_number() -> None:
    by_name = {feature.name: feature for feature in FEATURES}
    assert has_feature(DRAFT_MTP, parse_help(MAINLINE), 9000) is True, "a fork counts on its own"
    assert has_feature(DRAFT_MTP, parse_help(BEFORE_MTP), 99999) is False
    gemma, fix = by_name["Gemma 4 assistants"], by_name["KV-copy fix"]
    assert [has_feature(fix, {}, n) for n in (9550, 9551, None)] == [False, True, None]
    assert has_feature(gemma, {}, 9000) is None, "its first build is not known"
    assert has_feature(fix, parse_help(MAINLINE), None) is True, "who lists --spec-synth-rates is newer than b10434"
    assert has_feature(by_name["RPC"], None, 11549) is False, "not through the embedded engine"


# The embedded engine


def test_chat_goes_through_the_template() -> None:
    with EmbeddedEngine().start(launch(2)) as session:
        raw, chat = session.complete(ask("hello")), session.complete(ask("hello", shape="chat"))
    assert chat.prompt_n > raw.prompt_n and chat.text != raw.text and chat.n_predicted == 32


def test_concurrent_requests_answer_as_they_do_alone(embedded_results: list[CompletionResult]) -> None:
    """Greedy, and each in its own slot. Counters of all slots together tell of none."""
    with EmbeddedEngine().start(launch(2, n_parallel=3, n_ctx=1536)) as session:
        together = session.complete_all([ask(prompt) for prompt in PROMPTS])
    assert [r.text for r in together] == [r.text for r in embedded_results]
    assert all(r.draft_n > 0 and r.n_draft_steps is None and r.accepted_per_position is None for r in together)
    assert all(r.wall_ms is not None and r.wall_ms >= r.predicted_ms for r in together)


def test_synthetic_acceptance_replaces_the_heads() -> None:
    """1, 0: every first token is taken and every second one refused, whatever the head proposes."""
    draft = DraftSpec(2, synth_rates=(1.0, 0.0))
    with EmbeddedEngine().start(launch(draft=draft)) as session:
        result = session.complete(ask(n_predict=64))
    steps = result.n_draft_steps
    assert steps is not None and steps > 20 and result.accepted_per_position == (steps, 0)


def test_cache_types_and_gpu_layers_reach_llama_cpp(tmp_path: Path) -> None:
    spec = launch(2, cache_type_k="q8_0", cache_type_v="q8_0", n_gpu_layers=0, extra=(("verbosity", 4),))
    with EmbeddedEngine(tmp_path).start(spec) as session:
        assert session.complete(ask()).draft_n > 0
        assert "K (q8_0)" in session.facts().log
    with pytest.raises(EngineError, match="turbo3") as caught:
        EmbeddedEngine().start(launch(cache_type_k="turbo3"))
    assert "llama-server" in str(caught.value.hint)


@pytest.mark.parametrize("wish", [{"rpc": ("a:1",)}, {"args": ("-fa", "on")}])
def test_what_needs_a_command_line_is_sent_to_a_binary(wish: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        EmbeddedEngine().start(launch(**wish))  # type: ignore[arg-type]
    assert "--engine llama-server" in str(caught.value.hint)


@ON_LINUX
def test_environment_reaches_the_engine() -> None:
    with EmbeddedEngine().start(launch(env=(("GGML_CUDA_DISABLE_GRAPHS", "1"),))) as session:
        assert b"GGML_CUDA_DISABLE_GRAPHS=1" in Path(f"/proc/{session.pid}/environ").read_bytes()


# A binary


def test_a_binary_answers_what_the_embedded_engine_answers(
    server_program: Path, tmp_path: Path, embedded_results: list[CompletionResult]
) -> None:
    """The same build behind both, so text, drafts and acceptance must be equal to the last token."""
    engine = BinaryEngine(server_program, tmp_path)
    assert engine.info().kind == "llama.cpp" and engine.info().build_number == 11549
    with engine.start(launch(2)) as session:
        results = [session.complete(ask(prompt)) for prompt in PROMPTS]
        together = session.complete_all([ask(PROMPTS[0])])
        facts = session.facts()
    assert drafted(results) == drafted(embedded_results)
    assert sum(r.draft_n_accepted for r in results) > 20
    for result in results:
        assert result.tokens is not None and len(result.tokens) == result.n_predicted == 32
        assert result.wall_ms is not None and result.wall_ms > result.predicted_ms
        assert result.first_token_ms == result.prompt_ms > 0
    assert (together[0].text, together[0].n_draft_steps) == (results[0].text, None)
    assert facts.command[0] == str(server_program) and "--spec-type" in facts.command
    assert not {"--api-key-file", "--port", "--host"} & set(facts.command), "a command that anyone may type again"
    assert "draft acceptance" in facts.log
    assert len(list(tmp_path.iterdir())) == 1, "one log per start"


def test_a_sidecar_and_a_chat(server_program: Path) -> None:
    with BinaryEngine(server_program).start(launch(model=BASE, draft=DraftSpec(1, sidecar=SIDECAR))) as session:
        assert session.complete(ask()).draft_n > 0
        chat = session.complete(ask("hello", shape="chat"))
        assert chat.tokens is None and chat.n_predicted == 32 and chat.stop == "length"


@ON_LINUX
def test_nothing_is_left_behind_and_no_key_shows(server_program: Path) -> None:
    session = BinaryEngine(server_program).start(launch(1))
    key = session._client.http.api_key
    assert key and key not in repr(session._client)
    for name in ("cmdline", "environ"):
        assert key.encode() not in Path(f"/proc/{session.pid}/{name}").read_bytes()
    key_file = session._key_file
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    stranger = Http(f"http://127.0.0.1:{session.port}").post("/completion", {"prompt": "x"})
    assert stranger.status == 401
    session.close()
    session.close()
    assert not alive(session.pid) and not key_file.exists() and not session.log_path.exists()


def test_a_server_that_dies_in_the_middle(server_program: Path, tmp_path: Path) -> None:
    session = BinaryEngine(server_program, tmp_path).start(launch(1))
    killer = threading.Timer(0.3, os.kill, (session.pid, signal.SIGKILL))
    killer.start()
    with pytest.raises(EngineDiedError, match="was ended by SIGKILL") as caught:
        for _ in range(200):
            session.complete(ask(n_predict=400))
    killer.join()
    assert caught.value.exit_code == ExitCode.RETRY
    assert "mtpgraft plan" in str(caught.value.hint), "SIGKILL is what the system does when memory runs out"
    assert str(session.log_path) in str(caught.value.hint) and session.log_path.exists()


def test_a_model_that_the_server_refuses(server_program: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="doesn't contain MTP layers") as caught:
        BinaryEngine(server_program, tmp_path).start(launch(1, model=BASE))
    assert f"mtpgraft audit {BASE}" in str(caught.value.hint) and caught.value.exit_code == ExitCode.BAD_INPUT
    assert "doesn't contain MTP layers" in next(tmp_path.iterdir()).read_text(), "its log is kept"
    with pytest.raises(InputError, match="no such file"):
        BinaryEngine(server_program).start(launch(model=Path("missing.gguf")))


def test_a_request_that_does_not_fit(server_program: Path) -> None:
    with BinaryEngine(server_program).start(launch()) as session:
        with pytest.raises(EngineError, match="context") as caught:
            session.complete(ask("word " * 2000))
        assert "shorter prompt" in str(caught.value.hint)
        assert session.complete(ask()).n_predicted == 32, "and the session lives on"


def test_a_port_that_is_taken(server_program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match="the port is taken") as caught:
            BinaryEngine(server_program).start(launch(args=("--port", str(port))))
        assert str(port) in str(caught.value)
        # ours was free when we looked: the next one is tried
        free = binary._free_port
        ports = iter([port])
        monkeypatch.setattr(binary, "_free_port", lambda: next(ports, None) or free())
        with BinaryEngine(server_program).start(launch()) as session:
            assert session.port != port and session.complete(ask()).n_predicted == 32


@ON_LINUX
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_server_outlives_its_parent(server_program: Path, end: signal.Signals) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from mtpgraft.bench.engine import LaunchSpec\nfrom mtpgraft.bench.engines.binary import BinaryEngine\n"
        "session = BinaryEngine(Path(sys.argv[1])).start(LaunchSpec(Path(sys.argv[2]), n_ctx=256, n_threads=1))\n"
        "print(session.pid, flush=True)\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, server_program, DONOR],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout is not None
    with parent:
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.send_signal(end)
    for _ in range(200):
        if not alive(pid):
            return
        time.sleep(0.05)
    raise AssertionError("the server still runs")


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


# A server that runs


def test_a_running_llama_cpp(
    server_program: Path, monkeypatch: pytest.MonkeyPatch, embedded_results: list[CompletionResult]
) -> None:
    with BinaryEngine(server_program).start(launch(2)) as session:
        engine = find_engine(f"http://127.0.0.1:{session.port}")
        with pytest.raises(EngineError, match="wants an API key") as caught:
            engine.info()
        assert "MTPGRAFT_API_KEY" in str(caught.value.hint)
        key = session._client.http.api_key
        assert key is not None
        monkeypatch.setenv("OPENAI_API_KEY", key)  # sent on demand only
        assert engine.info().kind == "llama.cpp"
        monkeypatch.setenv("OPENAI_API_KEY", "another")
        monkeypatch.setenv("MTPGRAFT_API_KEY", key)
        assert key not in repr(engine.info()) and DONOR.name in engine.info().system
        with engine.start(launch()) as running:
            assert key not in repr(running._client)
            assert drafted([running.complete(ask(prompt)) for prompt in PROMPTS]) == drafted(embedded_results)
        assert alive(session.pid), "closing our side leaves the server alone"
        client = OpenAiClient(session._client.http, "any")
        for shape in ("completion", "chat"):
            streamed = client.complete(ask(shape=shape))
            session.complete(ask(PROMPTS[1]))  # the same prompt twice in a row drafts from what the first left behind
            whole = session.complete(ask(shape=shape))
            assert (streamed.text, streamed.draft_n, streamed.draft_n_accepted, streamed.stop) == (
                whole.text, whole.draft_n, whole.draft_n_accepted, whole.stop
            )  # fmt: skip
            assert streamed.first_token_ms is not None and streamed.wall_ms is not None
            assert 0 < streamed.first_token_ms < streamed.wall_ms
        with engine.start(launch()) as running:
            session.close()
            with pytest.raises(EngineDiedError, match="did not finish"):
                running.complete(ask())


def test_a_running_llama_cpp_takes_no_depth(
    server_program: Path, mtpgraft: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BinaryEngine(server_program).start(launch(2)) as session:
        key = session._client.http.api_key
        assert key is not None
        done = mtpgraft(
            "bench", DONOR, "--engine", f"http://127.0.0.1:{session.port}", "--p-min", "0.5",
            expect=ExitCode.BAD_INPUT, MTPGRAFT_API_KEY=key,
        )  # fmt: skip
    assert "found --n-max or --p-min" in done.stderr


def test_nobody_answers() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(EngineError, match="Connection refused"):
            find_engine(f"http://127.0.0.1:{closed.getsockname()[1]}").info()


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_web_server_is_no_engine() -> None:
    with serving(Quiet) as url, pytest.raises(EngineError, match="nor OpenAI-compatible"):
        find_engine(url).info()


class IkForm(Quiet):
    """What a running ik_llama.cpp 8337e4cd3 answers, with a depth of drafts that this test sets."""

    requests: ClassVar[list[dict[str, object]]] = []
    depth = 1

    def do_GET(self) -> None:
        known: dict[str, dict[str, object]] = {
            "/props": {"default_generation_settings": {}, "model_path": "/m.gguf"},
            "/version": {"version": "1", "features": {}},
        }
        self.reply(known.get(self.path))

    def do_POST(self) -> None:
        type(self).requests.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        depths = [{"depth": i + 1, "draft_n": 4, "draft_n_accepted": 4 - i} for i in range(type(self).depth)]
        timings = {"prompt_n": 3, "prompt_ms": 1.0, "predicted_n": 8, "predicted_ms": 4.0, "predicted_per_second": 2e3}
        self.reply({"content": "x", "stopped_limit": True, "timings": {**timings, "draft_by_depth": depths}})

    def reply(self, answer: dict[str, object] | None) -> None:
        body = json.dumps(answer or {}).encode()
        self.send_response(200 if answer else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_a_running_ik_llama_cpp_is_told_how_to_draft() -> None:
    """Its form only; tests/test_engine_binaries.py asks the real one."""
    IkForm.requests.clear()
    with serving(IkForm) as url:
        engine = find_engine(url)
        assert engine.info().kind == "ik_llama.cpp" and drafts_by_request(engine.info())
        with engine.start(launch(draft=DraftSpec(1, 0.5))) as told, engine.start(launch()) as plain:
            told.complete_all([ask(), ask()])
            IkForm.depth = 2
            plain.complete(ask())
            with pytest.raises(EngineError, match="does not draft as a request says") as caught:
                told.complete(ask())
    assert "measured as it runs" in str(caught.value.hint)
    depths = [(body.get("speculative.n_max"), body.get("speculative.p_min")) for body in IkForm.requests]
    assert depths == [(1, 0.5), (1, 0.5), (None, None), (1, 0.5)]


VLLM_METRICS = """# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{{engine="0",model_name="m"}} {drafts}
vllm:spec_decode_num_drafts_created{{engine="0",model_name="m"}} 1.756736798733569e+09
vllm:spec_decode_num_draft_tokens_total{{engine="0",model_name="m"}} {tokens}
vllm:spec_decode_num_accepted_tokens_total{{engine="0",model_name="m"}} {accepted}
vllm:spec_decode_num_accepted_tokens_per_pos_total{{engine="0",model_name="m",position="0"}} {first}
vllm:spec_decode_num_accepted_tokens_per_pos_total{{engine="0",model_name="m",position="1"}} {second}
"""


class VllmForm(Quiet):
    """What vLLM's OpenAI server sends, with numbers made up by this test."""

    requests: ClassVar[list[dict[str, object]]] = []
    drafts = 100

    def do_GET(self) -> None:
        n = type(self).drafts
        metrics = VLLM_METRICS.format(drafts=n * 1.0, tokens=2.0 * n, accepted=1.5 * n, first=1.0 * n, second=0.5 * n)
        known = {
            "/version": '{"version": "0.24.0"}',
            "/v1/models": '{"object": "list", "data": [{"id": "org/model", "object": "model"}]}',
            "/metrics": metrics,
        }
        self.reply(known.get(self.path), "text/plain" if self.path == "/metrics" else "application/json")

    def do_POST(self) -> None:
        type(self).requests.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        type(self).drafts += 20
        events = [{"choices": [{"text": text, "finish_reason": None}]} for text in ("one", " two", " three")]
        events += [{"choices": [{"text": "", "finish_reason": "length"}]}]
        events += [{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 50}}]
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        self.reply(body, "text/event-stream; charset=utf-8")

    def reply(self, body: str | None, kind: str) -> None:
        self.send_response(200 if body else 404)
        self.send_header("content-type", kind)
        self.end_headers()
        self.wfile.write((body or "").encode())


def test_vllms_form_is_understood() -> None:
    """No vLLM runs here: this server sends what vLLM's source says it sends (vllm/v1/spec_decode/metrics.py, and its
    OpenAI server's streams). It shows that the form is read, and nothing about vLLM's figures."""
    VllmForm.requests.clear()
    with serving(VllmForm) as url:
        engine = find_engine(f"{url}/v1")
        info = engine.info()
        assert (info.kind, info.version) == ("vllm", "0.24.0") and "org/model" in info.system
        with engine.start(launch()) as session:
            result = session.complete(ask(n_predict=50))
            assert (result.text, result.n_predicted, result.prompt_n, result.stop) == ("one two three", 50, 7, "length")
            assert (result.draft_n, result.draft_n_accepted, result.n_draft_steps) == (40, 30, 20)
            assert result.accepted_per_position == (20, 10)
            both = session.complete_all([ask(), ask(PROMPTS[1])])
            assert [r.n_draft_steps for r in both] == [None, None]
            with pytest.raises(EngineError, match="grammars"):
                session.complete(CompletionRequest("x", 8, grammar="root ::= [a-z]"))
    sent = VllmForm.requests
    assert sent[0]["model"] == "org/model" and sent[0]["max_tokens"] == 50 and sent[0]["temperature"] == 0
    assert len({str(body["cache_salt"]) for body in sent}) == 3, "no prompt comes out of the prefix cache"


def test_vllm_counters_of_several_engines_are_summed() -> None:
    text = (
        'vllm:spec_decode_num_drafts_total{engine="0"} 22.0\nvllm:spec_decode_num_drafts_total{engine="1"} 15.0\n'
        'vllm:spec_decode_num_draft_tokens{engine="0"} 44.0\nvllm:spec_decode_num_accepted_tokens{engine="0"} 1e1\n'
        'vllm:spec_decode_num_accepted_tokens_per_pos{engine="0",position="1"} 3.0\n'
    )
    assert vllm_counters(text) == SpecCounters(37, 44, 10, (0, 3))
    assert vllm_counters('vllm:num_requests_running{engine="0"} 1.0\n') is None


def test_ik_llama_cpps_depths_are_positions() -> None:
    """An answer of ik_llama.cpp 8337e4cd3 to tests' own prompt, as it came."""
    reply = json.loads(
        '{"content": "    return _read_buffer", "stopped_limit": true, "timings": {"prompt_n": 9, "prompt_ms": 1.437,'
        '"predicted_n": 48, "predicted_ms": 9.448, "predicted_per_second": 5080.44, "draft_n": 51,'
        '"draft_n_accepted": 30, "draft_by_depth": [{"depth": 1, "draft_n": 17, "draft_n_accepted": 13},'
        '{"depth": 2, "draft_n": 17, "draft_n_accepted": 9}, {"depth": 3, "draft_n": 17, "draft_n_accepted": 8}]}}'
    )
    result = parse_completion(reply, {})
    assert (result.n_draft_steps, result.accepted_per_position, result.stop) == (17, (13, 9, 8), "length")


# GPUs and the doctor


def test_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is here: a script in its place prints rows in the tool's documented form, to try the plumbing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == () and vram_use() is None
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        '#!/bin/sh\ncase "$1" in\n'
        "*driver_version*) echo 'NVIDIA GeForce RTX 3090, 550.54.14, 24576'; echo 'NVIDIA GB10, 580.95, [N/A]';;\n"
        "*memory.used*) echo 'NVIDIA GeForce RTX 3090, 20480, 24576'; echo 'NVIDIA A2, 1024, 15356';;\nesac\n"
    )
    tool.chmod(0o755)
    (gpu,) = gpus()
    assert (gpu.name, gpu.driver, gpu.total_nbytes) == ("NVIDIA GeForce RTX 3090", "550.54.14", 24 << 30)
    use = vram_use()
    assert use is not None and (use.device, use.used_nbytes) == ("NVIDIA GeForce RTX 3090", 20 << 30)
    tool.write_text(
        "#!/bin/sh\necho 'NVIDIA-SMI has failed because it could not communicate with the driver'\nexit 9\n"
    )
    assert gpus() == ()


def test_the_doctor_finds_what_is_here(mtpgraft: Program, server_program: Path) -> None:
    path = os.pathsep.join((str(server_program.parent), os.environ["PATH"]))
    found = json.loads(mtpgraft("doctor", "--json", "--engine", "http://127.0.0.1:1", PATH=path).stdout)
    assert found["schema_version"] == 1 and found["can_draft"] and found["versions"]["xllamacpp"]
    embedded, on_path, gone = found["engines"]
    assert (embedded["name"], embedded["can_draft"]) == ("embedded", True)
    assert on_path["name"] == str(server_program) and on_path["mtp"] == "--spec-type draft-mtp"
    features = {feature["name"]: feature["has"] for feature in on_path["features"]}
    assert features["draft-mtp"] and not features["RPC"] and not features["synthetic acceptance"]
    assert gone["can_draft"] is False and "no HTTP server answers" in gone["problem"]
    text = mtpgraft("doctor", PATH=path).stdout
    assert f"MTP can be run: embedded, {server_program}" in text and "- RPC: " in text


def test_the_doctor_finds_nothing_that_drafts(mtpgraft: Program, tmp_path: Path) -> None:
    """A xllamacpp that cannot be loaded, and no llama-server: exit code 1, and what to do."""
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')\n")
    done = mtpgraft("doctor", expect=1, PATH=str(tmp_path), PYTHONPATH=str(tmp_path))
    assert "NO ENGINE HERE" in done.stdout and "libcudart" in done.stdout and "try: reinstall it" in done.stdout


def test_a_build_is_read_once(server_program: Path) -> None:
    assert probe(server_program) is probe(server_program)
