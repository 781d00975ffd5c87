"""What has been fetched of a remote file: a sparse file of the same size, and a journal of what is in it.

An interrupted extract continues from here. The journal holds a checksum per stretch, and a stretch that does not
match it (a power cut may lose data that the journal already lists) is fetched again, never believed.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mtpgraft.errors import TransientError
from mtpgraft.source.ranges import RangeSet

DATA_NAME, JOURNAL_NAME, ABOUT_NAME = "data", "journal", "about.json"
_STRETCH_NBYTES = 2**20
_CHECK_NBYTES = 4 * 2**20


@dataclass(slots=True)
class Stretch:
    """Bytes that arrive in order from `start`, not yet in the journal."""

    start: int
    end: int
    crc: int = 0


class BlockStore:
    """Parts of one remote file on disk. Safe to share between threads; processes may share the folder.

    folder: where it is kept, or None for a nameless temporary file that is gone after close.
    """

    def __init__(self, folder: Path | None, fd: int, journal_fd: int, size: int, have: RangeSet) -> None:
        self.folder = folder
        self.size = size
        self._fd = fd
        self._journal_fd = journal_fd
        self._have = have
        self._lock = threading.Lock()

    @classmethod
    def open(cls, folder: Path | None, size: int, name: str) -> BlockStore:
        """The store in `folder`, made if need be; a temporary one where that cannot be written.

        name: the remote file, for people who list the cache.
        """
        if folder is not None:
            with suppress(OSError):
                return cls._open_folder(folder, size, name)
        fd, path = tempfile.mkstemp(prefix="mtpgraft-")
        with suppress(OSError):
            Path(path).unlink()  # Windows keeps it until it is closed and the folder is cleaned
        return cls(None, fd, -1, size, RangeSet())

    @classmethod
    def _open_folder(cls, folder: Path, size: int, name: str) -> BlockStore:
        folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        fd = os.open(folder / DATA_NAME, flags, 0o600)  # it may be a private repo's
        try:
            if os.fstat(fd).st_size != size:
                os.ftruncate(fd, size)
            about = {"name": name, "size": size, "used": time.time()}
            (folder / ABOUT_NAME).write_text(json.dumps(about), encoding="utf-8")
            journal_fd = os.open(folder / JOURNAL_NAME, flags | os.O_APPEND, 0o600)
        except BaseException:
            os.close(fd)
            raise
        store = cls(folder, fd, journal_fd, size, RangeSet())
        store._load()
        return store

    def _load(self) -> None:
        for line in self._folder_file(JOURNAL_NAME).read_bytes().split(b"\n"):
            parts = line.split()
            try:
                start, end, crc = int(parts[0]), int(parts[1]), int(parts[2], 16)
            except (IndexError, ValueError):  # the last line of a process that was killed
                continue
            if 0 <= start < end <= self.size and not self._have.covers(start, end) and self._crc(start, end) == crc:
                self._have.add(start, end)

    def _folder_file(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / name

    def _crc(self, start: int, end: int) -> int:
        crc = 0
        while start < end:
            part = self._pread(min(_CHECK_NBYTES, end - start), start)
            if not part:
                return -1
            crc = zlib.crc32(part, crc)
            start += len(part)
        return crc

    @property
    def n_bytes(self) -> int:
        """Bytes it holds."""
        with self._lock:
            return self._have.n_bytes

    def covers(self, start: int, end: int) -> bool:
        with self._lock:
            return self._have.covers(start, end)

    def gaps(self, start: int, end: int) -> list[tuple[int, int]]:
        """What of [start, end) is not here."""
        with self._lock:
            return self._have.gaps(start, end)

    def read(self, start: int, end: int) -> bytes:
        """The bytes of [start, end), which must be here."""
        parts: list[bytes] = []
        while start < end:
            try:
                part = self._pread(end - start, start)
            except OSError as error:
                raise self._trouble(error) from error
            if not part:
                raise TransientError(
                    "the cache lost data", file=self.folder, hint="mtpgraft cache rm, and run it again"
                )
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def put(self, stretch: Stretch, data: bytes) -> None:
        """Write `data` behind `stretch`, and make it known. Raises TransientError for disk trouble."""
        view = memoryview(data)
        at = stretch.end
        try:
            while view:
                n = self._pwrite(view, at)
                view, at = view[n:], at + n
        except OSError as error:
            raise self._trouble(error) from error
        stretch.crc = zlib.crc32(data, stretch.crc)
        stretch.end = at
        with self._lock:
            self._have.add(at - len(data), at)
        if stretch.end - stretch.start >= _STRETCH_NBYTES:
            self.note(stretch)

    def note(self, stretch: Stretch) -> None:
        """Put the stretch into the journal and begin the next one behind it."""
        if stretch.end > stretch.start and self._journal_fd >= 0:
            line = f"{stretch.start} {stretch.end} {stretch.crc:08x}\n".encode()
            with suppress(OSError):  # without it the bytes are fetched again next time, no more
                os.write(self._journal_fd, line)
        stretch.start, stretch.crc = stretch.end, 0

    def close(self) -> None:
        for fd in (self._fd, self._journal_fd):
            if fd >= 0:
                with suppress(OSError):
                    os.close(fd)
        self._fd = self._journal_fd = -1

    def _trouble(self, error: OSError) -> TransientError:
        return TransientError(
            f"the cache cannot be used: {error.strerror}", file=self.folder or "temporary file",
            hint="free some space, or set MTPGRAFT_CACHE to a folder on another disk",
        )  # fmt: skip

    def _pread(self, n_bytes: int, offset: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._fd, n_bytes, offset)
        with self._lock:  # Windows has no pread
            os.lseek(self._fd, offset, os.SEEK_SET)
            return os.read(self._fd, n_bytes)

    def _pwrite(self, data: memoryview, offset: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self._fd, data, offset)
        with self._lock:
            os.lseek(self._fd, offset, os.SEEK_SET)
            return os.write(self._fd, data)
