"""The setup of a bench as text: engines, machine, protocol, and the commands that run it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from mtpgraft.bench.engine import EngineInfo, LaunchSpec
from mtpgraft.bench.result import BenchResult, FileFacts, HeadFacts
from mtpgraft.report.text import nbytes


def engine_line(engine: EngineInfo) -> str:
    """`xllamacpp 2026.10.11549, b11549`."""
    return ", ".join(dict.fromkeys(part for part in (f"{engine.name} {engine.version}".strip(), engine.build) if part))


def machine_line(result: BenchResult) -> str:
    """`NVIDIA H100 80GB (driver 570.1, 85.5 GB), AMD EPYC 9554, 16 cores`."""
    host = result.host
    gpus = [f"{gpu.name} (driver {gpu.driver}, {nbytes(gpu.total_nbytes)})" for gpu in host.gpus]
    return ", ".join([*gpus, host.cpu, f"{host.n_cores} cores"])


def protocol_line(result: BenchResult) -> str:
    """`suite quick (6 prompts, completion), 96 tokens each, 3 repeats, temperature 0, no prompt cache`."""
    plan, warm_up = result.plan, result.plan.warm_up
    prompts = "1 prompt" if result.n_prompts == 1 else f"{result.n_prompts} prompts"
    parts = [
        f"suite {plan.suite.name} ({prompts}, {plan.suite.shape})",
        f"{plan.n_predict} tokens each",
        f"{plan.repeats} {'repeat' if plan.repeats == 1 else 'repeats'}",
        f"temperature {warm_up.temperature:g}",
        "prompt cache" if warm_up.cache_prompt else "no prompt cache",
    ]
    if plan.n_parallel > 1:
        parts.append(f"{plan.n_parallel} slots at once")
    return ", ".join(parts)


def all_notes(result: BenchResult) -> tuple[str, ...]:
    """What was skipped or went otherwise than asked for, each once."""
    return tuple(dict.fromkeys((*result.notes, *result.plan.notes)))


def setup_rows(result: BenchResult) -> list[tuple[str, str]]:
    """Everything that a figure depends on: (name, value)."""
    plan, launch = result.plan, result.plan.arms[0].launch
    rows = [("Model", file_line(result.model))]
    rows += [(f"Head {head.label}".strip(), head_line(head)) for head in result.heads]
    for label, engine in zip(plan.engines, result.engines, strict=True):
        rows.append((f"Engine {label}".strip(), engine_line(engine)))
        if engine.devices:
            rows.append((f"Devices {label}".strip(), ", ".join(engine.devices)))
        if engine.system:
            rows.append((f"Built with {label}".strip(), engine.system.removeprefix("built with ")))
    rows += [("GPU", f"{gpu.name}, {nbytes(gpu.total_nbytes)}, driver {gpu.driver}") for gpu in result.host.gpus]
    rows += [
        ("CPU", f"{result.host.cpu}, {result.host.n_cores} cores ({result.host.n_cpus} logical)"),
        ("System", f"{result.host.platform}, Python {result.host.python}"),
        ("Protocol", protocol_line(result)),
        ("Suite hash", plan.suite.hash),
        ("Seed", str(plan.seed)),
        ("Context", f"{plan.n_ctx} tokens" + (" per slot" if plan.n_parallel > 1 else "")),
        ("Threads", _threads(result)),
        *_settings(launch),
        ("Run", f"{result.started_at}, {result.wall_s:.0f} s, mtpgraft {result.mtpgraft_version}"),
    ]
    return rows


def file_line(file: FileFacts) -> str:
    if not file.n_bytes:
        return f"{file.name}, a name only: the file was not read"  # of a running server
    digest = f", sha256 {file.sha256}" if file.sha256 else ", not hashed"
    return f"{file.name}, {nbytes(file.n_bytes)}{digest}"


def head_line(head: HeadFacts) -> str:
    parts = [file_line(head.file) if head.file else "the model's own"]
    if head.types:
        parts.append(" + ".join(f"{n} {kind}" for kind, n in head.types))
    if head.head_sha256:
        parts.append(f"digest {head.head_sha256}")
    return ", ".join(parts)


def commands(result: BenchResult) -> list[tuple[str, str]]:
    """(what it starts, the command line) of each arm that has one."""
    return [(arm.arm.name, shlex.join(arm.command)) for arm in result.arms if arm.command]


def bench_command(result: BenchResult) -> str:
    """The `mtpgraft bench` command that measures the same again; a reader puts own paths in for the file names."""
    plan, launch = result.plan, result.plan.arms[0].launch
    words = ["mtpgraft", "bench", result.model.name]
    for label in plan.engines:
        words += _engine_words(result, label)
    for head in result.heads:
        if head.file:
            words += ["--draft", head.file.name]
    drafts = [arm.arm.launch.draft for arm in result.on if arm.arm.launch.draft]
    if drafts:
        words += ["--n-max", _numbers(draft.n_max for draft in drafts)]
        if any(draft.p_min for draft in drafts):
            words += ["--p-min", _numbers(draft.p_min for draft in drafts)]
        rates = max((draft.synth_rates for draft in drafts), key=len)
        words += ["--synth-rates", _numbers(rates, once=False)] if rates else []
    words += ["--suite", plan.suite.name, "--shape", plan.suite.shape]
    words += ["--n-predict", str(plan.n_predict), "--repeats", str(plan.repeats), "--ctx", str(plan.n_ctx)]
    options = (
        ("--seed", plan.seed if plan.seed != 1 else None),
        ("--parallel", plan.n_parallel if plan.n_parallel > 1 else None),
        ("--threads", launch.n_threads),
        ("--gpu-layers", launch.n_gpu_layers),
        ("--cache-type-k", launch.cache_type_k),
        ("--cache-type-v", launch.cache_type_v),
        ("--rpc", ",".join(launch.rpc) or None),
    )
    for option, value in options:
        words += [] if value is None else [option, str(value)]
    words += ["--", *launch.args] if launch.args else []
    return shlex.join(words)


def _engine_words(result: BenchResult, label: str) -> list[str]:
    """Its binary's name, where it has one; the embedded engine is the default."""
    arms = [arm for arm in result.arms if arm.arm.engine == label]
    if any(arm.arm.as_it_runs for arm in arms):
        return ["--engine", "http://HOST:PORT"]
    started = next((arm.command[0] for arm in arms if arm.command), None)
    if started is None:
        return ["--engine", "embedded"] if len(result.plan.engines) > 1 else []
    return ["--engine", started]


def _settings(launch: LaunchSpec) -> list[tuple[str, str]]:
    rows = []
    if launch.n_gpu_layers is not None:
        rows.append(("GPU layers", str(launch.n_gpu_layers)))
    if launch.cache_type_k or launch.cache_type_v:
        rows.append(("KV cache", f"K {launch.cache_type_k or 'default'}, V {launch.cache_type_v or 'default'}"))
    if launch.rpc:
        rows.append(("RPC hosts", ", ".join(launch.rpc)))
    if launch.args:
        rows.append(("Arguments", shlex.join(launch.args)))
    if launch.env:
        rows.append(("Environment", " ".join(f"{name}={value}" for name, value in launch.env)))
    if launch.extra:
        rows.append(("Settings", ", ".join(f"{name}={value}" for name, value in launch.extra)))
    return rows


def _threads(result: BenchResult) -> str:
    told = {arm.n_threads for arm in result.arms}
    return ", ".join("the engine's choice" if n is None else str(n) for n in sorted(told, key=lambda n: n or 0))


def _numbers(values: Iterable[float], *, once: bool = True) -> str:
    return ",".join(f"{value:g}" for value in (dict.fromkeys(values) if once else values))
