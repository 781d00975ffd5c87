"""mtpgraft graft"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mtpgraft.cli.options import AsJson, Base, Donor, DryRun, Force, InPlace, MaxHeader, MaybeOut, NoProgress, Quiet
from mtpgraft.cli.output import Output
from mtpgraft.cli.run import DEFAULT_MAX_HEADER, Writing, carry_out, target

if TYPE_CHECKING:
    from mtpgraft.surgery import Outcome, RunOptions


def graft(
    base: Base,
    donor: Donor,
    out: MaybeOut = None,
    wanted_type: Annotated[
        str,
        typer.Option(
            "--type",
            help="Type of the head's matrices: q8_0, keep, bf16, ... Types below q8_0 are kept, with a warning.",
        ),
    ] = "q8_0",
    in_place: InPlace = False,
    replace: Annotated[bool, typer.Option("--replace", help="Put the head in place of one that is there.")] = False,
    keep_split: Annotated[
        bool, typer.Option("--keep-split", help="Keep a split base split: the head goes into a new last shard.")
    ] = False,
    allow_mismatch: Annotated[
        bool, typer.Option("--allow-mismatch", help="Go on although base and donor are not the same model.")
    ] = False,
    dry_run: DryRun = False,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
    max_header: MaxHeader = DEFAULT_MAX_HEADER,
) -> None:
    """Put a donor's MTP head onto a base model.

    The base's own tensors are copied byte for byte; of its keys only those change that declare the head.
    """
    from mtpgraft import api
    from mtpgraft.plan import GraftOptions

    options = GraftOptions(wanted_type, replace, allow_mismatch, keep_split)
    path = target(out, in_place, base)

    def operation(run: RunOptions) -> Outcome:
        return api.graft(base, donor, path, options, run)

    carry_out(Output(as_json, quiet, not no_progress), Writing(dry_run, force, in_place, max_header), operation)
