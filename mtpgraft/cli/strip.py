"""mtpgraft strip"""

from __future__ import annotations

from mtpgraft.cli.options import AsJson, DryRun, Force, InPlace, MaybeOut, Model, NoProgress, Quiet
from mtpgraft.cli.output import Output
from mtpgraft.cli.run import Writing, carry_out, target


def strip(
    model: Model,
    out: MaybeOut = None,
    in_place: InPlace = False,
    dry_run: DryRun = False,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Remove a model's MTP head.

    Of a graft this gives the base back, byte for byte.
    """
    from mtpgraft import surgery

    path = target(out, in_place, model)
    carry_out(
        Output(as_json, quiet, not no_progress),
        Writing(dry_run, force, in_place),
        lambda run: surgery.strip(model, path, run),
    )
