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


@dataclass(frozen=True, slots=True)
class Writing:
    """The options of every command that writes a file."""

    dry_run: bool
    force: bool
    in_place: bool = False


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
            )
        )
    output.warn(outcome.plan.warnings)
    if output.as_json:
        output.json(outcome_json(outcome))
    else:
        output.lines(outcome_lines(outcome))


def target(out: Path | None, in_place: bool, model: str) -> Path:
    """The file to write: `-o`, or the model itself with --in-place."""
    if in_place == (out is not None):
        raise UsageError("give either -o OUT.gguf or --in-place", hint="mtpgraft COMMAND --help")
    return out if out is not None else Path(model)
