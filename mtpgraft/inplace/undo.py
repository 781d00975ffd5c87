"""From any point of a change in place back to the old file, or, once a strip has cut its head off, on to the new one.

Where the change was stopped follows from the file's size: each step but the header's gives it another one, and the old
header is written again in any case. Doing all this twice does no harm, so it may be killed as well.
"""

from __future__ import annotations

import os
from pathlib import Path

from mtpgraft.errors import InvalidFileError
from mtpgraft.inplace.journal import Journal
from mtpgraft.source.local import LocalFile
from mtpgraft.write import disk, io_error


def bring_back(fd: int, journal: Journal, path: Path) -> bool:
    """True when the file is the old one again, False when it is the finished new one. The caller removes the journal.

    Raises InvalidFileError when the file is not one that this journal's change can have left (the journal stays), and
    TransientError when the disk fails.
    """
    try:
        is_old = _undo_graft(fd, journal, path) if journal.operation == "graft" else _undo_strip(fd, journal, path)
    except OSError as error:
        raise io_error(error, path, "could not be brought back") from error
    data_start = len(journal.old_header) if is_old else len(journal.new_header)
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
    return is_old


def _undo_graft(fd: int, journal: Journal, path: Path) -> bool:
    size = os.fstat(fd).st_size
    if journal.shift and size == journal.new_nbytes:
        disk.collapse_range(fd, 0, journal.shift)
    elif not journal.old_nbytes <= size <= journal.new_nbytes - journal.shift:
        raise _unknown_state(journal, size, path)
    disk.write_at(fd, journal.old_header, 0)
    disk.sync(fd)
    disk.truncate(fd, journal.old_nbytes)
    disk.sync(fd)
    return True


def _undo_strip(fd: int, journal: Journal, path: Path) -> bool:
    size = os.fstat(fd).st_size
    if journal.shift and size == journal.old_nbytes + journal.shift:
        disk.insert_range(fd, 0, -journal.shift)
    elif size == journal.new_nbytes and size != journal.old_nbytes:
        disk.write_at(fd, journal.new_header, 0)
        disk.sync(fd)
        return False
    elif size != journal.old_nbytes:
        raise _unknown_state(journal, size, path)
    disk.write_at(fd, journal.old_header, 0)
    disk.sync(fd)
    return True


def _unknown_state(journal: Journal, size: int, path: Path) -> InvalidFileError:
    return InvalidFileError(
        "was changed by something else since its change in place was interrupted",
        file=path,
        expected=f"{journal.old_nbytes} to {journal.new_nbytes} bytes",
        found=f"{size} bytes",
        hint="take the model from a backup, and remove the journal beside it",
    )
