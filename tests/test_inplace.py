"""Grafts and strips in place: the same bytes as a copy, and a journal that nobody can overlook."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mtpgraft import surgery
from mtpgraft.container import open_gguf
from mtpgraft.errors import InvalidFileError, RefusedError, TransientError
from mtpgraft.inplace import NoMove, plan_move, recover
from mtpgraft.inplace.journal import Journal
from mtpgraft.inplace.samples import TrunkSamples
from mtpgraft.plan import GraftOptions
from mtpgraft.plan.values import OutTensor
from mtpgraft.source.local import journal_path
from mtpgraft.surgery import NotVerifiedError, RunOptions
from mtpgraft.verify import verify_graft
from mtpgraft.write import linux
from mtpgraft.write.files import DigestRow
from tests.bigmodel import make_big_base
from tests.conftest import TRAINED, Program, sha256
from tests.engine import load_and_draft
from tests.faults import run_killed, steps_of
from tests.test_memory import LIMIT_KB, peak_kb

DONOR = TRAINED / "donor-bf16.gguf"
BASE = TRAINED / "base-Q2_K.gguf"
IN_PLACE = RunOptions(in_place=True)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="data is moved inside files on Linux only")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    shutil.copyfile(BASE, path)
    return path


@pytest.mark.parametrize("quant", ["Q4_K_M", "Q3_K_M", "Q2_K", "IQ4_XS"])
def test_in_place_gives_the_bytes_of_the_copy_and_strips_back(tmp_path: Path, quant: str) -> None:
    base, copy, model = TRAINED / f"base-{quant}.gguf", tmp_path / "copy.gguf", tmp_path / "model.gguf"
    shutil.copyfile(base, model)
    surgery.graft(base, DONOR, copy)
    inode = model.stat().st_ino
    outcome = surgery.graft(model, DONOR, model, run=IN_PLACE)
    assert outcome.moved
    assert outcome.report is not None
    assert any("moved" in check.name for check in outcome.report.checks)
    assert sha256(model) == sha256(copy)
    load_and_draft(model, grammar=None)
    with open_gguf(model) as result, open_gguf(base) as original, open_gguf(DONOR) as donor:
        assert verify_graft(result, original, donor).ok
    outcome = surgery.strip(model, model, run=IN_PLACE)
    assert outcome.moved
    assert sha256(model) == sha256(base)
    assert model.stat().st_ino == inode
    assert [path.name for path in tmp_path.iterdir()] in (["model.gguf", "copy.gguf"], ["copy.gguf", "model.gguf"])


def test_a_base_without_padding_at_its_end(tmp_path: Path, model: Path) -> None:
    with open_gguf(BASE) as opened:
        last = opened.tensors[-1]
        end = last.offset + last.n_bytes
    os.truncate(model, end)
    short = sha256(model)
    copy = tmp_path / "copy.gguf"
    surgery.graft(model, DONOR, copy)
    assert surgery.graft(model, DONOR, model, run=IN_PLACE).moved
    assert sha256(model) == sha256(copy)
    assert surgery.strip(model, model, run=IN_PLACE).moved
    assert sha256(model) == short


def test_what_cannot_be_moved_is_copied_and_said(tmp_path: Path, model: Path) -> None:
    link = tmp_path / "link.gguf"
    link.symlink_to(model)
    outcome = surgery.graft(link, DONOR, link, run=IN_PLACE)
    assert not outcome.moved
    assert any("other names" in text for text in outcome.plan.warnings)
    assert sha256(model) == sha256(BASE)  # a link into a shared cache gets a file of its own
    assert not link.is_symlink()
    outcome = surgery.graft(link, DONOR, link, GraftOptions(replace=True), IN_PLACE)
    assert not outcome.moved
    load_and_draft(link, grammar=None)
    model.write_bytes(model.read_bytes() + b"tail")
    outcome = surgery.graft(model, DONOR, model, run=IN_PLACE)
    assert not outcome.moved


def test_a_copy_that_replaces_keeps_the_permissions(tmp_path: Path, model: Path) -> None:
    hard = tmp_path / "hard.gguf"
    hard.hardlink_to(model)
    model.chmod(0o640)
    assert not surgery.graft(model, DONOR, model, run=IN_PLACE).moved
    assert model.stat().st_mode & 0o777 == 0o640
    assert sha256(hard) == sha256(BASE)


def test_a_file_system_that_cannot(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shm = Path("/dev/shm")
    if not (shm.is_dir() and os.access(shm, os.W_OK)):
        pytest.skip("no tmpfs here")
    folder = shm / f"mtpgraft-test-{os.getpid()}"
    folder.mkdir()
    try:
        there = folder / "model.gguf"
        shutil.copyfile(BASE, there)
        outcome = surgery.graft(there, DONOR, there, run=IN_PLACE)
        assert not outcome.moved
        assert any("file system" in text for text in outcome.plan.warnings)
        assert [path.name for path in folder.iterdir()] == ["model.gguf"]
    finally:
        shutil.rmtree(folder)
    monkeypatch.setattr(linux, "IS_LINUX", False)
    outcome = surgery.graft(model, DONOR, model, run=IN_PLACE)
    assert any("only Linux" in text for text in outcome.plan.warnings)
    surgery.strip(model, model, run=IN_PLACE)
    assert sha256(model) == sha256(BASE)


def test_a_file_system_that_declines_only_when_asked(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    real, calls = linux.insert_range, []

    def once(fd: int, offset: int, n_bytes: int) -> None:
        calls.append(n_bytes)
        if len(calls) == 2:  # the first is the trial
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        real(fd, offset, n_bytes)

    monkeypatch.setattr(linux, "insert_range", once)
    outcome = surgery.graft(model, DONOR, model, run=IN_PLACE)
    assert not outcome.moved
    load_and_draft(model, grammar=None)
    assert [path.name for path in model.parent.iterdir()] == ["model.gguf"]


def killed_after_the_shift(model: Path) -> None:
    steps = steps_of(lambda: surgery.graft(model, DONOR, model, run=IN_PLACE))
    shutil.copyfile(BASE, model)
    shift = len(steps) - steps[::-1].index("insert range")
    assert run_killed(lambda: surgery.graft(model, DONOR, model, run=IN_PLACE), shift + 2)
    assert journal_path(model).exists()


def killed_before(model: Path, operation: Callable[[], object], step: str) -> None:
    """Kill the operation before its last step of that name."""
    state = model.read_bytes()
    steps = steps_of(operation)
    model.write_bytes(state)
    assert run_killed(operation, len(steps) - steps[::-1].index(step))
    assert journal_path(model).exists()


@pytest.mark.parametrize("n_blocks", [1, 2, 7, 200, None])
def test_a_graft_whose_move_was_cut_short_is_undone(model: Path, n_blocks: int | None) -> None:
    """Extents move one after the other, the last first: a power cut, or a full disk, leaves some in the old place."""
    killed_before(model, lambda: surgery.graft(model, DONOR, model, run=IN_PLACE), "insert range")
    shift = json.loads(journal_path(model).read_bytes().split(b"\n")[1])["shift"]
    with model.open("r+b") as file:
        if n_blocks is None:  # the size is the first thing to change
            file.truncate(model.stat().st_size + shift)
        else:
            linux.insert_range(file.fileno(), n_blocks * 4096, shift)
    recover(model)
    assert sha256(model) == sha256(BASE)


@pytest.mark.parametrize("n_blocks", [1, 2, 7, 200, None])
def test_a_strip_whose_move_was_cut_short_is_undone(model: Path, n_blocks: int | None) -> None:
    surgery.graft(model, DONOR, model, run=IN_PLACE)
    old, size = sha256(model), model.stat().st_size
    killed_before(model, lambda: surgery.strip(model, model, run=IN_PLACE), "collapse range")
    shift = -json.loads(journal_path(model).read_bytes().split(b"\n")[1])["shift"]
    with model.open("r+b") as file:
        linux.collapse_range(file.fileno(), 0, shift)
        if n_blocks is None:  # the size is the last thing to change
            file.truncate(size)
        else:
            linux.insert_range(file.fileno(), n_blocks * 4096, shift)
    recover(model)
    assert sha256(model) == old


def test_the_block_that_a_strip_was_about_to_cut_is_brought_back(model: Path) -> None:
    """Its end is zero on the disk before the new size is: tests/test_powercut.py saw it on ext4 and XFS."""
    surgery.graft(model, DONOR, model, run=IN_PLACE)
    old = sha256(model)
    killed_before(model, lambda: surgery.strip(model, model, run=IN_PLACE), "truncate")
    end = BASE.stat().st_size
    with model.open("r+b") as file:
        file.seek(end)
        file.write(bytes(-end % 4096))
    recover(model)
    assert sha256(model) == old


def test_a_hole_that_no_move_leaves_changes_nothing(model: Path) -> None:
    killed_before(model, lambda: surgery.graft(model, DONOR, model, run=IN_PLACE), "insert range")
    shift = json.loads(journal_path(model).read_bytes().split(b"\n")[1])["shift"]
    with model.open("r+b") as file:
        for offset in (4096, 400 * 4096):
            linux.insert_range(file.fileno(), offset, 4096)
        file.truncate(model.stat().st_size + shift - 2 * 4096)
    state = sha256(model)
    with pytest.raises(InvalidFileError, match="holes"):
        recover(model)
    assert sha256(model) == state
    assert journal_path(model).exists()


def test_a_trunk_in_the_wrong_place_is_not_written_over(model: Path) -> None:
    killed_after_the_shift(model)
    state = bytearray(model.read_bytes())
    state[-len(state) // 2] ^= 1
    model.write_bytes(state)
    with pytest.raises(InvalidFileError, match="not where it was"):
        recover(model)
    assert model.read_bytes() == state


def test_a_file_with_holes_is_copied(tmp_path: Path) -> None:
    model = tmp_path / "sparse.gguf"
    make_big_base(model, 10**6, 1, sparse=True)
    outcome = surgery.graft(model, DONOR, model, run=IN_PLACE)
    assert not outcome.moved
    assert any("holes" in text for text in outcome.plan.warnings)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Dense: tests/test_memory.py uses sparse files, which are copied."""
    model = tmp_path / "model.gguf"
    make_big_base(model, 6 * 10**8, 300)
    inode = model.stat().st_ino
    assert max(peak_kb("graft", model, DONOR, "--in-place"), peak_kb("strip", model, "--in-place")) < LIMIT_KB
    assert model.stat().st_ino == inode


def test_a_file_in_between_is_refused_by_every_command(tmp_path: Path, model: Path, mtpgraft: Program) -> None:
    killed_after_the_shift(model)
    for args in (
        ("inspect", model),
        ("extract", model, "-o", tmp_path / "head.gguf"),
        ("graft", model, DONOR, "-o", tmp_path / "out.gguf"),
        ("strip", model, "-o", tmp_path / "out.gguf"),
        ("verify", model, "--base", BASE),
        ("verify", BASE, "--base", model),
    ):
        said = mtpgraft(*args, expect=2).stderr
        assert f"mtpgraft recover {model}" in said
        assert "Traceback" not in said
    said = mtpgraft("recover", model).stdout
    assert "as it was before" in said
    assert sha256(model) == sha256(BASE)
    assert "nothing was interrupted" in mtpgraft("recover", model).stdout
    assert '"state": "clean"' in mtpgraft("recover", model, "--json").stdout


def test_the_next_change_in_place_ends_the_last(model: Path) -> None:
    killed_after_the_shift(model)
    assert surgery.graft(model, DONOR, model, run=IN_PLACE).moved
    load_and_draft(model, grammar=None)
    surgery.strip(model, model, run=IN_PLACE)
    assert sha256(model) == sha256(BASE)


def test_two_runs_do_not_meet(model: Path) -> None:
    import fcntl

    with model.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TransientError, match="another run"):
            surgery.graft(model, DONOR, model, run=IN_PLACE)
        fcntl.flock(other, fcntl.LOCK_UN)
    assert sha256(model) == sha256(BASE)
    killed_after_the_shift(model)
    with model.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TransientError, match="another run"):
            recover(model)


def test_a_damaged_journal_or_file_is_not_believed(model: Path) -> None:
    killed_after_the_shift(model)
    journal, state = journal_path(model).read_bytes(), model.read_bytes()
    damaged = bytearray(journal)
    damaged[len(damaged) // 2] ^= 1
    journal_path(model).write_bytes(damaged)
    with pytest.raises(InvalidFileError, match="not a whole journal"):
        recover(model)
    assert model.read_bytes() == state
    journal_path(model).write_bytes(journal)
    model.write_bytes(state + b"more")
    with pytest.raises(InvalidFileError, match="something else"):
        recover(model)
    assert model.read_bytes() == state + b"more"
    half = bytearray(state)
    half[-len(state) // 2] ^= 1
    model.write_bytes(half)
    with pytest.raises(InvalidFileError, match="not where it was"):
        recover(model)
    assert journal_path(model).exists()


def test_a_result_that_does_not_verify_is_undone(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mtpgraft.inplace import apply

    def written_wrongly(tensor: OutTensor, at: int, fd: int, order: str, progress: object) -> list[DigestRow]:
        os.pwrite(fd, b"x" * tensor.n_bytes, at)
        return []

    monkeypatch.setattr(apply, "write_tensor", written_wrongly)
    monkeypatch.setattr(apply, "header_with_digest", lambda plan, raw, rows: raw)
    with pytest.raises(NotVerifiedError):
        surgery.graft(model, DONOR, model, run=IN_PLACE)
    assert sha256(model) == sha256(BASE)
    assert [path.name for path in model.parent.iterdir()] == ["model.gguf"]


def test_a_dry_run_in_place_changes_nothing(model: Path) -> None:
    surgery.graft(model, DONOR, model, run=RunOptions(in_place=True, dry_run=True))
    assert sha256(model) == sha256(BASE)


def test_the_journal_survives_encoding() -> None:
    journal = Journal("strip", 10_000, 5_000, -4096, b"old" * 9, b"new" * 7, TrunkSamples(77, "ab" * 32))
    assert Journal.decode(journal.encode(), "j") == journal
    with pytest.raises(InvalidFileError):
        Journal.decode(b"", "j")


def test_alignment_of_a_copied_graft_allows_the_move(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    surgery.graft(BASE, DONOR, out)
    with open_gguf(out) as grafted, open_gguf(BASE) as base:
        assert (grafted.shards[0].data_start - base.shards[0].data_start) % 4096 == 0
        assert grafted.key("mtpgraft.pad") is not None
        from mtpgraft.head import find_head
        from mtpgraft.plan import plan_strip

        assert not isinstance(plan_move(plan_strip(grafted, find_head(grafted), out), grafted), NoMove)
    with pytest.raises(RefusedError):
        surgery.graft(out, DONOR, out, run=IN_PLACE)


def test_a_name_as_long_as_names_may_be_is_read(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".gguf")
    shutil.copyfile(BASE, path)
    open_gguf(path).close()
