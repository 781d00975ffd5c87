"""The `build` step: llama-server and llama-quantize with CUDA for this GPU, from the source archive."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from fixture_model.toolchain import LLAMA_BUILD, SDIST, SDIST_SHA256

from gpu_bench.device import CudaFiles, Device, cuda_files
from gpu_bench.state import Unit, UnitFailedError, Work, run_program

TARGETS = ("llama-server", "llama-quantize")
# 353 steps, 35 minutes of one core with nvcc 13.0 for one architecture; the CPU build is a tenth of that.
_CUDA_BUILD_CORE_S = 2100
_CPU_BUILD_CORE_S = 500

_OPTIONS = (
    "-GNinja",
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=OFF",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    f"-DLLAMA_BUILD_NUMBER={LLAMA_BUILD.removeprefix('b')}",  # an archive has no git to tell it
)


@dataclass(frozen=True, slots=True)
class Tools:
    """server None: the embedded engine. quantize None: heads of k-quant types are left out."""

    server: Path | None
    quantize: Path | None
    source: Path | None


def build_folder(work: Work) -> Path:
    return work.folder / "build" / "llama"


def source_folder(work: Work) -> Path:
    return work.folder / "build" / SDIST / "llama.cpp"


def built_tools(work: Work) -> Tools:
    """What a finished build step left."""
    server, quantize = (build_folder(work) / "bin" / name for name in TARGETS)
    source = source_folder(work)
    return Tools(
        server if server.is_file() else None,
        quantize if quantize.is_file() else None,
        source if source.is_dir() else None,
    )


def build_units(work: Work, archive: Path | None, device: Device | None, n_jobs: int) -> list[Unit]:
    """Unpack, configure, compile. device None builds for the CPU. Ninja goes on where it was stopped."""
    source, build = source_folder(work), build_folder(work)

    def unpack() -> None:
        if archive is None or not archive.is_file():
            raise UnitFailedError(f"no source archive {archive or ''}: give --source {SDIST}.tar.gz, or --server PATH")
        with archive.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else None
        if found is not None and found != SDIST_SHA256:
            raise UnitFailedError(f"{archive}: sha256 is {found}, expected {SDIST_SHA256} ({SDIST})")
        with tarfile.open(archive) as tar:
            tar.extractall(source.parent.parent, filter="data")

    def compile_all() -> None:
        cuda = cuda_files()
        if not (build / "build.ninja").is_file():
            command = ["cmake", "-S", str(source), "-B", str(build), *_OPTIONS, *cuda_options(device, cuda)]
            run_program(command, work, "cmake", _build_environment(cuda))
        run_program(["ninja", "-C", str(build), "-j", str(n_jobs), *TARGETS], work, "ninja", _build_environment(cuda))

    core_s = _CUDA_BUILD_CORE_S if device else _CPU_BUILD_CORE_S
    binaries = tuple(build / "bin" / name for name in TARGETS)
    return [
        Unit("unpack", 10, (source / "CMakeLists.txt",), unpack),
        # ninja keeps what it has, so the build may well start with less time than it takes
        Unit("compile", min(120.0, core_s / n_jobs), binaries, compile_all),
    ]


def cuda_options(device: Device | None, cuda: CudaFiles) -> list[str]:
    """The CMake options of a CUDA build for this GPU alone; none for the CPU."""
    if device is None:
        return []
    if cuda.nvcc is None:
        raise UnitFailedError("nvcc not found: put it on PATH or set CUDA_HOME, or carry a built server (--server)")
    options = [
        "-DGGML_CUDA=ON",
        "-DGGML_CUDA_NO_VMM=ON",  # else it links libcuda, which lies in no toolkit
        f"-DCMAKE_CUDA_ARCHITECTURES={device.cmake_architecture}",
        f"-DCMAKE_CUDA_COMPILER={cuda.nvcc}",
    ]
    if cuda.cublas is not None:
        options.append(f"-DCUDA_cublas_LIBRARY={cuda.cublas}")
        light = next(iter(sorted(cuda.cublas.parent.glob("libcublasLt.so*"))), None)
        options += [f"-DCUDA_cublasLt_LIBRARY={light}"] if light else []
    if cuda.cublas_include is not None:
        options += [f"-DCMAKE_{language}_FLAGS=-I{cuda.cublas_include}" for language in ("CUDA", "CXX")]
    return options


def run_environment() -> dict[str, str]:
    """The environment in which the CUDA build finds its libraries at run time."""
    path = os.pathsep.join(filter(None, (cuda_files().run_path, os.environ.get("LD_LIBRARY_PATH"))))
    return {**os.environ, "LD_LIBRARY_PATH": path} if path else dict(os.environ)


def version_text(server: Path) -> str:
    """`--version` and `--list-devices` of a server. Raises UnitFailedError when it does not run here."""
    texts = []
    for flag in ("--version", "--list-devices"):
        try:
            done = subprocess.run(
                [str(server), flag], capture_output=True, text=True, timeout=120, env=run_environment(), check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnitFailedError(f"{server} does not run: {error}") from error
        text = (done.stdout + done.stderr).strip()
        if done.returncode:
            raise UnitFailedError(f"{server} {flag} ended with {done.returncode}: {text[-300:]}")
        texts.append(text)
    return "\n".join(texts)


def _build_environment(cuda: CudaFiles) -> dict[str, str]:
    env = run_environment()
    if cuda.nvcc is not None:
        env["PATH"] = os.pathsep.join((str(cuda.nvcc.parent), env.get("PATH", "")))
    return env
