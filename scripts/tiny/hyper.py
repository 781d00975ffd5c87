"""DeepSeek-V4 and GLM-5.3 (glm5-next): residual streams joined by manifold-constrained hyper-connections.

Names and config keys: conversion/deepseek.py (DeepseekV4Model), conversion/glm.py (Glm5NextModel) and
src/models/{deepseek4,glm5-next}.cpp at llama.cpp b11434.
"""

from __future__ import annotations

from tiny.checkpoint import Json, TensorSpec, f32_bias, norm, weight
from tiny.mla import KV_RANK, N_INDEX_HEAD, NOPE_DIM, Q_RANK, V_DIM, indexer
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
    deepseek_moe,
    dense_ffn,
    nextn,
    vocabulary,
)
from tiny.tokenizer import DEEPSEEK, GLM, N_VOCAB

_N_LAYER = 2
# Both graphs are written for four streams.
_N_STREAM = 4
_HC_DIM, _HC_MIX = _N_STREAM * D, (2 + _N_STREAM) * _N_STREAM
_HC_CONFIG: dict[str, Json] = {"hc_mult": _N_STREAM, "hc_sinkhorn_iters": 4, "hc_eps": 1e-6}


def f32(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, shape, 0.0, 0.15, "F32")


def _hyper_connections(prefix: str) -> Table:
    for name in ("hc_attn", "hc_ffn"):
        yield f32(f"{prefix}{name}_fn", _HC_MIX, _HC_DIM)
        yield f32(f"{prefix}{name}_base", _HC_MIX)
        yield f32(f"{prefix}{name}_scale", 3)


_V4_HEAD_DIM, _V4_ROPE_DIM, _O_GROUPS, _O_RANK = 32, 16, 2, 32


def _v4_experts(prefix: str) -> Table:
    """Routed experts in MXFP4: two 4-bit values to the byte, one E8M0 exponent per 32 values."""
    for i in range(N_EXPERT):
        for name, n_rows, n_cols in (("w1", N_FF_EXP, D), ("w2", D, N_FF_EXP), ("w3", N_FF_EXP, D)):
            yield TensorSpec(f"{prefix}experts.{i}.{name}.weight", (n_rows, n_cols // 2), 0, 256, "I8")
            yield TensorSpec(f"{prefix}experts.{i}.{name}.scale", (n_rows, n_cols // 32), 121, 3, "F8_E8M0")


# llama.cpp's cache for this architecture divides by the number of layers of each ratio: both must occur.
_COMPRESS_RATIOS = (4, 128, 0)
_V4_INDEX_DIM = 64


def _compressor(prefix: str, head_dim: int, ratio: int) -> Table:
    """Keys pooled over `ratio` tokens; at ratio 4 the pools overlap, hence the doubled width."""
    n = (2 if ratio == 4 else 1) * head_dim
    yield weight(f"{prefix}wkv.weight", n, D)
    yield weight(f"{prefix}wgate.weight", n, D)
    yield f32(f"{prefix}ape", ratio, n)
    yield norm(f"{prefix}norm.weight", head_dim)


def _v4_block(prefix: str, ratio: int) -> Table:
    if ratio:
        yield from _compressor(f"{prefix}attn.compressor.", _V4_HEAD_DIM, ratio)
    if ratio == 4:
        yield weight(f"{prefix}attn.indexer.wq_b.weight", N_INDEX_HEAD * _V4_INDEX_DIM, Q_RANK)
        yield weight(f"{prefix}attn.indexer.weights_proj.weight", N_INDEX_HEAD, D)
        yield from _compressor(f"{prefix}attn.indexer.compressor.", _V4_INDEX_DIM, ratio)
    yield norm(f"{prefix}attn_norm.weight", D)
    yield norm(f"{prefix}ffn_norm.weight", D)
    yield f32(f"{prefix}attn.attn_sink", N_HEAD)
    yield weight(f"{prefix}attn.wq_a.weight", Q_RANK, D)
    yield norm(f"{prefix}attn.q_norm.weight", Q_RANK)
    yield weight(f"{prefix}attn.wq_b.weight", N_HEAD * _V4_HEAD_DIM, Q_RANK)
    yield weight(f"{prefix}attn.wkv.weight", _V4_HEAD_DIM, D)
    yield norm(f"{prefix}attn.kv_norm.weight", _V4_HEAD_DIM)
    yield weight(f"{prefix}attn.wo_a.weight", _O_GROUPS * _O_RANK, N_HEAD * _V4_HEAD_DIM // _O_GROUPS)
    yield weight(f"{prefix}attn.wo_b.weight", D, _O_GROUPS * _O_RANK)
    yield weight(f"{prefix}ffn.gate.weight", N_EXPERT, D)
    yield f32_bias(f"{prefix}ffn.gate.bias", N_EXPERT)
    yield from _v4_experts(f"{prefix}ffn.")
    for name in ("w1", "w2", "w3"):
        yield weight(f"{prefix}ffn.shared_experts.{name}.weight", N_FF_EXP if name != "w2" else D, D)
    yield from _hyper_connections(prefix)


def _v4_hc_head(prefix: str) -> Table:
    yield f32(f"{prefix}hc_head_fn", _N_STREAM, _HC_DIM)
    yield f32(f"{prefix}hc_head_base", _N_STREAM)
    yield f32(f"{prefix}hc_head_scale", 1)


def _deepseek4_tensors() -> Table:
    yield weight("embed.weight", N_VOCAB, D)
    yield norm("norm.weight", D)
    yield weight("head.weight", N_VOCAB, D)
    yield from _v4_hc_head("")
    for i in range(_N_LAYER):
        yield from _v4_block(f"layers.{i}.", _COMPRESS_RATIOS[i])
    yield from _v4_block("mtp.0.", _COMPRESS_RATIOS[_N_LAYER])
    yield from _v4_hc_head("mtp.0.")
    yield weight("mtp.0.e_proj.weight", D, D)
    yield weight("mtp.0.h_proj.weight", D, D)
    yield norm("mtp.0.enorm.weight", D)
    yield norm("mtp.0.hnorm.weight", D)
    yield norm("mtp.0.norm.weight", D)


DEEPSEEK4 = TinyModel(
    arch="deepseek4",
    upstream="deepseek-ai/DeepSeek-V4-Flash",
    pre="deepseek-v3",
    specials=DEEPSEEK,
    bos="<｜begin▁of▁sentence｜>",
    eos="<｜end▁of▁sentence｜>",
    raw_config=True,
    sidecar_only=True,
    config={
        **_HC_CONFIG,
        "architectures": ["DeepseekV4ForCausalLM"],
        "model_type": "deepseek_v4",
        "hidden_size": D,
        "num_hidden_layers": _N_LAYER,
        "num_nextn_predict_layers": 1,
        "num_attention_heads": N_HEAD,
        "num_key_value_heads": 1,
        "head_dim": _V4_HEAD_DIM,
        "qk_rope_head_dim": _V4_ROPE_DIM,
        "q_lora_rank": Q_RANK,
        "o_groups": _O_GROUPS,
        "o_lora_rank": _O_RANK,
        "moe_intermediate_size": N_FF_EXP,
        "n_routed_experts": N_EXPERT,
        "num_experts_per_tok": N_EXPERT_USED,
        "n_shared_experts": 1,
        "num_hash_layers": 0,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.5,
        "scoring_func": "sqrtsoftplus",
        "swiglu_limit": 10.0,
        "sliding_window": 32,
        "compress_ratios": list(_COMPRESS_RATIOS),
        "compress_rope_theta": 160000,
        "index_n_heads": N_INDEX_HEAD,
        "index_head_dim": _V4_INDEX_DIM,
        "index_topk": 64,
        "rope_theta": 10000,
        "rms_norm_eps": 1e-6,
        "vocab_size": N_VOCAB,
        "max_position_embeddings": N_CTX,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    },
    tensors=tuple(_deepseek4_tensors()),
    head_prefixes=("mtp.",),
    notes=(
        "sidecar only: the converter drops the head from a whole file and stores the head's own hc_head "
        "under the trunk's names (output_hc_*) in the --mtp file",
    ),
)

_KDA_DIM, _N_CONV, _KPOOL = 16, 4, 4
_D_INNER = N_HEAD * _KDA_DIM
_GLM5_INDEX_DIM = 64


def _glm5_kda(prefix: str) -> Table:
    for name in ("q", "k", "v"):
        yield weight(f"{prefix}{name}_proj.weight", _D_INNER, D)
        yield weight(f"{prefix}{name}_conv1d.weight", _D_INNER, 1, _N_CONV)
    for name in ("f", "g"):
        yield weight(f"{prefix}{name}_a_proj.weight", _KDA_DIM, D)
        yield weight(f"{prefix}{name}_b_proj.weight", _D_INNER, _KDA_DIM)
    yield weight(f"{prefix}b_proj.weight", N_HEAD, D)
    yield TensorSpec(f"{prefix}A_log", (1, 1, N_HEAD, 1), 0.0, 0.5, "F32")
    yield TensorSpec(f"{prefix}dt_bias", (_D_INNER,), 1.0, 0.25, "F32")
    yield norm(f"{prefix}o_norm.weight", _KDA_DIM)
    yield weight(f"{prefix}o_proj.weight", D, _D_INNER)


def _glm5_mla(prefix: str) -> Table:
    """MLA without a rotary part, and an indexer over pools of keys."""
    yield weight(f"{prefix}q_a_proj.weight", Q_RANK, D)
    yield norm(f"{prefix}q_a_layernorm.weight", Q_RANK)
    yield weight(f"{prefix}q_b_proj.weight", N_HEAD * NOPE_DIM, Q_RANK)
    yield weight(f"{prefix}kv_a_proj_with_mqa.weight", KV_RANK, D)
    yield norm(f"{prefix}kv_a_layernorm.weight", KV_RANK)
    yield weight(f"{prefix}kv_b_proj.weight", N_HEAD * (NOPE_DIM + V_DIM), KV_RANK)
    yield weight(f"{prefix}o_proj.weight", D, N_HEAD * V_DIM)
    yield from indexer(f"{prefix}indexer.")
    yield weight(f"{prefix}indexer.index_kpool_compress_gate", _GLM5_INDEX_DIM, D)
    yield weight(f"{prefix}indexer.index_kpool_compress_ape", _KPOOL, _GLM5_INDEX_DIM)


def _glm5_tensors() -> Table:
    yield from vocabulary()
    for i in range(_N_LAYER + 1):
        prefix = f"model.layers.{i}."
        yield norm(f"{prefix}input_layernorm.weight", D)
        yield norm(f"{prefix}post_attention_layernorm.weight", D)
        yield from _glm5_kda(f"{prefix}self_attn.") if i == 0 else _glm5_mla(f"{prefix}self_attn.")
        yield from dense_ffn(f"{prefix}mlp.") if i < _N_LAYER else deepseek_moe(f"{prefix}mlp.")
        if i < _N_LAYER:
            yield from _hyper_connections(prefix)
    yield from nextn(f"model.layers.{_N_LAYER}.", embed_tokens=False, shared_head=False)


GLM5_NEXT = TinyModel(
    arch="glm5-next",
    upstream="zai-org/GLM-5.3-Flash",
    pre="glm4",
    specials=GLM,
    eos="<|endoftext|>",
    has_graph=False,
    raw_config=True,
    config={
        **_HC_CONFIG,
        "architectures": ["Glm5NextForConditionalGeneration"],
        "model_type": "glm5_next",
        "hidden_size": D,
        "num_hidden_layers": _N_LAYER,
        "num_nextn_predict_layers": 1,
        "num_attention_heads": N_HEAD,
        "num_key_value_heads": N_HEAD,
        "intermediate_size": N_FF,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_attn_config": {
            "num_heads": N_HEAD,
            "head_dim": _KDA_DIM,
            "short_conv_kernel_size": _N_CONV,
            "gate_lower_bound": -5.0,
        },
        "mla_use_nope": True,
        "q_lora_rank": Q_RANK,
        "kv_lora_rank": KV_RANK,
        "qk_nope_head_dim": NOPE_DIM,
        "qk_rope_head_dim": 0,
        "v_head_dim": V_DIM,
        "index_n_heads": N_INDEX_HEAD,
        "index_head_dim": _GLM5_INDEX_DIM,
        "index_topk": 64,
        "index_kpool": _KPOOL,
        "indexer_types": ["full"] * _N_LAYER,
        "mhc": True,
        "first_k_dense_replace": _N_LAYER,
        "moe_intermediate_size": N_FF_EXP,
        "n_routed_experts": N_EXPERT,
        "num_experts_per_tok": N_EXPERT_USED,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "swiglu_limit": 7.0,
        "rms_norm_eps": 1e-5,
        "vocab_size": N_VOCAB,
        "max_position_embeddings": N_CTX,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    },
    tensors=tuple(_glm5_tensors()),
    head_prefixes=(f"model.layers.{_N_LAYER}.",),
    notes=("b11434 throws 'GLM5-Next NextN graph not implemented yet'; the engine below drafts with it",),
)

MODELS = (DEEPSEEK4, GLM5_NEXT)
