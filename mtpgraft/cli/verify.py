"""mtpgraft verify"""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from mtpgraft.cli.options import AsJson, NoProgress, Quiet
from mtpgraft.cli.output import Output
from mtpgraft.errors import ExitCode


def verify(
    out: Annotated[str, typer.Argument(metavar="OUT", help="The grafted model.")],
    base: Annotated[str, typer.Option("--base", metavar="BASE", help="The model it was made from.")],
    donor: Annotated[
        Optional[str],  # noqa: UP045  (typer reads it at run time, on Python 3.10 too)
        typer.Option("--donor", metavar="DONOR", help="Where its head came from: whatever graft takes."),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Prove a graft against its base and donor.

    Every trunk byte must equal the base's, the head the donor's or its requantization. Exit code 1 when not.
    """
    from mtpgraft.api import prove
    from mtpgraft.report.surgery import change_lines, check_rows, proof_line, verify_json

    output = Output(as_json, quiet, not no_progress)
    with output.bar("comparing") as on_bytes:
        report = prove(out, base, donor, on_bytes)
    if as_json:
        output.json(verify_json(report))
    else:
        output.table(check_rows(report), ("", "check", "expected", "observed"))
        output.lines([*change_lines(report), *(f"  + tensor {name}" for name in report.added_tensors)])
        output.lines([proof_line(report) if report.ok else "NOT VERIFIED"])
    if not report.ok:
        raise typer.Exit(ExitCode.FINDINGS)
