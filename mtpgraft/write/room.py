"""Whether the disk has room for what is about to be written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mtpgraft.errors import TransientError
from mtpgraft.plan.values import FilePlan
from mtpgraft.source.local import LocalFile
from mtpgraft.write import disk
from mtpgraft.write.copying import BLOCK_NBYTES, copied_spans, joined
from mtpgraft.write.leftovers import create_temporary, temporary_name

_RESERVE_NBYTES = 2**20


def check_room(folder: Path, n_bytes: int) -> None:
    """Raise TransientError unless the disk of `folder` has room for `n_bytes`."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes + _RESERVE_NBYTES:
        raise TransientError(
            "not enough room on the disk", file=folder, expected=f"{n_bytes} bytes", found=f"{free} bytes free"
        )


def check_room_for(folder: Path, files: Sequence[FilePlan]) -> None:
    """The same for planned files of that folder, less what they will share with the files they are copied from."""
    n_bytes = sum(file.file_nbytes for file in files)
    try:
        check_room(folder, n_bytes)
    except TransientError:
        n_shared = sum(_shared_nbytes(file) for file in files)
        if not n_shared:
            raise
        check_room(folder, n_bytes - n_shared)


def _shared_nbytes(file: FilePlan) -> int:
    """Bytes of the blocks that need no room of their own: those of whole blocks that this file system can share."""
    n_shared = 0
    can_share: dict[LocalFile, bool] = {}
    for span in joined(copied_spans(file, file.header())):
        source = span.source
        first, end = span.whole_blocks
        if not isinstance(source, LocalFile) or end <= first:
            continue
        if source not in can_share:
            can_share[source] = _can_share(file.path, source, first)
        n_shared += end - first if can_share[source] else 0
    return n_shared


def _can_share(path: Path, source: LocalFile, offset: int) -> bool:
    """Tried with one block and a file of its own."""
    temporary = temporary_name(path)
    try:
        fd = create_temporary(temporary)
        try:
            disk.clone_range(source.fileno(), offset, BLOCK_NBYTES, fd, 0)
        finally:
            os.close(fd)
    except OSError:
        return False
    finally:
        with suppress(OSError):
            disk.unlink(temporary)
    return True
