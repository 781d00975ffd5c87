"""What llama.cpp's caches hold per architecture, as data. Adding one is one more row.

Read from `llama_model::create_memory`, `load_arch_hparams` of each model and the memory classes of llama.cpp b11434
(src/llama-model.cpp:2358-2890, src/models/*.cpp, src/llama-kv-cache*.cpp, src/llama-memory-*.cpp), and seen again in
the log of b11549 (tests/test_vram_engine.py holds every row against it).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache


class Recurrent(Enum):
    """How llama.cpp tells which trunk layers hold a recurrent state in place of a KV cache."""

    NONE = "none"
    INTERVAL = "interval"
    """`attention.recurrent_layers`, else all but each `full_attention_interval`-th layer (4 where that is absent)."""
    NO_KV_HEADS = "no-kv-heads"
    """`attention.head_count_kv` is 0."""
    NO_KV_HEADS_NO_FF = "no-kv-heads-no-ff"
    """`attention.head_count_kv` and `feed_forward_length` are 0; attention layers have no feed-forward either."""


@dataclass(frozen=True, slots=True)
class Window:
    """Sliding-window layers.

    pattern: every pattern-th layer is dense where the file has no pattern of its own; None: the file must have it.
    dense_first: the dense one is the first of each group.
    default: the window where the file does not say; None: the file must.
    only_n_layer: windows are used at this number of trunk layers only (exaone4), None at any.
    """

    pattern: int | None = None
    dense_first: bool = False
    default: int | None = None
    only_n_layer: int | None = None


@dataclass(frozen=True, slots=True)
class Indexer:
    """A cache of indexer keys beside the KV cache.

    pooled_slots: head-size slots per cell where the keys are pooled (key | gate | pooled), 1 where they are not.
    pool_key: the key that says how many cells make a pool (its largest value); "" where keys are never pooled.
    typed: only layers that `attention.indexer.types` marks have one.
    typed_until_ctx: files of a smaller trained context that have no such key have one in each layer, larger ones in
        layers 0, 1 and then in each fourth from 2.
    in_head: the draft context has one as well.
    """

    pooled_slots: int = 1
    pool_key: str = ""
    typed: bool = False
    typed_until_ctx: int | None = None
    in_head: bool = False


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """One family of architectures with the same kinds of caches.

    rollback: recurrent states are kept once more per drafted token, to undo rejected ones
        (llm_arch_supports_rs_rollback).
    head_in_trunk: the trunk's context holds a cache for the head's block too (nothing filters it out).
    loaded_anyway: head tensors (or beginnings of their names) that are loaded even without drafting.
    never_loaded: head tensors are never loaded: there is no graph.
    """

    names: tuple[str, ...]
    recurrent: Recurrent = Recurrent.NONE
    rollback: bool = False
    window: Window | None = None
    indexer: Indexer | None = None
    head_in_trunk: bool = False
    loaded_anyway: tuple[str, ...] = ()
    never_loaded: bool = False


_ROWS: tuple[MemoryRow, ...] = (
    MemoryRow(("qwen35", "qwen35moe"), Recurrent.INTERVAL, rollback=True),
    MemoryRow(("qwen3next",), Recurrent.INTERVAL),
    MemoryRow(
        ("qwen4exp",),
        Recurrent.INTERVAL,
        rollback=True,
        indexer=Indexer(pooled_slots=2, pool_key="attention.compress_ratios", in_head=True),
    ),
    MemoryRow(("nemotron_h", "nemotron_h_moe"), Recurrent.NO_KV_HEADS_NO_FF, rollback=True),
    MemoryRow(("bailingmoe3",), Recurrent.NO_KV_HEADS, rollback=True, head_in_trunk=True),
    MemoryRow(
        ("glm5-next",),
        Recurrent.NO_KV_HEADS,
        rollback=True,
        indexer=Indexer(
            pooled_slots=3, pool_key="attention.indexer.kpool", typed=True, typed_until_ctx=2**31, in_head=True
        ),
    ),
    MemoryRow(("deepseek2", "glm4moe")),
    MemoryRow(("deepseek32",), indexer=Indexer(), loaded_anyway=("exp_probs_b",)),
    MemoryRow(("glm-dsa",), indexer=Indexer(typed=True, typed_until_ctx=2**20), loaded_anyway=("exp_probs_b",)),
    MemoryRow(("glm4", "bailingmoe2"), never_loaded=True),
    MemoryRow(("exaone4",), window=Window(4, default=4096, only_n_layer=64), never_loaded=True),
    MemoryRow(("exaone-moe",), window=Window(4, default=128), never_loaded=True),
    MemoryRow(("cohere2moe",), window=Window(4, dense_first=True), loaded_anyway=("nextn.shared_head_norm",)),
    MemoryRow(
        ("step35",),
        window=Window(),
        loaded_anyway=(
            *("attn_gate.", "attn_k_norm.", "attn_q_norm.", "ffn_gate", "ffn_up", "ffn_down", "exp_probs_b"),
            *("nextn.shared_head_head", "nextn.shared_head_norm", "nextn.embed_tokens"),
        ),
    ),
    MemoryRow(("dots3note",), window=Window(), indexer=Indexer(typed=True), never_loaded=True),
    MemoryRow(("mimo2",), window=Window()),
    MemoryRow(
        ("hy_v3",),
        loaded_anyway=(
            *("ffn_gate", "ffn_up", "ffn_down", "exp_probs_b"),
            *("nextn.shared_head_head", "nextn.shared_head_norm", "nextn.embed_tokens"),
        ),
    ),
    # one KV cache per layer and nothing else, no head: src/models/{llama,qwen2,qwen3,qwen3moe}.cpp
    MemoryRow(("llama", "qwen2", "qwen2moe", "qwen3", "qwen3moe")),
)


@cache
def _by_name() -> dict[str, MemoryRow]:
    return {name: row for row in _ROWS for name in row.names}


def memory_row(architecture: str) -> MemoryRow | None:
    """The row of one architecture; None when its caches are not known."""
    return _by_name().get(architecture)


def known_architectures() -> tuple[str, ...]:
    """Every architecture that has a row, sorted."""
    return tuple(sorted(_by_name()))
