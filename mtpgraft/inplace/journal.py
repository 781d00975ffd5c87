"""What is needed to undo a change in place: `.NAME.mtpgraft-journal` beside the file, complete before the first change.

mtpgraft journal 1\\n   JSON line\\n   old header   new header   tail   sha256 of all before it (32 bytes)
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mtpgraft.errors import InvalidFileError
from mtpgraft.inplace.samples import TrunkSamples
from mtpgraft.jsontext import Json, parse_json
from mtpgraft.source.local import LocalFile, journal_path
from mtpgraft.write import disk, io_error
from mtpgraft.write.leftovers import create_temporary, temporary_name

_MAGIC = b"mtpgraft journal 1\n"
_MAX_NBYTES = 2**30


@dataclass(frozen=True, slots=True)
class Journal:
    """A change in place, from before its first step.

    operation: "graft" (append, shift, new header) or "strip" (shift, new header, truncate).
    shift: bytes by which the trunk moves: inserted at the front when positive, taken out when negative.
    old_header: everything before the old data section. new_header: the same of the new file, for strip alone, whose
        last step cannot be undone and is finished instead.
    tail: what follows the new file's end in the old one, as far as a block may reach. Cutting a file makes the rest of
        its last block zero, and that can be on the disk before the new size is.
    samples: of the trunk.
    """

    operation: str
    old_nbytes: int
    new_nbytes: int
    shift: int
    old_header: bytes = field(repr=False)
    new_header: bytes = field(repr=False)
    samples: TrunkSamples
    tail: bytes = field(default=b"", repr=False)

    def encode(self) -> bytes:
        about = {
            "operation": self.operation,
            "old_nbytes": self.old_nbytes,
            "new_nbytes": self.new_nbytes,
            "shift": self.shift,
            "old_header_nbytes": len(self.old_header),
            "new_header_nbytes": len(self.new_header),
            "sampled_nbytes": self.samples.n_bytes,
            "samples": self.samples.sha256,
        }
        body = b"".join((_MAGIC, json.dumps(about).encode(), b"\n", self.old_header, self.new_header, self.tail))
        return body + hashlib.sha256(body).digest()

    @classmethod
    def decode(cls, raw: bytes, name: str) -> Journal:
        """Raises InvalidFileError for anything but a whole journal."""
        body = raw[:-32]
        if not raw.startswith(_MAGIC) or hashlib.sha256(body).digest() != raw[-32:]:
            raise _damaged(name)
        line, _, headers = body[len(_MAGIC) :].partition(b"\n")
        about = parse_json(line, name, "its first line")
        fields = about if isinstance(about, dict) else {}
        operation, samples, shift = (fields.get(key) for key in ("operation", "samples", "shift"))
        old_nbytes, new_nbytes, n_old, n_new, sampled = (_count(fields, key, name) for key in _COUNTS)
        if operation not in ("graft", "strip") or not isinstance(samples, str) or not isinstance(shift, int):
            raise _damaged(name)
        if n_old + n_new > len(headers) or not 0 < n_old <= old_nbytes or n_old + sampled > old_nbytes:
            raise _damaged(name)
        old_header, new_header, tail = headers[:n_old], headers[n_old : n_old + n_new], headers[n_old + n_new :]
        trunk = TrunkSamples(sampled, samples)
        return cls(str(operation), old_nbytes, new_nbytes, shift, old_header, new_header, trunk, tail)

    def write(self, model: Path) -> None:
        """Put it beside `model`, complete and on the disk when this returns. Raises OSError."""
        path, temporary = journal_path(model), temporary_name(model)
        try:
            fd = create_temporary(temporary, 0o600)
            try:
                disk.write_at(fd, self.encode(), 0)
                disk.sync(fd)
            finally:
                os.close(fd)
            disk.rename(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        disk.sync_folder(path.parent)


_COUNTS = ("old_nbytes", "new_nbytes", "old_header_nbytes", "new_header_nbytes", "sampled_nbytes")


def _count(fields: Mapping[str, Json], key: str, name: str) -> int:
    value = fields.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise _damaged(name)
    return value


def _damaged(name: str) -> InvalidFileError:
    return InvalidFileError(
        "is not a whole journal of mtpgraft's",
        file=name,
        hint="it was damaged after it was written: keep it and the file, and take the model from a backup",
    )


def read_journal(model: Path) -> Journal | None:
    """The journal beside `model`, or None."""
    path = journal_path(model)
    if not path.exists():
        return None
    file = LocalFile.open(path)
    try:
        if file.size > _MAX_NBYTES:
            raise InvalidFileError("is too large for a journal", file=path)
        return Journal.decode(file.read_at(0, file.size), str(path))
    finally:
        file.close()


def remove_journal(model: Path) -> None:
    """The change is complete, or undone. Raises TransientError when the disk refuses."""
    path = journal_path(model)
    try:
        disk.unlink(path)
        disk.sync_folder(path.parent)
    except OSError as error:
        raise io_error(error, path, "could not be removed") from error
