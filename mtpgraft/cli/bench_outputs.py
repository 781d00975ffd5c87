"""The files that `mtpgraft bench` writes: checked before the run, written after it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mtpgraft.cli.documents import Documents, check_targets, write_document
from mtpgraft.errors import MtpgraftError, RefusedError

if TYPE_CHECKING:
    from mtpgraft.bench.diagnosis import Diagnosis
    from mtpgraft.bench.result import BenchResult

_Render = Callable[["BenchResult"], "str | bytes"]


@dataclass(frozen=True, slots=True)
class BenchOutputs:
    """Where each form of the result goes; None: nowhere."""

    save: Path | None
    mtp_bench: Path | None
    documents: Documents

    def check(self, inputs: tuple[Path, ...], *, as_json: bool) -> None:
        """Raise unless all of them can be written: an hour's measurement must not end in a typo.

        inputs: files that are read, and never written over. Raises UsageError, InputError and RefusedError.
        """
        paths = [path for path, _ in self._wanted()]
        check_targets(paths, force=self.documents.force)
        self.documents.check(as_json=as_json)
        for path in paths:
            if any(os.path.realpath(path) == os.path.realpath(one) for one in inputs):
                raise RefusedError("would overwrite an input", file=path, hint="choose another name")

    def write(self, result: BenchResult) -> tuple[list[Path], MtpgraftError | None]:
        """What was written, the JSON first, and the first failure, which keeps no other file from being written."""
        written: list[Path] = []
        failures: list[MtpgraftError] = []
        for path, render in self._wanted():
            try:
                write_document(path, render(result))
                written.append(path)
            except MtpgraftError as error:
                failures.append(error)
        return written, failures[0] if failures else None

    def explain(self, result: BenchResult, diagnosis: Diagnosis) -> MtpgraftError | None:
        """Write the texts and pages again, with what the control runs found. The first failure."""
        from mtpgraft.report.bench_html import bench_html
        from mtpgraft.report.bench_markdown import bench_markdown

        failures: list[MtpgraftError] = []
        for path, render in ((self.documents.markdown_file, bench_markdown), (self.documents.html, bench_html)):
            try:
                if path is not None:
                    write_document(path, render(result, diagnosis))
            except MtpgraftError as error:
                failures.append(error)
        return failures[0] if failures else None

    def _wanted(self) -> Iterator[tuple[Path, _Render]]:
        documents = self.documents
        every: tuple[tuple[Path | None, _Render], ...] = (
            (self.save, _save),
            (self.mtp_bench, _mtp_bench),
            (documents.markdown_file, _markdown),
            (documents.html, _html),
            (documents.png, _png),
        )
        return ((path, render) for path, render in every if path is not None)


def _save(result: BenchResult) -> str:
    return json.dumps(result.to_json(), indent=1, ensure_ascii=False) + "\n"


def _mtp_bench(result: BenchResult) -> str:
    from mtpgraft.bench.mtpbench import mtp_bench_json

    return json.dumps(mtp_bench_json(result), indent=2, ensure_ascii=False) + "\n"


def _markdown(result: BenchResult) -> str:
    from mtpgraft.report.bench_markdown import bench_markdown

    return bench_markdown(result)


def _html(result: BenchResult) -> str:
    from mtpgraft.report.bench_html import bench_html

    return bench_html(result)


def _png(result: BenchResult) -> bytes:
    from mtpgraft.report.bench_png import bench_png

    return bench_png(result)
