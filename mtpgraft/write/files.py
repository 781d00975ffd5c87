"""Writes the planned files under temporary names. Nothing appears under a final name here: `Written.publish` renames,
after the caller has verified what was written.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mtpgraft.compare import Proven
from mtpgraft.container.encode import EncodedHeader
from mtpgraft.errors import RefusedError, TransientError
from mtpgraft.head import head_digest
from mtpgraft.plan.values import ComputedTensor, CopyBytes, FilePlan, OutTensor, SurgeryPlan
from mtpgraft.quantize import convert
from mtpgraft.recipe import encoded
from mtpgraft.source.base import read_chunks
from mtpgraft.target import check_target
from mtpgraft.write import disk
from mtpgraft.write.copying import Copied, Copier, copied_spans, is_full, joined, span_of
from mtpgraft.write.following import Follower
from mtpgraft.write.leftovers import create_temporary, remove_leftovers, temporary_name
from mtpgraft.write.room import check_room_for

Progress = Callable[[int], None]
"""Called with the number of bytes written since the last call."""

DigestRow = tuple[int, str, tuple[int, ...], int, str]
"""What head_digest takes for one head tensor."""

_DIGEST_PLACEHOLDER = b"0" * 64


@dataclass(frozen=True, slots=True)
class Written:
    """Complete files under temporary names: (temporary, final) for each planned file.

    They are still on their way to the disk: what is read of them meanwhile comes from memory, as it does afterwards.
    """

    files: tuple[tuple[Path, Path], ...]
    _syncing: Future[None] = field(repr=False)
    _followers: tuple[Follower, ...] = field(repr=False)

    @property
    def first(self) -> Path:
        """The temporary name of the first file."""
        return self.files[0][0]

    def proven(self) -> tuple[Proven, ...]:
        """What was compared while it was copied, if that was asked for. Waits for the last of it; to be asked once."""
        return tuple(follower.finish() for follower in self._followers)

    def publish(self) -> None:
        """Wait until the files are on the disk, then give them their final names.

        Raises TransientError when the disk or the file system refuses.
        """
        try:
            self._syncing.result()
        except OSError as error:
            raise io_error(error, self.files[0][1], "could not be written") from error
        try:
            for temporary, final in self.files:
                disk.rename(temporary, final)
            for folder in {final.parent for _, final in self.files}:
                disk.sync_folder(folder)
        except OSError as error:
            raise io_error(error, self.files[0][1], "could not be put in place") from error

    def discard(self) -> None:
        """Remove what is left of the temporary files."""
        wait([self._syncing])
        for follower in self._followers:
            follower.cancel()
        _remove([temporary for temporary, _ in self.files])


def check_targets(plan: SurgeryPlan, *, overwrite: bool) -> None:
    """Raise unless every planned file can be written: folder there, name free (or `overwrite`), disk large enough.

    What killed runs left behind for these files is removed first.
    """
    by_folder: dict[Path, list[FilePlan]] = {}
    for file in plan.files:
        check_target(file.path, overwrite=overwrite)
        remove_leftovers(file.path)
        by_folder.setdefault(file.path.parent, []).append(file)
    for folder, files in by_folder.items():
        check_room_for(folder, files)


def write_plan(
    plan: SurgeryPlan,
    progress: Progress | None = None,
    n_threads: int | None = None,
    mode: int = 0o666,
    *,
    compare: bool = False,
) -> Written:
    """Write all files of a plan under temporary names and begin to sync them. On any failure nothing is left behind.

    mode: permissions of the new files, before the umask. compare: read back what is copied, for `Written.proven`.
    Raises TransientError for disk trouble, TruncatedError when a source turns out shorter than its header says.
    """
    report = _shared(progress or (lambda n: None))
    files = tuple((temporary_name(file.path), file.path) for file in plan.files)
    headers = [file.header() for file in plan.files]
    fds: list[int] = []
    followers: list[Follower] = []
    rows: list[DigestRow] = []
    current = plan.files[0].path
    try:
        for (temporary, _), file, header in zip(files, plan.files, headers, strict=True):
            current = file.path
            fds.append(create_temporary(temporary, mode))
            followers += [Follower(temporary)] if compare else []
            copied = followers[-1].copied if compare else None
            rows += _write_data(file, header, fds[-1], report, n_threads, copied)
        for fd, file, header in zip(fds, plan.files, headers, strict=True):
            current = file.path
            raw = header_with_digest(file, header.raw, rows)  # a head may lie in another file than its digest
            disk.write_at(fd, raw, 0)
            report(len(raw))
    except BaseException as error:
        for follower in followers:
            follower.cancel()
        for fd in fds:
            os.close(fd)
        _remove([temporary for temporary, _ in files])
        if isinstance(error, OSError):
            raise io_error(error, current, "could not be written") from error
        raise
    pool = ThreadPoolExecutor(1)
    syncing = pool.submit(_sync, fds)
    pool.shutdown(wait=False)
    return Written(files, syncing, tuple(followers))


def _sync(fds: list[int]) -> None:
    try:
        for fd in fds:
            disk.sync(fd)
    finally:
        for fd in fds:
            os.close(fd)


def _remove(temporaries: list[Path]) -> None:
    for temporary in temporaries:
        with suppress(OSError):
            if temporary.exists():
                disk.unlink(temporary)


def _write_data(
    plan: FilePlan, header: EncodedHeader, fd: int, report: Progress, n_threads: int | None, copied: Copied | None
) -> list[DigestRow]:
    """Everything but the header. The trunk is copied by one thread while another converts and writes the head."""
    places = list(zip(plan.tensors, header.data_offsets, strict=True))
    disk.truncate(fd, end_of_file(plan, header))
    spans = list(joined(copied_spans(plan, header)))
    copier, cancelled = Copier(fd, report, copied), threading.Event()

    def copy_all() -> None:
        for span in spans:
            copier.copy(span, cancelled.is_set)

    rows = []
    with ThreadPoolExecutor(1) as pool:
        copying = pool.submit(copy_all)
        try:
            for tensor, at in places:
                if span_of(tensor, at) is None:
                    rows += write_tensor(tensor, at, fd, plan.byte_order, report, n_threads)
        except BaseException:
            cancelled.set()
            raise
        try:
            copying.result()
        except BaseException:  # Ctrl-C reaches this thread, not the copying one
            cancelled.set()
            raise
    if plan.exact_nbytes is not None:
        disk.truncate(fd, end_of_file(plan, header))  # the padding copied with the last tensor may be too much
    return rows


def write_tensor(
    tensor: OutTensor, position: int, fd: int, byte_order: str, report: Progress, n_threads: int | None = None
) -> list[DigestRow]:
    """Write one tensor's data at `position`; returns its digest row, if it is a head's."""
    sha = hashlib.sha256()
    n_data = 0
    for chunk in _chunks(tensor, byte_order, n_threads):
        sha.update(memoryview(chunk)[: max(0, tensor.n_bytes - n_data)])
        disk.write_at(fd, chunk, position + n_data)
        n_data += len(chunk)
        report(len(chunk))
    if tensor.head_block is None:
        return []
    return [(tensor.head_block, tensor.local_name, tensor.shape, tensor.type_id, sha.hexdigest())]


def header_with_digest(plan: FilePlan, raw: bytes, rows: list[DigestRow]) -> bytes:
    """The header with the digest of the head that was written, in the place kept for it."""
    if plan.digest_key is None:
        return raw
    key = next(key for key in plan.keys if key.name == plan.digest_key)
    at = raw.index(bytes(key.record)) + len(key.record) - len(_DIGEST_PLACEHOLDER)
    assert raw[at : at + 64] == _DIGEST_PLACEHOLDER
    return b"".join((memoryview(raw)[:at], head_digest(rows).encode(), memoryview(raw)[at + 64 :]))


def end_of_file(plan: FilePlan, header: EncodedHeader) -> int:
    """Size of the file: padded, unless the original's end was known to lack padding."""
    exact = plan.exact_nbytes
    if exact is None or not plan.tensors:
        return header.file_nbytes
    data_end = header.data_offsets[-1] + plan.tensors[-1].n_bytes
    return exact if data_end <= exact <= header.file_nbytes else header.file_nbytes


def _chunks(tensor: OutTensor, byte_order: str, n_threads: int | None) -> Iterator[bytes | memoryview]:
    data = tensor.data
    if isinstance(data, CopyBytes):
        return read_chunks(data.source, data.offset, data.n_bytes, f"tensor {tensor.name}")
    if isinstance(data, ComputedTensor):
        return encoded(data.rows, tensor.type_id, byte_order, n_threads)
    return convert(
        data.source, data.offset, data.shape, data.from_type, tensor.type_id, data.from_order, byte_order, n_threads
    )


def _shared(progress: Progress) -> Progress:
    """The same, callable from several threads."""
    lock = threading.Lock()

    def report(n_bytes: int) -> None:
        with lock:
            progress(n_bytes)

    return report


def io_error(error: OSError, path: Path, what: str) -> TransientError | RefusedError:
    """A failed change to the disk as users see it; one that no retry cures is refused."""
    text = f"{what}: {error.strerror or error}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return RefusedError(text, file=path, hint="choose a folder that can be written to")
    return TransientError(text, file=path, hint="free some space and run it again" if is_full(error) else None)
