"""Heads that llama.cpp b11434 keeps but runs in no graph: GLM-OCR, K-EXAONE, EXAONE 4.5, dots3.

Names and config keys: conversion/glm.py (GlmOCRModel), conversion/exaone.py and conversion/dots3.py at
llama.cpp b11434.
"""

from __future__ import annotations

from tiny.checkpoint import Json, f32_bias, norm, weight
from tiny.mla import INDEXER_CONFIG, KV_RANK, MLA_CONFIG, NOPE_DIM, Q_RANK, ROPE_DIM, V_DIM, indexer
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
    nextn,
    vocabulary,
)
from tiny.tokenizer import GLM, N_VOCAB

_N_LAYER = 2

_COMMON: dict[str, Json] = {
    "hidden_size": D,
    "num_hidden_layers": _N_LAYER,
    "num_nextn_predict_layers": 1,
    "num_attention_heads": N_HEAD,
    "num_key_value_heads": N_HEAD_KV,
    "head_dim": HEAD_DIM,
    "intermediate_size": N_FF,
    "vocab_size": N_VOCAB,
    "max_position_embeddings": N_CTX,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def _glm_ocr_tensors() -> Table:
    trunk = "model.language_model."
    yield from vocabulary(trunk)
    for i in range(_N_LAYER + 1):
        prefix = f"{trunk}layers.{i}."
        for name in ("input", "post_attention", "post_self_attn", "post_mlp"):
            yield norm(f"{prefix}{name}_layernorm.weight", D)
        yield from gqa(f"{prefix}self_attn.")
        yield weight(f"{prefix}mlp.gate_up_proj.weight", 2 * N_FF, D)
        yield weight(f"{prefix}mlp.down_proj.weight", D, N_FF)
    yield from nextn(f"{trunk}layers.{_N_LAYER}.")


def _glm_ocr_config(n_nextn: int) -> dict[str, Json]:
    rope: Json = {
        "rope_type": "default",
        "rope_theta": 10000,
        "partial_rotary_factor": 1.0,
        "mrope_section": [2, 3, 3],
    }
    text: Json = {
        **_COMMON,
        "model_type": "glm_ocr_text",
        "num_nextn_predict_layers": n_nextn,
        "rope_parameters": rope,
    }
    return {
        "architectures": ["GlmOcrForConditionalGeneration"],
        "model_type": "glm_ocr",
        "tie_word_embeddings": False,
        "text_config": text,
    }


GLM4 = TinyModel(
    arch="glm4",
    upstream="zai-org/GLM-OCR",
    pre="glm4",
    specials=GLM,
    eos="<|endoftext|>",
    has_graph=False,
    raw_config=True,
    config=_glm_ocr_config(1),
    headless_config=_glm_ocr_config(0),
    tensors=tuple(_glm_ocr_tensors()),
    head_prefixes=(f"model.language_model.layers.{_N_LAYER}.",),
    notes=("rows of q_proj and k_proj are permuted for M-RoPE, in the head too",),
)

_EXAONE_SPECIALS = ("[PAD]", "[BOS]", "[EOS]", "[|endofturn|]", "<|endoftext|>")


def _mtp_fc() -> Table:
    yield weight("mtp.fc.weight", D, 2 * D)
    yield norm("mtp.pre_fc_norm_embedding.weight", D)
    yield norm("mtp.pre_fc_norm_hidden.weight", D)
    yield norm("mtp.norm.weight", D)


_EXAONE_N_NEXTN = 2


def _exaone_moe_tensors() -> Table:
    yield from vocabulary()
    blocks = [f"model.layers.{i}." for i in range(_N_LAYER)]
    blocks += [f"mtp.layers.{i}." for i in range(_EXAONE_N_NEXTN)]
    for i, prefix in enumerate(blocks):
        yield norm(f"{prefix}input_layernorm.weight", D)
        yield norm(f"{prefix}post_attention_layernorm.weight", D)
        yield from gqa(f"{prefix}self_attn.", qk_norm=True)
        if i != 1:
            yield from dense_ffn(f"{prefix}mlp.")
            continue
        yield weight(f"{prefix}mlp.gate.weight", N_EXPERT, D)
        yield f32_bias(f"{prefix}mlp.e_score_correction_bias", N_EXPERT)
        yield from experts(f"{prefix}mlp.")
        yield from dense_ffn(f"{prefix}mlp.shared_experts.", N_FF_EXP)
    yield from _mtp_fc()


_EXAONE_TEXT: dict[str, Json] = {
    **_COMMON,
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 32,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000},
}

EXAONE_MOE = TinyModel(
    arch="exaone-moe",
    upstream="LGAI-EXAONE/K-EXAONE-236B-A23B",
    pre="exaone-moe",
    specials=_EXAONE_SPECIALS,
    bos="[BOS]",
    eos="[|endofturn|]",
    has_graph=False,
    raw_config=True,
    n_head_blocks=_EXAONE_N_NEXTN,
    headless_config={"num_nextn_predict_layers": 0},
    config={
        **_EXAONE_TEXT,
        "architectures": ["ExaoneMoEForCausalLM"],
        "model_type": "exaone_moe",
        "num_nextn_predict_layers": _EXAONE_N_NEXTN,
        "moe_intermediate_size": N_FF_EXP,
        "num_experts": N_EXPERT,
        "num_experts_per_tok": N_EXPERT_USED,
        "num_shared_experts": 1,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
    },
    tensors=tuple(_exaone_moe_tensors()),
    head_prefixes=("mtp.",),
    notes=("two head blocks (upstream ships one): fc and its norms are written into each of them",),
)


def _exaone4_tensors() -> Table:
    trunk = "model.language_model."
    yield from vocabulary(trunk)
    for prefix in (*(f"{trunk}layers.{i}." for i in range(_N_LAYER)), "mtp.layers.0."):
        yield norm(f"{prefix}post_attention_layernorm.weight", D)
        yield norm(f"{prefix}post_feedforward_layernorm.weight", D)
        yield from gqa(f"{prefix}self_attn.", qk_norm=True)
        yield from dense_ffn(f"{prefix}mlp.")
    yield from _mtp_fc()


def _exaone4_config(n_nextn: int) -> dict[str, Json]:
    return {
        "architectures": ["Exaone4_5_ForConditionalGeneration"],
        "model_type": "exaone4_5",
        "tie_word_embeddings": False,
        "text_config": {
            **_EXAONE_TEXT,
            "model_type": "exaone4_5_text",
            "num_nextn_predict_layers": n_nextn,
        },
    }


EXAONE4 = TinyModel(
    arch="exaone4",
    upstream="LGAI-EXAONE/EXAONE-4.5-33B",
    pre="exaone4",
    specials=_EXAONE_SPECIALS,
    bos="[BOS]",
    eos="[|endofturn|]",
    has_graph=False,
    raw_config=True,
    config=_exaone4_config(1),
    headless_config=_exaone4_config(0),
    tensors=tuple(_exaone4_tensors()),
    head_prefixes=("mtp.",),
)

_N_HEAD_SWA, _KV_RANK_SWA = 1, 64


def _dots3_block(prefix: str, swa: bool) -> Table:
    n_head = _N_HEAD_SWA if swa else N_HEAD
    kv_rank = _KV_RANK_SWA if swa else KV_RANK
    yield norm(f"{prefix}input_layernorm.weight", D)
    yield norm(f"{prefix}post_attention_layernorm.weight", D)
    yield weight(f"{prefix}self_attn.q_a_proj.weight", Q_RANK, D)
    yield norm(f"{prefix}self_attn.q_a_layernorm.weight", Q_RANK)
    yield weight(f"{prefix}self_attn.q_b_proj.weight", n_head * (NOPE_DIM + ROPE_DIM), Q_RANK)
    yield weight(f"{prefix}self_attn.kv_a_proj_with_mqa.weight", kv_rank + ROPE_DIM, D)
    yield norm(f"{prefix}self_attn.kv_a_layernorm.weight", kv_rank)
    yield norm(f"{prefix}self_attn.k_rope_only_layernorm.weight", ROPE_DIM)
    yield weight(f"{prefix}self_attn.kv_b_proj.weight", n_head * (NOPE_DIM + V_DIM), kv_rank)
    yield weight(f"{prefix}self_attn.g_proj.weight", n_head, D)
    yield weight(f"{prefix}self_attn.o_proj.weight", D, n_head * V_DIM)
    if not swa:
        yield from indexer(f"{prefix}self_attn.indexer.")
    yield from dense_ffn(f"{prefix}mlp.")


def _dots3_tensors() -> Table:
    yield from vocabulary()
    for i in range(_N_LAYER + 1):
        yield from _dots3_block(f"model.layers.{i}.", swa=i > 0)
    yield weight("model.mtp.embed_tokens.weight", N_VOCAB, D)
    yield from nextn(f"model.layers.{_N_LAYER}.", embed_tokens=False, shared_head=False)


DOTS3NOTE = TinyModel(
    arch="dots3note",
    upstream="rednote-hilab/dots3.note",
    pre="qwen2",
    specials=("<|endoftext|>", "<|userprompt|>", "<|endofuserprompt|>", "<|response|>", "<|endofassistant|>"),
    eos="<|endofassistant|>",
    has_graph=False,
    raw_config=True,
    config={
        **{key: value for key, value in _COMMON.items() if key != "num_nextn_predict_layers"},
        **MLA_CONFIG,
        **INDEXER_CONFIG,
        "architectures": ["Dots3NoteForCausalLM"],
        "model_type": "dots3_note_text",
        "num_key_value_heads": N_HEAD,
        "layer_types": ["full_attention", "sliding_attention"],
        "sliding_window_size": 32,
        "swa_num_attention_heads": _N_HEAD_SWA,
        "swa_num_key_value_heads": _N_HEAD_SWA,
        "swa_q_lora_rank": Q_RANK,
        "swa_kv_lora_rank": _KV_RANK_SWA,
        "swa_qk_nope_head_dim": NOPE_DIM,
        "swa_qk_rope_head_dim": ROPE_DIM,
        "swa_v_head_dim": V_DIM,
        "swa_head_dim": NOPE_DIM + ROPE_DIM,
        "swa_rope_theta": 10000,
        "rope_theta": 1000000,
        "apply_mla_qkv_lora_rescale": True,
        "use_dsa": True,
        "moe_intermediate_size": N_FF_EXP,
        "n_routed_experts": N_EXPERT,
        "num_experts_per_tok": N_EXPERT_USED,
        "n_shared_experts": 1,
        "first_k_dense_replace": _N_LAYER,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
    },
    tensors=tuple(_dots3_tensors()),
    head_prefixes=(f"model.layers.{_N_LAYER}.", "model.mtp."),
    notes=(
        "config.json does not name the head; model.mtp.embed_tokens.weight does",
        "q_a and kv_a norms are scaled by sqrt(hidden / rank)",
    ),
)

MODELS = (GLM4, EXAONE_MOE, EXAONE4, DOTS3NOTE)
