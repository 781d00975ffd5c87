"""mtpgraft bench"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional, TypeVar

import typer

from mtpgraft.cli.options import AsJson, NoProgress, Quiet
from mtpgraft.cli.output import Output
from mtpgraft.errors import ExitCode, RefusedError, UsageError

if TYPE_CHECKING:
    from mtpgraft.bench.result import BenchResult
    from mtpgraft.bench.run import BenchProgress

_Number = TypeVar("_Number", int, float)


def bench(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The GGUF to run.")],
    draft: Annotated[
        Optional[Path],  # noqa: UP045  (typer reads it at run time, on Python 3.10 too)
        typer.Option("--draft", metavar="SIDECAR", help="Take the head from this sidecar instead."),
    ] = None,
    n_max: Annotated[str, typer.Option("--n-max", help="Draft depths to measure, separated by commas.")] = "1,2,3",
    p_min: Annotated[
        str, typer.Option("--p-min", help="Least draft probabilities to measure, separated by commas.")
    ] = "0",
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Runs of every prompt in every arm.")] = 3,
    n_predict: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--n-predict", min=8, help="Tokens per prompt (default: the suite's)."),
    ] = None,
    threads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--threads", min=1, help="CPU threads (default: the engine's choice)."),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Measure what the head is worth: MTP on against off.

    Acceptance, mean accepted length and speed per draft depth, and whether the greedy text stays the same; in
    llama.cpp, in process. Exit code 1 when nothing was drafted.
    """
    output = Output(as_json, quiet, not no_progress)
    depths = _numbers(n_max, "--n-max", int)
    probabilities = _numbers(p_min, "--p-min", float)
    _require_head(model, draft)
    from mtpgraft.bench.run import run_bench

    with output.steps("benchmarking") as step:

        def on_progress(at: BenchProgress) -> None:
            step(at.n_done, at.n_total, at.arm)

        result = run_bench(
            model,
            sidecar=draft,
            n_max=depths,
            p_min=probabilities,
            repeats=repeats,
            n_predict=n_predict,
            n_threads=threads,
            progress=on_progress,
        )
    show(output, result)
    if not result.drafted_anything:
        raise typer.Exit(ExitCode.FINDINGS)


def show(output: Output, result: BenchResult) -> None:
    """Print a bench result."""
    from mtpgraft.report.bench import COLUMNS, RIGHT, bench_heading, bench_rows, bench_verdict

    if output.as_json:
        output.json(result.to_json())
        return
    output.lines(bench_heading(result))
    output.table(bench_rows(result), COLUMNS, right=RIGHT)
    output.lines(bench_verdict(result))


def _numbers(text: str, option: str, kind: type[_Number]) -> tuple[_Number, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{option} takes numbers separated by commas", expected="1,2,3", found=text, hint="mtpgraft bench --help"
        ) from None


def _require_head(model: Path, sidecar: Path | None) -> None:
    """Say that a model has no head before an engine says it in its own words."""
    from mtpgraft.head import find_head
    from mtpgraft.open import open_model

    with open_model(model) as opened:
        head = find_head(opened)
    if sidecar is None and not head.is_whole:
        problems = f": {'; '.join(head.problems[:2])}" if head.problems else ""
        raise RefusedError(
            f"has no MTP head that could draft ({head.state.value}){problems}",
            file=model,
            expected="a model with a head, or --draft SIDECAR",
            hint=f"mtpgraft graft {model} DONOR -o OUT.gguf",
        )
