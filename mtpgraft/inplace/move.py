"""Whether a plan's file can be had by moving the trunk of its base, and by how much."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mtpgraft.container import GGUFModel
from mtpgraft.container.encode import EncodedHeader
from mtpgraft.plan.values import CopyBytes, FilePlan, OutTensor, SurgeryPlan
from mtpgraft.source.local import LocalFile
from mtpgraft.write import disk, linux
from mtpgraft.write.files import end_of_file
from mtpgraft.write.leftovers import create_temporary, temporary_name


@dataclass(frozen=True, slots=True)
class Move:
    """A graft or strip without copying the trunk.

    shift: bytes by which the trunk moves. trunk_nbytes: from the data section's start to the end of the last trunk
        tensor. added: head tensors of a graft, with their place in the new file.
    """

    file: FilePlan = field(repr=False)
    header: EncodedHeader = field(repr=False)
    operation: str
    old_data_start: int
    old_nbytes: int
    new_nbytes: int
    shift: int
    trunk_nbytes: int
    added: tuple[tuple[OutTensor, int], ...] = field(repr=False)

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def new_data_start(self) -> int:
        return self.old_data_start + self.shift


@dataclass(frozen=True, slots=True)
class NoMove:
    """Why the file has to be copied."""

    reason: str


def plan_move(plan: SurgeryPlan, base: GGUFModel) -> Move | NoMove:
    """How the one file of `plan`, which replaces `base`, can be made where it lies."""
    if not linux.IS_LINUX:
        return NoMove("only Linux can move data inside a file")
    if base.is_split or len(plan.files) != 1:
        return NoMove("a split set is joined")
    file, shard = plan.files[0], base.shards[0]
    source = shard.source
    if not isinstance(source, LocalFile) or not file.path.samefile(source.path):
        return NoMove("the result does not replace its base")
    if file.path.is_symlink() or file.path.stat().st_nlink > 1:
        return NoMove("the file has other names, whose content would change too")
    if shard.has_gaps or shard.trailing_nbytes or not shard.tensors:
        return NoMove("the base has gaps, or bytes after its last tensor")
    size = os.fstat(source.fileno()).st_size
    if linux.data_segments(source.fileno(), 0, size) != [(0, size)]:
        return NoMove("the file has holes, and a hole is what tells how far an interrupted move has come")
    if file.alignment > os.statvfs(file.path).f_bsize:
        return NoMove("its alignment would leave holes")
    header = file.header()
    new_start = len(header.raw)
    n_trunk, trunk_nbytes = 0, 0
    for tensor, at, old in zip(file.tensors, header.data_offsets, shard.tensors, strict=False):
        data = tensor.data
        if not isinstance(data, CopyBytes) or data.source is not source or data.offset != old.offset:
            break
        if tensor.n_bytes != old.n_bytes or at - new_start != old.offset - shard.data_start:
            break
        n_trunk += 1
        trunk_nbytes = at - new_start + tensor.n_bytes
    added = tuple(zip(file.tensors[n_trunk:], header.data_offsets[n_trunk:], strict=True))
    removed = shard.tensors[n_trunk:]
    if (added and removed) or not n_trunk:
        return NoMove("the trunk does not lie in front of the head, or another head takes the place of one")
    if any(isinstance(t.data, CopyBytes) and t.data.source is source for t, _ in added):
        return NoMove("the trunk changes its order")
    shift = new_start - shard.data_start
    if (shift < 0) if added else (shift > 0):
        return NoMove("the header would change its size the wrong way")
    problem = _problem_with_blocks(file.path, shift)
    if problem:
        return NoMove(problem)
    return Move(
        file=file,
        header=header,
        operation="graft" if added else "strip",
        old_data_start=shard.data_start,
        old_nbytes=source.size,
        new_nbytes=end_of_file(file, header),
        shift=shift,
        trunk_nbytes=trunk_nbytes,
        added=added,
    )


def _problem_with_blocks(path: Path, shift: int) -> str | None:
    """Why the file system cannot move data by `shift`, tried on a file of its own; None when it can."""
    block = os.statvfs(path).f_bsize
    if shift % block:
        return f"the trunk would move by {shift} bytes, which is no multiple of the {block}-byte blocks of this disk"
    if not shift:
        return None
    temporary = temporary_name(path)
    try:
        fd = create_temporary(temporary)
        try:
            disk.write_at(fd, bytes(2 * block), 0)
            disk.insert_range(fd, 0, block)
            disk.collapse_range(fd, 0, block)
        finally:
            os.close(fd)
    except OSError as error:
        return f"this file system cannot move data inside a file: {error.strerror}"
    finally:
        with suppress(OSError):
            disk.unlink(temporary)
    return None
