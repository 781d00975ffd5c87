"""Where bytes are: a source has a size and answers reads at absolute offsets. Nothing else opens files to read."""

from __future__ import annotations

from typing import Protocol

from mtpgraft.errors import TruncatedError


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


def read_exactly(source: Source, offset: int, n_bytes: int, what: str) -> bytes:
    """Exactly `n_bytes` bytes from `offset`, or TruncatedError naming `what` was being read."""
    data = source.read_at(offset, n_bytes)
    if len(data) != n_bytes:
        raise TruncatedError(
            f"the file ends inside {what}",
            file=source.name,
            where=f"offset {offset}",
            expected=f"{n_bytes} bytes",
            found=f"{len(data)} bytes",
            hint="download or copy the file again",
        )
    return data
