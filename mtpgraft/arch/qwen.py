"""Qwen3-Next, Qwen3.5, Qwen3.6 and Qwen3.8-Flash-Next: a gated-delta-net trunk, a full-attention head."""

from __future__ import annotations

from mtpgraft.arch.common import (
    DENSE_FFN,
    DOWN_EXPS,
    GATE_UP_EXPS,
    NEXTN,
    NOW_PROBED,
    QKV,
    QKV_BIASES,
    ROUTER,
    SEEN_IN_10434,
    SHARED_EXPERT,
    first_known,
    generic_arrays,
    moe_arrays,
    norm,
    required_since,
    weights,
)
from mtpgraft.arch.spec import ArchSpec, ArrayRule, GraphSupport, HeadTensor, LoadPolicy

_QK_NORM_AND_OUTPUT = (*weights("attn_output", "attn_q_norm", "attn_k_norm"), *QKV_BIASES)

_ATTENTION = (norm("attn_norm"), norm("post_attention_norm"), *_QK_NORM_AND_OUTPUT)

_MOE = (
    *ROUTER,
    *DOWN_EXPS,
    # [D] or [D, 1]: both are in circulation, and the same to llama.cpp.
    *weights("ffn_gate_inp_shexp"),
    *SHARED_EXPERT,
)

_NOTES = (required_since(10434, SEEN_IN_10434), NOW_PROBED)

_GATED_QUERY = "attn_q holds query and gate of each head: twice as many rows as head_count * key_length"


def _recurrent_layers(source: str) -> ArrayRule:
    # Many files have only full_attention_interval, which llama.cpp applies to the trunk alone.
    return ArrayRule("attention.recurrent_layers", default=False, source=source)


QWEN35 = ArchSpec(
    name="qwen35",
    title="Qwen3.5 / Qwen3.6 dense",
    policy=LoadPolicy.TRUNK_PROBE,
    graph=GraphSupport.SINGLE,
    tensors=_ATTENTION + DENSE_FFN + NEXTN,
    alternatives=(QKV,),
    arrays=(*generic_arrays(), _recurrent_layers("src/models/qwen35.cpp:17 @ b11434")),
    hf_architectures=("Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"),
    notes=_NOTES,
    remarks=(_GATED_QUERY,),
    source="src/models/qwen35.cpp:97-120 (tensors), 500-659 (graph); conversion/qwen.py:276-368 @ b11434",
)

QWEN35MOE = ArchSpec(
    name="qwen35moe",
    title="Qwen3.5 / Qwen3.6 MoE",
    policy=LoadPolicy.TRUNK_PROBE,
    graph=GraphSupport.SINGLE,
    tensors=_ATTENTION + _MOE + NEXTN,
    alternatives=(QKV, GATE_UP_EXPS),
    arrays=(
        *moe_arrays("src/models/qwen35moe.cpp:5 @ b11434"),
        _recurrent_layers("src/models/qwen35moe.cpp:20 @ b11434"),
    ),
    hf_architectures=("Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM"),
    notes=_NOTES,
    remarks=(_GATED_QUERY,),
    source="src/models/qwen35moe.cpp:106-139 (tensors), 551-742 (graph) @ b11434",
)

QWEN3NEXT = ArchSpec(
    name="qwen3next",
    title="Qwen3-Next, Qwen3-Coder-Next",
    policy=LoadPolicy.TRUNK_PROBE,
    graph=GraphSupport.SINGLE,
    tensors=_ATTENTION + _MOE + NEXTN,
    alternatives=(QKV, GATE_UP_EXPS),
    arrays=(
        *moe_arrays("src/models/qwen3next.cpp:5 @ b11434"),
        _recurrent_layers("src/models/qwen3next.cpp:17 @ b11434"),
    ),
    hf_architectures=("Qwen3NextForCausalLM",),
    notes=_NOTES,
    remarks=(
        _GATED_QUERY,
        "config.json does not count the head's layers: the converter counts the mtp.layers.* tensors",
    ),
    source="src/models/qwen3next.cpp:68-123 (tensors), 628-823 (graph) @ b11434",
)

QWEN4EXP = ArchSpec(
    name="qwen4exp",
    title="Qwen3.8-Flash-Next",
    policy=LoadPolicy.TRUNK_PROBE,
    graph=GraphSupport.SINGLE,
    tensors=(
        *weights("hc_attn_norm", "hc_attn_down", "hc_attn_up", "hc_attn_inject"),
        *weights("hc_ffn_norm", "hc_ffn_down", "hc_ffn_up", "hc_ffn_inject"),
        *_QK_NORM_AND_OUTPUT,
        *weights("indexer.q_proj", "indexer.k_proj", "indexer.q_norm", "indexer.k_norm"),
        *_MOE,
        HeadTensor("nextn.eh_proj.weight", shape=("2D", "D")),
        norm("nextn.enorm"),
        # One gamma per hyper-connection stream: hyper_connection.count times D.
        HeadTensor("nextn.hnorm.weight", shape=("hc*D",)),
        *weights("nextn.hc_head_norm", "nextn.hc_head_down", "nextn.hc_head_up"),
    ),
    alternatives=(QKV, GATE_UP_EXPS),
    arrays=(
        *moe_arrays("src/models/qwen4exp.cpp:27 @ b11434"),
        _recurrent_layers("src/models/qwen4exp.cpp:149 @ b11434"),
        # The indexer's ratio, the same as in every full-attention layer (conversion/qwen4exp.py:86-89).
        ArrayRule("attention.compress_ratios", source="src/models/qwen4exp.cpp:62 @ b11434"),
    ),
    sidecar_roots=("token_embd.weight",),
    sidecar_drop_keys=("ple.",),
    sidecar_probe="blk.0.hc_attn_norm.weight",
    hf_architectures=("Qwen4ExpForConditionalGeneration", "Qwen4ExpForCausalLM"),
    notes=(first_known(LoadPolicy.REQUIRED, GraphSupport.SINGLE), NOW_PROBED),
    remarks=(
        _GATED_QUERY,
        "no output_norm: the head carries its own mixer, nextn.hc_head_*",
        "a sidecar that keeps the ple.* keys does not load: they call for per_layer_token_embd",
    ),
    source="src/models/qwen4exp.cpp:218-303 (tensors), 179, 197-216 (sidecar), 529-618 (graph) @ b11434",
)

SPECS = (QWEN35, QWEN35MOE, QWEN3NEXT, QWEN4EXP)
