"""GPUs of this machine and their memory in use, from the driver's own tool. Nothing is known without it."""

from __future__ import annotations

import csv
import shutil
import subprocess

from mtpgraft.bench.host import GpuInfo
from mtpgraft.bench.metrics import VramUse

_TIMEOUT_S = 20.0
_MIB = 1 << 20


def gpus() -> tuple[GpuInfo, ...]:
    """NVIDIA GPUs, in the driver's order; () where `nvidia-smi` is missing or fails."""
    found = []
    for row in _query("name", "driver_version", "memory.total"):
        total = _nbytes(row[2])
        if total:
            found.append(GpuInfo(row[0], row[1], total))
    return tuple(found)


def vram_use() -> VramUse | None:
    """Memory in use now on the fullest GPU, by every process: what is left is the headroom. None without GPU."""
    uses = []
    for row in _query("name", "memory.used", "memory.total"):
        used, total = _nbytes(row[1]), _nbytes(row[2])
        if used is not None and total:
            uses.append(VramUse(row[0], used, total))
    return max(uses, key=lambda use: use.share, default=None)


def _query(*fields: str) -> list[list[str]]:
    """One row per GPU; sizes are in MiB (`nvidia-smi --help-query-gpu`)."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in row] for row in csv.reader(done.stdout.splitlines())]
    return [row for row in rows if len(row) == len(fields)]


def _nbytes(mib: str) -> int | None:
    """None for `[N/A]`, which devices of shared memory answer."""
    return int(mib) * _MIB if mib.isdigit() else None
