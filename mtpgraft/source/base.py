"""Where bytes are: a source has a size and answers reads at absolute offsets. Nothing else opens files to read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from mtpgraft.errors import TruncatedError

_CHUNK_NBYTES = 4 * 2**20


class Source(Protocol):
    """Random access to the bytes of one file, local or not.

    name: how a user would name it (a path, `hf:org/repo/file.gguf`).
    size: bytes in all.
    """

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...

    def read_at(self, offset: int, n_bytes: int) -> bytes:
        """At most `n_bytes` bytes from `offset`; fewer only at the end of the file."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class FillsBuffers(Protocol):
    """A source that reads into memory of the caller's."""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset`; returns how much of it, less than its length only at the end of the file."""
        ...


def read_exactly(source: Source, offset: int, n_bytes: int, what: str) -> bytes:
    """Exactly `n_bytes` bytes from `offset`, or TruncatedError naming `what` was being read."""
    data = source.read_at(offset, n_bytes)
    if len(data) != n_bytes:
        raise _too_short(source, offset, n_bytes, len(data), what)
    return data


def read_exactly_into(source: Source, offset: int, buffer: memoryview, what: str) -> None:
    """Fill `buffer` from `offset`, or TruncatedError naming `what` was being read."""
    if isinstance(source, FillsBuffers):
        n = source.read_into(offset, buffer)
    else:
        data = source.read_at(offset, len(buffer))
        n = len(data)
        buffer[:n] = data
    if n != len(buffer):
        raise _too_short(source, offset, len(buffer), n, what)


def read_chunks(source: Source, offset: int, n_bytes: int, what: str) -> Iterator[bytes]:
    """The same in pieces of a few MB, in order: memory does not grow with `n_bytes`."""
    for done in range(0, n_bytes, _CHUNK_NBYTES):
        yield read_exactly(source, offset + done, min(_CHUNK_NBYTES, n_bytes - done), what)


def _too_short(source: Source, offset: int, wanted: int, found: int, what: str) -> TruncatedError:
    return TruncatedError(
        f"the file ends inside {what}",
        file=source.name,
        where=f"offset {offset}",
        expected=f"{wanted} bytes",
        found=f"{found} bytes",
        hint="download or copy the file again",
    )
