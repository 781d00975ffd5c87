"""Qwen4-Exp (Qwen3.8-Flash-Next): hyper-connections instead of layer norms, sparse attention with an indexer.

Names and config keys: conversion/qwen4exp.py, src/models/qwen4exp.cpp and gguf-py/gguf/tensor_mapping.py at
llama.cpp b11434. Without the n-gram embeddings (PLE), which no part of the head uses.
"""

from __future__ import annotations

from tiny.checkpoint import Json, norm, weight
from tiny.qwen import EOS, LINEAR_CONFIG, MOE_CONFIG, MROPE, delta_net, qwen_moe
from tiny.shapes import D, Table, TinyModel, gqa
from tiny.tokenizer import N_VOCAB, QWEN

_N_LAYER = 2
_N_STREAM, _HC_RANK = 2, 32
_HC_DIM = _N_STREAM * D
_N_INDEX_HEAD, _INDEX_DIM = 1, 64

_CONFIG: dict[str, Json] = {
    **LINEAR_CONFIG,
    **MOE_CONFIG,
    "model_type": "qwen4_exp_text",
    "mtp_num_hidden_layers": 1,
    "hc_count": _N_STREAM,
    "hc_lowrank": _HC_RANK,
    "ple_layer_ids": [],
    "indexer_n_heads": _N_INDEX_HEAD,
    "indexer_kv_heads": 1,
    "indexer_head_dim": _INDEX_DIM,
    "indexer_budget": 64,
    "indexer_compress_ratio": 4,
    "rope_parameters": MROPE,
    "tie_word_embeddings": False,
}


def _mixer(prefix: str) -> Table:
    yield norm(f"{prefix}hc_norm.weight", _HC_DIM, 0.0)
    yield weight(f"{prefix}input_mix_weight_down.weight", _HC_RANK, _HC_DIM)
    yield weight(f"{prefix}input_mix_weight_up.weight", _HC_DIM, _HC_RANK)


def _block(prefix: str, linear: bool) -> Table:
    for name in ("attn", "mlp"):
        yield from _mixer(f"{prefix}{name}_hyper_connection.")
        yield weight(f"{prefix}{name}_hyper_connection.block_inject_weight.weight", _N_STREAM, _HC_DIM)
    if linear:
        yield from delta_net(f"{prefix}linear_attn.", fused=False)
    else:
        yield from gqa(f"{prefix}self_attn.", gated=True, qk_norm=True, norm_centre=0.0)
        yield weight(f"{prefix}self_attn.indexer.index_qk_proj.weight", (_N_INDEX_HEAD + 1) * _INDEX_DIM, D)
        yield norm(f"{prefix}self_attn.indexer.q_layernorm.weight", _INDEX_DIM, 0.0)
        yield norm(f"{prefix}self_attn.indexer.k_layernorm.weight", _INDEX_DIM, 0.0)
    yield from qwen_moe(f"{prefix}mlp.", fused=True)


def _tensors() -> Table:
    trunk = "model.language_model."
    yield weight(f"{trunk}embed_tokens.weight", N_VOCAB, D)
    yield weight("lm_head.weight", N_VOCAB, D)
    yield from _mixer(f"{trunk}hyper_connection_mixer.")
    for i in range(_N_LAYER):
        yield from _block(f"{trunk}layers.{i}.", linear=i == 0)
    yield weight("mtp.fc_embedding.weight", D, D)
    yield weight("mtp.fc_hidden.weight", D, D)
    yield norm("mtp.pre_fc_norm_embedding.weight", D, 0.0)
    yield norm("mtp.pre_fc_norm_hidden.weight", _HC_DIM, 0.0)
    yield from _mixer("mtp.hyper_connection_mixer.")
    yield from _block("mtp.layers.0.", linear=False)


QWEN4EXP = TinyModel(
    arch="qwen4exp",
    upstream="Qwen/Qwen3.8-Flash-Next",
    pre="qwen35",
    specials=QWEN,
    eos=EOS,
    raw_config=True,
    config={
        "architectures": ["Qwen4ExpForConditionalGeneration"],
        "model_type": "qwen4_exp",
        "tie_word_embeddings": False,
        "text_config": _CONFIG,
    },
    tensors=tuple(_tensors()),
    head_prefixes=("mtp.",),
)

MODELS = (QWEN4EXP,)
