"""Tensor groups and array rules that several architectures share.

The groups follow llama.cpp's own helpers, so that one correction there is one correction here.
"""

from __future__ import annotations

from mtpgraft.arch.spec import Alternative, ArrayRule, HeadTensor, Need

OPTIONAL = Need.OPTIONAL


def required(*names: str) -> tuple[HeadTensor, ...]:
    """Required `.weight` tensors whose shapes are not worth naming."""
    return tuple(HeadTensor(f"{name}.weight") for name in names)


def optional(*names: str) -> tuple[HeadTensor, ...]:
    """Optional `.weight` tensors without a fallback."""
    return tuple(HeadTensor(f"{name}.weight", OPTIONAL) for name in names)


def norm(name: str, need: Need = Need.REQUIRED, fallback: str | None = None) -> HeadTensor:
    """A norm as wide as the hidden state."""
    return HeadTensor(f"{name}.weight", need, ("D",), fallback)


NEXTN_CORE = (
    HeadTensor("nextn.eh_proj.weight", shape=("2D", "D")),
    norm("nextn.enorm"),
    norm("nextn.hnorm"),
)
"""[enorm(embedding); hnorm(hidden)] -> eh_proj. src/models/qwen35.cpp:115-117 @ b11434, same in every architecture."""

NEXTN_EMBED_TOKENS = HeadTensor("nextn.embed_tokens.weight", OPTIONAL, ("D", "V"), "token_embd.weight")
NEXTN_SHARED_HEAD_HEAD = HeadTensor("nextn.shared_head_head.weight", OPTIONAL, ("D", "V"), "output.weight")
NEXTN_SHARED_HEAD_NORM = norm("nextn.shared_head_norm", OPTIONAL, "output_norm.weight")

NEXTN_OPTIONAL = (NEXTN_EMBED_TOKENS, NEXTN_SHARED_HEAD_HEAD, NEXTN_SHARED_HEAD_NORM)
"""Own embedding, LM head and head norm, each falling back on the trunk's. src/models/qwen35.cpp:118-120 @ b11434."""

NEXTN = NEXTN_CORE + NEXTN_OPTIONAL

QKV = Alternative((("attn_q.weight", "attn_k.weight", "attn_v.weight"), ("attn_qkv.weight",)))
"""llama_model_base::create_tensor_qkv, src/llama-model.cpp:3410-3450 @ b11434. With both present the split
ones are never created and the load fails with `wrong number of tensors`."""

QKV_BIASES = tuple(HeadTensor(f"{name}.bias", OPTIONAL) for name in ("attn_q", "attn_k", "attn_v", "attn_qkv"))
"""Optional in create_tensor_qkv whatever the architecture."""

GATE_UP_EXPS = Alternative((("ffn_gate_exps.weight", "ffn_up_exps.weight"), ("ffn_gate_up_exps.weight",)))
"""llama_model_base::create_tensor_gate_up_exps, src/llama-model.cpp:3393-3408 @ b11434."""

DENSE_FFN = required("ffn_gate", "ffn_up", "ffn_down")
SHARED_EXPERT = required("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp")
ROUTER = (HeadTensor("ffn_gate_inp.weight", shape=("D", "n_expert")),)
EXP_PROBS_B = HeadTensor("exp_probs_b.bias", shape=("n_expert",))
EXP_PROBS_B_OPTIONAL = HeadTensor("exp_probs_b.bias", OPTIONAL, ("n_expert",))

MLA = (
    *required("attn_q_a", "attn_q_a_norm", "attn_q_b"),
    *required("attn_kv_a_mqa", "attn_kv_a_norm", "attn_k_b", "attn_v_b"),
    *required("attn_output"),
)
"""Absorbed multi-head latent attention; a legacy unsplit attn_kv_b cannot run as a head
(`GLM4 MTP requires MLA`, src/models/deepseek2.cpp:201 @ b11434)."""

_GENERIC = "src/llama-model.cpp:1337,1390-1399 @ b11434"

GENERIC_ARRAYS = (
    ArrayRule("feed_forward_length", source=_GENERIC),
    ArrayRule("attention.head_count", source=_GENERIC),
    ArrayRule("attention.head_count_kv", source=_GENERIC),
    ArrayRule("expert_used_count", source=_GENERIC),
)
"""Read for every architecture with get_key_or_arr(..., n_layer_all): a scalar serves all blocks, an array must
be exactly block_count long (`has wrong array length`)."""


def expert_ffn_array(source: str) -> ArrayRule:
    """expert_feed_forward_length, where the architecture reads it with n_layer_all."""
    return ArrayRule("expert_feed_forward_length", source=source)
