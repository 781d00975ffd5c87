"""scripts/gpu_bench.sh: its CPU dry run, what it does after an interruption, and what it refuses.

With a real server, too: MTPGRAFT_TEST_LLAMA_SERVER=.../llama-server pytest -n 0 -m slow tests/test_gpu_bench.py
(llama-quantize beside it, where it is there, makes the Q2_K heads).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from mtpgraft.bench.resultfile import read_result
from mtpgraft.bench.run import run_bench
from tests.conftest import ROOT, TRAINED

SCRIPT = ROOT / "scripts" / "gpu_bench.sh"
BENCHMARKS = ROOT / "docs" / "benchmarks"
SERVERS = [part for part in os.environ.get("MTPGRAFT_TEST_LLAMA_SERVER", "").split(os.pathsep) if part]


def gpu_bench(*args: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """path: a folder of programs that come before all others."""
    env = {**os.environ, "PYTHON": sys.executable}
    if path is not None:
        env["PATH"] = f"{path}{os.pathsep}{env['PATH']}"
    command = ["bash", str(SCRIPT), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, check=False)


def ran(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The units that it started."""
    return [line.strip().rpartition(" (about")[0] for line in done.stderr.splitlines() if " (about" in line]


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The whole dry run with the embedded engine: its work folder and how it went."""
    work = tmp_path_factory.mktemp("gpu") / "work"
    return work, gpu_bench("all", "--cpu-dry-run", "--embedded", "--work", work)


def test_the_dry_run_goes_through_every_step(dry: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    work, done = dry
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(work / "report" / "README.md")
    suite, heads, shape = (
        read_result(work / "report" / f"bench-{name}.json") for name in ("suite-quick", "heads-Q2_K", "synthetic-tiny")
    )
    assert [arm.arm.name for arm in suite.arms] == ["off", "n=1", "n=2"]
    # each head type ran as a graft of its own, and its header says so
    assert {head.label: dict(head.types) for head in heads.heads} == {
        "q8_0": {"F32": 7, "Q8_0": 8},
        "q4_0": {"F32": 7, "Q4_0": 8},
    }
    models = {arm.arm.head: arm.arm.launch.model.name for arm in heads.on}
    assert models == {"q8_0": "Q2_K+q8_0.gguf", "q4_0": "Q2_K+q4_0.gguf"}
    assert all(draft.sidecar is None for arm in heads.on if (draft := arm.arm.launch.draft))
    assert [arm.arm.is_synthetic for arm in shape.arms] == [False, True, True]
    assert [draft.synth_rates for arm in shape.on if (draft := arm.arm.launch.draft)] == [(0.8,), (0.8, 0.64)]
    assert suite.drafted_anything and heads.drafted_anything and shape.drafted_anything


def test_the_report_says_what_is_measured_and_what_is_not(dry: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    work, _ = dry
    text = (work / "report" / "README.md").read_text()
    assert text.startswith("# A dry run without a GPU\n") and "No GPU took part" in text
    measured, synthetic = text.split("## synthetic-tiny")
    assert measured.count("Measured acceptance: a trained model") == 2 and "Synthetic acceptance" not in measured
    assert "Synthetic acceptance" in synthetic and "Measured acceptance" not in synthetic
    assert "## Head types" in measured and "| Q2_K | q4_0 |" in measured
    assert "--cpu-dry-run" in text
    for file in (work / "report").iterdir():  # what is published names no folder of this machine
        assert str(work) not in file.read_text() and str(ROOT) not in file.read_text(), file.name


def test_an_interrupted_step_does_what_it_lacks(
    dry: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    work = tmp_path / "work"
    shutil.copytree(dry[0], work)
    (work / "results" / "bench-heads-Q2_K.json").unlink()
    before = (work / "results" / "bench-suite-quick.json").read_bytes()
    done = gpu_bench("bench", "--cpu-dry-run", "--embedded", "--work", work)
    assert done.returncode == 0 and ran(done) == ["bench heads-Q2_K"]
    assert (work / "results" / "bench-suite-quick.json").read_bytes() == before
    assert ran(gpu_bench("bench", "--cpu-dry-run", "--embedded", "--work", work)) == []


def test_time_is_kept(dry: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(dry[0], work)
    for result in (work / "results").glob("bench-*.json"):
        result.unlink()
    # no unit fits into what is left of this call: call again
    short = gpu_bench("bench", "--cpu-dry-run", "--embedded", "--work", work, "--call-minutes", "0.05")
    assert short.returncode == 3 and ran(short) == [] and "limit per call" in short.stderr
    # nor into what is left of the budget: left out for good, with a note
    spent = gpu_bench("bench", "--cpu-dry-run", "--embedded", "--work", work, "--budget-minutes", "0.05")
    assert spent.returncode == 0 and ran(spent) == []
    notes = json.loads((work / "results" / "state.json").read_text())["notes"]
    assert all("do not fit into the budget" in note for note in notes.values()) and len(notes) == 2
    assert gpu_bench("collect", "--cpu-dry-run", "--embedded", "--work", work).returncode == 0
    assert "do not fit into the budget" in (work / "report" / "README.md").read_text()


def test_results_without_a_gpu_are_never_filed_as_a_gpus(
    dry: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    out = BENCHMARKS / "no-such-gpu"
    refused = gpu_bench("collect", "--cpu-dry-run", "--work", dry[0], "--out", out)
    assert refused.returncode == 2 and "no GPU ran these results" in refused.stderr
    assert not out.exists()
    # nor does a word in a file make a GPU of it: nvidia-smi must have known one
    work = tmp_path / "work"
    shutil.copytree(dry[0], work)
    smoke = work / "results" / "smoke.json"
    smoke.write_text(json.dumps({**json.loads(smoke.read_text()), "on_gpu": True}))
    if not json.loads((work / "results" / "device.json").read_text())["gpus"]:
        assert gpu_bench("collect", "--cpu-dry-run", "--work", work, "--out", out).returncode == 2
    # and a folder of the one kind is not gone on with as the other
    mixed = gpu_bench("bench", "--cpu-dry-run", "--embedded", "--work", work)
    assert mixed.returncode == 2 and "choose another --work" in mixed.stderr


def test_a_gpus_results_are_filed_under_its_name(
    dry: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from gpu_bench.collect import collect, default_out
    from gpu_bench.state import Work

    shutil.copytree(dry[0], tmp_path / "work")
    work, benchmarks = Work(tmp_path / "work", 60, 60), tmp_path / "checkout" / "docs" / "benchmarks"
    assert default_out(work, benchmarks) == work.folder / "report"
    gpu = {"name": "NVIDIA H100 80GB HBM3", "driver": "580.82", "capability": "9.0", "total_nbytes": 81559 << 20}
    for name, change in (
        ("device.json", {"gpus": [gpu]}),
        ("smoke.json", {"on_gpu": True, "weights_mib": {"CUDA0": 5}}),
    ):
        file = work.results / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    out = default_out(work, benchmarks)
    assert out.parent == benchmarks and out.name.startswith("h100-80gb-hbm3-20")
    readme = collect(work, out, benchmarks, "the bundled one", "gpu_bench.sh collect", None)
    assert readme.read_text().startswith("# MTP on ") and "CUDA0 5 MiB" in readme.read_text()


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a GPU")
def test_without_a_gpu_nothing_starts(tmp_path: Path) -> None:
    for step in ("build", "bench", "all"):
        done = gpu_bench(step, "--work", tmp_path / "work")
        assert done.returncode == 2 and "no NVIDIA GPU" in done.stderr
    assert not (tmp_path / "work").exists()
    done = gpu_bench("check", "--work", tmp_path / "work")
    assert done.returncode == 0 and "nvidia-smi shows none" in done.stderr


def test_a_server_that_uses_no_gpu_is_found_out(tmp_path: Path) -> None:
    """A machine whose nvidia-smi shows a GPU, with a server that does not use it: the smoke test says so."""
    programs = tmp_path / "bin"
    programs.mkdir()
    smi = programs / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 580.82, 9.0, 81559'\n")
    server = programs / "llama-server"
    server.write_text("#!/bin/sh\necho 'version: 11434 (unknown)'\n")
    for program in (smi, server):
        program.chmod(0o755)
    work = tmp_path / "work"
    done = gpu_bench("build", "--work", work, "--server", server, path=programs)
    assert done.returncode == 1, done.stderr
    assert "smoke: failed" in done.stderr and not (work / "results" / "smoke.json").exists()
    checked = gpu_bench("check", "--work", work, path=programs)
    assert checked.returncode == 0
    (gpu,) = json.loads((work / "results" / "device.json").read_text())["gpus"]
    assert gpu == {
        "name": "NVIDIA H100 80GB HBM3",
        "driver": "580.82",
        "capability": "9.0",
        "total_nbytes": 81559 << 20,
    }


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("all", "--embedded"), "--cpu-dry-run"),
        (("all", "--cpu-dry-run", "--shapes", "900b"), "900b"),
        (("bench", "--cpu-dry-run"), "no server yet"),
        (("build", "--cpu-dry-run"), "--source"),
    ],
)
def test_what_makes_no_sense_is_said(tmp_path: Path, args: Sequence[str], said: str) -> None:
    done = gpu_bench(*args, "--work", tmp_path / "work")
    assert done.returncode in (1, 2) and said in done.stderr


def test_what_it_needs_is_what_mtpgraft_needs() -> None:
    lines = (ROOT / "pyproject.toml").read_text().split("\ndependencies = [", 1)[1].split("]", 1)[0].splitlines()
    wanted = {line.strip(' ",').split(">")[0].replace("-", "_") for line in lines if line.strip()}
    source = (ROOT / "scripts" / "gpu_bench" / "device.py").read_text()
    needed = source.split("NEEDED = (", 1)[1].split(")", 1)[0]
    assert {name.strip(' "') for name in needed.split(",") if name.strip()} == wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS or [pytest.param("", marks=pytest.mark.skip("no llama-server"))])
def test_the_dry_run_with_a_real_server(tmp_path: Path, name: str) -> None:
    server = Path(name) / "llama-server" if Path(name).is_dir() else Path(name)
    quantize = server.parent / "llama-quantize"
    args = ["--server", server, *(["--quantize", quantize] if quantize.is_file() else [])]
    done = gpu_bench("all", "--cpu-dry-run", *args, "--work", tmp_path / "work")
    if "SIGILL" in done.stderr:
        pytest.skip("this build uses instructions that this CPU does not have")
    assert done.returncode in (0, 1), done.stderr  # a build without --spec-synth-rates cannot do the shape step
    smoke = json.loads((tmp_path / "work" / "report" / "smoke.json").read_text())
    assert smoke["on_gpu"] is False and smoke["drafted"] > 0 and "version" in smoke["version"]
    heads = read_result(tmp_path / "work" / "report" / "bench-heads-Q2_K.json")
    assert ("q2_k" in {head.label for head in heads.heads}) is quantize.is_file()
    if quantize.is_file():
        (q2_k,) = [dict(head.types) for head in heads.heads if head.label == "q2_k"]
        assert q2_k == {"F32": 7, "Q2_K": 8}
    # the embedded engine drafts the same on the same files
    embedded = run_bench(tmp_path / "work" / "models" / "Q2_K+q8_0.gguf", n_max=(1,), repeats=1, n_predict=8)
    (theirs,) = [arm for arm in heads.on if arm.arm.name == "n=1 [q8_0]"]
    rate, other = embedded.on[0].total.acceptance, theirs.total.acceptance
    assert rate is not None and other is not None and abs(rate - other) <= 0.05


def test_the_bundled_model_is_there_for_it() -> None:
    assert all((TRAINED / f"base-{quant}.gguf").is_file() for quant in ("Q4_K_M", "Q3_K_M", "Q2_K"))
