"""Which stretches of two local files are the same blocks of one disk (Linux; Btrfs, XFS), as a cloned copy's are.

What lies in the same blocks is equal without being read. Only extents that the file system itself marks as shared
count, and only of file systems whose physical positions are positions on one device, or in one address space. Bytes
that were changed since, and are still in memory alone, are written first: until then their old blocks would be told.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from mtpgraft.source.local import LocalFile

# include/uapi/linux/fiemap.h, fs.h and magic.h
_FS_IOC_FIEMAP = 0xC020660B
_HEADER = struct.Struct("=QQIIII")
_EXTENT = struct.Struct("=QQQ16xI12x")
_N_EXTENTS = 512
_SYNC = 0x0001
_LAST, _SHARED = 0x0001, 0x2000
_UNFIT = 0x0002 | 0x0004 | 0x0008 | 0x0080 | 0x0100 | 0x0200 | 0x0400 | 0x0800
"""Unknown, not yet written, compressed, encrypted, unaligned, inline, packed, or preallocated."""
_BTRFS, _XFS = 0x9123683E, 0x58465342


@dataclass(frozen=True, slots=True)
class _Extent:
    start: int
    end: int
    physical: int


def shared_stretches(a: LocalFile, a_offset: int, b: LocalFile, b_offset: int, n_bytes: int) -> list[tuple[int, int]]:
    """(start, end) from 0 to n_bytes of what both stretches have in common; nothing where that is not known."""
    if sys.platform != "linux":
        return []
    try:
        if os.fstat(a.fileno()).st_dev != os.fstat(b.fileno()).st_dev:
            return []
        if any(_file_system(file.fileno()) not in (_BTRFS, _XFS) for file in (a, b)):
            return []
        if next(_extents(a.fileno(), a_offset, n_bytes, 0), None) is None:  # a plain copy: nothing to wait for
            return []
        mine = _extents(a.fileno(), a_offset, n_bytes, _SYNC)
        return list(_in_common(mine, _extents(b.fileno(), b_offset, n_bytes, _SYNC)))
    except OSError:
        return []


def _extents(fd: int, offset: int, n_bytes: int, flags: int) -> Iterator[_Extent]:
    """The shared extents of this stretch, cut to it, in order; positions are counted from `offset`."""
    import fcntl

    position, end = offset, offset + n_bytes
    while position < end:
        request = bytearray(_HEADER.size + _N_EXTENTS * _EXTENT.size)
        _HEADER.pack_into(request, 0, position, end - position, flags, 0, _N_EXTENTS, 0)
        fcntl.ioctl(fd, _FS_IOC_FIEMAP, request)
        n_found: int = _HEADER.unpack_from(request)[3]
        if not n_found:
            return
        told = 0
        for number in range(n_found):
            logical, physical, length, told = _EXTENT.unpack_from(request, _HEADER.size + number * _EXTENT.size)
            first, stop = max(logical, position), min(logical + length, end)
            if told & _SHARED and not told & _UNFIT and first < stop:
                yield _Extent(first - offset, stop - offset, physical + first - logical)
            position = max(position, logical + length)
        if told & _LAST:
            return


def _in_common(mine: Iterator[_Extent], theirs: Iterator[_Extent]) -> Iterator[tuple[int, int]]:
    a, b = next(mine, None), next(theirs, None)
    while a is not None and b is not None:
        start, end = max(a.start, b.start), min(a.end, b.end)
        if start < end and a.physical - a.start == b.physical - b.start:
            yield start, end
        if a.end <= b.end:
            a = next(mine, None)
        else:
            b = next(theirs, None)


def _file_system(fd: int) -> int:
    """Its magic number, the first field of struct statfs."""
    answer = ctypes.create_string_buffer(256)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fstatfs(fd, answer):
        raise OSError(ctypes.get_errno(), "fstatfs")
    return ctypes.c_long.from_buffer(answer).value & 0xFFFFFFFF
