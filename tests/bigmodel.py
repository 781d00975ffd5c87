"""Models of any size and any number of tensors around the trained fixture's keys, dense or as holes."""

from __future__ import annotations

import os
from pathlib import Path

from mtpgraft.container import open_gguf
from mtpgraft.container.encode import TableRow, encode_header
from tests.conftest import TRAINED

Q8_0 = 8
_PATTERN_NBYTES = 64 * 2**20


def make_big_base(path: Path, n_bytes: int, n_fillers: int, *, sparse: bool = False) -> None:
    """The Q2_K fixture with `n_fillers` Q8_0 tensors of about `n_bytes` in all behind its own.

    sparse: the fillers are holes; else bytes that no file system or disk can make smaller.
    """
    with open_gguf(TRAINED / "base-Q2_K.gguf") as base:
        shard = base.shards[0]
        n_rows = max(1, n_bytes // n_fillers // (8192 // 32 * 34))
        filler_nbytes = n_rows * 8192 // 32 * 34
        rows = [TableRow(t.name, t.shape, t.type_id, t.n_bytes) for t in shard.tensors]
        rows += [TableRow(f"filler.{i}.weight", (8192, n_rows), Q8_0, filler_nbytes) for i in range(n_fillers)]
        header = encode_header(shard.version, shard.byte_order, shard.alignment, shard.keys, rows)
        with path.open("wb") as out:
            out.write(header.raw)
            for tensor, offset in zip(shard.tensors, header.data_offsets, strict=False):
                out.seek(offset)
                out.write(shard.source.read_at(tensor.offset, tensor.n_bytes))
            if not sparse:
                out.seek(header.data_offsets[len(shard.tensors)])
                pattern = os.urandom(min(_PATTERN_NBYTES, n_bytes))
                left = header.file_nbytes - out.tell()
                while left > 0:
                    left -= out.write(pattern[: min(left, len(pattern))])
            out.truncate(header.file_nbytes)
