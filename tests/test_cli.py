"""The program as users meet it: results on stdout, notes on stderr, one JSON document, documented exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TRAINED, Program, sha256
from tests.engine import load_and_draft
from tests.ggufbuild import STR, f32_tensor, llama_like, set_key

BASE, DONOR = TRAINED / "base-Q2_K.gguf", TRAINED / "donor-bf16.gguf"


def test_the_loop(mtpgraft: Program, tmp_path: Path) -> None:
    mtpgraft("extract", DONOR, "-o", "head.gguf")
    mtpgraft("graft", BASE, "head.gguf", "-o", "out.gguf")
    mtpgraft("verify", "out.gguf", "--base", BASE, "--donor", DONOR)
    mtpgraft("strip", "out.gguf", "-o", "back.gguf")
    assert sha256(tmp_path / "back.gguf") == sha256(BASE)
    shown = mtpgraft("inspect", "out.gguf").stdout
    assert "blk.4" in shown
    assert "Q8_0" in shown
    load_and_draft(tmp_path / "out.gguf", grammar=None)


def test_json_is_one_document_and_nothing_else(mtpgraft: Program) -> None:
    for args in (
        ["inspect", DONOR],
        ["extract", DONOR, "-o", "head.gguf"],
        ["graft", BASE, "head.gguf", "-o", "x.gguf", "--dry-run"],
        ["graft", BASE, "head.gguf", "-o", "out.gguf"],
        ["verify", "out.gguf", "--base", BASE],
        ["strip", "out.gguf", "-o", "back.gguf"],
    ):
        done = mtpgraft(*args, "--json")
        assert json.loads(done.stdout)["schema_version"] == 1
        assert not done.stderr
    document = json.loads(mtpgraft("inspect", "out.gguf", "--json").stdout)
    assert (document["verdict"], document["n_head_blocks"], document["n_trunk_blocks"]) == ("ok", 1, 4)
    assert document["head"][0]["tensors"][0]["name"].startswith("blk.4.")


def test_dry_run_shows_what_the_run_then_does(mtpgraft: Program, tmp_path: Path) -> None:
    planned = json.loads(mtpgraft("graft", BASE, DONOR, "-o", "out.gguf", "--dry-run", "--json").stdout)
    assert not (tmp_path / "out.gguf").exists()
    done = json.loads(mtpgraft("graft", BASE, DONOR, "-o", "out.gguf", "--json").stdout)
    assert planned.pop("verified") is None
    assert done.pop("verified")["ok"]
    assert (planned.pop("dry_run"), done.pop("dry_run")) == (True, False)
    assert planned == done
    assert (tmp_path / "out.gguf").stat().st_size == done["outputs"][0]["nbytes"]


def test_exit_codes(mtpgraft: Program, tmp_path: Path) -> None:
    mtpgraft("graft", BASE, DONOR, "-o", "out.gguf")
    assert "NOT VERIFIED" in mtpgraft("verify", "out.gguf", "--base", TRAINED / "base-Q3_K_M.gguf", expect=1).stdout
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(BASE.read_bytes()[:-5000])
    wrong: list[tuple[list[object], str]] = [
        (["inspect", "nothing.gguf"], "no such file"),
        (["inspect", "."], "several"),
        (["inspect", "cut.gguf"], "beyond the end"),
        (["inspect", __file__], "not a GGUF"),
        (["extract", BASE, "-o", "x.gguf"], "no MTP head"),
        (["strip", BASE, "-o", "x.gguf"], "no MTP head"),
        (["graft", BASE, BASE, "-o", "x.gguf"], "no MTP head"),
        (["graft", "out.gguf", DONOR, "-o", "x.gguf"], "--replace"),
        (["graft", BASE, DONOR, "-o", "out.gguf"], "--force"),
        (["graft", BASE, DONOR], "-o"),
        (["graft", BASE, DONOR, "-o", "x.gguf", "--in-place"], "either"),
        (["graft", BASE, DONOR, "-o", "no/such/x.gguf"], "folder"),
        (["extract", DONOR, "-o", "x.gguf", "--type", "q3_k"], "q3_k"),
        (["extract", DONOR, "-o", "x.gguf", "--as", "both"], "both"),
        (["frobnicate"], "frobnicate"),
    ]
    for args, says in wrong:
        done = mtpgraft(*args, expect=2)
        assert says in done.stderr, (args, done.stderr)
        assert not done.stdout
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.gguf").exists()
    assert not [p for p in tmp_path.iterdir() if "mtpgraft-tmp" in p.name]


def test_force_overwrites(mtpgraft: Program, tmp_path: Path) -> None:
    (tmp_path / "out.gguf").write_text("old")
    mtpgraft("graft", BASE, DONOR, "-o", "out.gguf", "--force")
    load_and_draft(tmp_path / "out.gguf", grammar=None)


def test_terminal_escapes_in_a_file_do_not_reach_the_terminal(mtpgraft: Program, tmp_path: Path) -> None:
    evil = set_key(llama_like(), "general.name", STR, "\x1b[31mred\x07")
    evil.tensors.append(f32_tensor("blk.2.nextn.\x1b]0;x\x07", (64,)))
    (tmp_path / "evil.gguf").write_bytes(evil.bytes())
    done = mtpgraft("inspect", "evil.gguf", "-v")
    assert "\x1b" not in done.stdout + done.stderr
    assert "\\x1b[31mred" in done.stdout


def test_an_unwritable_folder_is_an_io_failure(mtpgraft: Program, tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 100; exec {sys.executable} -m mtpgraft graft {BASE} {DONOR} -o out.gguf"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "out.gguf" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_command_and_imports_nothing_heavy(mtpgraft: Program) -> None:
    shown = mtpgraft("--help").stdout
    for command in ("inspect", "extract", "graft", "strip", "verify"):
        assert command in shown
        assert "Usage" in mtpgraft(command, "--help").stdout
    heavy = ("numpy", "gguf", "rich", "huggingface_hub", "xllamacpp", "tqdm")
    code = f"import sys, mtpgraft.cli.main; print([m for m in {heavy!r} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_version(mtpgraft: Program) -> None:
    from mtpgraft import __version__

    assert mtpgraft("--version").stdout == f"mtpgraft {__version__}\n"


@pytest.mark.parametrize("verbose", [False, True])
def test_inspect_lists_tensors_when_asked(mtpgraft: Program, verbose: bool) -> None:
    shown = mtpgraft("inspect", DONOR, *(["-v"] if verbose else [])).stdout
    assert ("nextn.eh_proj" in shown) is verbose
