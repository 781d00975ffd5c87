"""GLM: 4.5 and its successors, GLM-OCR, GLM-5.x, GLM-5.3-Flash. (GLM-4.7-Flash is in deepseek.py.)"""

from __future__ import annotations

from mtpgraft.arch.common import (
    DOWN_EXPS,
    EXP_PROBS_B,
    EXP_PROBS_B_OPTIONAL,
    MLA,
    NEXTN,
    NOW_PROBED,
    OPTIONAL,
    QKV,
    QKV_BIASES,
    ROUTER,
    SEEN_IN_10434,
    SHARED_EXPERT,
    SPLIT_EXPS,
    generic_arrays,
    indexer,
    moe_arrays,
    norm,
    weights,
)
from mtpgraft.arch.spec import ArchSpec, ArrayRule, BuildNote, GraphSupport, LoadPolicy, Need

GLM4MOE = ArchSpec(
    name="glm4moe",
    title="GLM-4.5, GLM-4.5-Air, GLM-4.5V, GLM-4.6, GLM-4.7",
    policy=LoadPolicy.TRUNK_PROBE,
    graph=GraphSupport.SINGLE,
    tensors=(
        norm("attn_norm"),
        norm("post_attention_norm"),
        *weights("attn_output"),
        *weights("attn_q_norm", "attn_k_norm", need=OPTIONAL),
        *QKV_BIASES,
        *ROUTER,
        EXP_PROBS_B,
        *SPLIT_EXPS,
        *DOWN_EXPS,
        *SHARED_EXPERT,
        *NEXTN,
    ),
    alternatives=(QKV,),
    arrays=moe_arrays("src/models/glm4-moe.cpp:4 @ b11434"),
    hf_architectures=("Glm4MoeForCausalLM", "Glm4vMoeForConditionalGeneration"),
    notes=(
        BuildNote(
            10434,
            "a declared head must be there, and no graph runs it: draft-mtp aborts",
            SEEN_IN_10434,
            LoadPolicy.REQUIRED,
            GraphSupport.NONE,
        ),
        BuildNote(
            11434,
            "the head runs, and sidecars load",
            "src/models/glm4-moe.cpp:32-39, 132 @ b11434; ggml-org/llama.cpp#26534",
            LoadPolicy.TRUNK_PROBE,
            GraphSupport.SINGLE,
        ),
    ),
    remarks=("Solar Open has this architecture too, without a head",),
    source="src/models/glm4-moe.cpp:55-122 (tensors), 132-289 (graph); conversion/glm.py:111-196 @ b11434",
)

GLM4 = ArchSpec(
    name="glm4",
    title="GLM-OCR",
    policy=LoadPolicy.REQUIRED,
    graph=GraphSupport.NONE,
    tensors=(
        norm("attn_norm"),
        *QKV_BIASES,
        *weights("attn_output"),
        norm("post_attention_norm"),
        norm("ffn_norm"),
        *weights("ffn_up", "ffn_down"),
        norm("post_ffw_norm"),
        *NEXTN,
    ),
    alternatives=(QKV,),
    arrays=generic_arrays(),
    sidecar=False,
    hf_architectures=("GlmOcrForConditionalGeneration",),
    remarks=("ffn_up holds gate and up: [D, 2 * feed_forward_length]",),
    source="src/models/glm4.cpp:28-60 @ b11434; no graph: 64-66",
)

GLM_DSA = ArchSpec(
    name="glm-dsa",
    title="GLM-5, GLM-5.1, GLM-5.2",
    policy=LoadPolicy.TRUNK_PROBE,
    graph=GraphSupport.SINGLE,
    tensors=(
        norm("attn_norm"),
        *MLA,
        norm("ffn_norm"),
        *indexer(OPTIONAL),
        *ROUTER,
        EXP_PROBS_B_OPTIONAL,
        *SPLIT_EXPS,
        *DOWN_EXPS,
        *SHARED_EXPERT,
        *NEXTN,
    ),
    arrays=moe_arrays("src/models/glm-dsa.cpp:30 @ b11434"),
    # Checked too, against n_layer(): an extended one is refused. src/models/glm-dsa.cpp:66 @ b11434.
    trunk_arrays=("attention.indexer.types",),
    hf_architectures=("GlmMoeDsaForCausalLM",),
    remarks=("the head attends densely: its indexer tensors are loaded and not read",),
    source="src/models/glm-dsa.cpp:119-187 (tensors), 539-770 (graph); conversion/glm.py:316-381 @ b11434",
)

GLM5_NEXT = ArchSpec(
    name="glm5-next",
    title="GLM-5.3-Flash",
    policy=LoadPolicy.TRUNK_PROBE,
    graph=GraphSupport.SINGLE,
    tensors=(
        norm("attn_norm"),
        norm("ffn_norm"),
        *MLA,
        *indexer(Need.REQUIRED),
        *weights("indexer_compressor_gate", "indexer_compressor_ape"),
        *ROUTER,
        EXP_PROBS_B,
        *SPLIT_EXPS,
        *DOWN_EXPS,
        *SHARED_EXPERT,
        *NEXTN,
    ),
    arrays=(
        # 0 would make the head block a linear-attention one (src/models/glm5-next.cpp:22 @ b11434).
        *moe_arrays("src/models/glm5-next.cpp:25 @ b11434", head_count_kv=1),
        ArrayRule("swiglu_clamp_exp", source="src/models/glm5-next.cpp:34 @ b11434"),
        ArrayRule("swiglu_clamp_shexp", source="src/models/glm5-next.cpp:35 @ b11434"),
    ),
    trunk_arrays=("attention.indexer.types",),
    # src/llama-quant.cpp:328-343 @ b11434; with the compressor at Q8_0 the head aborts in a CPU op (seen at b11549).
    never_quantized=(
        *("indexer.attn_q_b", "indexer.attn_k", "indexer_compressor_gate", "indexer_compressor_ape"),
        *("attn_kv_a_mqa.weight", "attn_k_b.weight", "attn_v_b.weight"),
    ),
    sidecar_roots=("token_embd.weight", "output_norm.weight", "output.weight"),
    sidecar_optional_roots=(),
    hf_architectures=("Glm5NextForConditionalGeneration",),
    notes=(
        BuildNote(
            11434,
            "b10434 does not know the architecture; a declared head must be there, draft-mtp throws "
            "`GLM5-Next NextN graph not implemented yet`, and sidecars do not load",
            "src/models/glm5-next.cpp:66-71, 190 @ b11434",
            LoadPolicy.REQUIRED,
            GraphSupport.NONE,
        ),
        NOW_PROBED,
        BuildNote(
            11549,
            "the head runs, and sidecars load",
            "llama_model_glm5_next::graph_mtp and its asserts in b11549's symbols and strings",
            graph=GraphSupport.SINGLE,
        ),
    ),
    remarks=(
        "the head has no hyper-connection tensors",
        "no fallback for a missing output.weight: sidecars need it",
        "llama-quantize keeps attn_q_a, attn_q_b and nextn.eh_proj at Q8_0 or better",
    ),
    source="src/models/glm5-next.cpp:78-185 (tensors); src/llama-quant.cpp:476 @ b11434; graph: b11549 only",
)

SPECS = (GLM4MOE, GLM4, GLM_DSA, GLM5_NEXT)
