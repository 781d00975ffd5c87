"""Every change that mtpgraft makes to a disk, one function each.

`on_step` is called before each of them: tests count the steps, and kill the process at every one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mtpgraft.write import linux


@dataclass(frozen=True, slots=True)
class Step:
    """A change about to be made. fd, offset and data are given for writes, so that a test can make half of one."""

    name: str
    fd: int = -1
    offset: int = 0
    data: memoryview = field(default=memoryview(b""), repr=False)


on_step: Callable[[Step], None] | None = None

_seek_lock = threading.Lock()


def _about_to(name: str, fd: int = -1, offset: int = 0, data: memoryview | None = None) -> None:
    if on_step is not None:
        on_step(Step(name, fd, offset, memoryview(b"") if data is None else data))


def create(path: Path, mode: int = 0o666) -> int:
    """A new file for reading and writing. Raises FileExistsError when the name is taken."""
    _about_to("create")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    return os.open(path, flags, mode)


def write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    """All of `data` at `offset`."""
    view = memoryview(data)
    _about_to("write", fd, offset, view)
    while view:
        n = _pwrite(fd, view, offset)
        view = view[n:]
        offset += n


def clone_range(source_fd: int, source_offset: int, n_bytes: int, fd: int, offset: int) -> None:
    """Share blocks instead of copying them. Raises OSError where the file system cannot."""
    _about_to("clone")
    linux.clone_range(source_fd, source_offset, n_bytes, fd, offset)


def copy_range(source_fd: int, source_offset: int, n_bytes: int, fd: int, offset: int) -> int:
    """Copy inside the kernel; returns how many bytes were. Raises OSError where the system cannot."""
    _about_to("copy")
    return linux.copy_range(source_fd, source_offset, n_bytes, fd, offset)


def send_file(source_fd: int, source_offset: int, n_bytes: int, fd: int, offset: int) -> int:
    """As copy_range, by sendfile."""
    _about_to("copy")
    return linux.send_file(source_fd, source_offset, n_bytes, fd, offset)


def insert_range(fd: int, offset: int, n_bytes: int) -> None:
    """Make room inside a file, in whole blocks. Raises OSError where the file system cannot."""
    _about_to("insert range")
    linux.insert_range(fd, offset, n_bytes)


def collapse_range(fd: int, offset: int, n_bytes: int) -> None:
    """Take whole blocks out of a file. Raises OSError where the file system cannot."""
    _about_to("collapse range")
    linux.collapse_range(fd, offset, n_bytes)


def truncate(fd: int, n_bytes: int) -> None:
    """Make the file this long."""
    _about_to("truncate")
    os.ftruncate(fd, n_bytes)


def sync(fd: int) -> None:
    """Wait until the file's bytes and size are on the disk."""
    _about_to("sync")
    os.fsync(fd)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    if os.name != "posix":
        return
    _about_to("sync folder")
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def rename(old: Path, new: Path) -> None:
    """Give a file another name, replacing what had it."""
    _about_to("rename")
    old.replace(new)


def unlink(path: Path) -> None:
    """Remove a name; none there is no error."""
    _about_to("unlink")
    path.unlink(missing_ok=True)


def _pwrite(fd: int, view: memoryview, offset: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(fd, view, offset)
    with _seek_lock:  # Windows has no pwrite
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, view)
