"""What is compared while it is copied: it saves reading, and hides nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mtpgraft import surgery
from mtpgraft.compare import Proven
from mtpgraft.container import GGUFModel, open_gguf
from mtpgraft.head import find_head
from mtpgraft.plan import GraftOptions, plan_graft
from mtpgraft.source.local import LocalFile
from mtpgraft.surgery import NotVerifiedError, opened_result
from mtpgraft.verify import VerifyReport, verify_graft
from mtpgraft.write import Written, disk, write_plan
from tests.conftest import TRAINED
from tests.faults import flipping_copy

BASE, DONOR = TRAINED / "base-Q4_K_M.gguf", TRAINED / "donor-bf16.gguf"


@contextmanager
def copied(out: Path) -> Iterator[tuple[Written, tuple[Proven, ...], GGUFModel, GGUFModel]]:
    """A graft that is written and not yet verified: what is proven of it, its base and its donor."""
    with open_gguf(BASE) as base, open_gguf(DONOR) as donor:
        plan = plan_graft(base, find_head(base), donor, find_head(donor), out, GraftOptions())
        written = write_plan(plan, compare=True)
        try:
            yield written, written.proven(), base, donor
        finally:
            written.discard()


def verified(written: Written, proven: tuple[Proven, ...], base: GGUFModel, donor: GGUFModel) -> VerifyReport:
    with opened_result(written) as result:
        return verify_graft(result, base, donor, proven=proven)


def test_the_proof_does_not_read_what_was_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_read = 0
    read_into = LocalFile.read_into

    def counted(file: LocalFile, offset: int, buffer: memoryview) -> int:
        nonlocal n_read
        n_read += len(buffer)
        return read_into(file, offset, buffer)

    with copied(tmp_path / "out.gguf") as (written, proven, base, donor):
        monkeypatch.setattr(LocalFile, "read_into", counted)
        without = verified(written, (), base, donor)
        n_read_without, n_read = n_read, 0
        report = verified(written, proven, base, donor)
    assert report == without and report.ok
    trunk_nbytes = sum(stretch.n_bytes for stretch in proven[0].stretches)
    assert trunk_nbytes > 1_000_000
    # both sides of every byte of the trunk that was compared before, its padding included
    assert n_read_without - n_read == pytest.approx(2 * trunk_nbytes, abs=20_000)


def test_a_change_after_the_comparison_is_found(tmp_path: Path) -> None:
    with copied(tmp_path / "out.gguf") as (written, proven, base, donor):
        with opened_result(written) as result:
            victim = result.tensor_by_name["blk.2.ffn_down.weight"]
        with written.first.open("r+b") as file:
            file.seek(victim.offset + 5)
            byte = file.read(1)[0]
            file.seek(victim.offset + 5)
            file.write(bytes([byte ^ 1]))
        report = verified(written, proven, base, donor)
    (bad,) = [check for check in report.checks if not check.ok]
    assert (bad.name, bad.detail) == ("trunk tensors: every byte", "blk.2.ffn_down.weight")


def test_another_file_under_the_same_name_has_nothing_proven(tmp_path: Path) -> None:
    with copied(tmp_path / "out.gguf") as (written, proven, base, donor):
        data = bytearray(written.first.read_bytes())
        state = written.first.stat()
        data[-1000] ^= 1
        written.first.unlink()
        written.first.write_bytes(data)
        os.utime(written.first, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert not verified(written, proven, base, donor).ok


def test_a_copy_that_goes_wrong_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes other bytes than it was given, once, in the middle of the trunk."""

    monkeypatch.setattr(disk, "copy_range", flipping_copy)
    with pytest.raises(NotVerifiedError, match="every byte"):
        surgery.graft(BASE, DONOR, tmp_path / "out.gguf")
    assert not list(tmp_path.iterdir())


def test_nothing_of_it_is_left_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: object, position: int) -> None:
        raise OSError(28, "No space left on device")

    n_open = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else None
    monkeypatch.setattr(disk, "write_at", full)
    with pytest.raises(Exception, match="could not be written"):
        surgery.graft(BASE, DONOR, tmp_path / "out.gguf")
    assert not list(tmp_path.iterdir())
    if n_open is not None:
        assert len(list(Path("/proc/self/fd").iterdir())) == n_open, "a file was left open"
