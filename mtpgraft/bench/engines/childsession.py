"""What every session of an engine in a child process has: the child, its log, and how both end.

A log is kept when an error names it, or where the caller gave a folder for logs; else it goes with its session. What
was kept in the system's temporary folder goes a week later, at the next start of any engine.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from mtpgraft.bench.engine import EngineInfo, LaunchSpec
from mtpgraft.bench.engines.child import JsonChild
from mtpgraft.bench.engines.enginelog import hint_for, read_log, telling_lines
from mtpgraft.errors import EngineDiedError, EngineError, InputError

CLOSE_GRACE_S = 10.0
"""For an engine to end by itself."""
LOGS_KEPT_S = 7 * 24 * 3600
"""A week: time to read a log, or to put it into a bug report."""
_PREFIX = "mtpgraft-engine-"

_Own = TypeVar("_Own", bound="ChildSession")


@dataclass(slots=True)
class EngineLog:
    """The log of one start. is_kept: it stays after its session."""

    path: Path
    is_kept: bool = False

    @classmethod
    def new(cls, folder: Path | None) -> EngineLog:
        """An empty one, in a folder of the caller's or among the system's temporary files."""
        if folder is None:
            _remove_old_files()
        return cls(private_file(".log", folder), is_kept=folder is not None)

    def text(self) -> str:
        return read_log(self.path)

    def close(self) -> None:
        if not self.is_kept:
            self.path.unlink(missing_ok=True)

    def failure(self, what: str, model: Path, *, died: bool = False, otherwise: str = "") -> EngineError:
        """An error with the log's reason, and the log, which is kept. what: happened, with how the engine ended.

        died: after the model was loaded, so the file is not what is wrong. otherwise: the reason where the log has
        none.
        """
        self.is_kept = True
        lines = telling_lines(self.text()) or ((otherwise,) if otherwise else ())
        error = EngineDiedError if died else EngineError
        return error(
            what,
            file=model,
            found="; ".join(lines) or None,
            hint=f"{hint_for((*lines, what), str(model), died=died)}; the engine's log: {self.path}",
        )


class ChildSession:
    """One engine process with one model. `log_path` exists until close(), and after it when kept."""

    __slots__ = ("_child", "_closed", "_log", "info", "n_threads", "spec")

    def __init__(self, spec: LaunchSpec, n_threads: int, info: EngineInfo, child: JsonChild, log: EngineLog) -> None:
        self.spec = spec
        self.n_threads: int | None = n_threads
        self.info = info
        self._child = child
        self._log = log
        self._closed = False

    @property
    def log_path(self) -> Path:
        return self._log.path

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._end()
            self._log.close()

    def __enter__(self: _Own) -> _Own:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end(self) -> None:
        self._child.close(CLOSE_GRACE_S)

    def _died(self, what: str) -> EngineError:
        """The error of an engine that ended or went silent while it was asked; the session is closed."""
        error = self._log.failure(f"{what} in the middle of a completion", self.spec.model, died=True)
        self.close()
        return error


def require_files(spec: LaunchSpec) -> None:
    """Raises InputError for a model or sidecar that is not there."""
    for file in (spec.model, spec.draft.sidecar if spec.draft else None):
        if file is not None and not file.is_file():
            raise InputError("no such file", file=file, hint="check the path")


def private_file(suffix: str, folder: Path | None = None) -> Path:
    """A new empty file, readable by this user only, as mkstemp makes it. folder: None: among the temporary files."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=suffix, dir=folder)
    os.close(handle)
    return Path(name)


def _remove_old_files() -> None:
    """Logs that were kept for errors, and what killed runs left behind."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # gone meanwhile, or another user's
            if path.suffix in (".log", ".key") and time.time() - path.lstat().st_mtime > LOGS_KEPT_S:
                path.unlink()
