"""A GGUF header as values: keys, the tensor table, shards, and the model that they make up."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from mtpgraft.container.types import SCALAR_FORMATS, SCALAR_NBYTES, TensorType, ValueType, tensor_type
from mtpgraft.errors import InvalidFileError
from mtpgraft.source.base import Source

Scalar = bool | int | float | str
"""A decoded scalar key value."""

DEFAULT_ALIGNMENT = 32
"""GGUF_DEFAULT_ALIGNMENT, ggml/include/gguf.h @ b11434."""

MAX_TEXT_NBYTES = 2**16
"""Longest text that is shown or passed on: names, licences, addresses."""
_MAX_ARCHITECTURE = 256
MAX_DECODED_ITEMS = 2**20
"""Longest array that is made into Python objects: four times the largest vocabulary."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a header: its name, its type and the bytes of its whole record, which are copied as they are.

    item_type, n_items: element type and length of an array; None and 1 for a scalar.
    record: length-prefixed name, type and value, in the file's byte order.
    value_start: where the value begins in `record` (for an array: its first element).
    byte_order: "<" or ">".
    file: what it was read from, for errors; "" for a key that was made.
    """

    name: str
    type: ValueType
    item_type: ValueType | None
    n_items: int
    record: memoryview = field(repr=False)
    value_start: int = field(repr=False)
    byte_order: str = field(repr=False)
    file: str = field(default="", repr=False, compare=False)

    @property
    def is_array(self) -> bool:
        return self.type is ValueType.ARRAY

    def scalar(self) -> Scalar:
        """The value of a scalar key. Raises InvalidFileError for an array or for text that is not UTF-8."""
        if self.is_array:
            raise self._invalid("is an array", "a single value", f"{self.n_items} items")
        return next(self._decode(self.type, 1))

    def items(self) -> list[Scalar]:
        """All elements of an array key (decoding a tokenizer's list makes one object per token).

        Raises InvalidFileError for more than MAX_DECODED_ITEMS.
        """
        if self.item_type is None:
            return [self.scalar()]
        if self.n_items > MAX_DECODED_ITEMS:
            raise self._invalid("is too long an array", f"at most {MAX_DECODED_ITEMS} items", f"{self.n_items} items")
        return list(self._decode(self.item_type, self.n_items))

    def _invalid(self, what: str, expected: str, found: str) -> InvalidFileError:
        return InvalidFileError(what, file=self.file or None, where=f"key {self.name}", expected=expected, found=found)

    def value_bytes(self) -> memoryview:
        """The encoded value: of an array its elements, of a string its length and text."""
        return self.record[self.value_start :]

    def _decode(self, value_type: ValueType, n: int) -> Iterator[Scalar]:
        if value_type is not ValueType.STRING:
            layout = f"{self.byte_order}{n}{SCALAR_FORMATS[value_type]}"
            yield from struct.unpack_from(layout, self.record, self.value_start)
            return
        position = self.value_start
        for _ in range(n):
            (length,) = struct.unpack_from(f"{self.byte_order}Q", self.record, position)
            position += 8
            yield bytes(self.record[position : position + length]).decode("utf-8", "replace")
            position += length


@dataclass(frozen=True, slots=True)
class Tensor:
    """One entry of the tensor table.

    shape: GGUF order (ne[0], the row length, first).
    type_id: ggml type, known or not.
    offset: absolute position of the data in its shard's file.
    n_bytes: length of the data. For a type of unknown size: the distance to the next tensor (or to the end of the
        file), padding included.
    span_nbytes: distance to the next tensor or to the end of the data section; never less than n_bytes.
    shard: index of the shard that holds the data.
    """

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int
    n_bytes: int
    span_nbytes: int
    shard: int

    @property
    def type(self) -> TensorType:
        return tensor_type(self.type_id)

    @property
    def row(self) -> int:
        """Elements of a row; a scalar is a row of one."""
        return self.shape[0] if self.shape else 1

    @property
    def n_elements(self) -> int:
        n = 1
        for dim in self.shape:
            n *= dim
        return n


@dataclass(frozen=True)
class Shard:
    """One GGUF file: its header as values, and the source its data lies in.

    data_start: absolute offset of the data section. header_nbytes: bytes before it, padding excluded.
    has_gaps: offsets are not the running padded sum in table order, which llama.cpp requires (gguf.cpp, "has offset
        X, expected Y").
    trailing_nbytes: bytes after the last tensor's padded end.
    """

    source: Source
    version: int
    byte_order: str
    keys: tuple[Key, ...]
    tensors: tuple[Tensor, ...]
    alignment: int
    header_nbytes: int
    data_start: int
    has_gaps: bool
    trailing_nbytes: int

    @cached_property
    def key_by_name(self) -> dict[str, Key]:
        return {key.name: key for key in self.keys}


@dataclass(frozen=True)
class GGUFModel:
    """A GGUF of one file or of a split set. Keys are those of the first shard, tensors those of all, in order."""

    shards: tuple[Shard, ...]

    @property
    def name(self) -> str:
        return self.shards[0].source.name

    @property
    def keys(self) -> tuple[Key, ...]:
        return self.shards[0].keys

    @property
    def byte_order(self) -> str:
        return self.shards[0].byte_order

    @property
    def alignment(self) -> int:
        return self.shards[0].alignment

    @property
    def size(self) -> int:
        """Bytes of all shards."""
        return sum(shard.source.size for shard in self.shards)

    @property
    def is_split(self) -> bool:
        return len(self.shards) > 1

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(tensor for shard in self.shards for tensor in shard.tensors)

    @cached_property
    def tensor_by_name(self) -> dict[str, Tensor]:
        return {tensor.name: tensor for tensor in self.tensors}

    def key(self, name: str) -> Key | None:
        return self.shards[0].key_by_name.get(name)

    def source_of(self, tensor: Tensor) -> Source:
        return self.shards[tensor.shard].source

    @property
    def architecture(self) -> str:
        """`general.architecture`. Raises InvalidFileError when the key is missing or not text."""
        key = self.key("general.architecture")
        text = self.text("general.architecture")
        if key is None or text is None:
            raise InvalidFileError(
                "has no architecture",
                file=self.name,
                where="key general.architecture",
                expected="a string",
                found="nothing" if key is None else key.type.name.lower(),
                hint="is this a model? adapters, vocabularies and imatrix files have no head",
            )
        name = text.partition("\0")[0]  # as llama.cpp reads strings: gguf_get_val_str gives a C string
        if len(name) > _MAX_ARCHITECTURE:
            raise InvalidFileError(
                "names no architecture",
                file=self.name,
                where="key general.architecture",
                expected=f"at most {_MAX_ARCHITECTURE} letters",
                found=name[:80],
            )
        return name

    def hparam(self, name: str) -> Key | None:
        """The key `<architecture>.<name>`."""
        return self.key(f"{self.architecture}.{name}")

    def text(self, name: str) -> str | None:
        """The value of a string key, or None. Of text longer than MAX_TEXT_NBYTES only its beginning."""
        key = self.key(name)
        if key is None or key.type is not ValueType.STRING:
            return None
        return bytes(key.value_bytes()[8 : 8 + MAX_TEXT_NBYTES]).decode("utf-8", "replace")

    def count(self, name: str) -> int | None:
        """The value of `<architecture>.<name>` as a count; None when absent.

        Raises InvalidFileError when it is anything but a uint32 below 2^31: llama.cpp refuses other types
        (GKV::get_kv, src/llama-model-loader.cpp @ b11434), and reads counts as signed numbers later on.
        """
        key = self.hparam(name)
        if key is None:
            return None
        if key.type is not ValueType.UINT32:
            found = key.type.name.lower()
            raise InvalidFileError(
                "has the wrong type", file=self.name, where=f"key {key.name}", expected="uint32", found=found
            )
        value = key.scalar()
        if not isinstance(value, int) or not value < 2**31:
            raise InvalidFileError(
                "is not a usable count",
                file=self.name,
                where=f"key {key.name}",
                expected="0 to 2^31",
                found=value,
            )
        return value

    def close(self) -> None:
        for shard in self.shards:
            shard.source.close()

    def __enter__(self) -> GGUFModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def item_nbytes(value_type: ValueType) -> int:
    """Least bytes that one element of this type takes in a file (a string: its length field)."""
    return 8 if value_type is ValueType.STRING else SCALAR_NBYTES[value_type]
