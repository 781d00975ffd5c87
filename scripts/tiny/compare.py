"""Read the converter's GGUFs with gguf-py and say how they differ: the evidence in the manifest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from gguf import GGUFReader

from tiny.checkpoint import Json

# GGUFReader's own fields, not keys of the file.
_READER_FIELDS = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count")


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """`shape` is in GGUF order (row length first)."""

    type_name: str
    shape: tuple[int, ...]
    sha256: str

    def as_json(self) -> Json:
        return {"type": self.type_name, "shape": list(self.shape), "sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class Summary:
    """A GGUF's keys and tensors, in file order. Arrays of strings are reduced to their hash."""

    keys: dict[str, Json]
    tensors: dict[str, TensorFacts]

    def head_names(self, arch: str) -> list[str]:
        """Names of the tensors in the last `nextn_predict_layers` blocks."""
        n_head = _int(self.keys.get(f"{arch}.nextn_predict_layers"))
        n_block = _int(self.keys.get(f"{arch}.block_count"))
        prefixes = tuple(f"blk.{i}." for i in range(n_block - n_head, n_block))
        return [name for name in self.tensors if name.startswith(prefixes)] if prefixes else []


def _int(value: Json) -> int:
    return value if isinstance(value, int) else 0


def summarize(path: Path) -> Summary:
    reader = GGUFReader(path)
    keys: dict[str, Json] = {}
    for name, field in reader.fields.items():
        if name in _READER_FIELDS:
            continue
        value = field.contents()
        if isinstance(value, list) and value and isinstance(value[0], str):
            digest = hashlib.sha256("\0".join(value).encode()).hexdigest()
            value = f"{len(value)} strings, sha256 {digest}"
        keys[name] = value
    tensors = {
        tensor.name: TensorFacts(
            tensor.tensor_type.name,
            tuple(int(n) for n in tensor.shape),
            hashlib.sha256(tensor.data.tobytes()).hexdigest(),
        )
        for tensor in reader.tensors
    }
    return Summary(keys, tensors)


def key_differences(left: Summary, right: Summary, left_name: str, right_name: str) -> Json:
    """Keys that are not equal, with both values; null where a file lacks the key."""
    names = sorted(left.keys.keys() | right.keys.keys())
    return {
        name: {left_name: left.keys.get(name), right_name: right.keys.get(name)}
        for name in names
        if left.keys.get(name) != right.keys.get(name)
    }


def unequal_tensors(part: Summary, whole: Summary) -> list[str]:
    """Tensors of `part` that `whole` does not hold with the same type, shape and bytes."""
    return [name for name, facts in part.tensors.items() if whole.tensors.get(name) != facts]
