"""Where llama.cpp puts each weight: host memory or a device, and how many bytes it takes there."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from mtpgraft.container import GGUFModel, Tensor
from mtpgraft.head import block_index
from mtpgraft.vram.caches import padded
from mtpgraft.vram.rows import memory_row

HOST = -1
"""The place of what stays in host memory; devices count from 0."""

_INPUT = ("token_embd.", "token_types.", "position_embd.", "token_embd_norm.", "per_layer_token_embd.")
"""Root tensors that are read by token: never offloaded, "there is very little benefit"
(src/llama-model.cpp:1618, LLM_TENSOR_LAYER_INPUT in src/llama-arch.cpp @ b11434)."""
_PER_DEVICE = ("rope_freqs.", "rope_factors_")
"""Root tensors that each layer refers to: once on every device."""
_EXPERTS = ("ffn_up_exps", "ffn_down_exps", "ffn_gate_exps", "ffn_gate_up_exps", "ffn_up_chexps", "ffn_down_chexps")
"""What `--n-cpu-moe` keeps on the host: LLM_FFN_EXPS_REGEX, common/common.h @ b11434."""


@dataclass(frozen=True, slots=True)
class Placement:
    """How the layers are laid out.

    n_gpu_layers: `-ngl`; counted from the end, the output being the last. None: all.
    splits: parts of the layers per device (`-ts`), in llama.cpp's order of devices. Empty: no device at all.
    n_cpu_moe: expert tensors of the first so many layers stay on the host.
    """

    splits: tuple[float, ...] = (1.0,)
    n_gpu_layers: int | None = None
    n_cpu_moe: int = 0

    def device_of(self, layer: int, n_layers: int) -> int:
        """Where a layer lies; the output counts as layer `n_layers`. src/llama-model.cpp:1603-1625 @ b11434."""
        n_gpu = n_layers + 1 if self.n_gpu_layers is None else self.n_gpu_layers
        start = max(n_layers + 1 - n_gpu, 0)
        n_on_gpu = min(n_gpu, n_layers + 1)
        if not self.splits or layer < start or layer - start >= n_on_gpu:
            return HOST
        total = sum(self.splits)
        ends = [sum(self.splits[: i + 1]) / total for i in range(len(self.splits))]
        return min(bisect_right(ends, (layer - start) / n_on_gpu), len(self.splits) - 1)


@dataclass(frozen=True, slots=True)
class Allocator:
    """How a kind of memory rounds each tensor up.

    alignment: in bytes. row_padding: the last row of a quantized tensor is padded to so many elements.
    """

    alignment: int
    row_padding: int = 1


CPU = Allocator(32)
"""TENSOR_ALIGNMENT, ggml/src/ggml-impl.h @ b11434; ggml-rpc serves its device's own."""
CUDA = Allocator(128, 512)
"""ggml_backend_cuda_buffer_type_get_alignment and _get_alloc_size, MATRIX_ROW_PADDING @ b11434."""


@dataclass(frozen=True, slots=True)
class PlacedWeight:
    """One tensor in one place. is_head: it belongs to an MTP block. n_bytes: as allocated."""

    name: str
    layer: int | None
    is_head: bool
    place: int
    n_bytes: int


def place_weights(
    model: GGUFModel, placement: Placement, *, drafting: bool, device: Allocator = CUDA, host: Allocator = CPU
) -> tuple[PlacedWeight, ...]:
    """Every tensor that llama.cpp loads, in its place. A tied output is a second copy where the output lies.

    drafting: the start has `--spec-type draft-mtp`; without it the head's tensors are left in the file.
    """
    n_all = model.count("block_count") or 0
    n_trunk = n_all - min(n_all, model.count("nextn_predict_layers") or 0)
    placed: list[PlacedWeight] = []

    def put(tensor: Tensor, place: int, layer: int | None = None) -> None:
        allocator = host if place == HOST else device
        is_head = layer is not None and layer >= n_trunk
        placed.append(PlacedWeight(tensor.name, layer, is_head, place, _allocated(tensor, allocator)))

    places = [placement.device_of(i, n_all) for i in range(n_all + 1)]
    output_place = places[-1]
    for tensor in model.tensors:
        layer = block_index(tensor.name)
        if layer is not None:
            if layer < n_trunk or _loads_head_tensor(model.architecture, tensor.name, drafting):
                held_back = layer < placement.n_cpu_moe and is_expert(tensor.name)
                put(tensor, HOST if held_back else places[min(layer, n_all)], layer)
        elif tensor.name.startswith(_INPUT):
            put(tensor, HOST)
        elif tensor.name.startswith(_PER_DEVICE):
            for place in sorted(set(places[:-1])):
                put(tensor, place)
        else:
            put(tensor, output_place)
    embedding = model.tensor_by_name.get("token_embd.weight")
    if "output.weight" not in model.tensor_by_name and embedding is not None and output_place != HOST:
        put(embedding, output_place)
    return tuple(placed)


def is_expert(name: str) -> bool:
    """Whether `--n-cpu-moe` moves this tensor."""
    return name.split(".", 2)[-1].startswith(_EXPERTS)


def _loads_head_tensor(architecture: str, name: str, drafting: bool) -> bool:
    row = memory_row(architecture)
    if row is None:
        return drafting
    if row.never_loaded:
        return False
    return drafting or name.split(".", 2)[2].startswith(row.loaded_anyway or ("\0",))


def _allocated(tensor: Tensor, allocator: Allocator) -> int:
    n = tensor.n_bytes
    row = tensor.shape[0] if tensor.shape else 1
    kind = tensor.type
    if kind.block > 1 and row % allocator.row_padding:
        n += (allocator.row_padding - row % allocator.row_padding) // kind.block * kind.block_nbytes
    return padded(n, allocator.alignment)


def in_place(weights: Sequence[PlacedWeight], place: int, *, heads: bool | None = None) -> int:
    """Bytes in one place; of the heads alone, of all else alone, or of both."""
    return sum(w.n_bytes for w in weights if w.place == place and heads in (None, w.is_head))
