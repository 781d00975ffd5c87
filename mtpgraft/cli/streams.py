"""Standard streams as they are found: closed, full, a pipe that nobody reads, or in an encoding of few letters."""

from __future__ import annotations

import errno
import io
import os
import sys

from mtpgraft.errors import TransientError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What a write to stdout ends in when there is no room for it."""


def prepare() -> None:
    """Make the three streams usable: a closed one leads nowhere, and letters that its encoding lacks become escapes."""
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY), encoding="utf-8")
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def write(text: str) -> None:
    """Write a piece of the result to stdout. When its reader is gone (`| head`), the command goes on without it, and
    ends with the exit code of what it found.

    Raises TransientError when stdout takes no more, as on a full disk.
    """
    try:
        sys.stdout.write(text)
    except OSError as error:
        _gave_way(error)


def flush() -> None:
    """Hand on what is buffered of the result. Raises what `write` raises."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _gave_way(error)


def can_encode(text: str) -> bool:
    """True when stdout's encoding has every letter of this."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def discard() -> None:
    """Let everything that is still to come on stdout go nowhere; the interpreter must not fail on it as it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _gave_way(error: OSError) -> None:
    discard()
    # On Windows a pipe without a reader is EINVAL.
    if not isinstance(error, BrokenPipeError) and not (os.name == "nt" and not sys.stdout.isatty()):
        raise TransientError(f"the result cannot be written: {error.strerror}", file="standard output") from error
