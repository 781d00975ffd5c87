"""A LaunchSpec as the command line of the build at hand, from what its `--help` lists."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from mtpgraft.bench.engine import DraftSpec, LaunchSpec
from mtpgraft.bench.engines.builds import DRAFT_MTP
from mtpgraft.bench.engines.mtpflags import mtp_words, spelling_of
from mtpgraft.bench.engines.probe import Probe
from mtpgraft.errors import EngineError, UsageError

# Where and for whom the server listens is mtpgraft's business; these would cut it off.
_RESERVED = ("--host", "--api-key", "--api-key-file", "--api-prefix", "--ssl-key-file", "--ssl-cert-file")
_IK_ADVICE = "ik_llama.cpp drafts with MTP since 2026: update it"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens. key_file: holds the one key that it answers to, out of sight of `ps`."""

    port: int
    key_file: str


def drafting(build: Probe) -> str | None:
    """How this build spells MTP; None when it cannot draft with it at all."""
    spelling = spelling_of(build.options)
    return None if spelling is None else " ".join(spelling.words).format(n="N", p="P")


def arguments(build: Probe, spec: LaunchSpec, n_threads: int) -> tuple[str, ...]:
    """Everything but the program, and where it listens.

    Raises EngineError, with what to do, for a wish that this build has no option for; UsageError for settings that
    only the embedded engine has.
    """
    if spec.extra:
        raise UsageError(
            "a llama-server takes command-line arguments, not settings of the embedded engine",
            found=", ".join(name for name, _ in spec.extra),
            hint="give them as arguments of the engine's own",
        )
    reserved = [arg for arg in spec.args if arg.partition("=")[0] in _RESERVED]
    if reserved:
        raise UsageError("these arguments are set by mtpgraft itself", found=" ".join(reserved), hint="leave them out")
    return (
        *("-m", str(spec.model.absolute())),
        *("-c", str(spec.n_ctx), "-np", str(spec.n_parallel)),
        *("-t", str(n_threads), "-tb", str(n_threads)),
        *_batch(spec),
        *(() if spec.warmup else ("--no-warmup",)),
        *_gpu_layers(build, spec),
        *_cache_types(build, spec),
        *_rpc(build, spec),
        *_fair(build),
        *(_draft(build, spec.draft) if spec.draft else ()),
        *spec.args,
    )


def listening(build: Probe, place: Place) -> tuple[str, ...]:
    """Loopback only, and for whoever has the key."""
    require(build, "--api-key-file")
    return ("--host", "127.0.0.1", "--port", str(place.port), "--api-key-file", place.key_file)


def require(build: Probe, *names: str, since: str = "", hint: str = "update the engine") -> str:
    """The first of these options that the build lists. Raises EngineError when it lists none."""
    found = build.first(*names)
    if found is None:
        raise EngineError(
            f"this build has no {names[0]}",
            file=build.binary,
            expected=f"{' or '.join(names)} in its --help" + (f" ({since})" if since else ""),
            found=f"{build.kind} {build.build}",
            hint=hint,
        )
    return found


def _batch(spec: LaunchSpec) -> Iterable[str]:
    return () if spec.n_batch is None else ("-b", str(spec.n_batch), "-ub", str(spec.n_batch))


def _gpu_layers(build: Probe, spec: LaunchSpec) -> Iterable[str]:
    if spec.n_gpu_layers is None or (spec.n_gpu_layers == 0 and not build.has("-ngl")):
        return ()
    # ik_llama.cpp lists it in builds with a GPU backend only
    return (
        require(build, "-ngl", hint="it was built without a GPU backend: build it with one"),
        str(spec.n_gpu_layers),
    )


def _cache_types(build: Probe, spec: LaunchSpec) -> Iterable[str]:
    """Whatever type the user names: forks know more than llama.cpp, and a build refuses what it does not know."""
    for names, kind in (
        (("-ctk", "--cache-type-k"), spec.cache_type_k),
        (("-ctv", "--cache-type-v"), spec.cache_type_v),
    ):
        if kind is not None:
            yield from (require(build, *names), kind)


def _rpc(build: Probe, spec: LaunchSpec) -> Iterable[str]:
    if not spec.rpc:
        return ()
    return (require(build, "--rpc", hint="build it with -DGGML_RPC=ON"), ",".join(spec.rpc))


def _fair(build: Probe) -> Iterable[str]:
    """What the embedded engine sets too (embedded_worker.py), each where the build has it."""
    # `fit` would shrink the arm that needs more memory. In ik_llama.cpp it takes no value and is off unless given.
    if re.search(r"--fit\b.*\bon\|off", build.text("--fit")):
        yield from ("--fit", "off")
    # The host-memory prompt cache saves and restores slots between requests: not what is measured.
    if build.has("--cache-ram"):
        yield from ("--cache-ram", "0")
    # The speculative counters.
    if build.has("--metrics"):
        yield "--metrics"
    # ik_llama.cpp writes a llama.log into the folder that it is started in.
    if "trace logs" in build.text("--log-disable"):
        yield "--log-disable"
    for names in (("--no-slots",), ("--no-ui", "--no-webui")):
        if (name := build.first(*names)) is not None:
            yield name


def _draft(build: Probe, draft: DraftSpec) -> Iterable[str]:
    spelling = spelling_of(build.options)
    if spelling is None:
        raise EngineError(
            "this build cannot draft with MTP",
            file=build.binary,
            expected=f"draft-mtp in its --help ({DRAFT_MTP.source})",
            found=f"{build.kind} {build.build}",
            hint=_IK_ADVICE if build.kind == "ik_llama.cpp" else DRAFT_MTP.advice,
        )
    sidecar = None if draft.sidecar is None else str(draft.sidecar.absolute())
    yield from mtp_words(spelling, draft, sidecar, partial(require, build))
    if draft.synth_rates:
        flag = require(
            build,
            "--spec-synth-rates",
            since="ggml-org/llama.cpp#27711",
            hint="update llama.cpp; ik_llama.cpp has none",
        )
        yield from (flag, ",".join(f"{rate:g}" for rate in draft.synth_rates))
