"""The memory that a plan may use: GPUs of this machine, and hosts reached over llama.cpp's RPC."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mtpgraft.errors import UsageError

DEFAULT_RESERVE_NBYTES = 2**30
"""Left free on every device: the driver's context, cuBLAS's work space, a desktop. It is llama.cpp's own margin,
`--fit-target` 1024 MiB (common/common.h:486 @ b11434); what a driver takes of it has not been measured here."""


@dataclass(frozen=True, slots=True)
class Device:
    """One memory. name: `GPU 0`, or `host:port`. n_bytes: all of it. rpc: `host:port`, "" for a GPU of this machine."""

    name: str
    n_bytes: int
    rpc: str = ""


def devices_from(vram: Iterable[int], rpc: Iterable[tuple[str, int]] = ()) -> tuple[Device, ...]:
    """Devices in llama.cpp's order: RPC servers come first (src/llama.cpp:275 @ b11434)."""
    remote = [Device(address, n_bytes, address) for address, n_bytes in rpc]
    local = [Device(f"GPU {number}", n_bytes) for number, n_bytes in enumerate(vram)]
    if not remote and not local:
        raise UsageError("no memory to plan for", expected="--vram 12G or --rpc host:port=12G")
    return (*remote, *local)
