"""mtpgraft inspect"""

from __future__ import annotations

from typing import Annotated

import typer

from mtpgraft.cli.options import AsJson, MaxHeader, Model, Quiet
from mtpgraft.cli.output import Output
from mtpgraft.cli.run import DEFAULT_MAX_HEADER, parse_size, say_fetched


def inspect(
    model: Model,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="List every head tensor.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    max_header: MaxHeader = DEFAULT_MAX_HEADER,
) -> None:
    """Show what a model file holds of an MTP head.

    Declared, present, whole, and what is wrong with it. Reads the header only.
    """
    from mtpgraft.container import GGUFModel
    from mtpgraft.head import find_head
    from mtpgraft.open import open_donor
    from mtpgraft.report.checkpoint import checkpoint_facts, checkpoint_json, checkpoint_rows
    from mtpgraft.report.surgery import head_rows, inspect_facts, inspect_json

    output = Output(as_json, quiet)
    with open_donor(model, parse_size(max_header)) as opened:
        if not isinstance(opened, GGUFModel):
            from mtpgraft.hf import find_checkpoint_head

            found = find_checkpoint_head(opened)
            say_fetched(output)
            if as_json:
                output.json(checkpoint_json(opened, found))
                return
            output.table(checkpoint_facts(opened, found))
            if verbose:
                output.lines([""])
                output.table(checkpoint_rows(found), ("tensor", "shape (GGUF order)", "stored as", "from"))
            return
        head = find_head(opened)
        say_fetched(output)
        if as_json:
            output.json(inspect_json(opened, head))
            return
        output.table(inspect_facts(opened, head))
        if verbose and head.blocks:
            output.lines([""])
            output.table(head_rows(head), ("tensor", "shape (GGUF order)", "type", "size"), right=(3,))
