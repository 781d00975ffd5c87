"""What extract, graft and strip do around their one call into the library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mtpgraft.cli.output import Output
from mtpgraft.errors import UsageError

if TYPE_CHECKING:
    from mtpgraft.surgery import Outcome, RunOptions


DEFAULT_MAX_HEADER = "128M"


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


def parse_size(text: str, *, may_be_zero: bool = False) -> int:
    """Bytes from `1000000`, `128M` or `1.5G` (1024-based, as other tools take sizes of memory)."""
    factors = {"K": 2**10, "M": 2**20, "G": 2**30}
    digits, factor = (text[:-1], factors[text[-1].upper()]) if text[-1:].upper() in factors else (text, 1)
    try:
        n_bytes = int(float(digits) * factor)
    except (ValueError, OverflowError):
        n_bytes = -1
    if n_bytes < 0 or (n_bytes == 0 and not may_be_zero):
        raise UsageError("not a size", expected="bytes, or 256M", found=text)
    return n_bytes


def target(out: Path | None, in_place: bool, model: str) -> Path:
    """The file to write: `-o`, or the model itself with --in-place."""
    if in_place == (out is not None):
        raise UsageError("give either -o OUT.gguf or --in-place", hint="mtpgraft COMMAND --help")
    return out if out is not None else Path(model)
