"""Tensors that are computed from others, row by row.

A recipe is a small tree of values: leaves read stored rows as float32, the other nodes rearrange or change what their
parts give. Any range of rows can be asked for, so that memory stays bounded whatever the tensor's size. All shapes here
are two-dimensional (rows, row length): a stack of matrices is its matrices' rows one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Protocol

from mtpgraft.quantize import encode_rows, in_order, widen_bf16
from mtpgraft.source.base import Source, read_exactly

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

# 1 M elements: 4 MB of float32 per chunk, some 20 MB with the temporaries of quantizing it.
_CHUNK_ELEMENTS = 1 << 20

READABLE_DTYPES: dict[str, int] = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "F8_E4M3": 1, "F8_E5M2": 1}
"""Safetensors dtypes that can be turned into numbers, with their bytes per element."""


ByteRange = tuple[Source, int, int]
"""Where bytes are read: source, absolute offset, length."""


class Rows(Protocol):
    """A matrix of float32 of which any range of rows can be read.

    grain: reads that begin and end at multiples of it cost nothing twice.
    is_half: its values come from F16 without other arithmetic: llama.cpp's converter computes on them in F16.
    ranges: every stored byte it may need, to be fetched ahead or counted; a range can be named twice.
    """

    @property
    def n_rows(self) -> int: ...
    @property
    def row(self) -> int: ...
    @property
    def grain(self) -> int: ...
    @property
    def is_half(self) -> bool: ...
    @property
    def ranges(self) -> tuple[ByteRange, ...]: ...

    def read(self, first: int, n: int) -> Floats:
        """Rows first ... first + n - 1, shape (n, row)."""
        ...


@dataclass(frozen=True, slots=True)
class Stored:
    """Rows as they lie in a file, little-endian. dtype: one of READABLE_DTYPES."""

    source: Source = field(repr=False)
    name: str
    offset: int
    dtype: str
    n_rows: int
    row: int
    grain: int = 1

    @property
    def is_half(self) -> bool:
        return self.dtype == "F16"

    @property
    def ranges(self) -> tuple[ByteRange, ...]:
        return ((self.source, self.offset, self.n_rows * self.row * READABLE_DTYPES[self.dtype]),)

    def read(self, first: int, n: int) -> Floats:
        row_nbytes = self.row * READABLE_DTYPES[self.dtype]
        raw = read_exactly(self.source, self.offset + first * row_nbytes, n * row_nbytes, f"tensor {self.name}")
        return _decoded(raw, self.dtype).reshape(n, self.row)


@dataclass(frozen=True, slots=True)
class _Of:
    """A node that takes its properties from one part."""

    inner: Rows

    @property
    def n_rows(self) -> int:
        return self.inner.n_rows

    @property
    def row(self) -> int:
        return self.inner.row

    @property
    def grain(self) -> int:
        return self.inner.grain

    @property
    def is_half(self) -> bool:
        return self.inner.is_half

    @property
    def ranges(self) -> tuple[ByteRange, ...]:
        return self.inner.ranges


@dataclass(frozen=True, slots=True)
class Plus(_Of):
    """Every value plus one number (zero-centred norms)."""

    addend: float

    def read(self, first: int, n: int) -> Floats:
        import numpy as np

        return _as_precise(self.inner.read(first, n) + np.float32(self.addend), self.is_half)


@dataclass(frozen=True, slots=True)
class Times(_Of):
    """Every value times one number."""

    factor: float

    def read(self, first: int, n: int) -> Floats:
        import numpy as np

        return _as_precise(self.inner.read(first, n) * np.float32(self.factor), self.is_half)


@dataclass(frozen=True, slots=True)
class Scaled(_Of):
    """Rows times their block scales, as FP8 checkpoints are read.

    The inner rows are matrices of `matrix_rows` rows one after the other; each has ceil(matrix_rows / block_rows) rows
    of scales, and each scale serves `block_row` values of a row (0: the whole row).
    """

    scales: Rows
    matrix_rows: int
    block_rows: int
    block_row: int

    @property
    def is_half(self) -> bool:
        return False

    @property
    def ranges(self) -> tuple[ByteRange, ...]:
        return (*self.inner.ranges, *self.scales.ranges)

    def read(self, first: int, n: int) -> Floats:
        import numpy as np

        matrix, local = np.divmod(np.arange(first, first + n), self.matrix_rows)
        scale_rows = matrix * -(-self.matrix_rows // self.block_rows) + local // self.block_rows
        low, high = int(scale_rows[0]), int(scale_rows[-1])
        scales = self.scales.read(low, high - low + 1)[scale_rows - low]
        if self.block_row:
            scales = np.repeat(scales, self.block_row, axis=1)[:, : self.row]
        product: Floats = self.inner.read(first, n) * scales
        return product


@dataclass(frozen=True, slots=True)
class Stacked:
    """Parts one below the other: experts, or rows of several tensors. All have one row length."""

    parts: tuple[Rows, ...]

    @property
    def n_rows(self) -> int:
        return sum(part.n_rows for part in self.parts)

    @property
    def row(self) -> int:
        return self.parts[0].row

    @property
    def grain(self) -> int:
        return self.parts[0].grain

    @property
    def is_half(self) -> bool:
        return all(part.is_half for part in self.parts)

    @property
    def ranges(self) -> tuple[ByteRange, ...]:
        return tuple(one for part in self.parts for one in part.ranges)

    def read(self, first: int, n: int) -> Floats:
        import numpy as np

        pieces: list[Floats] = []
        for part in self.parts:
            begin, end = max(first, 0), min(first + n, part.n_rows)
            if begin < end:
                pieces.append(part.read(begin, end - begin))
            first -= part.n_rows
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


@dataclass(frozen=True, slots=True)
class Beside:
    """Parts side by side: row i is the parts' rows i one after the other."""

    parts: tuple[Rows, ...]

    @property
    def n_rows(self) -> int:
        return self.parts[0].n_rows

    @property
    def row(self) -> int:
        return sum(part.row for part in self.parts)

    @property
    def grain(self) -> int:
        return max(part.grain for part in self.parts)

    @property
    def is_half(self) -> bool:
        return all(part.is_half for part in self.parts)

    @property
    def ranges(self) -> tuple[ByteRange, ...]:
        return tuple(one for part in self.parts for one in part.ranges)

    def read(self, first: int, n: int) -> Floats:
        import numpy as np

        return np.concatenate([part.read(first, n) for part in self.parts], axis=1)


@dataclass(frozen=True, slots=True)
class Picked(_Of):
    """Of every `group` rows those at `order`, in that order: halves, heads, permutations."""

    group: int
    order: tuple[int, ...]

    @property
    def n_rows(self) -> int:
        return self.inner.n_rows // self.group * len(self.order)

    @property
    def grain(self) -> int:
        return 1 if self._is_run else len(self.order)

    @property
    def _is_run(self) -> bool:
        return self.order == tuple(range(self.order[0], self.order[0] + len(self.order)))

    def read(self, first: int, n: int) -> Floats:
        import numpy as np

        pieces: list[Floats] = []
        while n:
            number, begin = divmod(first, len(self.order))
            end = min(begin + n, len(self.order))
            wanted = self.order[begin:end]
            low, high = min(wanted), max(wanted)
            rows = self.inner.read(number * self.group + low, high - low + 1)
            pieces.append(rows if self._is_run else rows[np.array(wanted) - low])
            first += end - begin
            n -= end - begin
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


@dataclass(frozen=True, slots=True)
class Transposed(_Of):
    """Matrices of `group` rows each, one after the other, every one transposed."""

    group: int

    @property
    def n_rows(self) -> int:
        return self.inner.n_rows // self.group * self.inner.row

    @property
    def row(self) -> int:
        return self.group

    @property
    def grain(self) -> int:
        return self.inner.row

    def read(self, first: int, n: int) -> Floats:
        import numpy as np

        n_columns = self.inner.row
        begin, end = first // n_columns, -(-(first + n) // n_columns)
        matrices = self.inner.read(begin * self.group, (end - begin) * self.group)
        turned = matrices.reshape(end - begin, self.group, n_columns).transpose(0, 2, 1).reshape(-1, self.group)
        offset = first - begin * n_columns
        return np.ascontiguousarray(turned[offset : offset + n])


def encoded(rows: Rows, type_id: int, byte_order: str = "<", n_threads: int | None = None) -> Iterator[bytes]:
    """The rows as data of a ggml type, chunk after chunk, computed on several cores.

    Raises TruncatedError when a source is short.
    """
    per_chunk = max(1, _CHUNK_ELEMENTS // max(1, rows.row))
    grain = min(rows.grain, max(1, rows.n_rows))
    per_chunk = max(grain, per_chunk // grain * grain)

    def one_chunk(first: int) -> bytes:
        import numpy as np

        n = min(per_chunk, rows.n_rows - first)
        # Infinities and NaN of a broken checkpoint are its own: they pass through without warnings.
        with np.errstate(all="ignore"):
            return encode_rows(np.ascontiguousarray(rows.read(first, n)), type_id, byte_order)

    return in_order(one_chunk, range(0, rows.n_rows, per_chunk), n_threads)


def _as_precise(values: Floats, is_half: bool) -> Floats:
    """Rounded to F16 where torch would have computed in F16 (one rounding, of the float32 result)."""
    import numpy as np

    return values.astype(np.float16).astype(np.float32) if is_half else values


def _decoded(raw: bytes, dtype: str) -> Floats:
    import numpy as np

    if dtype in ("F8_E4M3", "F8_E5M2"):
        floats: Floats = _fp8_table(dtype)[np.frombuffer(raw, np.uint8)]
        return floats
    if dtype == "BF16":
        return widen_bf16(np.frombuffer(raw, "<u2"))
    layout = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}[dtype]
    with np.errstate(all="ignore"):
        return np.frombuffer(raw, layout).astype(np.float32)


@cache
def _fp8_table(dtype: str) -> Floats:
    """float32 values of the 256 codes. E4M3 is the finite variant: no infinities, one NaN per sign (0x7F, 0xFF).

    Source: OCP 8-bit Floating Point Specification, revision 1.0, table 1.
    """
    import numpy as np

    n_mantissa, bias = (3, 7) if dtype == "F8_E4M3" else (2, 15)
    code = np.arange(256)
    exponent = (code & 0x7F) >> n_mantissa
    mantissa = (code & ((1 << n_mantissa) - 1)) / (1 << n_mantissa)
    magnitude = np.where(exponent == 0, mantissa * 2.0 ** (1 - bias), (1 + mantissa) * 2.0 ** (exponent - float(bias)))
    if dtype == "F8_E4M3":
        magnitude[(code & 0x7F) == 0x7F] = np.nan
    else:
        magnitude[exponent == 31] = np.where(mantissa[exponent == 31] == 0, np.inf, np.nan)
    table: Floats = np.where(code < 128, magnitude, -magnitude).astype(np.float32)
    return table
