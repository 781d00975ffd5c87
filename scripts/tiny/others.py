"""Cohere2 MoE and Nemotron 3 (nemotron_h_moe).

Names and config keys: conversion/command_r.py (Cohere2MoeModel) and conversion/nemotron.py (NemotronHModel)
at llama.cpp b11434.
"""

from __future__ import annotations

from tiny.checkpoint import Json, TensorSpec, bias, f32_bias, norm, weight
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
    gqa,
    vocabulary,
)
from tiny.tokenizer import N_VOCAB

_N_LAYER = 2

_COMMON: dict[str, Json] = {
    "hidden_size": D,
    "num_nextn_predict_layers": 1,
    "num_attention_heads": N_HEAD,
    "num_key_value_heads": N_HEAD_KV,
    "head_dim": HEAD_DIM,
    "num_experts_per_tok": N_EXPERT_USED,
    "norm_topk_prob": True,
    "vocab_size": N_VOCAB,
    "max_position_embeddings": N_CTX,
    "torch_dtype": "bfloat16",
}


def _cohere_tensors() -> Table:
    yield from vocabulary(tied=True)
    for i in range(_N_LAYER + 1):
        prefix = f"model.layers.{i}."
        yield norm(f"{prefix}input_layernorm.weight", D)
        yield from gqa(f"{prefix}self_attn.")
        if i == 0:
            yield from dense_ffn(f"{prefix}mlp.")
        else:
            yield weight(f"{prefix}mlp.gate.weight", N_EXPERT, D)
            yield from experts(f"{prefix}mlp.")
            yield from dense_ffn(f"{prefix}mlp.shared_experts.", N_FF_EXP)
    last = f"model.layers.{_N_LAYER}."
    yield weight(f"{last}eh_proj.weight", D, 2 * D)
    yield norm(f"{last}enorm.weight", D)
    yield norm(f"{last}hnorm.weight", D)
    yield norm(f"{last}shared_head.norm.weight", D)


COHERE2MOE = TinyModel(
    arch="cohere2moe",
    upstream="CohereLabs/North-Mini-Code-1.0",
    pre="cohere2moe",
    specials=("<PAD>", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"),
    bos="<BOS_TOKEN>",
    eos="<|END_OF_TURN_TOKEN|>",
    raw_config=True,
    headless_config={"num_nextn_predict_layers": 0},
    config={
        **_COMMON,
        "architectures": ["Cohere2MoeForCausalLM"],
        "model_type": "cohere2_moe",
        "num_hidden_layers": _N_LAYER,
        "intermediate_size": N_FF_EXP,
        "prefix_dense_intermediate_size": N_FF,
        "first_k_dense_replace": 1,
        "layer_types": ["full_attention", "sliding_attention"],
        "sliding_window": 32,
        "num_experts": N_EXPERT,
        "num_shared_experts": 1,
        "shared_expert_combination_strategy": "average",
        "expert_selection_fn": "sigmoid",
        "logit_scale": 1.0,
        "layer_norm_eps": 1e-5,
        "rope_theta": 50000,
        "tie_word_embeddings": True,
    },
    tensors=tuple(_cohere_tensors()),
    head_prefixes=(f"model.layers.{_N_LAYER}.",),
)

# The converter wants an inner width that is a multiple of 64 (conversion/granite.py, d_head).
_N_MAMBA_HEAD, _MAMBA_DIM, _N_STATE, _N_CONV = 4, 16, 16, 4
_D_INNER = _N_MAMBA_HEAD * _MAMBA_DIM


def _mamba2(prefix: str) -> Table:
    conv_dim = _D_INNER + 2 * _N_STATE
    yield weight(f"{prefix}in_proj.weight", _D_INNER + conv_dim + _N_MAMBA_HEAD, D)
    yield weight(f"{prefix}conv1d.weight", conv_dim, 1, _N_CONV)
    yield bias(f"{prefix}conv1d.bias", conv_dim)
    yield TensorSpec(f"{prefix}A_log", (_N_MAMBA_HEAD,), 0.0, 0.5)
    yield TensorSpec(f"{prefix}dt_bias", (_N_MAMBA_HEAD,), 1.0, 0.25)
    yield TensorSpec(f"{prefix}D", (_N_MAMBA_HEAD,), 1.0, 0.25)
    yield norm(f"{prefix}norm.weight", _D_INNER)
    yield weight(f"{prefix}out_proj.weight", D, _D_INNER)


def _relu2_ffn(prefix: str, n_ff: int = N_FF_EXP) -> Table:
    yield weight(f"{prefix}up_proj.weight", n_ff, D)
    yield weight(f"{prefix}down_proj.weight", D, n_ff)


def _nemotron_moe(prefix: str) -> Table:
    yield weight(f"{prefix}gate.weight", N_EXPERT, D)
    yield f32_bias(f"{prefix}gate.e_score_correction_bias", N_EXPERT)
    for i in range(N_EXPERT):
        yield from _relu2_ffn(f"{prefix}experts.{i}.")
    yield from _relu2_ffn(f"{prefix}shared_experts.")


def _nemotron_tensors() -> Table:
    yield weight("backbone.embeddings.weight", N_VOCAB, D)
    yield norm("backbone.norm_f.weight", D)
    yield weight("lm_head.weight", N_VOCAB, D)
    for i in range(3):
        yield norm(f"backbone.layers.{i}.norm.weight", D)
    yield from _mamba2("backbone.layers.0.mixer.")
    yield from gqa("backbone.layers.1.mixer.")
    yield from _nemotron_moe("backbone.layers.2.mixer.")
    yield weight("mtp.layers.0.eh_proj.weight", D, 2 * D)
    yield norm("mtp.layers.0.enorm.weight", D)
    yield norm("mtp.layers.0.hnorm.weight", D)
    yield norm("mtp.layers.0.norm.weight", D)
    yield from gqa("mtp.layers.0.mixer.")
    yield norm("mtp.layers.1.norm.weight", D)
    yield from _nemotron_moe("mtp.layers.1.mixer.")
    yield norm("mtp.layers.1.final_layernorm.weight", D)


NEMOTRON_H_MOE = TinyModel(
    arch="nemotron_h_moe",
    upstream="nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    pre="pixtral",
    specials=("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"),
    bos="<s>",
    eos="<|im_end|>",
    raw_config=True,
    config={
        **_COMMON,
        "architectures": ["NemotronHForCausalLM"],
        "model_type": "nemotron_h",
        "num_hidden_layers": 3,
        "hybrid_override_pattern": "M*E",
        "mtp_hybrid_override_pattern": "*E",
        "intermediate_size": N_FF_EXP,
        "moe_intermediate_size": N_FF_EXP,
        "moe_shared_expert_intermediate_size": N_FF_EXP,
        "n_routed_experts": N_EXPERT,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 2.5,
        "mamba_num_heads": _N_MAMBA_HEAD,
        "mamba_head_dim": _MAMBA_DIM,
        "ssm_state_size": _N_STATE,
        "conv_kernel": _N_CONV,
        "n_groups": 1,
        "expand": 2,
        "mlp_hidden_act": "relu2",
        "layer_norm_epsilon": 1e-5,
        "rope_theta": 10000,
        "tie_word_embeddings": False,
    },
    tensors=tuple(_nemotron_tensors()),
    head_prefixes=("mtp.",),
    notes=("two HF layers (attention, experts) become one block",),
)

MODELS = (COHERE2MOE, NEMOTRON_H_MOE)
