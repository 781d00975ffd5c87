"""Suites: what is bundled, what a file may hold, and the text of long prompts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mtpgraft.bench.prompts import Prompt
from mtpgraft.bench.suites import SUITE_NAMES, builtin_suite, read_suite
from mtpgraft.bench.suites.filler import CHARS_PER_TOKEN, Filler
from mtpgraft.errors import InputError, UsageError

GOOD: dict[str, Any] = {"schema_version": 1, "name": "mine", "prompts": [{"id": "a", "text": "Hello"}]}


def written(tmp_path: Path, document: object) -> Path:
    path = tmp_path / "suite.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def test_the_bundled_suites_are_what_was_published() -> None:
    """Published figures name these hashes. A change of a prompt needs another suite name, not another hash here."""
    assert {name: builtin_suite(name).hash for name in SUITE_NAMES} == {
        "mtp-bench": "3bbd41a1af7777c236216b36d7eebc743130cad59eeeb3eb804ef7f50a430192",
        "quick": "241aa5e27cd959594ec84375af105930825e7f47ef02f2f6adaeb9ecf4e94869",
        "long-context": "e10b4afe6f207eae95a970d77743b6a5de8762e8954d7f0184621bba7f4efb5d",
    }
    with pytest.raises(UsageError, match="mtp-bench, quick, long-context"):
        builtin_suite("qick")


def test_mtp_bench_has_the_public_scripts_categories_and_length() -> None:
    suite = builtin_suite("mtp-bench")
    assert [prompt.category for prompt in suite.prompts] == [
        *("code_python", "code_cpp", "explain_concept", "summarize", "qa_factual", "translation"),
        *("creative_short", "stepwise_math", "long_code_review"),
    ]
    assert (suite.n_predict, suite.shape) == (192, "chat")


def test_a_suites_hash_is_of_what_the_model_sees() -> None:
    quick = builtin_suite("quick")
    assert replace(quick, name="other", n_predict=1).hash == quick.hash
    assert replace(quick, shape="chat").hash != quick.hash
    assert replace(quick, prompts=(*quick.prompts, Prompt("x", "code", "y"))).hash != quick.hash
    assert len({prompt.id for prompt in quick.prompts}) == len(quick.prompts)


def test_long_prompts_have_their_depth_and_repeat_nothing() -> None:
    for prompt in builtin_suite("long-context").prompts:
        assert 0.95 * CHARS_PER_TOKEN * prompt.depth < len(prompt.text) < 1.02 * CHARS_PER_TOKEN * prompt.depth
        sections = [part.partition(". ")[2] for part in prompt.text.split("\n\n")]
        assert len(set(sections)) == len(sections)
        assert "{" not in prompt.text
    shallow, deep = builtin_suite("long-context").prompts[:2]
    common = shallow.text.rpartition("\n\n")[0]
    assert deep.text.startswith(common), "a deeper prompt is a shallower one that goes on"


def test_filler_fills_words() -> None:
    filler = Filler(("The {animal} saw {n} ships.",), {"animal": ("cat", "dog")})
    text = filler.text(200)
    assert text == filler.text(200)
    assert "The cat saw " in text and "The dog saw " in text
    assert Filler(("{a} {b_c} {n}",), {"a": ("x",)}).unknown_words() == ["b_c"]


def test_a_suite_file_of_ones_own(tmp_path: Path) -> None:
    document = {
        **GOOD,
        "shape": "chat",
        "n_predict": 32,
        "description": "for me",
        "filler": {"paragraphs": ["A {thing} of {n}."], "words": {"thing": ["cup", "bowl"]}},
        "prompts": [{"id": "a", "text": "Hello"}, {"id": "b", "category": "deep", "depth": 100, "text": "And so"}],
    }
    suite = read_suite(written(tmp_path, document))
    assert (suite.name, suite.shape, suite.n_predict) == ("mine", "chat", 32)
    first, second = suite.prompts
    assert (first.id, first.category, first.text, first.depth) == ("a", "a", "Hello", 0)
    assert (second.category, second.depth) == ("deep", 100)
    assert second.text.startswith("1. A ") and second.text.endswith("And so")
    assert read_suite(written(tmp_path, GOOD)).n_predict == 128


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("{", "line 1"),
        ('{\n "schema_version": 1,\n "name": "x"\n "prompts": []}', "line 4, column 2"),
        ('{"schema_version": 1, "name": "x", "name": "y", "prompts": []}', "twice"),
        ("[]", "top level"),
        ({"schema_version": 2}, r"\.schema_version"),
        ({"schema_version": True}, r"\.schema_version"),
        ({"name": ""}, r"\.name"),
        ({"name": None}, r"\.name"),
        ({"prompt": []}, r"\.prompt"),
        ({"shape": "raw"}, "completion or chat"),
        ({"n_predict": 4}, r"\.n_predict"),
        ({"n_predict": 64.5}, r"\.n_predict"),
        ({"n_predict": True}, r"\.n_predict"),
        ({"prompts": []}, r"\.prompts"),
        ({"prompts": {"a": "b"}}, r"\.prompts"),
        ({"prompts": ["a"]}, r"\.prompts\[0\]"),
        ({"prompts": [{"id": "a"}]}, r"\.prompts\[0\]\.text"),
        ({"prompts": [{"id": "a", "text": " "}]}, r"\.prompts\[0\]\.text"),
        ({"prompts": [{"id": 1, "text": "x"}]}, r"\.prompts\[0\]\.id"),
        ({"prompts": [{"id": "a", "text": "x", "depht": 9}]}, r"\.prompts\[0\]\.depht"),
        ({"prompts": [{"id": "a", "text": "x"}, {"id": "a", "text": "y"}]}, r"\.prompts\[1\]\.id"),
        ({"prompts": [{"id": "a", "text": "x", "depth": 9}]}, "filler"),
        ({"filler": {"paragraphs": ["{x}"]}}, r"\{x\}"),
        ({"filler": {"paragraphs": []}}, r"\.filler\.paragraphs"),
        ({"filler": {"paragraphs": ["x"], "words": {"a": []}}}, r"\.filler\.words\.a"),
        ({"filler": {"paragraphs": ["x"], "words": []}}, r"\.filler\.words"),
    ],
)
def test_a_wrong_suite_file_names_the_place(tmp_path: Path, change: str | dict[str, Any], words: str) -> None:
    path = written(tmp_path, change if isinstance(change, str) else {**GOOD, **change})
    with pytest.raises(InputError, match=words) as caught:
        read_suite(path)
    assert str(path) in str(caught.value) and "docs/bench.md" in str(caught.value.hint)


def test_unreadable_suite_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_suite(tmp_path / "none.json")
    with pytest.raises(InputError, match="is a folder"):
        read_suite(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'{"name": "caf\xe9"}')
    with pytest.raises(InputError, match="offset 13"):
        read_suite(tmp_path / "latin.json")
