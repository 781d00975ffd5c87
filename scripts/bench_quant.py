"""Times the conversion to Q8_0 against gguf-py's, for the same rows, side by side in one run, and compares the bytes.

    python scripts/bench_quant.py                  # 67 M numbers per type, two minutes, 1 GB of disk
    python scripts/bench_quant.py --rows 122880 --types BF16 --threads 2 --repeats 3   # a head of 1 GB

In memory: rows in an array to blocks in an array; gguf-py's is `gguf.quants.quantize` (for BF16 after
`gguf.quants.dequantize`, for F16 after numpy's cast), mtpgraft's the Q8_0 encoder on so many threads.
File to file: gguf-py reads the whole file, quantizes, writes; mtpgraft does what a graft does with a head's tensor:
read, convert, hash and write at the same time. Both write new files, and neither is synced.

Each way runs in a process of its own that does nothing else, and the ways take turns; each ratio is of one round.
gguf-py runs twice: as it is, and as "gguf-py, memory kept", with glibc told to keep the memory that it frees
(MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_). As it is, most of its time goes into pages that the system takes back
and hands out again; a program that happened to free a large array before is spared that, so the second is its best.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mtpgraft import q8_0  # noqa: E402
from mtpgraft.container.types import BF16, F16, F32, Q8_0  # noqa: E402
from mtpgraft.plan.values import ConvertTensor, OutTensor  # noqa: E402
from mtpgraft.quantize import encode_rows  # noqa: E402
from mtpgraft.source.local import LocalFile  # noqa: E402
from mtpgraft.write.files import write_tensor  # noqa: E402

TYPES = {"F32": F32, "F16": F16, "BF16": BF16}
STORED = {"F32": np.uint32, "F16": np.uint16, "BF16": np.uint16}
PIECE_ELEMENTS = 1 << 20
KEPT = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_TOP_PAD_": str(2**27)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16384)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--types", nargs="+", default=list(TYPES), choices=list(TYPES))
    parser.add_argument("--folder", type=Path, default=None, help="where the files are written")
    parser.add_argument("--way", nargs=4, help=argparse.SUPPRESS)  # a child: type, what, threads (0: gguf-py), folder
    args = parser.parse_args()
    if args.width % q8_0.BLOCK:
        parser.error("--width: a multiple of 32")
    if args.way:
        name, what, n_threads, folder = args.way
        return answer(name, what, int(n_threads), Path(folder), args.width)
    print("| from | what | threads | gguf-py, elements/s | mtpgraft | ratio, median | lowest to highest ", end="")
    print("| gguf-py, memory kept | ratio, median | lowest to highest | bytes |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for name in args.types:
            write_rows(Path(folder) / "in", args.rows, args.width, name)
            for what in ("in memory", "file to file"):
                compare(name, what, args, Path(folder))


def compare(name: str, what: str, args: argparse.Namespace, folder: Path) -> None:
    """One line for each number of threads."""
    n = args.rows * args.width
    with child(name, what, 0, folder, args.width) as theirs, child(name, what, 0, folder, args.width, KEPT) as kept:
        for n_threads in args.threads:
            with child(name, what, n_threads, folder, args.width) as ours:
                rounds = [[seconds_of(way) for way in (theirs, kept, ours)] for _ in range(args.repeats + 1)][1:]
            as_it_is, memory_kept, mine = (statistics.median(column) for column in zip(*rounds, strict=True))
            print(
                f"| {name} | {what} | {n_threads} | {speed(n, as_it_is)} | {speed(n, mine)} "
                f"| {ratios([a / m for a, _, m in rounds])} | {speed(n, memory_kept)} "
                f"| {ratios([k / m for _, k, m in rounds])} | {'equal' if are_equal(folder) else 'DIFFERENT'} |",
                flush=True,
            )


def speed(n: int, seconds: float) -> str:
    return f"{n / seconds / 1e6:.0f} M"


def ratios(of_rounds: list[float]) -> str:
    return f"{statistics.median(of_rounds):.1f} x | {min(of_rounds):.1f} to {max(of_rounds):.1f}"


Child = subprocess.Popen[str]


@contextmanager
def child(
    name: str, what: str, n_threads: int, folder: Path, width: int, settings: dict[str, str] | None = None
) -> Iterator[Child]:
    """A process that does one way once for each line it is sent, and answers with the seconds. It keeps its result."""
    program = [sys.executable, __file__, "--width", str(width), "--way", name, what, str(n_threads), str(folder)]
    environment = {**os.environ, **(settings or {})}
    with subprocess.Popen(program, stdin=-1, stdout=-1, text=True, env=environment) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def seconds_of(process: Child) -> float:
    assert process.stdin is not None and process.stdout is not None
    print("go", file=process.stdin, flush=True)
    return float(process.stdout.readline())


def answer(name: str, what: str, n_threads: int, folder: Path, width: int) -> None:
    """The child's side: the first line's result is left in the folder, for the comparison."""
    source = folder / "in"
    result = folder / ("ours" if n_threads else "theirs")
    way = (in_memory if what == "in memory" else file_to_file)(name, source, result, n_threads, width)
    is_first = True
    for _ in sys.stdin:
        if what == "file to file":
            result.unlink(missing_ok=True)
        begin = time.perf_counter()
        blocks = way()
        seconds = time.perf_counter() - begin
        if blocks is not None and is_first:
            blocks.tofile(result)
        del blocks
        is_first = False
        print(seconds, flush=True)


Way = Callable[[], np.ndarray | None]


def in_memory(name: str, source: Path, result: Path, n_threads: int, width: int) -> Way:
    stored = np.fromfile(source, STORED[name]).reshape(-1, width)
    if not n_threads:
        return lambda: gguf_py(name, stored)
    flat = stored.reshape(-1)
    out = np.zeros(flat.size // q8_0.BLOCK * q8_0.BLOCK_NBYTES, np.uint8)
    pool = ThreadPoolExecutor(n_threads)

    def piece(first: int) -> None:
        numbers = flat[first : first + PIECE_ELEMENTS]
        begin = first // q8_0.BLOCK * q8_0.BLOCK_NBYTES
        blocks = out[begin : begin + numbers.size // q8_0.BLOCK * q8_0.BLOCK_NBYTES]
        if name == "F32":
            q8_0.encoder().encode(numbers.view(np.float32), blocks)
        elif name == "BF16":
            q8_0.encoder().encode_bf16(numbers, blocks)
        else:
            q8_0.encoder().encode_f16(numbers, blocks)

    def way() -> np.ndarray:
        list(pool.map(piece, range(0, flat.size, PIECE_ELEMENTS)))
        return out

    return way


def file_to_file(name: str, source: Path, result: Path, n_threads: int, width: int) -> Way:
    if not n_threads:
        return lambda: gguf_py(name, np.fromfile(source, STORED[name]).reshape(-1, width)).tofile(result)
    opened = LocalFile.open(source)
    n = source.stat().st_size // STORED[name]().itemsize
    data = ConvertTensor(opened, 0, (width, n // width), TYPES[name], "<")
    tensor = OutTensor("blk.0.t", (width, n // width), Q8_0, n // 32 * 34, data, head_block=0)

    def way() -> None:
        fd = os.open(result, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        write_tensor(tensor, 0, fd, "<", lambda n_bytes: None, n_threads)
        os.close(fd)

    return way


def gguf_py(name: str, stored: np.ndarray) -> np.ndarray:
    """The rows through gguf-py."""
    if name == "F32":
        values = stored.view(np.float32)
    elif name == "BF16":
        values = dequantize(stored.view(np.uint8), GGMLQuantizationType.BF16)
    else:
        values = stored.view(np.float16).astype(np.float32)
    return quantize(values, GGMLQuantizationType.Q8_0)


def write_rows(path: Path, n_rows: int, width: int, name: str) -> None:
    """Normal numbers in their stored form, made piece by piece."""
    rng = np.random.default_rng(1)
    with path.open("wb") as file:
        for first in range(0, n_rows, 1024):
            values = rng.standard_normal((min(1024, n_rows - first), width), np.float32)
            file.write(encode_rows(values, TYPES[name]))


def are_equal(folder: Path) -> bool:
    ours, theirs = (np.memmap(folder / name, np.uint8, "r") for name in ("ours", "theirs"))
    if ours.size != theirs.size:
        return False
    return all(np.array_equal(ours[at : at + 2**24], theirs[at : at + 2**24]) for at in range(0, ours.size, 2**24))


if __name__ == "__main__":
    main()
