"""DeepSeek's multi-head latent attention, and the models that borrow its architecture name."""

from __future__ import annotations

from mtpgraft.arch.common import (
    EXP_PROBS_B_OPTIONAL,
    GATE_UP_EXPS,
    GENERIC_ARRAYS,
    MLA,
    NEXTN,
    ROUTER,
    SHARED_EXPERT,
    expert_ffn_array,
    norm,
    required,
)
from mtpgraft.arch.spec import ArchSpec, GraphSupport, LoadPolicy

DEEPSEEK2 = ArchSpec(
    name="deepseek2",
    title="GLM-4.7-Flash",
    policy=LoadPolicy.TRUNK_PROBE,
    graph=GraphSupport.SINGLE,
    tensors=(
        norm("attn_norm"),
        *MLA,
        norm("ffn_norm"),
        *ROUTER,
        EXP_PROBS_B_OPTIONAL,
        *required("ffn_down_exps"),
        *SHARED_EXPERT,
        *NEXTN,
    ),
    alternatives=(GATE_UP_EXPS,),
    arrays=(*GENERIC_ARRAYS, expert_ffn_array("src/models/deepseek2.cpp:20 @ b11434")),
    hf_architectures=("Glm4MoeLiteForCausalLM",),
    source="src/models/deepseek2.cpp @ b11434",
)

SPECS = (DEEPSEEK2,)
