"""A llama-server binary, llama.cpp's, a fork's or ik_llama.cpp's: one process on a free loopback port per start."""

from __future__ import annotations

import secrets
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from mtpgraft.bench.engine import CompletionRequest, CompletionResult, EngineInfo, LaunchSpec, SessionFacts
from mtpgraft.bench.engines import guard
from mtpgraft.bench.engines.child import Gone, JsonChild
from mtpgraft.bench.engines.childsession import CLOSE_GRACE_S, ChildSession, EngineLog, private_file, require_files
from mtpgraft.bench.engines.client import LlamaClient, Rejected
from mtpgraft.bench.engines.dialect import Place, arguments, listening
from mtpgraft.bench.engines.enginelog import settled_log
from mtpgraft.bench.engines.http import Http, Unreachable
from mtpgraft.bench.engines.probe import Probe, library_environment, probe
from mtpgraft.bench.engines.refusal import refuse_known_bad, rejected
from mtpgraft.bench.host import default_threads
from mtpgraft.errors import EngineError

_POLL_S = 0.05
# Asked again and again; another program on the port may accept and never answer.
_HEALTH_TIMEOUT_S = 1.0
# Somebody else may take the free port between our look and the server's bind.
_N_PORTS_TRIED = 4
_PORT_TAKEN = "couldn't bind"  # both llama.cpp's and ik_llama.cpp's words

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class BinaryEngine:
    """Starts a llama-server.

    log_dir: where engine logs are kept. None: temporary files (bench/engines/childsession.py).
    start_timeout_s: for loading the model; a large one comes off a slow disk only once per start.
    request_timeout_s: for one completion.
    """

    binary: Path
    log_dir: Path | None = None
    start_timeout_s: float = 900.0
    request_timeout_s: float = 900.0

    @property
    def is_fixed(self) -> bool:
        return False

    def info(self) -> EngineInfo:
        return probe(self.binary).info

    def start(self, spec: LaunchSpec) -> BinarySession:
        require_files(spec)
        build = probe(self.binary)
        if spec.draft is not None:
            refuse_known_bad(build.info, self.binary)
        n_threads = spec.n_threads or default_threads(spec.model.stat().st_size)
        argv = arguments(build, spec, n_threads)
        asked_port = _asked_port(spec)
        for _ in range(1 if asked_port else _N_PORTS_TRIED):
            port = asked_port or _free_port()
            session = _launch(self, build, spec, n_threads, argv, port)
            if session is not None:
                return session
        raise EngineError(
            "the port is taken" if asked_port else "every port that was free a moment ago is taken",
            file=self.binary,
            found=f"port {port}",
            hint="leave --port out, and a free one is taken" if asked_port else "run it again",
        )


class BinarySession(ChildSession):
    """One llama-server. pid: the server's own; `_child` is its guard."""

    __slots__ = ("_argv", "_client", "_key_file", "_program", "pid", "port")

    def __init__(
        self,
        spec: LaunchSpec,
        n_threads: int,
        build: Probe,
        child: JsonChild,
        log: EngineLog,
        *,
        argv: tuple[str, ...],
        pid: int,
        port: int,
        client: LlamaClient,
        key_file: Path,
    ) -> None:
        super().__init__(spec, n_threads, build.info, child, log)
        self.pid = pid
        self.port = port
        self._program = str(build.binary)
        self._argv = argv
        self._client = client
        self._key_file = key_file

    def complete(self, request: CompletionRequest) -> CompletionResult:
        return self._asked(lambda: self._client.complete(request))

    def complete_all(self, requests: Sequence[CompletionRequest]) -> tuple[CompletionResult, ...]:
        return self._asked(lambda: self._client.complete_all(requests))

    def facts(self) -> SessionFacts:
        return SessionFacts((self._program, *self._argv), settled_log(self.log_path))

    def _end(self) -> None:
        self._client.http.close()
        self._child.close(2 * CLOSE_GRACE_S)
        self._key_file.unlink(missing_ok=True)

    def _asked(self, ask: Callable[[], _T]) -> _T:
        try:
            return ask()
        except Rejected as refusal:
            raise rejected("llama-server", refusal.why, self.spec) from None
        except Unreachable as silence:
            why = _how_it_ended(self._child.hear(1.0))
            if why is None:
                why = "did not answer in time" if silence.silent else f"broke off ({silence.why})"
            raise self._died(f"llama-server {why}") from None


def _launch(
    engine: BinaryEngine, build: Probe, spec: LaunchSpec, n_threads: int, argv: tuple[str, ...], port: int
) -> BinarySession | None:
    """A session that is ready; None when the port was taken meanwhile. Whatever goes wrong, nothing is left running."""
    log = EngineLog.new(engine.log_dir)
    key = secrets.token_hex(16)
    key_file = private_file(".key")
    key_file.write_text(key + "\n", encoding="ascii")
    env = {**library_environment(build.library_dir), **dict(spec.env)}
    http = Http(f"http://127.0.0.1:{port}", key, engine.request_timeout_s)
    child: JsonChild | None = None
    try:
        # -I -S: the guard needs the standard library alone, and is up in a few ms
        child = JsonChild.spawn(
            [
                sys.executable,
                "-I",
                "-S",
                guard.__file__,
                str(CLOSE_GRACE_S),
                str(build.binary.absolute()),
                *argv,
                *listening(build, Place(port, str(key_file))),
            ],
            env,
            log.path,
        )
        started = child.hear(engine.start_timeout_s)
        if isinstance(started, Gone) or not isinstance(started.get("pid"), int):
            why = started.reason if isinstance(started, Gone) else str(started.get("error"))
            raise EngineError("cannot be started", file=build.binary, found=why, hint="run it by hand to see why")
        client = LlamaClient(http)
        ended = _wait_until_ready(client, child, spec, engine.start_timeout_s)
        if ended is None:
            pid = started["pid"]
            assert isinstance(pid, int)
            return BinarySession(
                spec, n_threads, build, child, log, argv=argv, pid=pid, port=port, client=client, key_file=key_file
            )
        child.close(2 * CLOSE_GRACE_S)
        if _PORT_TAKEN not in log.text():
            # It said no, or crashed, which is its other way to say no: the same file will do it again
            raise log.failure(f"llama-server {ended} while it loaded the model", spec.model)
    except BaseException:  # KeyboardInterrupt too: no server may outlive the caller
        _clean_up(child, http, key_file, log)
        raise
    _clean_up(child, http, key_file, log)
    return None


def _clean_up(child: JsonChild | None, http: Http, key_file: Path, log: EngineLog) -> None:
    if child is not None:
        child.close(2 * CLOSE_GRACE_S)
    http.close()
    key_file.unlink(missing_ok=True)
    log.close()


def _wait_until_ready(client: LlamaClient, child: JsonChild, spec: LaunchSpec, timeout_s: float) -> str | None:
    """None when the server has loaded the model; else how it ended."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        # It waits here and not in sleep(): the end of a server that refuses its model is heard at once
        why = _how_it_ended(child.hear(_POLL_S))
        if why is not None:
            return why
        try:
            if not client.http.get("/health", timeout_s=_HEALTH_TIMEOUT_S).ok:  # 503 while it loads
                continue
            served = client.props().get("model_path")
        except Unreachable:
            continue
        if served == str(spec.model.absolute()):
            return None
        # Another program answers on the port; ours will say that it could not bind, and end.
    return f"did not get ready within {timeout_s:g} s"


def _how_it_ended(heard: object) -> str | None:
    if isinstance(heard, Gone):
        return None if heard.exit_code is None else "was ended together with the process that guards it"
    assert isinstance(heard, dict)
    return Gone(heard["exit"], 0.0).reason


def _asked_port(spec: LaunchSpec) -> int | None:
    """The port in the user's own arguments."""
    args = [part for arg in spec.args for part in arg.split("=", 1)]
    for name, value in pairwise(args):
        if name == "--port" and value.isdecimal():
            return int(value)
    return None


def _free_port() -> int:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        port = probe_socket.getsockname()[1]
    assert isinstance(port, int)
    return port
