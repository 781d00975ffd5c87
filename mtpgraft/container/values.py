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


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a header: its name, its type and the bytes of its whole record, which are copied as they are.

    item_type, n_items: element type and length of an array; None and 1 for a scalar.
    record: length-prefixed name, type and value, in the file's byte order.
    value_start: where the value begins in `record` (for an array: its first element).
    byte_order: "<" or ">".
    """

    name: str
    type: ValueType
    item_type: ValueType | None
    n_items: int
    record: memoryview = field(repr=False)
    value_start: int = field(repr=False)
    byte_order: str = field(repr=False)

    @property
    def is_array(self) -> bool:
        return self.type is ValueType.ARRAY

    def scalar(self) -> Scalar:
        """The value of a scalar key. Raises InvalidFileError for an array or for text that is not UTF-8."""
        if self.is_array:
            raise InvalidFileError("is an array", where=f"key {self.name}", expected="a single value")
        return next(self._decode(self.type, 1))

    def items(self) -> list[Scalar]:
        """All elements of an array key (decoding a tokenizer's list makes one object per token)."""
        if self.item_type is None:
            return [self.scalar()]
        return list(self._decode(self.item_type, self.n_items))

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
        if key is None or key.type is not ValueType.STRING:
            raise InvalidFileError(
                "has no architecture",
                file=self.name,
                where="key general.architecture",
                expected="a string",
                found="nothing" if key is None else key.type.name.lower(),
                hint="is this a model? adapters, vocabularies and imatrix files have no head",
            )
        return str(key.scalar())

    def hparam(self, name: str) -> Key | None:
        """The key `<architecture>.<name>`."""
        return self.key(f"{self.architecture}.{name}")

    def text(self, name: str) -> str | None:
        """The value of a string key, or None."""
        key = self.key(name)
        return str(key.scalar()) if key is not None and key.type is ValueType.STRING else None

    def count(self, name: str) -> int | None:
        """The value of `<architecture>.<name>` as a count; None when absent.

        Raises InvalidFileError when it is not a whole number from 0 to 2^31.
        """
        key = self.hparam(name)
        if key is None:
            return None
        value = key.items()[0] if key.is_array and key.n_items else (None if key.is_array else key.scalar())
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
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
