"""Gemma 4, whose drafter is a model of its own in a file of its own."""

from __future__ import annotations

from mtpgraft.arch.common import DENSE_FFN, generic_arrays, moe_arrays, norm, weights
from mtpgraft.arch.spec import ArchSpec, ArrayRule, GraphSupport, HeadTensor, LoadPolicy

_PATTERN = "attention.sliding_window_pattern"

GEMMA4 = ArchSpec(
    name="gemma4",
    title="Gemma 4",
    policy=LoadPolicy.UNHANDLED,
    graph=GraphSupport.NONE,
    arrays=(
        *moe_arrays("src/models/gemma4.cpp:15 @ b11434"),
        ArrayRule(_PATTERN, checked=False, source="src/models/gemma4.cpp:6 @ b11434"),
    ),
    sidecar=False,
    refuse_graft="Gemma 4 has no head blocks: its drafter is a file of its own, of architecture "
    "gemma4-assistant, loaded with -md and --spec-type draft-mtp",
    separate_drafter="gemma4-assistant",
    remarks=("target and assistant must agree: the assistant's embedding_length_out is the target's width",),
    source="src/models/gemma4.cpp:68, 409-413 @ b11434",
)

GEMMA4_ASSISTANT = ArchSpec(
    name="gemma4-assistant",
    title="Gemma 4 assistants",
    policy=LoadPolicy.REQUIRED,
    graph=GraphSupport.WHOLE,
    tensors=(
        norm("attn_norm"),
        *weights("attn_q", "attn_output", "attn_q_norm"),
        norm("post_attention_norm"),
        HeadTensor("layer_output_scale.weight", shape=("1",)),
        norm("ffn_norm"),
        *DENSE_FFN,
        norm("post_ffw_norm"),
    ),
    arrays=(
        *generic_arrays(),
        ArrayRule(_PATTERN, checked=False, source="src/models/gemma4-assistant.cpp:7 @ b11434"),
    ),
    sidecar_roots=(
        *("token_embd.weight", "output_norm.weight"),
        *("nextn.pre_projection.weight", "nextn.post_projection.weight"),
    ),
    sidecar_optional_roots=("rope_freqs.weight", "masked_embd_centroids.weight", "masked_embd_ordering"),
    sidecar_probe="",
    refuse_graft="a Gemma 4 assistant is a drafter, not a base: load it with -md beside its Gemma 4",
    hf_architectures=("Gemma4AssistantForCausalLM", "Gemma4UnifiedAssistantForCausalLM"),
    remarks=(
        "nextn_predict_layers equals block_count: the file is all drafter, and shares the target's KV cache",
        "has no nextn.eh_proj for llama.cpp to know it by: --spec-type draft-mtp must be given",
    ),
    source="src/models/gemma4-assistant.cpp:21-76; src/llama-model.cpp:2812-2820; "
    "common/speculative.cpp:2371; conversion/gemma.py:933-951 @ b11434",
)

SPECS = (GEMMA4, GEMMA4_ASSISTANT)
