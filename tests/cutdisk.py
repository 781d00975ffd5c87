"""A disk that remembers every write and flush, so that a power cut at any of them can be looked at (Linux, root).

The disk is a file of a small FUSE file system that this module serves from a process of its own; a loop device makes a
block device of it, and a real file system is mounted on that. What reaches the log is what that file system has
submitted, in its order; what is still in its page cache is not there. A flush (REQ_FLUSH, or FUA, of which the kernel
makes a flush) arrives as FSYNC: writes before it are on the disk, of those after it a disk may keep any part.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

WRITE, FLUSH, MARK = 0, 1, 2
_RECORD = struct.Struct("=BQI")
_PIECE_NBYTES = 4096
_SCRATCH = Path("/dev/shm")

# include/uapi/linux/fuse.h
_IN, _OUT = struct.Struct("=IIQQIIII"), struct.Struct("=IiQ")
_ATTR = struct.Struct("=6Q10I")
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _WRITE, _STATFS, _RELEASE = 1, 2, 3, 14, 15, 16, 17, 18
_FSYNC, _FLUSH, _INIT, _INTERRUPT, _BATCH_FORGET = 20, 25, 26, 36, 42
_MAX_WRITE_NBYTES = 2**20
_DIRECT_IO = 1
_FLAGS = 1 << 5 | 1 << 22  # FUSE_BIG_WRITES, FUSE_MAX_PAGES
_DISK, _MARKS = 2, 3
_NODES = {b"disk": _DISK, b"marks": _MARKS}


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the log. A mark's data is its text."""

    kind: int
    offset: int
    data: bytes = field(repr=False)

    @property
    def text(self) -> str:
        return self.data.decode() if self.kind == MARK else ""


class RecordedDisk:
    """A mounted file system whose disk is recorded from its start, an image that nothing changes."""

    def __init__(self, folder: Path, log: Path, marks: int) -> None:
        self.folder, self._log, self._marks = folder, log, marks

    def mark(self, text: str) -> None:
        """Put a mark into the log, behind all that the disk was given until now."""
        os.write(self._marks, text.encode())

    def events(self) -> list[Event]:
        raw, at, found = self._log.read_bytes(), 0, []
        while at < len(raw):
            kind, offset, n = _RECORD.unpack_from(raw, at)
            at += _RECORD.size
            found.append(Event(kind, offset, raw[at : at + n]))
            at += n
        return found


@contextmanager
def recorded(image: Path, place: Path) -> Iterator[RecordedDisk]:
    """Mount a copy of `image` whose disk is recorded; `place` is a folder for what is needed beside it."""
    served, mounted, log, copy = place / "served", place / "recorded", place / "log", place / "played"
    for folder in (served, mounted):
        folder.mkdir(exist_ok=True)
    log.unlink(missing_ok=True)
    copy_image(image, copy)
    server = subprocess.Popen([sys.executable, "-m", "tests.cutdisk", copy, log, served], cwd=Path(__file__).parents[1])
    try:
        deadline = time.monotonic() + 30
        while not (served / "disk").exists():
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the disk cannot be served")
            time.sleep(0.01)
        marks = os.open(served / "marks", os.O_WRONLY)
        try:
            _run("mount", "-o", "loop", served / "disk", mounted)
            try:
                yield RecordedDisk(mounted, log, marks)
            finally:
                _run("umount", mounted)
        finally:
            os.close(marks)
    finally:
        subprocess.run(["umount", served], check=False)
        server.wait(30)


@contextmanager
def mounted_image(image: Path, place: Path) -> Iterator[Path]:
    """The folder of an image, mounted as it is: its journal is replayed, as after a power cut."""
    folder = place / "mounted"
    folder.mkdir(exist_ok=True)
    _run("mount", "-o", "loop", image, folder)
    try:
        yield folder
    finally:
        _run("umount", folder)


class Cuts:
    """The images that a power cut may leave, for a log over `image`. To be asked for positions in rising order."""

    def __init__(self, image: Path, events: list[Event], place: Path) -> None:
        self._events, self._flushed, self._n_flushed = events, place / "flushed", 0
        self._cut = place / "cut"
        copy_image(image, self._flushed)

    def at(self, position: int, seed: int | None = None) -> Path:
        """The disk when the first `position` events had been sent to it.

        seed: None for a disk that keeps all of them; else for one that keeps a random part of the 4-kB pieces that
        were written since the last flush.
        """
        flushes = [i for i in range(self._n_flushed, position) if self._events[i].kind == FLUSH]
        if flushes:
            _apply(self._flushed, self._events[self._n_flushed : flushes[-1]], None)
            self._n_flushed = flushes[-1] + 1
        copy_image(self._flushed, self._cut)
        _apply(self._cut, self._events[self._n_flushed : position], seed)
        return self._cut


def _apply(image: Path, events: list[Event], seed: int | None) -> None:
    chance = random.Random(seed)
    share = chance.choice((0.1, 0.5, 0.9))
    with image.open("r+b") as file:
        for event in events:
            if event.kind != WRITE:
                continue
            step = _PIECE_NBYTES if seed is not None else max(1, len(event.data))
            for at in range(0, len(event.data), step):
                if seed is None or chance.random() < share:
                    os.pwrite(file.fileno(), event.data[at : at + step], event.offset + at)


def copy_image(image: Path, out: Path) -> None:
    _run("cp", "--sparse=always", "--reflink=auto", image, out)


def make_image(kind: str, path: Path, block_nbytes: int = 4096) -> None:
    """An empty ext4 or XFS, as small as it goes. Of ext4, no part is left for the kernel to write later."""
    with path.open("wb") as file:
        file.truncate(96 * 2**20 if kind == "ext4" else 320 * 2**20)
    if kind == "ext4":
        _run("mkfs.ext4", "-q", "-b", str(block_nbytes), "-E", "lazy_itable_init=0,lazy_journal_init=0", path)
    else:
        _run("mkfs.xfs", "-q", "-b", f"size={block_nbytes}", path)


def scratch_folder(fallback: Path) -> Path:
    """In memory where that is possible: a cut is worth no real disk's flushes."""
    if not (_SCRATCH.is_dir() and os.access(_SCRATCH, os.W_OK) and shutil.disk_usage(_SCRATCH).free > 2**30):
        return fallback
    folder = _SCRATCH / f"mtpgraft-powercut-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    return folder


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr}")


class _Server:
    """Answers the kernel's requests for a folder with two files: the disk, and one whose writes are marks."""

    def __init__(self, image: Path, log: Path, folder: Path) -> None:
        self._disk = os.open(image, os.O_RDWR)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._fuse = os.open("/dev/fuse", os.O_RDWR)
        libc = ctypes.CDLL(None, use_errno=True)
        options = f"fd={self._fuse},rootmode=40000,user_id=0,group_id=0".encode()
        if libc.mount(b"cutdisk", bytes(folder), b"fuse", 0, options):
            raise OSError(ctypes.get_errno(), "cannot mount")

    def serve(self) -> None:
        while True:
            try:
                request = os.read(self._fuse, _MAX_WRITE_NBYTES + 65536)
            except OSError as error:
                if error.errno == errno.ENODEV:  # unmounted
                    return
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                raise
            _, opcode, unique, node, *_ = _IN.unpack_from(request)
            if opcode in (_FORGET, _BATCH_FORGET, _INTERRUPT):
                continue
            try:
                answer, number = self._answer(opcode, node, memoryview(request)[_IN.size :]), 0
            except OSError as error:
                answer, number = b"", -(error.errno or errno.EIO)
            os.write(self._fuse, _OUT.pack(_OUT.size + len(answer), number, unique) + answer)

    def _answer(self, opcode: int, node: int, body: memoryview) -> bytes:
        if opcode == _INIT:
            return struct.pack("=4I2H2I2HI7I", 7, 31, 0, _FLAGS, 16, 12, _MAX_WRITE_NBYTES, 1, 256, 0, 0, *[0] * 7)
        if opcode == _LOOKUP:
            found = _NODES.get(bytes(body).rstrip(b"\0"))
            if found is None:
                raise OSError(errno.ENOENT, "")
            return struct.pack("=4Q2I", found, 0, 3600, 3600, 0, 0) + self._attributes(found)
        if opcode == _GETATTR:
            return struct.pack("=Q2I", 3600, 0, 0) + self._attributes(node)
        if opcode == _OPEN:
            return struct.pack("=Q2I", node, _DIRECT_IO, 0)
        if opcode == _READ:
            _, offset, size = struct.unpack_from("=QQI", body)
            return os.pread(self._disk, size, offset)
        if opcode == _WRITE:
            _, offset, size = struct.unpack_from("=QQI", body)
            data = body[40 : 40 + size]
            if node == _DISK:
                os.pwrite(self._disk, data, offset)
            self._record(WRITE if node == _DISK else MARK, offset, data)
            return struct.pack("=2I", size, 0)
        if opcode == _FSYNC:
            self._record(FLUSH, 0, memoryview(b""))
            return b""
        if opcode in (_RELEASE, _FLUSH):
            return b""
        if opcode == _STATFS:
            return struct.pack("=5Q10I", 0, 0, 0, 0, 0, 4096, 255, 4096, *[0] * 7)
        raise OSError(errno.ENOSYS, "")

    def _record(self, kind: int, offset: int, data: memoryview) -> None:
        os.writev(self._log, [_RECORD.pack(kind, offset, len(data)), data])

    def _attributes(self, node: int) -> bytes:
        size = os.fstat(self._disk).st_size if node == _DISK else 0
        mode = 0o100600 if node in (_DISK, _MARKS) else 0o040700
        return _ATTR.pack(node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


if __name__ == "__main__":
    _Server(*map(Path, sys.argv[1:4])).serve()
