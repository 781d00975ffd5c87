"""GLM-4.5 and its relatives."""

from __future__ import annotations

from mtpgraft.arch.common import (
    EXP_PROBS_B,
    GENERIC_ARRAYS,
    NEXTN,
    QKV,
    QKV_BIASES,
    ROUTER,
    SHARED_EXPERT,
    expert_ffn_array,
    norm,
    optional,
    required,
)
from mtpgraft.arch.spec import ArchSpec, BuildNote, GraphSupport, LoadPolicy

GLM4MOE = ArchSpec(
    name="glm4moe",
    title="GLM-4.5, GLM-4.5-Air, GLM-4.6, GLM-4.7",
    policy=LoadPolicy.TRUNK_PROBE,
    graph=GraphSupport.SINGLE,
    tensors=(
        norm("attn_norm"),
        norm("post_attention_norm"),
        *required("attn_output"),
        *optional("attn_q_norm", "attn_k_norm"),
        *QKV_BIASES,
        *ROUTER,
        EXP_PROBS_B,
        *required("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"),
        *SHARED_EXPERT,
        *NEXTN,
    ),
    alternatives=(QKV,),
    arrays=(*GENERIC_ARRAYS, expert_ffn_array("src/models/glm4-moe.cpp:4 @ b11434")),
    hf_architectures=("Glm4MoeForCausalLM", "Glm4vMoeForConditionalGeneration"),
    notes=(BuildNote(10434, "no MTP graph yet: draft-mtp aborts", "observed with llama-server b10434"),),
    source="src/models/glm4-moe.cpp:30-130 @ b11434",
)

SPECS = (GLM4MOE,)
