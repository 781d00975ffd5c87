"""Our files in gguf-py: its reader opens them, and a community-style graft script works with our head file as donor."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFValueType, GGUFWriter

from mtpgraft import surgery
from mtpgraft.container import open_gguf
from mtpgraft.head import find_head
from mtpgraft.plan import GraftOptions
from tests.conftest import TRAINED
from tests.engine import load_and_draft
from tests.test_oracle import tensors


def community_graft(base_path: Path, donor_path: Path, out_path: Path) -> None:
    """What the graft scripts on the Hub do: copy the base with GGUFReader and GGUFWriter, append `blk.<n>.*`.

    They look for the donor's tensors at the base's own block_count and for `<arch>.nextn_predict_layers`.
    """
    base, donor = GGUFReader(base_path), GGUFReader(donor_path)
    arch = base.fields["general.architecture"].contents()
    n_trunk = base.fields[f"{arch}.block_count"].contents()
    nextn = donor.fields[f"{arch}.nextn_predict_layers"].contents()
    head = [tensor for tensor in donor.tensors if re.match(rf"blk\.{n_trunk}\.", tensor.name)]
    assert head, "no donor tensors at the base's block_count"
    writer = GGUFWriter(out_path, arch)
    for name, field in base.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = field.contents()
        kind = field.types[0]
        if name == f"{arch}.block_count":
            value += nextn
        if kind == GGUFValueType.ARRAY:
            if isinstance(value, list) and name.endswith("recurrent_layers"):
                value = [*value, *[False] * nextn]
            writer.add_key_value(name, value, kind, sub_type=field.types[-1])
        else:
            writer.add_key_value(name, value, kind)
    writer.add_uint32(f"{arch}.nextn_predict_layers", nextn)
    for tensor in [*base.tensors, *head]:
        writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("kind", ["donor", "sidecar"])
def test_a_community_graft_script_takes_our_head_file(tmp_path: Path, kind: str) -> None:
    head, out = tmp_path / "head.gguf", tmp_path / "out.gguf"
    base = TRAINED / "base-Q2_K.gguf"
    surgery.extract(TRAINED / "donor-bf16.gguf", head, kind)
    community_graft(base, head, out)
    ours = tmp_path / "ours.gguf"
    surgery.graft(base, head, ours, GraftOptions("keep"))
    with open_gguf(out) as theirs, open_gguf(ours) as mine:
        assert tensors(theirs) == tensors(mine)
    assert load_and_draft(out, grammar=None).text == load_and_draft(ours, grammar=None).text


def test_gguf_py_reads_what_we_write(tmp_path: Path) -> None:
    head, side, out = tmp_path / "head.gguf", tmp_path / "side.gguf", tmp_path / "out.gguf"
    surgery.extract(TRAINED / "donor-bf16.gguf", head)
    surgery.extract(TRAINED / "donor-bf16.gguf", side, "sidecar", "q8_0")
    surgery.graft(TRAINED / "base-IQ4_XS.gguf", head, out)
    for path in (head, side, out):
        reader = GGUFReader(path)
        with open_gguf(path) as model:
            assert [t.name for t in reader.tensors] == [t.name for t in model.tensors]
            for theirs, mine in zip(reader.tensors, model.tensors, strict=True):
                assert tuple(theirs.shape.tolist()) == mine.shape
                assert (int(theirs.tensor_type), theirs.n_bytes, theirs.data_offset) == (
                    mine.type_id,
                    mine.n_bytes,
                    mine.offset,
                )
            for key in model.keys:
                contents = reader.fields[key.name].contents()
                assert contents == (key.items() if key.is_array else key.scalar()), key.name


def test_a_head_file_is_small_and_says_where_it_is_from(tmp_path: Path) -> None:
    head = tmp_path / "head.gguf"
    surgery.extract(TRAINED / "donor-bf16.gguf", head)
    with open_gguf(head) as model, open_gguf(TRAINED / "donor-bf16.gguf") as donor:
        assert {t.name for t in model.tensors} == {t.name for t in find_head(donor).tensors}
        assert not [k for k in model.keys if k.name.startswith("tokenizer.")]
        assert model.size < find_head(donor).n_bytes + 20_000
        for name in ("embedding_length", "block_count", "nextn_predict_layers", "attention.recurrent_layers"):
            ours, theirs = model.hparam(name), donor.hparam(name)
            assert ours is not None
            assert theirs is not None
            assert bytes(ours.record) == bytes(theirs.record)
        assert "donor-bf16.gguf" in (model.text("mtpgraft.donor") or "")
        assert str(tmp_path) not in (model.text("mtpgraft.donor") or "")
