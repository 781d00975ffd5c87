"""Repos on the Hub, audited by their headers, and what their upstream says about a missing head."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtpgraft.audit import AuditOptions, AuditResult, Verdict, audit
from mtpgraft.audit.upstream import card_base_models
from tests import broken
from tests.broken import QWEN
from tests.ggufbuild import STR, set_key
from tests.hub.fixtures import environment
from tests.hub.server import FakeHub
from tests.inprocess import InProcess
from tests.test_audit_checkpoint import checkpoint, no_head


@pytest.fixture
def mtpgraft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """Many runs: in this process, in the test's own folder."""
    monkeypatch.chdir(tmp_path)
    return InProcess()


def rules_of(result: AuditResult) -> set[str]:
    return {finding.rule.id for finding in result.findings}


@pytest.fixture
def repos(hub: FakeHub, tmp_path: Path) -> Iterator[FakeHub]:
    """An original with a head, a finetune without, and repos of GGUF files made of each."""
    before = dict(hub.repos)
    original = checkpoint(tmp_path / "original")
    finetune = checkpoint(tmp_path / "finetune", no_head)
    for name, folder in (("org/original", original), ("org/finetune", finetune)):
        hub.add(name, {path.name: path for path in folder.iterdir()})
    for name, base in (("quants/original-GGUF", "org/original"), ("quants/finetune-GGUF", "org/finetune")):
        folder = tmp_path / name.rpartition("/")[2]
        folder.mkdir()
        (folder / "README.md").write_text(f"---\nlicense: mit\nbase_model:\n- {base}\n---\n# Quants\n")
        (folder / "model-Q8_0.gguf").write_bytes((QWEN / "no-mtp.gguf").read_bytes())
        (folder / "model-Q4_K_M.gguf").write_bytes((QWEN / "whole.gguf").read_bytes())
        (folder / "mmproj-F16.gguf").write_bytes(b"never read")
        broken.write(folder, "orphan")
        broken.write(folder, "truncated")
        hub.add(name, {path.name: path for path in folder.iterdir()})
    yield hub
    hub.repos.clear()
    hub.repos.update(before)


def test_a_repo_and_its_upstream(repos: FakeHub) -> None:
    results = {r.target: r for r in audit(["hf:quants/original-GGUF"])}
    name = "hf:quants/original-GGUF"
    assert {target: r.verdict.value for target, r in results.items()} == {
        f"{name}/model-Q4_K_M.gguf": "ok",
        f"{name}/model-Q8_0.gguf": "dropped",
        f"{name}/orphan.gguf": "orphan",
        f"{name}/truncated.gguf": "truncated",
    }
    dropped = results[f"{name}/model-Q8_0.gguf"]
    assert any("org/original" in text and "15 head tensors" in text for text in dropped.findings[0].evidence)
    assert dropped.fetched_nbytes > 0
    assert not [seen for seen in repos.requests("storage") if "mmproj" in seen.path]
    (result,) = audit(["hf:quants/finetune-GGUF:Q8_0"])
    assert (result.verdict, rules_of(result)) == (Verdict.UPSTREAM_HEADLESS, {"MTP013"})


def test_a_deep_audit_reads_the_head_by_ranges(repos: FakeHub) -> None:
    (shallow,) = audit(["hf:quants/original-GGUF:Q4_K_M"])
    (deep,) = audit(["hf:quants/original-GGUF:Q4_K_M"], AuditOptions(deep=True))
    assert (shallow.verdict, deep.verdict) == (Verdict.OK, Verdict.OK)


def test_safetensors_repos(repos: FakeHub) -> None:
    results = audit(["hf:org/original", "hf:org/finetune", "hf:no/such"])
    assert [(r.target, r.verdict.value) for r in results] == [
        ("hf:org/original", "ok"),
        ("hf:org/finetune", "declared-missing"),
        ("hf:no/such", "unknown"),
    ]
    assert results[2].error


def test_local_files_whose_header_names_the_original(repos: FakeHub, tmp_path: Path) -> None:
    for base, verdict in (("org/finetune", "upstream-headless"), ("org/original", "dropped"), ("gone/gone", "dropped")):
        built = set_key(broken.headless(), "general.base_model.0.repo_url", STR, f"https://huggingface.co/{base}")
        (tmp_path / "m.gguf").write_bytes(built.bytes())
        repos.reset()
        (result,) = audit([str(tmp_path / "m.gguf")])
        assert result.verdict is Verdict.DROPPED
        assert repos.seen == [], "a local audit asks nobody"
        (result,) = audit([str(tmp_path / "m.gguf")], AuditOptions(upstream=True))
        assert result.verdict.value == verdict, result
        if base == "gone/gone":
            assert any("could not be read" in text for text in result.findings[0].evidence)


def test_the_command_line(repos: FakeHub, mtpgraft: InProcess, tmp_path: Path) -> None:
    env = environment(repos, tmp_path)
    done = mtpgraft("audit", "hf:quants/original-GGUF", "hf:org/original", "--jobs", "4", expect=1, **env)
    assert "fetched of" in done.stderr
    document = json.loads(mtpgraft("audit", "hf:org/original", "--json", **env).stdout)
    assert document["results"][0]["verdict"] == "ok"


def test_a_remote_model_is_mended_from_its_upstream(repos: FakeHub, mtpgraft: InProcess, tmp_path: Path) -> None:
    env = environment(repos, tmp_path)
    args = ["repair", "hf:quants/original-GGUF:Q8_0", "-o", "out.gguf", "--donor", "hf:org/original", "--json"]
    planned = json.loads(mtpgraft(*args, "--dry-run", **env).stdout)
    assert planned["plan"]["head_nbytes"] > 0
    assert not (tmp_path / "out.gguf").exists()
    done = json.loads(mtpgraft(*args, **env).stdout)
    assert (done["verdict"], done["verdict_after"], done["smoke"]["drafts"]) == ("dropped", "ok", True)
    without = json.loads(mtpgraft(*args[:4], "--force", "--json", **env).stdout)
    assert "model-Q4_K_M" in without["donor_why"] or "org/original" in without["donor_why"]


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        ("---\nbase_model: a/b\n---\n", ("a/b",)),
        ("---\nx: 1\nbase_model:\n  - a/b\n  - 'c/d'\nlicense: mit\n---\n", ("a/b", "c/d")),
        ('---\nbase_model: ["a/b"]\n---\n', ("a/b",)),
        ("---\nlicense: mit\n---\nbase_model: a/b\n", ()),
        ("# no card\nbase_model: a/b\n", ()),
        ("---\nbase_model: ../../etc\n---\n", ()),
    ],
)
def test_base_models_of_a_card(front: str, expected: tuple[str, ...]) -> None:
    assert card_base_models(front) == expected
