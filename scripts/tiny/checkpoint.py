"""A Hugging Face checkpoint folder from a table of tensors: deterministic values, safetensors by hand.

Values come from SHAKE-256 of the tensor's name, not from numpy's generators, whose streams may change between
numpy versions (NEP 19): the same table gives the same bytes everywhere.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SEED = "mtpgraft tiny fixtures 1"

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a checkpoint.

    `shape` is in numpy (and Hugging Face) order. `centre` and `spread` give a uniform distribution over
    [centre - spread, centre + spread); a norm is centred on 1, or on 0 where the architecture adds 1 to it.
    `dtype` is safetensors' own name: BF16, F32, or a byte type (I8, F8_E8M0), whose bytes are integers in
    [centre, centre + spread).
    """

    name: str
    shape: tuple[int, ...]
    centre: float = 0.0
    spread: float = 0.15
    dtype: str = "BF16"

    @property
    def n_elements(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


def weight(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, shape)


def norm(name: str, n: int, centre: float = 1.0) -> TensorSpec:
    """A norm's weight: wide enough around its centre that a permutation or a forgotten +1 shows."""
    return TensorSpec(name, (n,), centre, 0.25)


def bias(name: str, n: int) -> TensorSpec:
    return TensorSpec(name, (n,), 0.0, 0.05)


def f32_bias(name: str, n: int) -> TensorSpec:
    """A router's correction bias: repositories ship it at F32 beside BF16 weights."""
    return TensorSpec(name, (n,), 0.0, 0.05, "F32")


def _bf16_bytes(values: np.ndarray) -> bytes:
    """F32 -> BF16, round to nearest even (all values here are finite)."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return bytes(rounded.astype("<u2").tobytes())


def tensor_bytes(spec: TensorSpec, salt: str, coarse: bool) -> bytes:
    """The tensor's data as safetensors stores it; `salt` keeps equal names of two models apart.

    `coarse` leaves 16 different values: a trunk is copied as bytes and never judged, and so compresses well.
    """
    stream = hashlib.shake_256(f"{SEED}/{salt}/{spec.name}".encode()).digest(2 * spec.n_elements)
    raw = np.frombuffer(stream, dtype="<u2")
    if spec.dtype in ("I8", "F8_E8M0"):
        return (raw % int(spec.spread) + int(spec.centre)).astype(np.uint8).tobytes()
    if coarse:
        raw = raw & np.uint16(0xF000) | np.uint16(0x0800)
    unit = (raw.astype(np.float32) - np.float32(32768)) / np.float32(32768)
    values = np.float32(spec.centre) + unit * np.float32(spec.spread)
    if spec.dtype == "BF16":
        return _bf16_bytes(values)
    if spec.dtype == "F32":
        return bytes(values.astype("<f4").tobytes())
    raise ValueError(f"{spec.name}: no generator for dtype {spec.dtype}")


def write_safetensors(path: Path, specs: Sequence[TensorSpec], salt: str, fine: tuple[str, ...]) -> int:
    """Write one safetensors file, tensors in the order given -> bytes of tensor data.

    Tensors whose names begin with one of `fine`, and 1-D ones, are not `coarse`.
    """
    header: dict[str, Json] = {"__metadata__": {"format": "pt"}}
    blobs: list[bytes] = []
    end = 0
    for spec in specs:
        coarse = len(spec.shape) > 1 and not spec.name.startswith(fine)
        blob = tensor_bytes(spec, salt, coarse)
        header[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [end, end + len(blob)],
        }
        end += len(blob)
        blobs.append(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))
    return end


def write_weights(
    folder: Path, specs: Sequence[TensorSpec], salt: str, fine: tuple[str, ...], n_shards: int = 1
) -> None:
    """Write model.safetensors, or `n_shards` files of equal tensor counts with their index."""
    ordered = sorted(specs, key=lambda spec: spec.name)
    names = [spec.name for spec in ordered]
    if len(set(names)) != len(names):
        raise ValueError(f"{salt}: duplicate tensor names in the table")
    if n_shards == 1:
        write_safetensors(folder / "model.safetensors", ordered, salt, fine)
        return
    weight_map: dict[str, Json] = {}
    total_nbytes = 0
    per_shard = -(-len(ordered) // n_shards)
    for i in range(n_shards):
        shard = ordered[i * per_shard : (i + 1) * per_shard]
        file_name = f"model-{i + 1:05d}-of-{n_shards:05d}.safetensors"
        total_nbytes += write_safetensors(folder / file_name, shard, salt, fine)
        weight_map.update({spec.name: file_name for spec in shard})
    index: Json = {"metadata": {"total_size": total_nbytes}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)


def write_json(path: Path, value: Json) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
