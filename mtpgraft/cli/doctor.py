"""mtpgraft doctor"""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from mtpgraft.cli.options import AsJson
from mtpgraft.cli.output import Output
from mtpgraft.errors import ExitCode


def doctor(
    engines: Annotated[
        Optional[list[str]],  # noqa: UP045  (typer reads it at run time, on Python 3.10 too)
        typer.Option(
            "--engine", metavar="ENGINE", help="Look at this one too: a llama-server, its folder, or a server's URL."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say which engines this machine has, and what each build has, lacks and is known to do wrong.

    Looks at the embedded engine and every llama-server on PATH. Exit code 1 when none can draft with MTP.
    """
    from mtpgraft.doctor import examine
    from mtpgraft.report.doctor import doctor_json, doctor_lines

    output = Output(as_json)
    report = examine(engines or ())
    if as_json:
        output.json(doctor_json(report))
    else:
        output.lines(doctor_lines(report))
    if not report.can_draft:
        raise typer.Exit(ExitCode.FINDINGS)
