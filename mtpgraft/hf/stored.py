"""Leaves of recipes: how a stored tensor's values are read, FP8 scales included, or why they cannot be."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mtpgraft.container.checkpoint import Checkpoint
from mtpgraft.container.safetensors import StoredTensor
from mtpgraft.errors import InvalidFileError, RefusedError
from mtpgraft.hf.config import HfConfig
from mtpgraft.jsontext import Json
from mtpgraft.recipe import READABLE_DTYPES, Rows, Scaled, Stored

ScaledReader = Callable[[HfConfig, StoredTensor, StoredTensor], Rows | None]
"""Reads a weight with its scales where an architecture stores them in a way of its own; None: not this one."""

_FP8 = ("F8_E4M3", "F8_E5M2")

_PACKED = (".qweight", ".qzeros", ".g_idx", ".weight_packed", ".weight_scale_2", ".weight_global_scale", "_blocks")
"""Endings that only packed weights have: GPTQ and AWQ (`qweight`), compressed-tensors (`weight_packed`), NVFP4
(`weight_scale_2`, `weight_global_scale`), MXFP4 (`_blocks`)."""

_SCALES = ("_scale_inv", "_scale")
# Scales of activations and caches, which weights do not need: dequant_model, conversion/base.py @ b11434.
_UNUSED = (".activation_scale", "_activation_scale", ".input_scale", ".k_scale", ".v_scale", ".weight_shape")


def is_auxiliary(name: str, checkpoint: Checkpoint) -> bool:
    """Whether this tensor only serves another one: it is a scale of a weight that is there, or of activations."""
    if name.endswith(_UNUSED):
        return True
    return any(name.endswith(s) and name.removesuffix(s) in checkpoint for s in _SCALES)


def rows_of(checkpoint: Checkpoint, config: HfConfig, tensor: StoredTensor, reader: ScaledReader | None = None) -> Rows:
    """A tensor's values as rows of its last dimension.

    Raises RefusedError for packed and other types that cannot be converted, InvalidFileError when a scale does not fit.
    """
    _refuse_packed(config, tensor)
    plain = _plain(tensor)
    if tensor.dtype not in _FP8:
        return plain
    scale_name = next((tensor.name + s for s in _SCALES if tensor.name + s in checkpoint), None)
    if scale_name is None:
        raise RefusedError(
            f"is stored as {tensor.dtype} without its scale",
            file=config.file,
            where=f"tensor {tensor.name}",
            expected=f"{tensor.name}{_SCALES[0]}",
            hint="use the original repository, which has the weights in BF16",
        )
    scale = checkpoint.tensor(scale_name)
    special = None if reader is None else reader(config, tensor, scale)
    return _scaled(config, tensor, plain, scale) if special is None else special


def _plain(tensor: StoredTensor) -> Stored:
    row = tensor.shape[-1] if tensor.shape else 1
    n_rows = tensor.n_elements // row if row else 0
    return Stored(tensor.source, tensor.name, tensor.offset, tensor.dtype, n_rows, row)


def _refuse_packed(config: HfConfig, tensor: StoredTensor) -> None:
    method = config.table("quantization_config").get("quant_method")
    if tensor.name.endswith(_PACKED) or tensor.dtype not in READABLE_DTYPES:
        kind = f"packed integers of {method}" if isinstance(method, str) else f"{tensor.dtype} data"
        raise RefusedError(
            f"its head is quantized: {kind} cannot be converted",
            file=config.file,
            where=f"tensor {tensor.name}",
            expected=", ".join(READABLE_DTYPES),
            found=tensor.dtype,
            hint="use the original repository, which has the weights in BF16 or FP8",
        )
    if tensor.n_elements == 0:
        raise InvalidFileError("its head has an empty tensor", file=config.file, where=f"tensor {tensor.name}")


def _scaled(config: HfConfig, tensor: StoredTensor, plain: Stored, scale: StoredTensor) -> Rows:
    """weight.float() * scale.float(), block scales repeated to the weight's shape.

    dequant_simple, conversion/base.py:375 @ b11434. Without a block size there is one scale, or one per output row.
    """
    if scale.dtype not in READABLE_DTYPES:
        raise RefusedError(
            f"its scale is stored as {scale.dtype}", file=config.file, where=f"tensor {scale.name}",
            hint="use the original repository, which has the weights in BF16",
        )  # fmt: skip
    rows, block_row = plain.n_rows, 0
    matrix_rows = tensor.shape[-2] if len(tensor.shape) > 1 else 1
    blocks = _block_size(config)
    if scale.n_elements == 1:
        block_rows, matrix_rows, expected = rows, rows, scale.shape
    elif blocks is not None and len(tensor.shape) > 1:
        block_rows, block_row = blocks
        expected = (*tensor.shape[:-2], -(-tensor.shape[-2] // block_rows), -(-tensor.shape[-1] // block_row))
    else:  # one scale per output row
        block_rows = 1
        expected = tensor.shape[:-1] if len(scale.shape) < len(tensor.shape) else (*tensor.shape[:-1], 1)
    if scale.shape != expected:
        raise InvalidFileError(
            "its scales do not fit the weight",
            file=config.file,
            where=f"tensor {scale.name}",
            expected=f"shape {list(expected)}",
            found=f"shape {list(scale.shape)}",
        )
    row = scale.shape[-1] if block_row else 1
    scales = Stored(scale.source, scale.name, scale.offset, scale.dtype, scale.n_elements // row, row)
    return Scaled(plain, scales, matrix_rows, block_rows, block_row)


def _block_size(config: HfConfig) -> tuple[int, int] | None:
    """(rows, columns) that share one scale: of FP8 (`weight_block_size`) or compressed-tensors (`block_structure`)."""
    quantization = config.table("quantization_config")
    size: Json = quantization.get("weight_block_size")
    groups = quantization.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights: Mapping[str, Json] = group.get("weights") if isinstance(group, dict) else None  # type: ignore[assignment]
        if size is None and isinstance(weights, dict):
            size = weights.get("block_structure")
    if size is None:
        return None
    if isinstance(size, list) and len(size) == 2:
        rows, columns = size
        if isinstance(rows, int) and isinstance(columns, int) and rows > 0 and columns > 0:
            return rows, columns
    raise InvalidFileError(
        "is not a block size", file=config.file, where="key quantization_config.weight_block_size", found=str(size)[:80]
    )
