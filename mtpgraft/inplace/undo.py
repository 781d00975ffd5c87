"""From any point of a change in place back to the old file, or, once a strip has cut its head off, on to the new one.

Where the change was stopped follows from the file's size: each step but the header's gives it another one, and the old
header is written again in any case. A move of the trunk that was cut short (the power failed, or the disk was full)
shows as a hole, which is closed first. Doing all this twice does no harm, so it may be killed as well.
"""

from __future__ import annotations

import os
from pathlib import Path

from mtpgraft.errors import InvalidFileError
from mtpgraft.inplace.journal import Journal
from mtpgraft.source.local import LocalFile
from mtpgraft.write import disk, io_error, linux


def bring_back(fd: int, journal: Journal, path: Path) -> bool:
    """True when the file is the old one again, False when it is the finished new one. The caller removes the journal.

    Raises InvalidFileError when the file is not one that this journal's change can have left (the journal stays), and
    TransientError when the disk fails.
    """
    try:
        return _undo_graft(fd, journal, path) if journal.operation == "graft" else _undo_strip(fd, journal, path)
    except OSError as error:
        raise io_error(error, path, "could not be brought back") from error


def _undo_graft(fd: int, journal: Journal, path: Path) -> bool:
    size = os.fstat(fd).st_size
    old_start = len(journal.old_header)
    if journal.shift and size == journal.new_nbytes:
        gap = _gap(fd, journal.shift, path)
        if not gap:
            _require_trunk(path, journal, old_start + journal.shift)
        _close_gap(fd, gap, journal.shift)
    elif not journal.old_nbytes <= size <= journal.new_nbytes - journal.shift:
        raise _unknown_state(journal, size, path)
    _require_trunk(path, journal, old_start)
    disk.write_at(fd, journal.old_header, 0)
    disk.sync(fd)
    disk.truncate(fd, journal.old_nbytes)
    disk.sync(fd)
    return True


def _undo_strip(fd: int, journal: Journal, path: Path) -> bool:
    if journal.shift and os.fstat(fd).st_size == journal.old_nbytes:
        gap = _gap(fd, -journal.shift, path)
        if gap:
            _close_gap(fd, gap, -journal.shift)
    size = os.fstat(fd).st_size
    if journal.shift and size == journal.old_nbytes + journal.shift:
        disk.insert_range(fd, 0, -journal.shift)
    elif size == journal.new_nbytes and size != journal.old_nbytes:
        _require_trunk(path, journal, len(journal.new_header))
        disk.write_at(fd, journal.new_header, 0)
        disk.sync(fd)
        return False
    elif size != journal.old_nbytes:
        raise _unknown_state(journal, size, path)
    _require_trunk(path, journal, len(journal.old_header))
    disk.write_at(fd, journal.old_header, 0)
    disk.write_at(fd, journal.tail, journal.new_nbytes - journal.shift)
    disk.sync(fd)
    return True


def _gap(fd: int, n_bytes: int, path: Path) -> int:
    """Where the extents begin that a move by `n_bytes` has yet to bring back; 0 when it is whole, or never began.

    ext4 and XFS move one extent after the other, in several transactions, with the file at its larger size. What is in
    the new place and what is in the old are then parted by a hole as long as the move, at the file's end when none has
    moved; every other hole lies in front, in room for a header that was not written. (The file had none before.)
    """
    size = os.fstat(fd).st_size
    ends = [0, *(place for segment in linux.data_segments(fd, 0, size) for place in segment), size]
    holes = [(start, end) for start, end in zip(ends[::2], ends[1::2], strict=True) if start < end]
    if all(end <= n_bytes for _, end in holes):
        return 0
    start, end = holes[0]
    if len(holes) > 1 or not (end - start == n_bytes or (end == size and start >= size - n_bytes)):
        raise InvalidFileError(
            "has holes that no interrupted change leaves",
            file=path,
            hint="take the model from a backup, and remove the journal beside it",
        )
    return min(start, size - n_bytes)


def _close_gap(fd: int, offset: int, n_bytes: int) -> None:
    size = os.fstat(fd).st_size
    if offset + n_bytes < size:
        disk.collapse_range(fd, offset, n_bytes)
    else:
        disk.truncate(fd, offset)


def _require_trunk(path: Path, journal: Journal, data_start: int) -> None:
    source = LocalFile.open(path, in_between=True)
    try:
        if not journal.samples.holds_for(source, data_start):
            raise InvalidFileError(
                "its data is not where it was: the disk lost a part of the change",
                file=path,
                hint="take the model from a backup, and remove the journal beside it",
            )
    finally:
        source.close()


def _unknown_state(journal: Journal, size: int, path: Path) -> InvalidFileError:
    return InvalidFileError(
        "was changed by something else since its change in place was interrupted",
        file=path,
        expected=f"{journal.old_nbytes} to {journal.new_nbytes} bytes",
        found=f"{size} bytes",
        hint="take the model from a backup, and remove the journal beside it",
    )
