#!/usr/bin/env python3
"""Repos audited per second, and bytes fetched per file: mtpgraft against a plain loop over huggingface_hub and gguf-py.

Method: the loopback Hub of the tests serves --repos synthetic repos of one GGUF each (a tokenizer of --tokens
entries, 1,000 tensors, --data-mb of sparse data; half of them have a head). `mtpgraft audit @repos.txt --out` reads
them all in a process of its own. The plain loop, in another process, does what a script of ten lines would:
hf_hub_download, then GGUFReader, then look for blk.N.nextn; it is given --loop-repos of the same repos, because it
downloads every file whole. Bytes are the server's own count. Nothing is in any cache when either starts.

    python scripts/bench_audit.py
    python scripts/bench_audit.py --repos 200 --loop-repos 10
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.ggufbuild import ARR, STR, U32, Built  # noqa: E402
from tests.hub.server import FakeHub  # noqa: E402

LOOP = """
import sys
from pathlib import Path
from gguf import GGUFReader
from huggingface_hub import hf_hub_download
n_with = 0
for line in Path(sys.argv[1]).read_text().split():
    path = hf_hub_download(line.removeprefix("hf:"), "model-Q4_K_M.gguf")
    n_with += any(".nextn." in tensor.name for tensor in GGUFReader(path).tensors)
print(n_with)
"""


class QuickHub(FakeHub):
    """Every path is a file of its own to the client, without hashing it."""

    def etag(self, path: Path) -> str:
        return hashlib.sha256(str(path).encode()).hexdigest()


def model(path: Path, n_tokens: int, data_mb: int, head: bool) -> None:
    """A file with a real header's proportions and sparse data."""
    n_trunk = 48
    keys: list[tuple[str, int, object]] = [
        ("general.architecture", STR, "qwen35"),
        ("general.name", STR, "synthetic"),
        ("qwen35.block_count", U32, n_trunk + head),
        ("qwen35.embedding_length", U32, 32),
        *([("qwen35.nextn_predict_layers", U32, 1)] if head else []),
        ("tokenizer.ggml.tokens", ARR, (STR, [f"token{i}" for i in range(n_tokens)])),
        ("tokenizer.ggml.merges", ARR, (STR, [f"{i} me{i}" for i in range(n_tokens)])),
    ]
    built = Built(keys)
    n_data = data_mb * 1_000_000 // 1000 // 32 * 32
    built.tensors = [(f"blk.{i % n_trunk}.t{i}.weight", (n_data // 4,), 0, b"") for i in range(1000)]
    if head:
        names = ("nextn.eh_proj", "nextn.enorm", "nextn.hnorm", "attn_norm", "attn_q")
        built.tensors += [(f"blk.{n_trunk}.{name}.weight", (n_data // 4,), 0, b"") for name in names]
    sized = [(*tensor[:3], bytes(n_data)) for tensor in built.tensors[:1]] * len(built.tensors)
    built.tensors = [(*mine[:3], data[3]) for mine, data in zip(built.tensors, sized, strict=True)]
    header = built.header()
    with path.open("wb") as out:
        out.write(header)
        out.truncate(built.padded(len(header)) + n_data * len(built.tensors))


def timed(command: list[str], hub: QuickHub, env: dict[str, str], n_files: int) -> tuple[float, float]:
    """Files per second and bytes per file of one run."""
    hub.reset()
    start = time.perf_counter()
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr)
    print(done.stdout.strip().splitlines()[0])
    return n_files / seconds, hub.file_nbytes / n_files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repos", type=int, default=2000)
    parser.add_argument("--loop-repos", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--data-mb", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=32)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, QuickHub() as hub:
        folder = Path(name)
        for kind, head in (("with", True), ("without", False)):
            model(folder / f"{kind}.gguf", args.tokens, args.data_mb, head)
        for number in range(args.repos):
            path = folder / f"{number}.gguf"
            path.hardlink_to(folder / ("with.gguf" if number % 2 else "without.gguf"))
            hub.add(f"synthetic/model-{number}", {"model-Q4_K_M.gguf": path})
        size = (folder / "with.gguf").stat().st_size
        names = [f"hf:synthetic/model-{number}" for number in range(args.repos)]
        (folder / "all.txt").write_text("\n".join(names) + "\n")
        (folder / "some.txt").write_text("\n".join(names[: args.loop_repos]) + "\n")
        env = {
            **os.environ,
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(folder / "hf"),
            "MTPGRAFT_CACHE": str(folder / "cache"),
            "NO_PROXY": "*",
            "PYTHONPATH": str(ROOT),
        }
        audit = [sys.executable, "-m", "mtpgraft", "audit", f"@{folder}/all.txt", "--out", f"{folder}/census.jsonl"]
        ours = timed([*audit, "--jobs", str(args.jobs), "--no-progress"], hub, env, args.repos)
        loop = timed([sys.executable, "-c", LOOP, f"{folder}/some.txt"], hub, env, args.loop_repos)
        print(f"files of {size / 1e6:.1f} MB")
        print(f"mtpgraft audit:  {ours[0]:7.1f} files/s, {ours[1] / 1e6:8.3f} MB per file ({args.repos} repos)")
        print(f"plain loop:      {loop[0]:7.1f} files/s, {loop[1] / 1e6:8.3f} MB per file ({args.loop_repos} repos)")
        print(f"{ours[0] / loop[0]:.1f} times as many files, {loop[1] / ours[1]:.1f} times fewer bytes")


if __name__ == "__main__":
    main()
