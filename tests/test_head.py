"""Finding and judging heads: what is declared against what is present, on files made for each case."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtpgraft import surgery
from mtpgraft.container import open_gguf
from mtpgraft.errors import InvalidFileError, RefusedError
from mtpgraft.head import Head, HeadState, find_head, n_runnable_blocks
from mtpgraft.plan import GraftOptions
from tests.conftest import TINY, TRAINED
from tests.engine import load_and_draft, refusal
from tests.ggufbuild import ARR, BOOL, STR, U32, Built, f32_tensor, llama_like, set_key, unknown_arch_donor


def judged(tmp_path: Path, built: Built) -> Head:
    path = tmp_path / "m.gguf"
    path.write_bytes(built.bytes())
    with open_gguf(path) as model:
        return find_head(model)


def from_file(path: Path) -> Built:
    """A real file as something to break: its keys as records, its tensors as bytes."""
    raw = path.read_bytes()
    with open_gguf(path) as model:
        keys = []
        for key in model.keys:
            if key.item_type is None:
                keys.append((key.name, int(key.type), key.scalar()))
            else:
                keys.append((key.name, ARR, (int(key.item_type), key.items())))
        tensors = [(t.name, t.shape, t.type_id, raw[t.offset : t.offset + t.n_bytes]) for t in model.tensors]
    return Built(keys, tensors)


@pytest.fixture
def whole() -> Built:
    return from_file(TINY / "qwen35" / "whole.gguf")


def without(built: Built, part: str) -> Built:
    built.tensors = [t for t in built.tensors if part not in t[0]]
    return built


def test_a_model_without_a_head(tmp_path: Path) -> None:
    head = judged(tmp_path, llama_like())
    assert (head.state, head.n_trunk, head.declared) == (HeadState.NONE, 2, None)


def test_declared_but_missing_is_mended_by_a_graft(tmp_path: Path, whole: Built) -> None:
    broken = without(whole, "blk.2.")
    assert judged(tmp_path, broken).state is HeadState.DECLARED_MISSING
    path, out = tmp_path / "broken.gguf", tmp_path / "out.gguf"
    path.write_bytes(broken.bytes())
    surgery.graft(path, TINY / "qwen35" / "whole.gguf", out)
    with open_gguf(out) as model:
        assert find_head(model).state is HeadState.OK
        assert model.count("block_count") == 3
    load_and_draft(out)
    surgery.strip(out, tmp_path / "back.gguf")
    assert (tmp_path / "back.gguf").read_bytes() == path.read_bytes()


def test_declared_without_raising_block_count_is_mended_too(tmp_path: Path) -> None:
    base = from_file(TINY / "qwen35" / "no-mtp.gguf")
    set_key(base, "qwen35.nextn_predict_layers", U32, 1)
    head = judged(tmp_path, base)
    assert (head.state, head.n_trunk) == (HeadState.DECLARED_MISSING, 2)
    assert "not raised" in head.problems[0]
    path, out = tmp_path / "broken.gguf", tmp_path / "out.gguf"
    path.write_bytes(base.bytes())
    surgery.graft(path, TINY / "qwen35" / "whole.gguf", out)
    load_and_draft(out)


def test_an_orphan_head_is_seen_and_can_still_be_taken_out(tmp_path: Path, whole: Built) -> None:
    whole.keys = [k for k in whole.keys if k[0] != "qwen35.nextn_predict_layers"]
    assert judged(tmp_path, whole).state is HeadState.ORPHAN
    path, head = tmp_path / "orphan.gguf", tmp_path / "head.gguf"
    path.write_bytes(whole.bytes())
    assert refusal(path)
    surgery.extract(path, head)
    surgery.graft(TINY / "qwen35" / "no-mtp.gguf", head, tmp_path / "out.gguf")
    load_and_draft(tmp_path / "out.gguf")


@pytest.mark.parametrize("lost", ["nextn.eh_proj", "nextn.enorm", "blk.2.attn_k.", "blk.2.ffn_down", "blk.2.attn_norm"])
def test_a_partial_head_names_what_is_missing(tmp_path: Path, whole: Built, lost: str) -> None:
    head = judged(tmp_path, without(whole, lost))
    assert head.state is HeadState.PARTIAL
    assert any(lost.removeprefix("blk.2.").rstrip(".") in problem for problem in head.problems)
    path = tmp_path / "m.gguf"
    with pytest.raises(RefusedError, match="not whole"):
        surgery.extract(path, tmp_path / "head.gguf")
    assert refusal(path, n_max=1), "llama.cpp drafts with it: the row asks for too much"


@pytest.mark.parametrize("lost", ["nextn.shared_head_norm"])
def test_optional_tensors_may_be_absent(tmp_path: Path, whole: Built, lost: str) -> None:
    path = tmp_path / "m.gguf"
    assert judged(tmp_path, without(whole, lost)).state is HeadState.OK
    load_and_draft(path)


def test_a_wrong_shape_is_partial(tmp_path: Path, whole: Built) -> None:
    whole.tensors = [
        (n, (s[1], s[0]), k, d) if n.endswith("eh_proj.weight") else (n, s, k, d) for n, s, k, d in whole.tensors
    ]
    head = judged(tmp_path, whole)
    assert head.state is HeadState.PARTIAL
    assert "shape" in head.problems[0]
    assert any("wrong shape" in line for line in refusal(tmp_path / "m.gguf"))


def test_a_graft_without_the_array_is_refused_by_llama_cpp_and_never_made(tmp_path: Path, whole: Built) -> None:
    set_key(whole, "qwen35.attention.recurrent_layers", ARR, (BOOL, [True, False]))
    (tmp_path / "m.gguf").write_bytes(whole.bytes())
    assert any("wrong array length" in line for line in refusal(tmp_path / "m.gguf"))
    base = from_file(TINY / "qwen35" / "no-mtp.gguf")
    set_key(base, "qwen35.attention.recurrent_layers", ARR, (BOOL, [True] * 7))
    (tmp_path / "odd.gguf").write_bytes(base.bytes())
    with pytest.raises(RefusedError, match="fits neither"):
        surgery.graft(tmp_path / "odd.gguf", TINY / "qwen35" / "whole.gguf", tmp_path / "out.gguf")


def test_graniteswitch_is_no_mtp(tmp_path: Path) -> None:
    built = set_key(llama_like("graniteswitch"), "graniteswitch.nextn_predict_layers", U32, 1)
    assert judged(tmp_path, built).state is HeadState.NOT_MTP


@pytest.mark.parametrize("arch", ["deepseek4", "graniteswitch", "gemma4-assistant"])
def test_bases_that_cannot_take_a_head_are_refused_with_the_reason(tmp_path: Path, arch: str) -> None:
    base, donor = tmp_path / "base.gguf", tmp_path / "donor.gguf"
    base.write_bytes(llama_like(arch).bytes())
    built = unknown_arch_donor()
    built.keys = [(n.replace("newarch", arch), k, arch if v == "newarch" else v) for n, k, v in built.keys]
    donor.write_bytes(built.bytes())
    with pytest.raises(RefusedError, match=arch):
        surgery.graft(base, donor, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_an_unknown_architecture_works_with_a_warning(tmp_path: Path) -> None:
    """llama.cpp cannot load one either, so this one is judged by bytes alone."""
    donor, base, out = tmp_path / "donor.gguf", tmp_path / "base.gguf", tmp_path / "out.gguf"
    whole = unknown_arch_donor(n_head=2)
    set_key(whole, "newarch.attention.head_count", ARR, (U32, [4, 4, 8, 9]))
    set_key(whole, "newarch.rope.sections", ARR, (U32, [1, 2, 3]))
    donor.write_bytes(whole.bytes())
    trunk = llama_like("newarch")
    set_key(trunk, "newarch.attention.head_count", ARR, (U32, [4, 4]))
    set_key(trunk, "newarch.rope.sections", ARR, (U32, [1, 2, 3]))
    base.write_bytes(trunk.bytes())
    outcome = surgery.graft(base, donor, out, GraftOptions("keep"))
    assert any("newarch" in text for text in outcome.plan.warnings)
    with open_gguf(out) as model:
        head = find_head(model)
        assert (head.state, len(head.blocks), n_runnable_blocks(head)) == (HeadState.OK, 2, 2)
        assert model.hparam("attention.head_count").items() == [4, 4, 8, 9]  # type: ignore[union-attr]
        assert model.hparam("rope.sections").items() == [1, 2, 3]  # type: ignore[union-attr]
    surgery.strip(out, tmp_path / "back.gguf")
    assert (tmp_path / "back.gguf").read_bytes() == base.read_bytes()


def test_head_blocks_are_renumbered_to_the_bases_depth(tmp_path: Path) -> None:
    donor, base, out = tmp_path / "donor.gguf", tmp_path / "base.gguf", tmp_path / "out.gguf"
    donor.write_bytes(unknown_arch_donor(n_trunk=5, n_head=2).bytes())
    base.write_bytes(llama_like("newarch", n_trunk=3).bytes())
    surgery.graft(base, donor, out, GraftOptions("keep"))
    with open_gguf(out) as model, open_gguf(donor) as theirs:
        assert [block.index for block in find_head(model).blocks] == [3, 4]
        for ours, wanted in ((3, 5), (4, 6)):
            a = model.tensor_by_name[f"blk.{ours}.attn_q.weight"]
            b = theirs.tensor_by_name[f"blk.{wanted}.attn_q.weight"]
            assert out.read_bytes()[a.offset :][: a.n_bytes] == donor.read_bytes()[b.offset :][: b.n_bytes]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("wanted", ["q8_0", "keep"])
def test_byte_orders_mix(tmp_path: Path, order: str, wanted: str) -> None:
    other = ">" if order == "<" else "<"
    donor, same, base = tmp_path / "donor.gguf", tmp_path / "same.gguf", tmp_path / "base.gguf"
    donor.write_bytes(unknown_arch_donor(order=other).bytes())
    same.write_bytes(unknown_arch_donor(order=order).bytes())
    base.write_bytes(llama_like("newarch", order=order).bytes())
    surgery.graft(base, donor, tmp_path / "a.gguf", GraftOptions(wanted))
    surgery.graft(base, same, tmp_path / "b.gguf", GraftOptions(wanted))
    a, b = (tmp_path / "a.gguf").read_bytes(), (tmp_path / "b.gguf").read_bytes()
    key = "mtpgraft.donor"
    assert len(a) - len(b) in range(-64, 65)
    with open_gguf(tmp_path / "a.gguf") as one, open_gguf(tmp_path / "b.gguf") as two:
        assert one.byte_order == order
        assert one.text("mtpgraft.head_sha256") == two.text("mtpgraft.head_sha256")
        assert one.text(key) != two.text(key)
    surgery.strip(tmp_path / "a.gguf", tmp_path / "back.gguf")
    assert (tmp_path / "back.gguf").read_bytes() == base.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("newarch.embedding_length", U32, 32), "width"),
        (("general.architecture", STR, "other"), "architecture"),
        (("newarch.attention.head_count", U32, 7), "head_count"),
        (("tokenizer.ggml.tokens", ARR, (STR, ["a"] * 9)), "vocabulary"),
    ],
)
def test_a_donor_that_does_not_fit_is_refused(tmp_path: Path, change: tuple[str, int, object], message: str) -> None:
    donor, base = tmp_path / "donor.gguf", tmp_path / "base.gguf"
    donor.write_bytes(set_key(unknown_arch_donor(), "newarch.attention.head_count", U32, 8).bytes())
    built = set_key(set_key(llama_like("newarch"), "newarch.attention.head_count", U32, 8), *change)
    if message == "architecture":
        built.keys = [(n.replace("newarch", "other"), k, v) for n, k, v in built.keys]
    base.write_bytes(built.bytes())
    with pytest.raises(RefusedError, match=message):
        surgery.graft(base, donor, tmp_path / "out.gguf")
    if message in ("head_count", "vocabulary"):
        outcome = surgery.graft(base, donor, tmp_path / "out.gguf", GraftOptions(allow_mismatch=True))
        assert any(message in text for text in outcome.plan.warnings)


def test_another_models_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError):
        surgery.graft(TRAINED / "base-Q2_K.gguf", TINY / "qwen35" / "whole.gguf", tmp_path / "out.gguf")
    with pytest.raises(RefusedError, match="architecture"):
        surgery.graft(TRAINED / "base-Q2_K.gguf", TINY / "glm4moe" / "whole.gguf", tmp_path / "out.gguf")
    with pytest.raises(RefusedError, match="not a base"):
        surgery.extract(TRAINED / "donor-bf16.gguf", tmp_path / "head.gguf")
        surgery.graft(tmp_path / "head.gguf", TRAINED / "donor-bf16.gguf", tmp_path / "out.gguf")


def test_a_base_with_gaps_gives_a_file_without(tmp_path: Path) -> None:
    base = from_file(TINY / "qwen35" / "no-mtp.gguf")
    base.gap = 64
    (tmp_path / "gaps.gguf").write_bytes(base.bytes())
    assert any("expected" in line for line in refusal(tmp_path / "gaps.gguf"))
    outcome = surgery.graft(tmp_path / "gaps.gguf", TINY / "qwen35" / "whole.gguf", tmp_path / "out.gguf")
    assert any("gaps" in text for text in outcome.plan.warnings)
    load_and_draft(tmp_path / "out.gguf")


@pytest.mark.parametrize("alignment", [32, 64, 256])
@pytest.mark.parametrize("pad_end", [True, False])
def test_any_alignment_and_an_unpadded_end_come_back(tmp_path: Path, alignment: int, pad_end: bool) -> None:
    base = from_file(TINY / "qwen35" / "no-mtp.gguf")
    base.alignment, base.pad_end = alignment, pad_end
    base.tensors.append(base.tensors.pop(0))
    small = [t for t in base.tensors if len(t[3]) % 32]
    base.tensors = [t for t in base.tensors if t not in small] + small
    if alignment != 32:
        set_key(base, "general.alignment", U32, alignment)
    path, out, back = tmp_path / "base.gguf", tmp_path / "out.gguf", tmp_path / "back.gguf"
    path.write_bytes(base.bytes())
    surgery.graft(path, TINY / "qwen35" / "whole.gguf", out)
    with open_gguf(out) as model:
        assert model.alignment == alignment
        assert all(t.offset % alignment == 0 for t in model.tensors)
    load_and_draft(out)
    surgery.strip(out, back)
    assert back.read_bytes() == path.read_bytes()


def test_unusable_keys(tmp_path: Path) -> None:
    for change in (("qwen35.block_count", U32, 2**31), ("qwen35.block_count", STR, "four")):
        with pytest.raises(InvalidFileError, match="count"):
            judged(tmp_path, set_key(llama_like(), *change))
    bare = Built([("general.architecture", STR, "clip")], [f32_tensor("v.blk.0.a", (4,))])
    with pytest.raises(InvalidFileError, match="block count"):
        judged(tmp_path, bare)
    with pytest.raises(InvalidFileError, match="architecture"):
        judged(tmp_path, Built([("a", U32, 1)], []))
    assert judged(tmp_path, set_key(llama_like(), "qwen35.nextn_predict_layers", U32, 99)).problems
