"""Writes the parts of a GGUF header: key records, tensor table, preamble. The inverse of gguf.py."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from mtpgraft.container.layout import padded
from mtpgraft.container.types import SCALAR_FORMATS, ValueType
from mtpgraft.container.values import Key, Scalar


def _text(text: str, byte_order: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack(byte_order + "Q", len(raw)) + raw


def encode_values(value_type: ValueType, values: Sequence[Scalar], byte_order: str) -> bytes:
    """The elements, encoded one after the other."""
    if value_type is ValueType.STRING:
        return b"".join(_text(str(value), byte_order) for value in values)
    return struct.pack(f"{byte_order}{len(values)}{SCALAR_FORMATS[value_type]}", *values)


def make_key(name: str, value_type: ValueType, value: Scalar, byte_order: str) -> Key:
    """A scalar key with its record."""
    head = _text(name, byte_order) + struct.pack(byte_order + "I", value_type)
    record = head + encode_values(value_type, [value], byte_order)
    return Key(name, value_type, None, 1, memoryview(record), len(head), byte_order)


def make_array(name: str, item_type: ValueType, values: Sequence[Scalar], byte_order: str) -> Key:
    """An array key with its record."""
    return array_from_bytes(name, item_type, len(values), encode_values(item_type, values, byte_order), byte_order)


def array_from_bytes(name: str, item_type: ValueType, n_items: int, raw: bytes, byte_order: str) -> Key:
    """An array key whose elements are already encoded."""
    head = _text(name, byte_order) + struct.pack(byte_order + "IIQ", ValueType.ARRAY, item_type, n_items)
    return Key(name, ValueType.ARRAY, item_type, n_items, memoryview(head + raw), len(head), byte_order)


def renamed(key: Key, name: str) -> Key:
    """The same value under another name."""
    old_name_nbytes = 8 + struct.unpack_from(f"{key.byte_order}Q", key.record)[0]  # key.name may be a reading of it
    record = _text(name, key.byte_order) + bytes(key.record[old_name_nbytes:])
    shift = len(record) - len(key.record)
    return Key(
        name,
        key.type,
        key.item_type,
        key.n_items,
        memoryview(record),
        key.value_start + shift,
        key.byte_order,
    )


@dataclass(frozen=True, slots=True)
class TableRow:
    """A tensor to be written: its entry in the table, without the offset, which follows from the order."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class EncodedHeader:
    """A whole header, padded, and where each tensor's data goes.

    data_offsets: absolute, in table order, without gaps.
    file_nbytes: size of the file, padding after the last tensor included.
    """

    raw: bytes
    data_offsets: tuple[int, ...]
    file_nbytes: int


def encode_header(
    version: int, byte_order: str, alignment: int, keys: Sequence[Key], rows: Sequence[TableRow]
) -> EncodedHeader:
    """Header bytes for these keys and tensors. Source of the layout: docs/gguf.md of ggml; gguf.cpp @ b11434."""
    parts = [b"GGUF", struct.pack(byte_order + "IQQ", version, len(rows), len(keys))]
    parts += [bytes(key.record) for key in keys]
    running = 0
    relative: list[int] = []
    for row in rows:
        relative.append(running)
        parts.append(_text(row.name, byte_order))
        parts.append(struct.pack(f"{byte_order}I{len(row.shape)}QIQ", len(row.shape), *row.shape, row.type_id, running))
        running += padded(row.n_bytes, alignment)
    raw = b"".join(parts)
    if rows:
        raw += bytes(padded(len(raw), alignment) - len(raw))
    return EncodedHeader(raw, tuple(len(raw) + offset for offset in relative), len(raw) + running)
