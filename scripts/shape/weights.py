"""Random tensor data, made directly in its stored type: quantizing 27 billion floats would take an hour."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
CHUNK_NBYTES = 16 * 2**20
"""About what one call makes at a time."""


def _random(rng: np.random.SFC64, n: int) -> Bytes:
    raw: Bytes = rng.random_raw((n + 7) // 8).view(np.uint8)[:n]
    return raw


def _half(value: float) -> Bytes:
    return np.array([value], dtype="<f2").view(np.uint8)


def _q4_k(rng: np.random.SFC64, n_blocks: int, std: float) -> Bytes:
    """w = d * scale * q - dmin * min with all scales and mins 16 and q uniform in 0 to 15 (standard deviation 4.61):
    dmin = 7.5 d makes it symmetric. Layout: block_q4_K in ggml-common.h, 6-bit packing of get_scale_min_k4."""
    out = np.empty((n_blocks, 144), dtype=np.uint8)
    d = std / (16 * 4.61)
    out[:, 0:2], out[:, 2:4] = _half(d), _half(7.5 * d)
    out[:, 4:12], out[:, 12:16] = 16 | 1 << 6, 0
    out[:, 16:] = _random(rng, n_blocks * 128).reshape(n_blocks, 128)
    return out


def _q6_k(rng: np.random.SFC64, n_blocks: int, std: float) -> Bytes:
    """w = d * scale * (q - 32) with all scales 8 and q uniform in 0 to 63 (standard deviation 18.5)."""
    out = np.empty((n_blocks, 210), dtype=np.uint8)
    out[:, :192] = _random(rng, n_blocks * 192).reshape(n_blocks, 192)
    out[:, 192:208] = 8
    out[:, 208:] = _half(std / (8 * 18.5))
    return out


def _q8_0(rng: np.random.SFC64, n_blocks: int, std: float) -> Bytes:
    """w = d * q with q uniform in -128 to 127 (standard deviation 73.9)."""
    out = np.empty((n_blocks, 34), dtype=np.uint8)
    out[:, :2] = _half(std / 73.9)
    out[:, 2:] = _random(rng, n_blocks * 32).reshape(n_blocks, 32)
    return out


QUANTIZED: dict[str, Callable[[np.random.SFC64, int, float], Bytes]] = {"Q4_K": _q4_k, "Q6_K": _q6_k, "Q8_0": _q8_0}
"""Makers of random blocks, by type name: (generator, number of blocks, standard deviation) -> bytes."""


def floats(rng: np.random.SFC64, n: int, fill: str, std: float) -> Bytes:
    """F32 data: `ones` (norms: about 1), `decay` (ssm_a = -exp(A_log): negative, about -1), or `normal`."""
    noise = np.random.Generator(rng).standard_normal(n, dtype=np.float32)
    values = {"ones": lambda: 1 + 0.02 * noise, "decay": lambda: -np.exp(0.3 * noise), "normal": lambda: std * noise}
    return values[fill]().astype("<f4").view(np.uint8)
