"""mtpgraft repair"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from mtpgraft.cli import streams
from mtpgraft.cli.options import AsJson, DryRun, Force, InPlace, MaybeOut, Model, NoProgress, Quiet
from mtpgraft.cli.output import Output
from mtpgraft.errors import ExitCode

if TYPE_CHECKING:
    from mtpgraft.repair.run import Diagnosis

_INTERRUPTED = 130


def repair(
    model: Model,
    out: MaybeOut = None,
    in_place: InPlace = False,
    donor: Annotated[
        Optional[str],  # noqa: UP045  (typer reads it at run time, on Python 3.10 too)
        typer.Option("--donor", metavar="DONOR", help="Where the head comes from; else the files beside the model."),
    ] = None,
    wanted_type: Annotated[
        str, typer.Option("--type", help="Type of the matrices that a donor gives: q8_0, keep, bf16, ...")
    ] = "q8_0",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before writing.")] = False,
    no_smoke: Annotated[bool, typer.Option("--no-smoke", help="Do not try the result in llama.cpp.")] = False,
    dry_run: DryRun = False,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Mend a model whose MTP head is missing or broken.

    Audits it, finds a donor where one is needed, shows the plan, asks on a terminal, writes, verifies, and tries the
    result in llama.cpp. What cannot be mended is said with the reason.
    """
    from mtpgraft.repair import RepairOptions
    from mtpgraft.repair import repair as run_repair
    from mtpgraft.report.repair import diagnosis_lines, outcome_lines, repair_json

    output = Output(as_json, quiet, not no_progress)

    def confirm(diagnosis: Diagnosis) -> bool:
        if diagnosis.plan is not None:
            output.warn(diagnosis.plan.warnings)
        if not as_json:
            output.lines(diagnosis_lines(diagnosis))
            streams.flush()
        if yes or dry_run or as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return True
        try:
            return typer.confirm("go on?", err=True)
        except typer.Abort:  # Ctrl-C, or the end of the input
            raise typer.Exit(_INTERRUPTED) from None

    with output.bar("writing") as on_write, output.bar("verifying") as on_verify:
        done = run_repair(
            model,
            RepairOptions(
                out=out,
                in_place=in_place,
                overwrite=force,
                donor=donor,
                wanted_type=wanted_type.lower(),
                dry_run=dry_run,
                smoke=not no_smoke,
                confirm=confirm,
                on_write=on_write,
                on_verify=on_verify,
            ),
        )
    if as_json:
        output.json(repair_json(done))
    elif done.diagnosis.plan is None:
        output.lines(diagnosis_lines(done.diagnosis))
    elif done.report is None and not dry_run:
        output.note("nothing was written")
    else:
        output.lines(outcome_lines(done))
    if done.smoke is not None and done.smoke.drafts is False:
        raise typer.Exit(ExitCode.FINDINGS)
