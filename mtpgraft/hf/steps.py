"""What conversion does beyond renaming: one small named function per kind of change.

A step gets one tensor of a head block and either leaves it alone (None) or replaces it by its results, which later
steps and the name tables then see. Each names the place in llama.cpp's converter that it follows (b11434).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from mtpgraft.errors import InvalidFileError, RefusedError
from mtpgraft.hf.config import HfConfig
from mtpgraft.recipe import Beside, Picked, Rows, Times, Transposed


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor on its way from Hugging Face to GGUF.

    name: its name in the block, with `.weight` or `.bias`, in Hugging Face's words until the last step.
    shape: numpy order. rows: its values; the row length is the last dimension.
    origins: names of the stored tensors it comes from. dtype: how those are stored.
    """

    name: str
    shape: tuple[int, ...]
    rows: Rows
    origins: tuple[str, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Context:
    """What a step may look at beside its tensor. block: all tensors of the same head block, by name."""

    config: HfConfig
    block: Mapping[str, Part]


Step = Callable[[Part, Context], "list[Part] | None"]


def split_gate_up(part: Part, context: Context) -> list[Part] | None:
    """Fused experts, shape (n_expert, 2 n_ff, n_embd) -> gate_proj and up_proj, halves of dimension -2.

    Qwen2MoeModel.modify_tensors, conversion/qwen.py. Also gives `experts.down_proj` its `.weight`.
    """
    base = part.name.removesuffix(".weight")
    if base.endswith("experts.down_proj") and base == part.name:
        return [replace(part, name=f"{base}.weight")]
    if not base.endswith("experts.gate_up_proj"):
        return None
    if len(part.shape) != 3 or part.shape[1] % 2:
        raise _bad_shape(part, context, "(experts, 2 x width, hidden)")
    n_experts, n_both, n_embd = part.shape
    half = n_both // 2
    stem = base.removesuffix("gate_up_proj")
    return [
        replace(
            part,
            name=f"{stem}{name}.weight",
            shape=(n_experts, half, n_embd),
            rows=Picked(part.rows, n_both, tuple(range(first, first + half))),
        )
        for name, first in (("gate_proj", 0), ("up_proj", half))
    ]


def split_kv_b(part: Part, context: Context) -> list[Part] | None:
    """kv_b_proj, shape (heads x (nope + v), rank) -> k_b_proj (heads, rank, nope) and v_b_proj (heads, v, rank).

    DeepseekV2Model.modify_tensors, conversion/deepseek.py; BailingMoeV3Model; Glm5NextModel. The latter two count
    heads by num_attention_heads, the first by num_key_value_heads: in these models they are equal.
    """
    config = context.config
    return _split_kv_b(part, context, config.count("qk_nope_head_dim"), config.count("v_head_dim"))


def split_kv_b_swa(part: Part, context: Context) -> list[Part] | None:
    """The same with the widths of sliding-window layers, which dots3's head is one of. conversion/dots3.py."""
    config = context.config
    return _split_kv_b(part, context, config.count("swa_qk_nope_head_dim"), config.count("swa_v_head_dim"))


def _split_kv_b(part: Part, context: Context, nope: int, v: int) -> list[Part] | None:
    if not part.name.endswith("kv_b_proj.weight"):
        return None
    if len(part.shape) != 2 or not nope + v or part.shape[0] % (nope + v):
        raise _bad_shape(part, context, f"(heads x ({nope} + {v}), rank)")
    n_heads, rank = part.shape[0] // (nope + v), part.shape[1]
    keys = Picked(part.rows, nope + v, tuple(range(nope)))
    values = Picked(part.rows, nope + v, tuple(range(nope, nope + v)))
    k_name, v_name = (part.name.replace("kv_b_proj", name) for name in ("k_b_proj", "v_b_proj"))
    return [
        replace(part, name=k_name, shape=(n_heads, rank, nope), rows=Transposed(keys, nope)),
        replace(part, name=v_name, shape=(n_heads, v, rank), rows=values),
    ]


def join_embedding_and_hidden(part: Part, context: Context) -> list[Part] | None:
    """fc_embedding and fc_hidden, both (n_embd, n_embd) -> eh_proj (n_embd, 2 n_embd): [embedding; hidden].

    Qwen4ExpTextModel.modify_tensors, conversion/qwen4exp.py.
    """
    if part.name == "fc_hidden.weight":
        return []
    if part.name != "fc_embedding.weight":
        return None
    other = context.block.get("fc_hidden.weight")
    if other is None:
        raise InvalidFileError("the other half of its projection is missing", where=f"tensor {part.origins[0]}")
    if len(part.shape) != 2 or other.shape[:1] != part.shape[:1] or len(other.shape) != 2:
        raise _bad_shape(other, context, "(hidden, width), as the other half")
    both = Beside((part.rows, other.rows))
    shape = (part.shape[0], both.row)
    return [replace(part, name="eh_proj.weight", shape=shape, rows=both, origins=part.origins + other.origins)]


def split_index_qk(part: Part, context: Context) -> list[Part] | None:
    """indexer.index_qk_proj -> indexer.q_proj and indexer.k_proj. conversion/qwen4exp.py."""
    if ".indexer.index_qk_proj.weight" not in part.name:
        return None
    n_q = context.config.count("indexer_n_heads") * context.config.count("indexer_head_dim")
    n_rows, row = part.shape if len(part.shape) == 2 else (0, 0)
    if not 0 < n_q < n_rows:
        raise _bad_shape(part, context, f"more than {n_q} rows")
    return [
        replace(
            part,
            name=part.name.replace("index_qk_proj", name),
            shape=(last - first, row),
            rows=Picked(part.rows, n_rows, tuple(range(first, last))),
        )
        for name, first, last in (("q_proj", 0, n_q), ("k_proj", n_q, n_rows))
    ]


def squeeze_step35(part: Part, context: Context) -> list[Part] | None:
    """Dimensions of 1 are dropped from gates and experts. Step35Model.modify_tensors, conversion/step3.py."""
    del context
    gates = (".self_attn.g_proj.weight", ".moe.gate.weight")
    experts = (".moe.up_proj.weight", ".moe.gate_proj.weight", ".moe.down_proj.weight")
    shape = tuple(dim for dim in part.shape if dim != 1)
    if not f".{part.name}".endswith(gates + experts) or shape == part.shape:
        return None
    return [replace(part, shape=shape, rows=_reshaped(part.rows, shape))]


def permute_interleaved_rope(part: Part, context: Context) -> list[Part] | None:
    """q and k rows of each head from halves to pairs. LlamaModel.permute, conversion/llama.py (Nemotron-H)."""
    found = _rope_rows(part, context)
    if found is None:
        return None
    head_dim = found
    half = head_dim // 2
    order = tuple(half * second + i for i in range(half) for second in (0, 1))
    return [replace(part, rows=Picked(part.rows, head_dim, order))]


def permute_neox_rope(part: Part, context: Context) -> list[Part] | None:
    """q and k rows of each head from pairs to halves, in the rotated part. Glm4Model.normal_to_neox, conversion/glm.py.

    Only for M-RoPE, whose kernel knows no other order.
    """
    rope = context.config.table("rope_parameters", "rope_scaling")
    head_dim = _rope_rows(part, context) if "mrope_section" in rope else None
    if head_dim is None:
        return None
    n_rotary = int(head_dim * context.config.rotary_share(0.5))
    order = (*range(0, n_rotary, 2), *range(1, n_rotary, 2), *range(n_rotary, head_dim))
    if len(part.shape) == 1:
        raise RefusedError("biases of M-RoPE heads are not converted", where=f"tensor {part.origins[0]}")
    return [replace(part, rows=Picked(part.rows, head_dim, order))]


def _rope_rows(part: Part, context: Context) -> int | None:
    """The head width of a q or k projection, None for other tensors."""
    config = context.config
    is_q, is_k = (part.name.endswith((f".{x}_proj.weight", f".{x}_proj.bias")) for x in "qk")
    if not is_q and not is_k:
        return None
    n_heads = config.count("num_attention_heads") if is_q else config.count("num_key_value_heads")
    n_rows = part.shape[0] if part.shape else 0
    if not n_heads or n_rows % n_heads or n_rows // n_heads % 2:
        raise _bad_shape(part, context, f"rows of {n_heads} heads")
    return n_rows // n_heads


def rescale_latent_norms(part: Part, context: Context) -> list[Part] | None:
    """sqrt(hidden / rank) is folded into the norms of the latent q and kv. Dots3NoteModel, conversion/dots3.py."""
    config = context.config
    if not config.get("apply_mla_qkv_lora_rescale"):
        return None
    if part.name.endswith("q_a_layernorm.weight"):
        rank = config.count("q_lora_rank")
    elif part.name.endswith("kv_a_layernorm.weight"):
        rank = config.count("swa_kv_lora_rank")
    else:
        return None
    return [replace(part, rows=Times(part.rows, math.sqrt(config.count("hidden_size") / max(1, rank))))]


def drop_zero_bias(part: Part, context: Context) -> list[Part] | None:
    """Biases that are all zero are left out, others are refused. Cohere2MoeModel, conversion/command_r.py."""
    if not part.name.endswith(".bias"):
        return None
    if len(part.shape) != 1:
        raise _bad_shape(part, context, "one dimension")
    if part.rows.read(0, part.rows.n_rows).any():
        raise RefusedError(
            "has a bias that is not zero, which llama.cpp has no place for",
            file=context.config.file,
            where=f"tensor {part.origins[0]}",
        )
    return []


def _reshaped(rows: Rows, shape: tuple[int, ...]) -> Rows:
    """Rows whose length is another dimension now: only a trailing 1 that is dropped changes it."""
    row = shape[-1] if shape else 1
    if row == rows.row:
        return rows
    return Transposed(rows, row)


def _bad_shape(part: Part, context: Context, expected: str) -> InvalidFileError:
    return InvalidFileError(
        "has a shape that does not fit the config",
        file=context.config.file,
        where=f"tensor {part.origins[0]}",
        expected=expected,
        found=list(part.shape),
    )
