"""A start of llama-server as a command line, in the spelling of llama.cpp or of ik_llama.cpp.

Spelled for current builds of each: llama.cpp b11434 (common/arg.cpp), ik_llama.cpp of August 2026 (common/common.cpp).
A bench spells for the binary at hand instead, from its `--help` (bench/engines/dialect.py); both take the words for MTP
from bench/engines/mtpflags.py.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from mtpgraft.bench.engine import DraftSpec
from mtpgraft.bench.engines import mtpflags
from mtpgraft.bench.engines.mtpflags import MtpSpelling, mtp_words
from mtpgraft.errors import UsageError
from mtpgraft.modelspec import HubSpec, LocalSpec, UrlSpec, parse_spec
from mtpgraft.vram.budget import Budget

ALL_LAYERS = 999
"""`-ngl` beyond any model's layers: all of them, for builds that do not know the word `all` too."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one engine spells what engines spell differently.

    mtp: what turns MTP on. fit_off: what stops it from changing the plan.
    hub_repo: its option for a Hugging Face repo.
    takes_quant: `repo:QUANT` is understood there.
    memory: how the memory that it takes differs from what was planned, which is llama.cpp's.
    """

    name: str
    mtp: MtpSpelling
    fit_off: tuple[str, ...]
    hub_repo: str
    takes_quant: bool
    memory: str = ""


LLAMA_CPP = Dialect("llama.cpp", mtpflags.LLAMA_CPP, ("--fit", "off"), "-hf", True)
IK_LLAMA_CPP = Dialect(
    "ik_llama.cpp",
    mtpflags.IK_LLAMA_CPP,
    (),
    "-hfr",
    False,
    # seen in the log of commit 8337e4cd3 (August 2026) on the trained fixture
    "the memory is llama.cpp's: ik_llama.cpp keeps a cache for the head's block in the trunk's context too, and its "
    "compute buffers are larger. Leave more room (--reserve 2G), or check with its own --fit",
)

DIALECTS: dict[str, Dialect] = {"llama.cpp": LLAMA_CPP, "ik": IK_LLAMA_CPP}
"""By what `--engine` takes."""


@dataclass(frozen=True, slots=True)
class Start:
    """Everything that a command line says.

    model, sidecar: as the user typed them. tensor_split: layers per device, () with a single one.
    n_gpu_layers: None for all.
    """

    model: str
    n_ctx: int
    n_parallel: int
    cache_type: str
    n_draft: int = 0
    sidecar: str | None = None
    n_gpu_layers: int | None = None
    n_cpu_moe: int = 0
    tensor_split: tuple[float, ...] = ()
    rpc: tuple[str, ...] = ()
    n_ubatch: int = 512
    host: str = "127.0.0.1"
    port: int = 8080


def start_of(model: str, budget: Budget, sidecar: str | None = None) -> Start:
    """The start that this budget is for."""
    serving, placement = budget.serving, budget.placement
    return Start(
        model,
        serving.n_ctx,
        serving.n_parallel,
        serving.cache_type_k,
        serving.n_draft,
        sidecar,
        placement.n_gpu_layers,
        placement.n_cpu_moe,
        placement.splits if len(placement.splits) > 1 else (),
        tuple(device.rpc for device in budget.devices if device.rpc),
        serving.n_ubatch,
    )


def arguments(start: Start, dialect: Dialect) -> tuple[str, ...]:
    """Everything but the program. Raises UsageError for a model that this engine cannot fetch by itself."""
    return tuple(_arguments(start, dialect))


def command_line(program: str, start: Start, dialect: Dialect) -> str:
    """One line for a POSIX shell."""
    return shlex.join((program, *arguments(start, dialect)))


def _arguments(start: Start, dialect: Dialect) -> Iterator[str]:
    yield from _model(start.model, dialect)
    yield from ("-c", str(start.n_ctx), "-np", str(start.n_parallel))
    yield from ("-ngl", str(ALL_LAYERS if start.n_gpu_layers is None else start.n_gpu_layers))
    if start.n_cpu_moe:
        yield from ("--n-cpu-moe", str(start.n_cpu_moe))
    if start.rpc:
        yield from ("--rpc", ",".join(start.rpc))
    if start.tensor_split:
        yield from ("-ts", ",".join(f"{part:g}" for part in start.tensor_split))
    yield from ("-fa", "on")
    if start.cache_type != "f16":
        yield from ("-ctk", start.cache_type, "-ctv", start.cache_type)
    if start.n_ubatch != 512:
        yield from ("-ub", str(start.n_ubatch))
    if start.n_draft:
        yield from mtp_words(dialect.mtp, DraftSpec(start.n_draft), start.sidecar)
    yield from dialect.fit_off
    yield from ("--host", start.host, "--port", str(start.port))


def _model(text: str, dialect: Dialect) -> tuple[str, ...]:
    spec = parse_spec(text)
    if isinstance(spec, LocalSpec):
        return ("-m", str(spec.path))
    if isinstance(spec, UrlSpec):
        return ("-mu", spec.url)
    return _hub_model(spec, dialect)


def _hub_model(spec: HubSpec, dialect: Dialect) -> tuple[str, ...]:
    if spec.file is not None:
        return (dialect.hub_repo, spec.repo_id, "-hff", spec.file)
    if spec.quant is None or dialect.takes_quant:
        return (dialect.hub_repo, spec.repo_id if spec.quant is None else f"{spec.repo_id}:{spec.quant}")
    raise UsageError(
        f"{dialect.name} fetches a file by its name, not by its quant",
        found=str(spec),
        expected=f"hf:{spec.repo_id}:FILE.gguf",
    )
