"""mtpgraft inspect"""

from __future__ import annotations

from typing import Annotated

import typer

from mtpgraft.cli.options import AsJson, Model
from mtpgraft.cli.output import Output


def inspect(
    model: Model,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="List every head tensor.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a model file holds of an MTP head.

    Declared, present, whole, and what is wrong with it. Reads the header only.
    """
    from mtpgraft.head import find_head
    from mtpgraft.open import open_model
    from mtpgraft.report.surgery import head_rows, inspect_facts, inspect_json

    output = Output(as_json=as_json)
    with open_model(model) as opened:
        head = find_head(opened)
        if as_json:
            output.json(inspect_json(opened, head))
            return
        output.table(inspect_facts(opened, head))
        if verbose and head.blocks:
            output.lines([""])
            output.table(head_rows(head), ("tensor", "shape (GGUF order)", "type", "size"), right=(3,))
