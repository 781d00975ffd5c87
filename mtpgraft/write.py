"""Executes a plan: streams every byte of the planned files into temporary files beside their final names.

Nothing appears under a final name here: `Written.publish` renames, after the caller has verified what was written.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mtpgraft.errors import InputError, RefusedError, TransientError
from mtpgraft.head import head_digest
from mtpgraft.plan.values import ConvertTensor, CopyBytes, FilePlan, OutTensor, SurgeryPlan
from mtpgraft.quantize import convert
from mtpgraft.source.base import Source, read_exactly

Progress = Callable[[int], None]
"""Called with the number of bytes written since the last call."""

_CHUNK_NBYTES = 4 * 2**20
_DIGEST_PLACEHOLDER = b"0" * 64
_SPACE_RESERVE_NBYTES = 2**20


@dataclass(frozen=True, slots=True)
class Written:
    """Complete files under temporary names: (temporary, final) for each planned file."""

    files: tuple[tuple[Path, Path], ...]

    @property
    def first(self) -> Path:
        """The temporary name of the first file."""
        return self.files[0][0]

    def publish(self) -> None:
        """Give the files their final names. Raises TransientError when the file system refuses."""
        try:
            for temporary, final in self.files:
                temporary.replace(final)
            for folder in {final.parent for _, final in self.files}:
                _sync_folder(folder)
        except OSError as error:
            raise _io_error(error, self.files[0][1], "could not be put in place") from error

    def discard(self) -> None:
        """Remove what is left of the temporary files."""
        for temporary, _ in self.files:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def check_targets(plan: SurgeryPlan, *, overwrite: bool) -> None:
    """Raise unless every planned file can be written: folder there, name free (or `overwrite`), disk large enough."""
    needed: dict[Path, int] = {}
    for file in plan.files:
        folder = file.path.parent
        if not folder.is_dir():
            raise InputError("no such folder to write into", file=folder, hint=f"mkdir -p {folder}")
        if file.path.is_dir():
            raise InputError("is a folder", file=file.path, expected="the name of a file to write")
        if file.path.exists() and not overwrite:
            raise RefusedError("exists already", file=file.path, hint="--force overwrites it, or choose another name")
        needed[folder] = needed.get(folder, 0) + file.header().file_nbytes
    for folder, n_bytes in needed.items():
        free = shutil.disk_usage(folder).free
        if free < n_bytes + _SPACE_RESERVE_NBYTES:
            raise TransientError(
                "not enough room on the disk",
                file=folder,
                expected=f"{n_bytes} bytes",
                found=f"{free} bytes free",
            )


def write_plan(plan: SurgeryPlan, progress: Progress | None = None, n_threads: int | None = None) -> Written:
    """Write all files of a plan under temporary names. On any failure nothing is left behind.

    Raises TransientError for disk trouble, TruncatedError when a source turns out shorter than its header says.
    """
    report = progress or (lambda n: None)
    written = Written(tuple((_temporary(file.path), file.path) for file in plan.files))
    try:
        digests: list[tuple[int, str, tuple[int, ...], int, str]] = []
        for (temporary, _), file in zip(written.files, plan.files, strict=True):
            try:
                with temporary.open("wb", buffering=0) as out:
                    digests += _write_file(file, out, report, n_threads)
            except OSError as error:
                raise _io_error(error, file.path, "could not be written") from error
        for (temporary, _), file in zip(written.files, plan.files, strict=True):
            if file.digest_key is not None:
                _put_digest(file, temporary, head_digest(digests))
    except BaseException:
        written.discard()
        raise
    return written


def _temporary(final: Path) -> Path:
    return final.with_name(f".{final.name}.{os.getpid()}.mtpgraft-tmp")


def _write_file(
    plan: FilePlan, out: BinaryIO, progress: Progress, n_threads: int | None
) -> list[tuple[int, str, tuple[int, ...], int, str]]:
    """Write one file and sync it; returns a digest row for each head tensor in it."""
    header = plan.header()
    _write(out, header.raw)
    progress(len(header.raw))
    position = len(header.raw)
    rows = []
    for tensor, offset in zip(plan.tensors, header.data_offsets, strict=True):
        if offset > position:
            _write(out, bytes(offset - position))
        sha = hashlib.sha256() if tensor.head_block is not None else None
        n_data = 0
        for chunk in _chunks(tensor, plan.byte_order, n_threads):
            if sha is not None:
                sha.update(memoryview(chunk)[: max(0, tensor.n_bytes - n_data)])
            _write(out, chunk)
            n_data += len(chunk)
            progress(len(chunk))
        position = offset + n_data
        if sha is not None and tensor.head_block is not None:
            rows.append((tensor.head_block, tensor.local_name, tensor.shape, tensor.type_id, sha.hexdigest()))
    end = _end(plan, header.file_nbytes, position)
    if end > position:
        _write(out, bytes(end - position))
    out.truncate(end)
    os.fsync(out.fileno())
    return rows


def _end(plan: FilePlan, padded_nbytes: int, written_nbytes: int) -> int:
    """Size of the file: padded, unless the original's end was known to lack padding."""
    exact = plan.exact_nbytes
    if exact is None or not plan.tensors:
        return padded_nbytes
    last = plan.tensors[-1]
    data_end = plan.header().data_offsets[-1] + last.n_bytes
    return exact if data_end <= exact <= padded_nbytes else padded_nbytes


def _chunks(tensor: OutTensor, byte_order: str, n_threads: int | None) -> Iterator[bytes]:
    data = tensor.data
    if isinstance(data, CopyBytes):
        return _copied(data.source, data.offset, data.n_bytes, tensor.name)
    return _converted(tensor, data, byte_order, n_threads)


def _copied(source: Source, offset: int, n_bytes: int, name: str) -> Iterator[bytes]:
    while n_bytes:
        part = min(n_bytes, _CHUNK_NBYTES)
        yield read_exactly(source, offset, part, f"tensor {name}")
        offset += part
        n_bytes -= part


def _converted(tensor: OutTensor, data: ConvertTensor, byte_order: str, n_threads: int | None) -> Iterator[bytes]:
    return convert(
        data.source,
        data.offset,
        data.shape,
        data.from_type,
        tensor.type_id,
        data.from_order,
        byte_order,
        n_threads,
    )


def _write(out: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        n = out.write(view)
        view = view[n:]


def _put_digest(plan: FilePlan, path: Path, digest: str) -> None:
    """Replace the digest key's placeholder; the file is not published yet, so this is no risk."""
    raw = plan.header().raw
    key = next(key for key in plan.keys if key.name == plan.digest_key)
    at = raw.index(bytes(key.record)) + len(key.record) - len(_DIGEST_PLACEHOLDER)
    assert raw[at : at + 64] == _DIGEST_PLACEHOLDER
    try:
        with path.open("r+b") as out:
            out.seek(at)
            out.write(digest.encode())
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise _io_error(error, plan.path, "could not be written") from error


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _io_error(error: OSError, path: Path, what: str) -> TransientError:
    hint = "free some space and run it again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
    return TransientError(f"{what}: {error.strerror or error}", file=path, hint=hint)
