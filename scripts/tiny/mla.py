"""Multi-head latent attention as DeepSeek names it, and DeepSeek-V3.2's indexer.

Names: transformers' DeepseekV3Attention; the indexer's: conversion/deepseek.py and gguf-py/tensor_mapping.py
at llama.cpp b11434.
"""

from __future__ import annotations

from tiny.checkpoint import Json, bias, norm, weight
from tiny.shapes import N_HEAD, D, Table

Q_RANK, KV_RANK = 32, 32
NOPE_DIM, ROPE_DIM, V_DIM = 32, 16, 16
N_INDEX_HEAD, INDEX_DIM = 1, 64  # llama.cpp rotates indexer keys by a Hadamard matrix of at least 64

MLA_CONFIG: dict[str, Json] = {
    "q_lora_rank": Q_RANK,
    "kv_lora_rank": KV_RANK,
    "qk_nope_head_dim": NOPE_DIM,
    "qk_rope_head_dim": ROPE_DIM,
    "v_head_dim": V_DIM,
    "attention_bias": False,
}
INDEXER_CONFIG: dict[str, Json] = {
    "index_n_heads": N_INDEX_HEAD,
    "index_head_dim": INDEX_DIM,
    "index_topk": 64,
}


def mla(prefix: str, n_head: int = N_HEAD) -> Table:
    yield weight(f"{prefix}q_a_proj.weight", Q_RANK, D)
    yield norm(f"{prefix}q_a_layernorm.weight", Q_RANK)
    yield weight(f"{prefix}q_b_proj.weight", n_head * (NOPE_DIM + ROPE_DIM), Q_RANK)
    yield weight(f"{prefix}kv_a_proj_with_mqa.weight", KV_RANK + ROPE_DIM, D)
    yield norm(f"{prefix}kv_a_layernorm.weight", KV_RANK)
    yield weight(f"{prefix}kv_b_proj.weight", n_head * (NOPE_DIM + V_DIM), KV_RANK)
    yield weight(f"{prefix}o_proj.weight", D, n_head * V_DIM)


def indexer(prefix: str) -> Table:
    """The lightning indexer; k_norm is a LayerNorm and has a bias."""
    yield weight(f"{prefix}wq_b.weight", N_INDEX_HEAD * INDEX_DIM, Q_RANK)
    yield weight(f"{prefix}wk.weight", INDEX_DIM, D)
    yield norm(f"{prefix}k_norm.weight", INDEX_DIM)
    yield bias(f"{prefix}k_norm.bias", INDEX_DIM)
    yield weight(f"{prefix}weights_proj.weight", N_INDEX_HEAD, D)
