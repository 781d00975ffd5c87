"""Hostile files through the whole program, and beside llama.cpp: neither takes what the other refuses."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from mtpgraft.container import open_gguf
from mtpgraft.errors import MtpgraftError
from mtpgraft.head import find_head
from tests.conftest import Program
from tests.engine import refusal
from tests.ggufbuild import STR, U32, f32_tensor, llama_like
from tests.mutations import Model, mutations
from tests.test_container import HOSTILE

MODEL = Model()
MUTATIONS = mutations(MODEL)
# What llama.cpp and mtpgraft judge differently, and why that is meant.
ONLY_WE_LOAD = {
    "one tensor fewer": "a whole header; that a tensor of the architecture is missing is found when the model is built",
    "dimension 0": "a whole header; the shape is not the architecture's",
    "type 999": "types of other engines and of the future are copied as they are",
    "type of a removed format": "types of the past are copied as they are",
}
ONLY_LLAMA_LOADS = {
    "long key name": "docs/gguf.md: key names have up to 2^16 - 1 bytes",
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_llama_cpp_and_we_agree(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(MUTATIONS[name]())
    begin = time.perf_counter()
    try:
        with open_gguf(path) as model:
            find_head(model)
        we_load = True
    except MtpgraftError as error:
        assert error.exit_code == 2
        we_load = False
    assert time.perf_counter() - begin < 2
    try:
        refusal(path)
        llama_loads = False
    except AssertionError:
        llama_loads = True
    if name in ONLY_WE_LOAD:
        assert (we_load, llama_loads) == (True, False)
    elif name in ONLY_LLAMA_LOADS:
        assert (we_load, llama_loads) == (False, True)
    else:
        assert we_load == llama_loads


@pytest.mark.parametrize("case", ["empty", "2^63 tensors", "string longer than the file", "nested arrays"])
def test_the_program_says_one_line_and_exits_with_2(tmp_path: Path, mtpgraft: Program, case: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(HOSTILE[case][0])
    done = mtpgraft("inspect", path, expect=2)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    first, *others = done.stderr.splitlines()
    assert first.startswith("mtpgraft: ")
    assert all(line.startswith("  try: ") for line in others)
    assert case == "empty" or "offset" in first


def test_no_terminal_escape_reaches_the_terminal(tmp_path: Path, mtpgraft: Program) -> None:
    escape = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"
    built = llama_like()
    built.keys[1] = ("general.name", STR, f"nice{escape}name")
    built.keys.append((f"key{escape}", U32, 1))
    built.tensors.append(f32_tensor("blk.1.nextn.eh\x1b[2J\u202e.weight", (64, 4)))
    path = tmp_path / "model.gguf"
    path.write_bytes(built.bytes())
    broken = tmp_path / "broken.gguf"
    raw = built.bytes()
    broken.write_bytes(raw[: len(raw) - 900])
    for args in (
        ("inspect", path),
        ("inspect", "-v", path),
        ("inspect", "--json", path),
        ("inspect", broken),
        ("strip", path, "-o", tmp_path / "out.gguf"),
        ("verify", path, "--base", path),
    ):
        done = mtpgraft(*args, expect=None)
        assert done.returncode in (0, 1, 2), done.stderr
        said = done.stdout + done.stderr
        for bad in ("\x1b", "\x07"):
            assert bad not in said, args
        if "--json" in args:
            assert json.loads(done.stdout)["name"] == f"nice{escape}name"
        else:
            assert "\x9b" not in said
            assert "\u202e" not in said


def test_an_error_is_one_line_whatever_a_file_is_called(tmp_path: Path) -> None:
    path = tmp_path / "two\nlines\x1b[2J.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(MtpgraftError) as caught:
        open_gguf(path)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


CORPUS = Path(__file__).resolve().parent.parent / "fuzz" / "corpus"


@pytest.mark.parametrize("seed", sorted(path.name for path in CORPUS.iterdir()))
def test_the_fuzzers_corpus(seed: str, tmp_path: Path) -> None:
    """What the fuzzer does with an input, without the fuzzer; a crash that it finds joins the corpus."""
    try:
        with open_gguf(CORPUS / seed) as model:
            find_head(model)
    except MtpgraftError as error:
        assert error.exit_code == 2
        assert "\n" not in str(error)
