"""mtpgraft cache"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from mtpgraft.cli.options import AsJson
from mtpgraft.cli.output import Output

app = typer.Typer(
    help="List or empty the cache of remote heads.", no_args_is_help=True, rich_markup_mode=None,
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


@app.command("ls")
def list_cache(as_json: AsJson = False) -> None:
    """List what is kept: heads, fetched blocks, file lists of repos."""
    from mtpgraft.report.text import clean, nbytes
    from mtpgraft.source.cache import cache_folder, list_entries

    output = Output(as_json=as_json)
    entries = list_entries()
    if as_json:
        rows = [
            {"kind": e.kind, "name": e.name, "path": str(e.path), "nbytes": e.n_bytes, "used": e.used} for e in entries
        ]
        output.json({"schema_version": 1, "folder": str(cache_folder()), "entries": rows})
        return
    if entries:
        table = [
            (e.kind, clean(e.name), nbytes(e.n_bytes), datetime.fromtimestamp(e.used).isoformat(" ", "minutes"))
            for e in entries
        ]
        output.table(table, ("kind", "name", "size", "last used"), right=(2,))
    output.lines([f"{len(entries)} entries, {nbytes(sum(e.n_bytes for e in entries))} in {clean(cache_folder())}"])


@app.command("rm")
def remove_cache(
    name: Annotated[str, typer.Argument(metavar="TEXT", help="Only entries whose name contains this.")] = "",
) -> None:
    """Remove what is kept; it is fetched again when it is needed."""
    from mtpgraft.report.text import nbytes
    from mtpgraft.source.cache import list_entries, remove

    chosen = [entry for entry in list_entries() if name in entry.name]
    Output().lines([f"removed {len(chosen)} entries, {nbytes(remove(chosen))}"])
