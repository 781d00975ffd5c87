"""GLM-4.5, GLM-4.7-Flash, GLM-5 (DSA), DeepSeek-V3.2: heads appended as `model.layers.<num_hidden_layers>`.

Names and config keys: conversion/glm.py and conversion/deepseek.py at llama.cpp b11434.
"""

from __future__ import annotations

from tiny.checkpoint import Json, norm
from tiny.mla import INDEXER_CONFIG, MLA_CONFIG, indexer, mla
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
    deepseek_moe,
    dense_ffn,
    gqa,
    nextn,
    vocabulary,
)
from tiny.tokenizer import DEEPSEEK, GLM, N_VOCAB

_N_LAYER = 2
_EOS = "<|endoftext|>"

_CONFIG: dict[str, Json] = {
    "hidden_size": D,
    "num_hidden_layers": _N_LAYER,
    "num_nextn_predict_layers": 1,
    "num_attention_heads": N_HEAD,
    "intermediate_size": N_FF,
    "moe_intermediate_size": N_FF_EXP,
    "n_routed_experts": N_EXPERT,
    "num_experts_per_tok": N_EXPERT_USED,
    "n_shared_experts": 1,
    "first_k_dense_replace": _N_LAYER,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "vocab_size": N_VOCAB,
    "max_position_embeddings": N_CTX,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def _ffn(prefix: str, i: int) -> Table:
    """Only the head has experts: the trunk may be as small as it can."""
    yield from dense_ffn(f"{prefix}mlp.") if i < _N_LAYER else deepseek_moe(f"{prefix}mlp.")


def _norms(prefix: str) -> Table:
    yield norm(f"{prefix}input_layernorm.weight", D)
    yield norm(f"{prefix}post_attention_layernorm.weight", D)


def _glm4moe_tensors() -> Table:
    yield from vocabulary()
    for i in range(_N_LAYER + 1):
        prefix = f"model.layers.{i}."
        yield from _norms(prefix)
        yield from gqa(f"{prefix}self_attn.", biased=True, qk_norm=True)
        yield from _ffn(prefix, i)
    yield from nextn(f"model.layers.{_N_LAYER}.")


GLM4MOE = TinyModel(
    arch="glm4moe",
    upstream="zai-org/GLM-4.5",
    pre="glm4",
    specials=GLM,
    eos=_EOS,
    n_shards=3,
    config={
        **_CONFIG,
        "architectures": ["Glm4MoeForCausalLM"],
        "model_type": "glm4_moe",
        "num_key_value_heads": N_HEAD_KV,
        "head_dim": HEAD_DIM,
        "attention_bias": True,
        "use_qk_norm": True,
        "partial_rotary_factor": 0.5,
        "rope_theta": 1000000,
    },
    tensors=tuple(_glm4moe_tensors()),
    head_prefixes=(f"model.layers.{_N_LAYER}.",),
    notes=("three shards: the head's tensors lie in more than one of them",),
)


def mla_tensors(with_indexer: bool) -> Table:
    yield from vocabulary()
    for i in range(_N_LAYER + 1):
        prefix = f"model.layers.{i}."
        yield from _norms(prefix)
        yield from mla(f"{prefix}self_attn.")
        if with_indexer:
            yield from indexer(f"{prefix}self_attn.indexer.")
        yield from _ffn(prefix, i)
    yield from nextn(f"model.layers.{_N_LAYER}.", embed_tokens=not with_indexer, shared_head=not with_indexer)


DEEPSEEK2 = TinyModel(
    arch="deepseek2",
    upstream="zai-org/GLM-4.7-Flash",
    pre="glm4",
    specials=GLM,
    eos=_EOS,
    config={
        **_CONFIG,
        **MLA_CONFIG,
        "architectures": ["Glm4MoeLiteForCausalLM"],
        "model_type": "glm4_moe_lite",
        "num_key_value_heads": N_HEAD,
        "partial_rotary_factor": 1.0,
        "rope_theta": 1000000,
    },
    tensors=tuple(mla_tensors(with_indexer=False)),
    head_prefixes=(f"model.layers.{_N_LAYER}.",),
    notes=("of the deepseek2 converters only GLM-4.7-Flash's writes the head",),
)

GLM_DSA = TinyModel(
    arch="glm-dsa",
    upstream="zai-org/GLM-5.2",
    pre="glm4",
    specials=GLM,
    eos=_EOS,
    config={
        **_CONFIG,
        **MLA_CONFIG,
        **INDEXER_CONFIG,
        "architectures": ["GlmMoeDsaForCausalLM"],
        "model_type": "glm_moe_dsa",
        "num_key_value_heads": N_HEAD,
        "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
        "indexer_types": ["full"] * _N_LAYER,
    },
    tensors=tuple(mla_tensors(with_indexer=True)),
    head_prefixes=(f"model.layers.{_N_LAYER}.",),
)

DEEPSEEK32 = TinyModel(
    arch="deepseek32",
    upstream="deepseek-ai/DeepSeek-V3.2",
    pre="deepseek-v3",
    specials=DEEPSEEK,
    bos="<｜begin▁of▁sentence｜>",
    eos="<｜end▁of▁sentence｜>",
    vocab_files=True,
    config={
        **_CONFIG,
        **MLA_CONFIG,
        **INDEXER_CONFIG,
        "architectures": ["DeepseekV32ForCausalLM"],
        "model_type": "deepseek_v32",
        "num_key_value_heads": N_HEAD,
        "rope_theta": 10000,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
    },
    tensors=tuple(mla_tensors(with_indexer=True)),
    head_prefixes=(f"model.layers.{_N_LAYER}.",),
)

MODELS = (GLM4MOE, DEEPSEEK2, GLM_DSA, DEEPSEEK32)
