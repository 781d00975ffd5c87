"""Qwen3.5 / 3.6 (dense and MoE) and Qwen3-Next: gated delta net trunk, `mtp.*` head, zero-centred norms.

Names and config keys: conversion/qwen.py at llama.cpp b11434 (_QwenMtpMixin, Qwen3NextModel,
_LinearAttentionVReorderBase) and transformers' Qwen3_5 and Qwen3Next classes.
"""

from __future__ import annotations

from tiny.checkpoint import Json, TensorSpec, norm, weight
from tiny.shapes import (
    HEAD_DIM,
    N_CTX,
    N_EXPERT,
    N_EXPERT_USED,
    N_FF,
    N_FF_EXP,
    N_HEAD,
    N_HEAD_KV,
    D,
    Table,
    TinyModel,
    dense_ffn,
    experts,
    fused_experts,
    gqa,
    vocabulary,
)
from tiny.tokenizer import N_VOCAB, QWEN

_N_LAYER = 2
_N_K_HEADS, _N_V_HEADS, _LINEAR_DIM, _N_CONV = 1, 2, 16, 4
_KEY_DIM, _VALUE_DIM = _N_K_HEADS * _LINEAR_DIM, _N_V_HEADS * _LINEAR_DIM
EOS = "<|im_end|>"

LINEAR_CONFIG: dict[str, Json] = {
    "hidden_size": D,
    "num_hidden_layers": _N_LAYER,
    "num_attention_heads": N_HEAD,
    "num_key_value_heads": N_HEAD_KV,
    "head_dim": HEAD_DIM,
    "intermediate_size": N_FF,
    "vocab_size": N_VOCAB,
    "max_position_embeddings": N_CTX,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "attn_output_gate": True,
    "full_attention_interval": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_conv_kernel_dim": _N_CONV,
    "linear_key_head_dim": _LINEAR_DIM,
    "linear_value_head_dim": _LINEAR_DIM,
    "linear_num_key_heads": _N_K_HEADS,
    "linear_num_value_heads": _N_V_HEADS,
    "torch_dtype": "bfloat16",
}
MOE_CONFIG: dict[str, Json] = {
    "num_experts": N_EXPERT,
    "num_experts_per_tok": N_EXPERT_USED,
    "moe_intermediate_size": N_FF_EXP,
    "shared_expert_intermediate_size": N_FF_EXP,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
MROPE: dict[str, Json] = {
    "rope_type": "default",
    "rope_theta": 10000000.0,
    "partial_rotary_factor": 0.5,
    "mrope_interleaved": True,
    "mrope_section": [2, 1, 1],
}


def delta_net(prefix: str, fused: bool) -> Table:
    """`fused`: Qwen3-Next's in_proj_qkvz and in_proj_ba; otherwise Qwen3.5's four projections."""
    conv_dim = 2 * _KEY_DIM + _VALUE_DIM
    yield TensorSpec(f"{prefix}A_log", (_N_V_HEADS,), 0.0, 0.5)
    yield TensorSpec(f"{prefix}dt_bias", (_N_V_HEADS,), 1.0, 0.25)
    yield weight(f"{prefix}conv1d.weight", conv_dim, 1, _N_CONV)
    yield norm(f"{prefix}norm.weight", _LINEAR_DIM)
    yield weight(f"{prefix}out_proj.weight", D, _VALUE_DIM)
    if fused:
        yield weight(f"{prefix}in_proj_qkvz.weight", conv_dim + _VALUE_DIM, D)
        yield weight(f"{prefix}in_proj_ba.weight", 2 * _N_V_HEADS, D)
        return
    yield weight(f"{prefix}in_proj_qkv.weight", conv_dim, D)
    yield weight(f"{prefix}in_proj_z.weight", _VALUE_DIM, D)
    yield weight(f"{prefix}in_proj_a.weight", _N_V_HEADS, D)
    yield weight(f"{prefix}in_proj_b.weight", _N_V_HEADS, D)


def qwen_moe(prefix: str, fused: bool) -> Table:
    yield weight(f"{prefix}gate.weight", N_EXPERT, D)
    yield from fused_experts(prefix) if fused else experts(prefix)
    yield from dense_ffn(f"{prefix}shared_expert.", N_FF_EXP)
    yield weight(f"{prefix}shared_expert_gate.weight", 1, D)


def _block(prefix: str, linear: bool, moe: bool, next_layout: bool) -> Table:
    yield norm(f"{prefix}input_layernorm.weight", D, 0.0)
    yield norm(f"{prefix}post_attention_layernorm.weight", D, 0.0)
    if linear:
        yield from delta_net(f"{prefix}linear_attn.", fused=next_layout)
    else:
        yield from gqa(f"{prefix}self_attn.", gated=True, qk_norm=True, norm_centre=0.0)
    yield from qwen_moe(f"{prefix}mlp.", fused=not next_layout) if moe else dense_ffn(f"{prefix}mlp.")


def _tensors(trunk: str, *, moe: bool, next_layout: bool = False, tied: bool = False) -> Table:
    yield from vocabulary(trunk, tied=tied, norm_centre=0.0)
    for i in range(_N_LAYER):
        yield from _block(f"{trunk}layers.{i}.", i % 2 == 0, moe, next_layout)
    yield weight("mtp.fc.weight", D, 2 * D)
    yield norm("mtp.pre_fc_norm_embedding.weight", D, 0.0)
    yield norm("mtp.pre_fc_norm_hidden.weight", D, 0.0)
    yield norm("mtp.norm.weight", D, 0.0)
    yield from _block("mtp.layers.0.", False, moe, next_layout)


def _qwen35_config(architecture: str, model_type: str, moe: bool, tied: bool) -> dict[str, Json]:
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "tie_word_embeddings": tied,
        "text_config": {
            **LINEAR_CONFIG,
            **(MOE_CONFIG if moe else {}),
            "model_type": f"{model_type}_text",
            "mtp_num_hidden_layers": 1,
            "mtp_use_dedicated_embeddings": False,
            "rope_parameters": MROPE,
            "tie_word_embeddings": tied,
        },
    }


def _qwen35(variant: str, upstream: str, *, moe: bool = False, tied: bool = False) -> TinyModel:
    kind = "Moe" if moe else ""
    return TinyModel(
        arch="qwen35moe" if moe else "qwen35",
        variant=variant,
        upstream=upstream,
        pre="qwen35",
        specials=QWEN,
        eos=EOS,
        config=_qwen35_config(f"Qwen3_5{kind}ForConditionalGeneration", "qwen3_5_moe" if moe else "qwen3_5", moe, tied),
        tensors=tuple(_tensors("model.language_model.", moe=moe, tied=tied)),
        head_prefixes=("mtp.",),
    )


QWEN35 = _qwen35("", "Qwen/Qwen3.5-9B")
QWEN35_TIED = _qwen35("tied", "Qwen/Qwen3.5-0.8B", tied=True)
QWEN35MOE = _qwen35("", "Qwen/Qwen3.5-35B-A3B", moe=True)

QWEN3NEXT = TinyModel(
    arch="qwen3next",
    upstream="Qwen/Qwen3-Next-80B-A3B-Instruct",
    pre="qwen2",
    specials=QWEN,
    eos=EOS,
    config={
        **LINEAR_CONFIG,
        **MOE_CONFIG,
        "architectures": ["Qwen3NextForCausalLM"],
        "model_type": "qwen3_next",
        "partial_rotary_factor": 0.5,
        "rope_theta": 10000000,
        "tie_word_embeddings": False,
    },
    tensors=tuple(_tensors("model.", moe=True, next_layout=True)),
    head_prefixes=("mtp.",),
    notes=("config.json does not name the head (mtp_num_hidden_layers); the tensors do",),
)

MODELS = (QWEN35, QWEN35MOE, QWEN3NEXT, QWEN35_TIED)
