"""A file on this machine."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

from mtpgraft.errors import InputError, RefusedError, TransientError, TruncatedError


def journal_path(path: Path) -> Path:
    """Where the journal of a change in place of `path` is, while that is not complete."""
    real = Path(os.path.realpath(path))
    return real.with_name(f".{real.name}.mtpgraft-journal")


def is_file(path: Path) -> bool:
    """True for a regular file, or a link to one; False for whatever else, names that no file can have included."""
    try:
        return path.is_file()
    except OSError:  # a name too long, a folder that may not be looked into
        return False


def is_folder(path: Path) -> bool:
    """The same for folders."""
    try:
        return path.is_dir()
    except OSError:
        return False


def folder_entries(folder: Path) -> list[Path]:
    """What is in a folder. Raises InputError when it may not be read."""
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=folder) from None


def read_text(path: Path, max_nbytes: int, what: str) -> str:
    """A whole small file of UTF-8 text. what: what it is read as, for errors ("a list").

    Raises InputError when it is missing, unreadable, no regular file, too large or not text.
    """
    file = LocalFile.open(path)
    try:
        if file.size > max_nbytes:
            sides = f"at most {max_nbytes} bytes", f"{file.size} bytes"
            raise InputError(f"is too large for {what}", file=path, expected=sides[0], found=sides[1])
        return file.read_at(0, file.size).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError("is not UTF-8 text", file=path, where=f"offset {error.start}", expected=what) from None
    finally:
        file.close()


class LocalFile:
    """A local file opened for reading; safe to share between threads.

    Raises InputError when the path is missing, unreadable or not a regular file (a pipe would hang, a folder
    has no bytes), TransientError when the disk fails while reading.
    """

    def __init__(self, path: Path, fd: int, size: int) -> None:
        self._path = path
        self._fd = fd
        self._size = size
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path, *, in_between: bool = False) -> LocalFile:
        """Open `path`. It is checked before and after opening, so that a pipe is never waited for.

        in_between: also while it is being changed in place; otherwise RefusedError.
        """
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, ValueError):  # ValueError: a NUL in the name
            raise InputError("no such file", file=path, hint="check the path") from None
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", file=path) from None
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise InputError(f"is {kind}", file=path, expected="a file")
        if not in_between and os.path.exists(journal_path(path)):  # noqa: PTH110  (a name too long is no error)
            raise RefusedError(
                "is being changed in place, or was when mtpgraft was stopped",
                file=path,
                hint=f"mtpgraft recover {path}",
            )
        try:
            fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise InputError(f"cannot be opened: {error.strerror}", file=path) from None
        return cls(path, fd, os.fstat(fd).st_size)

    @property
    def path(self) -> Path:
        return self._path

    @property
    def name(self) -> str:
        return str(self._path)

    @property
    def size(self) -> int:
        return self._size

    def fileno(self) -> int:
        """The descriptor, for calls that let the kernel read it."""
        return self._fd

    def require(self, offset: int, n_bytes: int, what: str) -> None:
        """Raise TruncatedError unless the file still reaches as far as this."""
        size = os.fstat(self._fd).st_size
        if offset + n_bytes > size:
            raise TruncatedError(
                f"the file ends inside {what}",
                file=self._path,
                where=f"offset {offset}",
                expected=f"{offset + n_bytes} bytes",
                found=f"{size} bytes",
                hint="it became shorter while it was read: is something else writing it?",
            )

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset`; returns how much of it, less than its length only at the end of the file."""
        if not hasattr(os, "preadv"):
            data = self.read_at(offset, len(buffer))
            buffer[: len(data)] = data
            return len(data)
        done = 0
        while done < len(buffer):
            try:
                n = os.preadv(self._fd, [buffer[done:]], offset + done)
            except OSError as error:
                raise self._failed(error, offset + done) from error
            if n == 0:
                break
            done += n
        return done

    def read_at(self, offset: int, n_bytes: int) -> bytes:
        parts: list[bytes] = []
        while n_bytes > 0:
            try:
                part = self._pread(n_bytes, offset)
            except OSError as error:
                raise self._failed(error, offset) from error
            if not part:
                break
            parts.append(part)
            offset += len(part)
            n_bytes -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def will_read(self, places: list[tuple[int, int]]) -> None:
        """Have the disk fetch these stretches, (offset, length), all at once; a hint, for what is read next."""
        if hasattr(os, "posix_fadvise"):
            for offset, n_bytes in places:
                os.posix_fadvise(self._fd, offset, n_bytes, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _failed(self, error: OSError, offset: int) -> TransientError:
        return TransientError(f"reading failed: {error.strerror}", file=self._path, where=f"offset {offset}")

    def _pread(self, n_bytes: int, offset: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._fd, n_bytes, offset)
        with self._lock:  # Windows has no pread
            os.lseek(self._fd, offset, os.SEEK_SET)
            return os.read(self._fd, n_bytes)
