"""mtpgraft as a library: what it exports, what docs/library.md shows, and what a pipeline does with it."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import mtpgraft
from mtpgraft.audit import audit
from tests.conftest import ROOT, TRAINED, sha256
from tests.hub.server import FakeHub
from tests.inprocess import InProcess

BASE, DONOR, CHECKPOINT = TRAINED / "base-Q2_K.gguf", TRAINED / "donor-bf16.gguf", TRAINED / "hf"
PAGE = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the page names."""
    shutil.copy(BASE, tmp_path / "model-Q2_K.gguf")
    shutil.copy(DONOR, tmp_path / "original-BF16.gguf")
    for name in ("models", "quants"):
        (tmp_path / name).mkdir()
        for quant in ("Q2_K", "Q4_K_M"):
            shutil.copy(TRAINED / f"base-{quant}.gguf", tmp_path / name)
    shutil.copy(DONOR, tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_of_the_page_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    assert len(blocks) >= 7
    names: dict[str, object] = {"__name__": "example"}
    for block in blocks:
        exec(compile(block, "docs/library.md", "exec"), names)
    said = capsys.readouterr().out
    assert "qwen35 1251584 none None 0 0" in said
    assert "has no MTP head to take" in said
    assert sha256(folder / "back.gguf") == sha256(BASE)
    assert names["done"] == (folder / "other.gguf").stat().st_size
    mended = [r.verdict.value for r in audit(sorted((folder / "models").glob("*-MTP.gguf")))]
    assert mended == ["ok", "ok"]
    assert len(list((folder / "quants").glob("*-MTP.gguf"))) == 2


def test_every_name_is_there_and_none_is_imported_before_it_is_used() -> None:
    code = """
import sys, mtpgraft
assert [m for m in sys.modules if m.startswith("mtpgraft")] == ["mtpgraft"], sys.modules
assert set(mtpgraft.__all__) <= set(dir(mtpgraft))
for name in mtpgraft.__all__:
    assert getattr(mtpgraft, name).__name__.rpartition(".")[2] == name, name
from mtpgraft import *
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert mtpgraft.__all__ == sorted(mtpgraft.__all__)
    assert set(mtpgraft.__all__) == {*mtpgraft._MODULE_OF, *mtpgraft._PACKAGES}
    tree = ast.parse(Path(mtpgraft.__file__).read_text(encoding="utf-8"))
    typed = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name for node in ast.walk(typed) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported == set(mtpgraft.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mtpgraft.nothing  # noqa: B018


def test_the_page_names_every_field_of_the_json(folder: Path) -> None:
    run = InProcess()
    shutil.copy(BASE, "repaired.gguf")
    runs = {
        "inspect` of a GGUF": ["inspect", DONOR],
        "inspect` of a checkpoint": ["inspect", CHECKPOINT],
        "extract`, `graft`, `strip": ["graft", "model-Q2_K.gguf", DONOR, "-o", "out.gguf"],
        "verify": ["verify", "out.gguf", "--base", "model-Q2_K.gguf"],
        "repair": ["repair", "repaired.gguf", "--no-smoke"],
        "recover": ["recover", "out.gguf"],
        "cache ls": ["cache", "ls"],
    }
    for command, args in runs.items():
        document = json.loads(run(*args, "--json").stdout)
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{command}"))
        assert ["schema_version", *re.findall(r"`(\w+)`", row.split(" | ")[1])] == list(document), command
    audited = json.loads(run("audit", "model-Q2_K.gguf", "--json", expect=1).stdout)
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8").partition("## JSON")[2]
    for value in (audited, audited["results"][0], audited["results"][0]["findings"][0]):
        assert all(f'"{name}"' in page for name in value), value


@pytest.mark.parametrize("donor", [DONOR, CHECKPOINT, "hf:fixtures/trained-hf", "hf:fixtures/donor"], ids=str)
def test_a_pipeline_of_threads(hub: FakeHub, tmp_path: Path, donor: str | Path) -> None:
    """Heads made of a checkpoint, and fetched ones, were once written under one name by all threads."""
    hub.add("fixtures/trained-hf", CHECKPOINT)

    def one(number: int) -> Path:
        out = tmp_path / f"{number}.gguf"
        outcome = mtpgraft.graft(BASE, donor, out)
        assert outcome.report is not None
        assert outcome.report.ok
        return out

    with ThreadPoolExecutor(6) as pool:
        outs = list(pool.map(one, range(6)))
    assert len({sha256(out) for out in outs}) == 1
    assert mtpgraft.prove(str(outs[0]), BASE, donor).ok
    assert {path.name for path in tmp_path.iterdir()} <= {*(out.name for out in outs), "cache", "hf-home"}


def test_nothing_is_fetched_for_what_would_be_refused(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "there.gguf").write_bytes(b"mine")
    wrong: list[tuple[str | Path, str, str, str]] = [
        (tmp_path / "no.gguf", "out.gguf", "q8_0", "no such file"),
        (DONOR, "out.gguf", "q8_0", "already"),
        (BASE, "there.gguf", "q8_0", "exists already"),
        (BASE, "no/out.gguf", "q8_0", "no such folder"),
        (BASE, ".", "q8_0", "is a folder"),
        (BASE, "out.gguf", "q3_k", "cannot write"),
        ("hf:fixtures/bases:Q2_K", "out.gguf", "q8_0", "downloaded whole"),
    ]
    hub.reset()
    for base, out, wanted_type, says in wrong:
        with pytest.raises(mtpgraft.MtpgraftError, match=says):
            mtpgraft.graft(base, "hf:fixtures/donor", tmp_path / out, mtpgraft.GraftOptions(wanted_type))
    with pytest.raises(mtpgraft.RefusedError, match="exists already"):
        mtpgraft.extract("hf:fixtures/donor", tmp_path / "there.gguf")
    assert hub.file_nbytes == 0
    assert (tmp_path / "there.gguf").read_bytes() == b"mine"


def test_text_and_paths_are_the_same(folder: Path) -> None:
    for kind in (str, Path):
        mtpgraft.extract(
            kind("original-BF16.gguf"), kind("h.gguf"), wanted_type="Q8_0", run=mtpgraft.RunOptions(overwrite=True)
        )
        mtpgraft.graft(kind("model-Q2_K.gguf"), kind("h.gguf"), kind(f"{kind.__name__}.gguf"))
        mtpgraft.strip(kind(f"{kind.__name__}.gguf"), kind(f"{kind.__name__}-back.gguf"))
        assert mtpgraft.prove(kind(f"{kind.__name__}.gguf"), kind("model-Q2_K.gguf"), kind("h.gguf")).ok
        assert [r.verdict.value for r in audit(kind("model-Q2_K.gguf"))] == ["dropped"]
        options = mtpgraft.RepairOptions(
            out=kind(f"r{kind.__name__}.gguf"), donor=kind("original-BF16.gguf"), smoke=False
        )
        assert mtpgraft.repair.repair(kind("model-Q2_K.gguf"), options).after is mtpgraft.Verdict.OK
    assert sha256(folder / "str.gguf") == sha256(folder / "Path.gguf")
    assert sha256(folder / "Path-back.gguf") == sha256(BASE)
