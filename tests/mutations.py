"""A real model's bytes, damaged in one place each: what mtpgraft and llama.cpp make of them is compared."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from mtpgraft.container import Shard, open_gguf
from tests.conftest import TRAINED
from tests.test_head import from_file

BASE = TRAINED / "base-Q2_K.gguf"
_N_TENSORS_AT, _N_KEYS_AT, _FIRST_KEY_AT = 8, 16, 24

Raw = bytearray


def patch(raw: Raw, at: int, layout: str, value: int) -> bytes:
    struct.pack_into(layout, raw, at, value)
    return bytes(raw)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


class Model:
    """The fixture, and where things are in it."""

    def __init__(self, path: Path = BASE) -> None:
        self.bytes = path.read_bytes()
        with open_gguf(path) as model:
            self.shard: Shard = model.shards[0]
        self.entry_at: list[int] = []
        position = _FIRST_KEY_AT + sum(len(key.record) for key in self.shard.keys)
        for tensor in self.shard.tensors:
            self.entry_at.append(position)
            position += 8 + len(tensor.name) + 4 + 8 * len(tensor.shape) + 4 + 8
        self.table_end = position

    def key_value_at(self, name: str) -> int:
        position = _FIRST_KEY_AT
        for key in self.shard.keys:
            if key.name == name:
                return position + key.value_start
            position += len(key.record)
        raise KeyError(name)

    def with_key(self, record: bytes) -> bytes:
        """One more key in front; the data moves, by whole alignments."""
        alignment = self.shard.alignment
        raw = self.bytes
        header = raw[:_FIRST_KEY_AT] + record + raw[_FIRST_KEY_AT : self.table_end]
        header = header[:_N_KEYS_AT] + struct.pack("<Q", len(self.shard.keys) + 1) + header[_FIRST_KEY_AT:]
        return header + bytes(-len(header) % alignment) + raw[self.shard.data_start :]

    def dims_at(self, index: int) -> int:
        return self.entry_at[index] + 8 + len(self.shard.tensors[index].name)

    def type_at(self, index: int) -> int:
        return self.dims_at(index) + 4 + 8 * len(self.shard.tensors[index].shape)


def replaced(m: Model, name: str, value: bytes) -> bytes:
    """The model with another type and value of a key."""
    return rebuilt(m, [text(k.name.encode()) + value if k.name == name else bytes(k.record) for k in m.shard.keys])


def retyped(m: Model, name: str, kind: int, layout: str) -> bytes:
    """The model with the same number in another type."""
    (value,) = struct.unpack_from("<I", m.bytes, m.key_value_at(name))
    return replaced(m, name, struct.pack("<I", kind) + struct.pack(layout, value))


def renamed(m: Model, name: str, new: bytes) -> bytes:
    """The model with a key under another name."""
    records = [bytes(k.record) for k in m.shard.keys]
    at = next(i for i, k in enumerate(m.shard.keys) if k.name == name)
    records[at] = text(new) + records[at][8 + len(name) :]
    return rebuilt(m, records)


def many_keys(m: Model, n: int) -> bytes:
    """The model with `n` keys more."""
    more = [text(b"strange.%d" % i) + struct.pack("<II", 4, i) for i in range(n)]
    return rebuilt(m, [*(bytes(k.record) for k in m.shard.keys), *more])


def rebuilt(m: Model, records: list[bytes]) -> bytes:
    """The model with these key records; the data moves, by whole alignments."""
    keys_end = _FIRST_KEY_AT + sum(len(key.record) for key in m.shard.keys)
    head = m.bytes[:_N_KEYS_AT] + struct.pack("<Q", len(records)) + b"".join(records) + m.bytes[keys_end : m.table_end]
    return head + bytes(-len(head) % m.shard.alignment) + m.bytes[m.shard.data_start :]


def from_file_in_other_order(m: Model) -> bytes:
    """The model's header in the other byte order (its data is not turned: nothing reads it here)."""
    built = from_file(BASE)
    built.order = ">"
    return built.bytes()


def mutations(m: Model) -> dict[str, Callable[[], bytes]]:
    """name -> the damaged file."""
    raw = lambda: bytearray(m.bytes)  # noqa: E731
    shard = m.shard
    n_tensors, n_keys = len(shard.tensors), len(shard.keys)
    last = shard.tensors[-1]
    u32 = struct.pack("<I", 4)
    arch_at = m.key_value_at("general.architecture")
    (n_blocks,) = struct.unpack_from("<I", m.bytes, m.key_value_at("qwen35.block_count"))
    scalar = n_tensors - 1
    return {
        "untouched": lambda: m.bytes,
        "trailing bytes": lambda: m.bytes + b"x" * 1000,
        "without the last padding": lambda: m.bytes[: last.offset + last.n_bytes],
        "one byte of data short": lambda: m.bytes[: last.offset + last.n_bytes - 1],
        "half": lambda: m.bytes[: len(m.bytes) // 2],
        "header only": lambda: m.bytes[: shard.data_start],
        "half a header": lambda: m.bytes[: shard.data_start // 2],
        "empty": lambda: b"",
        "magic": lambda: b"GGUX" + m.bytes[4:],
        "version 0": lambda: patch(raw(), 4, "<I", 0),
        "version 1": lambda: patch(raw(), 4, "<I", 1),
        "version 2": lambda: patch(raw(), 4, "<I", 2),
        "version 4": lambda: patch(raw(), 4, "<I", 4),
        "one tensor more": lambda: patch(raw(), _N_TENSORS_AT, "<Q", n_tensors + 1),
        "one tensor fewer": lambda: patch(raw(), _N_TENSORS_AT, "<Q", n_tensors - 1),
        "2^63 tensors": lambda: patch(raw(), _N_TENSORS_AT, "<Q", 2**63),
        "one key more": lambda: patch(raw(), _N_KEYS_AT, "<Q", n_keys + 1),
        "one key fewer": lambda: patch(raw(), _N_KEYS_AT, "<Q", n_keys - 1),
        "2^60 keys": lambda: patch(raw(), _N_KEYS_AT, "<Q", 2**60),
        "duplicate key": lambda: m.with_key(bytes(shard.keys[1].record)),
        "one key twice": lambda: m.with_key(bytes(shard.key_by_name["general.architecture"].record)),
        "strange key": lambda: m.with_key(text(b"strange") + u32 + struct.pack("<I", 7)),
        "key name not UTF-8": lambda: m.with_key(text(b"\xff\xfe") + u32 + struct.pack("<I", 7)),
        "key name with an escape": lambda: m.with_key(text(b"\x1b[31m") + u32 + struct.pack("<I", 7)),
        "empty key name": lambda: m.with_key(text(b"") + u32 + struct.pack("<I", 7)),
        "long key name": lambda: m.with_key(text(b"k" * 70_000) + u32 + struct.pack("<I", 7)),
        "value not UTF-8": lambda: m.with_key(text(b"a") + struct.pack("<I", 8) + text(b"\xff\xfe")),
        "value type 13": lambda: m.with_key(text(b"a") + struct.pack("<IQ", 13, 1)),
        "nested array": lambda: m.with_key(text(b"a") + struct.pack("<IIQIQ", 9, 9, 1, 4, 0)),
        "empty array": lambda: m.with_key(text(b"a") + struct.pack("<IIQ", 9, 4, 0)),
        "array of 2^61": lambda: m.with_key(text(b"a") + struct.pack("<IIQ", 9, 4, 2**61)),
        "string of 2^62": lambda: m.with_key(text(b"a") + struct.pack("<IQ", 8, 2**62)),
        "boolean 2": lambda: m.with_key(text(b"a") + struct.pack("<IB", 7, 2)),
        "alignment 0": lambda: m.with_key(text(b"general.alignment") + struct.pack("<II", 4, 0)),
        "alignment 24": lambda: m.with_key(text(b"general.alignment") + struct.pack("<II", 4, 24)),
        "alignment of type u64": lambda: m.with_key(text(b"general.alignment") + struct.pack("<IQ", 10, 32)),
        "alignment 32 said": lambda: m.with_key(text(b"general.alignment") + struct.pack("<II", 4, 32)),
        "alignment 4096, data at 32": lambda: m.with_key(text(b"general.alignment") + struct.pack("<II", 4, 4096)),
        "big-endian": lambda: from_file_in_other_order(m),
        "block_count of type u64": lambda: retyped(m, "qwen35.block_count", 10, "<Q"),
        "block_count of type i32": lambda: retyped(m, "qwen35.block_count", 5, "<i"),
        "block_count in an array": lambda: replaced(m, "qwen35.block_count", struct.pack("<IIQI", 9, 4, 1, n_blocks)),
        "block_count 0": lambda: patch(raw(), m.key_value_at("qwen35.block_count"), "<I", 0),
        "block_count 513": lambda: patch(raw(), m.key_value_at("qwen35.block_count"), "<I", 513),
        "block_count 2^31 - 1, all of it head": lambda: patch(
            Raw(m.with_key(text(b"qwen35.nextn_predict_layers") + struct.pack("<II", 4, 2**31 - 2))),
            m.key_value_at("qwen35.block_count") + len(text(b"qwen35.nextn_predict_layers")) + 8,
            "<I",
            2**31 - 1,
        ),
        "embedding_length of type u16": lambda: retyped(m, "qwen35.embedding_length", 2, "<H"),
        "block_count's name ends in a NUL": lambda: renamed(m, "qwen35.block_count", b"qwen35.block_count\0x"),
        "a name without its NUL's rest twice": lambda: m.with_key(
            text(b"qwen35.block_count\0") + u32 + struct.pack("<I", n_blocks)
        ),
        "architecture ends in a NUL": lambda: replaced(
            m, "general.architecture", struct.pack("<I", 8) + text(b"qwen35\0moe")
        ),
        "split.no in a lone file": lambda: m.with_key(text(b"split.no") + struct.pack("<IH", 2, 3)),
        "split.no of another type": lambda: m.with_key(text(b"split.no") + struct.pack("<I", 8) + text(b"x")),
        "split.count 0": lambda: m.with_key(text(b"split.count") + struct.pack("<IH", 2, 0)),
        "split.count 1": lambda: m.with_key(text(b"split.count") + struct.pack("<IH", 2, 1)),
        "split.count 2 in a lone file": lambda: m.with_key(text(b"split.count") + struct.pack("<IH", 2, 2)),
        "split.count of type u32": lambda: m.with_key(text(b"split.count") + struct.pack("<II", 4, 1)),
        "1000 keys": lambda: many_keys(m, 1000),
        "Q4_0 without dimensions": lambda: patch(
            Raw(patch(raw(), m.dims_at(scalar), "<I", 0)), m.dims_at(scalar) + 4, "<I", 2
        ),
        "architecture length": lambda: patch(raw(), arch_at, "<Q", 2**40),
        "same tensor name": lambda: (
            bytes(raw()[: m.entry_at[1] + 8])
            + shard.tensors[0].name.encode()
            + m.bytes[m.entry_at[1] + 8 + len(shard.tensors[0].name) :]
        ),
        "tensor name of 64 bytes": lambda: patch(raw(), m.entry_at[0], "<Q", 64),
        "no dimensions": lambda: patch(raw(), m.dims_at(0), "<I", 0),
        "five dimensions": lambda: patch(raw(), m.dims_at(0), "<I", 5),
        "dimension 0": lambda: patch(raw(), m.dims_at(2) + 4, "<Q", 0),
        "dimension 2^63": lambda: patch(raw(), m.dims_at(2) + 4, "<Q", 2**63),
        "another dimension": lambda: patch(raw(), m.dims_at(2) + 4, "<Q", 512),
        "type 999": lambda: patch(raw(), m.type_at(2), "<I", 999),
        "type 2^31": lambda: patch(raw(), m.type_at(2), "<I", 2**31),
        "type of a removed format": lambda: patch(raw(), m.type_at(2), "<I", 4),
        "offset + 1": lambda: patch(raw(), m.type_at(3) + 4, "<Q", shard.tensors[3].offset - shard.data_start + 1),
        "offset + 32": lambda: patch(raw(), m.type_at(3) + 4, "<Q", shard.tensors[3].offset - shard.data_start + 32),
        "offset of another": lambda: patch(raw(), m.type_at(3) + 4, "<Q", 0),
        "offset 2^63": lambda: patch(raw(), m.type_at(3) + 4, "<Q", 2**63),
        "offset outside": lambda: patch(raw(), m.type_at(n_tensors - 1) + 4, "<Q", len(m.bytes) + 32),
        "flipped data": lambda: bytes([*m.bytes[: last.offset], m.bytes[last.offset] ^ 1, *m.bytes[last.offset + 1 :]]),
    }
