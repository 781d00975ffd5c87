"""Times grafts side by side with cp, gguf_new_metadata and a plain gguf-py graft, on one disk, in one run.

    python scripts/bench_io.py --gb 1 4 --repeats 3 --folder /some/disk

Each round runs every way once, in turn, so that what else the machine does falls on all alike; the table gives the
median of each way's ratio to that round's `cp`. cp is timed until its bytes are on the disk (cp, then fsync), because
mtpgraft syncs too; `cp, no sync` is the shell's answer time. The base is read once before the first round (warm cache).
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
from collections.abc import Callable
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
    subprocess.run(["cp", base, out], check=True)
    synced(out)


def cp_unsynced(base: Path, out: Path) -> None:
    subprocess.run(["cp", base, out], check=True)


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


def strip_in_place(base: Path, out: Path) -> None:
    assert surgery.strip(out, out, run=RunOptions(in_place=True)).moved


WAYS: dict[str, Callable[[Path, Path], None]] = {
    "cp": cp,
    "cp, no sync": cp_unsynced,
    "mtpgraft graft, writing alone": write_only,
    "mtpgraft graft, verified": graft,
    "mtpgraft graft --in-place": graft_in_place,
    "mtpgraft strip --in-place": strip_in_place,
    "gguf_new_metadata": new_metadata,
    "gguf-py graft (plain_graft.py)": gguf_py_graft,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, nargs="+", default=[1.0])
    parser.add_argument("--tensors", type=int, nargs="+", default=[300])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--only", nargs="*", default=list(WAYS), help="names of ways; cp always runs")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mtpgraft-bench-", dir=args.folder))
    try:
        for gb in args.gb:
            for n_tensors in args.tensors:
                one_size(folder, gb, n_tensors, args.repeats, {"cp", *args.only})
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
            out.unlink(missing_ok=True)
            os.sync()
            begin, begin_cpu = time.perf_counter(), sum(os.times()[:4])
            WAYS[name](base, moved if "--in-place" in name else out)
            seconds[name].append(time.perf_counter() - begin)
            cpu[name].append(sum(os.times()[:4]) - begin_cpu)
    print(f"\n{gb:g} GB, {n_tensors} tensors, {repeats} rounds; cp {statistics.median(seconds['cp']):.2f} s\n")
    print("| way | time / cp, median | lowest to highest | CPU seconds |\n|---|---|---|---|")
    for name, times in seconds.items():
        ratios = [mine / theirs for mine, theirs in zip(times, seconds["cp"], strict=True)]
        low, high, used = min(ratios), max(ratios), statistics.median(cpu[name])
        print(f"| {name} | {statistics.median(ratios):.3f} | {low:.3f} to {high:.3f} | {used:.2f} |")
    for path in (base, out, moved):
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
