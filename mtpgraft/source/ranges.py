"""Sets of byte ranges, and how wanted ranges are put together into requests. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise

Range = tuple[int, int]
"""[start, end): absolute offsets in bytes."""

PIECE_NBYTES = 8 * 2**20
"""Largest range asked for at once. At 50 MB/s it is 160 ms of data, against 50 to 150 ms for a request's round trip:
smaller pieces pay for latency, larger ones leave connections idle at the end of a 100 MB head."""
_MAX_GAP_NBYTES = 256 * 2**10
_MAX_WASTE = 0.005
"""Share of the wanted bytes that may be fetched for nothing to save requests: a remote extract stays within 1.02 times
the head (tests/test_remote.py)."""


class RangeSet:
    """Disjoint, sorted, merged ranges. Not thread-safe."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in ranges:
            self.add(start, end)

    def __iter__(self) -> Iterator[Range]:
        return zip(self._starts, self._ends, strict=True)

    @property
    def n_bytes(self) -> int:
        return sum(self._ends) - sum(self._starts)

    def add(self, start: int, end: int) -> None:
        """Unite with [start, end)."""
        if start >= end:
            return
        low, high = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if low < high:
            start, end = min(start, self._starts[low]), max(end, self._ends[high - 1])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]

    def discard(self, start: int, end: int) -> None:
        """Take [start, end) away."""
        kept = [part for low, high in self for part in ((low, min(high, start)), (max(low, end), high))]
        kept = [part for part in kept if part[0] < part[1]]
        self._starts, self._ends = [low for low, _ in kept], [high for _, high in kept]

    def covers(self, start: int, end: int) -> bool:
        if start >= end:
            return True
        at = bisect_right(self._starts, start) - 1
        return at >= 0 and self._ends[at] >= end

    def gaps(self, start: int, end: int) -> list[Range]:
        """The parts of [start, end) that are not in the set."""
        out: list[Range] = []
        at = max(0, bisect_right(self._starts, start) - 1)
        for low, high in zip(self._starts[at:], self._ends[at:], strict=True):
            if low >= end or start >= end:
                break
            if low > start:
                out.append((start, low))
            start = max(start, high)
        if start < end:
            out.append((start, end))
        return out


def pieces(start: int, end: int, n_bytes: int = PIECE_NBYTES) -> list[Range]:
    """[start, end) cut into ranges of at most `n_bytes`."""
    return [(at, min(at + n_bytes, end)) for at in range(start, end, n_bytes)]


def coalesce(ranges: Iterable[Range], max_gap: int = _MAX_GAP_NBYTES, max_waste: float = _MAX_WASTE) -> list[Range]:
    """Ranges that cover `ranges` with fewer requests: the smallest gaps are bridged first, none wider than `max_gap`,
    and all together no more than `max_waste` of the bytes wanted."""
    merged = list(RangeSet(ranges))
    allowed = int(sum(end - start for start, end in merged) * max_waste)
    gaps = sorted((b[0] - a[1], a[1], b[0]) for a, b in pairwise(merged))
    out = RangeSet(merged)
    for width, start, end in gaps:
        if width > max_gap or width > allowed:
            break
        allowed -= width
        out.add(start, end)
    return list(out)
