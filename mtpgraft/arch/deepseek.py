"""DeepSeek's architectures, and GLM-4.7-Flash, which borrows the name of one."""

from __future__ import annotations

from mtpgraft.arch.common import (
    DOWN_EXPS,
    EXP_PROBS_B,
    EXP_PROBS_B_OPTIONAL,
    GATE_UP_EXPS,
    MLA,
    NEXTN,
    OPTIONAL,
    ROUTER,
    SHARED_EXPERT,
    SPLIT_EXPS,
    indexer,
    moe_arrays,
    norm,
    weights,
)
from mtpgraft.arch.spec import ArchSpec, ArrayRule, GraphSupport, HeadTensor, LoadPolicy, Need

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
        *DOWN_EXPS,
        *SHARED_EXPERT,
        *NEXTN,
    ),
    alternatives=(GATE_UP_EXPS,),
    arrays=moe_arrays("src/models/deepseek2.cpp:18 @ b11434"),
    hf_architectures=("Glm4MoeLiteForCausalLM",),
    remarks=(
        "DeepSeek-V2, V3 and R1, Kimi-K2 and others convert to it without their head: the converter skips it",
        "a model without q_lora_rank (the lite ones) or with attention temperature scaling cannot run a head",
    ),
    source="src/models/deepseek2.cpp:95-160 (tensors), 170-416 (graph); conversion/deepseek.py:240, 398, "
    "conversion/glm.py:247-314 @ b11434",
)

DEEPSEEK32 = ArchSpec(
    name="deepseek32",
    title="DeepSeek-V3.2",
    policy=LoadPolicy.TRUNK_PROBE,
    graph=GraphSupport.SINGLE,
    tensors=(
        norm("attn_norm"),
        *MLA,
        norm("ffn_norm"),
        *indexer(Need.UNUSED),
        *ROUTER,
        EXP_PROBS_B_OPTIONAL,
        *SPLIT_EXPS,
        *DOWN_EXPS,
        *SHARED_EXPERT,
        *NEXTN,
    ),
    arrays=moe_arrays("src/models/deepseek32.cpp:7 @ b11434"),
    hf_architectures=("DeepseekV32ForCausalLM",),
    remarks=("the head attends densely: its indexer tensors must be there and are not read",),
    source="src/models/deepseek32.cpp:88-153 (tensors), 495-727 (graph); conversion/deepseek.py:464-522 @ b11434",
)

# There where the block's compress ratio is not 0; released heads have 0.
_COMPRESSOR = weights(
    *("attn_compressor_kv", "attn_compressor_gate", "attn_compressor_ape", "attn_compressor_norm"),
    *("indexer.proj", "indexer.attn_q_b"),
    *(
        "indexer_compressor_kv",
        "indexer_compressor_gate",
        "indexer_compressor_ape",
        "indexer_compressor_norm",
    ),
    need=OPTIONAL,
)

DEEPSEEK4 = ArchSpec(
    name="deepseek4",
    title="DeepSeek-V4",
    policy=LoadPolicy.RESET,
    graph=GraphSupport.SINGLE,
    tensors=(
        norm("attn_norm"),
        *weights("attn_sinks", "attn_q_a", "attn_q_a_norm", "attn_q_b", "attn_kv", "attn_kv_a_norm"),
        *weights("attn_output_a", "attn_output_b"),
        *weights("hc_attn_fn", "hc_attn_base", "hc_attn_scale", "hc_ffn_fn", "hc_ffn_base", "hc_ffn_scale"),
        *_COMPRESSOR,
        *ROUTER,
        EXP_PROBS_B,
        HeadTensor("exp_probs_b_vl.bias", OPTIONAL, ("n_expert",)),
        norm("ffn_norm"),
        *SPLIT_EXPS,
        *DOWN_EXPS,
        *SHARED_EXPERT,
        *NEXTN,
    ),
    arrays=(
        *moe_arrays("src/models/deepseek4.cpp:32 @ b11434"),
        ArrayRule("swiglu_clamp_exp", source="src/models/deepseek4.cpp:36 @ b11434"),
        ArrayRule("swiglu_clamp_shexp", source="src/models/deepseek4.cpp:37 @ b11434"),
        # Longer than block_count is fine, shorter is refused.
        ArrayRule("attention.compress_ratios", source="src/models/deepseek4.cpp:56-61 @ b11434"),
    ),
    sidecar_roots=(
        *("token_embd.weight", "output_norm.weight", "output.weight"),
        *("output_hc_fn.weight", "output_hc_base.weight", "output_hc_scale.weight"),
    ),
    sidecar_optional_roots=(),
    refuse_graft="the head's own output_hc_fn, output_hc_base and output_hc_scale have the trunk's names: "
    "one file cannot hold both, and llama.cpp takes DeepSeek-V4's head as a sidecar only (-md)",
    hf_architectures=("DeepseekV4ForCausalLM",),
    remarks=("the converter writes the head with --mtp only, never into the model's own file",),
    source="src/models/deepseek4.cpp:20-26 (reset), 104-182 (tensors), 1363-1503 (graph); "
    "conversion/deepseek.py:525-925 @ b11434",
)

SPECS = (DEEPSEEK2, DEEPSEEK32, DEEPSEEK4)
