"""Runs an operation in a child process that is killed, or whose disk fails, at its N-th change to the disk."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mtpgraft.write import disk


def run_killed(operation: Callable[[], object], kill_at: int) -> bool:
    """True when the child was killed (half of its write done, if it was one), False when it ended before.

    Every change goes through disk.py, which calls on_step before it.
    """

    def in_child() -> None:
        n_seen = 0

        def on_step(step: disk.Step) -> None:
            nonlocal n_seen
            n_seen += 1
            if n_seen == kill_at:
                if step.data:
                    os.pwrite(step.fd, step.data[: len(step.data) // 2], step.offset)
                os.kill(os.getpid(), signal.SIGKILL)

        disk.on_step = on_step
        operation()

    return was_killed(in_child)


def was_killed(in_child: Callable[[], object]) -> bool:
    """Run it in a child; whether that ended by SIGKILL. Any other failure of it fails the test."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        try:
            in_child()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


@contextmanager
def failing(fail_at: int, number: int) -> Iterator[list[str]]:
    """Within it, the N-th change to the disk fails with this errno. Gives the list of the steps seen."""
    steps: list[str] = []

    def on_step(step: disk.Step) -> None:
        steps.append(step.name)
        if len(steps) == fail_at:
            if step.data:
                os.pwrite(step.fd, step.data[: len(step.data) // 2], step.offset)
            raise OSError(number, os.strerror(number))

    disk.on_step = on_step
    try:
        yield steps
    finally:
        disk.on_step = None


def steps_of(operation: Callable[[], object]) -> list[str]:
    """The names of all changes that an operation makes."""
    with failing(0, 0) as steps:
        operation()
    return steps


def flipping_copy(source_fd: int, offset: int, n_bytes: int, fd: int, position: int) -> int:
    """`disk.copy_range` of a disk that takes another byte than it was given, in the middle."""
    data = bytearray(os.pread(source_fd, n_bytes, offset))
    data[len(data) // 2] ^= 0x10
    return os.pwrite(fd, data, position)
