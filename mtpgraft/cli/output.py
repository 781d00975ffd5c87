"""The one sink for what a command says: the result on stdout, everything else on stderr."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mtpgraft.cli import streams
from mtpgraft.errors import MtpgraftError

if TYPE_CHECKING:
    from rich.console import Console

_OBEYED = re.compile(r"[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
"""What a terminal would obey and JSON lets stand: C1 controls, and marks that turn the direction of text."""
_WHOLE_LINES = 1000
"""Width of a table that goes into a pipe: nothing is wrapped there."""


@dataclass(frozen=True, slots=True)
class Output:
    """How a command speaks.

    as_json: the result is one JSON document. quiet: no notes on stderr (warnings and errors stay).
    progress: byte bars, where stderr is a terminal.
    """

    as_json: bool = False
    quiet: bool = False
    progress: bool = True

    def json(self, document: Mapping[str, object]) -> None:
        """Print the result as one JSON document."""
        text = _OBEYED.sub(lambda char: f"\\u{ord(char[0]):04x}", json.dumps(document, indent=2, ensure_ascii=False))
        streams.write((text if streams.can_encode(text) else json.dumps(document, indent=2)) + "\n")

    def lines(self, lines: Iterable[str]) -> None:
        """Print the result as lines of text."""
        for line in lines:
            streams.write(line + "\n")

    def table(self, rows: Sequence[Sequence[str]], columns: Sequence[str] = (), right: Sequence[int] = ()) -> None:
        """Print the result as a table. Numbers of columns in `right` are aligned to the right."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=bool(columns), pad_edge=False, header_style="bold")
        n_columns = len(columns) or (len(rows[0]) if rows else 1)
        for number in range(n_columns):
            name = columns[number] if columns else ""
            table.add_column(Text(name), justify="right" if number in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        width = None if sys.stdout.isatty() else _WHOLE_LINES
        self.lines(_rendered(lambda console: console.print(table), width))

    def styled(self, pieces: Sequence[tuple[str, str]]) -> None:
        """Print one line of the result, piece by piece: (text, rich style). Plain where there is no terminal."""
        from rich.text import Text

        text = Text.assemble(*pieces)
        self.lines(_rendered(lambda console: console.print(text, soft_wrap=True), _WHOLE_LINES))

    def note(self, text: str) -> None:
        """Say something beside the result."""
        if not self.quiet:
            sys.stderr.write(text + "\n")

    def warn(self, texts: Iterable[str]) -> None:
        """Say what a user should know; never silenced."""
        from mtpgraft.report.text import clean

        for text in texts:
            sys.stderr.write(f"warning: {clean(text)}\n")

    @contextmanager
    def bar(self, label: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """A byte bar on stderr; gives the function to report bytes to. Silent unless stderr is a terminal."""
        if self.quiet or not self.progress or not sys.stderr.isatty():
            yield lambda n: None
            return
        from tqdm import tqdm

        with tqdm(total=total, desc=label, unit="B", unit_scale=True, leave=False, file=sys.stderr) as bar:

            def report(n: int) -> None:
                bar.update(n)

            yield report

    @contextmanager
    def steps(self, label: str) -> Iterator[Callable[[int, int, str], None]]:
        """A bar that counts steps; gives the function to report (done, total, what) to."""
        if self.quiet or not self.progress or not sys.stderr.isatty():
            yield lambda done, total, what: None
            return
        from tqdm import tqdm

        with tqdm(desc=label, leave=False, file=sys.stderr) as bar:

            def report(done: int, total: int, what: str) -> None:
                bar.total, bar.n = total, done
                bar.set_postfix_str(what)

            yield report


def _rendered(draw: Callable[[Console], None], width: int | None) -> list[str]:
    """The lines that rich makes of it, with the escape codes that stdout's terminal, if it is one, is to get."""
    from rich.console import Console

    text = io.StringIO()
    draw(Console(file=text, force_terminal=sys.stdout.isatty() or None, width=width, highlight=False))
    return [line.rstrip() for line in text.getvalue().splitlines()]


def error_text(error: MtpgraftError) -> str:
    """An error as users see it: one line, and the next thing to try on a second."""
    from mtpgraft.report.text import clean

    text = f"mtpgraft: {clean(error)}"
    return f"{text}\n  try: {clean(error.hint)}" if error.hint else text


def debugging() -> bool:
    """True when MTPGRAFT_DEBUG asks for tracebacks."""
    return bool(os.environ.get("MTPGRAFT_DEBUG"))
