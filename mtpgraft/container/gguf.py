"""Reads a GGUF header: keys as raw records, the tensor table as values. No tensor data is read.

Every number in a header is hostile until it has been held against the file's size. Rules follow llama.cpp's own
reader (ggml/src/gguf.cpp @ b11434, gguf_init_from_reader), with one difference: unknown tensor types and gaps in
the offsets are read, because ik_llama.cpp's types and older writers' files are to be mended, not refused.
"""

from __future__ import annotations

import struct

from mtpgraft.container.layout import TableEntry, lay_out
from mtpgraft.container.types import SCALAR_NBYTES, ValueType
from mtpgraft.container.values import DEFAULT_ALIGNMENT, Key, Shard, item_nbytes
from mtpgraft.errors import InvalidFileError, TruncatedError
from mtpgraft.source.base import Source

MAX_HEADER_NBYTES = 64 * 2**20
"""Largest header read. The largest seen is Gemma 4's, 15.8 MB; a donor's is in memory twice while its head is taken."""
_FIRST_READ_NBYTES = 512 * 1024
_GROWTH_NBYTES = 512 * 1024
"""First window, and most that it grows by on speculation. Real headers are 6 to 16 MB, nearly all of it token lists,
whose end `skip_strings` estimates: a 10 MB header takes a handful of reads, and little is read that is not header."""
_PIECE_NBYTES = 8 * 2**20
_ESTIMATE_AFTER = 1000
"""Strings seen before their average length is trusted. Tokens and merges grow longer along the list, so the estimate is
short rather than long."""
_MAX_DIMS = 4  # GGML_MAX_DIMS
_MAX_TENSOR_NAME = 63  # GGML_MAX_NAME is 64 with the final NUL
_MAX_KEY_NAME = 2**20
"""docs/gguf.md allows 2^16 - 1 bytes, llama.cpp 2^30. A name is decoded several times."""
_INT64_MAX = 2**63 - 1
_MAX_KEYS = _MAX_TENSORS = 2**16
"""Far above what models have (under 100 keys, up to 20,000 tensors). Each takes half a kB and some microseconds here: a
file of nothing but small entries would cost gigabytes and minutes."""
_SMALLEST_KEY_NBYTES = 8 + 1 + 4 + 1
_SMALLEST_TENSOR_NBYTES = 8 + 4 + 4 + 8


class _Reader:
    """A growing window on the start of a source, and a position in it."""

    def __init__(self, source: Source, max_nbytes: int) -> None:
        self.source = source
        self.buffer = bytearray()
        self.position = 0
        self.byte_order = "<"
        self.max_nbytes = max_nbytes
        self.u32 = struct.Struct("<I").unpack_from
        self.u64 = struct.Struct("<Q").unpack_from

    def set_byte_order(self, byte_order: str) -> None:
        self.byte_order = byte_order
        self.u32 = struct.Struct(byte_order + "I").unpack_from
        self.u64 = struct.Struct(byte_order + "Q").unpack_from

    @property
    def remaining(self) -> int:
        """Bytes of the file after the position."""
        return self.source.size - self.position

    def need(self, end: int, what: str, likely_end: int = 0) -> None:
        """Have the buffer reach `end` (and `likely_end`, if the file has it), or say what the file ended in."""
        if end <= len(self.buffer):
            return
        if end > self.source.size:
            raise TruncatedError(
                f"the file ends inside {what}",
                file=self.source.name,
                where=f"offset {self.position}",
                expected=f"at least {end} bytes",
                found=f"{self.source.size} bytes",
                hint="download or copy the file again",
            )
        if end > self.max_nbytes:
            raise InvalidFileError(
                "the header is larger than the cap",
                file=self.source.name,
                where=f"{what} at offset {self.position}",
                expected=f"at most {self.max_nbytes} bytes",
                found=f"{end} bytes or more",
            )
        grown = len(self.buffer) + min(len(self.buffer), _GROWTH_NBYTES)
        want = min(max(end, likely_end, grown, _FIRST_READ_NBYTES), self.source.size, self.max_nbytes)
        while len(self.buffer) < want:  # in pieces: a header near the cap is in memory once
            piece = self.source.read_at(len(self.buffer), min(want - len(self.buffer), _PIECE_NBYTES))
            if not piece:
                break
            self.buffer += piece
        if len(self.buffer) < end:
            raise TruncatedError(f"the file ends inside {what}", file=self.source.name, where=f"offset {self.position}")

    def take_u32(self, what: str) -> int:
        self.need(self.position + 4, what)
        (value,) = self.u32(self.buffer, self.position)
        self.position += 4
        return int(value)

    def take_u64(self, what: str) -> int:
        self.need(self.position + 8, what)
        (value,) = self.u64(self.buffer, self.position)
        self.position += 8
        return int(value)

    def take_name(self, limit: int, what: str, *, must_be_text: bool = True) -> str:
        """A length-prefixed name of 1 to `limit` bytes. What is not UTF-8 is refused, or written as `\\xff`.

        It ends at a NUL: llama.cpp compares names as C strings (gguf_find_key, ggml_set_name).
        """
        start = self.position
        length = self.take_u64(what)
        if not 1 <= length <= limit:
            raise self.invalid("a name's length is out of range", start, f"1 to {limit} bytes", length)
        self.need(self.position + length, what)
        raw = self.buffer[self.position : self.position + length].partition(b"\0")[0]
        self.position += length
        if not must_be_text:
            return raw.decode("utf-8", "backslashreplace")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.invalid("a name is not UTF-8", start, "UTF-8", bytes(raw[:32])) from None

    def skip_strings(self, n: int, what: str) -> None:
        """Walk over `n` length-prefixed strings without making an object of any."""
        start, n_all, position = self.position, n, self.position
        u64, buffer = self.u64, self.buffer
        while n:
            try:
                for _ in range(n):
                    (length,) = u64(buffer, position)
                    position += 8 + length
                    n -= 1
            except (struct.error, OverflowError):  # past the buffer, or a length past 2^63
                if position > self.source.size:
                    self.need(position, what)
                n_seen = n_all - n
                estimate = position + n * (position - start) // n_seen if n_seen >= _ESTIMATE_AFTER else 0
                self.need(position + 8, what, estimate)
        if position > len(buffer):
            self.need(position, what)
        self.position = position

    def invalid(self, what: str, offset: int, expected: object, found: object) -> InvalidFileError:
        return InvalidFileError(what, file=self.source.name, where=f"offset {offset}", expected=expected, found=found)


def read_shard(source: Source, shard_index: int = 0, max_header_nbytes: int = MAX_HEADER_NBYTES) -> Shard:
    """Read the header of one GGUF file.

    Raises InvalidFileError for bytes that are no GGUF, TruncatedError when the file is shorter than its header says.
    """
    reader = _Reader(source, max_header_nbytes)
    version, n_tensors, n_keys = _read_preamble(reader)
    keys = _read_keys(reader, n_keys)
    by_name = {key.name: key for key in keys}
    if len(by_name) != len(keys):
        raise _duplicate(source, "key", [key.name for key in keys])
    alignment = _alignment(reader, by_name.get("general.alignment"))
    entries = _read_table(reader, n_tensors)
    if len({entry.name for entry in entries}) != len(entries):
        raise _duplicate(source, "tensor", [entry.name for entry in entries])
    header_nbytes = reader.position
    layout = lay_out(entries, header_nbytes, alignment, source, shard_index)
    view = memoryview(reader.buffer).toreadonly()[:header_nbytes]
    return Shard(
        source=source,
        version=version,
        byte_order=reader.byte_order,
        keys=tuple(key.bind(view, source.name) for key in keys),
        tensors=layout.tensors,
        alignment=alignment,
        header_nbytes=header_nbytes,
        data_start=layout.data_start,
        has_gaps=layout.has_gaps,
        trailing_nbytes=layout.trailing_nbytes,
    )


def _read_preamble(reader: _Reader) -> tuple[int, int, int]:
    if reader.source.size == 0:
        raise TruncatedError("is empty", file=reader.source.name, expected="a GGUF file", found="0 bytes")
    reader.need(min(4, reader.source.size), "the magic number")
    magic = bytes(reader.buffer[:4])
    if magic != b"GGUF":
        raise reader.invalid("is not a GGUF file", 0, "magic GGUF", magic)
    reader.position = 4
    version = reader.take_u32("the version")
    if version & 0xFFFF == 0 and version != 0:  # written in the other byte order, as gguf.cpp tells it
        reader.set_byte_order(">")
        reader.position = 4
        version = reader.take_u32("the version")
    if version not in (2, 3):
        hint = "convert it again with a current llama.cpp" if version == 1 else "is mtpgraft up to date?"
        error = reader.invalid("unsupported GGUF version", 4, "2 or 3", version)
        error.hint = hint
        raise error
    n_tensors = reader.take_u64("the tensor count")
    n_keys = reader.take_u64("the key count")
    for what, n, most, offset in (("tensors", n_tensors, _MAX_TENSORS, 8), ("keys", n_keys, _MAX_KEYS, 16)):
        if n > most:
            raise reader.invalid(f"more {what} than mtpgraft reads", offset, f"at most {most}", n)
    if n_tensors * _SMALLEST_TENSOR_NBYTES > reader.remaining:
        raise reader.invalid("more tensors than the file can hold", 8, f"{reader.source.size}-byte file", n_tensors)
    if n_keys * _SMALLEST_KEY_NBYTES > reader.remaining:
        raise reader.invalid("more keys than the file can hold", 16, f"{reader.source.size}-byte file", n_keys)
    return version, n_tensors, n_keys


class _KeySpan:
    """A key whose bytes are still in the reader's growing buffer."""

    __slots__ = ("byte_order", "end", "item_type", "n_items", "name", "start", "type", "value_at")

    def __init__(
        self,
        name: str,
        type_: ValueType,
        item_type: ValueType | None,
        n_items: int,
        start: int,
        value_at: int,
        end: int,
        byte_order: str,
    ) -> None:
        self.name, self.type, self.item_type, self.n_items = name, type_, item_type, n_items
        self.start, self.value_at, self.end, self.byte_order = start, value_at, end, byte_order

    def bind(self, view: memoryview, file: str) -> Key:
        record = view[self.start : self.end]
        value_start = self.value_at - self.start
        return Key(self.name, self.type, self.item_type, self.n_items, record, value_start, self.byte_order, file)


def _read_keys(reader: _Reader, n_keys: int) -> list[_KeySpan]:
    keys: list[_KeySpan] = []
    for _ in range(n_keys):
        start = reader.position
        name = reader.take_name(_MAX_KEY_NAME, f"key number {len(keys)}", must_be_text=False)
        what = f"key {name}"
        value_type = _value_type(reader, what)
        item_type: ValueType | None = None
        n_items = 1
        if value_type is ValueType.ARRAY:
            item_type = _value_type(reader, what)
            n_items = reader.take_u64(what)
            if item_type is ValueType.ARRAY:
                raise reader.invalid(f"{what} nests arrays", start, "an array of plain values", "an array of arrays")
            if n_items * item_nbytes(item_type) > reader.remaining:
                raise reader.invalid(f"{what} is longer than the file", start, f"{reader.remaining} bytes", n_items)
        value_at = reader.position
        plain = value_type if item_type is None else item_type  # UINT8 is 0: `or` would miss it
        if plain is ValueType.STRING:
            reader.skip_strings(n_items, what)
        else:
            reader.need(reader.position + n_items * SCALAR_NBYTES[plain], what)
            reader.position += n_items * SCALAR_NBYTES[plain]
        keys.append(_KeySpan(name, value_type, item_type, n_items, start, value_at, reader.position, reader.byte_order))
    return keys


def _value_type(reader: _Reader, what: str) -> ValueType:
    start = reader.position
    number = reader.take_u32(what)
    try:
        return ValueType(number)
    except ValueError:
        raise reader.invalid(f"{what} has an unknown value type", start, "0 to 12", number) from None


def _read_table(reader: _Reader, n_tensors: int) -> list[TableEntry]:
    entries: list[TableEntry] = []
    for index in range(n_tensors):
        start = reader.position
        name = reader.take_name(_MAX_TENSOR_NAME, f"the entry of tensor {index}")
        what = f"the entry of tensor {name}"
        n_dims = reader.take_u32(what)
        if n_dims > _MAX_DIMS:
            raise reader.invalid(f"tensor {name} has too many dimensions", start, f"at most {_MAX_DIMS}", n_dims)
        shape = tuple(reader.take_u64(what) for _ in range(n_dims))
        n_elements = 1
        for dim in shape:
            n_elements *= dim
            if dim > _INT64_MAX or n_elements > _INT64_MAX:
                raise reader.invalid(f"tensor {name} has an impossible shape", start, "under 2^63 elements", shape)
        type_id = reader.take_u32(what)
        if type_id > 0xFFFF:
            raise reader.invalid(f"tensor {name} has an impossible type", start, "at most 65535", type_id)
        entries.append(TableEntry(name, shape, type_id, reader.take_u64(what)))
    return entries


def _alignment(reader: _Reader, key: _KeySpan | None) -> int:
    if key is None:
        return DEFAULT_ALIGNMENT
    if key.type is not ValueType.UINT32:
        raise reader.invalid("key general.alignment has the wrong type", key.start, "uint32", key.type.name.lower())
    (value,) = reader.u32(reader.buffer, key.value_at)
    if value == 0 or value & (value - 1):
        raise reader.invalid("key general.alignment is not a power of two", key.start, "1, 2, 4, ...", value)
    return int(value)


def _duplicate(source: Source, kind: str, names: list[str]) -> InvalidFileError:
    seen: set[str] = set()
    twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
    return InvalidFileError(f"the same {kind} twice", file=source.name, where=f"{kind} {twice}", expected="one")
