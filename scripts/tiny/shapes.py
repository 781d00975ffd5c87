"""Tensor tables of the parts that several architectures share, in Hugging Face's names and dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tiny.checkpoint import Json, TensorSpec, bias, f32_bias, norm, weight
from tiny.tokenizer import N_VOCAB

# Rows must be multiples of 32 elements, or Q8_0 falls back to F16 (ggml's QK8_0 block).
D = 32
HEAD_DIM = 16
N_HEAD = 2
N_HEAD_KV = 1
N_FF = 32
N_FF_EXP = 32
N_EXPERT = 2
N_EXPERT_USED = 1
N_CTX = 256

Table = Iterator[TensorSpec]


@dataclass(frozen=True, slots=True)
class TinyModel:
    """What a checkpoint folder is written from.

    `arch` is GGUF's general.architecture; `name` the folder's name (equal to it but for variants);
    `upstream` the repository whose layout is copied; `pre` what the converter would call the upstream
    tokenizer. `head_prefixes` are the beginnings of the head's tensor names, `headless_config` what must
    change in the config to make a checkpoint without the head, for the architectures whose converter knows no
    --no-mtp. `has_graph` says that llama.cpp can draft with the head, `sidecar_only`
    that it never lies in the model's own file. `vocab_files` and `raw_config` are
    workarounds for transformers 5.23: see tokenizer.write_tokenizer and convert_raw.py.
    """

    arch: str
    upstream: str
    pre: str
    specials: tuple[str, ...]
    eos: str
    config: dict[str, Json]
    tensors: tuple[TensorSpec, ...]
    head_prefixes: tuple[str, ...]
    n_head_blocks: int = 1
    bos: str | None = None
    n_shards: int = 1
    vocab_files: bool = False
    raw_config: bool = False
    sidecar_only: bool = False
    has_graph: bool = True
    headless_config: dict[str, Json] | None = None
    variant: str = ""
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.arch}-{self.variant}" if self.variant else self.arch


def vocabulary(prefix: str = "model.", tied: bool = False, norm_centre: float = 1.0, norm_name: str = "norm") -> Table:
    """Embedding, final norm and, unless `tied`, lm_head."""
    yield weight(f"{prefix}embed_tokens.weight", N_VOCAB, D)
    yield norm(f"{prefix}{norm_name}.weight", D, norm_centre)
    if not tied:
        yield weight("lm_head.weight", N_VOCAB, D)


def gqa(
    prefix: str,
    *,
    n_head: int = N_HEAD,
    n_head_kv: int = N_HEAD_KV,
    head_dim: int = HEAD_DIM,
    head_dim_v: int | None = None,
    gated: bool = False,
    biased: bool = False,
    qk_norm: bool = False,
    norm_centre: float = 1.0,
) -> Table:
    """Grouped-query attention; `gated` doubles q_proj (Qwen3-Next), `biased` puts biases on q, k and v."""
    v_dim = head_dim_v or head_dim
    n_q = n_head * head_dim * (2 if gated else 1)
    for name, n in (("q", n_q), ("k", n_head_kv * head_dim), ("v", n_head_kv * v_dim)):
        yield weight(f"{prefix}{name}_proj.weight", n, D)
        if biased:
            yield bias(f"{prefix}{name}_proj.bias", n)
    yield weight(f"{prefix}o_proj.weight", D, n_head * v_dim)
    if qk_norm:
        yield norm(f"{prefix}q_norm.weight", head_dim, norm_centre)
        yield norm(f"{prefix}k_norm.weight", head_dim, norm_centre)


def dense_ffn(prefix: str, n_ff: int = N_FF) -> Table:
    yield weight(f"{prefix}gate_proj.weight", n_ff, D)
    yield weight(f"{prefix}up_proj.weight", n_ff, D)
    yield weight(f"{prefix}down_proj.weight", D, n_ff)


def experts(prefix: str, n_expert: int = N_EXPERT, n_ff: int = N_FF_EXP) -> Table:
    """Experts one by one: `<prefix>experts.<i>.{gate,up,down}_proj.weight`."""
    for i in range(n_expert):
        yield from dense_ffn(f"{prefix}experts.{i}.", n_ff)


def fused_experts(prefix: str, n_expert: int = N_EXPERT, n_ff: int = N_FF_EXP) -> Table:
    """Experts as two 3-D parameters without `.weight`, gate above up (transformers 5's layout)."""
    yield weight(f"{prefix}experts.gate_up_proj", n_expert, 2 * n_ff, D)
    yield weight(f"{prefix}experts.down_proj", n_expert, D, n_ff)


def deepseek_moe(prefix: str, n_shared: int = 1) -> Table:
    """Router with correction bias, routed and shared experts, as DeepSeek-V3 and GLM-4.5 name them."""
    yield weight(f"{prefix}gate.weight", N_EXPERT, D)
    yield f32_bias(f"{prefix}gate.e_score_correction_bias", N_EXPERT)
    yield from experts(prefix)
    if n_shared:
        yield from dense_ffn(f"{prefix}shared_experts.", n_shared * N_FF_EXP)


def nextn(prefix: str, *, embed_tokens: bool = True, shared_head: bool = True) -> Table:
    """The NextN parts of an appended layer, optionally with its own vocabulary matrices."""
    yield weight(f"{prefix}eh_proj.weight", D, 2 * D)
    yield norm(f"{prefix}enorm.weight", D)
    yield norm(f"{prefix}hnorm.weight", D)
    if embed_tokens:
        yield weight(f"{prefix}embed_tokens.weight", N_VOCAB, D)
    if shared_head:
        yield weight(f"{prefix}shared_head.head.weight", N_VOCAB, D)
    yield norm(f"{prefix}shared_head.norm.weight", D)
