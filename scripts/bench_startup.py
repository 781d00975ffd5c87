"""Times `mtpgraft --version` and `--help` against the bare interpreter, side by side, and lists the heavy imports.

python scripts/bench_startup.py --repeats 20
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WAYS = {
    "python -c pass": ["-c", "pass"],
    "python -c 'import typer'": ["-c", "import typer"],
    "mtpgraft --version": ["-m", "mtpgraft", "--version"],
    "mtpgraft --help": ["-m", "mtpgraft", "--help"],
}
HEAVY = ("numpy", "gguf", "huggingface_hub", "rich", "tqdm", "xllamacpp", "requests", "ssl", "asyncio")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    wall: dict[str, list[float]] = {name: [] for name in WAYS}
    cpu: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(args.repeats):
        for name, arguments in WAYS.items():
            begin, begin_cpu = time.perf_counter(), os.times()
            subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            wall[name].append(time.perf_counter() - begin)
            end_cpu = os.times()
            cpu[name].append(sum(end_cpu[2:4]) - sum(begin_cpu[2:4]))
    print("| start | wall, fastest | wall, median | CPU, median |\n|---|---|---|---|")
    for name in WAYS:
        fastest, median = min(wall[name]) * 1000, statistics.median(wall[name]) * 1000
        print(f"| {name} | {fastest:.0f} ms | {median:.0f} ms | {statistics.median(cpu[name]) * 1000:.0f} ms |")
    print(f"\nheavy modules imported by --help: {', '.join(heavy_imports()) or 'none'}")


def heavy_imports() -> list[str]:
    """Which of HEAVY are loaded once the whole command line is known."""
    program = f"import sys, mtpgraft.cli.main; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.split()


if __name__ == "__main__":
    main()
