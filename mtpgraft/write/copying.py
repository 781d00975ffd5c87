"""Copies stretches of files: shared blocks where the file system can, else inside the kernel, else large reads."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from mtpgraft.container.encode import EncodedHeader
from mtpgraft.plan.values import CopyBytes, FilePlan, OutTensor
from mtpgraft.source.base import Source, read_exactly
from mtpgraft.source.local import LocalFile
from mtpgraft.write import disk, linux

CHUNK_NBYTES = 4 * 2**20
_KERNEL_CHUNK_NBYTES = 64 * 2**20
"""One call's worth: progress and Ctrl-C stay alive, and writing to the disk begins after the first."""
BLOCK_NBYTES = 4096
"""Block size of ext4, XFS and Btrfs on x86-64 and arm64 with 4-kB pages. Larger blocks share nothing and copy."""

Report = Callable[[int], None]
Copied = Callable[[LocalFile, int, int, int], None]
"""Told of bytes that were copied: the source, the offset in it, how many, and their offset in the new file."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a source that go, as they are, to `position` of the file to be written. what: for errors."""

    source: Source
    offset: int
    n_bytes: int
    position: int
    what: str

    @property
    def whole_blocks(self) -> tuple[int, int]:
        """First and end offset, in the source, of the blocks that source and file could share; the same when none."""
        first = -(-self.offset // BLOCK_NBYTES) * BLOCK_NBYTES
        n_whole = (self.offset + self.n_bytes - first) // BLOCK_NBYTES * BLOCK_NBYTES
        is_aligned = (self.position - self.offset) % BLOCK_NBYTES == 0
        return first, first + n_whole if is_aligned and n_whole > 0 else first

    def followed_by(self, other: Span) -> bool:
        """Whether `other` goes on where this ends, in the source and in the file."""
        return (
            self.source is other.source
            and self.offset + self.n_bytes == other.offset
            and self.position + self.n_bytes == other.position
        )


def copied_spans(plan: FilePlan, header: EncodedHeader) -> Iterator[Span]:
    """The tensors whose bytes are only copied, in the file's order."""
    for tensor, at in zip(plan.tensors, header.data_offsets, strict=True):
        span = span_of(tensor, at)
        if span is not None:
            yield span


def span_of(tensor: OutTensor, position: int) -> Span | None:
    """A tensor's bytes, if they are only copied; a head's pass through our hands, to be digested."""
    data = tensor.data
    if not isinstance(data, CopyBytes) or tensor.head_block is not None:
        return None
    return Span(data.source, data.offset, data.n_bytes, position, f"tensor {tensor.name}")


def joined(spans: Iterable[Span]) -> Iterator[Span]:
    """Neighbours made one: a trunk is usually a single span."""
    current: Span | None = None
    for span in spans:
        if current is not None and current.followed_by(span):
            current = Span(span.source, current.offset, current.n_bytes + span.n_bytes, current.position, current.what)
            continue
        if current is not None:
            yield current
        current = span
    if current is not None:
        yield current


class Copier:
    """Copies spans into one open file, and remembers which ways do not work between two file systems."""

    def __init__(self, fd: int, report: Report, copied: Copied | None = None) -> None:
        self._fd = fd
        self._report = report
        self._copied = copied or (lambda source, offset, n_bytes, position: None)
        self._can_clone = linux.IS_LINUX
        self._kernel_ways = [disk.copy_range, disk.send_file] if linux.IS_LINUX else []

    def copy(self, span: Span, is_cancelled: Callable[[], bool] = lambda: False) -> None:
        """Copy one span. The file has its final size already, so a hole of the source is left a hole.

        Raises TruncatedError when the source is shorter than the span, OSError when writing fails.
        """
        source = span.source
        if not isinstance(source, LocalFile):
            self._stream(source, span.offset, span.n_bytes, span.position, span.what, is_cancelled)
            return
        source.require(span.offset, span.n_bytes, span.what)
        shift = span.position - span.offset
        done = span.offset
        for start, end in linux.data_segments(source.fileno(), span.offset, span.n_bytes):
            self._report(start - done)
            start = self._cloned(source, start, end, shift)
            while start < end and not is_cancelled():
                n = min(_KERNEL_CHUNK_NBYTES, end - start)
                self._chunk(source, start, n, start + shift, span.what)
                linux.start_writeback(self._fd, start + shift, n)
                self._copied(source, start, n, start + shift)
                start += n
            done = end
        self._report(span.offset + span.n_bytes - done)

    def _cloned(self, source: LocalFile, start: int, end: int, shift: int) -> int:
        """Share the whole blocks from `start` on; returns up to where it is done (the tail is copied)."""
        first, end = Span(source, start, end - start, start + shift, "the data").whole_blocks
        if not self._can_clone or end <= first:
            return start
        try:
            disk.clone_range(source.fileno(), first, end - first, self._fd, first + shift)
        except OSError as error:
            if error.errno not in linux.CANNOT:
                raise
            self._can_clone = False
            return start
        if first > start:
            self._stream(source, start, first - start, start + shift, "the data", lambda: False)
        self._report(end - first)
        return end

    def _chunk(self, source: LocalFile, offset: int, n_bytes: int, position: int, what: str) -> None:
        while n_bytes and self._kernel_ways:
            try:
                n = self._kernel_ways[0](source.fileno(), offset, n_bytes, self._fd, position)
            except OSError as error:
                if error.errno not in linux.CANNOT and error.errno != errno.EIO:
                    raise
                n = 0  # of an I/O error, reading tells whose it is
            if n == 0:  # the end of a file that shrank, or a way that does not work here: reading will tell
                self._kernel_ways.pop(0)
                continue
            self._report(n)
            offset, position, n_bytes = offset + n, position + n, n_bytes - n
        if n_bytes:
            self._stream(source, offset, n_bytes, position, what, lambda: False)

    def _stream(
        self, source: Source, offset: int, n_bytes: int, position: int, what: str, is_cancelled: Callable[[], bool]
    ) -> None:
        while n_bytes and not is_cancelled():
            n = min(n_bytes, CHUNK_NBYTES)
            disk.write_at(self._fd, read_exactly(source, offset, n, what), position)
            self._report(n)
            offset, position, n_bytes = offset + n, position + n, n_bytes - n


def is_full(error: OSError) -> bool:
    """Whether a write failed for want of room."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
