"""Safetensors headers as values: names, dtypes, shapes and absolute offsets. Tensor data is never read here.

Layout: 8 bytes with the header's length N (little-endian), N bytes of JSON, then the data, which the offsets in the
JSON cover from its first byte to the end of the file without holes or overlaps. Source: safetensors' README, "Format",
and its `Metadata::validate` and `SafeTensors::read_metadata` (huggingface/safetensors, lib.rs).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from mtpgraft.errors import InvalidFileError, RefusedError, TruncatedError
from mtpgraft.jsontext import Json, parse_json
from mtpgraft.source.base import Source, read_exactly

MAX_HEADER_NBYTES = 25_000_000
"""The cap that Hugging Face's own reader of remote headers has (@huggingface/hub, parse-safetensors-metadata.ts); the
format's is 100 MB. A header of 100,000 tensors takes about 12 MB."""

_LENGTH_NBYTES = 8
_MAX_DIMS = 16

DTYPE_BITS: dict[str, int] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}
"""Bits per element. A dtype that is not listed is taken at its stated length: it can be named, not converted."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a checkpoint.

    dtype: as the header spells it ("BF16", "F8_E4M3", ...).
    shape: numpy order (the row length last), as Hugging Face writes it.
    offset: absolute position of the data in `source`. n_bytes: its length.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int
    source: Source = field(repr=False, compare=False)

    @property
    def n_elements(self) -> int:
        return _product(self.shape)


def read_safetensors(source: Source, max_header_nbytes: int = MAX_HEADER_NBYTES) -> dict[str, StoredTensor]:
    """The tensors of one file by name, in the order of the header.

    Raises InvalidFileError for a malformed header, TruncatedError when the file is shorter than its header says.
    """
    header_nbytes = _header_length(source, max_header_nbytes)
    raw = read_exactly(source, _LENGTH_NBYTES, header_nbytes, "the safetensors header")
    entries = parse_json(raw, source.name, "the header")
    if not isinstance(entries, dict):
        raise _invalid(source, "its header is not a JSON object")
    data_start = _LENGTH_NBYTES + header_nbytes
    tensors = {
        name: _tensor(source, name, entry, data_start) for name, entry in entries.items() if name != "__metadata__"
    }
    _check_cover(source, tensors, data_start)
    return tensors


def shard_of_tensor(index: Json, file: str) -> dict[str, str]:
    """The `weight_map` of an index file: tensor name -> name of the shard file beside it.

    Raises InvalidFileError when it is not one, and RefusedError when it points outside its own folder.
    """
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InvalidFileError("the index has no weight_map", file=file, expected="tensor names with file names")
    shards: dict[str, str] = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str):
            raise InvalidFileError("the index names no file", file=file, where=f"tensor {name}", found=shard)
        if not shard.endswith(".safetensors") or any(part in shard for part in ("/", "\\", ":", "\0")):
            raise RefusedError(
                "the index points to something that is not a safetensors file beside it",
                file=file,
                where=f"tensor {name}",
                expected="a plain *.safetensors file name",
                found=repr(shard),
            )
        shards[name] = shard
    return shards


def _header_length(source: Source, max_header_nbytes: int) -> int:
    (n_bytes,) = struct.unpack("<Q", read_exactly(source, 0, _LENGTH_NBYTES, "the safetensors header's length"))
    if n_bytes > source.size - _LENGTH_NBYTES:
        raise TruncatedError(
            "its header is longer than the file, or it is no safetensors file",
            file=source.name,
            expected=f"at most {source.size - _LENGTH_NBYTES} bytes",
            found=f"{n_bytes} bytes",
            hint="download the file again; a file of a few hundred bytes is a Git LFS pointer",
        )
    if n_bytes > max_header_nbytes:
        raise InvalidFileError(
            "its header is longer than mtpgraft reads",
            file=source.name,
            expected=f"at most {max_header_nbytes} bytes",
            found=f"{n_bytes} bytes",
        )
    return int(n_bytes)


def _tensor(source: Source, name: str, entry: Json, data_start: int) -> StoredTensor:
    if not isinstance(entry, dict):
        raise _invalid(source, "its entry is not a JSON object", name)
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str):
        raise _invalid(source, "it has no dtype", name, found=dtype)
    dims = _counts(shape)
    if dims is None or len(dims) > _MAX_DIMS:
        raise _invalid(source, "its shape is not a list of counts", name, found=shape)
    span = _counts(offsets)
    if span is None or len(span) != 2 or span[0] > span[1]:
        raise _invalid(source, "its data_offsets are not a begin and an end", name, found=offsets)
    n_bytes = span[1] - span[0]
    bits = DTYPE_BITS.get(dtype)
    if bits is not None and _product(dims) * bits != n_bytes * 8:
        expected = f"{_product(dims) * bits // 8} bytes for {dtype} {list(dims)}"
        raise _invalid(source, "its length does not fit its shape", name, expected=expected, found=f"{n_bytes} bytes")
    return StoredTensor(name, dtype, dims, data_start + span[0], n_bytes, source)


def _counts(value: Json) -> tuple[int, ...] | None:
    """A list of whole numbers from 0 to 2^63, or None (bool is an int in Python, and no count)."""
    if not isinstance(value, list):
        return None
    counts = tuple(n for n in value if isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**63)
    return counts if len(counts) == len(value) else None


def _check_cover(source: Source, tensors: dict[str, StoredTensor], data_start: int) -> None:
    """The tensors' data covers the file from data_start to its end: no overlap, no hole, nothing beyond."""
    position, before = data_start, "the header"
    for tensor in sorted(tensors.values(), key=lambda t: (t.offset, t.n_bytes)):
        if tensor.offset + tensor.n_bytes > source.size:
            raise TruncatedError(
                "its data lies beyond the end of the file",
                file=source.name,
                where=f"tensor {tensor.name}",
                expected=f"{tensor.offset + tensor.n_bytes} bytes",
                found=f"{source.size} bytes",
                hint="the file is incomplete: download it again",
            )
        if tensor.offset != position:
            kind = "overlaps" if tensor.offset < position else "leaves a hole behind"
            expected, found = f"offset {position}", f"offset {tensor.offset}"
            raise _invalid(source, f"its data {kind} {before}", tensor.name, expected=expected, found=found)
        position, before = tensor.offset + tensor.n_bytes, tensor.name
    if position != source.size:
        raise InvalidFileError(
            "has bytes that belong to no tensor",
            file=source.name,
            expected=f"{position} bytes",
            found=f"{source.size} bytes",
        )


def _invalid(
    source: Source, what: str, tensor: str | None = None, *, expected: object = None, found: object = None
) -> InvalidFileError:
    where = None if tensor is None else f"tensor {tensor}"
    return InvalidFileError(what, file=source.name, where=where, expected=expected, found=_short(found))


def _short(value: object) -> str | None:
    if value is None:
        return None
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _product(dims: Sequence[int]) -> int:
    n = 1
    for dim in dims:
        n *= dim
    return n
