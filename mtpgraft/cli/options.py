"""Options that several commands share, each spelled and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A GGUF: a file, any shard of a split set, its folder, hf:org/repo:QUANT or a URL."
    ),
]
Donor = Annotated[
    str,
    typer.Argument(
        metavar="DONOR",
        help="Where the head comes from: a GGUF, head file, sidecar or safetensors folder; hf:org/repo or a URL.",
    ),
]
Base = Annotated[str, typer.Argument(metavar="BASE", help="The GGUF that receives the head.")]
Out = Annotated[Path, typer.Option("-o", "--output", metavar="OUT.gguf", help="The file to write.")]
MaybeOut = Annotated[
    Optional[Path],  # noqa: UP045  (typer reads it at run time, on Python 3.10 too)
    typer.Option("-o", "--output", metavar="OUT.gguf", help="The file to write (or --in-place)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and write nothing.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")]
InPlace = Annotated[
    bool, typer.Option("--in-place", help="Replace the input by the result, once that is complete and verified.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No notes on stderr.")]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="No progress bar.")]
MaxHeader = Annotated[
    str, typer.Option("--max-header", metavar="SIZE", help="Largest header to read, in bytes or as 256M.")
]
