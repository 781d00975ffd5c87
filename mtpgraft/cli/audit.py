"""mtpgraft audit"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from mtpgraft.cli.options import AsJson, NoProgress, Quiet
from mtpgraft.cli.output import Output
from mtpgraft.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from mtpgraft.audit import AuditOptions, Verdict


def audit(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET...",
            help="GGUF files, split sets, folders (searched), hf:org/repo, @list.txt, @-. Any number.",
        ),
    ],
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read the head's data: dead tensors, norms, kinship.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Every finding: expected, observed, evidence, consequence, fix.")
    ] = False,
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a table for a model card.")] = False,
    sarif: Annotated[bool, typer.Option("--sarif", help="Print SARIF 2.1.0, for annotations in CI.")] = False,
    upstream: Annotated[
        bool, typer.Option("--upstream", help="Ask the Hub about the originals of local files too.")
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, max=256, help="Models read at a time.")] = 8,
    fail_on: Annotated[
        Optional[str],  # noqa: UP045  (typer reads it at run time, on Python 3.10 too)
        typer.Option(
            "--fail-on", metavar="VERDICT,...", help="Verdicts that end with exit code 1, instead of the usual."
        ),
    ] = None,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit code 0 whatever the verdicts are.")] = False,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", metavar="FILE.jsonl", help="A census: one line a model; a second run goes on there."),
    ] = None,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Say which models have a working MTP head, and what is wrong with the others.

    Headers only, unless --deep. Exit code 1 when a head is missing or broken, 2 when something could not be read.
    """
    from mtpgraft.audit import AuditOptions, exit_code
    from mtpgraft.audit import audit as run_audit
    from mtpgraft.report.audit import (
        COLUMNS,
        audit_json,
        detail_lines,
        markdown_lines,
        next_lines,
        summary_line,
        table_rows,
    )

    if as_json + markdown + sarif > 1:
        raise UsageError("give one of --json, --markdown and --sarif")
    if out is not None and (as_json or markdown or sarif or fail_on or exit_zero):
        raise UsageError(
            "--out writes a census, which has no verdict of its own",
            expected="--out without --json, --markdown, --sarif, --fail-on and --exit-zero",
            hint=f"mtpgraft report {out} --json",
        )
    failing = _verdicts(fail_on)
    output = Output(as_json, quiet, not no_progress)
    options = AuditOptions(deep=deep, n_jobs=jobs, upstream=upstream)
    if out is not None:
        _census(output, targets, options, out)
        return
    with output.steps("auditing") as step:
        done = 0

        def on_result(_: object) -> None:
            nonlocal done
            done += 1
            step(done, 0, "")

        results = run_audit(targets, options, on_result)
    if as_json:
        output.json(audit_json(results))
    elif sarif:
        from mtpgraft.report.audit_sarif import audit_sarif

        output.json(audit_sarif(results))
    elif markdown:
        output.lines(markdown_lines(results))
    else:
        output.table(table_rows(results), COLUMNS, right=(3,))
        if verbose:
            output.lines(detail_lines(results))
        else:
            output.lines(next_lines(results))
        output.note(summary_line(results) + ("" if verbose else "; -v shows the findings"))
    code = exit_code(results, failing)
    if code is ExitCode.FINDINGS and exit_zero:
        return
    if code is not ExitCode.DONE:
        raise typer.Exit(code)


def _verdicts(text: str | None) -> frozenset[Verdict]:
    """`dropped,partial` as verdicts."""
    from mtpgraft.audit import FAILING, Verdict

    if text is None:
        return FAILING
    known = {verdict.value: verdict for verdict in Verdict}
    words = [word.strip() for word in text.split(",") if word.strip()]
    wrong = [word for word in words if word not in known]
    if wrong or not words:
        raise UsageError("is no verdict", where="--fail-on", expected=", ".join(sorted(known)), found=", ".join(wrong))
    return frozenset(known[word] for word in words)


def _census(output: Output, targets: list[str], options: AuditOptions, out: Path) -> None:
    from mtpgraft.audit.census import run_census
    from mtpgraft.report.audit import result_json
    from mtpgraft.report.census import census_lines

    with output.steps("auditing") as step:
        census = run_census(targets, out, options, lambda r: dict(result_json(r)), lambda n, of: step(n, of, ""))
    output.lines(census_lines(census))
