"""What extract, graft and strip do around their one call into the library."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mtpgraft.cli.output import Output
from mtpgraft.errors import UsageError

if TYPE_CHECKING:
    from mtpgraft.surgery import Outcome, RunOptions


DEFAULT_MAX_HEADER = "64M"


@dataclass(frozen=True, slots=True)
class Writing:
    """The options of every command that writes a file."""

    dry_run: bool
    force: bool
    in_place: bool = False
    max_header: str = DEFAULT_MAX_HEADER


def carry_out(output: Output, writing: Writing, operation: Callable[[RunOptions], Outcome]) -> None:
    """Run an operation with bars, then say what it did."""
    from mtpgraft.report.surgery import outcome_json, outcome_lines
    from mtpgraft.surgery import RunOptions

    with output.bar("writing") as on_write, output.bar("verifying") as on_verify:
        outcome = operation(
            RunOptions(
                dry_run=writing.dry_run,
                overwrite=writing.force,
                in_place=writing.in_place,
                on_write=on_write,
                on_verify=on_verify,
                max_header_nbytes=parse_size(writing.max_header),
            )
        )
    say_fetched(output)
    output.warn(outcome.plan.warnings)
    if output.as_json:
        output.json(outcome_json(outcome))
    else:
        output.lines(outcome_lines(outcome))


def say_fetched(output: Output) -> None:
    """Say what the network gave, if it was asked."""
    from mtpgraft.report.text import nbytes
    from mtpgraft.source.transport import fetched_in_all

    fetched = fetched_in_all()
    if fetched.n_requests and not output.as_json:
        output.note(f"fetched {nbytes(fetched.n_bytes)} of {nbytes(fetched.of_nbytes)}")


def parse_size(text: str, *, least_nbytes: int = 1) -> int:
    """Bytes from `1000000`, `128M`, `1.5G` or `24GiB` (1024-based, as other tools take sizes of memory).

    Raises UsageError for what is no size, and below `least_nbytes`: a unit was forgotten.
    """
    factors = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
    match = re.fullmatch(r"([0-9.]+)([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    try:
        n_bytes = int(float(match[1]) * factors[match[2].upper()]) if match else -1
    except (ValueError, OverflowError):
        n_bytes = -1
    if match is None or n_bytes < min(least_nbytes, 1):
        raise UsageError("not a size", expected="bytes, or 256M or 24G", found=text)
    if n_bytes < least_nbytes:
        hint = None if match[2] else f"with its unit: {match[1]}G"
        raise UsageError("too small a size", expected=f"{least_nbytes} bytes or more", found=text, hint=hint)
    return n_bytes


def target(out: Path | None, in_place: bool, model: str) -> Path:
    """The file to write: `-o`, or the model itself with --in-place."""
    if in_place == (out is not None):
        raise UsageError(
            "give either -o OUT.gguf or --in-place",
            found="both" if in_place else "neither",
            hint="-o writes a new file; --in-place puts the result where the model was",
        )
    return out if out is not None else Path(model)
