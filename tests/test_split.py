"""Split sets: read from any shard, grafted into one file or kept split."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mtpgraft import surgery
from mtpgraft.container import open_gguf
from mtpgraft.errors import InputError, InvalidFileError
from mtpgraft.head import HeadState, find_head
from mtpgraft.plan import GraftOptions
from mtpgraft.verify import verify_graft
from tests.conftest import TINY, TRAINED, sha256
from tests.engine import load_and_draft, load_only
from tests.ggufbuild import I32, U16, Built, llama_like, set_key


def split(model: Path, folder: Path, n_shards: int) -> list[Path]:
    """Cut a file as gguf-split does: all keys and the first tensors in shard 1, then split keys and tensors alone."""
    with open_gguf(model) as opened:
        raw = model.read_bytes()
        tensors = [(t.name, t.shape, t.type_id, raw[t.offset : t.offset + t.n_bytes]) for t in opened.tensors]
        records = [bytes(key.record) for key in opened.keys]
    paths = []
    per_shard = -(-len(tensors) // n_shards)
    for number in range(n_shards):
        part = tensors[number * per_shard : (number + 1) * per_shard]
        keys = [
            ("split.no", U16, number),
            ("split.count", U16, n_shards),
            ("split.tensors.count", I32, len(tensors)),
        ]
        built = Raw([], part, records=records if number == 0 else [], split_keys=keys)
        path = folder / f"model-{number + 1:05d}-of-{n_shards:05d}.gguf"
        path.write_bytes(built.bytes())
        paths.append(path)
    return paths


class Raw(Built):
    """A file whose first keys are given as records."""

    def __init__(self, keys: list, tensors: list, *, records: list[bytes], split_keys: list) -> None:
        super().__init__(split_keys, tensors)
        self.records = records

    def header(self) -> bytes:
        import struct

        head = super().header()
        n_keys = len(self.records) + len(self.keys)
        return head[:16] + struct.pack("<Q", n_keys) + b"".join(self.records) + head[24:]


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "split"
    folder.mkdir()
    return split(TRAINED / "base-Q2_K.gguf", folder, 3)


def test_any_shard_and_the_folder_name_the_set(shards: list[Path]) -> None:
    with open_gguf(TRAINED / "base-Q2_K.gguf") as whole:
        for path in (*shards, shards[0].parent):
            with open_gguf(path) as model:
                assert [t.name for t in model.tensors] == [t.name for t in whole.tensors]
                assert len(model.shards) == 3
                assert model.architecture == "qwen35"
                assert find_head(model).state is HeadState.NONE
    assert load_only(shards[0], grammar=None).text == load_only(TRAINED / "base-Q2_K.gguf", grammar=None).text


def test_a_split_base_becomes_one_file(tmp_path: Path, shards: list[Path]) -> None:
    out, single = tmp_path / "out.gguf", tmp_path / "single.gguf"
    surgery.graft(shards[1], TRAINED / "donor-bf16.gguf", out)
    surgery.graft(TRAINED / "base-Q2_K.gguf", TRAINED / "donor-bf16.gguf", single)
    with open_gguf(out) as ours, open_gguf(single) as wanted:
        mine = [k.name for k in ours.keys if not k.name.startswith("mtpgraft.")]
        assert mine == [k.name for k in wanted.keys if not k.name.startswith("mtpgraft.")]
        assert [(t.name, t.shape, t.type_id) for t in ours.tensors] == [
            (t.name, t.shape, t.type_id) for t in wanted.tensors
        ]
    load_and_draft(out, grammar=None)
    surgery.strip(out, tmp_path / "back.gguf")
    assert sha256(tmp_path / "back.gguf") == sha256(TRAINED / "base-Q2_K.gguf")


def test_a_split_base_stays_split(tmp_path: Path, shards: list[Path]) -> None:
    out = tmp_path / "kept.gguf"
    outcome = surgery.graft(shards[0], TRAINED / "donor-bf16.gguf", out, GraftOptions(keep_split=True))
    paths = [tmp_path / f"kept-{i:05d}-of-00004.gguf" for i in range(1, 5)]
    assert [file.path for file in outcome.plan.files] == paths
    assert sorted(p.name for p in tmp_path.glob("*.gguf")) == [p.name for p in paths]
    with open_gguf(paths[3]) as model, open_gguf(shards[0]) as base, open_gguf(TRAINED / "donor-bf16.gguf") as donor:
        assert find_head(model).state is HeadState.OK
        assert [t.name for t in model.shards[3].tensors] == [t.name for t in find_head(model).tensors]
        report = verify_graft(model, base, donor)
        assert report.ok, [check for check in report.checks if not check.ok]
    load_and_draft(paths[0], grammar=None)


def test_a_split_donor(tmp_path: Path) -> None:
    folder = tmp_path / "donor"
    folder.mkdir()
    paths = split(TRAINED / "donor-bf16.gguf", folder, 4)
    out, wanted = tmp_path / "out.gguf", tmp_path / "wanted.gguf"
    surgery.graft(TRAINED / "base-Q2_K.gguf", paths[2], out)
    surgery.graft(TRAINED / "base-Q2_K.gguf", TRAINED / "donor-bf16.gguf", wanted)
    with open_gguf(out) as a, open_gguf(wanted) as b:
        assert a.text("mtpgraft.head_sha256") == b.text("mtpgraft.head_sha256")
    load_and_draft(out, grammar=None)


def test_a_first_shard_without_tensors(tmp_path: Path) -> None:
    """gguf-split --no-tensor-first-split writes one: the data section is then not padded."""
    import struct

    paths = split(TINY / "qwen35" / "no-mtp.gguf", tmp_path, 1)
    body = paths[0].read_bytes()
    paths[0].unlink()
    with open_gguf(TINY / "qwen35" / "no-mtp.gguf") as whole:
        records = [bytes(key.record) for key in whole.keys]
        n = len(whole.tensors)
    keys = [("split.no", U16, 0), ("split.count", U16, 2), ("split.tensors.count", I32, n)]
    (tmp_path / "m-00001-of-00002.gguf").write_bytes(Raw([], [], records=records, split_keys=keys).bytes())
    second = Raw([], [], records=[], split_keys=[("split.no", U16, 1), ("split.count", U16, 2), keys[2]])
    with open_gguf(TINY / "qwen35" / "no-mtp.gguf") as whole:
        raw = Path(whole.name).read_bytes()
        second.tensors = [(t.name, t.shape, t.type_id, raw[t.offset : t.offset + t.n_bytes]) for t in whole.tensors]
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(second.bytes())
    assert struct.unpack_from("<Q", body, 8)[0] == n
    out = tmp_path / "out.gguf"
    surgery.graft(
        tmp_path / "m-00002-of-00002.gguf", TINY / "qwen35" / "whole.gguf", out, GraftOptions(keep_split=True)
    )
    load_and_draft(tmp_path / "out-00001-of-00003.gguf")


def test_a_missing_shard_is_named(shards: list[Path]) -> None:
    shards[1].unlink()
    with pytest.raises(InputError, match="00002-of-00003"):
        open_gguf(shards[0])


def test_a_shard_of_another_set_is_refused(tmp_path: Path, shards: list[Path]) -> None:
    shutil.copy(shards[0], shards[2])
    with pytest.raises(InvalidFileError, match=r"split\.no"):
        open_gguf(shards[0])
    renamed = tmp_path / "renamed.gguf"
    shutil.copy(shards[1], renamed)
    with pytest.raises(InvalidFileError, match="another name"):
        open_gguf(renamed)


def test_merged_files_keep_split_count_zero(tmp_path: Path) -> None:
    """gguf-split --merge leaves `split.count` = 0."""
    path = tmp_path / "merged.gguf"
    path.write_bytes(set_key(llama_like(), "split.count", U16, 0).bytes())
    with open_gguf(path) as model:
        assert not model.is_split
