"""The machine a bench runs on: recorded with every result, and the default number of threads."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

# Below this one thread is the default: an operation's work is smaller than the barrier that ends it, and the barrier
# spins (libgomp), so one busy neighbour stalls every operation. b11549, 2 busy cores, 5.9 MB fixture: 3139 and 2966
# tok/s with 1 thread, 1257 and 167 with 2. The limit itself is a judgement; `n_threads` overrides it.
SMALL_MODEL_NBYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class GpuInfo:
    """name, driver: as the driver's own tool says them. total_nbytes: the device's memory."""

    name: str
    driver: str
    total_nbytes: int


@dataclass(frozen=True, slots=True)
class HostInfo:
    """cpu: the model name; n_cpus: logical CPUs this process may use; n_cores: physical cores behind them."""

    cpu: str
    n_cpus: int
    n_cores: int
    platform: str
    python: str
    gpus: tuple[GpuInfo, ...] = ()


def host_info() -> HostInfo:
    return HostInfo(
        cpu=_cpu_name(),
        n_cpus=usable_cpus(),
        n_cores=usable_cores(),
        platform=platform.platform(),
        python=platform.python_version(),
    )


def default_threads(model_nbytes: int) -> int:
    """One thread for a tiny model, else one per usable physical core."""
    return 1 if model_nbytes < SMALL_MODEL_NBYTES else usable_cores()


def usable_cpus() -> int:
    """Logical CPUs: the affinity mask, and no more than a container's CPU quota."""
    try:
        n_cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no affinity mask to read
        n_cpus = os.cpu_count() or 1
    quota = _cgroup_cpus()
    return n_cpus if quota is None else max(1, min(n_cpus, quota))


def usable_cores() -> int:
    """Physical cores: hyper-threads share the units that matrix products need."""
    n_cpus = usable_cpus()
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:
        return n_cpus
    cores: set[str] = set()
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text(encoding="ascii"))
        except OSError:
            return n_cpus
    return max(1, min(len(cores), n_cpus))


def _cgroup_cpus() -> int | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else -(-int(quota) // int(period))
    except (OSError, ValueError):
        return None


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
