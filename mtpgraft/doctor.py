"""The engines and GPUs of this machine, and what each build has, lacks and is known to do wrong.

Binaries are asked for their version and help; the embedded engine is started without a model; servers are asked who
they are. Nothing is loaded.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import mtpgraft
from mtpgraft.bench.engine import EngineInfo
from mtpgraft.bench.engines.builds import (
    DRAFT_MTP,
    FEATURES,
    Feature,
    Trouble,
    blocking_trouble,
    has_feature,
    troubles_of,
)
from mtpgraft.bench.engines.find import EMBEDDED, PROGRAM, find_engine
from mtpgraft.bench.gpu import gpus
from mtpgraft.bench.host import HostInfo, host_info
from mtpgraft.errors import MtpgraftError

_LIBRARIES = ("gguf", "huggingface-hub", "numpy", "xllamacpp")


@dataclass(frozen=True, slots=True)
class EngineReport:
    """One engine.

    name: what `--engine` takes. problem: why it cannot be used, and hint what to do; info is None then.
    can_draft: None where only a run can tell, as with a server that already runs. mtp: how its build spells MTP.
    features: what llama.cpp's builds may lack; empty for other projects' engines.
    """

    name: str
    info: EngineInfo | None
    problem: str | None = None
    hint: str | None = None
    can_draft: bool | None = False
    mtp: str | None = None
    features: tuple[tuple[Feature, bool | None], ...] = ()
    troubles: tuple[Trouble, ...] = ()


@dataclass(frozen=True, slots=True)
class Memory:
    """Main memory, in bytes. available_nbytes: without swapping; None where the system does not tell."""

    total_nbytes: int
    available_nbytes: int | None


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """memory: None where the system does not tell. versions: of mtpgraft, Python and the libraries; None: missing."""

    engines: tuple[EngineReport, ...]
    host: HostInfo
    memory: Memory | None
    versions: Mapping[str, str | None]

    @property
    def can_draft(self) -> bool:
        """Whether some engine here can draft with MTP."""
        return any(engine.can_draft for engine in self.engines)


def examine(named: Sequence[str] = ()) -> DoctorReport:
    """Looks at the embedded engine, every llama-server on PATH, and each of `named` (as `--engine` takes them).

    Raises nothing for an engine that is missing or broken: that is a finding.
    """
    names = dict.fromkeys((EMBEDDED, *map(str, _on_path()), *named))
    return DoctorReport(
        engines=tuple(_examine_engine(name) for name in names),
        host=replace(host_info(), gpus=gpus()),
        memory=main_memory(),
        versions={
            "mtpgraft": mtpgraft.__version__,
            "python": platform.python_version(),
            **{library: _version(library) for library in _LIBRARIES},
        },
    )


def main_memory() -> Memory | None:
    """Main memory of this machine."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    return Memory(total, free)


def _examine_engine(name: str) -> EngineReport:
    try:
        engine = find_engine(name)
        info = engine.info()
    except MtpgraftError as error:
        found = f" ({error.found})" if error.found else ""
        return EngineReport(name, None, f"{error.what}{found}", error.hint)
    if engine.is_fixed:
        troubles = troubles_of(info.build_number)
        blocked = blocking_trouble(info.build_number) is not None
        return EngineReport(name, info, can_draft=False if blocked else None, troubles=troubles)
    from mtpgraft.bench.engines.binary import BinaryEngine

    if isinstance(engine, BinaryEngine):
        from mtpgraft.bench.engines.dialect import drafting
        from mtpgraft.bench.engines.probe import probe

        build = probe(engine.binary)
        return _judge(name, info, build.options, drafting(build))
    return _judge(name, info, None, DRAFT_MTP.name)


def _judge(name: str, info: EngineInfo, options: Mapping[str, str] | None, mtp: str | None) -> EngineReport:
    is_ours = info.kind == "llama.cpp"  # the rows are llama.cpp's; ik_llama.cpp counts and spells on its own
    number = info.build_number
    return EngineReport(
        name,
        info,
        can_draft=mtp is not None and blocking_trouble(number) is None,
        mtp=mtp,
        features=tuple((feature, has_feature(feature, options, number)) for feature in FEATURES) if is_ours else (),
        troubles=troubles_of(number),
    )


def _on_path() -> Iterator[Path]:
    """Every llama-server on PATH, in its order: the first is the one that a shell runs."""
    seen: set[Path] = set()
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        found = shutil.which(PROGRAM, path=folder) if folder else None
        if found is not None and (real := Path(found).resolve()) not in seen:
            seen.add(real)
            yield Path(found)


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
