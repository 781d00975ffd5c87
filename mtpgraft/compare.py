"""Compares stretches of two files: large reads into the same two buffers, on two threads.

What lies in the same blocks of the disk, as in a cloned copy, is not read, nor what was compared while it was copied.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mtpgraft.errors import TruncatedError
from mtpgraft.source.base import Source, read_exactly
from mtpgraft.source.extents import shared_stretches
from mtpgraft.source.local import LocalFile

_CHUNK_NBYTES = 2**20
"""Small enough that what was read is still in the processor's cache when it is compared."""
_PARALLEL_FROM_NBYTES = 32 * 2**20
_N_THREADS = 2


@dataclass(frozen=True, slots=True)
class Stretch:
    """n_bytes from `offset` of a file, and from `other_offset` of another."""

    offset: int
    other: LocalFile
    other_offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Proven:
    """Stretches of a file that were read and found equal to other files' (write/following.py).

    state: of the file when all of it was written (`file_state`). In another state nothing is proven.
    """

    state: tuple[int, ...]
    stretches: tuple[Stretch, ...]

    def equal_parts(
        self, a: LocalFile, a_offset: int, b: LocalFile, b_offset: int, n_bytes: int
    ) -> list[tuple[int, int]]:
        """(start, end) from 0 to n_bytes of what is known to be equal."""
        if file_state(a) != self.state:
            return []
        parts = []
        for known in self.stretches:
            if known.other is b and known.offset - a_offset == known.other_offset - b_offset:
                start = max(0, known.offset - a_offset)
                end = min(n_bytes, known.offset + known.n_bytes - a_offset)
                parts += [(start, end)] if start < end else []
        return parts


def file_state(file: LocalFile) -> tuple[int, ...]:
    """What changes when somebody writes to a file, or puts another one in its place."""
    state = os.fstat(file.fileno())
    return (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def same_bytes(
    a: Source,
    a_offset: int,
    b: Source,
    b_offset: int,
    n_bytes: int,
    progress: Callable[[int], None],
    proven: Iterable[Proven] = (),
) -> bool:
    """Whether two stretches are equal. progress: called with the bytes compared, from one thread at a time.

    proven: what is known of the files that `a` may be.
    Raises TruncatedError when one of the files ends before, TransientError when reading fails.
    """
    if not (isinstance(a, LocalFile) and isinstance(b, LocalFile)):
        return _same(a, a_offset, b, b_offset, n_bytes, progress, threading.Event())
    for file, offset in ((a, a_offset), (b, b_offset)):
        file.require(offset, n_bytes, "the data")
    known = [part for one in proven for part in one.equal_parts(a, a_offset, b, b_offset, n_bytes)]
    if n_bytes >= _PARALLEL_FROM_NBYTES:
        known += shared_stretches(a, a_offset, b, b_offset, n_bytes)
    done = 0
    for start, end in [*_apart(known), (n_bytes, n_bytes)]:
        n = start - done
        if n and not _same_on_threads(a, a_offset + done, b, b_offset + done, n, progress):
            return False
        progress(end - start)
        done = end
    return True


def _apart(parts: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The same, in order and without overlaps."""
    done = 0
    for start, end in sorted(parts):
        if end > done:
            yield max(start, done), end
            done = end


def _same_on_threads(
    a: LocalFile, a_offset: int, b: LocalFile, b_offset: int, n_bytes: int, progress: Callable[[int], None]
) -> bool:
    if n_bytes < _PARALLEL_FROM_NBYTES:
        return same_read(a, a_offset, b, b_offset, n_bytes, progress)
    _read_ahead(a, a_offset, n_bytes)
    _read_ahead(b, b_offset, n_bytes)
    lock, differs = threading.Lock(), threading.Event()
    # neighbouring pieces at the same time: a disk reads on in one direction
    piece = 16 * _CHUNK_NBYTES
    pieces = iter(range(0, n_bytes, piece))

    def report(n: int) -> None:
        with lock:
            progress(n)

    def work() -> bool:
        while not differs.is_set():
            with lock:
                start = next(pieces, -1)
            if start < 0:
                return True
            n = min(piece, n_bytes - start)
            if not _same(a, a_offset + start, b, b_offset + start, n, report, differs):
                differs.set()
        return False

    with ThreadPoolExecutor(_N_THREADS) as pool:
        workers = [pool.submit(work) for _ in range(_N_THREADS)]
        try:
            return all(worker.result() for worker in workers)
        except BaseException:
            differs.set()
            raise


def _same(
    a: Source,
    a_offset: int,
    b: Source,
    b_offset: int,
    n_bytes: int,
    progress: Callable[[int], None],
    stop: threading.Event,
) -> bool:
    if isinstance(a, LocalFile) and isinstance(b, LocalFile):
        return same_read(a, a_offset, b, b_offset, n_bytes, progress, stop)
    for done in range(0, n_bytes, 4 * _CHUNK_NBYTES):
        n = min(4 * _CHUNK_NBYTES, n_bytes - done)
        if read_exactly(a, a_offset + done, n, "the data") != read_exactly(b, b_offset + done, n, "the data"):
            return False
        progress(n)
    return True


def same_read(
    a: LocalFile,
    a_offset: int,
    b: LocalFile,
    b_offset: int,
    n_bytes: int,
    progress: Callable[[int], None] = lambda n: None,
    stop: threading.Event | None = None,
) -> bool:
    """Whether two stretches are equal by reading both, on this thread; False when stopped before the end."""
    stop = stop or threading.Event()
    size = min(n_bytes, _CHUNK_NBYTES)
    mine, other = bytearray(size), bytearray(size)
    done = 0
    while done < n_bytes and not stop.is_set():
        n = min(size, n_bytes - done)
        if n < size:
            del mine[n:], other[n:]
            size = n
        for file, buffer, at in ((a, mine, a_offset + done), (b, other, b_offset + done)):
            with memoryview(buffer) as view:
                if file.read_into(at, view) < n:
                    raise TruncatedError("the file ends inside the data", file=file.name, where=f"offset {at}")
        if mine != other:
            return False
        done += n
        progress(n)
    return done == n_bytes


def _read_ahead(file: LocalFile, offset: int, n_bytes: int) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), offset, n_bytes, os.POSIX_FADV_SEQUENTIAL)
