"""What `mtpgraft doctor` found, as lines and as JSON."""

from __future__ import annotations

from collections.abc import Iterator

from mtpgraft.bench.engines.builds import Feature, unmatched
from mtpgraft.doctor import DoctorReport, EngineReport
from mtpgraft.report.text import clean, nbytes

SCHEMA_VERSION = 1


def doctor_lines(report: DoctorReport) -> Iterator[str]:
    """The whole report as text."""
    host = report.host
    yield f"machine: {clean(host.cpu)}, {host.n_cores} cores, {host.n_cpus} CPUs, {clean(host.platform)}"
    if report.memory is not None:
        free = report.memory.available_nbytes
        yield f"memory: {nbytes(report.memory.total_nbytes)}" + (f", {nbytes(free)} available" if free else "")
    for gpu in host.gpus:
        yield f"gpu: {clean(gpu.name)}, {nbytes(gpu.total_nbytes)}, driver {clean(gpu.driver)}"
    if not host.gpus:
        yield "gpu: none that nvidia-smi tells of; an engine's own devices are listed with it"
    yield "versions: " + ", ".join(f"{name} {version or 'missing'}" for name, version in report.versions.items())
    for engine in report.engines:
        yield ""
        yield from _engine_lines(engine)
    yield ""
    if report.can_draft:
        yield "MTP can be run: " + ", ".join(clean(engine.name) for engine in report.engines if engine.can_draft)
    else:
        yield "NO ENGINE HERE IS KNOWN TO DRAFT WITH MTP"


def doctor_json(report: DoctorReport) -> dict[str, object]:
    """The whole report as a JSON document."""
    host = report.host
    memory = report.memory
    return {
        "schema_version": SCHEMA_VERSION,
        "can_draft": report.can_draft,
        "engines": [_engine_json(engine) for engine in report.engines],
        "gpus": [{"name": gpu.name, "driver": gpu.driver, "total_nbytes": gpu.total_nbytes} for gpu in host.gpus],
        "host": {
            "cpu": host.cpu,
            "n_cpus": host.n_cpus,
            "n_cores": host.n_cores,
            "platform": host.platform,
            "memory_total_nbytes": memory.total_nbytes if memory else None,
            "memory_available_nbytes": memory.available_nbytes if memory else None,
        },
        "versions": dict(report.versions),
    }


def _engine_lines(engine: EngineReport) -> Iterator[str]:
    info = engine.info
    if info is None:
        yield f"{clean(engine.name)}: not usable: {clean(engine.problem or '')}"
        if engine.hint:
            yield f"  try: {clean(engine.hint)}"
        return
    version = f" {clean(info.version)}" if info.version else ""
    build = f", {clean(info.build)}" if info.build else ""
    yield f"{clean(engine.name)}: {info.kind}, {clean(info.name)}{version}{build}"
    if info.system:
        yield f"  {clean(info.system)}"
    for device in info.devices:
        yield f"  device {clean(device)}"
    yield f"  {_mark(engine.can_draft)} MTP" + (f": {engine.mtp}" if engine.mtp else _why_unknown(engine))
    for feature, has in engine.features[1:]:  # the first is MTP itself
        yield f"  {_mark(has)} {feature.name}{_lacking(feature, has)}"
    for trouble in engine.troubles:
        yield f"  ! {trouble.name}: {trouble.consequence} ({trouble.source})"
        yield f"    try: {trouble.advice}"
    if why := unmatched(info.kind, info.build_number):
        yield f"  ? {why}"
    if engine.features and engine.features[0][1] is False:
        feature = engine.features[0][0]
        yield f"    {feature.without} ({feature.source}); try: {feature.advice}"


def _lacking(feature: Feature, has: bool | None) -> str:
    if has:
        return ""
    told = "neither its help nor its build number tells; without it: " if has is None else ""
    return f": {told}{feature.without} ({feature.source})"


def _why_unknown(engine: EngineReport) -> str:
    return ": a running server does not say; a bench shows it" if engine.can_draft is None else ""


def _mark(has: bool | None) -> str:
    return {True: "+", False: "-", None: "?"}[has]


def _engine_json(engine: EngineReport) -> dict[str, object]:
    info = engine.info
    return {
        "name": engine.name,
        "kind": info.kind if info else None,
        "program": info.name if info else None,
        "version": info.version if info else None,
        "build": info.build if info else None,
        "build_number": info.build_number if info else None,
        "system": info.system if info else None,
        "devices": list(info.devices) if info else [],
        "can_draft": engine.can_draft,
        "mtp": engine.mtp,
        "problem": engine.problem,
        "hint": engine.hint,
        "features": [
            {"name": feature.name, "has": has, "source": feature.source, "without": feature.without}
            for feature, has in engine.features
        ],
        "troubles": [
            {
                "name": trouble.name,
                "since": trouble.since,
                "until": trouble.until,
                "source": trouble.source,
                "consequence": trouble.consequence,
                "advice": trouble.advice,
                "blocks_mtp": trouble.blocks_mtp,
            }
            for trouble in engine.troubles
        ],
    }
