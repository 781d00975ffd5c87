"""`mtpgraft repair`, from the command line: every mendable way of losing a head becomes a file that llama.cpp drafts
with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mtpgraft import surgery
from mtpgraft.compare import Proven
from mtpgraft.container import open_gguf
from mtpgraft.head import find_head
from mtpgraft.repair import run as repair_run
from mtpgraft.repair.run import RepairOptions, repair
from mtpgraft.surgery import NotVerifiedError
from mtpgraft.verify import VerifyReport, verify_graft
from mtpgraft.write import disk
from tests import broken
from tests.broken import BROKEN, QWEN
from tests.conftest import TRAINED, Program, sha256
from tests.engine import load_and_draft
from tests.faults import flipping_copy
from tests.ggufbuild import STR, llama_like, set_key
from tests.inprocess import InProcess
from tests.test_audit import with_foreign_head
from tests.test_head import from_file, without


@pytest.fixture
def mtpgraft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """Many runs: in this process, in the test's own folder."""
    monkeypatch.chdir(tmp_path)
    return InProcess()


DATA = {
    "dead": ("dead", lambda: broken.head_data(lambda d: bytes(len(d)), "eh_proj").bytes()),
    "norms-raw": ("norm-suspect", lambda: broken.shifted(broken.whole(), -1.0).bytes()),
    "norms-twice": ("norm-suspect", lambda: broken.shifted(broken.whole(), 1.0).bytes()),
}
CANNOT = ("truncated", "corrupt", "other-names")
ACTIONS = {
    **dict.fromkeys(
        ("gaps", "orphan", "orphan-behind", "moved", "short-array", "two-blocks", "strange-tensor"), "mend"
    ),
    **dict.fromkeys(("norms-raw", "norms-twice"), "mend"),
    **dict.fromkeys(("no-eh_proj", "no-enorm", "no-attn_q"), "fill"),
    **dict.fromkeys(("dropped", "declared", "not-raised", "wrong-shape", "dead"), "graft"),
}


def test_a_folder_with_every_kind_is_judged_and_mended(mtpgraft: InProcess, tmp_path: Path) -> None:
    """The whole issue in one: one file of every kind, the right verdict for each, and repair for what can be mended."""
    program = Program(tmp_path)
    models = tmp_path / "models"
    models.mkdir()
    expected = {name: verdict for name, (verdict, _, _) in BROKEN.items()}
    for name in BROKEN:
        broken.write(models, name)
    for name, (verdict, make) in DATA.items():
        (models / f"{name}.gguf").write_bytes(make())
        expected[name] = verdict
    shutil.copy(QWEN / "whole.gguf", models / "good.gguf")
    shutil.copy(QWEN / "mtp.gguf", models / "mtp-sidecar.gguf")
    (models / "low.gguf").write_bytes(broken.low_quant().bytes())
    (models / "llama.gguf").write_bytes(llama_like("llama").bytes())
    unknown = set_key(llama_like("deepseek2"), "general.name", STR, "DeepSeek R1")
    (models / "deepseek.gguf").write_bytes(unknown.bytes())
    shutil.copy(next(TRAINED.glob("mtp-*.gguf")), models / "mtp-other.gguf")
    expected |= {"good": "ok", "mtp-sidecar": "sidecar", "low": "low-quant", "llama": "not-mtp"}
    expected |= {"deepseek": "unknown", "mtp-other": "mismatched"}
    document = json.loads(program("audit", "models", "--deep", "--json", expect=1).stdout)
    assert {Path(r["target"]).stem: r["verdict"] for r in document["results"]} == expected
    before = {path: sha256(path) for path in models.iterdir()}
    for name in [*BROKEN, *DATA]:
        args = ["repair", models / f"{name}.gguf", "-o", tmp_path / f"{name}-fixed.gguf", "--yes", "--json"]
        args += [] if name in ("dropped", "no-enorm", "norms-raw") else ["--no-smoke"]
        if name in CANNOT:
            assert not program(*args, expect=2).stdout
            continue
        done = json.loads((mtpgraft if "--no-smoke" in args else program)(*args).stdout)
        assert (done["action"], done["verdict_after"]) == (ACTIONS[name], "ok"), (name, done)
        assert done["verified"]["ok"]
        assert "--no-smoke" in args or done["smoke"]["drafts"] is True, (name, done["smoke"])
        fixed = tmp_path / f"{name}-fixed.gguf"
        if "--no-smoke" in args:
            load_and_draft(fixed)
    assert {path: sha256(path) for path in models.iterdir()} == before
    fixed_all = json.loads(mtpgraft("audit", *sorted(tmp_path.glob("*-fixed.gguf")), "--deep", "--json").stdout)
    assert {r["verdict"] for r in fixed_all["results"]} == {"ok"}
    # What was mended without another model's bytes is the original again, tensor for tensor.
    original = head_bytes(QWEN / "whole.gguf")
    for name in ("orphan", "moved", "two-blocks", "short-array", "gaps", "strange-tensor"):
        assert head_bytes(tmp_path / f"{name}-fixed.gguf") == original, name


def head_bytes(path: Path) -> dict[str, bytes]:
    with open_gguf(path) as model:
        head = find_head(model)
        return {t.name: model.source_of(t).read_at(t.offset, t.n_bytes) for t in head.tensors}


def test_a_trained_head_drafts_as_well_as_before(mtpgraft: InProcess, tmp_path: Path) -> None:
    good = load_and_draft(TRAINED / "donor-bf16.gguf", grammar=None, n_predict=48)
    for by in (-1.0, 1.0):
        path = tmp_path / "m.gguf"
        path.write_bytes(broken.shifted(from_file(TRAINED / "donor-bf16.gguf"), by, 4).bytes())
        shown = mtpgraft("repair", "m.gguf", "--in-place", "--no-smoke").stdout
        assert "->" in shown
        fixed = load_and_draft(path, grammar=None, n_predict=48)
        assert (fixed.draft_n, fixed.draft_n_accepted) == (good.draft_n, good.draft_n_accepted)


def test_a_mismatched_head_is_replaced(mtpgraft: InProcess, tmp_path: Path) -> None:
    path = with_foreign_head(tmp_path)
    shutil.copy(TRAINED / "donor-bf16.gguf", tmp_path / "original.gguf")
    bad = load_and_draft(path, grammar=None, n_predict=48)
    done = json.loads(mtpgraft("repair", "foreign.gguf", "--in-place", "--json").stdout)
    assert (done["verdict"], done["action"]) == ("mismatched", "graft")
    assert "original.gguf" in done["donor_why"]
    fixed = load_and_draft(path, grammar=None, n_predict=48)
    assert fixed.draft_n_accepted / fixed.draft_n > 0.2 + bad.draft_n_accepted / bad.draft_n
    assert [p.name for p in tmp_path.iterdir() if "tmp" in p.name] == []


def test_the_donor_is_the_cheapest_sound_one_of_the_same_model(mtpgraft: InProcess, tmp_path: Path) -> None:
    shutil.copy(TRAINED / "base-Q2_K.gguf", tmp_path / "base.gguf")
    mtpgraft("repair", "base.gguf", expect=2)
    shutil.copy(QWEN / "whole.gguf", tmp_path / "another.gguf")
    shutil.copy(TRAINED / "donor-bf16.gguf", tmp_path / "big.gguf")
    (tmp_path / "bad.gguf").write_bytes(broken.shifted(from_file(TRAINED / "donor-bf16.gguf"), -1.0, 4).bytes())
    surgery.extract(TRAINED / "donor-bf16.gguf", tmp_path / "small.gguf", "donor", "q8_0")
    done = json.loads(mtpgraft("repair", "base.gguf", "--dry-run", "--json").stdout)
    assert done["donor_why"].startswith("small.gguf")
    assert "costs least" in done["donor_why"]
    assert done["verified"] is None
    assert not (tmp_path / "base-MTP.gguf").exists()
    shown = mtpgraft("repair", "base.gguf", "--donor", "big.gguf").stdout
    assert "big.gguf" in shown
    assert "drafts with it" in shown
    assert (tmp_path / "base-MTP.gguf").exists()
    # a sidecar made by llama.cpp's converter has one norm of the trunk, and no fingerprint
    for name in ("small", "big", "bad", "another", "base-MTP"):
        (tmp_path / f"{name}.gguf").unlink()
    shutil.copy(TRAINED / "mtp-q8_0.gguf", tmp_path / "mtp-model.gguf")
    done = json.loads(mtpgraft("repair", "base.gguf", "--json").stdout)
    assert done["donor_why"].startswith("mtp-model.gguf")
    assert done["smoke"]["drafts"]


def test_a_checkpoint_as_the_donor(mtpgraft: InProcess, tmp_path: Path) -> None:
    done = json.loads(
        mtpgraft("repair", QWEN / "no-mtp.gguf", "-o", "out.gguf", "--donor", QWEN / "hf", "--json").stdout
    )
    assert done["smoke"]["drafts"]


def test_tensors_of_two_heads_are_never_mixed(mtpgraft: InProcess, tmp_path: Path) -> None:
    built = without(broken.shifted(broken.whole(), 0.25), "nextn.eh_proj")
    (tmp_path / "m.gguf").write_bytes(built.bytes())
    shutil.copy(QWEN / "whole.gguf", tmp_path / "whole.gguf")
    done = json.loads(mtpgraft("repair", "m.gguf", "--json").stdout)
    assert done["action"] == "graft"
    assert "whole head is replaced" in done["why"]


def test_what_needs_no_mending_and_what_cannot_be(mtpgraft: InProcess, tmp_path: Path) -> None:
    shutil.copy(QWEN / "whole.gguf", tmp_path / "good.gguf")
    assert "nothing" in mtpgraft("repair", "good.gguf").stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["good.gguf"]
    for args, says in (
        ([QWEN / "mtp.gguf"], "not a model"),
        (["good.gguf", "-o", "x.gguf", "--in-place"], "either"),
        (["nothing.gguf"], "no such file"),
    ):
        assert says in mtpgraft("repair", *args, expect=2).stderr
    broken.write(tmp_path, "orphan")
    assert "overwrite its own input" in mtpgraft("repair", "orphan.gguf", "-o", "orphan.gguf", expect=2).stderr
    (tmp_path / "out.gguf").write_text("x")
    assert "--force" in mtpgraft("repair", "orphan.gguf", "-o", "out.gguf", expect=2).stderr
    mtpgraft("repair", "orphan.gguf", "-o", "out.gguf", "--force", "--no-smoke")


@pytest.mark.parametrize("name", ["orphan", "short-array", "no-enorm"])
def test_a_mended_file_can_be_stripped(mtpgraft: InProcess, tmp_path: Path, name: str) -> None:
    broken.write(tmp_path, name)
    shutil.copy(QWEN / "whole.gguf", tmp_path / "whole.gguf")
    mtpgraft("repair", f"{name}.gguf", "-o", "out.gguf", "--no-smoke")
    mtpgraft("strip", "out.gguf", "-o", "bare.gguf")
    with open_gguf(tmp_path / "bare.gguf") as bare, open_gguf(QWEN / "no-mtp.gguf") as base:
        assert [t.name for t in bare.tensors] == [t.name for t in base.tensors]
        assert bare.count("block_count") == 2


def test_a_repair_is_proven_while_it_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its trunk is compared behind the copy, and a copy that goes wrong is not kept."""
    proven_nbytes: list[int] = []

    def spying(*given: Any, proven: tuple[Proven, ...], **more: Any) -> VerifyReport:
        proven_nbytes.extend(stretch.n_bytes for one in proven for stretch in one.stretches)
        return verify_graft(*given, proven=proven, **more)

    monkeypatch.setattr(repair_run, "verify_graft", spying)
    base, donor, out = TRAINED / "base-Q4_K_M.gguf", str(TRAINED / "donor-bf16.gguf"), tmp_path / "out.gguf"
    assert repair(base, RepairOptions(out, donor=donor, smoke=False)).report is not None
    with open_gguf(base) as model:
        assert sum(proven_nbytes) >= sum(tensor.n_bytes for tensor in model.tensors)

    monkeypatch.setattr(disk, "copy_range", flipping_copy)
    with pytest.raises(NotVerifiedError, match="every byte"):
        repair(base, RepairOptions(tmp_path / "bad.gguf", donor=donor, smoke=False))
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]
