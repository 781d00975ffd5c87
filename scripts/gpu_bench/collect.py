"""The `collect` step: one folder of text and raw JSON out of the results, labelled with what really ran."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from gpu_bench.measure import all_results
from gpu_bench.state import Work, read_json
from mtpgraft.bench.diagnosis import diagnose
from mtpgraft.bench.result import BenchResult
from mtpgraft.bench.resultfile import read_result
from mtpgraft.report.bench_setup import all_notes, commands, engine_line, machine_line, protocol_line
from mtpgraft.report.bench_tables import tables
from mtpgraft.report.diagnosis import diagnosis_markdown
from mtpgraft.report.markdown import fenced, markdown, table_lines
from mtpgraft.report.text import nbytes

_HEADS = "bench-heads-"
SYNTHETIC = (
    "**Synthetic acceptance.** The model has the exact dimensions of the real one and random weights, and the server "
    "accepts drafted tokens at random with the chances given (`--spec-synth-rates`). The speeds are this machine's; "
    "the acceptance is an assumption, and no claim about any head. `synthetic 0.8`: a drafted token is accepted with "
    "0.8 when the one before it was. What the model says, and the acceptance that it would have without this option, "
    "mean nothing."
)
MEASURED = "Measured acceptance: a trained model and its own head."


class NoGpuUsedError(Exception):
    """The results are not a GPU's, and were about to be filed as such."""


def used_gpu(work: Work) -> bool:
    """Whether the server's own log put weights on a CUDA device, on a machine whose nvidia-smi knows one."""
    smoke, device = work.results / "smoke.json", work.results / "device.json"
    if not (smoke.is_file() and device.is_file()):
        return False
    return read_json(smoke).get("on_gpu") is True and bool(read_json(device).get("gpus"))


def default_out(work: Work, benchmarks: Path) -> Path:
    """docs/benchmarks/<device>-<date> for a GPU's results, WORK/report for any others."""
    if not used_gpu(work):
        return work.folder / "report"
    gpus = read_json(work.results / "device.json")["gpus"]
    name = str(gpus[0]["name"]) if isinstance(gpus, list) else "gpu"
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower().removeprefix("nvidia ")).strip("-")
    return benchmarks / f"{slug}-{datetime.now(timezone.utc):%Y-%m-%d}"


def collect(work: Work, out: Path, benchmarks: Path, origin: str, command: str, server: Path | None) -> Path:
    """Write README.md and copy the raw JSON -> the README. Raises NoGpuUsedError."""
    on_gpu = used_gpu(work)
    if not on_gpu and (out.resolve() == benchmarks.resolve() or benchmarks.resolve() in out.resolve().parents):
        raise NoGpuUsedError(f"no GPU ran these results: they do not belong in {benchmarks}")
    paths = all_results(work)
    results = [read_result(path) for path in paths]
    out.mkdir(parents=True, exist_ok=True)
    names = _names(work, benchmarks, server)
    for path in (*paths, *(work.results / name for name in ("device.json", "smoke.json", "state.json"))):
        if path.is_file():
            _write(out / path.name, path.read_text(encoding="utf-8"), names)
    lines = [*_head(work, results, on_gpu, origin, command), *_heads_summary(paths, results)]
    for path, result in zip(paths, results, strict=True):
        lines += _section(path, result)
    readme = out / "README.md"
    _write(readme, "\n".join(lines).rstrip() + "\n", names)
    return readme


def _head(work: Work, results: Sequence[BenchResult], on_gpu: bool, origin: str, command: str) -> list[str]:
    smoke = read_json(work.results / "smoke.json") if (work.results / "smoke.json").is_file() else {}
    device = read_json(work.results / "device.json") if (work.results / "device.json").is_file() else {}
    title = machine_line(results[0]) if results else "nothing measured"
    lines = [f"# MTP on {title}" if on_gpu else "# A dry run without a GPU", ""]
    if not on_gpu:
        lines += ["**No GPU took part.** This proves that the script works; its figures are of no use.", ""]
    rows = [("Made with", f"`{command}`"), ("Trained model", markdown(origin))]
    if results:
        rows += [("Machine", markdown(title)), ("Engine", markdown(engine_line(results[0].engine)))]
    weights = smoke.get("weights_mib")
    if isinstance(weights, dict) and weights:
        where = ", ".join(f"{device} {mib} MiB" for device, mib in weights.items())
        rows.append(("Weights, by the server's log", markdown(where)))
    if device.get("nvcc_version"):
        rows.append(("nvcc", str(device["nvcc_version"])))
    spent = ", ".join(f"{step} {seconds:.0f} s" for step, seconds in work.spent_by_step.items())
    rows.append(("Time", spent or "none"))
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), ""]
    if work.notes:
        lines += ["Left out or failed:", "", *(f"- {markdown(note)}" for note in work.notes), ""]
    return lines


def _section(path: Path, result: BenchResult) -> list[str]:
    synthetic = any(arm.arm.is_synthetic for arm in result.arms)
    lines = [
        f"## {path.stem.removeprefix('bench-')}: {markdown(result.model.name)}, {nbytes(result.model.n_bytes)}",
        "",
    ]
    lines += [SYNTHETIC if synthetic else MEASURED, "", f"{protocol_line(result)}. Raw: [{path.name}]({path.name})", ""]
    shown = [table for table in tables(result) if not (synthetic and table.title.startswith("By category"))]
    for table in shown:
        lines += [f"### {table.title}", "", *table_lines(table), ""]
    lines += _break_even(result)
    if not synthetic:
        lines += [*diagnosis_markdown(diagnose(result)), ""]
    started = commands(result)
    if started:
        lines += [f"The command of the last arm, {started[-1][0]}:", "", *fenced(started[-1][1]), ""]
    return [*lines, *(f"- {markdown(note)}" for note in all_notes(result)), ""]


def _heads_summary(paths: Sequence[Path], results: Sequence[BenchResult]) -> list[str]:
    """What a head's precision is worth: the acceptance of every base, head type and depth in one table."""
    pairs = [pair for pair in zip(paths, results, strict=True) if pair[0].stem.startswith(_HEADS)]
    if not pairs:
        return []
    depths = sorted({arm.arm.n_max for _, result in pairs for arm in result.on})
    lines = ["## Head types", "", "Measured acceptance, by base, type of the head, and tokens drafted per step.", ""]
    lines += ["| base | head | " + " | ".join(f"n={n}" for n in depths) + " |", "|---|---|" + "---:|" * len(depths)]
    for path, result in pairs:
        for head in dict.fromkeys(arm.arm.head for arm in result.on):
            by_depth = {arm.arm.n_max: arm.total.acceptance for arm in result.on if arm.arm.head == head}
            cells = ["-" if (rate := by_depth.get(n)) is None else f"{rate:.3f}" for n in depths]
            lines.append(f"| {path.stem.removeprefix(_HEADS)} | {head} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _names(work: Work, benchmarks: Path, server: Path | None) -> dict[str, str]:
    """What stands for this machine's folders in everything that is published."""
    names = {str(work.folder): "WORK", str(benchmarks.parent.parent): "CHECKOUT", str(Path.home()): "HOME"}
    if server is not None:
        names[str(server.parent)] = "LLAMA"
    return {folder: names[folder] for folder in sorted(names, key=len, reverse=True) if len(folder) > 1}


def _write(path: Path, text: str, names: Mapping[str, str]) -> None:
    for folder, name in names.items():
        text = text.replace(folder, name)
    path.write_text(text, encoding="utf-8")


def _break_even(result: BenchResult) -> list[str]:
    """What each depth must earn on this machine: from times alone, so it holds for any head."""
    arms = [arm for arm in result.on if not arm.arm.p_min]  # with p_min the time of a step is not known
    rows = [(arm.arm.name, even) for arm in arms if (even := result.break_even(arm))]
    if not rows:
        return []
    lines = ["### Break-even", "", "| arm | mean length | acceptance |", "|---|---:|---:|"]
    lines += [f"| {markdown(name)} | {even.mean_accepted_length:.2f} | {even.acceptance:.3f} |" for name, even in rows]
    note = "Below these MTP is slower than off here: the time of a verification step over the time of a token."
    return [*lines, "", note, ""]


def command_line() -> str:
    """What was typed."""
    """What was typed."""
    return " ".join(["scripts/gpu_bench.sh", *sys.argv[1:]])
