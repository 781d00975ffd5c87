"""The power goes off: at every write that the file system gives to its disk, in every operation, on ext4 and XFS.

The disk is recorded (tests/cutdisk.py). From its log come the images that a power cut may leave: all that was written
until then, or, of what was written since the last flush, any part of the 4-kB pieces. Each image is mounted, `recover`
or the operation itself is run on it, and the files are held against their hashes.
"""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mtpgraft import surgery
from mtpgraft.container import open_gguf
from mtpgraft.errors import RefusedError
from mtpgraft.inplace import recover
from mtpgraft.plan import GraftOptions
from mtpgraft.source.local import journal_path
from mtpgraft.surgery import RunOptions
from mtpgraft.write import disk, linux
from tests.bigmodel import make_big_base
from tests.conftest import TRAINED, sha256
from tests.cutdisk import (
    MARK,
    WRITE,
    Cuts,
    Event,
    RecordedDisk,
    copy_image,
    make_image,
    mounted_image,
    recorded,
    scratch_folder,
)
from tests.faults import was_killed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts images: Linux, as root"),
    pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="the disk is served through FUSE, which is not here"),
]

BASE = TRAINED / "base-Q2_K.gguf"
N_FRAGMENTED_NBYTES = 8 * 2**20
N_TRIES = 2
N_CUTS_INSIDE = 40
CASES = ["graft", "strip", "graft in place", "strip in place"]
LIBC = ctypes.CDLL(None)
WRITEBACKS = ["lazy", "data", "journal", "all", "mixed"]
"""What reaches the disk between two steps, beside what the operation asks for: nothing, the files' data without the
names and sizes, the other way round, everything, or one of these by chance."""


class Case:
    """One operation on the files of a mounted image, and what its file may be afterwards."""

    def __init__(self, name: str, kind: str, head: Path, graft: Path, base: Path = BASE) -> None:
        self.name, self.kind, self.head = name, kind, head
        self.input, self.output = (graft, base) if "strip" in name else (base, graft)
        self.old, self.new = sha256(self.input), sha256(self.output)
        self.in_place = "in place" in name

    def fill(self, folder: Path, piece_nbytes: int = 0) -> None:
        """piece_nbytes: of each extent of the model, which takes turns with another file; 0 for as few as may be."""
        (folder / "work").mkdir()
        size = self.input.stat().st_size
        with (folder / "work" / "model.gguf").open("wb") as model, (folder / "other").open("wb") as other:
            for offset in range(0, size if piece_nbytes else 0, piece_nbytes or 1):
                for file in (model, other):
                    os.posix_fallocate(file.fileno(), offset, piece_nbytes)
            model.write(self.input.read_bytes())
            model.truncate(size)

    def run(self, folder: Path) -> None:
        model = folder / "work" / "model.gguf"
        out, run = (model, RunOptions(in_place=True)) if self.in_place else (model.with_name("out.gguf"), RunOptions())
        if not self.in_place:
            out.unlink(missing_ok=True)
        if "strip" in self.name:
            surgery.strip(model, out, run)
        else:
            assert surgery.graft(model, self.head, out, GraftOptions("keep"), run).moved == self.in_place

    def check(self, folder: Path, *, again: bool) -> str:
        """After a power cut: the next command, and the hashes. "old" or "new". again: run the operation as well."""
        work = folder / "work"
        model, out = work / "model.gguf", work / "out.gguf"
        if self.in_place:
            if journal_path(model).exists():
                with pytest.raises(RefusedError) as caught:
                    open_gguf(model)
                assert "mtpgraft recover" in str(caught.value.hint)
            recover(model)
            state = {self.old: "old", self.new: "new"}[sha256(model)]
            assert {path.name for path in work.iterdir()} == {"model.gguf"}
            if again and state == "old":
                self.run(folder)
                assert sha256(model) == self.new
        else:
            assert sha256(model) == self.old
            state = "new" if out.exists() else "old"
            assert state == "old" or sha256(out) == self.new
            if again:
                self.run(folder)
                assert sha256(out) == self.new
                assert {path.name for path in work.iterdir()} == {"model.gguf", "out.gguf"}
        return state


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = scratch_folder(tmp_path_factory.mktemp("images"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("parts")
    surgery.extract(TRAINED / "donor-bf16.gguf", folder / "head.gguf", wanted_type="q8_0")
    surgery.graft(BASE, folder / "head.gguf", folder / "graft.gguf", GraftOptions("keep"))
    return folder / "head.gguf", folder / "graft.gguf"


@pytest.fixture(scope="module", params=["ext4", "xfs"])
def kind(request: pytest.FixtureRequest, place: Path) -> str:
    if shutil.which(f"mkfs.{request.param}") is None:
        pytest.skip(f"mkfs.{request.param} is not installed")
    image = place / "trial"
    make_image(request.param, image)
    try:
        with recorded(image, place):
            return str(request.param)
    except RuntimeError as error:
        pytest.skip(f"a recorded disk cannot be mounted here: {error}")


@pytest.fixture
def case(request: pytest.FixtureRequest, kind: str, place: Path, parts: tuple[Path, Path]) -> Case:
    return Case(request.param, kind, *parts)


def image_of(case: Case, place: Path) -> Path:
    """An image with the case's input in it."""
    image = place / "image"
    make_image(case.kind, image)
    with mounted_image(image, place) as folder:
        case.fill(folder)
    return image


def marked(case: Callable[[Path], object], disk_: RecordedDisk, writeback: str, kill_at: int = 0) -> None:
    """Run it in a child, with a mark in the log and a writeback before each of its changes."""
    chance = random.Random(writeback)

    def in_child() -> None:
        n_seen = 0

        def on_step(step: disk.Step) -> None:
            nonlocal n_seen
            n_seen += 1
            if step.data and writeback in ("lazy", "mixed"):
                os.pwrite(step.fd, step.data[: len(step.data) // 2], step.offset)
                write_back(disk_.folder, writeback, chance)
                disk_.mark(f"half of {step.name}")
            write_back(disk_.folder, writeback, chance)
            disk_.mark(step.name)
            if n_seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        disk.on_step = on_step
        disk_.mark("start")
        case(disk_.folder)
        disk_.mark("done")

    assert was_killed(in_child) == (kill_at > 0)


def write_back(folder: Path, what: str, chance: random.Random) -> None:
    if what == "mixed":
        what = chance.choice(WRITEBACKS[:-1])
    if what == "all":
        with (folder / "other").open("rb") as file:
            LIBC.syncfs(file.fileno())
    elif what == "journal":
        with (folder / "other").open("ab", 0) as file:
            file.write(b".")
            os.fsync(file.fileno())
    elif what == "data":
        for path in (folder / "work").iterdir():
            with suppress(FileNotFoundError), path.open("rb") as file:  # wait, write, wait
                LIBC.sync_file_range(file.fileno(), ctypes.c_int64(0), ctypes.c_int64(0), 7)


def cuts_of(events: list[Event], n_seeds: int, n_most: int | None) -> Iterator[tuple[int, int | None, bool]]:
    """(position, seed, whether the operation had returned) of each cut that can leave another image than the last.

    From the last mark "start" on. Besides each position with all that was written, a third of them n_seeds times with
    a part of it. n_most: so many positions, spread over all of them.
    """
    start = max(i for i, event in enumerate(events, 1) if event.text == "start")
    done = max((i for i, event in enumerate(events) if event.text == "done"), default=len(events))
    positions = [i for i in range(start + 1, len(events)) if events[i - 1].kind == WRITE]
    stride = max(1, len(positions) // n_most) if n_most else 1
    for number, position in enumerate([start, *positions[::stride], len(events)]):
        yield position, None, position > done
        if number % 3 == 1 or position == len(events):
            yield from ((position, 1000 * position + seed, position > done) for seed in range(n_seeds))


def check_all(
    case: Case,
    image: Path,
    events: list[Event],
    place: Path,
    n_seeds: int = 1,
    *,
    recovery: bool = False,
    n_most: int | None = None,
) -> Counter[str]:
    """Every cut, and how many of them gave "old", "new", and a move of the trunk that was cut short ("half").

    recovery: what was recorded is a recovery, which ends with one or the other.
    """
    cuts, states = Cuts(image, events, place), Counter[str]()
    for number, (position, seed, done) in enumerate(cuts_of(events, n_seeds, n_most)):
        seen = [event.text for event in events[:position] if event.kind == MARK][-1]
        with mounted_image(cuts.at(position, seed), place) as folder:
            states["half"] += is_half_moved(case, folder)
            if done and not recovery:
                assert not journal_path(folder / "work" / "model.gguf").exists()
            try:
                state = case.check(folder, again=number % 5 == 0)
            except Exception as error:
                raise AssertionError(f"cut at {position} of {len(events)}, after {seen!r}, seed {seed}") from error
        assert state == "new" or recovery or not done
        states[state] += 1
    return states


def is_half_moved(case: Case, folder: Path) -> bool:
    """Whether some extents of the trunk have moved and others not: at the larger size, with a hole behind its start."""
    with (folder / "work" / "model.gguf").open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        segments = linux.data_segments(file.fileno(), 0, size)
    return size == max(case.input.stat().st_size, case.output.stat().st_size) and len(segments) > 1


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_the_power_goes_off_at_every_write(case: Case, place: Path) -> None:
    image, states = image_of(case, place), Counter[str]()
    for writeback in WRITEBACKS:
        with recorded(image, place) as recorder:
            marked(case.run, recorder, writeback)
            events = recorder.events()
        n_most = None if writeback in ("lazy", "mixed") else 60
        states += check_all(case, image, events, place, 3 if writeback == "lazy" else 1, n_most=n_most)
    print(f"{case.kind}, {case.name}: {states['old'] + states['new']} power cuts, {dict(states)}")
    assert min(states["old"], states["new"]) > 0


@pytest.mark.parametrize("case", CASES[2:], indirect=True)
def test_the_power_goes_off_while_a_killed_run_is_recovered(case: Case, place: Path) -> None:
    """What the killed run did is partly on the disk, partly in memory; the recovery sees all of it."""
    image, states = image_of(case, place), Counter[str]()
    for writeback in ("lazy", "mixed"):
        with recorded(image, place) as recorder:
            marked(case.run, recorder, writeback)
            steps = [e.text for e in recorder.events() if e.kind == MARK and not e.text.startswith("half")][1:-1]
        first = steps.index("rename")
        for number in range(first, len(steps)):
            if steps[number] == "write" == steps[number - 1] and number > first + 3:
                continue  # of the head's many tensors
            with recorded(image, place) as recorder:
                marked(case.run, recorder, writeback, kill_at=number + 1)
                marked(recovery, recorder, writeback)
                events = recorder.events()
            states += check_all(case, image, events, place, recovery=True, n_most=20)
    print(f"{case.kind}, recovery of a killed {case.name}: {states['old'] + states['new']} power cuts, {dict(states)}")
    assert states["old"] > 0


@pytest.mark.parametrize("case", CASES[2:], indirect=True)
def test_the_power_goes_off_again_while_it_is_recovered(case: Case, place: Path) -> None:
    image, n_visited, states = image_of(case, place), 0, Counter[str]()
    for writeback in ("data", "journal", "mixed"):
        with recorded(image, place) as recorder:
            marked(case.run, recorder, writeback)
            events = recorder.events()
        n_new, new_states = recover_each(case, image, events, place)
        n_visited, states = n_visited + n_new, states + new_states
    print(
        f"{case.kind}, recovery of a {case.name} after a power cut, from {n_visited} states: "
        f"{states['old'] + states['new']} power cuts, {dict(states)}"
    )
    assert n_visited > 5


@pytest.mark.parametrize("case", CASES[2:], indirect=True)
def test_the_power_goes_off_inside_the_move_of_thousands_of_extents(case: Case, place: Path, tmp_path: Path) -> None:
    """Another program syncs all the time, so that the file system commits the move piece by piece."""
    big, grafted = tmp_path / "big.gguf", tmp_path / "grafted.gguf"
    make_big_base(big, N_FRAGMENTED_NBYTES, 10)
    surgery.graft(big, case.head, grafted, GraftOptions("keep"))
    case = Case(case.name, case.kind, case.head, grafted, big)
    image = place / "image"
    make_image(case.kind, image, 1024)
    with mounted_image(image, place) as folder:
        case.fill(folder, piece_nbytes=1024)
    n_again, states = 0, Counter[str]()
    for _ in range(N_TRIES):
        with recorded(image, place) as recorder, syncing(recorder.folder / "other"):
            marked(case.run, recorder, "lazy")
            events = recorder.events()
        call = [i for i, event in enumerate(events) if event.text in ("insert range", "collapse range")][-1]
        end = next(i for i, event in enumerate(events) if i > call and event.kind == MARK)
        inside = events[: end + 1]
        inside.insert(call + 1, Event(MARK, 0, b"start"))
        states += check_all(case, image, inside, place, n_most=N_CUTS_INSIDE)
        n_again += sum(recover_each(case, image, inside, place, is_half_moved, 1)[1].values())
    print(
        f"{case.kind}, {case.name} of {N_FRAGMENTED_NBYTES // 1024} extents: {states['old'] + states['new']} power cuts"
        f" inside the move, {states['half']} of them found it half done; {n_again} while such a one was recovered"
    )
    assert states["half"] > 0 or case.kind == "ext4"  # which has it in one transaction, if no commit comes between


@contextmanager
def syncing(path: Path) -> Iterator[None]:
    """A child that writes and syncs this file until the end."""
    pid = os.fork()
    if pid == 0:
        fd = os.open(path, os.O_WRONLY)
        while os.getppid() != 1:
            os.pwrite(fd, os.urandom(8), 0)
            os.fsync(fd)
        os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def recovery(folder: Path) -> None:
    recover(folder / "work" / "model.gguf")


def recover_each(
    case: Case,
    image: Path,
    events: list[Event],
    place: Path,
    wanted: Callable[[Case, Path], bool] = lambda case, folder: True,
    n_wanted: int = 8,
) -> tuple[int, Counter[str]]:
    """Record the recovery from so many states that a cut leaves, and cut that; how many states, and what came of it."""
    first, inner = place / "first", place / "inner"
    inner.mkdir(exist_ok=True)
    cuts, states, visited = Cuts(image, events, place), Counter[str](), set[str]()
    for position, seed, _ in cuts_of(events, 1, N_CUTS_INSIDE):
        copy_image(cuts.at(position, seed), first)
        with mounted_image(first, place) as folder:
            model = folder / "work" / "model.gguf"
            state = sha256(model)
            is_wanted = journal_path(model).exists() and wanted(case, folder)
        if is_wanted and state not in visited:
            visited.add(state)
            with recorded(first, inner) as recorder:
                marked(recovery, recorder, "mixed")
                again = recorder.events()
            states += check_all(case, first, again, inner, recovery=True, n_most=20)
        if len(visited) == n_wanted:
            break
    return len(visited), states
