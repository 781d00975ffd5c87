"""Times the conversion to Q8_0 against gguf-py's, for the same rows, side by side in one run, and compares the bytes.

    python scripts/bench_quant.py --rows 8192 --width 4096 --repeats 5

gguf-py: `gguf.quants.quantize` on one array (for BF16: after `gguf.quants.dequantize`), on the one thread that it uses.
mtpgraft: `convert` from a file to a file, reading and writing included. The ratio per CPU second hardly depends on
what else the machine does; on idle cores, the speed is that times the threads.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mtpgraft.container.types import BF16, F16, F32, Q8_0  # noqa: E402
from mtpgraft.quantize import convert, encode_rows  # noqa: E402
from mtpgraft.source.local import LocalFile  # noqa: E402

NAMES = {F32: "F32", F16: "F16", BF16: "BF16"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    n = args.rows * args.width
    values = np.random.default_rng(1).standard_normal((args.rows, args.width), np.float32)
    print("| from | threads | gguf-py, elements/s | speed / gguf-py's | lowest to highest | per CPU second | bytes |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for type_id, name in NAMES.items():
            path, out = Path(folder) / "in", Path(folder) / "out"
            path.write_bytes(encode_rows(values, type_id))
            for n_threads in args.threads:
                source = LocalFile.open(path)
                ratios, cpu_ratios, theirs_s = [], [], []
                for _ in range(args.repeats):
                    begin, begin_cpu = time.perf_counter(), time.process_time()
                    theirs = gguf_py(path, type_id, args.rows)
                    middle, middle_cpu = time.perf_counter(), time.process_time()
                    with out.open("wb") as file:
                        shape = (args.width, args.rows)
                        for chunk in convert(source, 0, shape, type_id, Q8_0, n_threads=n_threads):
                            file.write(chunk)
                    end, end_cpu = time.perf_counter(), time.process_time()
                    cpu_ratios.append((middle_cpu - begin_cpu) / (end_cpu - middle_cpu))
                    ratios.append((middle - begin) / (end - middle))
                    theirs_s.append(middle - begin)
                same = "equal" if out.read_bytes() == theirs.tobytes() else "DIFFERENT"
                source.close()
                print(
                    f"| {name} | {n_threads} | {n / statistics.median(theirs_s) / 1e6:.0f} M "
                    f"| {statistics.median(ratios):.1f} x | {min(ratios):.1f} to {max(ratios):.1f} "
                    f"| {statistics.median(cpu_ratios):.1f} x | {same} |"
                )


def gguf_py(path: Path, type_id: int, n_rows: int) -> np.ndarray:
    """The same file's rows through gguf-py."""
    if type_id == BF16:
        values = dequantize(np.fromfile(path, np.uint8).reshape(n_rows, -1), GGMLQuantizationType.BF16)
    else:
        values = np.fromfile(path, np.float32 if type_id == F32 else np.float16).astype(np.float32)
    return quantize(values.reshape(n_rows, -1), GGMLQuantizationType.Q8_0)


if __name__ == "__main__":
    main()
