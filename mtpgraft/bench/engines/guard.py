"""The process between mtpgraft and a server that it starts: it ends the server when mtpgraft ends, however that ends.

    python guard.py GRACE_S PROGRAM ARGUMENT...

A llama-server knows nothing of its parent. Killed outright, mtpgraft would leave one behind with its memory and its
port. The guard's standard input is a pipe that only mtpgraft holds, so its end is mtpgraft's end. On stdout it says
`{"pid": N}`, and `{"exit": N}` when the server ended by itself. It imports nothing of mtpgraft, to start quickly.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading


def main() -> int:
    grace_s, argv = float(sys.argv[1]), sys.argv[2:]
    _no_core_dump()
    try:
        server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno())
    except OSError as error:
        _say({"error": error.strerror or str(error)})
        return 1
    _say({"pid": server.pid})
    ended_by_us = threading.Event()

    def end(*_: object) -> None:
        if ended_by_us.is_set():
            return
        ended_by_us.set()
        server.terminate()
        try:
            server.wait(grace_s)
        except subprocess.TimeoutExpired:
            server.kill()

    def watch_parent() -> None:
        os.read(0, 1)  # nothing is ever written: it returns at the end of the pipe
        end()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=end).start())
    threading.Thread(target=watch_parent, daemon=True).start()
    code = server.wait()
    if not ended_by_us.is_set():
        _say({"exit": code})
    return 0


def _say(answer: dict[str, object]) -> None:
    try:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    except OSError:  # mtpgraft is gone, and with it whoever would read this
        pass


def _no_core_dump() -> None:
    """A crash here is an answer, not something to debug: it should not fill a disk with the model's memory."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    sys.exit(main())
