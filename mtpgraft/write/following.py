"""Reads back what a copy has just written, and holds it against its source while both are still in memory.

The proof after the copy then reads only what was not compared here. For a file larger than the memory, that saves
reading everything again from the disk, twice (docs/reliability.md says why it proves the same).
"""

from __future__ import annotations

import threading
from pathlib import Path
from queue import SimpleQueue

from mtpgraft.compare import Proven, Stretch, file_state, same_read
from mtpgraft.errors import MtpgraftError
from mtpgraft.source.local import LocalFile


class Follower:
    """Follows one copy, in a thread of its own. Comparing changes nothing: what fails here is left to the proof."""

    def __init__(self, path: Path) -> None:
        self._file = LocalFile.open(path)
        self._queue: SimpleQueue[Stretch | None] = SimpleQueue()
        self._stop = threading.Event()
        self._equal: list[Stretch] = []
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def copied(self, source: LocalFile, source_offset: int, n_bytes: int, offset: int) -> None:
        """Say that these bytes of the source now are in the file, at `offset`, and will not be written again."""
        self._queue.put(Stretch(offset, source, source_offset, n_bytes))

    def finish(self) -> Proven:
        """Wait for the last comparison. To be called when all of the file is written."""
        state = file_state(self._file)
        self._queue.put(None)
        self._thread.join()
        self._file.close()
        return Proven(state, tuple(self._equal))

    def cancel(self) -> None:
        """Stop comparing; harmless when finished."""
        self._stop.set()
        self._queue.put(None)
        self._thread.join()
        self._file.close()

    def _work(self) -> None:
        while (stretch := self._queue.get()) is not None and not self._stop.is_set():
            try:
                if same_read(
                    self._file, stretch.offset, stretch.other, stretch.other_offset, stretch.n_bytes, stop=self._stop
                ):
                    self._equal.append(stretch)
            except (MtpgraftError, OSError):
                continue  # the proof reads it again, and says what is wrong
