"""What a head looks like in a Hugging Face checkpoint, as data: one `HfLayout` per `general.architecture`.

The tables follow llama.cpp's converter (conversion/*.py and gguf-py/gguf/tensor_mapping.py @ b11434), whose output is
the oracle: same names, shapes, types and bytes. A fact that is no table is a named function of steps.py.

Block names: while it is renamed, a head tensor is `<number of the head block>.<name in the block>`, or
`*.<name>` when the checkpoint keeps it beside the blocks (`mtp.fc.weight` is `*.fc.weight`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mtpgraft.hf.mimo import read_ranked_qkv
from mtpgraft.hf.steps import (
    Step,
    drop_zero_bias,
    join_embedding_and_hidden,
    permute_interleaved_rope,
    permute_neox_rope,
    rescale_latent_norms,
    split_gate_up,
    split_index_qk,
    split_kv_b,
    split_kv_b_swa,
    squeeze_step35,
)
from mtpgraft.hf.stored import ScaledReader

NAMES: dict[str, str] = {
    "input_layernorm": "attn_norm",
    "norm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.g_proj": "attn_gate",
    "self_attn.attention_sink_bias": "attn_sinks",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.k_b_proj": "attn_k_b",
    "self_attn.v_b_proj": "attn_v_b",
    "self_attn.k_rope_only_layernorm": "attn_k_norm",
    "self_attn.indexer.k_layernorm": "indexer.k_norm",
    "self_attn.indexer.k_norm": "indexer.k_norm",
    "self_attn.indexer.q_layernorm": "indexer.q_norm",
    "self_attn.indexer.q_proj": "indexer.q_proj",
    "self_attn.indexer.k_proj": "indexer.k_proj",
    "self_attn.indexer.weights_proj": "indexer.proj",
    "self_attn.indexer.wk": "indexer.attn_k",
    "self_attn.indexer.wq_b": "indexer.attn_q_b",
    "attention.query_key_value": "attn_qkv",
    "attention.query_layernorm": "attn_q_norm",
    "attention.key_layernorm": "attn_k_norm",
    "attention.dense": "attn_output",
    "attention.q_proj": "attn_q",
    "attention.q_a_proj": "attn_q_a",
    "attention.q_a_layernorm": "attn_q_a_norm",
    "attention.q_b_proj": "attn_q_b",
    "attention.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "attention.kv_a_layernorm": "attn_kv_a_norm",
    "attention.k_b_proj": "attn_k_b",
    "attention.v_b_proj": "attn_v_b",
    "attention.g_proj": "attn_gate",
    "mixer.q_proj": "attn_q",
    "mixer.k_proj": "attn_k",
    "mixer.v_proj": "attn_v",
    "mixer.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.router.gate": "ffn_gate_inp",
    "mlp.gate.e_score_correction": "exp_probs_b",
    "mlp.gate.expert_bias": "exp_probs_b",
    "mlp.expert_bias": "exp_probs_b",
    "mlp.e_score_correction": "exp_probs_b",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "moe.gate": "ffn_gate_inp",
    "moe.router_bias": "exp_probs_b",
    "moe.gate_proj": "ffn_gate_exps",
    "moe.up_proj": "ffn_up_exps",
    "moe.down_proj": "ffn_down_exps",
    "mixer.gate": "ffn_gate_inp",
    "mixer.gate.e_score_correction": "exp_probs_b",
    "mixer.fc1_latent_proj": "ffn_latent_down",
    "mixer.fc2_latent_proj": "ffn_latent_up",
    "attn_hyper_connection.hc_norm": "hc_attn_norm",
    "attn_hyper_connection.input_mix_weight_down": "hc_attn_down",
    "attn_hyper_connection.input_mix_weight_up": "hc_attn_up",
    "attn_hyper_connection.block_inject_weight": "hc_attn_inject",
    "mlp_hyper_connection.hc_norm": "hc_ffn_norm",
    "mlp_hyper_connection.input_mix_weight_down": "hc_ffn_down",
    "mlp_hyper_connection.input_mix_weight_up": "hc_ffn_up",
    "mlp_hyper_connection.block_inject_weight": "hc_ffn_inject",
    "nextn_hc_head.hc_norm": "nextn.hc_head_norm",
    "nextn_hc_head.input_mix_weight_down": "nextn.hc_head_down",
    "nextn_hc_head.input_mix_weight_up": "nextn.hc_head_up",
    "eh_proj": "nextn.eh_proj",
    "enorm": "nextn.enorm",
    "hnorm": "nextn.hnorm",
    "embed_tokens": "nextn.embed_tokens",
    "shared_head.head": "nextn.shared_head_head",
    "shared_head.norm": "nextn.shared_head_norm",
    **{
        f"{ffn}.{expert}.{part}_proj": f"ffn_{part}_{suffix}"
        for ffn in ("mlp", "mixer")
        for expert, suffix in (("experts", "exps"), ("shared_expert", "shexp"), ("shared_experts", "shexp"))
        for part in ("gate", "up", "down")
    },
    **{f"mlp.shared_mlp.{part}_proj": f"ffn_{part}_shexp" for part in ("gate", "up", "down")},
    **{f"share_expert.{part}_proj": f"ffn_{part}_shexp" for part in ("gate", "up", "down")},
}
"""Hugging Face's name in the block -> GGUF's, both without `.weight` or `.bias`. No architecture contradicts another,
except for what its own `names` says. tensor_mapping.py @ b11434."""

POST_NORM = {"post_attention_layernorm": "post_attention_norm"}
FFN_NORM = {"post_attention_layernorm": "ffn_norm"}

RENAMES = ((r"e_score_correction_bias$", "e_score_correction.bias"),)
"""Of every architecture: ModelBase.filter_tensors, conversion/base.py:590 @ b11434."""

_QWEN_FUSION = (
    (r"^\*\.fc\.", "0.eh_proj."),
    (r"^\*\.pre_fc_norm_embedding\.", "0.enorm."),
    (r"^\*\.pre_fc_norm_hidden\.", "0.hnorm."),
    (r"^\*\.norm\.", "0.shared_head.norm."),
)
_EXAONE_FUSION = tuple((old, new.replace("0.", "*.", 1)) for old, new in _QWEN_FUSION)


@dataclass(frozen=True, slots=True)
class HfLayout:
    """How one architecture's head is converted.

    arch: general.architecture. hf_architectures: the `architectures` entries of config.json.
    names: additions to NAMES.
    renames: (pattern, replacement) applied one after the other to `<block>.<name>`, before anything else.
    steps: named functions, tried in order on each tensor; the first that takes it replaces it by its results.
    zero_centred: norms are stored minus one: 1 is added to every `*norm.weight`.
    reader: reads FP8 weights whose scales lie in a way of their own.
    trunk_norms: (Hugging Face name, GGUF name) of norms to tell models apart; `{i}` is the trunk block.
    stays_f32: names in the block of tensors kept at F32, beside norms, routers and what is no `.weight`.
    routers_quantized: the converter gives the block its number after it has looked for routers by number, and so does
        not keep them at F32 (tensor_force_quant and match_model_tensor_name in prepare_tensors, conversion/base.py).
    remark: what a user should know; shown as a warning.
    """

    arch: str
    hf_architectures: tuple[str, ...]
    names: Mapping[str, str] = field(default_factory=dict)
    renames: tuple[tuple[str, str], ...] = ()
    steps: tuple[Step, ...] = ()
    zero_centred: bool = False
    reader: ScaledReader | None = None
    stays_f32: tuple[str, ...] = ()
    routers_quantized: bool = False
    trunk_norms: tuple[tuple[str, str], ...] = (
        ("model.norm.weight", "output_norm.weight"),
        ("model.layers.{i}.input_layernorm.weight", "blk.{i}.attn_norm.weight"),
    )
    remark: str | None = None


_MOE = (split_gate_up,)

_LAYOUTS = (
    HfLayout("qwen3next", ("Qwen3NextForCausalLM",), POST_NORM, _QWEN_FUSION, _MOE, zero_centred=True),
    HfLayout(
        "qwen35",
        ("Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"),
        POST_NORM,
        _QWEN_FUSION,
        zero_centred=True,
    ),
    HfLayout(
        "qwen35moe",
        ("Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM"),
        POST_NORM,
        _QWEN_FUSION,
        _MOE,
        zero_centred=True,
    ),
    HfLayout(
        "qwen4exp",
        ("Qwen4ExpForConditionalGeneration", "Qwen4ExpForCausalLM"),
        {},
        (
            *_QWEN_FUSION,
            (r"^\*\.(fc_embedding|fc_hidden)\.", r"0.\1."),
            (r"^\*\.hyper_connection_mixer\.", "0.nextn_hc_head."),
        ),
        (join_embedding_and_hidden, split_index_qk, split_gate_up),
        zero_centred=True,
        trunk_norms=(("model.layers.{i}.attn_hyper_connection.hc_norm.weight", "blk.{i}.hc_attn_norm.weight"),),
    ),
    HfLayout("glm4moe", ("Glm4MoeForCausalLM", "Glm4vMoeForConditionalGeneration"), POST_NORM),
    HfLayout("deepseek2", ("Glm4MoeLiteForCausalLM",), FFN_NORM, steps=(split_kv_b,)),
    HfLayout("deepseek32", ("DeepseekV32ForCausalLM",), FFN_NORM, steps=(split_kv_b,)),
    HfLayout("glm-dsa", ("GlmMoeDsaForCausalLM",), FFN_NORM, steps=(split_kv_b,)),
    HfLayout(
        "glm5-next",
        ("Glm5NextForConditionalGeneration",),
        {
            **FFN_NORM,
            "self_attn.indexer.index_kpool_compress_ape": "indexer_compressor_ape",
            "self_attn.indexer.index_kpool_compress_gate": "indexer_compressor_gate",
        },
        ((r"\.index_kpool_compress_(ape|gate)$", r".index_kpool_compress_\1.weight"),),
        (split_kv_b,),
        stays_f32=("indexer_compressor_ape.weight", "indexer_compressor_gate.weight"),
    ),
    HfLayout(
        "glm4",
        ("GlmOcrForConditionalGeneration",),
        {
            "post_attention_layernorm": "ffn_norm",
            "post_self_attn_layernorm": "post_attention_norm",
            "post_mlp_layernorm": "post_ffw_norm",
            "mlp.gate_up_proj": "ffn_up",
        },
        steps=(permute_neox_rope,),
    ),
    HfLayout(
        "step35",
        ("Step3p5ForCausalLM", "Step3p7ForConditionalGeneration"),
        FFN_NORM,
        (
            (r"\.transformer\.", "."),
            (r"\.shared_head\.output\.", ".shared_head.head."),
            (r"\.moe\.router_bias$", ".moe.router_bias.bias"),
        ),
        (squeeze_step35,),
        zero_centred=True,
    ),
    HfLayout(
        "mimo2",
        ("MiMoV2FlashForCausalLM", "MiMoV2ForCausalLM"),
        {**FFN_NORM, "final_layernorm": "layer_output_norm", "pre_mlp_layernorm": "ffn_norm"},
        ((r"attention_sink_bias$", "attention_sink_bias.weight"),),
        reader=read_ranked_qkv,
        routers_quantized=True,
    ),
    HfLayout("hy_v3", ("HYV3ForCausalLM",), FFN_NORM, ((r"\.final_layernorm\.", ".shared_head.norm."),)),
    HfLayout(
        "bailingmoe2",
        ("BailingMoeV2ForCausalLM",),
        {**FFN_NORM, "final_layernorm": "layer_output_norm"},
        ((r"\.expert_bias$", ".expert_bias.bias"),),
    ),
    HfLayout(
        "bailingmoe3",
        ("BailingMoeV3ForCausalLM", "BailingMoeV3VLForConditionalGeneration"),
        {**FFN_NORM, "final_layernorm": "layer_output_norm"},
        ((r"\.expert_bias$", ".expert_bias.bias"),),
        (split_kv_b,),
    ),
    HfLayout(
        "nemotron_h_moe",
        ("NemotronHForCausalLM",),
        POST_NORM,
        (
            (r"^1\.norm\.", "0.post_attention_layernorm."),
            (r"^1\.final_layernorm\.", "0.shared_head.norm."),
            (r"^1\.", "0."),
        ),
        (permute_interleaved_rope,),
        routers_quantized=True,
        trunk_norms=(
            ("backbone.norm_f.weight", "output_norm.weight"),
            ("backbone.layers.{i}.norm.weight", "blk.{i}.attn_norm.weight"),
        ),
    ),
    HfLayout("cohere2moe", ("Cohere2MoeForCausalLM",), {}, steps=(drop_zero_bias, split_gate_up)),
    HfLayout(
        "exaone4",
        ("Exaone4_5_ForConditionalGeneration",),
        {**POST_NORM, "post_feedforward_layernorm": "post_ffw_norm"},
        _EXAONE_FUSION,
        routers_quantized=True,
        trunk_norms=(
            ("model.norm.weight", "output_norm.weight"),
            ("model.layers.{i}.post_attention_layernorm.weight", "blk.{i}.post_attention_norm.weight"),
        ),
    ),
    HfLayout("exaone-moe", ("ExaoneMoEForCausalLM", "ExaoneMoeForCausalLM"), FFN_NORM, _EXAONE_FUSION),
    HfLayout(
        "dots3note",
        ("Dots3NoteForCausalLM", "Dots3NoteForConditionalGeneration", "Dots3NoteTextForCausalLM"),
        FFN_NORM,
        ((r"^\*\.embed_tokens\.", "0.embed_tokens."),),
        (rescale_latent_norms, split_kv_b_swa),
    ),
)

REFUSED: dict[str, str] = {
    "DeepseekV4ForCausalLM": "llama.cpp runs a DeepSeek-V4 head from a sidecar only, made by its own converter",
    "DeepseekV3ForCausalLM": "llama.cpp's converter leaves the head of DeepSeek-V3 out; what it would be is not known",
    "Gemma4ForConditionalGeneration": "the drafter of Gemma 4 is a model of its own (gemma4-assistant), not a head",
}
"""Hugging Face architectures that have a head, or seem to, and why it is not taken."""


def layout_for(hf_architectures: list[str]) -> HfLayout | None:
    """The layout of the first of these `architectures` entries that has one."""
    by_name = {name: layout for layout in _LAYOUTS for name in layout.hf_architectures}
    return next((by_name[name] for name in hf_architectures if name in by_name), None)


def all_layouts() -> tuple[HfLayout, ...]:
    """Every layout."""
    return _LAYOUTS
