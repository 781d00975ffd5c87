#!/usr/bin/env python3
"""Time to open a GGUF header: mtpgraft against gguf-py's GGUFReader, side by side in one run.

Method: for each number of tensors, a file with a tokenizer of --tokens entries (tokens, types and as many merges,
lengths as in Qwen's vocabulary) and so many small tensors is written to a temporary folder, or --file names a real one.
Both readers open it in turn, A B A B ..., in this process, after one uncounted round; mtpgraft finds the head as well.

    python scripts/bench_header.py --tensors 100 1000 20000
    python scripts/bench_header.py --file model.gguf --rounds 5
"""

from __future__ import annotations

import argparse
import random
import struct
import tempfile
import time
from pathlib import Path
from statistics import median

from gguf import GGUFReader

from mtpgraft.container import open_gguf
from mtpgraft.head import find_head


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def key(name: str, kind: int, payload: bytes) -> bytes:
    return text(name.encode()) + struct.pack("<I", kind) + payload


def string_array(items: list[bytes]) -> bytes:
    return struct.pack("<IQ", 8, len(items)) + b"".join(map(text, items))


def synthetic_header(n_tokens: int, n_tensors: int) -> bytes:
    rng = random.Random(0)
    tokens = [bytes(rng.choices(range(97, 123), k=rng.randint(1, 12))) for _ in range(n_tokens)]
    merges = [token[:-1] + b" " + token[-1:] for token in tokens]
    keys = [
        key("general.architecture", 8, text(b"qwen35")),
        key("qwen35.block_count", 4, struct.pack("<I", 64)),
        key("qwen35.embedding_length", 4, struct.pack("<I", 32)),
        key("tokenizer.ggml.tokens", 9, string_array(tokens)),
        key("tokenizer.ggml.token_type", 9, struct.pack(f"<IQ{n_tokens}i", 5, n_tokens, *[1] * n_tokens)),
        key("tokenizer.ggml.merges", 9, string_array(merges)),
    ]
    table = b"".join(
        text(b"blk.%d.t%d.weight" % (i // 16, i % 16)) + struct.pack("<IQIQ", 1, 32, 0, 128 * i)
        for i in range(n_tensors)
    )
    header = b"GGUF" + struct.pack("<IQQ", 3, n_tensors, len(keys)) + b"".join(keys) + table
    return header + bytes(-len(header) % 32) + bytes(128 * n_tensors)


def ours(path: Path) -> None:
    with open_gguf(path) as model:
        find_head(model)


def theirs(path: Path) -> None:
    GGUFReader(path)


def timed(function: object, path: Path) -> float:
    assert callable(function)
    begin = time.perf_counter()
    function(path)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, help="a GGUF to open instead of a synthetic one")
    parser.add_argument("--tokens", type=int, default=152_000)
    parser.add_argument("--tensors", type=int, nargs="+", default=[100, 1_000, 20_000])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print("| tensors | header | mtpgraft | gguf-py's GGUFReader | ratio, median | lowest to highest |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for n_tensors in [0] if args.file else args.tensors:
            path = args.file or Path(folder) / "header.gguf"
            if args.file is None:
                path.write_bytes(synthetic_header(args.tokens, n_tensors))
            one_file(path, args.rounds)


def one_file(path: Path, n_rounds: int) -> None:
    with open_gguf(path) as model:
        about = f"{len(model.tensors)} | {model.shards[0].header_nbytes / 1e6:.1f} MB"
    timed(ours, path), timed(theirs, path)
    pairs = [(timed(ours, path), timed(theirs, path)) for _ in range(n_rounds)]
    a, b = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
    ratios = [theirs_s / ours_s for ours_s, theirs_s in pairs]
    print(
        f"| {about} | {a * 1e3:.1f} ms | {b * 1e3:.0f} ms | {median(ratios):.0f} x "
        f"| {min(ratios):.0f} to {max(ratios):.0f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
