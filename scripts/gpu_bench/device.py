"""The `check` step: what this machine has. Fast, and it changes nothing."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Device:
    """The GPU as nvidia-smi tells it. capability: `9.0`; total_nbytes: its memory."""

    name: str
    driver: str
    capability: str
    total_nbytes: int

    @property
    def cmake_architecture(self) -> str:
        return self.capability.replace(".", "")


@dataclass(frozen=True, slots=True)
class CudaFiles:
    """Where a CUDA build finds its parts; None for what is missing. cublas: the library's file."""

    nvcc: Path | None
    cublas: Path | None
    cublas_include: Path | None

    @property
    def run_path(self) -> str:
        """For LD_LIBRARY_PATH: the folders that hold libcublas and libcudart."""
        return os.pathsep.join(str(folder) for folder in _library_folders() if any(folder.glob("libcu[bd]*.so*")))


def gpus() -> tuple[Device, ...]:
    """Empty where there is no driver."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    if done.returncode:
        return ()
    rows = [[field.strip() for field in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    return tuple(
        Device(row[0], row[1], row[2], int(row[3]) << 20) for row in rows if len(row) == 4 and row[3].isdigit()
    )


def cuda_files() -> CudaFiles:
    """nvcc on PATH, under CUDA_HOME, in /usr/local/cuda*, or in PyPI's nvidia packages; cuBLAS in the same places."""
    roots = _cuda_roots()
    candidates = [shutil.which("nvcc"), *(root / "bin" / "nvcc" for root in roots)]
    nvcc = next((Path(path) for path in candidates if path and Path(path).is_file()), None)
    libraries = sorted(path for folder in _library_folders() for path in folder.glob("libcublas.so*"))
    headers = (root / "include" for root in roots)
    include = next((folder for folder in headers if (folder / "cublas_v2.h").is_file()), None)
    return CudaFiles(nvcc, libraries[0] if libraries else None, include)


def check() -> dict[str, object]:
    """All of it, as results/device.json keeps it."""
    cuda = cuda_files()
    found = gpus()
    return {
        "gpus": [asdict(gpu) for gpu in found],
        "cuda": {name: None if path is None else str(path) for name, path in asdict(cuda).items()},
        "nvcc_version": None if cuda.nvcc is None else _nvcc_version(cuda.nvcc),
        "programs": {name: shutil.which(name) for name in ("cmake", "ninja", "c++")},
        "n_cpus": len(os.sched_getaffinity(0)),
        "modules": {name: importlib.util.find_spec(name) is not None for name in MODULES},
        "free_disk_nbytes": shutil.disk_usage(Path.cwd()).free,
        "missing": missing(found, cuda),
    }


NEEDED = ("gguf", "huggingface_hub", "msgspec", "numpy", "rich", "tqdm", "typer", "urllib3")
"""What mtpgraft imports (its `dependencies`)."""
MODULES = (*NEEDED, "torch", "transformers", "tokenizers", "safetensors")


def missing(found: tuple[Device, ...], cuda: CudaFiles) -> list[str]:
    """What the GPU run needs and this machine lacks, each with what to do."""
    lines = []
    if not found:
        lines.append("no NVIDIA GPU: nvidia-smi shows none (--cpu-dry-run tries the script without one)")
    if cuda.nvcc is None:
        lines.append("nvcc not found: put it on PATH or set CUDA_HOME, or carry a built server (--server)")
    if cuda.cublas is None:
        lines.append("libcublas not found: the nvidia-cublas wheel has it (WHEELS=FOLDER)")
    if cuda.cublas_include is None:
        lines.append("cublas_v2.h not found: the nvidia-cublas wheel has it; only a build needs it")
    lines += [f"{name} is not on PATH; only a build needs it" for name in ("cmake", "ninja") if not shutil.which(name)]
    return lines + missing_modules()


def missing_modules() -> list[str]:
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    return [f"the Python package {name} is missing (WHEELS=FOLDER installs it)" for name in lacking]


def _cuda_roots() -> list[Path]:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    roots = [Path(home)] if home else []
    on_path = shutil.which("nvcc")
    roots += [Path(on_path).resolve().parent.parent] if on_path else []
    roots += sorted(Path("/usr/local").glob("cuda*"), reverse=True)
    # PyPI: nvidia/cu13 holds all of CUDA 13; before it each library had a folder of its own
    roots += [folder for site in sys.path if site for folder in sorted(Path(site).glob("nvidia/*"), reverse=True)]
    return [root for root in roots if root.is_dir()]


def _library_folders() -> list[Path]:
    return [folder for root in _cuda_roots() for folder in (root / "lib64", root / "lib") if folder.is_dir()]


def _nvcc_version(nvcc: Path) -> str | None:
    try:
        done = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"release ([\d.]+)", done.stdout)
    return match[1] if match else None
