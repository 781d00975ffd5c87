"""Documents that a command writes beside its answer: checked before the work starts, complete when they appear."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional

import typer

from mtpgraft.errors import UsageError
from mtpgraft.target import check_target

# typer reads these at run time, on Python 3.10 too
Markdown = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--markdown", metavar="FILE.md", help="Write a report to paste; - prints it in place of the tables."),
]
Html = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--html", metavar="FILE.html", help="Write a report as one page with charts."),
]
Png = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--png", metavar="FILE.png", help="Write one picture with the main charts."),
]


_STDOUT = Path("-")


@dataclass(frozen=True, slots=True)
class Documents:
    """Where to write which kind of report; None: not asked for. force: overwrite files that are there."""

    markdown: Path | None = None
    html: Path | None = None
    png: Path | None = None
    force: bool = False

    @property
    def paths(self) -> list[Path]:
        return [path for path in (self.markdown_file, self.html, self.png) if path is not None]

    @property
    def markdown_file(self) -> Path | None:
        return None if self.prints_markdown else self.markdown

    @property
    def prints_markdown(self) -> bool:
        """`--markdown -`: the report is the answer on stdout."""
        return self.markdown == _STDOUT

    def check(self, *, as_json: bool) -> None:
        """Raise before the work what would be raised after it: UsageError, InputError, RefusedError."""
        if as_json and self.prints_markdown:
            raise UsageError("stdout takes one answer", found="--json and --markdown -", hint="give --markdown a file")
        check_targets(self.paths, force=self.force)
        if self.html or self.png:
            from mtpgraft.report.page import require

            require(page=self.html is not None)


def check_targets(paths: Sequence[Path], *, force: bool) -> None:
    """Raise unless each path can be written: different ones, a folder there, the name free (or `force`)."""
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        raise UsageError("the same file is to be written twice", found=", ".join(map(str, paths)))
    for path in paths:
        check_target(path, overwrite=force)


def write_document(path: Path, content: str | bytes) -> None:
    """Write a whole file, or none. Raises TransientError, or RefusedError where no retry helps."""
    from mtpgraft.write.files import io_error
    from mtpgraft.write.leftovers import create_temporary, remove_leftovers, temporary_name

    remove_leftovers(path)
    temporary = temporary_name(path)
    try:
        with os.fdopen(create_temporary(temporary), "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise io_error(error, path, "could not be written") from error
