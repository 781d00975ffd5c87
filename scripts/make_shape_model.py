#!/usr/bin/env python3
"""Write a model with a real model's exact dimensions and random weights, to measure speed and memory with.

    python scripts/make_shape_model.py OUT.gguf --shape 27b

It loads, runs and drafts in llama.cpp as the real one does, at the same cost per token and with the same memory; what
it says is noise. So its speed is worth measuring and its acceptance is not: use `--spec-synth-rates` for that.

    --shape 27b | 35b-a3b | tiny    dimensions (scripts/shape/dims.py says where they come from)
    --layers N                      fewer trunk layers (a multiple of 4), for a quick look
    --vocab N                       fewer tokens
    --trunk-type, --head-type       Q4_K and Q8_0, or Q8_0 for both
    --no-head                       the same model without its MTP block
    --sparse                        header only, the data is a hole: to plan with and to load, not to run

The 27B takes 16 GB and, on 16 cores, as long as the disk needs for that.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from shape.dims import SHAPES, Weight, keys_of, tensors_of
from shape.tokenizer import tokenizer_keys
from shape.weights import CHUNK_NBYTES, QUANTIZED, floats

from mtpgraft.container.encode import TableRow, encode_header
from mtpgraft.container.types import TENSOR_TYPES_BY_NAME


@dataclass(frozen=True, slots=True)
class Job:
    """One stretch of one tensor. seed: its own, so that the result does not depend on the number of workers."""

    out: Path
    weight: Weight
    offset: int
    n_blocks: int
    seed: tuple[int, int, int]


def make(job: Job) -> int:
    """Make one stretch and write it in place -> bytes written."""
    rng = np.random.SFC64(np.random.SeedSequence(job.seed))
    maker = QUANTIZED.get(job.weight.type)
    if maker is not None:
        data = maker(rng, job.n_blocks, job.weight.scale)
    else:
        data = floats(rng, job.n_blocks, job.weight.fill, job.weight.scale)
    raw = memoryview(np.ascontiguousarray(data)).cast("B")
    with job.out.open("r+b") as out:
        out.seek(job.offset)
        out.write(raw)
    return len(raw)


def jobs_for(out: Path, weights: list[Weight], offsets: tuple[int, ...], seed: int) -> list[Job]:
    """Every tensor in stretches of about CHUNK_NBYTES."""
    jobs = []
    for number, (weight, offset) in enumerate(zip(weights, offsets, strict=True)):
        kind = TENSOR_TYPES_BY_NAME[weight.type]
        n_blocks = nbytes_of(weight) // kind.block_nbytes
        step = max(1, CHUNK_NBYTES // kind.block_nbytes)
        for start in range(0, n_blocks, step):
            n = min(step, n_blocks - start)
            jobs.append(Job(out, weight, offset + start * kind.block_nbytes, n, (seed, number, start)))
    return jobs


def nbytes_of(weight: Weight) -> int:
    n = TENSOR_TYPES_BY_NAME[weight.type].nbytes(weight.shape)
    if n is None:
        raise SystemExit(f"{weight.name}: rows of {weight.shape[0]} cannot be {weight.type}")
    return n


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.gguf")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="27b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--vocab", type=int)
    parser.add_argument("--trunk-type", choices=("Q4_K", "Q8_0"), default="Q4_K")
    parser.add_argument("--head-type", choices=("Q4_K", "Q8_0"), default="Q8_0")
    parser.add_argument("--no-head", action="store_true")
    parser.add_argument("--sparse", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()

    dims = SHAPES[args.shape]
    dims = replace(dims, n_layer=args.layers or dims.n_layer, n_vocab=args.vocab or dims.n_vocab)
    if dims.n_layer % dims.interval:
        parser.error(f"--layers must be a multiple of {dims.interval}: every {dims.interval}th is full attention")
    with_head = not args.no_head
    weights = tensors_of(dims, with_head, args.trunk_type, args.head_type)
    rows = [TableRow(w.name, w.shape, TENSOR_TYPES_BY_NAME[w.type].id, nbytes_of(w)) for w in weights]
    header = encode_header(3, "<", 32, keys_of(dims, with_head) + tokenizer_keys(dims.n_vocab), rows)
    temporary = args.out.with_name(args.out.name + ".part")
    try:
        with temporary.open("wb") as out:
            out.write(header.raw)
            out.truncate(header.file_nbytes)
        if not args.sparse:
            jobs = jobs_for(temporary, weights, header.data_offsets, args.seed)
            with ProcessPoolExecutor(args.jobs) as pool:
                for _ in pool.map(make, jobs, chunksize=4):
                    pass
        temporary.replace(args.out)
    finally:
        temporary.unlink(missing_ok=True)
    n_params = sum(int(np.prod(w.shape, dtype=np.int64)) for w in weights)
    print(f"{args.out}: {dims.title}, {n_params / 1e9:.2f} billion weights, {header.file_nbytes / 1e9:.2f} GB", end="")
    print(", data left out (--sparse)" if args.sparse else "")
    return 0


if __name__ == "__main__":
    sys.exit(main())
