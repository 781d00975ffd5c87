"""Ends an interrupted change in place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mtpgraft.errors import InputError
from mtpgraft.inplace.apply import locked
from mtpgraft.inplace.journal import read_journal, remove_journal
from mtpgraft.inplace.undo import bring_back
from mtpgraft.source.local import journal_path
from mtpgraft.write.leftovers import remove_leftovers


@dataclass(frozen=True, slots=True)
class Recovered:
    """state: "clean" (nothing was interrupted), "restored" (the old file, byte for byte) or "finished" (the new one).

    operation: what had been interrupted, or None. leftovers: temporary files that were removed.
    """

    path: Path
    state: str
    operation: str | None
    leftovers: tuple[Path, ...]


def recover(path: Path) -> Recovered:
    """Bring `path` out of an interrupted graft or strip in place.

    Raises InputError when there is no such file, TransientError while another run is at work on it, InvalidFileError
    when something else changed the file or its journal meanwhile.
    """
    if not path.is_file():
        raise InputError("no such file", file=path, hint="check the path")
    path = path.resolve()
    leftovers = tuple(remove_leftovers(path))
    if not journal_path(path).exists():
        return Recovered(path, "clean", None, leftovers)
    with locked(path) as fd:
        journal = read_journal(path)
        if journal is None:  # the run that held the lock has just ended
            return Recovered(path, "clean", None, leftovers)
        is_old = bring_back(fd, journal, path)
        remove_journal(path)
    return Recovered(path, "restored" if is_old else "finished", journal.operation, leftovers)


def recover_if_needed(path: Path) -> Recovered | None:
    """The same, for commands that are about to change `path` in place; None when nothing was interrupted."""
    return recover(path) if path.is_file() and journal_path(path).exists() else None
