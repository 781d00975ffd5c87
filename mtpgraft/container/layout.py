"""From a tensor table's offsets to tensors with lengths, checked against the file."""

from __future__ import annotations

from dataclasses import dataclass

from mtpgraft.container.types import tensor_type
from mtpgraft.container.values import Tensor
from mtpgraft.errors import InvalidFileError, TruncatedError
from mtpgraft.source.base import Source


@dataclass(frozen=True, slots=True)
class TableEntry:
    """A tensor as its table entry states it; `offset` is relative to the data section."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Tensors in table order with absolute offsets and lengths."""

    tensors: tuple[Tensor, ...]
    data_start: int
    has_gaps: bool
    trailing_nbytes: int


def padded(n_bytes: int, alignment: int) -> int:
    """`n_bytes` rounded up to a multiple of `alignment`."""
    return -(-n_bytes // alignment) * alignment


def lay_out(entries: list[TableEntry], header_nbytes: int, alignment: int, source: Source, shard_index: int) -> Layout:
    """Give every tensor its length: what its type and shape say where both are known, else the distance to the next.

    Raises TruncatedError when data lies beyond the end of the file, InvalidFileError when tensors overlap or are
    not aligned.
    """
    # gguf.cpp skips the padding only when there are tensors (b11434, "we require the data section to be aligned")
    data_start = padded(header_nbytes, alignment) if entries else header_nbytes
    data_nbytes = source.size - data_start
    order = sorted(range(len(entries)), key=lambda i: (entries[i].offset, i))
    spans = [0] * len(entries)
    for position, index in enumerate(order):
        entry = entries[index]
        end = entries[order[position + 1]].offset if position + 1 < len(order) else max(data_nbytes, entry.offset)
        spans[index] = end - entry.offset
    tensors = tuple(
        _tensor(entry, span, data_start, alignment, source, shard_index)
        for entry, span in zip(entries, spans, strict=True)
    )
    has_gaps = _has_gaps(entries, tensors, alignment)
    trailing = 0
    if order:
        last = tensors[order[-1]]
        trailing = max(0, source.size - (last.offset + padded(last.n_bytes, alignment)))
    return Layout(tensors, data_start, has_gaps, trailing)


def _tensor(entry: TableEntry, span: int, data_start: int, alignment: int, source: Source, shard_index: int) -> Tensor:
    where = f"tensor {entry.name}"
    if entry.offset % alignment:
        raise InvalidFileError(
            "its data is not aligned",
            file=source.name,
            where=where,
            expected=f"a multiple of {alignment}",
            found=f"offset {entry.offset}",
        )
    stated = tensor_type(entry.type_id).nbytes(entry.shape)
    begin = data_start + entry.offset
    if begin > source.size or (stated is not None and begin + stated > source.size):
        raise TruncatedError(
            "its data lies beyond the end of the file",
            file=source.name,
            where=where,
            expected=f"{begin + (stated or 0)} bytes",
            found=f"{source.size} bytes",
            hint="the file is incomplete: download or copy it again",
        )
    known = tensor_type(entry.type_id)
    if known.block_nbytes and stated is None:
        raise InvalidFileError(
            f"its rows do not fill whole {known.name} blocks",
            file=source.name,
            where=where,
            expected=f"a multiple of {known.block}",
            found=entry.shape[0] if entry.shape else 0,
        )
    if stated is not None and stated > span:
        raise InvalidFileError(
            "its data overlaps the next tensor's",
            file=source.name,
            where=where,
            expected=f"{stated} bytes",
            found=f"{span} bytes before the next tensor",
        )
    if stated is None and span == 0 and 0 not in entry.shape:
        raise InvalidFileError(
            "its data overlaps another tensor's",
            file=source.name,
            where=where,
            found=f"offset {entry.offset}",
        )
    n_bytes = span if stated is None else stated
    return Tensor(entry.name, entry.shape, entry.type_id, begin, n_bytes, span, shard_index)


def _has_gaps(entries: list[TableEntry], tensors: tuple[Tensor, ...], alignment: int) -> bool:
    running = 0
    for entry, tensor in zip(entries, tensors, strict=True):
        if entry.offset != running:
            return True
        running += padded(tensor.n_bytes, alignment)
    return False
