"""EXAONE 4 and K-EXAONE: the head is kept in the file, and no graph runs it."""

from __future__ import annotations

from mtpgraft.arch.common import (
    DENSE_FFN,
    NEXTN,
    NEXTN_CORE,
    NEXTN_SHARED_HEAD_NORM,
    QKV,
    QKV_BIASES,
    generic_arrays,
    moe_arrays,
    norm,
    weights,
)
from mtpgraft.arch.spec import ArchSpec, GraphSupport, LoadPolicy

_ATTENTION = (*QKV_BIASES, *weights("attn_output", "attn_q_norm", "attn_k_norm"))

# Written from config.json's layer_types, for the trunk, and read without a length check.
_TRUNK_ARRAYS = ("attention.sliding_window_pattern",)

EXAONE4 = ArchSpec(
    name="exaone4",
    title="EXAONE 4.5",
    policy=LoadPolicy.REQUIRED,
    graph=GraphSupport.NONE,
    tensors=(
        *_ATTENTION,
        norm("post_attention_norm"),
        *DENSE_FFN,
        norm("post_ffw_norm"),
        *NEXTN_CORE,
        NEXTN_SHARED_HEAD_NORM,
    ),
    alternatives=(QKV,),
    arrays=generic_arrays(),
    trunk_arrays=_TRUNK_ARRAYS,
    sidecar=False,
    hf_architectures=("Exaone4_5_ForConditionalGeneration",),
    remarks=("takes no embed_tokens or shared_head_head of its own",),
    source="src/models/exaone4.cpp:39-71; no graph: 73-79; conversion/exaone.py:83-96, 219-267 @ b11434",
)

EXAONE_MOE = ArchSpec(
    name="exaone-moe",
    title="K-EXAONE",
    policy=LoadPolicy.REQUIRED,
    graph=GraphSupport.NONE,
    tensors=(*_ATTENTION, norm("attn_norm"), norm("ffn_norm"), *DENSE_FFN, *NEXTN),
    alternatives=(QKV,),
    arrays=moe_arrays("src/models/exaone-moe.cpp:14 @ b11434"),
    trunk_arrays=_TRUNK_ARRAYS,
    sidecar=False,
    hf_architectures=("ExaoneMoEForCausalLM", "ExaoneMoeForCausalLM"),
    remarks=("the head's feed-forward part is dense; fusion and norms are copied into every head block",),
    source="src/models/exaone-moe.cpp:49-102; no graph: 104-106; conversion/exaone.py:130-181 @ b11434",
)

SPECS = (EXAONE4, EXAONE_MOE)
