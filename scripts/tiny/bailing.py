"""Ling 3 (bailingmoe3: KDA and MLA layers) and Ling 2 (bailingmoe2).

Names and config keys: conversion/bailingmoe3.py and conversion/bailingmoe.py (BailingMoeV2Model) at llama.cpp
b11434.
"""

from __future__ import annotations

from tiny.checkpoint import Json, TensorSpec, f32_bias, norm, weight
from tiny.mla import KV_RANK, MLA_CONFIG, NOPE_DIM, Q_RANK, ROPE_DIM, V_DIM
from tiny.shapes import (
    N_CTX,
    N_EXPERT,
    N_EXPERT_USED,
    N_FF,
    N_FF_EXP,
    N_HEAD,
    D,
    Table,
    TinyModel,
    dense_ffn,
    experts,
)
from tiny.tokenizer import N_VOCAB

_N_LAYER = 2
_HEAD_DIM = 16
_D_INNER = N_HEAD * _HEAD_DIM
_N_CONV = 4
_SPECIALS = ("<|startoftext|>", "<|endoftext|>", "<|role_end|>")

_COMMON: dict[str, Json] = {
    "hidden_size": D,
    "num_hidden_layers": _N_LAYER,
    "num_nextn_predict_layers": 1,
    "num_attention_heads": N_HEAD,
    "head_dim": _HEAD_DIM,
    "intermediate_size": N_FF,
    "moe_intermediate_size": N_FF_EXP,
    "moe_shared_expert_intermediate_size": N_FF_EXP,
    "num_experts": N_EXPERT,
    "num_experts_per_tok": N_EXPERT_USED,
    "num_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "score_function": "sigmoid",
    "vocab_size": N_VOCAB,
    "max_position_embeddings": N_CTX,
    "rms_norm_eps": 1e-6,
    "rope_theta": 600000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def _vocabulary() -> Table:
    yield weight("model.word_embeddings.weight", N_VOCAB, D)
    yield norm("model.norm.weight", D)
    yield weight("lm_head.weight", N_VOCAB, D)


def _moe(prefix: str) -> Table:
    yield weight(f"{prefix}gate.weight", N_EXPERT, D)
    yield f32_bias(f"{prefix}gate.expert_bias", N_EXPERT)
    yield from experts(prefix)
    yield from dense_ffn(f"{prefix}shared_experts.", N_FF_EXP)


def _kda(prefix: str) -> Table:
    """Kimi delta attention as Ling 3 names it."""
    for name in ("q", "k", "v"):
        yield weight(f"{prefix}{name}_proj.weight", _D_INNER, D)
        yield weight(f"{prefix}{name}_conv1d.weight", _D_INNER, 1, _N_CONV)
    yield TensorSpec(f"{prefix}A_log", (N_HEAD,), 0.0, 0.5, "F32")
    yield TensorSpec(f"{prefix}dt_bias", (_D_INNER,), 1.0, 0.25, "F32")
    yield weight(f"{prefix}b_proj.weight", N_HEAD, D)
    yield weight(f"{prefix}f_proj.weight", _D_INNER, D)
    yield weight(f"{prefix}g_proj.weight", _D_INNER, D)
    yield norm(f"{prefix}o_norm.weight", _HEAD_DIM)
    yield weight(f"{prefix}o_proj.weight", D, _D_INNER)


def _gated_mla(prefix: str) -> Table:
    yield weight(f"{prefix}q_a_proj.weight", Q_RANK, D)
    yield norm(f"{prefix}q_a_layernorm.weight", Q_RANK)
    yield weight(f"{prefix}q_b_proj.weight", N_HEAD * (NOPE_DIM + ROPE_DIM), Q_RANK)
    yield weight(f"{prefix}kv_a_proj_with_mqa.weight", KV_RANK + ROPE_DIM, D)
    yield norm(f"{prefix}kv_a_layernorm.weight", KV_RANK)
    yield weight(f"{prefix}kv_b_proj.weight", N_HEAD * (NOPE_DIM + V_DIM), KV_RANK)
    yield weight(f"{prefix}g_proj.weight", N_HEAD, D)
    yield weight(f"{prefix}dense.weight", D, N_HEAD * V_DIM)


def _nextn(prefix: str) -> Table:
    yield weight(f"{prefix}eh_proj.weight", D, 2 * D)
    yield norm(f"{prefix}enorm.weight", D)
    yield norm(f"{prefix}hnorm.weight", D)
    yield norm(f"{prefix}final_layernorm.weight", D)


def _bailingmoe3_tensors() -> Table:
    yield from _vocabulary()
    for i in range(_N_LAYER + 1):
        prefix = f"model.layers.{i}."
        yield norm(f"{prefix}input_layernorm.weight", D)
        yield norm(f"{prefix}post_attention_layernorm.weight", D)
        yield from _kda(f"{prefix}attention.") if i == 0 else _gated_mla(f"{prefix}attention.")
        yield from dense_ffn(f"{prefix}mlp.") if i < _N_LAYER else _moe(f"{prefix}mlp.")
    yield from _nextn(f"model.layers.{_N_LAYER}.")


BAILINGMOE3 = TinyModel(
    arch="bailingmoe3",
    upstream="inclusionAI/Ling-3.0-tiny",
    pre="bailingmoe2",
    specials=_SPECIALS,
    bos="<|startoftext|>",
    eos="<|endoftext|>",
    raw_config=True,
    config={
        **_COMMON,
        **MLA_CONFIG,
        "architectures": ["BailingMoeV3ForCausalLM"],
        "model_type": "bailing_moe_v3",
        "first_k_dense_replace": _N_LAYER,
        "num_key_value_heads": N_HEAD,
        "layer_group_size": 2,
        "short_conv_kernel_size": _N_CONV,
        "no_kda_lora": True,
        "kda_safe_gate": True,
        "kda_lower_bound": -5.0,
        "gated_attention_proj_granularity_type": "head_wise",
        "expert_swiglu_limit_list": [None, 7.0, 7.0],
        "share_expert_swiglu_limit_list": [None, 5.0, 5.0],
    },
    tensors=tuple(_bailingmoe3_tensors()),
    head_prefixes=(f"model.layers.{_N_LAYER}.",),
)


def _bailingmoe2_tensors() -> Table:
    yield from _vocabulary()
    for i in range(_N_LAYER + 1):
        prefix = f"model.layers.{i}."
        yield norm(f"{prefix}input_layernorm.weight", D)
        yield norm(f"{prefix}post_attention_layernorm.weight", D)
        yield weight(f"{prefix}attention.query_key_value.weight", (N_HEAD + 2) * _HEAD_DIM, D)
        yield norm(f"{prefix}attention.query_layernorm.weight", _HEAD_DIM)
        yield norm(f"{prefix}attention.key_layernorm.weight", _HEAD_DIM)
        yield weight(f"{prefix}attention.dense.weight", D, N_HEAD * _HEAD_DIM)
        yield from dense_ffn(f"{prefix}mlp.") if i == 0 else _moe(f"{prefix}mlp.")
    yield from _nextn(f"model.layers.{_N_LAYER}.")


BAILINGMOE2 = TinyModel(
    arch="bailingmoe2",
    upstream="inclusionAI/Ling-mini-2.0",
    pre="bailingmoe2",
    specials=_SPECIALS,
    bos="<|startoftext|>",
    eos="<|endoftext|>",
    has_graph=False,
    raw_config=True,
    headless_config={"num_nextn_predict_layers": 0},
    config={
        **_COMMON,
        "architectures": ["BailingMoeV2ForCausalLM"],
        "model_type": "bailing_moe",
        "num_key_value_heads": 1,
        "partial_rotary_factor": 0.5,
        "use_qk_norm": True,
        "moe_router_enable_expert_bias": True,
    },
    tensors=tuple(_bailingmoe2_tensors()),
    head_prefixes=(f"model.layers.{_N_LAYER}.",),
)

MODELS = (BAILINGMOE3, BAILINGMOE2)
