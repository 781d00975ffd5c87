"""Qwen3-Next, Qwen3.5 and Qwen3.6: a gated-delta-net trunk with a full-attention head."""

from __future__ import annotations

from mtpgraft.arch.common import (
    DENSE_FFN,
    GATE_UP_EXPS,
    GENERIC_ARRAYS,
    NEXTN,
    QKV,
    QKV_BIASES,
    ROUTER,
    SHARED_EXPERT,
    expert_ffn_array,
    norm,
    required,
)
from mtpgraft.arch.spec import ArchSpec, ArrayRule, BuildNote, GraphSupport, HeadTensor, LoadPolicy

_ATTENTION = (
    norm("attn_norm"),
    norm("post_attention_norm"),
    *required("attn_output", "attn_q_norm", "attn_k_norm"),
    *QKV_BIASES,
)

_MOE = (
    *ROUTER,
    *required("ffn_down_exps"),
    HeadTensor("ffn_gate_inp_shexp.weight", shape=("D",)),
    *SHARED_EXPERT,
)


def _recurrent_layers(source: str) -> ArrayRule:
    return ArrayRule("attention.recurrent_layers", default=False, source=source)


QWEN35 = ArchSpec(
    name="qwen35",
    title="Qwen3.5 / Qwen3.6 dense",
    policy=LoadPolicy.REQUIRED,
    graph=GraphSupport.SINGLE,
    tensors=_ATTENTION + DENSE_FFN + NEXTN,
    alternatives=(QKV,),
    arrays=(*GENERIC_ARRAYS, _recurrent_layers("src/models/qwen35.cpp:17 @ b11434")),
    hf_architectures=("Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"),
    notes=(
        BuildNote(
            11549,
            "a declared head whose tensors are absent is probed for and skipped: the file loads without it",
            "observed with xllamacpp 2026.10.11549",
        ),
    ),
    source="src/models/qwen35.cpp:97-127 (tensors), 500-659 (graph_mtp) @ b11434",
)

QWEN35MOE = ArchSpec(
    name="qwen35moe",
    title="Qwen3.5 / Qwen3.6 MoE",
    policy=LoadPolicy.REQUIRED,
    graph=GraphSupport.SINGLE,
    tensors=_ATTENTION + _MOE + NEXTN,
    alternatives=(QKV, GATE_UP_EXPS),
    arrays=(
        *GENERIC_ARRAYS,
        expert_ffn_array("src/models/qwen35moe.cpp:5 @ b11434"),
        _recurrent_layers("src/models/qwen35moe.cpp:20 @ b11434"),
    ),
    hf_architectures=("Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM"),
    source="src/models/qwen35moe.cpp @ b11434",
)

QWEN3NEXT = ArchSpec(
    name="qwen3next",
    title="Qwen3-Next, Qwen3-Coder-Next",
    policy=LoadPolicy.REQUIRED,
    graph=GraphSupport.SINGLE,
    tensors=_ATTENTION + _MOE + NEXTN,
    alternatives=(QKV, GATE_UP_EXPS),
    arrays=(
        *GENERIC_ARRAYS,
        expert_ffn_array("src/models/qwen3next.cpp:5 @ b11434"),
        _recurrent_layers("src/models/qwen3next.cpp:17 @ b11434"),
    ),
    hf_architectures=("Qwen3NextForCausalLM",),
    source="src/models/qwen3next.cpp @ b11434",
)

SPECS = (QWEN35, QWEN35MOE, QWEN3NEXT)
