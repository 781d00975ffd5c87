"""Markdown: tables, code blocks, and text that stays text."""

from __future__ import annotations

import re

from mtpgraft.report.bench_tables import Table
from mtpgraft.report.text import clean


def markdown(text: object) -> str:
    """Text from a file as plain text, in table cells too."""
    escaped = re.sub(r"([\\`*\[\]|~])", r"\\\1", clean(text))
    escaped = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", escaped)  # inside a word it means nothing
    return escaped.replace("&", "&amp;").replace("<", "&lt;")


def table_lines(table: Table) -> list[str]:
    """A table, numbers to the right, and its note."""
    rule = ["---:" if number in table.right else "---" for number in range(len(table.columns))]
    rows = [[markdown(cell) for cell in row] for row in (table.columns, *table.rows)]
    lines = [f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])]
    return [*lines, "", markdown(table.note)] if table.note else lines


def fenced(text: str) -> list[str]:
    """A code block that its own content cannot end."""
    inner = "\n".join(clean(line) for line in text.split("\n"))
    longest = max((len(run) for run in re.findall(r"`+", inner)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}sh", inner, fence]
