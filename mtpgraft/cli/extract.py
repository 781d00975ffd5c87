"""mtpgraft extract"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from mtpgraft.cli.options import AsJson, Donor, DryRun, Force, MaxHeader, NoProgress, Out, Quiet
from mtpgraft.cli.output import Output
from mtpgraft.cli.run import DEFAULT_MAX_HEADER, Writing, carry_out

if TYPE_CHECKING:
    from mtpgraft.surgery import Outcome, RunOptions


class Kind(str, Enum):
    """What kind of head file to write."""

    donor = "donor"
    sidecar = "sidecar"


def extract(
    donor: Donor,
    out: Out,
    kind: Annotated[
        Kind, typer.Option("--as", help="donor: the head alone, for grafting. sidecar: what llama.cpp loads with -md.")
    ] = Kind.donor,
    wanted_type: Annotated[
        str, typer.Option("--type", help="Type of the matrices: keep, q8_0, bf16, f16, f32, ... Norms stay F32.")
    ] = "keep",
    dry_run: DryRun = False,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
    max_header: MaxHeader = DEFAULT_MAX_HEADER,
) -> None:
    """Take the MTP head out of a model into a small file.

    Of a remote model only the header and the head are fetched. Of a safetensors checkpoint the head is converted as
    llama.cpp's converter does.
    """
    from mtpgraft import api

    def operation(run: RunOptions) -> Outcome:
        return api.extract(donor, out, kind.value, wanted_type, run)

    carry_out(Output(as_json, quiet, not no_progress), Writing(dry_run, force, max_header=max_header), operation)
