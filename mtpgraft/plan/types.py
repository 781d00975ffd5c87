"""Which type each head tensor gets."""

from __future__ import annotations

from mtpgraft.arch import ArchSpec
from mtpgraft.container import Tensor, TensorType, tensor_type
from mtpgraft.container.types import BF16, F16, F32, Q8_0
from mtpgraft.head import significant_dims
from mtpgraft.quantize import can_read, parse_type

KEEP = "keep"

_PLAIN = (F32, F16, BF16)
# What llama.cpp's converter always writes as F32, or llama-quantize never touches, by parts of the name:
# conversion/base.py `prepare_tensors` ("F32" conditions) and llama-quant.cpp:287-375 `tensor_allows_quantization`
# @ b11434. What holds for one architecture alone is in its row, `ArchSpec.never_quantized`.
_NEVER_CHANGED = (
    *("_norm.weight", "ffn_gate_inp", "ffn_gate_tid2eid", "ssm_conv1d", "shortconv.conv", "time_mix_"),
    *("indexer.proj", "indexer.k_proj", "indexer.q_proj", "altup", "laurel", "per_layer_model_proj"),
)


def keeps_its_type(local_name: str, shape: tuple[int, ...], spec: ArchSpec | None = None) -> bool:
    """True for tensors whose type is never changed: norms, 1-D tensors, routers, what is no `.weight`, ..."""
    names = (*_NEVER_CHANGED, *(spec.never_quantized if spec else ()))
    small = len(significant_dims(shape)) < 2 or not local_name.endswith(".weight")
    return small or any(name in local_name for name in names)


def choose_type(
    local_name: str, tensor: Tensor, wanted: str, spec: ArchSpec | None = None
) -> tuple[TensorType, str | None]:
    """The type that `tensor` gets under `--type wanted`, and a warning when that is not what was asked for.

    Q8_0 never re-quantizes a lower type: the detail is lost already, and the file would only grow.
    """
    current = tensor.type
    if wanted == KEEP or keeps_its_type(local_name, tensor.shape, spec):
        return current, None
    target = parse_type(wanted)
    if target.id == current.id:
        return current, None
    if tensor.row % target.block:
        return current, (
            f"{tensor.name} stays {current.name}: rows of {tensor.row} do not fill {target.name} blocks of "
            f"{target.block}"
        )
    if not can_read(current.id):
        return current, f"{tensor.name} stays {current.name}, which cannot be converted"
    if target.id not in _PLAIN and current.id not in _PLAIN and _bits(current) <= _bits(target):
        return (
            current,
            f"{tensor.name} stays {current.name}: {target.name} would not bring back what that lost",
        )
    return target, None


def _bits(known: TensorType) -> float:
    return 8 * known.block_nbytes / known.block if known.block else 0.0


def n_bytes_as(shape: tuple[int, ...], target: TensorType) -> int:
    """Bytes of a tensor of this GGUF-order shape in a type of known size."""
    n_bytes = tensor_type(target.id).nbytes(shape)
    assert n_bytes is not None
    return n_bytes


def is_below_q8(tensor: Tensor) -> bool:
    """Whether a matrix is stored in fewer bits than Q8_0."""
    known = tensor.type
    return bool(known.block_nbytes) and known.id not in (*_PLAIN, Q8_0) and _bits(known) < 8.5
