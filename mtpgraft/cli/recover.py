"""mtpgraft recover"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mtpgraft.cli.options import AsJson, Quiet
from mtpgraft.cli.output import Output


def recover(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The model whose change was interrupted.")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Bring a model out of an interrupted graft or strip in place.

    Gives the old file back byte for byte, or finishes the new one. Removes what killed runs left beside it.
    """
    from mtpgraft.inplace import recover as bring_back
    from mtpgraft.report.text import clean

    output = Output(as_json, quiet)
    done = bring_back(file)
    if as_json:
        output.json(
            {
                "schema_version": 1,
                "file": str(done.path),
                "state": done.state,
                "operation": done.operation,
                "leftovers_removed": [str(path) for path in done.leftovers],
            }
        )
        return
    said = {
        "clean": "nothing was interrupted",
        "restored": f"the {done.operation} was undone: the file is as it was before",
        "finished": f"the {done.operation} was finished: the file is the new one",
    }
    output.lines([f"{clean(done.path)}: {said[done.state]}"])
    output.lines(f"removed {clean(path)}" for path in done.leftovers)
