"""A census: thousands of repos, one line of JSON per target, on which a restarted run goes on.

Memory does not grow with the number of repos but for a 16-byte digest of each target done: results go to the file as
they come, and only counts are kept.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mtpgraft.audit.run import AuditOptions, audit_item, import_heavy, together
from mtpgraft.audit.targets import expand, read_lists
from mtpgraft.audit.values import AuditResult
from mtpgraft.errors import ExitCode, InputError, MtpgraftError
from mtpgraft.jsontext import Json, parse_json
from mtpgraft.source.local import is_file
from mtpgraft.write import io_error

if TYPE_CHECKING:
    from typing import BinaryIO

_FILES_AT_A_TIME = 4
"""Of one repo: the jobs are the repos'."""
_AHEAD = 2
LINE_START = b'{"target"'
_MAX_LINE_NBYTES = 16 * 2**20
"""One repo's models: a few kB each."""

Encode = Callable[[AuditResult], dict[str, object]]
OnStep = Callable[[int, int], None]


@dataclass(slots=True)
class Census:
    """Counts of what a census file holds.

    n_targets, n_skipped: done in all, and of them before this run. n_failed: to be tried again by the next run.
    """

    n_targets: int = 0
    n_skipped: int = 0
    n_failed: int = 0
    n_models: int = 0
    fetched_nbytes: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    by_architecture: dict[str, Counter[str]] = field(default_factory=dict)
    by_publisher: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, entry: Mapping[str, object]) -> None:
        """Count one line of the file."""
        self.n_targets += 1
        results = entry.get("results")
        publisher = publisher_of(str(entry.get("target", "")))
        for result in results if isinstance(results, list) else []:
            if not isinstance(result, dict):
                continue
            verdict, arch = str(result.get("verdict")), str(result.get("architecture") or "-")
            self.n_models += 1
            self.verdicts[verdict] += 1
            self.by_architecture.setdefault(arch, Counter())[verdict] += 1
            self.by_publisher.setdefault(publisher, Counter())[verdict] += 1
            fetched = result.get("fetched_nbytes")
            self.fetched_nbytes += fetched if isinstance(fetched, int) else 0


def run_census(
    targets: Iterable[str], out: Path, options: AuditOptions, encode: Encode, on_step: OnStep | None = None
) -> Census:
    """Audit every target that `out` does not hold yet, and append it. encode: a result as JSON.

    What failed for a reason that may pass (network, rate limit) is not written: the next run tries it again.
    Raises InputError when `out` is no census, TransientError or RefusedError when it cannot be written.
    """
    census = Census()
    done = _read(out, census, mend=True)
    census.n_skipped = census.n_targets
    inner = replace(options, n_jobs=min(options.n_jobs, _FILES_AT_A_TIME))
    wanted = (target for target in read_lists(targets) if _digest(target) not in done)
    import_heavy(options.deep, remote=True)
    try:
        with out.open("ab") as file, ThreadPoolExecutor(options.n_jobs) as pool:
            for target, results in _in_parallel(pool, wanted, inner, options.n_jobs * _AHEAD):
                if any(result.error_code == ExitCode.RETRY for result in results):
                    census.n_failed += 1
                else:
                    entry: dict[str, object] = {"target": target, "results": [encode(result) for result in results]}
                    _append(file, entry)
                    census.add(entry)
                if on_step is not None:
                    on_step(census.n_targets + census.n_failed, 0)
    except OSError as error:
        raise io_error(error, out, "cannot be written") from error
    return census


def read_census(path: Path) -> Census:
    """The counts of a census file. Raises InputError when it is none."""
    if not is_file(path):
        raise InputError("no such file", file=path, hint="mtpgraft audit @repos.txt --out FILE.jsonl makes one")
    census = Census()
    _read(path, census, mend=False)
    return census


def publisher_of(target: str) -> str:
    """`org` of `hf:org/repo...`; "local" for anything else."""
    name = target.removeprefix("hf://").removeprefix("hf:")
    return name.split("/", 1)[0] if name != target and "/" in name else "local"


def _in_parallel(
    pool: ThreadPoolExecutor, targets: Iterator[str], options: AuditOptions, n_ahead: int
) -> Iterator[tuple[str, list[AuditResult]]]:
    """(target, results) as they are done, with a bounded number under way."""
    pending: dict[Future[list[AuditResult]], str] = {}
    for target in targets:
        pending[pool.submit(_one, target, options)] = target
        if len(pending) >= n_ahead:
            yield from _finished(pending)
    while pending:
        yield from _finished(pending)


def _finished(pending: dict[Future[list[AuditResult]], str]) -> Iterator[tuple[str, list[AuditResult]]]:
    for future in wait(pending, return_when=FIRST_COMPLETED).done:
        yield pending.pop(future), future.result()


def _one(target: str, options: AuditOptions) -> list[AuditResult]:
    from mtpgraft.audit.run import failed

    try:
        return together([audited for item in expand([target]) for audited in audit_item(item, options)])
    except MtpgraftError as error:
        return [failed(target, error)]


def _append(file: BinaryIO, entry: dict[str, object]) -> None:
    file.write(json.dumps(entry, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
    file.flush()


def _read(path: Path, census: Census, *, mend: bool) -> set[bytes]:
    """Count what the file holds and return the digests of its targets.

    mend: remove a last line that was cut off; otherwise it is passed over.
    """
    done: set[bytes] = set()
    if not os.path.lexists(path):
        return done
    if not is_file(path):
        raise InputError("is not a regular file", file=path, expected="a census, or no such file yet")
    end = 0
    try:
        with path.open("rb") as file:
            for number in itertools.count(1):
                line = file.readline(_MAX_LINE_NBYTES)
                if not line.endswith(b"\n"):
                    break
                entry = _entry(line, path, number)
                census.add(entry)
                done.add(_digest(str(entry["target"])))
                end += len(line)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from error
    if line:
        if len(line) == _MAX_LINE_NBYTES or line[: len(LINE_START)] != LINE_START[: len(line)]:
            raise _no_census(path, number)
        if mend:
            os.truncate(path, end)
    return done


def _entry(line: bytes, path: Path, number: int) -> dict[str, Json]:
    entry = parse_json(line, path, f"line {number}")
    if not isinstance(entry, dict) or not isinstance(entry.get("target"), str):
        raise _no_census(path, number)
    return entry


def _no_census(path: Path, number: int) -> InputError:
    return InputError("is no census", file=path, where=f"line {number}", expected="a line of JSON for each target")


def _digest(target: str) -> bytes:
    return hashlib.sha256(target.encode("utf-8", "replace")).digest()[:16]
