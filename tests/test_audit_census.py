"""A census: one line per target, resumable, bounded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mtpgraft.audit.census import publisher_of, read_census
from mtpgraft.cli.report import report
from mtpgraft.errors import InputError
from tests.broken import QWEN
from tests.hub.fixtures import environment
from tests.hub.server import FakeHub
from tests.inprocess import InProcess

reporting = typer.Typer()
reporting.command()(report)


@pytest.fixture
def mtpgraft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """Many runs: in this process, in the test's own folder."""
    monkeypatch.chdir(tmp_path)
    return InProcess()


@pytest.fixture
def listed(hub: FakeHub, tmp_path: Path) -> Path:
    names = [f"pub{i % 3}/model{i}" for i in range(9)]
    for number, name in enumerate(names):
        kind = "whole" if number % 2 else "no-mtp"
        hub.add(name, {"model-Q8_0.gguf": QWEN / f"{kind}.gguf"})
    (tmp_path / "repos.txt").write_text("".join(f"hf:{name}\n" for name in names) + "hf:gone/gone\n")
    return tmp_path / "repos.txt"


def test_a_census_goes_on_where_it_was(hub: FakeHub, mtpgraft: InProcess, listed: Path, tmp_path: Path) -> None:
    env = environment(hub, tmp_path)
    shown = mtpgraft("audit", f"@{listed}", "--out", "c.jsonl", "--jobs", "4", **env).stdout
    assert "10 targets, 10 models (10 targets in this run, 0 before)" in shown
    assert "5 dropped, 4 ok, 1 unknown" in shown
    assert "pub0: 2 dropped, 1 ok" in shown
    out = tmp_path / "c.jsonl"
    lines = out.read_text().splitlines()
    assert {json.loads(line)["target"] for line in lines} == set(listed.read_text().split())
    # killed in the middle of a line, three targets short
    out.write_text("\n".join(lines[:7]) + "\n" + lines[7][:20])
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    hub.reset()
    shown = mtpgraft("audit", f"@{listed}", "--out", "c.jsonl", **env).stdout
    assert "(3 targets in this run, 7 before)" in shown
    asked = {seen.path.split("/resolve/")[0] for seen in hub.requests("hub") if "/resolve/" in seen.path}
    assert len(asked) <= 3
    census = read_census(out)
    assert (census.n_targets, census.verdicts["dropped"], census.verdicts["ok"]) == (10, 5, 4)
    hub.reset()
    mtpgraft("audit", f"@{listed}", "--out", "c.jsonl", **env)
    assert hub.seen == []
    shown = CliRunner().invoke(reporting, [str(out), "--json"])
    assert json.loads(shown.stdout)["by_publisher"]["pub0"] == {"dropped": 2, "ok": 1}
    assert "by architecture" in CliRunner().invoke(reporting, [str(out)]).stdout


def test_what_is_no_census(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("no json\n")
    for name in ("x.jsonl", "gone.jsonl"):
        with pytest.raises(InputError):
            read_census(tmp_path / name)
    assert (tmp_path / "x.jsonl").read_text() == "no json\n"


def test_publishers() -> None:
    assert [publisher_of(t) for t in ("hf:a/b", "hf://a/b:Q4", "a.gguf", "dir/x.gguf")] == ["a", "a", "local", "local"]
