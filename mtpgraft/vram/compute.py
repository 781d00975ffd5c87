"""An estimate of llama.cpp's compute buffers: the one part of the budget that is not exact.

ggml reuses the memory of intermediate results, so a buffer is as large as the busiest moment of one layer. Per token of
a micro-batch (`-ub`) that moment holds some of the widths below, in F32 numbers. How many of each (the factors in
`compute_buffers`) was read off b11434's own reservations for Qwen3.6-27B's and 35B-A3B's dimensions: docs/plan.md has
the table, scripts/check_plan.py repeats it. The attention mask comes on top: one F16 number per cell and token.
"""

from __future__ import annotations

from dataclasses import dataclass

from mtpgraft.container import GGUFModel
from mtpgraft.vram.caches import Serving, padded, window_cells
from mtpgraft.vram.shape import Layer, ModelShape

_F32, _F16 = 4, 2
_HYPER = "hyper_connection.count"


@dataclass(frozen=True, slots=True)
class ComputeBuffers:
    """Bytes of one context's compute buffers. device: on each device that holds a part; host: beside it, in RAM."""

    device: int
    host: int


@dataclass(frozen=True, slots=True)
class Activations:
    """Widths of one layer's intermediate results, from its tensors' shapes. 0: the layer has no such part.

    stream: the residual stream. query: of attention, its gate included. ff: of a dense feed-forward part. experts: what
    all experts of a token give together. conv, inner: of a recurrent layer.
    """

    layer: Layer
    stream: int
    query: int
    ff: int
    experts: int
    conv: int
    inner: int


def activations(model: GGUFModel, shape: ModelShape, *, draft: bool) -> tuple[Activations, ...]:
    """Of the trunk's layers, or of the head's."""
    stream = shape.n_embd * max(1, model.count(_HYPER) or 1)
    return tuple(_activations(model, shape, layer, stream) for layer in shape.layers if layer.is_head == draft)


def compute_buffers(of: tuple[Activations, ...], shape: ModelShape, serving: Serving, *, draft: bool) -> ComputeBuffers:
    """The buffers of the trunk's context, or of the draft context. Cache types matter on CUDA only: see `f16_copy`."""
    layers = [one.layer for one in of]
    n_tokens = min(serving.n_ubatch, serving.n_ctx)
    per_token = _F32 * n_tokens
    n_outputs = min(n_tokens, serving.n_parallel * (1 if draft else 1 + serving.n_draft))
    mask = _mask(shape, layers, serving, n_tokens)
    index_host, index_device = _indexer(shape, layers, serving, n_tokens)
    copied = max((f16_copy(shape, layer, serving, draft=draft) for layer in layers if layer.cached), default=0)
    state = _F32 * (shape.r_width + shape.s_width) * serving.n_parallel
    stream = max((one.stream for one in of), default=shape.n_embd)
    peaks = [n_outputs * (shape.n_vocab + stream) * _F32]
    for one in of:
        # of a draft context's only block the mask is needed no longer when its feed-forward part runs
        feed_forward = max(3 * one.ff + (3 if draft else 4) * stream, 2 * one.experts + 2 * stream)
        peaks.append(feed_forward * per_token + (0 if draft else mask))
        if one.layer.cached:
            peaks.append((2 * one.query + 2 * stream) * per_token + mask + index_device + copied)
        if one.layer.recurrent:
            peaks.append((3 * one.conv + 3 * one.inner + 4 * stream) * per_token + state + mask)
    host = mask + index_host + (2 if draft else 4) * stream * per_token
    return ComputeBuffers(padded(max(peaks), 128), padded(host, 128))


def f16_copy(shape: ModelShape, layer: Layer, serving: Serving, *, draft: bool) -> int:
    """Bytes of the F16 copy that CUDA's flash attention makes of one layer's cache when it is of another type.

    Part of its compute buffer: ggml_cuda_flash_attn_ext_get_alloc_size, ggml-cuda/fattn.cu:723 @ b11434. Read from the
    source, not measured.
    """
    type_k, type_v = serving.cache_type_k, serving.cache_type_v
    if draft:
        type_k, type_v = serving.draft_cache_type_k, serving.draft_cache_type_v
    cells = (window_cells(shape, serving) if layer.windowed else serving.n_cells) * serving.n_streams
    widths = ((layer.k_width, type_k), (layer.v_width, type_v))
    return sum(_F16 * width * cells for width, name in widths if name.lower() != "f16")


def _mask(shape: ModelShape, layers: list[Layer], serving: Serving, n_tokens: int) -> int:
    """Masks of full and of sliding-window attention. With a cache per slot, a slot's tokens see that one alone."""
    cells = 0
    if any(layer.cached and not layer.windowed for layer in layers):
        cells += serving.n_cells
    if any(layer.cached and layer.windowed for layer in layers):
        cells += window_cells(shape, serving)
    return cells * n_tokens * _F16


def _indexer(shape: ModelShape, layers: list[Layer], serving: Serving, n_tokens: int) -> tuple[int, int]:
    """What choosing cells by indexer keys adds (host, device): a mask, scores, and a mask of the chosen.

    Seen at one indexer head and pools of 4 only (the tiny models of tests/test_vram_engine.py).
    """
    if not any(layer.indexer_width for layer in layers):
        return 0, 0
    seen = serving.n_cells * n_tokens
    mask = _F16 * seen // shape.n_pool
    return mask, mask + (_F16 * seen if shape.n_pool > 1 else _F32 * seen)


def _activations(model: GGUFModel, shape: ModelShape, layer: Layer, stream: int) -> Activations:
    def dims(name: str) -> tuple[int, ...]:
        tensor = model.tensor_by_name.get(f"blk.{layer.index}.{name}")
        return tensor.shape if tensor is not None else ()

    def rows(*names: str) -> int:
        return max((dims(name)[1] for name in names if len(dims(name)) > 1), default=0)

    expert = dims("ffn_down_exps.weight")
    conv = dims("ssm_conv1d.weight")
    return Activations(
        layer,
        stream,
        max(rows("attn_q.weight", "attn_q_b.weight"), (dims("attn_output.weight") or (0,))[0]),
        rows("ffn_gate.weight", "ffn_up.weight"),
        shape.n_expert_used * (expert[1] if len(expert) > 1 else 0),
        conv[1] if len(conv) > 1 else 0,
        (dims("ssm_out.weight") or (0,))[0],
    )
