"""Executes a plan: every byte of the planned files, into temporary files beside their final names.

disk.py does every change to the disk, one function each; copying.py moves trunks through the kernel; leftovers.py names
temporary files and removes those of killed runs; files.py puts it together.
"""

from mtpgraft.write.files import Progress, Written, check_targets, io_error, write_plan
from mtpgraft.write.room import check_room

__all__ = ["Progress", "Written", "check_room", "check_targets", "io_error", "write_plan"]
