"""What an operation will write, as values. `--dry-run` prints a plan; write/ executes the same plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mtpgraft.container import Key, Tensor
from mtpgraft.container.encode import EncodedHeader, TableRow, encode_header
from mtpgraft.container.layout import padded
from mtpgraft.recipe import Rows
from mtpgraft.source.base import Source


@dataclass(frozen=True, slots=True)
class CopyBytes:
    """Bytes that are copied as they are."""

    source: Source = field(repr=False)
    offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class ConvertTensor:
    """A tensor that is read in one type and written in another.

    shape: GGUF order. from_order: byte order of the source's file.
    """

    source: Source = field(repr=False)
    offset: int
    shape: tuple[int, ...]
    from_type: int
    from_order: str


@dataclass(frozen=True, slots=True)
class ComputedTensor:
    """A tensor that is computed, row after row, from any number of others (a checkpoint's, by a recipe)."""

    rows: Rows = field(repr=False)


@dataclass(frozen=True, slots=True)
class OutTensor:
    """A tensor of the file to be written.

    n_bytes: length of its data. data: where that comes from; a CopyBytes may be longer than n_bytes by the
        padding that follows the tensor in its source, which is then kept as it is.
    head_block: number of the head block it belongs to, from 0; None for the trunk's and root tensors.
    """

    name: str
    shape: tuple[int, ...]
    type_id: int
    n_bytes: int
    data: CopyBytes | ConvertTensor | ComputedTensor
    head_block: int | None = None

    @property
    def local_name(self) -> str:
        """Without `blk.N.`."""
        return self.name.split(".", 2)[2] if self.name.startswith("blk.") else self.name

    @property
    def is_copied(self) -> bool:
        return isinstance(self.data, CopyBytes)


@dataclass(frozen=True, slots=True)
class FilePlan:
    """One file to be written, whole: its keys, its tensors in table order, and where every byte comes from.

    digest_key: name of a string key whose 64 zeros the writer replaces by the digest of the head it wrote, or None.
    exact_nbytes: cut the file to this size when only padding is lost (strip restores an unpadded end), or None.
    """

    path: Path
    version: int
    byte_order: str
    alignment: int
    keys: tuple[Key, ...]
    tensors: tuple[OutTensor, ...]
    digest_key: str | None = None
    exact_nbytes: int | None = None

    def header(self) -> EncodedHeader:
        """The header's bytes and the place of every tensor."""
        rows = [TableRow(t.name, t.shape, t.type_id, t.n_bytes) for t in self.tensors]
        return encode_header(self.version, self.byte_order, self.alignment, self.keys, rows)

    @property
    def header_nbytes(self) -> int:
        """Length of the header without the padding behind it: what `header` gives, without making it."""
        keys = sum(len(key.record) for key in self.keys)
        table = sum(8 + len(t.name.encode("utf-8")) + 4 + 8 * len(t.shape) + 4 + 8 for t in self.tensors)
        return 4 + 4 + 8 + 8 + keys + table

    @property
    def file_nbytes(self) -> int:
        """Size of the file, padding after the last tensor included."""
        if not self.tensors:
            return self.header_nbytes
        data = sum(padded(tensor.n_bytes, self.alignment) for tensor in self.tensors)
        return padded(self.header_nbytes, self.alignment) + data

    @property
    def data_nbytes(self) -> int:
        """Bytes of tensor data, padding excluded."""
        return sum(tensor.n_bytes for tensor in self.tensors)


@dataclass(frozen=True, slots=True)
class KeyChange:
    """A key that differs from the base's: `before` is None when it is added, `after` None when it is removed."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class HeadRow:
    """One head tensor of the result: where it was, what it is called now, and its types before and after."""

    donor_name: str
    name: str
    shape: tuple[int, ...]
    from_type: str
    to_type: str
    n_bytes: int


@dataclass(frozen=True, slots=True)
class SurgeryPlan:
    """An operation: the files it writes, and what a user wants to know about it beforehand.

    operation: "extract", "graft" or "strip". base, donor: names of the inputs (base is None for extract).
    """

    operation: str
    base: str | None
    donor: str | None
    files: tuple[FilePlan, ...]
    key_changes: tuple[KeyChange, ...]
    head: tuple[HeadRow, ...]
    warnings: tuple[str, ...]

    @property
    def head_nbytes(self) -> int:
        return sum(row.n_bytes for row in self.head)


def show(key: Key | None) -> str | None:
    """A key's value for people: long arrays are shortened."""
    if key is None:
        return None
    if not key.is_array:
        return str(key.scalar())
    if key.n_items > 64:
        return f"[{key.n_items} items]"
    return "[" + ", ".join(str(item) for item in key.items()) + "]"


def copied(
    tensor: Tensor, source: Source, alignment: int, name: str | None = None, head_block: int | None = None
) -> OutTensor:
    """This tensor, copied as it is, with the padding behind it (as far as its own file has one)."""
    with_padding = min(tensor.span_nbytes, padded(tensor.n_bytes, alignment))
    data = CopyBytes(source, tensor.offset, with_padding)
    return OutTensor(name or tensor.name, tensor.shape, tensor.type_id, tensor.n_bytes, data, head_block)
