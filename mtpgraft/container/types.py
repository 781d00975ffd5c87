"""GGUF value types and ggml tensor types.

Block sizes serve to check a file and to tell a tensor's own bytes from the padding after it. They are never needed
to copy a tensor: a type that is not listed here passes through by the distance to the next tensor.
Source: ggml/src/ggml.c `type_traits` and ggml/include/ggml.h `enum ggml_type`, llama.cpp b11434.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class ValueType(IntEnum):
    """GGUF key value types (ggml/include/gguf.h)."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


SCALAR_FORMATS: dict[ValueType, str] = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "?",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}
"""struct format of each fixed-size value type, without the byte order."""

SCALAR_NBYTES: dict[ValueType, int] = {
    ValueType.UINT8: 1,
    ValueType.INT8: 1,
    ValueType.UINT16: 2,
    ValueType.INT16: 2,
    ValueType.UINT32: 4,
    ValueType.INT32: 4,
    ValueType.FLOAT32: 4,
    ValueType.BOOL: 1,
    ValueType.UINT64: 8,
    ValueType.INT64: 8,
    ValueType.FLOAT64: 8,
}


@dataclass(frozen=True, slots=True)
class TensorType:
    """A ggml tensor type: `block` elements take `block_nbytes` bytes (0: rows carry extra data, or it is unknown)."""

    id: int
    name: str
    block: int
    block_nbytes: int

    def nbytes(self, shape: tuple[int, ...]) -> int | None:
        """Bytes of a tensor of this GGUF-order shape, or None when that cannot be told from the shape."""
        if not self.block_nbytes:
            return None
        n_elements = 1
        for dim in shape:
            n_elements *= dim
        if (shape[0] if shape else 1) % self.block:
            return None
        return n_elements // self.block * self.block_nbytes


F32, F16, Q8_0, BF16 = 0, 1, 8, 30

_ROWS: tuple[tuple[int, str, int, int], ...] = (
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
    # 41 is Q1_0 in llama.cpp and another type in ik_llama.cpp: the size must not be relied on
    (41, "Q1_0", 0, 0),
    (42, "Q2_0", 64, 18),
    # ik_llama.cpp's types, some with data per row (ggml.h of ik_llama.cpp): names only
    (36, "I2_S", 0, 0),
    (133, "Q6_0", 0, 0),
    (137, "IQ2_K", 0, 0),
    (138, "IQ3_K", 0, 0),
    (139, "IQ4_K", 0, 0),
    (140, "IQ5_K", 0, 0),
    (141, "IQ6_K", 0, 0),
    (144, "IQ4_KS", 0, 0),
    (145, "IQ2_KS", 0, 0),
    (146, "IQ4_KSS", 0, 0),
    (151, "Q8_KV", 0, 0),
    (152, "IQ5_KS", 0, 0),
    (153, "IQ2_KT", 0, 0),
    (154, "IQ3_KT", 0, 0),
    (155, "IQ4_KT", 0, 0),
    (156, "IQ3_KS", 0, 0),
    (157, "IQ2_KL", 0, 0),
    (158, "IQ1_KT", 0, 0),
)

TENSOR_TYPES: dict[int, TensorType] = {row[0]: TensorType(*row) for row in _ROWS}
"""Known tensor types by their id."""

TENSOR_TYPES_BY_NAME: dict[str, TensorType] = {t.name: t for t in TENSOR_TYPES.values()}


def tensor_type(type_id: int) -> TensorType:
    """The type with this id; an unknown id gives a type named `type-<id>` of unknown size."""
    return TENSOR_TYPES.get(type_id) or TensorType(type_id, f"type-{type_id}", 0, 0)
