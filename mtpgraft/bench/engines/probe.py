"""What a llama-server binary says of itself: `--version`, `--help`, `--list-devices`. Nothing is loaded or served.

A build is known by what its help lists, not by its number: numbers are 0 or 1 in builds from an archive or a shallow
clone, forks count on their own, and distributions patch.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from mtpgraft.bench.engine import EngineInfo
from mtpgraft.bench.engines.builds import build_label
from mtpgraft.errors import EngineError

# CUDA and Vulkan builds look for devices even for --help.
_TIMEOUT_S = 60.0
# `-md,   --model-draft FNAME    draft model ...`, or two lines of it; deeper lines are the text of an option
_OPTION_LINE = re.compile(r"^ {0,12}(?=-)(?P<names>(?:-{1,2}[A-Za-z][\w-]*(?:,\s*)?)+)")
_NAME = re.compile(r"-{1,2}[A-Za-z][\w-]*")
_REMOVED = "the argument has been removed"  # b11434 common/arg.cpp lists its old options with this text

# version: 6543 (1a2b3c4)  |  version: 0.6.0-dev (build 11434, commit 1a2b3c4)  |  version: 0 (unknown)
_VERSION = re.compile(
    r"^version: (?:(?P<old>\d+)|(?P<name>\S+)) \((?:build (?P<number>\d+), commit )?(?P<commit>[^)]*)\)", re.MULTILINE
)
_BUILT_WITH = re.compile(r"^built with .*", re.MULTILINE)
_CUDA_DEVICE = re.compile(r"^\s+Device (\d+): (.+?)(?:, VMM:.*)?$", re.MULTILINE)
_LISTED_DEVICE = re.compile(r"^\s+(\w+): (.+)$", re.MULTILINE)
# llama.cpp passed it in August 2023, long before any of this; below it the number counts a shallow clone
_LEAST_BUILD_NUMBER = 1000
# ik_llama.cpp's alone, from 2025 on (common/common.cpp)
_IK_FLAGS = ("-rtr", "-mla", "-fmoe", "-mtprot")
_LIBRARIES = ("libllama*", "libggml*")


@dataclass(frozen=True, slots=True)
class Probe:
    """A llama-server binary, read.

    options: the text of each option that it knows, by every one of its names; removed ones are left out.
    library_dir: where its shared libraries lie, when that is beside it.
    """

    binary: Path
    kind: str
    version: str
    build: str
    build_number: int | None
    system: str
    devices: tuple[str, ...]
    library_dir: Path | None
    options: dict[str, str] = field(repr=False)

    def has(self, *names: str) -> bool:
        """Whether it lists one of these options."""
        return any(name in self.options for name in names)

    def first(self, *names: str) -> str | None:
        """The first of these options that it lists."""
        return next((name for name in names if name in self.options), None)

    def text(self, name: str) -> str:
        """What its help says of an option; empty when it lists none such."""
        return self.options.get(name, "")

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(
            name=self.binary.name,
            version=self.version,
            build=self.build,
            system=self.system,
            devices=self.devices,
            kind=self.kind,
            build_number=self.build_number,
        )


def probe(binary: Path) -> Probe:
    """Runs the binary three times at most; the answer is kept for as long as the file stays the same.

    Raises EngineError when the file cannot be run or is no llama-server.
    """
    try:
        stat = binary.stat()
    except OSError as error:
        raise EngineError("no such program", file=binary, found=error.strerror, hint="check the path") from None
    return _probe(binary, stat.st_mtime_ns, stat.st_size)


def library_environment(library_dir: Path | None) -> dict[str, str]:
    """This process's environment, with the folder of the binary's own libraries in front of the user's.

    Archives and wheels carry their libraries beside the binary and do not always say so in it. Settings that
    llama-server would take from the environment (`LLAMA_ARG_*`) are left out: they would reach every arm unseen.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(("LLAMA_ARG_", "LLAMA_API_KEY"))}
    # Else a failed GGML_ASSERT starts gdb, where there is one, and takes seconds to end.
    env["GGML_NO_BACKTRACE"] = "1"
    if library_dir is not None:
        name = "DYLD_LIBRARY_PATH" if sys.platform == "darwin" else "LD_LIBRARY_PATH"
        env[name] = os.pathsep.join(filter(None, (str(library_dir), env.get(name))))
    return env


@lru_cache(maxsize=16)
def _probe(binary: Path, _mtime_ns: int, _size: int) -> Probe:
    library_dir = _library_dir(binary)
    env = library_environment(library_dir)
    said = _run(binary, "--version", env)
    version = _VERSION.search(said)
    options = parse_help(_run(binary, "--help", env)) if version else {}
    if version is None or "--port" not in options:
        raise EngineError(
            "is not a llama-server" if version is None else "is a program of llama.cpp, and not its server",
            file=binary,
            expected="a llama-server binary, which tells its version and knows --port",
            found=_shown(said),
            hint="llama-server usually lies beside llama-cli; `mtpgraft doctor` lists what it finds",
        )
    kind = "ik_llama.cpp" if any(flag in options for flag in _IK_FLAGS) else "llama.cpp"
    number = int(version["number"] or version["old"] or 0)
    known = number >= _LEAST_BUILD_NUMBER
    # ik_llama.cpp counts its own commits: the same number means another program
    label = f"b{number}" if kind == "llama.cpp" else f"build {number}"
    devices = _CUDA_DEVICE.findall(said)
    if not devices and "--list-devices" in options:
        listed = _run(binary, "--list-devices", env).partition("Available devices:")[2]
        devices = [found for found in _LISTED_DEVICE.findall(listed) if not found[1].startswith("(none")]
    built_with = _BUILT_WITH.search(said)
    return Probe(
        binary=binary,
        kind=kind,
        version=version["name"] or (str(number) if known else ""),
        build=build_label(label if known else None, version["commit"]),
        build_number=number if known and kind == "llama.cpp" else None,
        system=built_with[0] if built_with else "",
        devices=tuple(f"{name}: {text}" for name, text in devices),
        library_dir=library_dir,
        options=options,
    )


def parse_help(text: str) -> dict[str, str]:
    """Each option's text by each of its names, out of `--help` of llama.cpp or ik_llama.cpp."""
    options: dict[str, str] = {}
    names: list[str] = []
    lines: list[str] = []

    def keep() -> None:
        body = "\n".join(lines)
        if _REMOVED not in " ".join(body.split()):
            for name in names:
                options[name] = f"{options[name]}\n{body}" if name in options else body

    for line in text.splitlines():
        match = _OPTION_LINE.match(line)
        if match is not None:
            keep()
            # `--warmup, --no-warmup` and `{greedy,...}` both follow a comma: names start with a dash
            names, lines = _NAME.findall(match["names"]), [line]
        elif not line.strip():
            keep()
            names, lines = [], []
        elif names:
            lines.append(line)
    keep()
    return options


def _run(binary: Path, argument: str, env: dict[str, str]) -> str:
    try:
        done = subprocess.run(
            [str(binary), argument],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT_S,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
    except PermissionError:
        raise EngineError(
            "may not be executed", file=binary, expected="an executable file", hint=f"chmod +x {binary}"
        ) from None
    except OSError as error:
        raise EngineError(
            "cannot be run on this machine", file=binary, found=error.strerror, hint="get a build for this system"
        ) from None
    except subprocess.TimeoutExpired:
        raise EngineError(
            f"does not answer {argument} within {_TIMEOUT_S:g} s",
            file=binary,
            hint="run it by hand: a GPU driver may hang",
        ) from None
    if done.returncode == 127 or "error while loading shared libraries" in done.stdout:
        raise EngineError(
            "cannot be run: a shared library is missing",
            file=binary,
            found=_shown(done.stdout),
            hint="keep its libraries beside it, or set LD_LIBRARY_PATH",
        )
    return done.stdout


def _library_dir(binary: Path) -> Path | None:
    folder = binary.resolve().parent
    return folder if any(next(folder.glob(pattern), None) for pattern in _LIBRARIES) else None


def _shown(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0][:120] if lines else "no output"
