"""Changes a tensor's type, in row chunks, on several cores.

Reading and writing of ggml's types is gguf-py's (`gguf.quants`), but for Q8_0, which nearly every head becomes: q8_0.py
does that several times as fast, with the same bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from os import cpu_count
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from mtpgraft.container.types import BF16, F16, F32, Q8_0, TensorType, tensor_type
from mtpgraft.errors import InvalidFileError, RefusedError, UsageError
from mtpgraft.source.base import Source, read_exactly, read_exactly_into

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Bytes = NDArray[np.uint8]

_Made = TypeVar("_Made")
_CHUNK_ELEMENTS = 1 << 20
"""Elements that one thread reads, converts and hands on at a time."""
_MAX_THREADS = 4
"""More than these convert faster than one thread hashes and writes."""
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
) -> Iterator[bytes | memoryview]:
    """A tensor's data in another type, chunk after chunk, in order. Each chunk is valid until the next is asked for.

    shape: GGUF order. from_order, to_order: "<" or ">", the byte orders of the two files. n_threads: None is up to 4,
    one per core.
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
    n_threads = n_threads or min(_MAX_THREADS, cpu_count() or 1)
    if from_type in _PLAIN and to_type == Q8_0 and row % 32 == 0:
        yield from _plain_to_q8_0(source, offset, n_rows * row, from_type, from_order, to_order, n_threads)
        return
    rows_per_chunk = max(1, _CHUNK_ELEMENTS // max(1, row))

    def one_chunk(first: int) -> bytes:
        n = min(rows_per_chunk, n_rows - first)
        raw = read_exactly(source, offset + first * row_nbytes, n * row_nbytes, "a tensor")
        return encode_rows(decode_rows(raw, n, row, from_type, from_order), to_type, to_order)

    yield from in_order(one_chunk, range(0, n_rows, rows_per_chunk), n_threads)


def _plain_to_q8_0(
    source: Source, offset: int, n_elements: int, from_type: int, from_order: str, to_order: str, n_threads: int
) -> Iterator[memoryview]:
    """Rows do not matter: all is blocks of 32. Buffers are used again, because new ones cost more than the work."""
    import numpy as np

    from mtpgraft import q8_0

    width = 4 if from_type == F32 else 2
    n_most = min(_CHUNK_ELEMENTS, n_elements)
    free: SimpleQueue[tuple[bytearray, bytearray]] = SimpleQueue()
    for _ in range(n_threads + 2):  # being filled, waiting to be taken, and the one that the caller has
        free.put((bytearray(n_most * width), bytearray(n_most // q8_0.BLOCK * q8_0.BLOCK_NBYTES)))

    def one_chunk(first: int) -> tuple[memoryview, tuple[bytearray, bytearray]]:
        n = min(_CHUNK_ELEMENTS, n_elements - first)
        buffers = free.get()
        raw, encoded = (
            memoryview(buffers[0])[: n * width],
            memoryview(buffers[1])[: n // q8_0.BLOCK * q8_0.BLOCK_NBYTES],
        )
        read_exactly_into(source, offset + first * width, raw, "a tensor")
        stored, blocks = np.frombuffer(raw, f"u{width}"), np.frombuffer(encoded, np.uint8)
        if from_order == ">":
            stored.byteswap(inplace=True)
        encoder = q8_0.encoder()
        if from_type == F32:
            encoder.encode(stored.view(np.float32), blocks)
        elif from_type == BF16:
            encoder.encode_bf16(stored, blocks)
        else:
            encoder.encode_f16(stored, blocks)
        if to_order == ">":
            q8_0.swap_scales(blocks)
        return encoded, buffers

    if n_elements <= _CHUNK_ELEMENTS:  # not worth a thread
        yield one_chunk(0)[0]
        return
    for encoded, buffers in in_order(one_chunk, range(0, n_elements, _CHUNK_ELEMENTS), n_threads):
        yield encoded
        free.put(buffers)


def in_order(make: Callable[[int], _Made], firsts: Iterable[int], n_threads: int | None = None) -> Iterator[_Made]:
    """`make(first)` for each of `firsts`, in their order, made on several cores.

    A bounded number is in flight: memory must not grow with the tensor. n_threads: None is up to 8, one per core.
    """
    n_workers = n_threads or min(8, cpu_count() or 1)
    with ThreadPoolExecutor(n_workers) as pool:
        pending: deque[Future[_Made]] = deque()
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
        return widen_bf16(np.frombuffer(raw, dtype=byte_order + "u2")).reshape(n_rows, row)
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


def widen_bf16(halves: NDArray[np.uint16]) -> Floats:
    """BF16 values, as stored in either byte order, as float32."""
    import numpy as np

    bits = halves.astype(np.uint32)
    bits <<= np.uint32(16)
    floats: Floats = bits.view(np.float32)
    return floats


def _decode_f16(halves: NDArray[np.uint16]) -> Floats:
    """As numpy's own cast, three times as fast."""
    import numpy as np

    from mtpgraft.q8_0 import widen_f16

    halves = halves.astype(np.uint16, copy=False)
    if halves.size == 0 or (halves & np.uint16(0x7FFF)).max() >= 0x7C00:  # an infinity or NaN
        return halves.view(np.float16).astype(np.float32)
    values: Floats = np.empty(halves.size, np.float32)
    widen_f16(halves, values)
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
    import numpy as np

    from mtpgraft import q8_0

    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    blocks: Bytes = np.empty(flat.size // q8_0.BLOCK * q8_0.BLOCK_NBYTES, np.uint8)
    q8_0.encoder().encode(flat, blocks)
    if byte_order == ">":
        q8_0.swap_scales(blocks)
    return blocks.tobytes()


def _check_order(source: Source, type_id: int, byte_order: str) -> None:
    if byte_order == ">" and type_id not in (*_PLAIN, Q8_0):
        raise RefusedError(
            f"{tensor_type(type_id).name} is not converted between byte orders",
            file=source.name,
            hint="convert the file with llama.cpp's gguf_convert_endian.py first",
        )
