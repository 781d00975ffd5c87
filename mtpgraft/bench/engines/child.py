"""A child process that answers JSON lines: one line in, one line out, with timeouts. Knows nothing of engines."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mtpgraft.bench.engine import Json


@dataclass(frozen=True, slots=True)
class Gone:
    """No answer came. exit_code: None when the child still runs but stayed silent for `waited_s` seconds."""

    exit_code: int | None
    waited_s: float

    @property
    def reason(self) -> str:
        """How it ended, in words: `was killed by SIGSEGV`, `ended with exit code 1`."""
        if self.exit_code is None:
            return f"did not answer within {self.waited_s:g} s"
        if self.exit_code >= 0:
            return f"ended with exit code {self.exit_code}"
        try:
            return f"was ended by {signal.Signals(-self.exit_code).name}"
        except ValueError:
            return f"was ended by signal {-self.exit_code}"


class JsonChild:
    """A running child. Its stdout carries answers and nothing else; its stderr goes to `log`."""

    __slots__ = ("_answers", "_process", "_stdin")

    def __init__(self, process: subprocess.Popen[str], stdin: IO[str], answers: queue.Queue[str | None]) -> None:
        self._process = process
        self._stdin = stdin
        self._answers = answers

    @classmethod
    def spawn(cls, argv: Sequence[str], env: Mapping[str, str], log: Path) -> JsonChild:
        with log.open("ab") as log_file:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                env=dict(env),
                encoding="utf-8",
                # Ctrl-C reaches the parent alone, which then ends its children in order.
                start_new_session=True,
            )
        assert process.stdin is not None and process.stdout is not None
        answers: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_pump, args=(process.stdout, answers), daemon=True).start()
        return cls(process, process.stdin, answers)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, message: Mapping[str, Json], timeout_s: float) -> dict[str, Json] | Gone:
        """Sends one message and waits for its answer."""
        try:
            self._stdin.write(json.dumps(message) + "\n")
            self._stdin.flush()
        except (OSError, ValueError):  # it ended before it could read; ValueError: the pipe is already closed
            return self._gone(0.0)
        return self.hear(timeout_s)

    def hear(self, timeout_s: float) -> dict[str, Json] | Gone:
        """Waits for one answer."""
        started = time.monotonic()
        try:
            line = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            return Gone(exit_code=None, waited_s=timeout_s)
        if line is None:
            self._answers.put(None)  # whoever asks next must learn it too
            return self._gone(time.monotonic() - started)
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    def close(self, grace_s: float) -> int:
        """Ends the child: end of input first, then SIGTERM, then SIGKILL. Its exit code."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        for give_up in (self._process.terminate, self._process.kill):
            try:
                return self._process.wait(grace_s)
            except subprocess.TimeoutExpired:
                give_up()
        return self._process.wait()

    def kill(self) -> int:
        self._process.kill()
        return self.close(grace_s=5.0)

    def _gone(self, waited_s: float) -> Gone:
        try:
            return Gone(self._process.wait(5.0), waited_s)
        except subprocess.TimeoutExpired:  # it closed its stdout and lives on: no answer will come
            return Gone(None, waited_s)


def _pump(stream: IO[str], answers: queue.Queue[str | None]) -> None:
    with stream:
        for line in stream:
            if line.endswith("\n"):  # else the child died in the middle of it
                answers.put(line)
    answers.put(None)
