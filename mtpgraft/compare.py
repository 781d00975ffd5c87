"""Compares stretches of two files: large reads into the same two buffers, on two threads.

What lies in the same blocks of the disk, as in a cloned copy, is not read.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from mtpgraft.errors import TruncatedError
from mtpgraft.source.base import Source, read_exactly
from mtpgraft.source.extents import shared_stretches
from mtpgraft.source.local import LocalFile

_CHUNK_NBYTES = 2**20
"""Small enough that what was read is still in the processor's cache when it is compared."""
_PARALLEL_FROM_NBYTES = 32 * 2**20
_N_THREADS = 2


def same_bytes(
    a: Source, a_offset: int, b: Source, b_offset: int, n_bytes: int, progress: Callable[[int], None]
) -> bool:
    """Whether two stretches are equal. progress: called with the bytes compared, from one thread at a time.

    Raises TruncatedError when one of the files ends before, TransientError when reading fails.
    """
    if not (isinstance(a, LocalFile) and isinstance(b, LocalFile)) or n_bytes < _PARALLEL_FROM_NBYTES:
        return _same(a, a_offset, b, b_offset, n_bytes, progress, threading.Event())
    for file, offset in ((a, a_offset), (b, b_offset)):
        file.require(offset, n_bytes, "the data")
    done = 0
    for start, end in [*shared_stretches(a, a_offset, b, b_offset, n_bytes), (n_bytes, n_bytes)]:
        if start > done and not _same_on_threads(a, a_offset + done, b, b_offset + done, start - done, progress):
            return False
        progress(end - start)
        done = end
    return True


def _same_on_threads(
    a: LocalFile, a_offset: int, b: LocalFile, b_offset: int, n_bytes: int, progress: Callable[[int], None]
) -> bool:
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
        return _same_local(a, a_offset, b, b_offset, n_bytes, progress, stop)
    for done in range(0, n_bytes, 4 * _CHUNK_NBYTES):
        n = min(4 * _CHUNK_NBYTES, n_bytes - done)
        if read_exactly(a, a_offset + done, n, "the data") != read_exactly(b, b_offset + done, n, "the data"):
            return False
        progress(n)
    return True


def _same_local(
    a: LocalFile,
    a_offset: int,
    b: LocalFile,
    b_offset: int,
    n_bytes: int,
    progress: Callable[[int], None],
    stop: threading.Event,
) -> bool:
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
