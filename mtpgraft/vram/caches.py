"""Bytes of llama.cpp's caches: KV, sliding window, indexer keys, recurrent states; per layer, of trunk and draft."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from mtpgraft.container.types import TENSOR_TYPES_BY_NAME, TensorType
from mtpgraft.errors import UsageError
from mtpgraft.vram.shape import Layer, ModelShape

KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
"""What `--cache-type-k` takes: kv_cache_types, common/arg.cpp:304 @ b11434."""

_CELLS_PAD = 256
"""GGML_PAD(n_ctx, 256), src/llama-context.cpp; the window's cells: src/llama-kv-cache-iswa.cpp @ b11434."""


class CacheKind(Enum):
    """What a cache holds."""

    FULL = "full attention"
    WINDOW = "sliding window"
    INDEXER = "indexer keys"
    STATE = "recurrent state"


@dataclass(frozen=True, slots=True)
class Serving:
    """How a server is started, as far as memory depends on it.

    n_ctx: tokens of all slots together (`-c`). n_parallel: slots (`-np`), each with its own part of it.
    unified: all slots share one cache (`--kv-unified`).
    n_draft: tokens drafted per step at most, 0 without drafting.
    """

    n_ctx: int
    n_draft: int = 0
    n_parallel: int = 1
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    draft_cache_type_k: str = "f16"
    draft_cache_type_v: str = "f16"
    n_ubatch: int = 512
    unified: bool = False
    swa_full: bool = False

    @property
    def n_streams(self) -> int:
        return 1 if self.unified else self.n_parallel

    @property
    def n_cells(self) -> int:
        """Cells of each stream's cache: llama.cpp rounds them up to 256."""
        return padded(padded(self.n_ctx, _CELLS_PAD) // self.n_streams, _CELLS_PAD)


@dataclass(frozen=True, slots=True)
class Cache:
    """The cache tensors of one layer in one context. tensors: bytes of each, as they are allocated one by one."""

    layer: int
    kind: CacheKind
    tensors: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        return sum(self.tensors)


def padded(n: int, to: int) -> int:
    return -(-n // to) * to


def cache_type(name: str) -> TensorType:
    """The tensor type of a cache type's name. Raises UsageError for one that llama.cpp does not take."""
    if name.lower() not in KV_TYPES:
        raise UsageError("not a KV cache type", expected=", ".join(KV_TYPES), found=name)
    return TENSOR_TYPES_BY_NAME[name.upper()]


def unfit_type(shape: ModelShape, type_k: str, type_v: str) -> str | None:
    """Why llama.cpp refuses these cache types for this model, in words; None when it takes them.

    Source: llama_init_from_model, src/llama-context.cpp:3838-3874 @ b11434.
    """
    attention = [layer for layer in shape.layers if layer.cached]
    if type_k.lower() != type_v.lower() and any(layer.v_width == 0 for layer in attention):
        return f"{shape.architecture} keeps values inside the keys: both caches must have one type"
    for layer in attention:
        for what, size, name in (("keys", layer.k_head, type_k), ("values", layer.v_head, type_v)):
            block = cache_type(name).block
            if size % block:
                return f"{name} stores {block} numbers at a time: {what} of {size} (layer {layer.index}) do not suit it"
    return None


def trunk_caches(shape: ModelShape, serving: Serving) -> tuple[Cache, ...]:
    """The caches of the model's own context. Widths must fit the types: see `unfit_type`."""
    types = (serving.cache_type_k, serving.cache_type_v)
    n_rows = max(1, serving.n_parallel) * (1 + (serving.n_draft if shape.row.rollback else 0))
    caches = list(_kv(shape, serving, types, _attention(shape, draft=False)))
    for layer in shape.layers:
        if layer.recurrent and not layer.is_head:
            widths = [shape.r_width, shape.s_width]
            if layer.index in shape.p_layers:
                widths.append(shape.p_width)
            caches.append(Cache(layer.index, CacheKind.STATE, tuple(4 * width * n_rows for width in widths)))
    return tuple(caches)


def draft_caches(shape: ModelShape, serving: Serving) -> tuple[Cache, ...]:
    """The caches of the draft context: the head's blocks alone, at the full context."""
    types = (serving.draft_cache_type_k, serving.draft_cache_type_v)
    return tuple(_kv(shape, serving, types, _attention(shape, draft=True)))


def _attention(shape: ModelShape, *, draft: bool) -> list[Layer]:
    wanted = [layer for layer in shape.layers if layer.cached and layer.is_head]
    if draft:
        return wanted
    trunk = [layer for layer in shape.layers if layer.cached and not layer.is_head]
    return trunk + (wanted if shape.row.head_in_trunk else [])


def _kv(shape: ModelShape, serving: Serving, types: tuple[str, str], layers: Iterable[Layer]) -> Iterable[Cache]:
    type_k, type_v = cache_type(types[0]), cache_type(types[1])
    for layer in layers:
        cells = window_cells(shape, serving) if layer.windowed else serving.n_cells
        n_rows = cells * serving.n_streams
        tensors = (_nbytes(type_k, layer.k_width, n_rows), _nbytes(type_v, layer.v_width, n_rows))
        kind = CacheKind.WINDOW if layer.windowed else CacheKind.FULL
        yield Cache(layer.index, kind, tuple(n for n in tensors if n))
        if layer.indexer_width:
            indexer = _nbytes(type_k, layer.indexer_width, serving.n_cells * serving.n_streams)
            yield Cache(layer.index, CacheKind.INDEXER, (indexer,))


def window_cells(shape: ModelShape, serving: Serving) -> int:
    """Cells of a sliding-window cache: the window and one micro-batch, per stream."""
    if serving.swa_full:
        return serving.n_cells
    n_windows = serving.n_parallel if serving.unified else 1
    n_ubatch = min(serving.n_ubatch, serving.n_ctx)
    return padded(min(serving.n_cells, shape.n_window * n_windows + n_ubatch), _CELLS_PAD)


def _nbytes(kind: TensorType, width: int, n_rows: int) -> int:
    return width * n_rows // kind.block * kind.block_nbytes
