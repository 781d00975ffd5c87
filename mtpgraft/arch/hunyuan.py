"""Hunyuan: Hy3, and Hy4, whose head the converter drops."""

from __future__ import annotations

from mtpgraft.arch.common import (
    DENSE_FFN,
    DOWN_EXPS,
    NEXTN,
    OPTIONAL,
    QKV,
    QKV_BIASES,
    ROUTER,
    SHARED_EXPERT,
    SPLIT_EXPS,
    first_known,
    moe_arrays,
    names_of,
    norm,
    weights,
)
from mtpgraft.arch.spec import Alternative, ArchSpec, ArrayRule, GraphSupport, HeadTensor, LoadPolicy

_FUSED_EXPS = weights("ffn_gate_up_exps")

HY_V3 = ArchSpec(
    name="hy_v3",
    title="Hy3",
    policy=LoadPolicy.TRUNK_PROBE,
    graph=GraphSupport.CHAIN,
    tensors=(
        norm("attn_norm"),
        *QKV_BIASES,
        *weights("attn_output", "attn_q_norm", "attn_k_norm"),
        norm("ffn_norm"),
        # Without a suffix, unlike everywhere else.
        HeadTensor("exp_probs_b", OPTIONAL, ("n_expert",)),
        *NEXTN,
    ),
    # The loader takes any of them, or none; the graph runs a MoE when there is a router, else a dense FFN.
    alternatives=(
        QKV,
        Alternative(
            (
                names_of(DENSE_FFN),
                names_of(ROUTER, SPLIT_EXPS, DOWN_EXPS, SHARED_EXPERT),
                names_of(ROUTER, _FUSED_EXPS, DOWN_EXPS, SHARED_EXPERT),
            )
        ),
    ),
    arrays=moe_arrays("src/models/hy-v3.cpp:5 @ b11434"),
    hf_architectures=("HYV3ForCausalLM",),
    remarks=(
        "exp_probs_b has no suffix at all",
        "feed-forward and optional head tensors are loaded even when draft-mtp is off",
    ),
    source="src/models/hy-v3.cpp:46-96 (tensors), 239-390 (graph); conversion/hunyuan.py:363-428 @ b11434",
)

HY_V4 = ArchSpec(
    name="hy_v4",
    title="Hy4",
    policy=LoadPolicy.UNHANDLED,
    graph=GraphSupport.NONE,
    arrays=(
        *moe_arrays("src/models/hy-v4.cpp:31 @ b11434"),
        ArrayRule("swiglu_clamp_exp", source="src/models/hy-v4.cpp:39 @ b11434"),
    ),
    trunk_arrays=("attention.indexer.types",),
    sidecar=False,
    refuse_graft="llama.cpp's loader knows no head for Hy4: a file with one fails with `wrong number of tensors`",
    notes=(first_known(LoadPolicy.UNHANDLED, GraphSupport.NONE),),
    remarks=("the converter drops the head (model.mtp_layers.*)",),
    source="src/models/hy-v4.cpp:94; conversion/hy_v4.py:58, 170-175 @ b11434",
)

SPECS = (HY_V3, HY_V4)
