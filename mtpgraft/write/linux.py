"""What Linux offers beyond plain reads and writes. Elsewhere each function raises OSError(ENOSYS)."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
import threading
from contextlib import suppress
from functools import lru_cache

IS_LINUX = sys.platform == "linux"

# include/uapi/linux/falloc.h and fs.h
_FALLOC_FL_COLLAPSE_RANGE = 0x08
_FALLOC_FL_INSERT_RANGE = 0x20
_FICLONERANGE = 0x4020940D

_MAX_DROPPING_THREADS = 8

CANNOT = frozenset(
    {errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.EBADF, errno.EPERM, errno.ETXTBSY}
)
"""What these calls answer when the system or the file system does not do it: try the next way."""


def clone_range(source_fd: int, source_offset: int, n_bytes: int, fd: int, offset: int) -> None:
    """Let `fd` share these blocks of `source_fd` (Btrfs, XFS, bcachefs). All numbers in whole blocks."""
    _require_linux()
    import fcntl

    fcntl.ioctl(fd, _FICLONERANGE, struct.pack("qQQQ", source_fd, source_offset, n_bytes, offset))


def copy_range(source_fd: int, source_offset: int, n_bytes: int, fd: int, offset: int) -> int:
    """copy_file_range(2): bytes copied, 0 at the end of the source."""
    if sys.platform != "linux" or not hasattr(os, "copy_file_range"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return os.copy_file_range(source_fd, fd, n_bytes, source_offset, offset)


def send_file(source_fd: int, source_offset: int, n_bytes: int, fd: int, offset: int) -> int:
    """sendfile(2) from file to file: bytes copied, 0 at the end of the source. Moves the position of `fd`."""
    _require_linux()
    os.lseek(fd, offset, os.SEEK_SET)
    return os.sendfile(fd, source_fd, source_offset, n_bytes)


def insert_range(fd: int, offset: int, n_bytes: int) -> None:
    """Shift everything from `offset` on by `n_bytes`, in whole blocks (ext4, XFS)."""
    _fallocate(fd, _FALLOC_FL_INSERT_RANGE, offset, n_bytes)


def collapse_range(fd: int, offset: int, n_bytes: int) -> None:
    """Remove `n_bytes` at `offset`, in whole blocks (ext4, XFS)."""
    _fallocate(fd, _FALLOC_FL_COLLAPSE_RANGE, offset, n_bytes)


def data_segments(fd: int, offset: int, n_bytes: int) -> list[tuple[int, int]]:
    """(start, end) of the stretches in this range that are not holes; the whole range where holes are not told."""
    end = offset + n_bytes
    if not IS_LINUX or not hasattr(os, "SEEK_DATA"):
        return [(offset, end)]
    segments: list[tuple[int, int]] = []
    position = offset
    while position < end:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
            stop = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end of the file
                break
            return [(offset, end)]
        if start >= end:
            break
        segments.append((max(start, offset), min(stop, end)))
        position = stop
    return segments


def start_writeback(fd: int, offset: int, n_bytes: int) -> None:
    """Have the kernel begin to write these bytes to the disk now, so that the sync at the end finds little to do."""
    sync_file_range = getattr(_libc(), "sync_file_range", None) if IS_LINUX else None
    if sync_file_range is not None:
        sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(n_bytes), 2)  # SYNC_FILE_RANGE_WRITE


def drop_cached_pages(fd: int, n_bytes: int) -> None:
    """Have the kernel give up its copy of the first `n_bytes`, on several threads; what is not yet on the disk stays.

    Moving data inside a file (ext4, XFS) does the same first, on one thread, page by page.
    """
    if not IS_LINUX or not hasattr(os, "posix_fadvise"):
        return
    n_threads = min(_MAX_DROPPING_THREADS, os.cpu_count() or 1)
    part = -(-n_bytes // n_threads)

    def drop(offset: int) -> None:
        with suppress(OSError):
            os.posix_fadvise(fd, offset, part, os.POSIX_FADV_DONTNEED)

    threads = [threading.Thread(target=drop, args=(offset,)) for offset in range(0, n_bytes, max(1, part))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _fallocate(fd: int, mode: int, offset: int, n_bytes: int) -> None:
    _require_linux()
    libc = _libc()
    fallocate = getattr(libc, "fallocate64", None) or libc.fallocate  # musl's has 64 bits anyway
    while fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(n_bytes)):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def _require_linux() -> None:
    if not IS_LINUX:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
