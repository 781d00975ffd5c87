"""Step-3.5 and Step-3.7: several heads, one per draft step."""

from __future__ import annotations

from mtpgraft.arch.common import (
    DENSE_FFN,
    DOWN_EXPS,
    EXP_PROBS_B_OPTIONAL,
    NEXTN,
    OPTIONAL,
    QKV,
    QKV_BIASES,
    ROUTER,
    SHARED_EXPERT,
    SPLIT_EXPS,
    moe_arrays,
    names_of,
    norm,
    weights,
)
from mtpgraft.arch.spec import Alternative, ArchSpec, ArrayRule, GraphSupport, LoadPolicy

STEP35 = ArchSpec(
    name="step35",
    title="Step-3.5, Step-3.7",
    policy=LoadPolicy.TRUNK_PROBE,
    graph=GraphSupport.CHAIN,
    tensors=(
        norm("attn_norm"),
        *weights("attn_q_norm", "attn_k_norm", need=OPTIONAL),
        *QKV_BIASES,
        *weights("attn_output"),
        *weights("attn_gate", need=OPTIONAL),
        norm("ffn_norm"),
        EXP_PROBS_B_OPTIONAL,
        *NEXTN,
    ),
    # The loader takes either, or neither; the graph runs a MoE when there is a router, else a dense FFN.
    alternatives=(
        QKV,
        Alternative((names_of(DENSE_FFN), names_of(ROUTER, SPLIT_EXPS, DOWN_EXPS, SHARED_EXPERT))),
    ),
    arrays=(
        # Head counts and window differ between full and sliding blocks: only the donor knows which its are.
        *moe_arrays("src/models/step35.cpp:12 @ b11434"),
        ArrayRule("attention.sliding_window_pattern", checked=False, source="src/models/step35.cpp:26 @ b11434"),
        ArrayRule("swiglu_clamp_exp", 0.0, source="src/models/step35.cpp:28; conversion/step3.py:216 @ b11434"),
        ArrayRule("swiglu_clamp_shexp", 0.0, source="src/models/step35.cpp:29; conversion/step3.py:223 @ b11434"),
    ),
    # Full-attention blocks rotate with these factors; a sidecar without them drafts with wrong positions.
    sidecar_optional_roots=(
        *("output.weight", "rope_freqs.weight"),
        *("rope_factors_long.weight", "rope_factors_short.weight"),
    ),
    hf_architectures=("Step3p5ForCausalLM", "Step3p7ForConditionalGeneration"),
    remarks=(
        "a sidecar without output.weight needs nextn.shared_head_head in every block: it is never tied",
        "feed-forward and optional head tensors are loaded even when draft-mtp is off",
    ),
    source="src/models/step35.cpp:115-171 (tensors), 368-560 (graph); conversion/step3.py:100-262 @ b11434",
)

SPECS = (STEP35,)
