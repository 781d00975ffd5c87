"""The one exception tree, and the exit code of each branch.

    MtpgraftError
    |- UsageError            2   the command line or a call's arguments make no sense
    |- InputError            2   a file cannot be read as what it claims to be
    |  |- InvalidFileError   2   its bytes break its format
    |  |- TruncatedError     2   it ends before what its header promises
    |- RefusedError          2   the operation is understood and would do harm
    |- TransientError        3   I/O, disk or network: a retry may cure it
    |- EngineError           2   an engine is missing or cannot run this model
    |  |- EngineDiedError    3   an engine ended or stopped answering in the middle of its work

Exit code 1 (findings) is a result, never an exception; 101 (a bug in mtpgraft) is everything not in this tree.

An error carries data, not layout: the file, the place in it, what was expected, what was found, and what to do.
`str(error)` is one line; the CLI formats the rest in one place.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Process exit codes, the same for every command."""

    DONE = 0
    FINDINGS = 1
    BAD_INPUT = 2
    RETRY = 3
    BUG = 101


class MtpgraftError(Exception):
    """Base of everything mtpgraft raises on purpose.

    what: one sentence that says what is wrong.
    file: the file, folder or model spec concerned.
    where: tensor, key or byte offset inside it.
    expected, found: the two sides of a failed check.
    hint: the next command or step to try.
    """

    exit_code: ExitCode = ExitCode.BAD_INPUT

    def __init__(
        self,
        what: str,
        *,
        file: object = None,
        where: str | None = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.file = None if file is None else str(file)
        self.where = where
        self.expected = None if expected is None else str(expected)
        self.found = None if found is None else str(found)
        self.hint = hint

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.file, self.where) if part)
        text = f"{place}: {self.what}" if place else self.what
        sides = [
            f"{label} {side}"
            for label, side in (("expected", self.expected), ("found", self.found))
            if side is not None
        ]
        return _one_line(f"{text} ({', '.join(sides)})" if sides else text)


_MAX_LINE = 2000


def _one_line(text: str) -> str:
    """Names out of a file may hold line breaks and what a terminal would obey, and be megabytes long."""
    if len(text) > _MAX_LINE:
        text = f"{text[: _MAX_LINE // 2]} ... {text[-_MAX_LINE // 2 :]}"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class UsageError(MtpgraftError):
    """The command line or a call's arguments make no sense."""


class InputError(MtpgraftError):
    """A file or folder cannot be read as what it claims to be."""


class InvalidFileError(InputError):
    """A file's bytes break its format."""


class TruncatedError(InputError):
    """A file ends before what its header promises."""


class RefusedError(MtpgraftError):
    """The operation is understood and would do harm or make a file that no engine runs."""


class TransientError(MtpgraftError):
    """I/O, disk or network trouble that a retry may cure."""

    exit_code = ExitCode.RETRY


class EngineError(MtpgraftError):
    """An engine is missing or cannot run this model."""


class EngineDiedError(EngineError):
    """An engine ended, or stopped answering, in the middle of its work."""

    exit_code = ExitCode.RETRY
