"""extract, graft, strip and verify on the trained model: the whole operation, judged by bytes and by llama.cpp."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from mtpgraft import surgery
from mtpgraft.container import open_gguf
from mtpgraft.errors import InputError, RefusedError, TransientError
from mtpgraft.head import HeadState, find_head
from mtpgraft.plan import GraftOptions
from mtpgraft.repair import RepairOptions, repair
from mtpgraft.surgery import RunOptions
from mtpgraft.verify import verify_graft
from mtpgraft.write import disk, linux
from tests.conftest import TRAINED, sha256
from tests.engine import load_and_draft, load_only

BASES = ("Q4_K_M", "Q3_K_M", "Q2_K", "IQ4_XS")
DONOR = TRAINED / "donor-bf16.gguf"
PLAIN = {"grammar": None, "n_predict": 24}


@pytest.fixture(scope="module")
def head_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("head") / "head.gguf"
    surgery.extract(DONOR, path)
    return path


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sidecar") / "mtp.gguf"
    surgery.extract(DONOR, path, "sidecar", "q8_0")
    return path


@pytest.mark.parametrize("quant", BASES)
@pytest.mark.parametrize("donor", ["head file", "sidecar", "full model"])
def test_a_graft_drafts_and_strips_back_to_the_base(
    tmp_path: Path, head_file: Path, sidecar: Path, quant: str, donor: str
) -> None:
    base, out, back = TRAINED / f"base-{quant}.gguf", tmp_path / "out.gguf", tmp_path / "back.gguf"
    before = sha256(base)
    source = {"head file": head_file, "sidecar": sidecar, "full model": DONOR}[donor]
    outcome = surgery.graft(base, source, out)
    assert outcome.report is not None
    assert outcome.report.ok
    assert outcome.report.trunk_nbytes > 10 * outcome.report.head_nbytes / 100
    with open_gguf(out) as result, open_gguf(base) as original:
        head = find_head(result)
        assert head.state is HeadState.OK
        assert set(head.types) == {"Q8_0", "F32"}
        raw, old = out.read_bytes(), base.read_bytes()
        for tensor in original.tensors:
            ours = result.tensor_by_name[tensor.name]
            assert raw[ours.offset :][: ours.n_bytes] == old[tensor.offset :][: tensor.n_bytes]
        kept = [
            k for k in original.keys if k.name.startswith(("tokenizer.", "general.", "qwen35.rope", "qwen35.context"))
        ]
        assert kept
        assert all(bytes(result.key(k.name).record) == bytes(k.record) for k in kept)  # type: ignore[union-attr]
    surgery.strip(out, back)
    assert sha256(back) == before == sha256(base)
    drafted = load_and_draft(out, n_max=2, grammar=None, n_predict=24)
    assert drafted.text == load_only(base, grammar=None, n_predict=24).text


def test_the_same_head_has_the_same_digest_wherever_it_is(tmp_path: Path, head_file: Path) -> None:
    digests = set()
    kept = tmp_path / "kept.gguf"
    surgery.graft(TRAINED / "base-Q2_K.gguf", head_file, kept, GraftOptions("keep"))
    side = tmp_path / "side.gguf"
    surgery.extract(kept, side, "sidecar")
    load_and_draft(kept, grammar=None)
    load_and_draft(TRAINED / "base-Q4_K_M.gguf", side, grammar=None)
    for path in (head_file, kept, side):
        with open_gguf(path) as model:
            digests.add(model.text("mtpgraft.head_sha256"))
    assert len(digests) == 1
    assert None not in digests


def test_a_whole_conversion_strips_to_a_base_that_runs(tmp_path: Path) -> None:
    out = tmp_path / "stripped.gguf"
    surgery.strip(DONOR, out)
    with open_gguf(out) as model:
        assert find_head(model).state is HeadState.NONE
        assert model.hparam("nextn_predict_layers") is None
    assert load_only(out, **PLAIN).text == load_only(DONOR, **PLAIN).text


def test_a_sidecar_drafts_for_every_base(sidecar: Path) -> None:
    with open_gguf(sidecar) as model:
        assert find_head(model).state is HeadState.SIDECAR
    for quant in BASES:
        load_and_draft(TRAINED / f"base-{quant}.gguf", sidecar, n_max=2, grammar=None)


@pytest.mark.parametrize("wanted", ["bf16", "f16", "f32", "q8_0", "q4_0", "keep"])
def test_a_head_of_any_type_drafts(tmp_path: Path, wanted: str) -> None:
    head, out = tmp_path / "head.gguf", tmp_path / "out.gguf"
    surgery.extract(DONOR, head, wanted_type=wanted)
    outcome = surgery.graft(TRAINED / "base-Q3_K_M.gguf", head, out, GraftOptions("keep"))
    assert {row.to_type for row in outcome.plan.head} == {"F32", "BF16" if wanted == "keep" else wanted.upper()}
    load_and_draft(out, grammar=None)


def test_lower_types_are_kept_with_a_warning(tmp_path: Path) -> None:
    head = tmp_path / "head.gguf"
    surgery.extract(DONOR, head, wanted_type="q4_0")
    outcome = surgery.graft(TRAINED / "base-Q2_K.gguf", head, tmp_path / "out.gguf")
    assert {row.to_type for row in outcome.plan.head} == {"F32", "Q4_0"}
    assert any("Q4_0" in text and "stays" in text for text in outcome.plan.warnings)
    load_and_draft(tmp_path / "out.gguf", grammar=None)


def test_a_base_with_a_head_is_refused_unless_replace(tmp_path: Path, head_file: Path) -> None:
    once, twice, back = tmp_path / "once.gguf", tmp_path / "twice.gguf", tmp_path / "back.gguf"
    low = tmp_path / "low.gguf"
    surgery.extract(DONOR, low, wanted_type="q4_0")
    base = TRAINED / "base-Q2_K.gguf"
    surgery.graft(base, low, once)
    with pytest.raises(RefusedError, match="already"):
        surgery.graft(once, head_file, twice)
    surgery.graft(once, head_file, twice, GraftOptions(replace=True))
    with open_gguf(twice) as model:
        assert set(find_head(model).types) == {"Q8_0", "F32"}
    load_and_draft(twice, grammar=None)
    surgery.strip(twice, back)
    assert sha256(back) == sha256(base)


def test_in_place_replaces_the_base_and_gives_it_back(tmp_path: Path, head_file: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes((TRAINED / "base-Q2_K.gguf").read_bytes())
    surgery.graft(model, head_file, model, run=RunOptions(in_place=True))
    load_and_draft(model, grammar=None)
    surgery.strip(model, model, run=RunOptions(in_place=True))
    assert sha256(model) == sha256(TRAINED / "base-Q2_K.gguf")
    assert [p.name for p in tmp_path.iterdir()] == ["model.gguf"]


def test_inputs_and_existing_files_are_safe(tmp_path: Path, head_file: Path) -> None:
    base = tmp_path / "base.gguf"
    base.write_bytes((TRAINED / "base-Q2_K.gguf").read_bytes())
    for target in (base, base.with_name("link.gguf")):
        if target != base:
            target.symlink_to(base)
        with pytest.raises(RefusedError, match="own input"):
            surgery.graft(base, head_file, target, run=RunOptions(overwrite=True))
    other = tmp_path / "other.gguf"
    other.write_text("precious")
    with pytest.raises(RefusedError, match="exists"):
        surgery.graft(base, head_file, other)
    assert other.read_text() == "precious"
    with pytest.raises(InputError, match="folder"):
        surgery.graft(base, head_file, tmp_path / "no" / "out.gguf")
    assert sha256(base) == sha256(TRAINED / "base-Q2_K.gguf")


def test_a_dry_run_writes_nothing(tmp_path: Path, head_file: Path) -> None:
    outcome = surgery.graft(TRAINED / "base-Q2_K.gguf", head_file, tmp_path / "out.gguf", run=RunOptions(dry_run=True))
    assert outcome.report is None
    assert list(tmp_path.iterdir()) == []
    planned = outcome.plan.files[0].header().file_nbytes
    surgery.graft(TRAINED / "base-Q2_K.gguf", head_file, tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").stat().st_size == planned


def test_a_file_that_shrinks_while_it_is_copied_leaves_nothing(tmp_path: Path, head_file: Path) -> None:
    base, out = tmp_path / "base.gguf", tmp_path / "out.gguf"
    base.write_bytes((TRAINED / "base-Q2_K.gguf").read_bytes())

    def shrink(plan: object) -> None:
        with base.open("r+b") as file:
            file.truncate(base.stat().st_size - 1000)

    with pytest.raises(InputError, match="ends inside"):
        surgery.graft(base, head_file, out, run=RunOptions(on_plan=shrink))
    assert [p.name for p in tmp_path.iterdir()] == ["base.gguf"]


def test_no_room_is_said_before_anything_is_written(
    tmp_path: Path, head_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(TransientError, match="not enough room"):
        surgery.graft(TRAINED / "base-Q2_K.gguf", head_file, tmp_path / "out.gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("operation", ["graft", "strip", "repair"])
def test_where_open_files_cannot_be_replaced(
    tmp_path: Path, head_file: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """As on Windows: no data moves inside a file, and a file that is open keeps its name."""
    model = tmp_path / "model.gguf"
    if operation == "strip":
        surgery.graft(TRAINED / "base-Q2_K.gguf", head_file, model)
    else:
        shutil.copyfile(TRAINED / "base-Q2_K.gguf", model)
    rename = disk.rename

    def rename_as_windows_does(old: Path, new: Path) -> None:
        held = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        assert str(new) not in held and str(old) not in held
        rename(old, new)

    monkeypatch.setattr(linux, "IS_LINUX", False)
    monkeypatch.setattr(surgery, "_REPLACES_OPEN_FILES", False)
    monkeypatch.setattr(disk, "rename", rename_as_windows_does)
    if operation == "graft":
        surgery.graft(model, head_file, model, run=RunOptions(in_place=True))
    elif operation == "strip":
        surgery.strip(model, model, run=RunOptions(in_place=True))
    else:
        repair(model, RepairOptions(donor=head_file, in_place=True, smoke=False))
    with open_gguf(model) as result:
        assert bool(find_head(result).blocks) == (operation != "strip")


def test_only_files_are_written_over(tmp_path: Path, head_file: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(tmp_path / "nowhere")
    for force in (False, True):
        with pytest.raises(RefusedError, match="is not a regular file"):
            surgery.graft(TRAINED / "base-Q2_K.gguf", head_file, pipe, run=RunOptions(overwrite=force))
    with pytest.raises(RefusedError, match="exists already"):
        surgery.graft(TRAINED / "base-Q2_K.gguf", head_file, link)
    assert pipe.is_fifo() and link.is_symlink()


def damage(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0x40
    path.write_bytes(bytes(raw))


def test_verify_sees_one_flipped_bit_anywhere(tmp_path: Path, head_file: Path) -> None:
    base, out = TRAINED / "base-Q2_K.gguf", tmp_path / "out.gguf"
    surgery.graft(base, head_file, out)
    good = out.read_bytes()
    with open_gguf(out) as model:
        head = find_head(model)
        trunk = [t for t in model.tensors if t not in head.tensors]
        places = {
            "every byte": [trunk[0].offset, trunk[-1].offset + trunk[-1].n_bytes - 1],
            "head": [head.tensors[0].offset, head.tensors[-1].offset + head.tensors[-1].n_bytes - 1],
            "keys": [good.index(b"general.name") + len(b"general.name") + 12],
        }
    for what, offsets in places.items():
        for at in offsets:
            out.write_bytes(good)
            damage(out, at)
            with open_gguf(out) as result, open_gguf(base) as original, open_gguf(DONOR) as donor:
                report = verify_graft(result, original, donor)
            assert not report.ok, (what, at)
            assert any(what in check.name and not check.ok for check in report.checks)
    out.write_bytes(good)
    with open_gguf(out) as result, open_gguf(base) as original, open_gguf(DONOR) as donor:
        assert verify_graft(result, original, donor).ok
    with open_gguf(out) as result, open_gguf(TRAINED / "base-Q3_K_M.gguf") as other:
        assert not verify_graft(result, other).ok


def test_a_failing_disk_is_not_called_a_difference(
    tmp_path: Path, head_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mtpgraft import quantize

    base, out = TRAINED / "base-Q2_K.gguf", tmp_path / "out.gguf"
    surgery.graft(base, head_file, out)

    def fails(*_: object) -> bytes:
        raise TransientError("reading failed", file="disk")

    monkeypatch.setattr(quantize, "read_exactly_into", fails)
    with (
        open_gguf(out) as result,
        open_gguf(base) as original,
        open_gguf(DONOR) as donor,
        pytest.raises(TransientError, match="reading failed"),
    ):
        verify_graft(result, original, donor)
