"""A model's layers as llama.cpp sees them: which kind each is, and how wide its cache rows are. Header only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mtpgraft.container import GGUFModel
from mtpgraft.errors import InvalidFileError
from mtpgraft.vram.rows import Indexer, MemoryRow, Recurrent, Window, memory_row

_MAX_LAYERS = 512  # LLAMA_MAX_LAYERS, src/llama-hparams.h @ b11434


@dataclass(frozen=True, slots=True)
class Layer:
    """One block.

    k_width, v_width: elements per cell of its KV cache; v_width 0 where values are a part of the keys (MLA).
    k_head, v_head: the same per head, which is what a quantized cache type must divide.
    indexer_width: elements per cell of its indexer cache, 0 without one.
    """

    index: int
    is_head: bool
    recurrent: bool
    windowed: bool
    cached: bool
    k_width: int
    v_width: int
    k_head: int
    v_head: int
    indexer_width: int


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What memory depends on.

    n_trunk, n_head_blocks: as declared; layers has both, in order.
    r_width, s_width, p_width: F32 elements of one recurrent layer's states; p_width is held by p_layers alone.
    n_window: the sliding window, 0 without. n_pool: cells per pool of indexer keys, 1 where they are not pooled.
    """

    architecture: str
    row: MemoryRow
    layers: tuple[Layer, ...]
    n_trunk: int
    n_head_blocks: int
    n_embd: int
    n_vocab: int
    n_ctx_train: int
    n_expert_used: int
    n_window: int
    r_width: int
    s_width: int
    n_pool: int = 1
    p_width: int = 0
    p_layers: tuple[int, ...] = ()


def model_shape(model: GGUFModel) -> ModelShape | None:
    """The shape of this model; None when its architecture has no row: nothing is guessed.

    Raises InvalidFileError for missing or impossible keys.
    """
    row = memory_row(model.architecture)
    if row is None:
        return None
    n_all = _needed(model, "block_count")
    n_head_blocks = model.count("nextn_predict_layers") or 0
    if not 0 < n_all <= _MAX_LAYERS or n_head_blocks > n_all:
        raise InvalidFileError(
            "has an impossible number of layers",
            file=model.name,
            where=f"keys {model.architecture}.block_count, nextn_predict_layers",
            expected=f"1 to {_MAX_LAYERS}, the head's included",
            found=f"{n_all}, of them {n_head_blocks} of the head",
        )
    n_trunk = n_all - n_head_blocks
    keys = _Keys(model, n_all, n_trunk)
    windowed = keys.windowed(row.window)
    n_ctx_train = _needed(model, "context_length")
    r_width, s_width = keys.state_widths()
    p_layers = tuple(int(i) for i in keys.array("ple.layers") or ())
    return ModelShape(
        model.architecture,
        row,
        keys.layers(row, windowed, n_ctx_train),
        n_trunk,
        n_head_blocks,
        _needed(model, "embedding_length"),
        _n_vocab(model),
        n_ctx_train,
        max(keys.per_layer("expert_used_count", 0)),
        keys.window_size(row.window) if any(windowed) else 0,
        r_width,
        s_width,
        keys.n_pool(row.indexer),
        keys.history_width() if p_layers else 0,
        p_layers,
    )


def _needed(model: GGUFModel, name: str) -> int:
    value = model.count(name)
    if value is None:
        raise InvalidFileError("lacks a key", file=model.name, where=f"key {model.architecture}.{name}")
    return value


def _n_vocab(model: GGUFModel) -> int:
    tokens = model.key("tokenizer.ggml.tokens")
    if tokens is not None and tokens.is_array:
        return tokens.n_items
    return model.count("vocab_size") or 0


class _Keys:
    """Reads the per-layer keys of one model, with llama.cpp's defaults."""

    def __init__(self, model: GGUFModel, n_all: int, n_trunk: int) -> None:
        self.model, self.n_all, self.n_trunk = model, n_all, n_trunk

    def count(self, name: str, default: int = 0) -> int:
        value = self.model.count(name)
        return default if value is None else value

    def array(self, name: str) -> list[int] | None:
        """The elements of an array key as numbers; None when it is absent or no array."""
        key = self.model.hparam(name)
        if key is None or not key.is_array:
            return None
        items = key.items()
        if not all(isinstance(item, int) for item in items):
            raise InvalidFileError("holds no whole numbers", file=self.model.name, where=f"key {key.name}")
        return [int(item) for item in items]

    def per_layer(self, name: str, default: int | Sequence[int]) -> list[int]:
        """One value per block: a scalar stands for all, and so does a default."""
        items = self.array(name)
        if items is None:
            scalar = self.model.count(name)
            if scalar is None:
                return list(default) if isinstance(default, Sequence) else [default] * self.n_all
            return [scalar] * self.n_all
        if len(items) != self.n_all:
            raise InvalidFileError(
                "has the wrong length",
                file=self.model.name,
                where=f"key {self.model.architecture}.{name}",
                expected=self.n_all,
                found=len(items),
                hint=f"mtpgraft audit {self.model.name}",
            )
        return items

    def recurrent(self, how: Recurrent, kv_heads: list[int], ff: list[int]) -> list[bool]:
        if how is Recurrent.NONE:
            return [False] * self.n_all
        if how is Recurrent.INTERVAL:
            stored = self.array("attention.recurrent_layers")
            if stored is not None:
                return [bool(v) for v in self.per_layer("attention.recurrent_layers", 0)]
            interval = max(1, self.count("full_attention_interval", 4))
            return [i < self.n_trunk and (i + 1) % interval != 0 for i in range(self.n_all)]
        none_needed = how is Recurrent.NO_KV_HEADS
        return [i < self.n_trunk and kv_heads[i] == 0 and (none_needed or ff[i] == 0) for i in range(self.n_all)]

    def windowed(self, window: Window | None) -> list[bool]:
        if window is None or window.only_n_layer not in (None, self.n_trunk):
            return [False] * self.n_all
        stored = self.array("attention.sliding_window_pattern")
        if stored is not None:  # its length is not checked by llama.cpp: what is missing is dense
            return [bool(v) for v in (stored + [0] * self.n_all)[: self.n_all]]
        group = self.count("attention.sliding_window_pattern", window.pattern or 0)
        if window.pattern is None or group == 0:
            raise InvalidFileError(
                "does not say which layers have a sliding window",
                file=self.model.name,
                where=f"key {self.model.architecture}.attention.sliding_window_pattern",
            )
        dense = 0 if window.dense_first else group - 1
        return [i < self.n_trunk and i % group != dense for i in range(self.n_all)]

    def window_size(self, window: Window | None) -> int:
        if window is None:
            return 0
        size = self.model.count("attention.sliding_window")
        if size is None and window.default is None:
            raise InvalidFileError(
                "does not say how large its window is",
                file=self.model.name,
                where=f"key {self.model.architecture}.attention.sliding_window",
            )
        return size if size is not None else window.default or 0

    def state_widths(self) -> tuple[int, int]:
        """llama_hparams::n_embd_r and n_embd_s: convolution state and recurrent state, in elements."""
        taps = self.count("ssm.conv_kernel")
        kda = self.count("kda.head_dim")
        if kda:
            n_head = self.per_layer("attention.head_count", 0)[0]
            return 3 * (taps - 1 if taps else 3) * n_head * kda, kda * kda * n_head
        inner, state, groups = (self.count(f"ssm.{name}") for name in ("inner_size", "state_size", "group_count"))
        return max(0, taps - 1) * (inner + 2 * groups * state), state * inner

    def history_width(self) -> int:
        """llama_hparams::ple_conv_state."""
        taps, ngram = self.count("ple.conv_kernel"), self.count("ple.ngram_size")
        return max(0, taps - 1) * ngram * self.count("hyper_connection.count") * self.count("embedding_length")

    def indexed(self, indexer: Indexer | None, n_ctx_train: int) -> list[bool]:
        """Which layers have indexer keys, were they attention layers of the right context."""
        if indexer is None or self.count("attention.indexer.key_length") == 0:
            return [False] * self.n_all
        trunk = [True] * self.n_trunk
        if indexer.typed:
            stored = self.array("attention.indexer.types")
            if stored is not None:
                trunk = [bool(v) for v in (stored + [0] * self.n_trunk)[: self.n_trunk]]
            elif n_ctx_train >= (indexer.typed_until_ctx or 0):
                trunk = [i < 2 or i % 4 == 2 for i in range(self.n_trunk)]
        return trunk + [indexer.in_head] * (self.n_all - self.n_trunk)

    def n_pool(self, indexer: Indexer | None) -> int:
        if indexer is None or not indexer.pool_key:
            return 1
        return max(1, *self.per_layer(indexer.pool_key, 0))

    def indexer_width(self, indexer: Indexer | None) -> int:
        if indexer is None:
            return 0
        slots = indexer.pooled_slots if self.n_pool(indexer) > 1 else 1
        return self.count("attention.indexer.key_length") * slots

    def layers(self, row: MemoryRow, windowed: list[bool], n_ctx_train: int) -> tuple[Layer, ...]:
        n_heads = self.per_layer("attention.head_count", 0)
        kv_heads = self.per_layer("attention.head_count_kv", n_heads)
        ff = self.per_layer("feed_forward_length", 0)
        recurrent = self.recurrent(row.recurrent, kv_heads, ff)
        per_head = self.count("embedding_length") // n_heads[0] if n_heads[0] else 0
        k, v = (self.count(f"attention.{name}_length", per_head) for name in ("key", "value"))
        k_window, v_window = self.count("attention.key_length_swa", k), self.count("attention.value_length_swa", v)
        mla = bool(self.count("attention.key_length_mla") and self.count("attention.value_length_mla"))
        indexed, indexer_width = self.indexed(row.indexer, n_ctx_train), self.indexer_width(row.indexer)
        # in models of this kind a block is either attention, or recurrent, or feed-forward
        only_alone = row.recurrent is Recurrent.NO_KV_HEADS_NO_FF
        layers = []
        for i in range(self.n_all):
            is_head = i >= self.n_trunk
            attention = not recurrent[i] and (is_head or not only_alone or ff[i] == 0)
            k_head, v_head = (k_window, v_window) if windowed[i] else (k, v)
            layers.append(
                Layer(
                    i,
                    is_head,
                    recurrent[i],
                    windowed[i],
                    attention,
                    kv_heads[i] * k_head,
                    0 if mla else kv_heads[i] * v_head,
                    k_head,
                    v_head,
                    indexer_width if attention and indexed[i] else 0,
                )
            )
        return tuple(layers)
