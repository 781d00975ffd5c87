"""mtpgraft report"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtpgraft.cli.bench import show, show_markdown
from mtpgraft.cli.bench_outputs import BenchOutputs
from mtpgraft.cli.documents import Documents, Html, Markdown, Png, write_document
from mtpgraft.cli.options import AsJson, Force, Quiet
from mtpgraft.cli.output import Output
from mtpgraft.errors import InputError, UsageError

if TYPE_CHECKING:
    from mtpgraft.bench.result import BenchResult


def report(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="A census (audit --out), or one or more bench results (bench --save)."),
    ],
    markdown: Markdown = None,
    html: Html = None,
    png: Png = None,
    diagnose: Annotated[bool, typer.Option("--diagnose", help="Explain the figures of one bench result.")] = False,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Sum up a census; show a saved bench result; compare several.

    What a file is shows in its content. One bench result is shown as the run itself showed it. Several are compared
    arm by arm, and refused where their prompts or lengths differ: such figures say nothing about each other.
    """
    output = Output(as_json, quiet)
    outputs = BenchOutputs(None, None, Documents(markdown, html, png, force))
    censuses = [path for path in files if _is_census(path)]
    if censuses and len(files) > 1:
        raise UsageError("a census is reported alone", found=f"{len(files)} files, {censuses[0]} is a census")
    if censuses and (outputs.documents.paths or markdown):
        raise UsageError("--markdown, --html and --png are for bench results", found=f"the census {files[0]}")
    if censuses:
        _report_census(output, files[0])
        return
    outputs.check(tuple(files), as_json=as_json)
    if len(files) == 1:
        _report_result(output, outputs, files[0], explain=diagnose)
    elif diagnose:
        raise UsageError("--diagnose explains one result", found=f"{len(files)} files")
    else:
        _report_comparison(output, outputs.documents, files)


def _report_census(output: Output, path: Path) -> None:
    from mtpgraft.audit.census import read_census
    from mtpgraft.report.census import census_json, census_lines

    found = read_census(path)
    if output.as_json:
        output.json(census_json(found))
    else:
        output.lines(census_lines(found))


def _report_result(output: Output, outputs: BenchOutputs, path: Path, *, explain: bool) -> None:
    from mtpgraft.bench.diagnosis import diagnose

    result = _read(path)
    if outputs.documents.prints_markdown:
        show_markdown(output, result, diagnose(result))
    else:
        show(output, result, diagnosis=diagnose(result), explain=explain)
    written, failure = outputs.write(result)
    for path_written in written:
        output.note(f"written: {path_written}")
    if failure is not None:
        raise failure


def _report_comparison(output: Output, documents: Documents, files: list[Path]) -> None:
    from mtpgraft.report.bench import printable
    from mtpgraft.report.bench_compare import compare, comparison_table, comparison_verdict, differing_table
    from mtpgraft.report.bench_compare_show import (
        comparison_heading,
        comparison_html,
        comparison_json,
        comparison_markdown,
    )
    from mtpgraft.report.text import clean

    if documents.png:
        raise UsageError("--png shows one run", expected="--html or --markdown for a comparison")
    comparison = compare([(str(path), _read(path)) for path in files])
    if output.as_json:
        output.json(comparison_json(comparison))
    elif documents.prints_markdown:
        output.lines(comparison_markdown(comparison).splitlines())
    else:
        output.lines(comparison_heading(comparison))
        for table in map(printable, (comparison_table(comparison), differing_table(comparison))):
            if table.rows:
                output.lines(["", table.title])
                output.table(table.rows, table.columns, right=sorted(table.right))
        output.lines(["", *map(clean, comparison_verdict(comparison))])
    if documents.markdown_file:
        write_document(documents.markdown_file, comparison_markdown(comparison))
    if documents.html:
        write_document(documents.html, comparison_html(comparison))
    for written in documents.paths:
        output.note(f"written: {written}")


def _read(path: Path) -> BenchResult:
    from mtpgraft.bench.resultfile import read_result

    return read_result(path)


def _is_census(path: Path) -> bool:
    """A line of a census starts with its target; an empty file is a census in which nothing is done yet."""
    from mtpgraft.audit.census import LINE_START
    from mtpgraft.source.local import LocalFile, is_file

    if not is_file(path):
        raise InputError("no such file", file=path, hint="mtpgraft bench --save or mtpgraft audit --out makes one")
    file = LocalFile.open(path)
    try:
        start = file.read_at(0, len(LINE_START))
    finally:
        file.close()
    return start in (b"", LINE_START)
