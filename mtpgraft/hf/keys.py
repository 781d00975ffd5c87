"""Hyper-parameters of a head file, from config.json: the ones that give a head its shapes, and every per-layer array.

Names, types and values are those that llama.cpp's converter writes (TextModel.set_gguf_parameters,
conversion/base.py:1436, and each model's own, b11434). What config.json does not say is left out: transformers'
defaults are not guessed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from mtpgraft.container import Key, Scalar, ValueType
from mtpgraft.container.encode import make_array, make_key
from mtpgraft.errors import InvalidFileError
from mtpgraft.hf.config import HfConfig

Value = int | list[int] | list[bool] | list[float] | None
"""A count, or one item per block; None is not written."""

Values = dict[str, Value]


def head_keys(arch: str, config: HfConfig, n_trunk: int, n_blocks: int, byte_order: str = "<") -> tuple[Key, ...]:
    """The `<arch>.*` keys of a head file, block_count and nextn_predict_layers first.

    Raises InvalidFileError when the config lacks the hidden width, or a number is none.
    """
    values: Values = {"block_count": n_trunk + n_blocks, "nextn_predict_layers": n_blocks}
    values |= _common(config)
    values |= _OWN.get(arch, _moe)(config, n_trunk, n_blocks)
    given = ((f"{arch}.{name}", value) for name, value in values.items() if value not in (None, []))
    return tuple(_key(name, value, byte_order, config.file) for name, value in given)


def vocabulary_size(config: HfConfig) -> int | None:
    """Number of tokens in a GGUF made from this checkpoint: the converter pads the list up to vocab_size."""
    return config.count_or_none("vocab_size")


def _key(name: str, value: Value, byte_order: str, file: str) -> Key:
    try:
        if isinstance(value, list):
            items: list[Scalar] = list(value)
            kind = {bool: ValueType.BOOL, int: ValueType.INT32, float: ValueType.FLOAT32}[type(items[0])]
            return make_array(name, kind, items, byte_order)
        assert value is not None
        return make_key(name, ValueType.UINT32, value, byte_order)
    except (struct.error, OverflowError):
        raise InvalidFileError(
            "gives a number that no GGUF key can hold", file=file, where=f"for key {name}", found=str(value)[:80]
        ) from None


def _common(config: HfConfig) -> Values:
    count = config.count_or_none
    head_dim = count("head_dim")
    return {
        "embedding_length": config.count("hidden_size", "n_embd", "dim"),
        "feed_forward_length": count(
            "prefix_dense_intermediate_size", "dense_intermediate_size", "intermediate_size", "n_inner", "hidden_dim"
        ),
        "attention.head_count": count("num_attention_heads", "n_head", "n_heads"),
        "attention.head_count_kv": count("num_key_value_heads", "n_kv_heads"),
        "expert_count": count("num_local_experts", "num_experts", "n_routed_experts"),
        "expert_used_count": count("num_experts_per_tok", "num_experts_per_token", "top_k_experts"),
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
    }


def _moe(config: HfConfig, n_trunk: int, n_blocks: int) -> Values:
    del n_trunk, n_blocks
    return {"expert_feed_forward_length": config.count_or_none("moe_intermediate_size")}


def _rotary(config: HfConfig, default: float) -> int | None:
    """Number of rotated dimensions of a head."""
    head_dim = config.count_or_none("head_dim")
    return None if head_dim is None else int(head_dim * config.rotary_share(default))


def _qwen(config: HfConfig, n_trunk: int, n_blocks: int) -> Values:
    types = config.texts("layer_types")
    interval = config.count_or_none("full_attention_interval")
    if types is None and interval:  # Qwen3NextConfig fills layer_types in like this (transformers)
        types = ["full_attention" if (i + 1) % interval == 0 else "linear_attention" for i in range(n_trunk)]
    recurrent = [t == "linear_attention" for t in types or []]
    return {
        **_moe(config, n_trunk, n_blocks),
        "expert_shared_feed_forward_length": config.count_or_none("shared_expert_intermediate_size"),
        "attention.recurrent_layers": recurrent + [False] * n_blocks if len(recurrent) == n_trunk else None,
        "rope.dimension_count": _rotary(config, 0.25),
    }


def _qwen4exp(config: HfConfig, n_trunk: int, n_blocks: int) -> Values:
    ratio = config.count("indexer_compress_ratio")
    types = config.texts("layer_types") or []
    ratios = [ratio if t == "full_attention" else 0 for t in types[:n_trunk]]
    return {**_qwen(config, n_trunk, n_blocks), "attention.compress_ratios": ratios + [ratio] * n_blocks}


def _glm4moe(config: HfConfig, n_trunk: int, n_blocks: int) -> Values:
    return {**_moe(config, n_trunk, n_blocks), "rope.dimension_count": _rotary(config, 0.5)}


def _mla(config: HfConfig, n_trunk: int, n_blocks: int) -> Values:
    """Absorbed latent attention runs as attention with one key-value head of the latent's width."""
    rank, rope = config.count("kv_lora_rank"), config.count("qk_rope_head_dim")
    return {
        **_moe(config, n_trunk, n_blocks),
        "attention.head_count_kv": 1,
        "attention.q_lora_rank": config.count_or_none("q_lora_rank"),
        "attention.kv_lora_rank": rank,
        "attention.key_length": rank + rope,
        "attention.value_length": rank,
        "attention.key_length_mla": config.count("qk_nope_head_dim") + rope,
        "attention.value_length_mla": config.count("v_head_dim"),
        "rope.dimension_count": rope,
    }


def _dots3note(config: HfConfig, n_trunk: int, n_blocks: int) -> Values:
    swa, full = config.count("swa_num_attention_heads"), config.count("num_attention_heads")
    types = config.texts("layer_types") or []
    heads = [swa if t == "sliding_attention" else full for t in types[:n_trunk]]
    return {**_mla(config, n_trunk, n_blocks), "attention.head_count": heads + [swa] * n_blocks}


def _glm5next(config: HfConfig, n_trunk: int, n_blocks: int) -> Values:
    heads = [0 if t == "linear_attention" else 1 for t in config.texts("layer_types") or []]
    limit = config.get("swiglu_limit")
    clamps = [float(limit)] * (n_trunk + n_blocks) if isinstance(limit, int | float) else None
    return {
        **_mla(config, n_trunk, n_blocks),
        "attention.head_count_kv": heads[:n_trunk] + [1] * n_blocks,
        "swiglu_clamp_exp": clamps,
        "swiglu_clamp_shexp": clamps,
    }


def _bailingmoe3(config: HfConfig, n_trunk: int, n_blocks: int) -> Values:
    group = max(1, config.count("layer_group_size"))
    full = [i >= n_trunk // group * group or (i + 1) % group == 0 for i in range(n_trunk)] + [True] * n_blocks
    return {
        **_mla(config, n_trunk, n_blocks),
        "attention.head_count_kv": [int(is_full) for is_full in full],
        "attention.value_length": config.count_or_none("head_dim"),
        "expert_shared_feed_forward_length": config.count_or_none("moe_shared_expert_intermediate_size"),
        "swiglu_clamp_exp": _clamps(config, "expert_swiglu_limit_list", n_trunk + n_blocks),
        "swiglu_clamp_shexp": _clamps(config, "share_expert_swiglu_limit_list", n_trunk + n_blocks),
    }


def _step35(config: HfConfig, n_trunk: int, n_blocks: int) -> Values:
    n = n_trunk + n_blocks
    types = ((config.texts("layer_types") or []) + ["full_attention"] * n)[:n]
    swa = [t == "sliding_attention" for t in types]
    other = HfConfig(config.file, config.table("attention_other_setting"), ())
    heads, groups = config.count("num_attention_heads"), config.count("num_attention_groups")
    other_heads, other_groups = other.count_or_none("num_attention_heads"), other.count_or_none("num_attention_groups")
    other_heads = heads if other_heads is None else other_heads
    other_groups = groups if other_groups is None else other_groups
    return {
        "attention.head_count": [other_heads if is_swa else heads for is_swa in swa],
        "attention.head_count_kv": [other_groups if is_swa else groups for is_swa in swa],
        "attention.sliding_window_pattern": swa,
        "expert_count": config.count_or_none("moe_num_experts"),
        "expert_used_count": config.count_or_none("moe_top_k"),
        "expert_feed_forward_length": config.count_or_none("moe_intermediate_size"),
        "expert_shared_feed_forward_length": config.count_or_none("share_expert_dim"),
        "swiglu_clamp_exp": _clamps(config, "swiglu_limits", n),
        "swiglu_clamp_shexp": _clamps(config, "swiglu_limits_shared", n),
    }


def _mimo2(config: HfConfig, n_trunk: int, n_blocks: int) -> Values:
    pattern = config.get("hybrid_layer_pattern")
    is_swa = [int(item == 1) for item in pattern][:n_trunk] if isinstance(pattern, list) else []
    is_swa += [1] * n_blocks
    full, swa = config.count("num_key_value_heads"), config.count("swa_num_key_value_heads")
    return {
        **_moe(config, n_trunk, n_blocks),
        "attention.head_count_kv": [swa if one else full for one in is_swa],
        "attention.sliding_window_pattern": is_swa,
        "attention.value_length": config.count_or_none("v_head_dim"),
    }


def _shared_experts(config: HfConfig, n_trunk: int, n_blocks: int) -> Values:
    del n_trunk, n_blocks
    width = config.count_or_none("moe_intermediate_size")
    n_shared = config.count_or_none("num_shared_experts")
    shared = None if width is None else width * (1 if n_shared is None else n_shared)
    own = config.count_or_none("moe_shared_expert_intermediate_size")
    return {"expert_feed_forward_length": width, "expert_shared_feed_forward_length": own or shared}


def _nemotron(config: HfConfig, n_trunk: int, n_blocks: int) -> Values:
    """One letter or word per trunk block; the folded head block has attention and experts."""
    pattern = config.get("hybrid_override_pattern", "layers_block_type")
    kinds = [str(item) for item in pattern] if isinstance(pattern, str | list) else []
    kv, width = config.count("num_key_value_heads"), config.count("moe_intermediate_size")
    return {
        "attention.head_count_kv": [kv if k in ("*", "attention", "full_attention") else 0 for k in kinds]
        + [kv] * n_blocks,
        "feed_forward_length": [width if k in ("E", "moe") else 0 for k in kinds] + [width] * n_blocks,
        "expert_count": config.count_or_none("n_routed_experts"),
        "expert_feed_forward_length": width,
        "expert_shared_feed_forward_length": config.count_or_none("moe_shared_expert_intermediate_size"),
        "attention.key_length": config.count_or_none("head_dim", "attention_head_dim"),
        "attention.value_length": config.count_or_none("head_dim", "attention_head_dim"),
    }


def _cohere2moe(config: HfConfig, n_trunk: int, n_blocks: int) -> Values:
    del n_trunk, n_blocks
    width, n_shared = config.count_or_none("intermediate_size"), config.count_or_none("num_shared_experts")
    return {
        "expert_feed_forward_length": width,
        "expert_shared_feed_forward_length": width * n_shared if width and n_shared else None,
        "rope.dimension_count": config.count_or_none("head_dim"),
    }


def _clamps(config: HfConfig, name: str, n: int) -> list[float] | None:
    """Limits per block, 0.0 where the config has none."""
    values = config.get(name)
    if not isinstance(values, list):
        return None
    floats = [float(v) if isinstance(v, int | float) else 0.0 for v in values[:n]]
    return floats + [0.0] * (n - len(floats))


_OWN: dict[str, Callable[[HfConfig, int, int], Values]] = {
    "qwen3next": _qwen,
    "qwen35": _qwen,
    "qwen35moe": _qwen,
    "qwen4exp": _qwen4exp,
    "glm4": _glm4moe,
    "glm4moe": _glm4moe,
    "deepseek2": _mla,
    "deepseek32": _mla,
    "glm-dsa": _mla,
    "glm5-next": _glm5next,
    "dots3note": _dots3note,
    "bailingmoe2": _shared_experts,
    "bailingmoe3": _bailingmoe3,
    "step35": _step35,
    "mimo2": _mimo2,
    "hy_v3": _shared_experts,
    "nemotron_h_moe": _nemotron,
    "cohere2moe": _cohere2moe,
    "exaone-moe": _shared_experts,
}
"""What an architecture adds to the common keys, or says otherwise; the rest has a plain expert width."""
