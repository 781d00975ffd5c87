"""mtpgraft report"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mtpgraft.cli.options import AsJson
from mtpgraft.cli.output import Output


def report(
    census: Annotated[Path, typer.Argument(metavar="CENSUS.jsonl", help="What mtpgraft audit --out wrote.")],
    as_json: AsJson = False,
) -> None:
    """Sum up a census: models by verdict, by architecture and by publisher."""
    from mtpgraft.audit.census import read_census
    from mtpgraft.report.census import census_json, census_lines

    output = Output(as_json=as_json)
    found = read_census(census)
    if as_json:
        output.json(census_json(found))
    else:
        output.lines(census_lines(found))
