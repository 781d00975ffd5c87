"""Times grafts side by side with cp, gguf_new_metadata and a plain gguf-py graft, on one disk, in one run.

    python scripts/bench_io.py --gb 1 4 --repeats 3 --folder /some/disk
    python scripts/bench_io.py --gb 4 --image xfs --folder /some/disk      # root: in an image of that file system

Each round runs every way once, in turn, so that what else the machine does falls on all alike; the table gives the
median of each way's ratio to that round's `cp`. cp is timed until its bytes are on the disk (cp, then fsync), because
mtpgraft syncs too; `cp, no sync` is the shell's answer time. The base is read once before the first round (warm cache).
"graft, verified" and the rows marked "command" are whole commands, from the start of Python on; the other rows of
mtpgraft are calls in a running Python. In place, the file is not in the page cache, unless the row says so.
Disk: three times the largest size (in an image too).
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mtpgraft import surgery  # noqa: E402
from mtpgraft.container import open_gguf  # noqa: E402
from mtpgraft.head import find_head  # noqa: E402
from mtpgraft.plan import GraftOptions, plan_graft  # noqa: E402
from mtpgraft.surgery import RunOptions  # noqa: E402
from mtpgraft.write import write_plan  # noqa: E402
from tests.bigmodel import make_big_base  # noqa: E402

DONOR = ROOT / "fixtures" / "trained" / "donor-bf16.gguf"


def synced(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def cp(base: Path, out: Path) -> None:
    subprocess.run(["cp", "--reflink=never", base, out], check=True)
    synced(out)


def cp_reflink(base: Path, out: Path) -> None:
    subprocess.run(["cp", "--reflink=always", base, out], check=True)
    synced(out)


def cp_unsynced(base: Path, out: Path) -> None:
    subprocess.run(["cp", "--reflink=never", base, out], check=True)


def new_metadata(base: Path, out: Path) -> None:
    """gguf-py's own copy with one key changed."""
    program = [sys.executable, "-m", "gguf.scripts.gguf_new_metadata", "--general-name", "x", "--force"]
    subprocess.run([*program, base, out], check=True, capture_output=True)
    synced(out)


def gguf_py_graft(base: Path, out: Path) -> None:
    """What one writes in an afternoon: GGUFReader on both, GGUFWriter, the head appended as it is."""
    program = [sys.executable, str(ROOT / "scripts" / "plain_graft.py"), base, DONOR, out]
    subprocess.run(program, check=True, capture_output=True)
    synced(out)


def graft(base: Path, out: Path) -> None:
    subprocess.run([sys.executable, "-m", "mtpgraft", "graft", base, DONOR, "-o", out, "--quiet"], check=True, cwd=ROOT,
                   stdout=subprocess.DEVNULL)  # fmt: skip


def write_only(base: Path, out: Path) -> None:
    """The writing alone, without the proof."""
    with open_gguf(base) as model, open_gguf(DONOR) as donor:
        plan = plan_graft(model, find_head(model), donor, find_head(donor), out, GraftOptions())
        write_plan(plan).publish()


def graft_in_place(base: Path, out: Path) -> None:
    outcome = surgery.graft(out, DONOR, out, run=RunOptions(in_place=True))
    assert outcome.moved, outcome.plan.warnings


def graft_in_place_command(base: Path, out: Path) -> None:
    program = [sys.executable, "-m", "mtpgraft", "graft", out, DONOR, "--in-place", "--quiet"]
    subprocess.run(program, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def strip_in_place(base: Path, out: Path) -> None:
    assert surgery.strip(out, out, run=RunOptions(in_place=True)).moved


WAYS: dict[str, Callable[[Path, Path], None]] = {
    "cp": cp,
    "cp, no sync": cp_unsynced,
    "cp --reflink=always": cp_reflink,
    "mtpgraft graft, writing alone": write_only,
    "mtpgraft graft, verified": graft,
    "mtpgraft graft --in-place": graft_in_place,
    "mtpgraft strip --in-place": strip_in_place,
    "mtpgraft graft --in-place, file in memory": graft_in_place,
    "mtpgraft graft --in-place, command": graft_in_place_command,
    "gguf_new_metadata": new_metadata,
    "gguf-py graft (plain_graft.py)": gguf_py_graft,
}


def prepare(name: str, out: Path, moved: Path) -> None:
    """What comes before a way and is not timed."""
    out.unlink(missing_ok=True)
    if "graft --in-place" in name:
        with open_gguf(moved) as model:
            has_head = bool(find_head(model).blocks)
        if has_head:
            surgery.strip(moved, moved, run=RunOptions(in_place=True))
    os.sync()
    if "--in-place" in name:
        fd = os.open(moved, os.O_RDONLY)
        if "in memory" in name:
            while os.read(fd, 2**22):
                pass
        else:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


@contextmanager
def file_system(folder: Path, kind: str | None, n_bytes: int) -> Iterator[Path]:
    """The folder, or a new file system of that kind, mounted in it."""
    if kind is None:
        yield folder
        return
    image, mounted = folder / "image", folder / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(n_bytes)
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, nargs="+", default=[1.0])
    parser.add_argument("--tensors", type=int, nargs="+", default=[300])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--image", choices=["ext4", "xfs", "btrfs"], help="make this file system in --folder (root)")
    parser.add_argument("--only", nargs="*", default=list(WAYS), help="names of ways; cp always runs")
    parser.add_argument("--without", nargs="*", default=[], help="names of ways")
    args = parser.parse_args()
    wanted = {"cp", *args.only} - set(args.without)
    if args.image in (None, "ext4"):
        wanted -= {"cp --reflink=always"}
    if args.image == "btrfs":
        wanted -= {name for name in WAYS if "--in-place" in name}
    folder = Path(tempfile.mkdtemp(prefix="mtpgraft-bench-", dir=args.folder))
    try:
        with file_system(folder, args.image, int((5 * max(args.gb) + 5) * 10**9)) as place:
            for gb in args.gb:
                for n_tensors in args.tensors:
                    one_size(place, gb, n_tensors, args.repeats, wanted)
    finally:
        shutil.rmtree(folder)


def one_size(folder: Path, gb: float, n_tensors: int, repeats: int, wanted: set[str]) -> None:
    base, out, moved = folder / "base.gguf", folder / "out.gguf", folder / "moved.gguf"
    make_big_base(base, int(gb * 10**9), n_tensors)
    cp(base, moved)
    seconds: dict[str, list[float]] = {name: [] for name in WAYS if name in wanted}
    cpu: dict[str, list[float]] = {name: [] for name in seconds}
    for _ in range(repeats):
        for name in seconds:
            prepare(name, out, moved)
            begin, begin_cpu = time.perf_counter(), sum(os.times()[:4])
            WAYS[name](base, moved if "--in-place" in name else out)
            seconds[name].append(time.perf_counter() - begin)
            cpu[name].append(sum(os.times()[:4]) - begin_cpu)
    print(f"\n{gb:g} GB, {n_tensors} tensors, {repeats} rounds, {kind_of(folder)}:\n")
    print("| way | seconds | time / cp, median | lowest to highest | CPU seconds |\n|---|---|---|---|---|")
    for name, times in seconds.items():
        ratios = [mine / theirs for mine, theirs in zip(times, seconds["cp"], strict=True)]
        low, high, used = min(ratios), max(ratios), statistics.median(cpu[name])
        print(
            f"| {name} | {statistics.median(times):.2f} | {statistics.median(ratios):.3f} "
            f"| {low:.3f} to {high:.3f} | {used:.2f} |",
            flush=True,
        )
    for path in (base, out, moved):
        path.unlink(missing_ok=True)


def kind_of(folder: Path) -> str:
    """The name of its file system."""
    done = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=False)
    return done.stdout.strip().replace("ext2/ext3", "ext4") or "unknown file system"


if __name__ == "__main__":
    main()
