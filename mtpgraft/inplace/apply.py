"""Carries out a change in place, in steps that the journal can undo at any point."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mtpgraft.container import GGUFModel, gguf_from_sources
from mtpgraft.errors import MtpgraftError, RefusedError, TransientError
from mtpgraft.inplace.journal import Journal, read_journal, remove_journal
from mtpgraft.inplace.move import Move
from mtpgraft.inplace.samples import TrunkSamples
from mtpgraft.inplace.undo import bring_back
from mtpgraft.source.base import read_exactly
from mtpgraft.source.local import LocalFile
from mtpgraft.write import Progress, check_room, disk, io_error, linux
from mtpgraft.write.files import header_with_digest, write_tensor
from mtpgraft.write.leftovers import remove_leftovers, try_lock

_MAX_BLOCK_NBYTES = 65536
"""Of ext4 and XFS."""


class CannotMoveError(MtpgraftError):
    """The file system declined to move this file's data; the file is as it was."""


Verify = Callable[[GGUFModel, TrunkSamples], None]
"""Raises when the result is not what was planned."""


def apply_in_place(move: Move, base: GGUFModel, verify: Verify, progress: Progress | None = None) -> None:
    """Turn the base into the planned file. On any failure the base is brought back before this raises.

    Raises CannotMoveError when the file system declines (the caller copies instead), TransientError for disk trouble.
    """
    path = move.path
    with locked(path) as fd:
        _refuse_changed(path, fd, base)
        remove_leftovers(path)
        check_room(path.parent, max(0, move.new_nbytes - move.old_nbytes) + 2 * len(move.header.raw))
        source = base.shards[0].source
        try:
            disk.sync(fd)  # what the journal says of the base has to be true of the disk
        except OSError as error:
            raise io_error(error, path, "could not be written to the disk") from error
        samples = TrunkSamples.take(source, move.old_data_start, move.trunk_nbytes)
        old_header = read_exactly(source, 0, move.old_data_start, "the header")
        new_header, tail = b"", b""
        if move.operation == "strip":
            end = move.new_nbytes - move.shift
            new_header = move.header.raw
            tail = read_exactly(source, end, min(_MAX_BLOCK_NBYTES, move.old_nbytes - end), "the head")
        journal = Journal(
            move.operation, move.old_nbytes, move.new_nbytes, move.shift, old_header, new_header, samples, tail
        )  # fmt: skip
        try:
            journal.write(path)
        except OSError as error:
            raise io_error(error, path, "its journal could not be written") from error
        try:
            if move.operation == "graft":
                _graft(move, fd, progress or (lambda n: None))
                _verify(path, samples, verify)
            else:
                _shift_and_head(move, fd, move.header.raw)
                _verify(path, samples, verify)
                disk.truncate(fd, move.new_nbytes)
                disk.sync(fd)
        except BaseException as error:
            bring_back(fd, journal, path)
            remove_journal(path)
            if isinstance(error, OSError):
                raise io_error(error, path, "could not be changed in place, and is as it was") from error
            raise
        remove_journal(path)


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """The file opened for writing, with the lock that keeps a second run away."""
    if not path.stat().st_mode & 0o222:
        raise RefusedError("is write-protected", file=path, hint=f"chmod u+w {path}, or give -o OUT.gguf")
    try:
        fd = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise io_error(error, path, "cannot be opened for writing") from error
    try:
        if not try_lock(fd):
            raise TransientError("another run of mtpgraft is changing it", file=path, hint="wait until that has ended")
        yield fd
    finally:
        os.close(fd)


def _refuse_changed(path: Path, fd: int, base: GGUFModel) -> None:
    source = base.shards[0].source
    assert isinstance(source, LocalFile)
    mine, planned = os.fstat(fd), os.fstat(source.fileno())
    same = os.path.samestat(mine, planned) and mine.st_size == source.size
    if not same or read_journal(path) is not None:
        raise TransientError("was changed by another program just now", file=path, hint="run it again")


def _graft(move: Move, fd: int, progress: Progress) -> None:
    rows = []
    for tensor, at in move.added:
        rows += write_tensor(tensor, at - move.shift, fd, move.file.byte_order, progress)
    disk.truncate(fd, move.new_nbytes - move.shift)
    disk.sync(fd)
    _shift_and_head(move, fd, header_with_digest(move.file, move.header.raw, rows))


def _shift_and_head(move: Move, fd: int, header: bytes) -> None:
    if move.shift:
        linux.drop_cached_pages(fd, os.fstat(fd).st_size)
    try:
        if move.shift > 0:
            disk.insert_range(fd, 0, move.shift)
        elif move.shift < 0:
            disk.collapse_range(fd, 0, -move.shift)
    except OSError as error:
        if error.errno in linux.CANNOT:
            raise CannotMoveError(f"the file system does not move its data: {error.strerror}") from error
        raise
    disk.write_at(fd, header, 0)
    disk.sync(fd)


def _verify(path: Path, samples: TrunkSamples, verify: Verify) -> None:
    source = LocalFile.open(path, in_between=True)
    try:
        verify(gguf_from_sources([source]), samples)
    finally:
        source.close()
