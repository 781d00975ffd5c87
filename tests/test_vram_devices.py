"""Where layers, caches and buffers lie, against real llama-server and ggml-rpc-server binaries. Slow: needs a build.

An RPC server is to llama.cpp what a GPU is: a device with its own buffers, which the log names one by one.

    MTPGRAFT_TEST_LLAMA_SERVER=/path/to/llama-server pytest -n 0 -m slow tests/test_vram_devices.py

ggml-rpc-server lies beside llama-server. Seen equal: b11434.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from mtpgraft.bench.buffers import EngineBuffers, read_buffers
from mtpgraft.open import open_model
from mtpgraft.vram.caches import Serving, draft_caches, trunk_caches
from mtpgraft.vram.shape import model_shape
from mtpgraft.vram.weights import CPU, Placement, in_place, place_weights
from tests.conftest import TINY, TRAINED
from tests.test_vram_engine import HALF_DIGIT, MIB, check_compute

LLAMA = Path(os.environ.get("MTPGRAFT_TEST_LLAMA_SERVER", "").split(os.pathsep)[0] or "none")
RPC = LLAMA.with_name("ggml-rpc-server")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not RPC.is_file(), reason="no llama-server with a ggml-rpc-server beside it"),
]


def environment() -> dict[str, str]:
    return {**os.environ, "LD_LIBRARY_PATH": str(LLAMA.parent)}


@contextmanager
def rpc_servers(n: int) -> Iterator[list[int]]:
    """Ports of RPC servers on loopback."""
    with ExitStack() as stack:
        ports = []
        for _ in range(n):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                ports.append(int(probe.getsockname()[1]))
            command = [RPC, "-H", "127.0.0.1", "-p", str(ports[-1]), "-t", "1"]
            server = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(server.wait)
            stack.callback(server.kill)
            wait_for(ports[-1])
        yield ports


def wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("no RPC server came up")


def measured(path: Path, serving: Serving, placement: Placement, ports: list[int], log: Path) -> EngineBuffers:
    """llama-server's log with these RPC servers as its devices, once it serves."""
    command = [str(LLAMA), "-m", str(path), "--rpc", ",".join(f"127.0.0.1:{port}" for port in ports)]
    command += ["-fit", "off", "-lv", "4", "-t", "1", "--no-warmup", "--load-mode", "none", "--no-repack"]
    command += ["-c", str(serving.n_ctx), "-np", str(serving.n_parallel), "--port", "0"]
    command += ["-ngl", str(999 if placement.n_gpu_layers is None else placement.n_gpu_layers)]
    command += ["-ts", ",".join(f"{part:g}" for part in placement.splits)]
    command += ["--n-cpu-moe", str(placement.n_cpu_moe)] if placement.n_cpu_moe else []
    if serving.n_draft:
        command += ["--spec-type", "draft-mtp", "--spec-draft-n-max", str(serving.n_draft)]
    with log.open("w") as out:
        server = subprocess.Popen(command, env=environment(), stdout=out, stderr=subprocess.STDOUT)
        try:
            for _ in range(600):
                text = log.read_text(errors="replace")
                if "model loaded" in text or server.poll() is not None:
                    break
                time.sleep(0.05)
        finally:
            server.kill()
            server.wait()
    assert "model loaded" in text, text[-2000:]
    return read_buffers(text)


@pytest.mark.parametrize("n_servers", [1, 2])
@pytest.mark.parametrize(
    "name, n_gpu_layers, n_cpu_moe",
    [
        ("qwen35moe", None, 0),
        ("qwen35moe", None, 2),
        ("qwen35moe", 2, 0),
        ("qwen35-tied", None, 0),
        ("step35", 3, 0),
        ("deepseek2", None, 1),
        ("trained", None, 0),
        ("trained", 4, 0),
    ],
)
def test_layers_lie_where_they_are_planned(
    tmp_path: Path, name: str, n_gpu_layers: int | None, n_cpu_moe: int, n_servers: int
) -> None:
    path = TRAINED / "donor-bf16.gguf" if name == "trained" else TINY / name / "whole.gguf"
    placement = Placement((1.0, 2.0)[:n_servers], n_gpu_layers, n_cpu_moe)
    serving = Serving(65536, 1)
    with rpc_servers(n_servers) as ports:
        found = measured(path, serving, placement, ports, tmp_path / "log")
    with open_model(path) as model:
        shape = model_shape(model)
        assert shape is not None
        weights = place_weights(model, placement, drafting=True, device=CPU)
        contexts = (trunk_caches(shape, serving), draft_caches(shape, serving))
        for place in range(n_servers):
            device = f"[127.0.0.1:{ports[place]}]"
            seen = sum(buffer.mib for buffer in found.models[0] if device in buffer.device)
            assert seen == pytest.approx(in_place(weights, place) / MIB, abs=HALF_DIGIT)
            for context, caches in zip(found.contexts, contexts, strict=True):
                here = [cache for cache in caches if placement.device_of(cache.layer, len(shape.layers)) == place]
                kv = context.mib("KV", device) + context.mib("RS", device)
                assert kv == pytest.approx(sum(cache.n_bytes for cache in here) / MIB, abs=3 * HALF_DIGIT)
        if n_servers == 1 and n_gpu_layers is None and not n_cpu_moe:
            check_compute(path, serving, found, "RPC")
