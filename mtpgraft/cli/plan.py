"""mtpgraft plan"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from mtpgraft.cli.options import AsJson, Model, Quiet
from mtpgraft.cli.output import Output
from mtpgraft.cli.run import parse_size, say_fetched
from mtpgraft.errors import EngineError, ExitCode, InputError, RefusedError, UsageError

if TYPE_CHECKING:
    from mtpgraft.container import GGUFModel
    from mtpgraft.launch.command import Dialect, Start
    from mtpgraft.vram.devices import Device
    from mtpgraft.vram.plan import MemoryPlan

_LEAST_MEMORY_NBYTES = 2**20


def plan(
    model: Model,
    vram: Annotated[
        Optional[str],  # noqa: UP045  (typer reads it at run time, on Python 3.10 too)
        typer.Option("--vram", metavar="SIZE,...", help="Memory of each GPU, as 12G or 24G,24G; auto asks the driver."),
    ] = None,
    ctx: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--ctx", min=256, help="Tokens of context, all slots together (default: as many as fit)."),
    ] = None,
    kv: Annotated[str, typer.Option("--kv", metavar="TYPE", help="Type of the KV cache: f16, q8_0, q4_0, ...")] = "f16",
    n_max: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--n-max", min=0, max=16, help="Draft depth, 0 for off (default: the workload's)."),
    ] = None,
    workload: Annotated[
        str, typer.Option("--workload", help="code, chat, creative or agent: how deep to draft.")
    ] = "code",
    parallel: Annotated[int, typer.Option("--parallel", min=1, max=256, help="Slots of the server.")] = 1,
    draft: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--draft", metavar="SIDECAR", help="Take the head from this sidecar instead."),
    ] = None,
    rpc: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--rpc", metavar="HOST:PORT=SIZE", help="A ggml-rpc-server and its memory. Any number."),
    ] = None,
    reserve: Annotated[str, typer.Option("--reserve", metavar="SIZE", help="Left free on every device.")] = "1G",
    engine: Annotated[str, typer.Option("--engine", help="Whose command to print: llama.cpp or ik.")] = "llama.cpp",
    systemd: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--systemd", metavar="DIR", help="Write a systemd unit and its environment file; - prints them."),
    ] = None,
    compose: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--compose", metavar="FILE", help="Write a docker compose file; - prints it."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Plan memory and start: what a model takes with MTP on and off, what fits, and the command for it.

    Reads headers only. Exit code 1 when it does not fit, or cannot be planned.
    """
    from mtpgraft.launch.command import DIALECTS, command_line
    from mtpgraft.vram.advice import ADVICE, advice_for
    from mtpgraft.vram.plan import PlanRequest, make_plan

    output = Output(as_json, quiet)
    dialect = DIALECTS.get(engine)
    if dialect is None:
        raise UsageError("--engine names no known engine", expected=" or ".join(DIALECTS), found=engine)
    advice = advice_for(workload)
    if advice is None:
        raise UsageError("--workload is not known", expected=", ".join(a.workload for a in ADVICE), found=workload)
    if as_json and "-" in (systemd, compose):
        raise UsageError("--json prints one document", expected="a path for --systemd and --compose")
    reserve_nbytes = parse_size(reserve, least_nbytes=0)
    asks_the_driver = vram == "auto" or not (vram or rpc)  # after the model was opened: its errors come first
    devices = () if asks_the_driver else _devices(vram, rpc or [])
    from mtpgraft.open import open_model

    with open_model(model) as opened:
        _require_trunk(opened)
        devices = devices or _devices(vram, rpc or [])
        request = PlanRequest(devices, advice, ctx, kv.lower(), n_max, parallel, reserve_nbytes=reserve_nbytes)
        sidecar = _sidecar(draft) if draft is not None else None
        try:
            planned = make_plan(opened, request, sidecar)
        finally:
            if sidecar is not None:
                sidecar.close()
        start = None if planned.budget is None else _start(model, opened, draft, planned)
        commands = {} if start is None else _commands(start)
        services = {} if start is None else _services(start, dialect, systemd, compose)
        _check_services([path for path in services if path is not None], force)
        say_fetched(output)
        _show(output, planned, opened, model, commands)
    if start is not None:
        if not as_json:
            output.lines([f"note: {dialect.memory}"] if dialect.memory else [])
            output.lines(["", command_line("llama-server", start, dialect)])
        _write_services(output, services)
    if not planned.fits:
        raise typer.Exit(ExitCode.FINDINGS)


def _require_trunk(model: GGUFModel) -> None:
    from mtpgraft.head import HeadState, find_head

    state = find_head(model).state
    if state in (HeadState.SIDECAR, HeadState.HEAD_FILE):
        raise RefusedError(
            "is a head without its model", file=model.name, found=state.value, hint="mtpgraft plan BASE --draft SIDECAR"
        )


def _sidecar(text: str) -> GGUFModel:
    """The sidecar, open. Raises what open_model raises, UsageError for a remote one, RefusedError for no sidecar."""
    from mtpgraft.head import HeadState, find_head
    from mtpgraft.modelspec import LocalSpec, parse_spec
    from mtpgraft.open import open_model

    if not isinstance(parse_spec(text), LocalSpec):
        raise UsageError("--draft takes a file of this machine", found=text, hint="mtpgraft extract DONOR --as sidecar")
    opened = open_model(text)
    state = find_head(opened).state
    if state is not HeadState.SIDECAR:
        opened.close()
        raise RefusedError(
            "is not a sidecar", file=text, found=state.value, hint="mtpgraft extract DONOR --as sidecar makes one"
        )
    return opened


def _devices(vram: str | None, rpc: list[str]) -> tuple[Device, ...]:
    from mtpgraft.vram.devices import devices_from

    remote = []
    for text in (part for word in rpc for part in word.split(",")):
        address, _, size = text.partition("=")
        host, _, port = address.rpartition(":")
        if not (host and port.isdigit() and size):
            raise UsageError("--rpc takes addresses with their memory", expected="host:50052=24G", found=text)
        remote.append((address, parse_size(size, least_nbytes=_LEAST_MEMORY_NBYTES)))
    if vram is None:
        local = [] if remote else _gpus()
    else:
        given = [] if vram == "auto" else vram.split(",")
        local = [parse_size(part, least_nbytes=_LEAST_MEMORY_NBYTES) for part in given] or _gpus()
    return devices_from(local, remote)


def _gpus() -> list[int]:
    from mtpgraft.bench.gpu import gpus

    found = gpus()
    if not found:
        raise EngineError(
            "no GPU was found", expected="an NVIDIA GPU and its nvidia-smi", hint="say what there is: --vram 12G"
        )
    return [gpu.total_nbytes for gpu in found]


def _start(text: str, model: GGUFModel, draft: str | None, planned: MemoryPlan) -> Start:
    """The start, with a local set named by the file that llama-server wants: its first shard."""
    from mtpgraft.launch.command import start_of
    from mtpgraft.modelspec import LocalSpec, parse_spec

    assert planned.budget is not None
    local = isinstance(parse_spec(text), LocalSpec)
    return start_of(model.name if local else text, planned.budget, draft)


def _commands(start: Start) -> dict[str, str]:
    from mtpgraft.launch.command import DIALECTS, command_line

    commands = {}
    for name, dialect in DIALECTS.items():
        try:
            commands[name] = command_line("llama-server", start, dialect)
        except UsageError:  # a model that this engine cannot fetch: the one asked for says so itself
            continue
    return commands


def _show(output: Output, planned: MemoryPlan, opened: GGUFModel, target: str, commands: dict[str, str]) -> None:
    from mtpgraft.report import plan as report

    audited = None
    if planned.why_no_draft is not None:
        from mtpgraft.audit.gguf import judge

        audited = judge(opened, target).result()
    if output.as_json:
        output.json(report.plan_json(planned, target, commands, audited))
        return
    output.lines(report.plan_heading(planned, target))
    if planned.why_unknown is not None:
        output.lines([f"unknown: {planned.why_unknown}"])
    else:
        output.lines([""])
        if rows := report.plan_rows(planned):
            output.table(rows, report.plan_columns(planned), right=tuple(range(1, len(rows[0]))))
            output.lines([""])
            for bar in report.plan_bars(planned):
                output.styled(bar)
            output.lines([report.bar_legend(planned), ""])
        output.table(report.context_rows(planned), report.context_columns(), right=(1, 2, 3))
        output.lines(["", *report.advice_lines(planned)])
        output.lines(report.instead_lines(planned))
    if audited is not None:
        output.lines(report.audit_lines(audited))


def _services(start: Start, dialect: Dialect, systemd: str | None, compose: str | None) -> dict[Path | None, list[str]]:
    """The texts of the service files that were asked for, by path; None: to print."""
    import re
    import shutil
    from dataclasses import replace

    from mtpgraft.launch.command import arguments
    from mtpgraft.launch.compose import compose_file
    from mtpgraft.launch.systemd import unit_files

    texts: dict[Path | None, list[str]] = {}
    if systemd is not None:
        at_home = replace(start, model=_absolute(start.model), sidecar=start.sidecar and _absolute(start.sidecar))
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(start.model).stem).strip("-.") or "model"
        program = shutil.which("llama-server") or "/usr/local/bin/llama-server"
        files = unit_files(name, f"llama-server: {name}", program, arguments(at_home, dialect))
        for file_name, text in ((files.unit_name, files.unit), (files.environment_name, files.environment)):
            texts.setdefault(None if systemd == "-" else Path(systemd) / file_name, []).append(text)
    if compose is not None:
        texts.setdefault(None if compose == "-" else Path(compose), []).append(compose_file(start, dialect))
    return texts


def _check_services(paths: list[Path], force: bool) -> None:
    """Raise before anything is printed what would be raised in writing. Folders that are not there will be made."""
    for path in paths:
        if path.is_dir():
            raise InputError("is a folder", file=path, expected="the name of a file to write")
        nearest = next(folder for folder in path.absolute().parents if folder.exists())
        if not nearest.is_dir():
            raise InputError("is not a folder", file=nearest, expected="a folder to write into")
        if path.exists() and not force:
            raise UsageError("exists already", file=path, hint="--force overwrites it")


def _write_services(output: Output, texts: dict[Path | None, list[str]]) -> None:
    """Raises TransientError, or RefusedError where no retry helps."""
    from mtpgraft.cli.documents import write_document
    from mtpgraft.write.files import io_error

    for path, parts in texts.items():
        if path is None:
            sys.stdout.write("\n" + "\n".join(parts))
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise io_error(error, path.parent, "could not be made") from error
        write_document(path, "\n".join(parts))
        output.note(f"wrote {path}")


def _absolute(text: str) -> str:
    from mtpgraft.modelspec import LocalSpec, parse_spec

    spec = parse_spec(text)
    return str(spec.path.absolute()) if isinstance(spec, LocalSpec) else text
