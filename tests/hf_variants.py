"""The tiny checkpoints stored in the other ways that repositories store theirs: F16, F32, FP8 with scales.

Needs numpy only; every byte follows from sha256, so that tests build here what the oracle's script converted elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mtpgraft.container.checkpoint import open_checkpoint
from mtpgraft.container.safetensors import StoredTensor

Entry = tuple[str, tuple[int, ...], bytes]
"""dtype, shape in numpy order, data."""

FP8_ENDINGS = ("_proj.weight", "experts.gate_up_proj", "experts.down_proj", "eh_proj.weight")


@dataclass(frozen=True, slots=True)
class Variant:
    """source: a folder of fixtures/tiny. store: a head tensor -> what is stored for it, by name."""

    name: str
    source: str
    store: Callable[[StoredTensor], dict[str, Entry]]
    quantization: dict[str, object] | None = field(default=None)


def stream(name: str, n_bytes: int) -> np.ndarray:
    """Bytes that look random, uint8 [n_bytes]."""
    blocks = (hashlib.sha256(f"{name} {i}".encode()).digest() for i in range(-(-n_bytes // 32)))
    return np.frombuffer(b"".join(blocks)[:n_bytes], np.uint8)


def write_safetensors(path: Path, tensors: dict[str, Entry], metadata: dict[str, str] | None = None) -> None:
    """One file with these tensors in this order."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    position = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + len(data)]}
        position += len(data)
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + b"".join(data for _, _, data in tensors.values()))


def raw(tensor: StoredTensor) -> bytes:
    return tensor.source.read_at(tensor.offset, tensor.n_bytes)


def floats(tensor: StoredTensor) -> np.ndarray:
    """Values of a BF16 or F32 tensor as float32."""
    if tensor.dtype == "F32":
        return np.frombuffer(raw(tensor), "<f4").reshape(tensor.shape)
    return (np.frombuffer(raw(tensor), "<u2").astype(np.uint32) << 16).view(np.float32).reshape(tensor.shape)


def as_is(tensor: StoredTensor) -> dict[str, Entry]:
    return {tensor.name: (tensor.dtype, tensor.shape, raw(tensor))}


def as_f16(tensor: StoredTensor) -> dict[str, Entry]:
    return {tensor.name: ("F16", tensor.shape, floats(tensor).astype("<f2").tobytes())}


def as_f32(tensor: StoredTensor) -> dict[str, Entry]:
    """F32 with bits that BF16 does not have."""
    noise = stream(tensor.name, tensor.n_elements).astype(np.float32).reshape(tensor.shape) / np.float32(2**16)
    return {tensor.name: ("F32", tensor.shape, (floats(tensor) * (1 + noise)).astype("<f4").tobytes())}


def fp8(tensor: StoredTensor, suffix: str, scale_shape: tuple[int, ...], scale_dtype: str = "F32") -> dict[str, Entry]:
    codes = stream(tensor.name, tensor.n_elements)
    codes = np.where((codes & 0x7F) == 0x7F, codes - 1, codes).astype(np.uint8)  # no NaN
    n_scales = int(np.prod(scale_shape))
    scales = (1 + stream(tensor.name + suffix, n_scales).astype(np.float32)) / np.float32(2**14)
    if scale_dtype == "BF16":
        data = (scales.view(np.uint32) >> 16).astype("<u2").tobytes()
    else:
        data = scales.astype("<f4").tobytes()
    return {
        tensor.name: ("F8_E4M3", tensor.shape, codes.tobytes()),
        tensor.name + suffix: (scale_dtype, scale_shape, data),
    }


def fp8_blocks(rows: int, columns: int, scale_dtype: str = "F32") -> Callable[[StoredTensor], dict[str, Entry]]:
    def store(tensor: StoredTensor) -> dict[str, Entry]:
        if not tensor.name.endswith(FP8_ENDINGS):
            return as_is(tensor)
        *outer, n_rows, n_columns = tensor.shape
        return fp8(tensor, "_scale_inv", (*outer, -(-n_rows // rows), -(-n_columns // columns)), scale_dtype)

    return store


def fp8_per_tensor(tensor: StoredTensor) -> dict[str, Entry]:
    return fp8(tensor, "_scale_inv", (1,)) if tensor.name.endswith(FP8_ENDINGS) else as_is(tensor)


def fp8_per_channel(tensor: StoredTensor) -> dict[str, Entry]:
    if not tensor.name.endswith(FP8_ENDINGS):
        return as_is(tensor)
    return fp8(tensor, "_scale", (*tensor.shape[:-1], 1), "BF16")


def fp8_ranked(n_ranks: int) -> Callable[[StoredTensor], dict[str, Entry]]:
    """MiMo-V2: qkv_proj's scales per rank of tensor parallelism; the other weights in blocks of 128."""

    def store(tensor: StoredTensor) -> dict[str, Entry]:
        if not tensor.name.endswith("qkv_proj.weight"):
            return fp8_blocks(128, 128)(tensor)
        n_rows, n_columns = tensor.shape
        per_rank = -(-(n_rows // n_ranks) // 128)
        return fp8(tensor, "_scale_inv", (n_ranks * per_rank, -(-n_columns // 128)))

    return store


def _fp8_config(*block: int) -> dict[str, object]:
    config: dict[str, object] = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
    return {**config, "weight_block_size": list(block)} if block else config


_CHANNELS: dict[str, object] = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}},
}

VARIANTS = (
    Variant("qwen35moe-f16", "qwen35moe", as_f16),
    Variant("qwen35-f32", "qwen35", as_f32),
    Variant("step35-f16", "step35", as_f16),
    Variant("glm4moe-fp8-blocks", "glm4moe", fp8_blocks(16, 24), _fp8_config(16, 24)),
    Variant("deepseek2-fp8-blocks", "deepseek2", fp8_blocks(40, 16, "BF16"), _fp8_config(40, 16)),
    Variant("qwen35moe-fp8-blocks", "qwen35moe", fp8_blocks(24, 16), _fp8_config(24, 16)),
    Variant("qwen3next-fp8-tensor", "qwen3next", fp8_per_tensor, _fp8_config()),
    Variant("hy_v3-fp8-channel", "hy_v3", fp8_per_channel, _CHANNELS),
    Variant("mimo2-fp8-8-ranks", "mimo2", fp8_ranked(8), _fp8_config(128, 128)),
    Variant("mimo2-fp8-4-ranks", "mimo2", fp8_ranked(4), _fp8_config(128, 128)),
)


def build_variant(variant: Variant, tiny: Path, out: Path) -> None:
    """Write the variant's checkpoint into the new folder `out`. tiny: fixtures/tiny."""
    source = tiny / variant.source / "hf"
    out.mkdir(parents=True)
    for path in source.iterdir():
        if path.suffix == ".json" and path.name not in ("config.json", "model.safetensors.index.json"):
            shutil.copy(path, out)
    config = json.loads((source / "config.json").read_text())
    if variant.quantization is not None:
        config["quantization_config"] = variant.quantization
    (out / "config.json").write_text(json.dumps(config, indent=1))
    with open_checkpoint(source) as checkpoint:
        stored = (checkpoint.tensor(name) for name in checkpoint.file_of)
        write_safetensors(
            out / "model.safetensors", dict(_entries(stored, _is_head(config), variant)), {"format": "pt"}
        )


def _is_head(config: dict[str, Any]) -> Callable[[str], bool]:
    n_trunk = config.get("text_config", config)["num_hidden_layers"]

    def test(name: str) -> bool:
        match = re.match(r"model\.layers\.(\d+)\.", name)
        return "mtp." in name or (match is not None and int(match[1]) >= n_trunk)

    return test


def _entries(
    tensors: Iterator[StoredTensor], is_head: Callable[[str], bool], variant: Variant
) -> Iterator[tuple[str, Entry]]:
    for tensor in tensors:
        # Dtypes of the whole model change only where a scale is not needed: llama.cpp looks at each tensor anyway.
        yield from (variant.store(tensor) if is_head(tensor.name) else as_is(tensor)).items()
