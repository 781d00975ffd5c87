"""Numbers as Q8_0 blocks: quantize_row_q8_0_ref (ggml-quants.c @ b11434) in numpy, NaN included, byte for byte.

Three things make it fast (docs/performance.md). One encoder works in the same arrays again and again: new ones cost
more than the arithmetic, in pages that the system hands out. Every pass is a numpy call that lets go of the
interpreter's lock, so that threads run side by side (`maximum.reduceat` does not). And of half-width numbers the
largest of a block is found before they are widened.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

_Scalar = TypeVar("_Scalar", bound=np.generic)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float32]
    Halves: TypeAlias = NDArray[np.uint16]
    Bytes: TypeAlias = NDArray[np.uint8]

BLOCK = 32
BLOCK_NBYTES = 34
STEP_ELEMENTS = 1 << 19
"""Elements of one pass: few enough for the processor's cache, and enough that a call takes longer than handing the
interpreter's lock to another thread."""
_SMALLEST_NORMAL = 2.0**-126
_F16_INFINITY = 0x7C00
_FIELDS = np.dtype([("scale", "V2"), ("values", "V32")])
_LOW_31_BITS = np.uint32(0x7FFFFFFF)
_LOW_15_BITS = np.uint16(0x7FFF)


class Encoder:
    """The arrays that one thread encodes in. Not to be shared between threads."""

    def __init__(self) -> None:
        n = STEP_ELEMENTS
        self._bits: NDArray[np.uint32] = np.empty(n, np.uint32)
        self._floats: Floats = np.empty(n, np.float32)
        self._bytes: NDArray[np.int8] = np.empty(n, np.int8)

    def encode(self, values: Floats, out: Bytes) -> None:
        """Fill `out` with the blocks of `values`; both are one-dimensional and contiguous."""
        largest = np.empty(values.size // BLOCK, np.uint32)
        for step in _steps(values.size):
            magnitudes, spare = self._bits[: step.n], self._floats.view(np.uint32)[: step.n]
            np.bitwise_and(values[step.elements].view(np.uint32), _LOW_31_BITS, out=magnitudes)
            largest[step.blocks] = _largest_of_blocks(magnitudes, spare)
        self._write(largest.view(np.float32), out, lambda step: values[step.elements])

    def encode_bf16(self, halves: Halves, out: Bytes) -> None:
        """The same of BF16 numbers, given as their bits."""
        largest = self._largest_halves(halves).astype(np.uint32) << np.uint32(16)

        def widened(step: _Step) -> Floats:
            bits = self._floats.view(np.uint32)[: step.n]
            np.copyto(bits, halves[step.elements])
            np.left_shift(bits, np.uint32(16), out=bits)
            return bits.view(np.float32)

        self._write(largest.view(np.float32), out, widened)

    def encode_f16(self, halves: Halves, out: Bytes) -> None:
        """The same of F16 numbers, given as their bits."""
        largest = self._largest_halves(halves)
        are_finite = int(largest.max(initial=0)) < _F16_INFINITY

        def widened(step: _Step) -> Floats:
            values = self._floats[: step.n]
            if are_finite:
                widen_f16(halves[step.elements], values)
            else:
                values[:] = halves[step.elements].view(np.float16)
            return values

        with np.errstate(all="ignore"):
            magnitudes = largest.view(np.float16).astype(np.float32)
        self._write(magnitudes, out, widened)

    def _largest_halves(self, halves: Halves) -> Halves:
        largest = np.empty(halves.size // BLOCK, np.uint16)
        for step in _steps(halves.size):
            magnitudes, spare = self._bits.view(np.uint16)[: step.n], self._floats.view(np.uint16)[: step.n]
            np.bitwise_and(halves[step.elements], _LOW_15_BITS, out=magnitudes)
            largest[step.blocks] = _largest_of_blocks(magnitudes, spare)
        return largest

    def _write(self, largest: Floats, out: Bytes, values_of: Callable[[_Step], Floats]) -> None:
        """Blocks of 32 values, each as a half-precision scale and 32 signed bytes.

        largest: magnitude of each block. values_of: a step's values, perhaps in this encoder's own floats.
        roundf(x), which rounds halves away from zero, comes out of twice x, which is exact and fits 16 bits: with
        t = trunc(2x) it is (t + 1) >> 1 from zero on and t >> 1 below.
        """
        blocks = out.reshape(-1, BLOCK_NBYTES)
        with np.errstate(all="ignore"):
            scale = largest / np.float32(127)
            twice = np.float32(2) / scale
            np.copyto(twice, np.float32(0), where=scale == 0)
            # NaN, infinities, and scales so small that their inverse overflows or is inexact
            odd = ~((scale >= _SMALLEST_NORMAL) & (scale < np.inf)) & (scale != 0)
            has_odd = bool(odd.any())
            fields = blocks.view(_FIELDS)[:, 0]
            fields["scale"] = narrow_to_f16(scale).view("V2")
            for step in _steps(largest.size * BLOCK):
                values = values_of(step)
                strange = np.flatnonzero(odd[step.blocks]) if has_odd else ()
                to_the_letter = as_c_does(values.reshape(-1, BLOCK)[strange]) if len(strange) else None
                scaled, in_bytes = self._floats[: step.n], self._bytes[: step.n]
                t, one_below_zero = self._bits.view(np.int16)[: 2 * step.n].reshape(2, -1)
                np.multiply(values.reshape(-1, BLOCK), twice[step.blocks, None], out=scaled.reshape(-1, BLOCK))
                np.copyto(t, scaled, casting="unsafe")
                np.right_shift(t, np.int16(15), out=one_below_zero)
                np.add(t, one_below_zero, out=t)
                np.add(t, np.int16(1), out=t)
                np.right_shift(t, np.int16(1), out=t)
                np.copyto(in_bytes, t, casting="unsafe")
                fields["values"][step.blocks] = in_bytes.view("V32")
                if to_the_letter is not None:
                    blocks[step.blocks][strange] = to_the_letter


def narrow_to_f16(values: Floats) -> Halves:
    """The F16 bits of numbers from zero on: as numpy's own cast, several times as fast for the normal numbers of F16.

    Half of the last bit that stays is added, a little less where that bit is 0 (ties go to even), and the exponent's
    bias is made good.
    """
    bits = values.view(np.uint32)
    narrow = bits >> np.uint32(13)
    narrow &= np.uint32(1)
    narrow += bits
    narrow += np.uint32(0xFFF)
    narrow >>= np.uint32(13)
    narrow -= np.uint32((127 - 15) << 10)
    halves: Halves = narrow.astype(np.uint16)
    others = np.flatnonzero(~((values >= 2.0**-14) & (values < 2.0**16)))
    if others.size:
        halves[others] = values[others].astype(np.float16).view(np.uint16)
    return halves


def widen_f16(halves: Halves, out: Floats) -> None:
    """The finite F16 numbers of these bits as float32: as numpy's own cast, several times as fast.

    Sign and the rest are moved into place, and the exponent's bias (127 - 15) is made good: exact, subnormals too.
    """
    bits = out.view(np.int32)
    np.copyto(bits, halves.view(np.int16))  # repeats the sign bit
    np.left_shift(bits, np.int32(13), out=bits)
    np.bitwise_and(out.view(np.uint32), np.uint32(0x8FFFE000), out=out.view(np.uint32))
    np.multiply(out, np.float32(2.0**112), out=out)


def as_c_does(values: Floats) -> Bytes:
    """quantize_row_q8_0_ref for blocks, shape (n, 32), with NaN, as compiled for x86-64.

    `amax = MAX(amax, fabsf(v))` is `a > b ? a : b`: a NaN replaces the maximum, and the next number replaces the NaN.
    Converting a NaN or a number out of int32's range to int gives INT_MIN, whose low byte is 0.
    """
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


def swap_scales(blocks: Bytes) -> None:
    """Turn the scales of these blocks, one-dimensional, to the other byte order."""
    pairs = blocks.reshape(-1, BLOCK_NBYTES)
    pairs[:, :2] = pairs[:, 1::-1].copy()


_of_thread = threading.local()


def encoder() -> Encoder:
    """The calling thread's encoder."""
    found: Encoder | None = getattr(_of_thread, "encoder", None)
    if found is None:
        found = _of_thread.encoder = Encoder()
    return found


@dataclass(frozen=True, slots=True)
class _Step:
    """A part of an array that fits the encoder's own: n elements, where they are, and where their blocks are."""

    n: int
    elements: slice
    blocks: slice


def _steps(n_elements: int) -> Iterator[_Step]:
    for first in range(0, n_elements, STEP_ELEMENTS):
        end = min(n_elements, first + STEP_ELEMENTS)
        yield _Step(end - first, slice(first, end), slice(first // BLOCK, end // BLOCK))


def _largest_of_blocks(numbers: NDArray[_Scalar], spare: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """The largest of every 32 numbers; overwrites both arrays.

    Each pass holds every number against one farther on; only the block's first becomes its largest. After two passes
    over everything the first quarters of all blocks are moved together.
    """
    n, quarter = numbers.size, BLOCK // 4
    np.maximum(numbers[: n - 16], numbers[16:], out=spare[: n - 16])
    np.maximum(spare[: n - 24], spare[8 : n - 16], out=numbers[: n - 24])
    firsts = np.dtype(("V", quarter * numbers.itemsize))
    np.copyto(spare[: n // 4].view(firsts), numbers.view(firsts)[::4])
    a, b, end = spare[: n // 4], numbers[: n // 4], n // 4
    for distance in (4, 2, 1):
        end -= distance
        np.maximum(a[:end], a[distance : end + distance], out=b[:end])
        a, b = b, a
    largest: NDArray[_Scalar] = a[::quarter].copy()
    return largest
