"""Builds small GGUF files with struct alone, good and bad ones: independent of the code under test."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 = range(13)
_FORMAT = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}


@dataclass
class Built:
    """Keys as (name, type, value) or (name, ARR, (item type, items)); tensors as (name, shape, type id, data)."""

    keys: list[tuple[str, int, object]] = field(default_factory=list)
    tensors: list[tuple[str, tuple[int, ...], int, bytes]] = field(default_factory=list)
    version: int = 3
    order: str = "<"
    alignment: int = 32
    pad_end: bool = True
    gap: int = 0

    def text(self, value: str | bytes) -> bytes:
        raw = value if isinstance(value, bytes) else value.encode()
        return struct.pack(self.order + "Q", len(raw)) + raw

    def value(self, kind: int, value: object) -> bytes:
        if kind == STR:
            assert isinstance(value, str | bytes)
            return self.text(value)
        return struct.pack(self.order + _FORMAT[kind], value)

    def key(self, name: str, kind: int, value: object) -> bytes:
        head = self.text(name) + struct.pack(self.order + "I", kind)
        if kind != ARR:
            return head + self.value(kind, value)
        assert isinstance(value, tuple)
        item_kind, items = value
        head += struct.pack(self.order + "IQ", item_kind, len(items))
        return head + b"".join(self.value(item_kind, item) for item in items)

    def header(self) -> bytes:
        out = b"GGUF" + struct.pack(self.order + "IQQ", self.version, len(self.tensors), len(self.keys))
        out += b"".join(self.key(*key) for key in self.keys)
        offset = 0
        for name, shape, type_id, data in self.tensors:
            out += self.text(name) + struct.pack(f"{self.order}I{len(shape)}Q", len(shape), *shape)
            out += struct.pack(self.order + "IQ", type_id, offset)
            offset += self.padded(len(data)) + self.gap
        return out

    def padded(self, n: int) -> int:
        return -(-n // self.alignment) * self.alignment

    def bytes(self) -> bytes:
        out = self.header()
        if self.tensors:
            out += bytes(self.padded(len(out)) - len(out))
        for number, (_, _, _, data) in enumerate(self.tensors):
            out += data
            last = number == len(self.tensors) - 1
            if not last or self.pad_end:
                out += bytes(self.padded(len(data)) - len(data) + (0 if last else self.gap))
        return out


def f32(*values: float, order: str = "<") -> bytes:
    return struct.pack(f"{order}{len(values)}f", *values)


def f32_tensor(
    name: str, shape: tuple[int, ...], seed: int = 0, order: str = "<"
) -> tuple[str, tuple[int, ...], int, bytes]:
    """A F32 tensor with values that depend on its name, so that a swap is seen."""
    n = 1
    for dim in shape:
        n *= dim
    start = sum(name.encode()) + seed
    return name, shape, 0, f32(*(((start * 31 + i * 17) % 1009) / 504 - 1 for i in range(n)), order=order)


def llama_like(arch: str = "qwen35", n_trunk: int = 2, width: int = 64, **changes: object) -> Built:
    """A base: a few trunk blocks with one matrix and one norm each, and root tensors."""
    keys: list[tuple[str, int, object]] = [
        ("general.architecture", STR, arch),
        ("general.name", STR, "tiny"),
        (f"{arch}.block_count", U32, n_trunk),
        (f"{arch}.embedding_length", U32, width),
        ("tokenizer.ggml.model", STR, "gpt2"),
        ("tokenizer.ggml.tokens", ARR, (STR, [f"t{i}" for i in range(8)])),
    ]
    order = str(changes.get("order", "<"))
    tensors = [
        f32_tensor("token_embd.weight", (width, 8), order=order),
        f32_tensor("output_norm.weight", (width,), order=order),
    ]
    for i in range(n_trunk):
        tensors.append(f32_tensor(f"blk.{i}.attn_norm.weight", (width,), order=order))
        tensors.append(f32_tensor(f"blk.{i}.ffn_up.weight", (width, 4), order=order))
    return Built(keys, tensors, **changes)  # type: ignore[arg-type]


def unknown_arch_donor(n_trunk: int = 2, width: int = 64, n_head: int = 1, **changes: object) -> Built:
    """A whole model of an architecture that mtpgraft has no row for, head included."""
    model = llama_like("newarch", n_trunk, width, **changes)
    order = str(changes.get("order", "<"))
    model.keys[2] = ("newarch.block_count", U32, n_trunk + n_head)
    model.keys.append(("newarch.nextn_predict_layers", U32, n_head))
    for i in range(n_trunk, n_trunk + n_head):
        model.tensors.append(f32_tensor(f"blk.{i}.nextn.eh_proj.weight", (2 * width, width), order=order))
        model.tensors.append(f32_tensor(f"blk.{i}.nextn.enorm.weight", (width,), order=order))
        model.tensors.append(f32_tensor(f"blk.{i}.attn_q.weight", (width, width), order=order))
    return model


def set_key(model: Built, name: str, kind: int, value: object) -> Built:
    """Replace or add a key."""
    for number, key in enumerate(model.keys):
        if key[0] == name:
            model.keys[number] = (name, kind, value)
            return model
    model.keys.append((name, kind, value))
    return model


def rows(shape: Sequence[int]) -> int:
    n = 1
    for dim in shape[1:]:
        n *= dim
    return n
