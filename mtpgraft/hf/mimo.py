"""MiMo-V2's FP8 qkv_proj, which is stored as the ranks of tensor parallelism held it."""

from __future__ import annotations

from mtpgraft.container.safetensors import StoredTensor
from mtpgraft.errors import InvalidFileError
from mtpgraft.hf.config import HfConfig
from mtpgraft.recipe import Picked, Rows, Scaled, Stacked, Stored

_BLOCK = 128
_RANKS = (8, 4)


def read_ranked_qkv(config: HfConfig, tensor: StoredTensor, scale: StoredTensor) -> Rows | None:
    """qkv_proj's rows in the order [Q; K; V]; None for any other tensor.

    Rows are stored per rank as [Q_r; K_r; V_r], and each rank's scales begin on a block of their own. The number of
    ranks follows from the number of scales. The head's attention is that of sliding-window layers.
    Source: MimoV2Model._tp_aware_qkv_dequant, conversion/mimo.py @ b11434.
    """
    if not tensor.name.endswith(".qkv_proj.weight") or len(tensor.shape) != 2 or len(scale.shape) != 2:
        return None
    n_q, n_kv = config.count("num_attention_heads"), config.count("swa_num_key_value_heads")
    widths = (n_q * config.count("head_dim"), n_kv * config.count("head_dim"), n_kv * config.count("v_head_dim"))
    n_rows, row = tensor.shape
    n_ranks = next((n for n in _RANKS if n_rows % n == 0 and scale.shape[0] == n * -(-(n_rows // n) // _BLOCK)), None)
    fits = n_rows == sum(widths) and scale.shape[1] == -(-row // _BLOCK)
    if n_ranks is None or not fits or any(width % n_ranks for width in widths):
        raise InvalidFileError(
            "its scales do not fit any number of ranks",
            file=config.file,
            where=f"tensor {scale.name}",
            expected=f"scales of {' or '.join(map(str, _RANKS))} ranks of {sum(widths)} rows in all",
            found=f"shape {list(scale.shape)} for {n_rows} rows",
        )
    n_in_rank = n_rows // n_ranks
    ranks = [_rank(tensor, scale, number, n_in_rank) for number in range(n_ranks)]
    parts: list[Rows] = []
    first = 0
    for width in widths:
        order = tuple(range(first, first + width // n_ranks))
        parts += [Picked(rank, n_in_rank, order) for rank in ranks]
        first += width // n_ranks
    return Stacked(tuple(parts))


def _rank(tensor: StoredTensor, scale: StoredTensor, number: int, n_rows: int) -> Rows:
    row, scale_row = tensor.shape[1], scale.shape[1]
    n_scale_rows = -(-n_rows // _BLOCK)
    scale_nbytes = scale.n_bytes // scale.n_elements * n_scale_rows * scale_row
    weights = Stored(tensor.source, tensor.name, tensor.offset + number * n_rows * row, tensor.dtype, n_rows, row)
    scale_offset = scale.offset + number * scale_nbytes
    scales = Stored(scale.source, scale.name, scale_offset, scale.dtype, n_scale_rows, scale_row)
    return Scaled(weights, scales, n_rows, _BLOCK, _BLOCK)
