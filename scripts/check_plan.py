#!/usr/bin/env python3
"""Hold `mtpgraft plan` against llama-server's own measurement, for models with real dimensions, without loading them.

    python scripts/check_plan.py /path/to/llama-server [--gpu] [--json]

llama-server's `--fit` works out what a start would take, per device, and allocates nothing; so a file whose data is a
hole (make_shape_model.py --sparse) will do, and a 27B is measured on any machine in two seconds. By default the device
is a ggml-rpc-server on loopback, which lies beside llama-server; --gpu takes the GPUs of this machine. Prints a
Markdown table (docs/plan.md holds one), or JSON. Exit code 1 when weights or caches differ.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mtpgraft.bench.buffers import EngineBuffers, read_buffers
from mtpgraft.open import open_model
from mtpgraft.vram.caches import CacheKind, Serving, draft_caches, trunk_caches
from mtpgraft.vram.compute import activations, compute_buffers
from mtpgraft.vram.shape import model_shape
from mtpgraft.vram.weights import CPU, CUDA, Placement, in_place, place_weights

MIB = 2**20
_BREAKDOWN = re.compile(r"\|   - \S+ .*?\( *\d+ = +(?P<model>\d+) \+ +\d+ \+ +\d+\)")

BASE = Serving(32768, 2)
SETTINGS = {
    "27b": (
        replace(BASE, n_draft=0),
        replace(BASE, n_draft=1),
        BASE,
        replace(BASE, n_draft=3),
        replace(BASE, n_ctx=4096),
        replace(BASE, n_ctx=131072),
        replace(BASE, n_ctx=262144),
        replace(BASE, n_parallel=4),
        replace(BASE, cache_type_k="q8_0", cache_type_v="q8_0"),
        replace(BASE, n_ubatch=128),
        replace(BASE, n_ubatch=2048),
    ),
    "35b-a3b": (
        replace(BASE, n_draft=0),
        BASE,
        replace(BASE, n_ctx=262144),
        replace(BASE, n_parallel=4),
        replace(BASE, cache_type_k="q4_0", cache_type_v="q4_0"),
        replace(BASE, n_ubatch=128),
        replace(BASE, n_ubatch=2048),
    ),
}


@dataclass(frozen=True, slots=True)
class Row:
    """MiB, as (predicted, llama.cpp's). weights_mib: llama.cpp prints whole MiB. draft_*: (0, 0) without drafting."""

    shape: str
    serving: Serving
    weights_mib: tuple[float, float]
    caches_mib: tuple[float, float]
    draft_caches_mib: tuple[float, float]
    compute_mib: tuple[float, float]
    draft_compute_mib: tuple[float, float]


def environment(server: Path) -> dict[str, str]:
    return {**os.environ, "LD_LIBRARY_PATH": f"{server.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}"}


@contextmanager
def rpc_server(server: Path) -> Iterator[str]:
    """A ggml-rpc-server on loopback -> its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = server.with_name("ggml-rpc-server")
    command = [str(program), "-H", "127.0.0.1", "-p", str(port), "-t", "1"]
    process = subprocess.Popen(command, env=environment(server), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def fit_pass(server: Path, model: Path, serving: Serving, address: str | None) -> tuple[EngineBuffers, int]:
    """What llama-server measures before it loads anything -> its buffers, and MiB of weights on devices.

    It is ended as soon as both contexts are measured: nothing of the model is ever loaded.
    """
    command = [str(server), "-m", str(model), "-fit", "on", "-lv", "5", "-t", "1", "--port", "0", "-ngl", "999"]
    command += ["--rpc", address] if address else []
    command += ["-c", str(serving.n_ctx), "-np", str(serving.n_parallel), "-ub", str(serving.n_ubatch)]
    command += ["-ctk", serving.cache_type_k, "-ctv", serving.cache_type_v, "--no-warmup", "--load-mode", "none"]
    if serving.n_draft:
        command += ["--spec-type", "draft-mtp", "--spec-draft-n-max", str(serving.n_draft)]
    wanted, lines, weights = 1 + (serving.n_draft > 0), [], 0
    with subprocess.Popen(
        command, env=environment(server), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if match := _BREAKDOWN.search(line):
                weights += int(match["model"]) if wanted == 1 + (serving.n_draft > 0) else 0
            if "|   - Host" in line:
                wanted -= 1
                if not wanted:
                    break
        process.kill()
    if wanted:
        raise SystemExit(f"llama-server measured nothing:\n{''.join(lines[-15:])}")
    return read_buffers("".join(lines)), weights


def compare(server: Path, name: str, model: Path, serving: Serving, address: str | None) -> Row:
    found, weights = fit_pass(server, model, serving, address)
    drafting = serving.n_draft > 0
    with open_model(model) as opened:
        shape = model_shape(opened)
        assert shape is not None
        placed = place_weights(opened, Placement(), drafting=drafting, device=CPU if address else CUDA)
        computes = [
            compute_buffers(activations(opened, shape, draft=draft), shape, serving, draft=draft).device / MIB
            for draft in (False, True)
        ]
    trunk = found.contexts[0]
    host = ("CPU", "CUDA_Host")
    seen = [sum(b.mib for b in c.buffers if b.what == "compute" and b.device not in host) for c in found.contexts]
    caches = trunk_caches(shape, serving)
    states = sum(cache.n_bytes for cache in caches if cache.kind is CacheKind.STATE)
    drafts = sum(cache.n_bytes for cache in draft_caches(shape, serving)) / MIB
    return Row(
        name,
        serving,
        (in_place(placed, 0) / MIB, weights),
        (sum(cache.n_bytes for cache in caches) / MIB, round(trunk.kv_mib + (trunk.states_mib if states else 0), 2)),
        (drafts, found.contexts[1].kv_mib) if drafting else (0, 0),
        (computes[0], seen[0]),
        (computes[1], seen[1]) if drafting else (0, 0),
    )


def markdown(rows: list[Row]) -> Iterator[str]:
    yield "| model | setting | weights | caches | draft's cache | compute | draft's compute |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        s = row.serving
        setting = [f"{s.n_ctx // 1024} k", f"n={s.n_draft}" if s.n_draft else "off", s.cache_type_k]
        setting += [f"{s.n_parallel} slots"] if s.n_parallel > 1 else []
        setting += [f"-ub {s.n_ubatch}"] if s.n_ubatch != 512 else []
        exact = (row.weights_mib, row.caches_mib, row.draft_caches_mib)
        cells = [f"{predicted:.2f} / {seen:g}" if seen else "" for predicted, seen in exact]
        for predicted, seen in (row.compute_mib, row.draft_compute_mib):
            cells.append(f"{predicted:.0f} / {seen:g} ({100 * (predicted / seen - 1):+.0f} %)" if seen else "")
        yield f"| {row.shape} | {', '.join(setting)} | {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", type=Path, metavar="LLAMA_SERVER")
    parser.add_argument("--gpu", action="store_true", help="measure for this machine's GPUs, not for an RPC server")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, settings in SETTINGS.items():
            model = Path(folder) / f"{name}.gguf"
            script = Path(__file__).with_name("make_shape_model.py")
            subprocess.run([sys.executable, str(script), str(model), "--shape", name, "--sparse"], check=True, stdout=2)
            for serving in settings:
                if args.gpu:
                    rows.append(compare(args.server, name, model, serving, None))
                    continue
                with rpc_server(args.server) as address:
                    rows.append(compare(args.server, name, model, serving, address))
    if args.json:
        plain = [asdict(row) for row in rows]
        print(json.dumps(plain, indent=2))
    else:
        print("\n".join(markdown(rows)))
    exact = [pair for row in rows for pair in (row.caches_mib, row.draft_caches_mib)]
    wrong = [pair for pair in exact if abs(pair[0] - pair[1]) > 0.011]
    wrong += [row.weights_mib for row in rows if not 0 <= row.weights_mib[0] - row.weights_mib[1] < 1]
    if wrong:
        print(f"not equal: {wrong}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
