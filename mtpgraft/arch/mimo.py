"""MiMo-V2: three heads with sliding-window attention and a dense feed-forward part."""

from __future__ import annotations

from mtpgraft.arch.common import (
    DENSE_FFN,
    DOWN_EXPS,
    EXP_PROBS_B_OPTIONAL,
    NEXTN_CORE,
    NEXTN_EMBED_TOKENS,
    NEXTN_SHARED_HEAD_HEAD,
    OPTIONAL,
    ROUTER,
    SEEN_IN_10434,
    SPLIT_EXPS,
    moe_arrays,
    norm,
    weights,
)
from mtpgraft.arch.spec import ArchSpec, ArrayRule, BuildNote, GraphSupport, HeadTensor, LoadPolicy

MIMO2 = ArchSpec(
    name="mimo2",
    title="MiMo-V2-Flash, MiMo-V2.5",
    policy=LoadPolicy.TRUNK_PROBE,
    graph=GraphSupport.CHAIN,
    tensors=(
        # The loader takes split q/k/v too, and a MoE; the graph asserts the fused and the dense ones.
        *weights("attn_qkv", "attn_output"),
        *(HeadTensor(f"{name}.bias", OPTIONAL) for name in ("attn_qkv", "attn_q", "attn_k", "attn_v")),
        norm("attn_norm"),
        *weights("attn_sinks", need=OPTIONAL),
        norm("ffn_norm"),
        *DENSE_FFN,
        *(HeadTensor(tensor.name, OPTIONAL, tensor.shape) for tensor in (*ROUTER, *SPLIT_EXPS, *DOWN_EXPS)),
        EXP_PROBS_B_OPTIONAL,
        *NEXTN_CORE,
        NEXTN_EMBED_TOKENS,
        NEXTN_SHARED_HEAD_HEAD,
        norm("nextn.shared_head_norm", OPTIONAL, "layer_output_norm.weight"),
        norm("layer_output_norm", OPTIONAL, "output_norm.weight"),
    ),
    arrays=(
        # Heads slide: the converter writes the sliding layers' head_count_kv (conversion/mimo.py:155-157).
        *moe_arrays("src/models/mimo2.cpp:8 @ b11434"),
        ArrayRule(
            "attention.sliding_window_pattern",
            default=True,
            checked=False,
            source="src/models/mimo2.cpp:12; conversion/mimo.py:155, 160 @ b11434",
        ),
    ),
    sidecar_roots=("token_embd.weight", "output_norm.weight", "output.weight"),
    sidecar_optional_roots=(),
    hf_architectures=("MiMoV2FlashForCausalLM", "MiMoV2ForCausalLM"),
    notes=(
        BuildNote(10434, "sidecars do not load: the trunk's tensors are required", SEEN_IN_10434),
        BuildNote(11434, "sidecars load", "src/models/mimo2.cpp:28-32 @ b11434"),
    ),
    remarks=(
        "config.json does not count the heads: the converter assumes three",
        "no fallback for a missing output.weight: sidecars need it",
    ),
    source="src/models/mimo2.cpp:46-82 (tensors), 272-407 (graph); conversion/mimo.py:16-298 @ b11434",
)

SPECS = (MIMO2,)
