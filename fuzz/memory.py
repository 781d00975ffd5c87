"""A source in memory, for both fuzzers."""

from __future__ import annotations


class Memory:
    """A source in memory."""

    def __init__(self, data: bytes, name: str = "fuzzed.gguf") -> None:
        self._data = data
        self.name = name
        self.size = len(data)

    def read_at(self, offset: int, n_bytes: int) -> bytes:
        return self._data[offset : offset + n_bytes]

    def close(self) -> None:
        pass
