"""Bailing, better known as Ling and Ring."""

from __future__ import annotations

from mtpgraft.arch.common import (
    DOWN_EXPS,
    EXP_PROBS_B,
    EXP_PROBS_B_OPTIONAL,
    MLA_QUERY,
    MLA_REST,
    NEXTN,
    NEXTN_CORE,
    ROUTER,
    SHARED_EXPERT,
    SPLIT_EXPS,
    first_known,
    moe_arrays,
    names_of,
    norm,
    weights,
)
from mtpgraft.arch.spec import Alternative, ArchSpec, ArrayRule, GraphSupport, LoadPolicy

BAILINGMOE3 = ArchSpec(
    name="bailingmoe3",
    title="Ling-3.0",
    policy=LoadPolicy.TRUNK_PROBE,
    graph=GraphSupport.SINGLE,
    tensors=(
        norm("attn_norm"),
        *MLA_REST,
        *weights("attn_gate"),
        norm("ffn_norm"),
        *ROUTER,
        EXP_PROBS_B,
        *SPLIT_EXPS,
        *DOWN_EXPS,
        *SHARED_EXPERT,
        *NEXTN_CORE,
        # The head norm, under this name. src/models/bailingmoe3.cpp:158 @ b11434.
        norm("layer_output_norm"),
    ),
    # The first where attention.q_lora_rank is set.
    alternatives=(Alternative((names_of(MLA_QUERY), ("attn_q.weight",))),),
    arrays=(
        *moe_arrays("src/models/bailingmoe3.cpp:19 @ b11434", head_count_kv=1),
        ArrayRule("swiglu_clamp_exp", 0.0, source="src/models/bailingmoe3.cpp:26 @ b11434"),
        ArrayRule("swiglu_clamp_shexp", 0.0, source="src/models/bailingmoe3.cpp:27 @ b11434"),
    ),
    hf_architectures=("BailingMoeV3ForCausalLM", "BailingMoeV3VLForConditionalGeneration"),
    notes=(first_known(LoadPolicy.TRUNK_PROBE, GraphSupport.SINGLE),),
    remarks=("takes no embed_tokens, shared_head_head or shared_head_norm of its own",),
    source="src/models/bailingmoe3.cpp:130-159 (tensors), 424-563 (graph); conversion/bailingmoe3.py:17-195 @ b11434",
)

BAILINGMOE2 = ArchSpec(
    name="bailingmoe2",
    title="Ling 2.0, Ring 2.0",
    policy=LoadPolicy.REQUIRED,
    graph=GraphSupport.NONE,
    tensors=(
        norm("attn_norm"),
        *weights("attn_qkv", "attn_output", "attn_q_norm", "attn_k_norm"),
        norm("ffn_norm"),
        *ROUTER,
        EXP_PROBS_B_OPTIONAL,
        *SPLIT_EXPS,
        *DOWN_EXPS,
        *SHARED_EXPERT,
        *NEXTN,
        norm("layer_output_norm"),
    ),
    arrays=moe_arrays("src/models/bailingmoe2.cpp:6 @ b11434"),
    sidecar=False,
    hf_architectures=("BailingMoeV2ForCausalLM",),
    remarks=("Sarvam-MoE has this architecture too",),
    source="src/models/bailingmoe2.cpp:36-84; no graph: 86-88; conversion/bailingmoe.py:111-141 @ b11434",
)

SPECS = (BAILINGMOE3, BAILINGMOE2)
