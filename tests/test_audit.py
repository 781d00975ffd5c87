"""Verdicts from headers: one broken file per rule, and what every output says about it."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mtpgraft import surgery
from mtpgraft.audit import FAILING, AuditOptions, AuditResult, Verdict, audit, exit_code
from mtpgraft.audit.gguf import _PROBLEMS
from mtpgraft.audit.rules import RULES
from mtpgraft.errors import InputError
from tests import broken
from tests.broken import BROKEN, QWEN, headless, whole
from tests.conftest import ROOT, TINY, TRAINED
from tests.ggufbuild import ARR, STR, U32, Built, f32_tensor, llama_like, set_key, unknown_arch_donor
from tests.inprocess import InProcess
from tests.test_head import from_file


@pytest.fixture
def mtpgraft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """Many runs: in this process, in the test's own folder."""
    monkeypatch.chdir(tmp_path)
    return InProcess()


def one(path: Path) -> AuditResult:
    (result,) = audit([str(path)])
    return result


def rules_of(result: AuditResult) -> set[str]:
    return {finding.rule.id for finding in result.findings}


def built_result(tmp_path: Path, built: Built, name: str = "m.gguf") -> AuditResult:
    (tmp_path / name).write_bytes(built.bytes())
    return one(tmp_path / name)


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_file_has_its_verdict_and_rule(tmp_path: Path, name: str) -> None:
    verdict, rule, _ = BROKEN[name]
    result = one(broken.write(tmp_path, name))
    assert (result.verdict.value, rule in rules_of(result)) == (verdict, True), result
    finding = next(f for f in result.findings if f.rule.id == rule)
    assert all((finding.expected, finding.observed, finding.consequence, finding.fix))
    assert exit_code([result]) == 1


def test_every_rule_is_unique_and_documented() -> None:
    ids = [rule.id for rule in RULES]
    assert len(set(ids)) == len(ids)
    text = (ROOT / "docs" / "audit.md").read_text()
    documented = re.findall(r"^\| (MTP\d+) \|", text, re.M)
    assert documented == ids
    for rule in RULES:
        consequence, fix = (
            words.replace("{file}", "FILE").replace("{out}", "OUT").replace("{stripped}", "OUT")
            for words in (rule.consequence, rule.fix)
        )
        verdict = rule.verdict.value if rule.verdict else ""
        row = next(line for line in text.splitlines() if line.startswith(f"| {rule.id} |"))
        assert row.startswith(f"| {rule.id} | {rule.title} | {verdict} | {rule.severity.value} | {consequence}"), row
        assert row.endswith(f" | {fix} |"), row
    for verdict in Verdict:
        assert f"`{verdict.value}`" in text


def test_every_wording_of_head_problems_is_a_rule() -> None:
    import inspect

    from mtpgraft import head

    source = inspect.getsource(head)
    for words, _ in _PROBLEMS:
        assert words.strip() in source, f"head.py no longer says {words!r}"


@pytest.mark.parametrize("arch", sorted(p.name for p in TINY.iterdir() if (p / "whole.gguf").exists()))
def test_sound_files_of_every_architecture(arch: str) -> None:
    from mtpgraft.arch import GraphSupport, spec_for

    result = one(TINY / arch / "whole.gguf")
    assert result.architecture is not None
    spec = spec_for(result.architecture)
    assert spec is not None
    expected = Verdict.UNSUPPORTED if spec.graph is GraphSupport.NONE else Verdict.OK
    assert result.verdict is expected, result
    if (TINY / arch / "mtp.gguf").exists():
        sidecar = Verdict.SIDECAR if expected is Verdict.OK else expected
        assert one(TINY / arch / "mtp.gguf").verdict is sidecar


def test_a_quantized_head_below_q8_is_advice(tmp_path: Path) -> None:
    surgery.graft(TRAINED / "base-Q2_K.gguf", TRAINED / "donor-bf16.gguf", tmp_path / "good.gguf")
    assert one(tmp_path / "good.gguf").verdict is Verdict.OK
    low = from_file(tmp_path / "good.gguf")
    low.tensors = [
        (n, s, 2, bytes(18 * (len(d) // 34))) if n.startswith("blk.4.") and k == 8 else (n, s, k, d)
        for n, s, k, d in low.tensors
    ]
    result = built_result(tmp_path, low)
    assert result.verdict is Verdict.LOW_QUANT
    (finding,) = [f for f in result.findings if f.rule.id == "MTP060"]
    assert len(finding.evidence) == 8
    assert "Q4_0" in finding.evidence[0]
    assert exit_code([result]) == 0
    assert exit_code([result], frozenset({Verdict.LOW_QUANT})) == 1


def test_architectures_without_a_head_and_files_that_are_no_models(tmp_path: Path) -> None:
    assert built_result(tmp_path, llama_like("llama")).verdict is Verdict.NOT_MTP
    mmproj = Built([("general.architecture", STR, "clip"), ("general.type", STR, "mmproj")], [])
    assert built_result(tmp_path, mmproj).verdict is Verdict.NOT_MTP
    imatrix = Built([("general.type", STR, "imatrix")], [f32_tensor("blk.0.a.in_sum2", (4,))])
    assert built_result(tmp_path, imatrix).verdict is Verdict.NOT_MTP
    assert built_result(tmp_path, Built([("general.name", STR, "x")], [])).verdict is Verdict.CORRUPT
    assert built_result(tmp_path, llama_like("gemma4")).verdict is Verdict.UNKNOWN
    assert built_result(tmp_path, llama_like("exaone4")).verdict is Verdict.NOT_MTP
    assert built_result(tmp_path, unknown_arch_donor()).verdict is Verdict.UNKNOWN


def test_whether_a_headless_file_lost_something_depends_on_its_model(tmp_path: Path) -> None:
    deepseek = set_key(llama_like("deepseek2"), "general.name", STR, "DeepSeek R1")
    assert built_result(tmp_path, deepseek).verdict is Verdict.UNKNOWN
    flash = set_key(llama_like("deepseek2"), "general.name", STR, "GLM-4.7-Flash")
    result = built_result(tmp_path, flash)
    assert result.verdict is Verdict.DROPPED
    assert any("assumed" in text for f in result.findings for text in f.evidence)
    solar = set_key(llama_like("glm4moe"), "general.name", STR, "Solar Open 100B")
    assert built_result(tmp_path, solar).verdict is Verdict.UNKNOWN
    assert exit_code([built_result(tmp_path, solar)]) == 0


def test_unchecked_and_trunk_arrays(tmp_path: Path) -> None:
    for arch, key, expected in (
        ("step35", "attention.sliding_window_pattern", "MTP025"),
        ("step35", "attention.head_count", "MTP024"),
        ("glm-dsa", "attention.indexer.types", "MTP026"),
    ):
        path = TINY / arch / "whole.gguf"
        if not path.exists():
            pytest.skip(f"no fixture of {arch}")
        built = from_file(path)
        found = next((k for k in built.keys if k[0] == f"{arch}.{key}"), None)
        n = next(int(str(k[2])) for k in built.keys if k[0] == f"{arch}.block_count")
        if expected == "MTP026" or found is None or not isinstance(found[2], tuple):
            set_key(built, f"{arch}.{key}", ARR, (U32, [1] * (n if expected == "MTP026" else n - 1)))
        else:
            set_key(built, found[0], ARR, (found[2][0], found[2][1][: n - 1]))
        result = built_result(tmp_path, built)
        assert expected in rules_of(result), (arch, key, result)
        assert result.verdict is Verdict.PARTIAL


def test_a_list_on_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copyfile(TRAINED / "base-Q2_K.gguf", tmp_path / "a.gguf")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{tmp_path / 'a.gguf'}\n# a note\nnothing.gguf\n"))
    assert [result.verdict for result in audit(["@-"])] == [Verdict.DROPPED, Verdict.UNKNOWN]
    monkeypatch.setattr(sys, "stdin", io.StringIO("x\n" * 2**23 + "x"))
    with pytest.raises(InputError, match="too large"):
        list(audit(["@-"]))


def test_folders_lists_and_split_sets(tmp_path: Path) -> None:
    sub = tmp_path / "models" / "deep"
    sub.mkdir(parents=True)
    shutil.copy(QWEN / "whole.gguf", sub / "a.gguf")
    for number in (1, 3):
        shutil.copy(QWEN / "whole.gguf", sub / f"b-0000{number}-of-00003.gguf")
    results = audit([str(tmp_path)])
    assert [(Path(r.target).name, r.verdict.value) for r in results] == [
        ("a.gguf", "ok"),
        ("b-00001-of-00003.gguf", "truncated"),
    ]
    assert "b-00002-of-00003.gguf" in results[1].findings[0].evidence
    (tmp_path / "list.txt").write_text(f"# mine\n{sub / 'a.gguf'}\n\n{sub}  # again\nnothing.gguf\n")
    results = audit([f"@{tmp_path / 'list.txt'}", str(sub / "a.gguf")])
    assert [r.verdict.value for r in results] == ["ok", "truncated", "unknown"]
    assert results[2].error
    assert exit_code(results) == 2


def test_sidecars_are_matched_with_the_models_beside_them(tmp_path: Path) -> None:
    shutil.copy(QWEN / "mtp.gguf", tmp_path / "mtp-small.gguf")
    assert "MTP073" in rules_of(one(tmp_path / "mtp-small.gguf"))
    shutil.copy(TRAINED / "base-Q2_K.gguf", tmp_path / "big.gguf")
    result = one(tmp_path / "mtp-small.gguf")
    assert result.verdict is Verdict.MISMATCHED
    assert "width" in result.findings[-1].observed
    shutil.copy(QWEN / "whole.gguf", tmp_path / "small.gguf")
    assert one(tmp_path / "mtp-small.gguf").verdict is Verdict.SIDECAR
    result = one(tmp_path / "small.gguf")
    assert (result.verdict, rules_of(result)) == (Verdict.OK, {"MTP075"})
    (tmp_path / "small.gguf").rename(tmp_path / "small-mtp-Q8_0.gguf")
    assert "MTP074" in rules_of(one(tmp_path / "small-mtp-Q8_0.gguf"))


def test_a_gemma_4_and_an_assistant_of_another_width(tmp_path: Path) -> None:
    assistant = llama_like("gemma4-assistant", 1, 32)
    set_key(assistant, "gemma4-assistant.nextn_predict_layers", U32, 1)
    set_key(assistant, "gemma4-assistant.embedding_length_out", U32, 128)
    (tmp_path / "mtp-assistant.gguf").write_bytes(assistant.bytes())
    (tmp_path / "gemma.gguf").write_bytes(llama_like("gemma4", 2, 64).bytes())
    results = {Path(r.target).name: r for r in audit([str(tmp_path)])}
    assert "MTP072" in rules_of(results["mtp-assistant.gguf"])
    assert "128" in next(f.observed for f in results["mtp-assistant.gguf"].findings if f.rule.id == "MTP072")
    assert results["gemma.gguf"].verdict is Verdict.UNKNOWN
    (tmp_path / "gemma.gguf").write_bytes(llama_like("gemma4", 2, 128).bytes())
    results = {Path(r.target).name: r for r in audit([str(tmp_path)])}
    assert results["gemma.gguf"].verdict is Verdict.OK
    assert "MTP072" not in rules_of(results["mtp-assistant.gguf"])


def test_a_head_file_is_a_donor_and_no_sidecar(tmp_path: Path) -> None:
    surgery.extract(QWEN / "whole.gguf", tmp_path / "head.gguf")
    result = one(tmp_path / "head.gguf")
    assert (result.verdict, "MTP071" in rules_of(result)) == (Verdict.SIDECAR, True)


def test_types_of_ik_llama_cpp_are_noted_and_no_failure(tmp_path: Path) -> None:
    built = whole()
    built.tensors = [(n, s, 137 if n == "blk.0.ffn_up.weight" else k, d) for n, s, k, d in built.tensors]
    result = built_result(tmp_path, built)
    assert (result.verdict, rules_of(result)) == (Verdict.OK, {"MTP005"})


def test_byte_order_is_noted_and_no_failure(tmp_path: Path) -> None:
    for order, rules in (("<", set()), (">", {"MTP033"})):
        result = built_result(tmp_path, unknown_arch_donor(order=order))
        assert rules_of(result) - {"MTP009"} == rules


def test_the_command_line(mtpgraft: InProcess, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for name in ("orphan", "dropped"):
        broken.write(folder, name)
    shutil.copy(QWEN / "whole.gguf", folder / "good.gguf")
    document = json.loads(mtpgraft("audit", "m", "--json", expect=1).stdout)
    assert document["schema_version"] == 1
    assert [(r["target"], r["verdict"]) for r in document["results"]] == [
        ("m/dropped.gguf", "dropped"),
        ("m/good.gguf", "ok"),
        ("m/orphan.gguf", "orphan"),
    ]
    found = document["results"][2]["findings"][0]
    assert set(found) == {"rule", "title", "severity", "expected", "observed", "evidence", "consequence", "fix"}
    assert document["results"][1]["head_types"] == {"BF16": 8, "F32": 7}
    shown = mtpgraft("audit", "m", "-v", expect=1)
    assert "MTP020" in shown.stdout
    assert "mtpgraft repair m/orphan.gguf" in shown.stdout
    assert "3 models" in shown.stderr
    assert mtpgraft("audit", "m", "--markdown", expect=1).stdout.startswith("| Model |")
    sarif = json.loads(mtpgraft("audit", "m", "--sarif", expect=1).stdout)
    assert {r["ruleId"] for r in sarif["runs"][0]["results"]} == {"MTP010", "MTP020"}
    mtpgraft("audit", "m", "--exit-zero")
    mtpgraft("audit", "m", "--fail-on", "truncated,dead")
    mtpgraft("audit", "m/good.gguf")
    mtpgraft("audit", "m/good.gguf", "--fail-on", "ok", expect=1)
    for args in (["m", "no.gguf"], ["no.gguf", "--exit-zero"], ["m", "--json", "--sarif"], ["m", "--fail-on", "bad"]):
        mtpgraft("audit", *args, expect=2)
    mtpgraft("audit", "@no.txt", expect=2)


def test_escapes_in_names_do_not_reach_the_terminal(mtpgraft: InProcess, tmp_path: Path) -> None:
    evil = headless()
    evil.tensors.append(f32_tensor("mtp.\x1b]0;x\x07", (8,)))
    (tmp_path / "e.gguf").write_bytes(evil.bytes())
    for args in (["-v"], ["--markdown"]):
        assert "\x1b" not in mtpgraft("audit", "e.gguf", *args, expect=1).stdout


def test_failing_verdicts_leave_out_what_is_advice_or_unknown() -> None:
    assert not FAILING & {Verdict.OK, Verdict.LOW_QUANT, Verdict.UNKNOWN, Verdict.NOT_MTP, Verdict.SIDECAR}


def deep(path: Path) -> AuditResult:
    (result,) = audit([str(path)], AuditOptions(deep=True))
    return result


@pytest.mark.parametrize(
    ("change", "part", "rule"),
    [
        (lambda d: bytes(len(d)), "eh_proj", "MTP051"),
        (lambda d: bytes(len(d)), "nextn.enorm", "MTP051"),
        (lambda d: b"\x80\x3f" * (len(d) // 2), "ffn_down", "MTP052"),
        (lambda d: d[:-2] + b"\xc0\x7f", "eh_proj", "MTP050"),
        (lambda d: d[:-4] + b"\0\0\x80\x7f", "nextn.hnorm", "MTP050"),
    ],
)
def test_dead_heads(tmp_path: Path, change: Callable[[bytes], bytes], part: str, rule: str) -> None:
    (tmp_path / "m.gguf").write_bytes(broken.head_data(change, part).bytes())
    assert one(tmp_path / "m.gguf").verdict is Verdict.OK
    result = deep(tmp_path / "m.gguf")
    assert (result.verdict, rule in rules_of(result)) == (Verdict.DEAD, True), result


def test_q8_0_scales_out_of_range(tmp_path: Path) -> None:
    surgery.graft(QWEN / "no-mtp.gguf", QWEN / "whole.gguf", tmp_path / "g.gguf")
    assert deep(tmp_path / "g.gguf").verdict is Verdict.OK
    built = from_file(tmp_path / "g.gguf")
    for scale in (b"\x00\xc0", b"\x00\x7b"):  # -2 and 57344
        built.tensors = [(n, s, k, scale + d[2:] if "eh_proj" in n else d) for n, s, k, d in built.tensors]
        (tmp_path / "bad.gguf").write_bytes(built.bytes())
        assert "MTP053" in rules_of(deep(tmp_path / "bad.gguf"))


@pytest.mark.parametrize(
    ("path", "block"),
    [(TRAINED / "donor-bf16.gguf", 4), (QWEN / "whole.gguf", 2), (TINY / "qwen35moe" / "whole.gguf", 2)],
)
@pytest.mark.parametrize(("by", "rule"), [(-1.0, "MTP054"), (0.0, None), (1.0, "MTP055")])
def test_the_norm_convention(tmp_path: Path, path: Path, block: int, by: float, rule: str | None) -> None:
    built = broken.shifted(from_file(path), by, block)
    (tmp_path / "m.gguf").write_bytes(built.bytes())
    result = deep(tmp_path / "m.gguf")
    assert result.verdict is (Verdict.OK if rule is None else Verdict.NORM_SUSPECT), result
    assert rules_of(result) == ({rule} if rule else set())


def test_every_sound_fixture_passes_a_deep_audit() -> None:
    results = audit([str(TINY), str(TRAINED)], AuditOptions(deep=True))
    wrong = {Verdict.DEAD, Verdict.NORM_SUSPECT, Verdict.MISMATCHED, Verdict.PARTIAL, Verdict.CORRUPT}
    assert not [r for r in results if r.verdict in wrong]


def with_foreign_head(tmp_path: Path) -> Path:
    """A graft whose head is another model's, beside an original: its norms are those of no known head."""
    other = from_file(TRAINED / "donor-bf16.gguf")
    other.tensors = [
        (n, s, k, d[len(d) // 2 // 4 * 4 :] + d[: len(d) // 2 // 4 * 4]) if n.startswith("blk.4.") else (n, s, k, d)
        for n, s, k, d in other.tensors
    ]
    (tmp_path / "other.gguf").write_bytes(other.bytes())
    out = tmp_path / "foreign.gguf"
    surgery.graft(TRAINED / "base-Q2_K.gguf", tmp_path / "other.gguf", out)
    (tmp_path / "other.gguf").unlink()
    return out


def test_a_head_of_another_model(tmp_path: Path) -> None:
    path = with_foreign_head(tmp_path)
    assert deep(path).verdict is Verdict.OK, "nothing to compare it with"
    shutil.copy(TRAINED / "donor-bf16.gguf", tmp_path / "original.gguf")
    result = deep(path)
    assert (result.verdict, rules_of(result)) == (Verdict.MISMATCHED, {"MTP056"})
    assert deep(tmp_path / "original.gguf").verdict is Verdict.OK
    surgery.graft(TRAINED / "base-Q2_K.gguf", TRAINED / "donor-bf16.gguf", tmp_path / "good.gguf")
    assert deep(tmp_path / "good.gguf").verdict is Verdict.OK


def test_heads_that_are_not_quite_right(tmp_path: Path) -> None:
    chain = from_file(TINY / "step35" / "whole.gguf")
    chain.tensors = [t for t in chain.tensors if not t[0].startswith("blk.4.")]
    result = built_result(tmp_path, chain)
    assert (result.verdict, "MTP028" in rules_of(result)) == (Verdict.PARTIAL, True)
    both = whole()
    both.tensors.append(f32_tensor("blk.2.attn_qkv.weight", (32, 96)))
    assert "MTP031" in rules_of(built_result(tmp_path, both))
    scaled = whole()
    scaled.tensors.append(f32_tensor("blk.2.nextn.eh_proj.scale", (1,)))
    result = built_result(tmp_path, scaled)
    assert (result.verdict, rules_of(result)) == (Verdict.OK, {"MTP032"})
    minimax = llama_like("minimax-m3")
    minimax.tensors.append(f32_tensor("blk.2.nextn.eh_proj.weight", (128, 64)))
    set_key(set_key(minimax, "minimax-m3.nextn_predict_layers", U32, 1), "minimax-m3.block_count", U32, 3)
    assert "MTP041" in rules_of(built_result(tmp_path, minimax))
    assert "MTP042" in rules_of(one(TINY / "glm4moe" / "whole.gguf"))
    bare = from_file(QWEN / "mtp.gguf")
    bare.tensors = [t for t in bare.tensors if t[0] != "output_norm.weight"]
    assert "MTP076" in rules_of(built_result(tmp_path, bare))


def test_types_that_cannot_be_read_are_no_failure(tmp_path: Path) -> None:
    built = whole()
    built.tensors = [(n, s, 139 if "nextn.eh_proj" in n else k, d) for n, s, k, d in built.tensors]
    (tmp_path / "m.gguf").write_bytes(built.bytes())
    result = deep(tmp_path / "m.gguf")
    assert (result.verdict, "MTP057" in rules_of(result)) == (Verdict.OK, True)
