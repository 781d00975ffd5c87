"""Whether a file may be written where a user wants it, asked before any work is done."""

from __future__ import annotations

import os
from pathlib import Path

from mtpgraft.errors import InputError, RefusedError


def check_target(path: Path, *, overwrite: bool) -> None:
    """Raise InputError or RefusedError unless a file can be put there: folder there, name free (or `overwrite`)."""
    folder = path.parent
    if not folder.is_dir():
        raise InputError("no such folder to write into", file=folder, hint=f"mkdir -p {folder}")
    if path.is_dir():
        raise InputError("is a folder", file=path, expected="the name of a file to write")
    if path.exists() and not path.is_file():
        raise RefusedError("is not a regular file: it would be replaced by one", file=path)
    if not os.access(folder, os.W_OK):
        raise RefusedError("cannot be written into", file=folder, hint="choose another folder")
    if os.path.lexists(path) and not overwrite:  # a link that leads nowhere too
        raise RefusedError("exists already", file=path, hint="--force overwrites it, or choose another name")
