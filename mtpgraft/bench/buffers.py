"""Reads from llama.cpp's log what it allocated: weights, caches and compute buffers, per device and context.

The oracle for mtpgraft.vram, and what a measurement can record. llama.cpp prints these lines at `-lv 4` and above
(src/llama-model.cpp, llama-context.cpp, llama-kv-cache.cpp, llama-memory-recurrent.cpp @ b11434), in MiB with two
decimals.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_BUFFER = re.compile(r"(?P<device>\S+) +(?P<what>model|KV|RS|compute|output) buffer size = +(?P<mib>[\d.]+) MiB")
_CACHE = re.compile(
    r"llama_kv_cache: size = +(?P<mib>[\d.]+) MiB "
    r"\( *(?P<cells>\d+) cells, +(?P<layers>\d+) layers, +\d+/(?P<streams>\d+) seqs\)"
)
_STATES = re.compile(r"llama_memory_recurrent: size = +(?P<mib>[\d.]+) MiB")
_NUMBER = re.compile(r"llama_context: (?P<name>n_ctx|n_ctx_seq|n_seq_max|n_ubatch|n_rs_seq) += (?P<value>\d+)")


@dataclass(frozen=True, slots=True)
class Buffer:
    """One `buffer size` line. what: model, KV, RS, compute or output. device: `CPU`, `CUDA0`, `RPC0[host:port]`, ..."""

    device: str
    what: str
    mib: float


@dataclass(frozen=True, slots=True)
class KvCache:
    """One cache's own summary: without the rounding up of its buffer, and also where nothing was allocated."""

    mib: float
    n_cells: int
    n_layers: int
    n_streams: int


@dataclass(frozen=True, slots=True)
class ContextBuffers:
    """What one context allocated. compute: of its first reservation; a later one is not told apart by context."""

    n_ctx: int
    n_ctx_seq: int
    n_seq_max: int
    n_ubatch: int
    n_rs_seq: int
    caches: tuple[KvCache, ...]
    states_mib: float
    buffers: tuple[Buffer, ...]

    @property
    def kv_mib(self) -> float:
        return sum(cache.mib for cache in self.caches)

    def mib(self, what: str, device: str | None = None) -> float:
        """The sum of these buffers; on devices whose name contains `device`."""
        return sum(b.mib for b in self.buffers if b.what == what and (device or "") in b.device)


@dataclass(frozen=True, slots=True)
class EngineBuffers:
    """One start. models: weights in the order of loading (model, sidecar); contexts: trunk first, draft second."""

    models: tuple[tuple[Buffer, ...], ...]
    contexts: tuple[ContextBuffers, ...]


def read_buffers(log: str) -> EngineBuffers:
    """Everything in this log. Parts are empty where the log's level was too low to hold them."""
    models: list[list[Buffer]] = []
    contexts: list[_Context] = []
    for line in log.splitlines():
        if "loading model tensors" in line:
            models.append([])
        elif "constructing llama_context" in line:
            contexts.append(_Context())
        elif match := _BUFFER.search(line):
            buffer = Buffer(match["device"], match["what"], float(match["mib"]))
            if buffer.what == "model" and models:
                models[-1].append(buffer)
            elif contexts:
                contexts[-1].add(buffer)
        elif contexts:
            contexts[-1].read(line)
    return EngineBuffers(tuple(map(tuple, models)), tuple(context.done() for context in contexts))


class _Context:
    """One context's lines, as they come."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.caches: list[KvCache] = []
        self.states_mib = 0.0
        self.buffers: list[Buffer] = []
        self.n_reserved = 0

    def add(self, buffer: Buffer) -> None:
        if buffer.what != "compute" or self.n_reserved <= 1:
            self.buffers.append(buffer)

    def read(self, line: str) -> None:
        if "sched_reserve: reserving ..." in line:
            self.n_reserved += 1
        elif match := _NUMBER.search(line):
            self.numbers.setdefault(match["name"], int(match["value"]))
        elif match := _CACHE.search(line):
            sizes = (int(match[name]) for name in ("cells", "layers", "streams"))
            self.caches.append(KvCache(float(match["mib"]), *sizes))
        elif match := _STATES.search(line):
            self.states_mib += float(match["mib"])

    def done(self) -> ContextBuffers:
        n = self.numbers.get
        return ContextBuffers(
            n_ctx=n("n_ctx", 0),
            n_ctx_seq=n("n_ctx_seq", 0),
            n_seq_max=n("n_seq_max", 0),
            n_ubatch=n("n_ubatch", 0),
            n_rs_seq=n("n_rs_seq", 0),
            caches=tuple(self.caches),
            states_mib=self.states_mib,
            buffers=tuple(self.buffers),
        )
