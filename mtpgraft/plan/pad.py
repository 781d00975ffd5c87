"""Pads a header so that the trunk moves by whole blocks of the disk.

Then the file system can move it (in place), or share it (reflink), and never copies it. The padding is a key of its
own, `mtpgraft.pad`, which strip leaves out like every other key of mtpgraft's.
"""

from __future__ import annotations

from dataclasses import replace

from mtpgraft.container.encode import array_from_bytes
from mtpgraft.container.layout import padded
from mtpgraft.container.types import ValueType
from mtpgraft.plan.values import FilePlan

PAD = "mtpgraft.pad"
BLOCK_NBYTES = 4096
"""Block size of ext4, XFS and Btrfs where pages have 4 kB. In place refuses larger ones, and the copy is made."""
_PAD_KEY_NBYTES = 8 + len(PAD) + 4 + 4 + 8


def with_block_padding(file: FilePlan, base_data_start: int) -> FilePlan:
    """The same file, its data beginning whole blocks behind (or before) `base_data_start`."""
    step = max(BLOCK_NBYTES, file.alignment)
    wanted = base_data_start % step
    n_bytes = file.header_nbytes
    if padded(n_bytes, file.alignment) % step == wanted:
        return file
    smallest = n_bytes + _PAD_KEY_NBYTES
    start = smallest + (wanted - smallest) % step
    pad = array_from_bytes(PAD, ValueType.UINT8, start - smallest, bytes(start - smallest), file.byte_order)
    return replace(file, keys=(*file.keys, pad))
