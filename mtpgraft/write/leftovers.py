"""Names of temporary files, and the removal of those that a killed run left behind.

A temporary file is `.NAME.PID.mtpgraft-tmp` beside NAME, and its writer holds a lock on it. It is a leftover when no
process has its PID and nobody holds the lock (a folder may be shared by several machines).
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from mtpgraft.write import disk

_SUFFIX = ".mtpgraft-tmp"
_NEW_FILE_MODE = 0o666


def temporary_name(final: Path) -> Path:
    """Where this process writes what is to become `final`."""
    return final.with_name(f".{final.name}.{os.getpid()}{_SUFFIX}")


def create_temporary(path: Path, mode: int = _NEW_FILE_MODE) -> int:
    """A new, locked temporary file."""
    with suppress(FileNotFoundError):  # a PID that came round again
        path.unlink()
    fd = disk.create(path, mode)
    if mode != _NEW_FILE_MODE and hasattr(os, "fchmod"):
        os.fchmod(fd, mode)  # the replaced file's own, whatever the umask
    try_lock(fd)
    return fd


def remove_leftovers(final: Path) -> list[Path]:
    """Remove temporary files for `final` whose writer is gone. Returns what was removed; never raises."""
    removed: list[Path] = []
    prefix = f".{final.name}."
    with suppress(OSError):
        for path in final.parent.iterdir():
            pid = path.name[len(prefix) : -len(_SUFFIX)]
            if path.name.startswith(prefix) and path.name.endswith(_SUFFIX) and pid.isdecimal() and _is_left(path, pid):
                with suppress(OSError):
                    disk.unlink(path)
                    removed.append(path)
    return removed


def try_lock(fd: int) -> bool:
    """Take the lock of an open file; False when another process holds it. True where locks are not known."""
    try:
        import fcntl
    except ImportError:  # Windows: a file that is open there can be neither removed nor replaced anyway
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _is_left(path: Path, pid: str) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    if os.name != "posix":
        return int(pid) != os.getpid()  # os.kill(pid, 0) would be Ctrl-C there; an open file resists its removal
    if _is_alive(int(pid)):
        return False
    fd = os.open(path, os.O_RDONLY)
    try:
        return try_lock(fd)
    finally:
        os.close(fd)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
