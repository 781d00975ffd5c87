"""Killed, or failing, at every change to the disk: no input is harmed, and no output is there that is not whole."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mtpgraft import surgery
from mtpgraft.container import open_gguf
from mtpgraft.errors import InputError, MtpgraftError, RefusedError, TransientError
from mtpgraft.inplace import recover
from mtpgraft.plan import GraftOptions
from mtpgraft.source.local import journal_path
from mtpgraft.surgery import RunOptions
from tests.conftest import TRAINED, sha256
from tests.faults import failing, run_killed, steps_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fork, SIGKILL, and blocks moved inside files")

BASE = TRAINED / "base-Q2_K.gguf"
IN_PLACE = RunOptions(in_place=True)
KEEP = GraftOptions("keep")


class Case:
    """One operation on a fresh copy of its input, and the two hashes that its file may have afterwards."""

    def __init__(self, folder: Path, name: str, head: Path, graft: Path) -> None:
        self.folder, self.head, self.name = folder, head, name
        self.model, self.out = folder / "model.gguf", folder / "out.gguf"
        self.input = graft if "strip" in name else BASE
        self.old = sha256(self.input)
        self.new = sha256(BASE if "strip" in name else graft)
        self.in_place = "in place" in name

    def reset(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()
        shutil.copyfile(self.input, self.model)

    def run(self) -> None:
        out, run = (self.model, IN_PLACE) if self.in_place else (self.out, RunOptions(overwrite=True))
        if "strip" in self.name:
            surgery.strip(self.model, out, run)
        else:
            surgery.graft(self.model, self.head, out, KEEP, run)

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    def check_untouched_or_done(self) -> str:
        """After recovery: "old" or "new"."""
        if self.in_place:
            assert self.names() == {"model.gguf"}
            state = {self.old: "old", self.new: "new"}[sha256(self.model)]
        else:
            assert sha256(self.model) == self.old
            state = "new" if self.out.exists() else "old"
            assert state == "old" or sha256(self.out) == self.new
        return state


CASES = ["graft", "strip", "graft in place", "strip in place"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("parts")
    surgery.extract(TRAINED / "donor-bf16.gguf", folder / "head.gguf", wanted_type="q8_0")
    surgery.graft(BASE, folder / "head.gguf", folder / "graft.gguf", KEEP)
    return folder / "head.gguf", folder / "graft.gguf"


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: Path, parts: tuple[Path, Path]) -> Case:
    (tmp_path / "work").mkdir()
    return Case(tmp_path / "work", request.param, *parts)


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_killed_at_every_step(case: Case) -> None:
    case.reset()
    steps = steps_of(case.run)
    wanted = {"insert range", "collapse range"} if case.in_place else set()
    assert {"create", "write", "sync", "rename", "sync folder", "truncate"} | wanted <= set(steps)
    states = []
    for kill_at in range(1, len(steps) + 2):
        case.reset()
        if not run_killed(case.run, kill_at):
            break
        if case.in_place:
            if journal_path(case.model).exists():
                with pytest.raises(RefusedError) as caught:
                    open_gguf(case.model)
                assert caught.value.hint is not None
                assert "mtpgraft recover" in caught.value.hint
            recover(case.model)
        else:
            assert sha256(case.model) == case.old
            assert case.names() <= {"model.gguf", "out.gguf"} | {n for n in case.names() if n.endswith("mtpgraft-tmp")}
        states.append(case.check_untouched_or_done())
        case.run() if not (case.in_place and states[-1] == "new") else None
        assert case.check_untouched_or_done() == "new"
        assert case.names() == ({"model.gguf"} if case.in_place else {"model.gguf", "out.gguf"})
    else:
        pytest.fail("an operation that never ends")
    print(f"{case.name}: killed at each of {len(states)} changes to the disk")
    assert len(states) >= len(steps) - 1
    assert states == sorted(states, reverse=True)  # old, old, ..., new: never back again
    assert states[0] == "old"


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", ["graft in place", "strip in place"], indirect=True)
def test_the_recovery_may_be_killed_as_well(case: Case, tmp_path: Path, stride: int) -> None:
    case.reset()
    kept = tmp_path / "kept"
    n_visited = 0
    for kill_at in range(len(steps_of(case.run)), 0, -stride):
        case.reset()
        assert run_killed(case.run, kill_at)
        if not journal_path(case.model).exists():
            continue
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(case.folder, kept)
        for again_at in range(1, 50):
            for path in case.folder.iterdir():
                path.unlink()
            shutil.copytree(kept, case.folder, dirs_exist_ok=True)
            killed = run_killed(lambda: recover(case.model), again_at)
            n_visited += killed
            recover(case.model)
            case.check_untouched_or_done()
            if not killed:
                break
    print(f"{case.name}: recovery killed at {n_visited} points")
    assert n_visited > (30 if stride == 1 else 3)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("case", CASES, indirect=True)
def test_an_error_at_every_step(case: Case, number: int) -> None:
    case.reset()
    n_steps = len(steps_of(case.run))
    n_failed = 0
    for fail_at in range(1, n_steps + 1):
        case.reset()
        with failing(fail_at, number):
            try:
                case.run()
            except MtpgraftError as error:
                assert error.exit_code == 3
                n_failed += 1
        recover(case.model)
        case.check_untouched_or_done()
        assert not {name for name in case.names() if name.endswith("journal")}
        case.run() if not (case.in_place and sha256(case.model) == case.new) else None
        assert case.check_untouched_or_done() == "new"
    assert n_failed > n_steps // 3  # the others have another way: a failed clone is a copy


def in_child(operation: Callable[[], None]) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            operation()
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("case", CASES[:3], indirect=True)
def test_a_limit_on_file_sizes(case: Case) -> None:
    case.reset()

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_200_000, 1_200_000))
        with pytest.raises(TransientError) as caught:
            case.run()
        assert caught.value.exit_code == 3

    in_child(limited)
    assert case.names() == {"model.gguf"}
    assert sha256(case.model) == case.old


def test_a_full_disk(tmp_path: Path, parts: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        with pytest.raises(TransientError, match="not enough room"):
            surgery.graft(BASE, parts[0], small / "out.gguf", KEEP)
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)  # filled up after it was asked
        with pytest.raises(TransientError, match="could not be written") as caught:
            surgery.graft(BASE, parts[0], small / "out.gguf", KEEP)
        assert caught.value.hint is not None
        assert "space" in caught.value.hint
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_leftovers_of_killed_runs_are_removed_and_others_kept(tmp_path: Path, parts: tuple[Path, Path]) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    other = tmp_path / f".other.gguf.{dead.pid}.mtpgraft-tmp"
    alive = tmp_path / f".out.gguf.{os.getppid()}.mtpgraft-tmp"
    left = tmp_path / f".out.gguf.{dead.pid}.mtpgraft-tmp"
    for path in (other, alive, left):
        path.write_bytes(b"left")
    surgery.graft(BASE, parts[0], tmp_path / "out.gguf", KEEP)
    assert not left.exists()
    assert other.exists()
    assert alive.exists()


def test_a_temporary_file_that_is_locked_is_no_leftover(tmp_path: Path, parts: tuple[Path, Path]) -> None:
    import fcntl

    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    held = tmp_path / f".out.gguf.{dead.pid}.mtpgraft-tmp"  # another machine's, in a shared folder
    with held.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        surgery.graft(BASE, parts[0], tmp_path / "out.gguf", KEEP)
        assert held.exists()


def test_a_read_error_names_the_file_and_the_place(
    tmp_path: Path, parts: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pread
    base_size = BASE.stat().st_size

    def broken(fd: int, n: int, offset: int) -> bytes:
        if os.fstat(fd).st_size == base_size and offset + n > 1_000_000:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, n, offset)

    def no_kernel_copy(*args: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    monkeypatch.setattr(os, "copy_file_range", no_kernel_copy)
    monkeypatch.setattr(os, "sendfile", no_kernel_copy)
    with pytest.raises(TransientError, match=r"base-Q2_K.gguf: offset \d+: reading failed"):
        surgery.graft(BASE, parts[0], tmp_path / "out.gguf", KEEP)
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_cannot_be_written(tmp_path: Path, parts: tuple[Path, Path]) -> None:
    model = tmp_path / "model.gguf"
    shutil.copyfile(BASE, model)
    model.chmod(0o444)
    with pytest.raises(RefusedError, match="write-protected"):
        surgery.graft(model, parts[0], model, KEEP, IN_PLACE)
    assert sha256(model) == sha256(BASE)
    if os.geteuid():
        tmp_path.chmod(0o555)
        with pytest.raises(RefusedError, match="could not be written"):
            surgery.graft(model, parts[0], tmp_path / "out.gguf", KEEP)
        tmp_path.chmod(0o755)


def test_a_base_that_shrinks_is_not_changed_in_place(tmp_path: Path, parts: tuple[Path, Path]) -> None:
    model = tmp_path / "model.gguf"
    shutil.copyfile(BASE, model)

    def shrink(plan: object) -> None:
        os.truncate(model, 1_000_000)

    with pytest.raises((InputError, TransientError), match="changed by another"):
        surgery.graft(model, parts[0], model, KEEP, RunOptions(in_place=True, on_plan=shrink))
    assert model.read_bytes() == BASE.read_bytes()[:1_000_000]
