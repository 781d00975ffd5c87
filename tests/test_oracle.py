"""llama.cpp's own converter as the oracle, for every architecture it could convert (fixtures/tiny).

Each model was converted three times: whole, --no-mtp, --mtp. Grafting the second with the head of the first must give
the first; stripping the first must give the second; our sidecar of the first must be the third. And each result must
draft in llama.cpp, where a graph runs the head at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from mtpgraft import surgery
from mtpgraft.container import GGUFModel, open_gguf
from mtpgraft.errors import RefusedError
from mtpgraft.head import HeadState, find_head
from mtpgraft.plan import GraftOptions
from tests.conftest import TINY, TRAINED
from tests.engine import load_and_draft, load_only

MODELS: dict[str, dict[str, object]] = json.loads((TINY / "manifest.json").read_text())["models"]
# the converter counts parameters in size_label; nothing reads it
IGNORED_KEYS = {"general.size_label"}


def having(*roles: str) -> list[str]:
    return [name for name in MODELS if all((TINY / name / f"{role}.gguf").exists() for role in roles)]


def tensors(model: GGUFModel) -> dict[str, tuple[tuple[int, ...], int, str]]:
    found = {}
    for tensor in model.tensors:
        data = model.source_of(tensor).read_at(tensor.offset, tensor.n_bytes)
        found[tensor.name] = (tensor.shape, tensor.type_id, hashlib.sha256(data).hexdigest())
    return found


def keys(model: GGUFModel) -> dict[str, bytes]:
    """Key records, without what says nothing about the head. A head count of 0 is the same as none."""
    nextn = model.hparam("nextn_predict_layers")
    empty = {nextn.name} if nextn is not None and nextn.scalar() == 0 else set()
    return {
        key.name: bytes(key.record)
        for key in model.keys
        if not key.name.startswith("mtpgraft.") and key.name not in IGNORED_KEYS | empty
    }


def assert_same(ours: Path, theirs: Path, *, also_ignoring: Iterable[str] = ()) -> None:
    with open_gguf(ours) as a, open_gguf(theirs) as b:
        assert tensors(a) == tensors(b)
        mine, wanted = keys(a), keys(b)
        for name in also_ignoring:
            mine.pop(name, None), wanted.pop(name, None)
        assert mine == wanted


def runs(name: str) -> bool:
    return bool(MODELS[name].get("drafts_in_embedded"))


def test_the_oracle_is_there() -> None:
    assert len(having("whole", "no-mtp")) >= 5


@pytest.mark.parametrize("name", having("whole", "no-mtp"))
def test_grafting_the_trunk_gives_the_whole(name: str, tmp_path: Path) -> None:
    whole, base = TINY / name / "whole.gguf", TINY / name / "no-mtp.gguf"
    head, out = tmp_path / "head.gguf", tmp_path / "out.gguf"
    surgery.extract(whole, head)
    surgery.graft(base, head, out, GraftOptions("keep"))
    assert_same(out, whole)
    if runs(name):
        assert load_and_draft(out).text == load_and_draft(whole).text
    q8 = tmp_path / "q8.gguf"
    surgery.graft(base, whole, q8)
    with open_gguf(q8) as model:
        assert find_head(model).state is HeadState.OK
    if runs(name):
        load_and_draft(q8)
    surgery.strip(out, tmp_path / "back.gguf")
    assert (tmp_path / "back.gguf").read_bytes() == base.read_bytes()


@pytest.mark.parametrize("name", having("whole", "no-mtp"))
def test_stripping_the_whole_gives_the_trunk(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    surgery.strip(TINY / name / "whole.gguf", out)
    assert_same(out, TINY / name / "no-mtp.gguf")
    if runs(name):
        assert load_only(out).text == load_only(TINY / name / "no-mtp.gguf").text


@pytest.mark.parametrize("name", having("whole", "mtp"))
def test_our_sidecar_is_the_converters(name: str, tmp_path: Path) -> None:
    out = tmp_path / "mtp.gguf"
    with open_gguf(TINY / name / "whole.gguf") as model:
        spec = find_head(model).spec
    if spec is not None and not spec.sidecar:  # the converter writes one that llama.cpp cannot load
        with pytest.raises(RefusedError, match="sidecar"):
            surgery.extract(TINY / name / "whole.gguf", out, "sidecar")
        return
    surgery.extract(TINY / name / "whole.gguf", out, "sidecar")
    assert_same(out, TINY / name / "mtp.gguf")
    if runs(name) and (TINY / name / "no-mtp.gguf").exists():
        load_and_draft(TINY / name / "no-mtp.gguf", out)


@pytest.mark.parametrize("name", having("whole"))
def test_every_whole_conversion_has_a_whole_head(name: str) -> None:
    with open_gguf(TINY / name / "whole.gguf") as model:
        head = find_head(model)
        assert head.state is HeadState.OK, head.problems
        assert head.spec is not None
        assert head.types


def test_the_trained_model_too(tmp_path: Path) -> None:
    """The converter quantized this one: our sidecar at Q8_0 must be its own, byte for byte."""
    out = tmp_path / "mtp.gguf"
    surgery.extract(TRAINED / "donor-bf16.gguf", out, "sidecar", "q8_0")
    assert_same(out, TRAINED / "mtp-q8_0.gguf", also_ignoring=["general.file_type"])
