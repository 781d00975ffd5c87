"""Dimensions of real models, and the tensors and keys that follow from them.

Sources: the model cards of Qwen/Qwen3.6-27B and Qwen/Qwen3.6-35B-A3B (layers, widths, heads of both kinds of attention,
experts, vocabulary, rotary dimensions), llama.cpp's tests/snapshots/qwen3.6-27b.schema @ b11434, tensor names and keys
as llama.cpp's converter writes them (src/models/qwen35.cpp, qwen35moe.cpp).
"""

from __future__ import annotations

from dataclasses import dataclass

from mtpgraft.container.encode import make_array, make_key
from mtpgraft.container.types import ValueType
from mtpgraft.container.values import Key, Scalar


@dataclass(frozen=True, slots=True)
class Dims:
    """One model's dimensions, under llama.cpp's names. n_layer: trunk layers; every `interval`-th is full attention.

    n_v_heads, n_k_heads, d_state: of the gated delta net. n_expert 0: a dense model of n_ff.
    """

    arch: str
    title: str
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_v_heads: int
    n_k_heads: int
    d_state: int
    n_vocab: int
    n_ctx_train: int
    n_rot: int
    rope_sections: tuple[int, int, int, int]
    n_ff: int = 0
    n_expert: int = 0
    n_expert_used: int = 0
    n_ff_exp: int = 0
    n_ff_shexp: int = 0
    d_conv: int = 4
    interval: int = 4
    rope_base: float = 1e7


SHAPES: dict[str, Dims] = {
    "27b": Dims(
        *("qwen35", "Qwen3.6-27B", 64, 5120, 24, 4, 256, 48, 16, 128, 248320, 262144, 64, (11, 11, 10, 0)), n_ff=17408
    ),
    "35b-a3b": Dims(
        *("qwen35moe", "Qwen3.6-35B-A3B", 40, 2048, 16, 2, 256, 32, 16, 128, 248320, 262144, 64, (11, 11, 10, 0)),
        n_expert=256,
        n_expert_used=8,
        n_ff_exp=512,
        n_ff_shexp=512,
    ),
    "tiny": Dims(*("qwen35", "tiny", 4, 256, 4, 1, 64, 4, 2, 64, 1024, 4096, 16, (3, 3, 2, 0)), n_ff=512),
}


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor to be made. shape: GGUF order. fill: how (weights.py). scale: its standard deviation, if it has one."""

    name: str
    shape: tuple[int, ...]
    type: str
    fill: str
    scale: float = 0.0


def tensors_of(dims: Dims, with_head: bool, trunk_type: str, head_type: str) -> list[Weight]:
    """All tensors: root, trunk blocks, head block."""
    d = dims.n_embd
    rows = [
        _matrix("token_embd", d, dims.n_vocab, trunk_type, scale=1.0),
        # llama-quantize gives the output matrix Q6_K in every Q4_K mix
        _matrix("output", d, dims.n_vocab, "Q6_K" if trunk_type == "Q4_K" else trunk_type),
        _norm("output_norm", d),
    ]
    for il in range(dims.n_layer):
        full = (il + 1) % dims.interval == 0
        rows += _attention(dims, il, trunk_type) if full else _delta_net(dims, il, trunk_type)
        rows += _feed_forward(dims, il, trunk_type)
    if with_head:
        il = dims.n_layer
        rows += _attention(dims, il, head_type) + _feed_forward(dims, il, head_type)
        rows.append(_matrix(f"blk.{il}.nextn.eh_proj", 2 * d, d, head_type))
        rows += [_norm(f"blk.{il}.nextn.{name}", d) for name in ("enorm", "hnorm", "shared_head_norm")]
    return rows


def _matrix(name: str, n_in: int, n_out: int, type_name: str, *, scale: float | None = None) -> Weight:
    return Weight(f"{name}.weight", (n_in, n_out), type_name, "normal", scale or n_in**-0.5)


def _norm(name: str, n: int) -> Weight:
    return Weight(f"{name}.weight", (n,), "F32", "ones")


def _into_residual(dims: Dims, n_in: int) -> float:
    """What is added to the residual stream is smaller the more layers add to it, else random layers drown the input."""
    return float((n_in * 2 * dims.n_layer) ** -0.5)


def _attention(dims: Dims, il: int, type_name: str) -> list[Weight]:
    d, q, kv = dims.n_embd, dims.head_dim * dims.n_head, dims.head_dim * dims.n_head_kv
    at = f"blk.{il}."
    return [
        _norm(at + "attn_norm", d),
        _matrix(at + "attn_q", d, 2 * q, type_name),  # query and gate
        _matrix(at + "attn_k", d, kv, type_name),
        _matrix(at + "attn_v", d, kv, type_name),
        _matrix(at + "attn_output", q, d, type_name, scale=_into_residual(dims, q)),
        _norm(at + "attn_q_norm", dims.head_dim),
        _norm(at + "attn_k_norm", dims.head_dim),
        _norm(at + "post_attention_norm", d),
    ]


def _delta_net(dims: Dims, il: int, type_name: str) -> list[Weight]:
    d, value, key = dims.n_embd, dims.n_v_heads * dims.d_state, dims.n_k_heads * dims.d_state
    at = f"blk.{il}."
    return [
        _norm(at + "attn_norm", d),
        Weight(at + "ssm_a", (dims.n_v_heads,), "F32", "decay"),
        Weight(at + "ssm_conv1d.weight", (dims.d_conv, 2 * key + value), "F32", "normal", dims.d_conv**-0.5),
        Weight(at + "ssm_dt.bias", (dims.n_v_heads,), "F32", "normal", 0.1),
        _matrix(at + "ssm_alpha", d, dims.n_v_heads, type_name),
        _matrix(at + "ssm_beta", d, dims.n_v_heads, type_name),
        _matrix(at + "attn_qkv", d, 2 * key + value, type_name),
        _matrix(at + "attn_gate", d, value, type_name),
        _norm(at + "ssm_norm", dims.d_state),
        _matrix(at + "ssm_out", value, d, type_name, scale=_into_residual(dims, value)),
        _norm(at + "post_attention_norm", d),
    ]


def _feed_forward(dims: Dims, il: int, type_name: str) -> list[Weight]:
    d, at = dims.n_embd, f"blk.{il}."
    if not dims.n_expert:
        return [
            _matrix(at + "ffn_gate", d, dims.n_ff, type_name),
            _matrix(at + "ffn_up", d, dims.n_ff, type_name),
            _matrix(at + "ffn_down", dims.n_ff, d, type_name, scale=_into_residual(dims, dims.n_ff)),
        ]
    n, ff, shared = dims.n_expert, dims.n_ff_exp, dims.n_ff_shexp
    return [
        Weight(at + "ffn_gate_inp.weight", (d, n), "F32", "normal", d**-0.5),
        Weight(at + "ffn_gate_exps.weight", (d, ff, n), type_name, "normal", d**-0.5),
        Weight(at + "ffn_up_exps.weight", (d, ff, n), type_name, "normal", d**-0.5),
        Weight(at + "ffn_down_exps.weight", (ff, d, n), type_name, "normal", _into_residual(dims, ff)),
        Weight(at + "ffn_gate_inp_shexp.weight", (d,), "F32", "normal", d**-0.5),
        _matrix(at + "ffn_gate_shexp", d, shared, type_name),
        _matrix(at + "ffn_up_shexp", d, shared, type_name),
        _matrix(at + "ffn_down_shexp", shared, d, type_name, scale=_into_residual(dims, shared)),
    ]


def keys_of(dims: Dims, with_head: bool) -> list[Key]:
    """Architecture keys, in the converter's order."""
    u32, f32, text = ValueType.UINT32, ValueType.FLOAT32, ValueType.STRING
    general: list[tuple[str, ValueType, Scalar]] = [
        ("general.architecture", text, dims.arch),
        ("general.type", text, "model"),
        ("general.name", text, f"random weights, dimensions of {dims.title}"),
        ("general.quantization_version", u32, 2),
    ]
    own: list[tuple[str, ValueType, Scalar]] = [
        ("block_count", u32, dims.n_layer + with_head),
        ("context_length", u32, dims.n_ctx_train),
        ("embedding_length", u32, dims.n_embd),
        *([("feed_forward_length", u32, dims.n_ff)] if dims.n_ff else []),
        ("attention.head_count", u32, dims.n_head),
        ("attention.head_count_kv", u32, dims.n_head_kv),
        ("rope.freq_base", f32, dims.rope_base),
        ("attention.layer_norm_rms_epsilon", f32, 1e-6),
        ("attention.key_length", u32, dims.head_dim),
        ("attention.value_length", u32, dims.head_dim),
        ("ssm.conv_kernel", u32, dims.d_conv),
        ("ssm.state_size", u32, dims.d_state),
        ("ssm.group_count", u32, dims.n_k_heads),
        ("ssm.time_step_rank", u32, dims.n_v_heads),
        ("ssm.inner_size", u32, dims.n_v_heads * dims.d_state),
        ("full_attention_interval", u32, dims.interval),
        ("rope.dimension_count", u32, dims.n_rot),
    ]
    if dims.n_expert:
        own += [
            ("expert_count", u32, dims.n_expert),
            ("expert_used_count", u32, dims.n_expert_used),
            ("expert_feed_forward_length", u32, dims.n_ff_exp),
            ("expert_shared_feed_forward_length", u32, dims.n_ff_shexp),
        ]
    if with_head:
        own.append(("nextn_predict_layers", u32, 1))
    keys = [make_key(name, kind, value, "<") for name, kind, value in general]
    keys += [make_key(f"{dims.arch}.{name}", kind, value, "<") for name, kind, value in own]
    keys.append(make_array(f"{dims.arch}.rope.dimension_sections", ValueType.INT32, dims.rope_sections, "<"))
    return keys
