"""Step-3.5, MiMo-V2 and Hunyuan V3: architectures whose heads are a chain, one block per drafted token.

Names and config keys: conversion/step3.py (Step35Model), conversion/mimo.py (MimoV2Model) and
conversion/hunyuan.py (HYV3Model) at llama.cpp b11434.
"""

from __future__ import annotations

from tiny.checkpoint import Json, TensorSpec, f32_bias, norm, weight
from tiny.shapes import (
    N_CTX,
    N_EXPERT,
    N_EXPERT_USED,
    N_FF,
    N_FF_EXP,
    D,
    Table,
    TinyModel,
    deepseek_moe,
    dense_ffn,
    experts,
    gqa,
    vocabulary,
)
from tiny.tokenizer import DEEPSEEK, N_VOCAB, QWEN

_N_LAYER = 2
_HEAD_DIM = 16

_COMMON: dict[str, Json] = {
    "hidden_size": D,
    "num_hidden_layers": _N_LAYER,
    "intermediate_size": N_FF,
    "moe_intermediate_size": N_FF_EXP,
    "head_dim": _HEAD_DIM,
    "vocab_size": N_VOCAB,
    "max_position_embeddings": N_CTX,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}

# Step-3.5: sliding-window layers have more heads than full ones, so head_count is an array.
_STEP_N_NEXTN = 3
_STEP_TYPES = (
    "full_attention",
    "sliding_attention",
    "sliding_attention",
    "full_attention",
    "sliding_attention",
)


def _step_block(prefix: str, layer_type: str, moe: bool) -> Table:
    n_head = 4 if layer_type == "sliding_attention" else 2
    yield norm(f"{prefix}input_layernorm.weight", D, 0.0)
    yield norm(f"{prefix}post_attention_layernorm.weight", D, 0.0)
    yield from gqa(
        f"{prefix}self_attn.",
        n_head=n_head,
        n_head_kv=n_head // 2,
        head_dim=_HEAD_DIM,
        qk_norm=True,
        norm_centre=0.0,
    )
    yield weight(f"{prefix}self_attn.g_proj.weight", n_head, D)
    if not moe:
        yield from dense_ffn(f"{prefix}mlp.")
        return
    yield weight(f"{prefix}moe.gate.weight", N_EXPERT, D)
    yield f32_bias(f"{prefix}moe.router_bias", N_EXPERT)
    yield weight(f"{prefix}moe.gate_proj.weight", N_EXPERT, N_FF_EXP, D)
    yield weight(f"{prefix}moe.up_proj.weight", N_EXPERT, N_FF_EXP, D)
    yield weight(f"{prefix}moe.down_proj.weight", N_EXPERT, D, N_FF_EXP)
    yield from dense_ffn(f"{prefix}share_expert.", N_FF_EXP)


def _step35_tensors() -> Table:
    yield from vocabulary(norm_centre=0.0)
    for i, layer_type in enumerate(_STEP_TYPES):
        prefix = f"model.layers.{i}."
        yield from _step_block(prefix, layer_type, moe=i == _N_LAYER - 1)
        if i >= _N_LAYER:
            yield weight(f"{prefix}eh_proj.weight", D, 2 * D)
            yield norm(f"{prefix}enorm.weight", D, 0.0)
            yield norm(f"{prefix}hnorm.weight", D, 0.0)
            yield norm(f"{prefix}transformer.shared_head.norm.weight", D, 0.0)
            yield weight(f"{prefix}transformer.shared_head.output.weight", N_VOCAB, D)


STEP35 = TinyModel(
    arch="step35",
    upstream="stepfun-ai/Step-3.5-Flash",
    pre="deepseek-v3",
    specials=DEEPSEEK,
    bos="<｜begin▁of▁sentence｜>",
    eos="<｜end▁of▁sentence｜>",
    n_head_blocks=_STEP_N_NEXTN,
    raw_config=True,
    config={
        **_COMMON,
        "architectures": ["Step3p5ForCausalLM"],
        "model_type": "step3p5",
        "num_nextn_predict_layers": _STEP_N_NEXTN,
        "num_attention_heads": 2,
        "num_attention_groups": 1,
        "attention_other_setting": {
            "attention_type": "sliding_attention",
            "num_attention_heads": 4,
            "num_attention_groups": 2,
            "head_dim": _HEAD_DIM,
        },
        "layer_types": list(_STEP_TYPES),
        "partial_rotary_factors": [1.0 if t == "sliding_attention" else 0.5 for t in _STEP_TYPES],
        "rope_theta": [5000000.0, 10000.0],
        "sliding_window": 32,
        "moe_num_experts": N_EXPERT,
        "moe_top_k": N_EXPERT_USED,
        "share_expert_dim": N_FF_EXP,
        "moe_layers_enum": str(_N_LAYER - 1),
        "moe_every_n_layer": 1,
        "moe_router_activation": "sigmoid",
        "moe_router_scaling_factor": 3.0,
        "norm_expert_weight": True,
        "swiglu_limits": [0.0, 7.0],
        "swiglu_limits_shared": [0.0, 16.0],
    },
    tensors=tuple(_step35_tensors()),
    head_prefixes=tuple(f"model.layers.{_N_LAYER + i}." for i in range(_STEP_N_NEXTN)),
    notes=("three head blocks of unequal head counts, dense feed-forward, each with its own output matrix",),
)

_MIMO_N_NEXTN = 3
_MIMO_V_DIM = 16


def _mimo_block(prefix: str, swa: bool, moe: bool) -> Table:
    n_head, n_kv = 2, 2 if swa else 1
    yield norm(f"{prefix}input_layernorm.weight", D)
    yield norm(f"{prefix}post_attention_layernorm.weight", D)
    yield weight(f"{prefix}self_attn.qkv_proj.weight", (n_head + n_kv) * _HEAD_DIM + n_kv * _MIMO_V_DIM, D)
    yield weight(f"{prefix}self_attn.o_proj.weight", D, n_head * _MIMO_V_DIM)
    if swa:
        yield TensorSpec(f"{prefix}self_attn.attention_sink_bias", (n_head,), 0.0, 0.5)
    yield from deepseek_moe(f"{prefix}mlp.", n_shared=0) if moe else dense_ffn(f"{prefix}mlp.")


def _mimo2_tensors() -> Table:
    yield from vocabulary()
    for i in range(_N_LAYER):
        yield from _mimo_block(f"model.layers.{i}.", swa=i == 1, moe=i == 1)
    for i in range(_MIMO_N_NEXTN):
        prefix = f"model.mtp.layers.{i}."
        yield from _mimo_block(prefix, swa=True, moe=False)
        yield weight(f"{prefix}eh_proj.weight", D, 2 * D)
        yield norm(f"{prefix}enorm.weight", D)
        yield norm(f"{prefix}hnorm.weight", D)
        yield norm(f"{prefix}final_layernorm.weight", D)


MIMO2 = TinyModel(
    arch="mimo2",
    upstream="XiaomiMiMo/MiMo-V2.5",
    pre="qwen2",
    specials=QWEN,
    eos="<|im_end|>",
    n_head_blocks=_MIMO_N_NEXTN,
    config={
        **_COMMON,
        "architectures": ["MiMoV2ForCausalLM"],
        "model_type": "mimo_v2",
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "swa_num_attention_heads": 2,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": _HEAD_DIM,
        "v_head_dim": _MIMO_V_DIM,
        "swa_v_head_dim": _MIMO_V_DIM,
        "hybrid_layer_pattern": [0, 1],
        "sliding_window": 32,
        "n_routed_experts": N_EXPERT,
        "num_experts_per_tok": N_EXPERT_USED,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "norm_topk_prob": True,
        "partial_rotary_factor": 0.5,
        "rope_theta": 5000000,
        "swa_rope_theta": 10000,
        "layernorm_epsilon": 1e-5,
        "attention_value_scale": 0.707,
    },
    tensors=tuple(_mimo2_tensors()),
    head_prefixes=("model.mtp.layers.",),
    notes=("config.json does not name the head; the converter takes three blocks for granted",),
)


def _hy_v3_tensors() -> Table:
    yield from vocabulary()
    for i in range(_N_LAYER + 1):
        prefix = f"model.layers.{i}."
        yield norm(f"{prefix}input_layernorm.weight", D)
        yield norm(f"{prefix}post_attention_layernorm.weight", D)
        yield from gqa(f"{prefix}self_attn.", head_dim=_HEAD_DIM, qk_norm=True)
        if i == 0:
            yield from dense_ffn(f"{prefix}mlp.")
        else:
            yield weight(f"{prefix}mlp.router.gate.weight", N_EXPERT, D)
            yield f32_bias(f"{prefix}mlp.expert_bias", N_EXPERT)
            yield from experts(f"{prefix}mlp.")
            yield from dense_ffn(f"{prefix}mlp.shared_mlp.", N_FF_EXP)
    last = f"model.layers.{_N_LAYER}."
    yield weight(f"{last}eh_proj.weight", D, 2 * D)
    yield norm(f"{last}enorm.weight", D)
    yield norm(f"{last}hnorm.weight", D)
    yield norm(f"{last}final_layernorm.weight", D)


HY_V3 = TinyModel(
    arch="hy_v3",
    upstream="tencent/Hy3-preview",
    pre="hunyuan",
    specials=("<|startoftext|>", "<|endoftext|>", "<|pad|>", "<|eos|>"),
    bos="<|startoftext|>",
    eos="<|eos|>",
    config={
        **_COMMON,
        "architectures": ["HYV3ForCausalLM"],
        "model_type": "hy_v3",
        "num_nextn_predict_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_experts": N_EXPERT,
        "num_experts_per_tok": N_EXPERT_USED,
        "num_shared_experts": 1,
        "first_k_dense_replace": 1,
        "route_norm": True,
        "router_scaling_factor": 2.0,
        "qk_norm": True,
        "rope_theta": 10000.0,
    },
    tensors=tuple(_hy_v3_tensors()),
    head_prefixes=(f"model.layers.{_N_LAYER}.",),
)

MODELS = (STEP35, MIMO2, HY_V3)
