"""Cohere's MoE: attention and feed-forward part in parallel, one norm before both."""

from __future__ import annotations

from mtpgraft.arch.common import (
    DOWN_EXPS,
    GATE_UP_EXPS,
    NEXTN,
    QKV,
    QKV_BIASES,
    ROUTER,
    SHARED_EXPERT,
    moe_arrays,
    names_of,
    norm,
    weights,
)
from mtpgraft.arch.spec import Alternative, ArchSpec, GraphSupport, LoadPolicy

COHERE2MOE = ArchSpec(
    name="cohere2moe",
    title="Cohere North-Mini-Code",
    policy=LoadPolicy.TRUNK_PROBE,
    graph=GraphSupport.SINGLE,
    tensors=(norm("attn_norm"), *QKV_BIASES, *weights("attn_output"), *ROUTER, *DOWN_EXPS, *NEXTN),
    # The shared expert is there when expert_shared_count says so.
    alternatives=(QKV, GATE_UP_EXPS, Alternative((names_of(SHARED_EXPERT),), optional=True)),
    arrays=moe_arrays("src/models/cohere2moe.cpp:16 @ b11434"),
    # Written from config.json's layer_types whether there is a head or not, and read without a length check:
    # the head attends fully. src/models/cohere2moe.cpp:28; conversion/command_r.py:103 @ b11434.
    trunk_arrays=("attention.sliding_window_pattern",),
    hf_architectures=("Cohere2MoeForCausalLM",),
    remarks=(
        "no ffn_norm",
        "convert_hf_to_gguf.py refuses --mtp and --no-nextn: the head is converted with the model",
    ),
    source="src/models/cohere2moe.cpp:102-134 (tensors), 291-440 (graph); conversion/command_r.py:65-137 @ b11434",
)

SPECS = (COHERE2MOE,)
