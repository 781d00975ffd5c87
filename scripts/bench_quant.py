"""Times the conversion to Q8_0 against gguf-py's, for the same rows, side by side in one run, and compares the bytes.

    python scripts/bench_quant.py                  # 67 M numbers per type, about a minute, 0.5 GB of disk
    python scripts/bench_quant.py --rows 122880 --types BF16 --threads 2 --repeats 3   # a head of 1 GB

In memory: rows in an array to blocks in an array; gguf-py's is `gguf.quants.quantize` (for BF16 after
`gguf.quants.dequantize`, for F16 after numpy's cast), mtpgraft's the Q8_0 encoder on so many threads.
File to file: gguf-py reads the whole file, quantizes, writes; mtpgraft does what a graft does with a head's tensor:
read, convert, hash and write at the same time. Both write new files, and neither is synced. The rounds take turns; each
ratio is of one round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
PIECE_ELEMENTS = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16384)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--types", nargs="+", default=list(TYPES), choices=list(TYPES))
    parser.add_argument("--folder", type=Path, default=None, help="where the files are written")
    args = parser.parse_args()
    if args.width % q8_0.BLOCK:
        parser.error("--width: a multiple of 32")
    print("| from | what | threads | gguf-py, elements/s | mtpgraft | ratio, median | lowest to highest | bytes |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for name in args.types:
            stored = rows_of(args.rows, args.width, TYPES[name])
            for n_threads in args.threads:
                in_memory(name, stored, n_threads, args.repeats)
            path = Path(folder) / "in"
            stored.tofile(path)
            for n_threads in args.threads:
                file_to_file(name, path, stored.shape, n_threads, args.repeats)


def rows_of(n_rows: int, width: int, type_id: int) -> np.ndarray:
    """Normal numbers in their stored form, made piece by piece."""
    stored = np.empty((n_rows, width), np.uint32 if type_id == F32 else np.uint16)
    rng = np.random.default_rng(1)
    for first in range(0, n_rows, 1024):
        values = rng.standard_normal((min(1024, n_rows - first), width), np.float32)
        stored[first : first + 1024] = np.frombuffer(encode_rows(values, type_id), stored.dtype).reshape(-1, width)
    return stored


def gguf_py(name: str, stored: np.ndarray) -> np.ndarray:
    """The rows through gguf-py."""
    if name == "F32":
        values = stored.view(np.float32)
    elif name == "BF16":
        values = dequantize(stored.view(np.uint8), GGMLQuantizationType.BF16)
    else:
        values = stored.view(np.float16).astype(np.float32)
    return quantize(values, GGMLQuantizationType.Q8_0)


def in_memory(name: str, stored: np.ndarray, n_threads: int, repeats: int) -> None:
    flat = stored.reshape(-1)
    out = np.zeros(flat.size // q8_0.BLOCK * q8_0.BLOCK_NBYTES, np.uint8)

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

    with ThreadPoolExecutor(n_threads) as pool:

        def ours() -> None:
            list(pool.map(piece, range(0, flat.size, PIECE_ELEMENTS)))

        theirs = timed(lambda: gguf_py(name, stored), ours, repeats)
    report(name, "in memory", n_threads, flat.size, theirs, np.array_equal(out, gguf_py(name, stored).reshape(-1)))


def file_to_file(name: str, path: Path, shape: tuple[int, ...], n_threads: int, repeats: int) -> None:
    out, reference = path.with_name("out"), path.with_name("reference")
    n, width = shape[0] * shape[1], shape[1]
    source = LocalFile.open(path)
    data = ConvertTensor(source, 0, (width, shape[0]), TYPES[name], "<")
    tensor = OutTensor("blk.0.t", (width, shape[0]), Q8_0, n // 32 * 34, data, head_block=0)

    def theirs() -> None:
        gguf_py(name, np.fromfile(path, np.uint32 if name == "F32" else np.uint16).reshape(shape)).tofile(reference)

    def ours() -> None:
        fd = os.open(out, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        write_tensor(tensor, 0, fd, "<", lambda n_bytes: None, n_threads)
        os.close(fd)

    times = timed(theirs, ours, repeats, lambda: [path.unlink(missing_ok=True) for path in (out, reference)])
    same = all(np.array_equal(a, b) for a, b in zip(pieces(out), pieces(reference), strict=True))
    report(name, "file to file", n_threads, n, times, same)
    source.close()
    out.unlink()
    reference.unlink()


def pieces(path: Path) -> list[np.ndarray]:
    mapped = np.memmap(path, np.uint8, "r")
    return [mapped[first : first + 2**24] for first in range(0, mapped.size, 2**24)]


def timed(
    theirs: Callable[[], object],
    ours: Callable[[], object],
    repeats: int,
    prepare: Callable[[], object] = lambda: None,
) -> list[tuple[float, float]]:
    """Seconds of both in each round, after one that is not counted. prepare: before each round, not timed."""
    rounds = []
    for _ in range(repeats + 1):
        prepare()
        begin = time.perf_counter()
        theirs()
        middle = time.perf_counter()
        ours()
        rounds.append((middle - begin, time.perf_counter() - middle))
    return rounds[1:]


def report(name: str, what: str, n_threads: int, n: int, rounds: list[tuple[float, float]], same: bool) -> None:
    ratios = [theirs / ours for theirs, ours in rounds]
    theirs_s, ours_s = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(
        f"| {name} | {what} | {n_threads} | {n / theirs_s / 1e6:.0f} M | {n / ours_s / 1e6:.0f} M "
        f"| {statistics.median(ratios):.1f} x | {min(ratios):.1f} to {max(ratios):.1f} "
        f"| {'equal' if same else 'DIFFERENT'} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
