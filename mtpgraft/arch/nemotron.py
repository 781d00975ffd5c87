"""Nemotron-H: a Mamba-2 hybrid whose head is one block of attention and MoE, with LayerNorm at its end."""

from __future__ import annotations

from dataclasses import replace

from mtpgraft.arch.common import (
    EXP_PROBS_B,
    NEXTN_CORE,
    NOW_PROBED,
    OPTIONAL,
    QKV,
    QKV_BIASES,
    ROUTER,
    SEEN_IN_10434,
    moe_arrays,
    norm,
    required_since,
    weights,
)
from mtpgraft.arch.spec import ArchSpec, GraphSupport, HeadTensor, LoadPolicy

NEMOTRON_H_MOE = ArchSpec(
    name="nemotron_h_moe",
    title="Nemotron 3 Nano and Super",
    policy=LoadPolicy.TRUNK_PROBE,
    graph=GraphSupport.SINGLE,
    tensors=(
        *NEXTN_CORE,
        norm("nextn.shared_head_norm"),
        norm("attn_norm"),
        *QKV_BIASES,
        *weights("attn_output"),
        HeadTensor("attn_output.bias", OPTIONAL, ("D",)),
        norm("post_attention_norm"),
        *ROUTER,
        EXP_PROBS_B,
        # With moe_latent_size.
        *weights("ffn_latent_down", "ffn_latent_up", need=OPTIONAL),
        # No gate: the activation is a squared ReLU.
        *weights("ffn_down_exps", "ffn_up_exps", "ffn_down_shexp", "ffn_up_shexp"),
    ),
    alternatives=(QKV,),
    # head_count_kv and feed_forward_length are 0 where a trunk block has no such part; the head has both.
    arrays=moe_arrays("src/models/nemotron-h.cpp:24 @ b11434"),
    hf_architectures=("NemotronHForCausalLM",),
    notes=(required_since(10434, SEEN_IN_10434), NOW_PROBED),
    remarks=(
        "the head norm is a LayerNorm of its own, without a fallback",
        "takes no embed_tokens or shared_head_head of its own",
        "Nemotron 3 Puzzle (NemotronHPuzzleForCausalLM) converts without its head",
    ),
    source="src/models/nemotron-h.cpp:144-181 (tensors); src/models/nemotron-h-moe.cpp:11-165 (graph); "
    "conversion/nemotron.py:198-365, 514-552 @ b11434",
)

NEMOTRON_H = replace(
    NEMOTRON_H_MOE,
    name="nemotron_h",
    title="Nemotron-H",
    graph=GraphSupport.NONE,
    sidecar=False,
    hf_architectures=(),
    remarks=("the loader takes the head of nemotron_h_moe; no graph runs it and no converter writes it",),
    source="src/models/nemotron-h.cpp:144-181; no graph: 184-186 @ b11434",
)

SPECS = (NEMOTRON_H_MOE, NEMOTRON_H)
