"""A fingerprint of a trunk that is cheap to take: blocks spread over all of it, every byte where it is small."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from mtpgraft.source.base import Source, read_exactly
from mtpgraft.source.local import LocalFile

_N_PLACES = 1024
_PLACE_NBYTES = 4096


@dataclass(frozen=True, slots=True)
class TrunkSamples:
    """sha256 over the sampled blocks of the `n_bytes` that follow a data section's start."""

    n_bytes: int
    sha256: str

    @property
    def sampled_nbytes(self) -> int:
        """Bytes that the digest covers."""
        return sum(n for _, n in _places(self.n_bytes))

    @classmethod
    def take(cls, source: Source, data_start: int, n_bytes: int) -> TrunkSamples:
        """Read them."""
        sha = hashlib.sha256()
        if isinstance(source, LocalFile):
            source.will_read([(data_start + offset, n) for offset, n in _places(n_bytes)])
        for offset, n in _places(n_bytes):
            sha.update(read_exactly(source, data_start + offset, n, "the trunk"))
        return cls(n_bytes, sha.hexdigest())

    def holds_for(self, source: Source, data_start: int) -> bool:
        """Whether the same blocks lie behind `data_start` now."""
        return self.take(source, data_start, self.n_bytes).sha256 == self.sha256


def _places(n_bytes: int) -> list[tuple[int, int]]:
    """(offset, length), the first and the last block among them."""
    if n_bytes <= _N_PLACES * _PLACE_NBYTES:
        return [(offset, min(_PLACE_NBYTES, n_bytes - offset)) for offset in range(0, n_bytes, _PLACE_NBYTES)]
    last = n_bytes - _PLACE_NBYTES
    return [(last * i // (_N_PLACES - 1), _PLACE_NBYTES) for i in range(_N_PLACES)]
