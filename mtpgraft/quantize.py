"""Changes a tensor's type, in row chunks, on several cores.

Reading and writing of ggml's types is gguf-py's (`gguf.quants`), but for Q8_0, which nearly every head becomes: that is
done here, several times as fast, and byte-identical to quantize_row_q8_0_ref, NaN included (docs/performance.md).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count
from typing import TYPE_CHECKING, Any

from mtpgraft.container.types import BF16, F16, F32, Q8_0, TensorType, tensor_type
from mtpgraft.errors import InvalidFileError, RefusedError, UsageError
from mtpgraft.source.base import Source, read_exactly

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Bytes = NDArray[np.uint8]

_CHUNK_ELEMENTS = 1 << 18
"""Elements that one thread reads, converts and hands on at a time."""
_CACHED_ELEMENTS = 1 << 18
"""Elements of one step of the Q8_0 arithmetic: few enough for the processor's cache, and enough that a numpy call takes
longer than handing the interpreter's lock to another thread (with 2^16, two threads are no faster than one)."""
_SMALLEST_NORMAL = 2.0**-126
_PLAIN = (F32, F16, BF16)
_WRITABLE_NAMES = ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "MXFP4", "TQ1_0", "TQ2_0")


def writable_types() -> tuple[str, ...]:
    """Names of the types a tensor can be changed to, in lower case, as `--type` takes them."""
    return tuple(name.lower() for name in _WRITABLE_NAMES)


def parse_type(name: str) -> TensorType:
    """The type that a user named. Raises UsageError for one that cannot be written."""
    for known in _WRITABLE_NAMES:
        if known.lower() == name.lower():
            from mtpgraft.container.types import TENSOR_TYPES_BY_NAME

            return TENSOR_TYPES_BY_NAME[known]
    raise UsageError(
        f"cannot write tensors of type {name!r}",
        expected=f"keep, {', '.join(writable_types())}",
        hint="for k-quants and i-quants use llama-quantize on the head file",
    )


def can_read(type_id: int) -> bool:
    """Whether tensors of this type can be turned into numbers."""
    if type_id in _PLAIN:
        return True
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import _type_traits

    return any(int(known) == type_id for known in _type_traits) and type_id in {int(t) for t in GGMLQuantizationType}


def convert(
    source: Source,
    offset: int,
    shape: tuple[int, ...],
    from_type: int,
    to_type: int,
    from_order: str = "<",
    to_order: str = "<",
    n_threads: int | None = None,
) -> Iterator[bytes]:
    """A tensor's data in another type, chunk after chunk, in order.

    shape: GGUF order. from_order, to_order: "<" or ">", the byte orders of the two files.
    Raises RefusedError for a pair of types that cannot be done, InvalidFileError when the data is short.
    """
    row = shape[0] if shape else 1
    n_rows = 1
    for dim in shape[1:]:
        n_rows *= dim
    row_nbytes = tensor_type(from_type).nbytes((row,))
    if row_nbytes is None or not can_read(from_type):
        raise RefusedError(
            f"tensors of type {tensor_type(from_type).name} cannot be changed to another type",
            file=source.name,
            hint="use --type keep",
        )
    _check_order(source, from_type, from_order)
    _check_order(source, to_type, to_order)
    rows_per_chunk = max(1, _CHUNK_ELEMENTS // max(1, row))

    def one_chunk(first: int) -> bytes:
        n = min(rows_per_chunk, n_rows - first)
        raw = read_exactly(source, offset + first * row_nbytes, n * row_nbytes, "a tensor")
        return encode_rows(decode_rows(raw, n, row, from_type, from_order), to_type, to_order)

    yield from in_order(one_chunk, range(0, n_rows, rows_per_chunk), n_threads)


def in_order(make: Callable[[int], bytes], firsts: Iterable[int], n_threads: int | None = None) -> Iterator[bytes]:
    """`make(first)` for each of `firsts`, in their order, made on several cores.

    A bounded number is in flight: memory must not grow with the tensor. n_threads: None is up to 8, one per core.
    """
    n_workers = n_threads or min(8, cpu_count() or 1)
    with ThreadPoolExecutor(n_workers) as pool:
        pending: deque[Future[bytes]] = deque()
        for first in firsts:
            pending.append(pool.submit(make, first))
            if len(pending) > n_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def decode_rows(raw: bytes, n_rows: int, row: int, from_type: int, byte_order: str = "<") -> Floats:
    """Rows of any readable type as float32, shape (n_rows, row)."""
    import numpy as np

    if from_type == F32:
        return np.frombuffer(raw, dtype=byte_order + "f4").astype(np.float32, copy=False).reshape(n_rows, row)
    if from_type == F16:
        return _decode_f16(np.frombuffer(raw, dtype=byte_order + "u2")).reshape(n_rows, row)
    if from_type == BF16:
        bits = np.frombuffer(raw, dtype=byte_order + "u2").astype(np.uint32)
        bits <<= np.uint32(16)
        floats: Floats = bits.view(np.float32).reshape(n_rows, row)
        return floats
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import QuantError, dequantize

    blocks = np.frombuffer(raw, dtype=np.uint8).reshape(n_rows, -1)
    if byte_order == ">" and from_type == Q8_0:
        blocks = blocks.reshape(-1, 34).copy()
        blocks[:, :2] = blocks[:, 1::-1]
        blocks = blocks.reshape(n_rows, -1)
    try:
        values: Floats = dequantize(blocks, GGMLQuantizationType(from_type))
    except (QuantError, NotImplementedError, ValueError) as error:
        raise InvalidFileError(f"cannot be read as {tensor_type(from_type).name}: {error}") from None
    return values.reshape(n_rows, row)


def _decode_f16(halves: NDArray[np.uint16]) -> Floats:
    """As numpy's own cast, three times as fast: the bits moved into place, and the exponent's bias made good."""
    import numpy as np

    if halves.size == 0 or (halves & np.uint16(0x7FFF)).max() >= 0x7C00:  # an infinity or NaN
        return halves.astype(np.uint16).view(np.float16).astype(np.float32)
    bits = halves.astype(np.uint32)
    sign = bits & np.uint32(0x8000)
    sign <<= np.uint32(16)
    bits &= np.uint32(0x7FFF)
    bits <<= np.uint32(13)
    values: Floats = bits.view(np.float32)
    values *= np.float32(2.0**112)  # 127 - 15; exact, subnormal numbers too
    bits |= sign
    return values


def encode_rows(values: Floats, to_type: int, byte_order: str = "<") -> bytes:
    """float32 rows, shape (n_rows, row), as the bytes of `to_type`."""
    import numpy as np

    if to_type == F32:
        return values.astype(byte_order + "f4", copy=False).tobytes()
    with np.errstate(all="ignore"):
        if to_type == F16:
            return values.astype(byte_order + "f2").tobytes()
        if to_type == BF16:
            return _encode_bf16(values).astype(byte_order + "u2", copy=False).tobytes()
        if to_type == Q8_0:
            return _encode_q8_0(values, byte_order)
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import quantize

        encoded: Any = quantize(values, GGMLQuantizationType(to_type))
        return bytes(encoded.tobytes())


def _encode_bf16(values: Floats) -> NDArray[np.uint16]:
    """Round to nearest even; NaN stays a quiet NaN (ggml_compute_fp32_to_bf16, ggml-impl.h @ b11434)."""
    import numpy as np

    bits = values.view(np.uint32)
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(64)
    halves: NDArray[np.uint16] = np.where(is_nan, quiet, rounded).astype(np.uint16)
    return halves


def _encode_q8_0(values: Floats, byte_order: str) -> bytes:
    """quantize_row_q8_0_ref, in pieces that stay in the processor's cache."""
    import numpy as np

    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    blocks: Bytes = np.empty((flat.size // 32, 34), np.uint8)
    n = min(flat.size, _CACHED_ELEMENTS) // 32
    scratch = _Scratch(np.empty((n, 32), np.uint32), np.empty((n, 32), np.float32), np.empty((n, 32), np.int8))
    with np.errstate(all="ignore"):
        for first in range(0, flat.size, _CACHED_ELEMENTS):
            piece = flat[first : first + _CACHED_ELEMENTS].reshape(-1, 32)
            _q8_0_piece(piece, blocks[first // 32 : first // 32 + len(piece)], scratch)
    if byte_order == ">":
        blocks[:, :2] = blocks[:, 1::-1].copy()
    return blocks.tobytes()


@dataclass(frozen=True, slots=True)
class _Scratch:
    """Arrays of shape (n, 32) that every piece uses again."""

    bits: NDArray[np.uint32]
    scaled: Floats
    bytes: NDArray[np.int8]


def _q8_0_piece(values: Floats, blocks: Bytes, scratch: _Scratch) -> None:
    """Rows of 32 values, each as a half-precision scale and 32 signed bytes, into `blocks`, shape (n, 34).

    The largest magnitude is found among the bit patterns without their sign, which sort as the numbers do.
    roundf is trunc(x + copysign(0.49999997, x)): with the number before 0.5, the sum reaches the next integer for
    every float32 from a half on, and for none below.
    """
    import numpy as np

    n = len(values)
    bits, scaled, in_bytes = scratch.bits[:n], scratch.scaled[:n], scratch.bytes[:n]
    np.bitwise_and(values.view(np.uint32), np.uint32(0x7FFFFFFF), out=bits)
    largest = np.maximum.reduceat(bits.reshape(-1), np.arange(0, 32 * n, 32)).view(np.float32)
    scale = largest / np.float32(127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    np.multiply(values, inverse[:, None], out=scaled)
    np.bitwise_and(scaled.view(np.uint32), np.uint32(0x80000000), out=bits)
    np.bitwise_or(bits, np.uint32(0x3EFFFFFF), out=bits)
    np.add(scaled, bits.view(np.float32), out=scaled)
    np.copyto(in_bytes, scaled, casting="unsafe")
    fields = blocks.view(np.dtype([("scale", "V2"), ("values", "V32")]))[:, 0]
    fields["scale"] = scale.astype(np.float16).view("V2")
    fields["values"] = in_bytes.view("V32")[:, 0]
    # NaN, infinities, and scales so small that their inverse overflows or is inexact: to the letter of the C code
    odd = np.flatnonzero(~((scale >= _SMALLEST_NORMAL) & (scale < np.inf)) & (scale != 0))
    if odd.size:
        blocks[odd] = _q8_0_as_c_does(values[odd])


def _q8_0_as_c_does(values: Floats) -> Bytes:
    """quantize_row_q8_0_ref (ggml-quants.c @ b11434) for blocks, shape (n, 32), with NaN, as compiled for x86-64.

    `amax = MAX(amax, fabsf(v))` is `a > b ? a : b`: a NaN replaces the maximum, and the next number replaces the NaN.
    Converting a NaN or a number out of int32's range to int gives INT_MIN, whose low byte is 0.
    """
    import numpy as np

    amax = np.zeros(len(values), np.float32)
    for column in np.abs(values).T:
        amax = np.where(amax > column, amax, column)
    d = (amax / np.float32(127)).astype(np.float32)
    inverse = np.where(d == 0, np.float32(0), np.float32(1) / d).astype(np.float32)
    x0 = values * inverse[:, None]
    magnitude = np.abs(x0)
    floored = np.floor(magnitude)
    rounded = np.sign(x0) * (floored + np.floor(2 * (magnitude - floored)))
    in_range = np.abs(rounded) < 2.0**31
    low_bytes = np.where(in_range, rounded, 0).astype(np.int64).astype(np.uint8)
    half = d.astype(np.float16).view(np.uint16)
    half[np.isnan(d)] = 0x7E00  # ggml_compute_fp32_to_fp16; processors with F16C would keep bits of the NaN
    return np.concatenate([half.view(np.uint8).reshape(-1, 2), low_bytes], axis=1)


def _check_order(source: Source, type_id: int, byte_order: str) -> None:
    if byte_order == ">" and type_id not in (*_PLAIN, Q8_0):
        raise RefusedError(
            f"{tensor_type(type_id).name} is not converted between byte orders",
            file=source.name,
            hint="convert the file with llama.cpp's gguf_convert_endian.py first",
        )
