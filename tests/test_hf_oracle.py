"""Heads from Hugging Face checkpoints equal what llama.cpp's own converter makes of them, byte for byte.

fixtures/tiny/*/head-types.json and tests/data/hf_oracle.json hold hashes of the converter's output.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtpgraft.container import GGUFModel, open_gguf
from mtpgraft.container.checkpoint import Checkpoint, open_checkpoint
from mtpgraft.errors import InputError, InvalidFileError, MtpgraftError, RefusedError
from mtpgraft.head import HeadState, find_head
from mtpgraft.hf import find_checkpoint_head, plan_extract_checkpoint, refuse_sidecar, verify_extract_checkpoint
from mtpgraft.hf.layout import all_layouts
from mtpgraft.plan import GraftOptions, plan_graft
from mtpgraft.recipe import Beside, Picked, Plus, Rows, Scaled, Stacked, Stored, Times, Transposed, encoded
from mtpgraft.write import write_plan
from tests.conftest import ROOT, TINY, TRAINED
from tests.hf_variants import VARIANTS, Entry, Variant, build_variant, floats, stream, write_safetensors

Json = dict[str, object]
TYPES = ("f32", "bf16", "q8_0")
MANIFEST: Json = json.loads((TINY / "manifest.json").read_text(encoding="utf-8"))["models"]
REFUSED = ("deepseek4",)  # sidecar only, by llama.cpp's own design
CONVERTED = tuple(name for name in MANIFEST if name not in REFUSED)
ORACLE: Json = json.loads((ROOT / "tests" / "data" / "hf_oracle.json").read_text(encoding="utf-8"))


@cache
def converters(model: str, name: str) -> Path:
    """A GGUF that the converter wrote, for the models whose fixture has it."""
    return TINY / model / f"{name}.gguf"


def has(model: str, name: str) -> bool:
    return converters(model, name).is_file()


def extract(checkpoint: Checkpoint, out: Path, wanted: str = "keep") -> Path:
    write_plan(plan_extract_checkpoint(checkpoint, out, wanted)).publish()
    return out


def summary(model: GGUFModel) -> dict[str, Json]:
    """The form of the converter's recorded results: type, GGUF-order shape and sha256 per tensor."""
    return {
        tensor.name: {
            "type": tensor.type.name,
            "shape": list(tensor.shape),
            "sha256": hashlib.sha256(model.source_of(tensor).read_at(tensor.offset, tensor.n_bytes)).hexdigest(),
        }
        for tensor in model.tensors
    }


@pytest.mark.parametrize("wanted", TYPES)
@pytest.mark.parametrize("name", CONVERTED)
def test_tiny_checkpoints(name: str, wanted: str, tmp_path: Path) -> None:
    recorded = json.loads((TINY / name / "head-types.json").read_text(encoding="utf-8"))
    with (
        open_checkpoint(TINY / name / "hf") as checkpoint,
        open_gguf(extract(checkpoint, tmp_path / "x.gguf", wanted)) as out,
        open_gguf(converters(name, "mtp" if has(name, "mtp") else "whole")) as theirs,
    ):
        if wanted not in recorded:  # the converter's files themselves are at BF16
            assert wanted == "bf16"
            whole = summary(theirs)
            recorded[wanted] = {tensor.name: whole[tensor.name] for tensor in find_head(theirs).tensors}
        assert summary(out) == recorded[wanted]
        assert find_head(out).state is HeadState.HEAD_FILE, find_head(out).problems


@pytest.mark.parametrize("name", CONVERTED)
def test_stored_type_keys_and_verification(name: str, tmp_path: Path) -> None:
    """At the stored type the result equals the converter's file; so does every key that it has of the architecture."""
    reference = "mtp" if has(name, "mtp") else "whole"
    with (
        open_checkpoint(TINY / name / "hf") as checkpoint,
        open_gguf(extract(checkpoint, tmp_path / "x.gguf")) as out,
        open_gguf(converters(name, reference)) as theirs,
    ):
        head = find_head(theirs)
        mine, wanted = summary(out), summary(theirs)
        assert mine == {tensor.name: wanted[tensor.name] for tensor in head.tensors}
        own = [key for key in out.keys if key.name.startswith(f"{out.architecture}.")]
        assert len(own) >= 5
        for key in own:
            other = theirs.key(key.name)
            assert other is not None and bytes(other.record) == bytes(key.record), key.name
        report = verify_extract_checkpoint(out, checkpoint)
        assert report.ok, report.checks
        assert report.head_nbytes == sum(tensor.n_bytes for tensor in out.tensors)


@pytest.mark.parametrize("name", [name for name in CONVERTED if has(name, "no-mtp")])
def test_grafted_head_gives_the_whole_model(name: str, tmp_path: Path) -> None:
    """Checkpoint -> head file -> graft onto the converter's --no-mtp base: every tensor of its whole conversion."""
    with (
        open_checkpoint(TINY / name / "hf") as checkpoint,
        open_gguf(extract(checkpoint, tmp_path / "head.gguf")) as donor,
        open_gguf(converters(name, "no-mtp")) as base,
        open_gguf(converters(name, "whole")) as whole,
    ):
        options = GraftOptions(wanted_type="keep")
        plan = plan_graft(base, find_head(base), donor, find_head(donor), tmp_path / "out.gguf", options)
        write_plan(plan).publish()
        with open_gguf(tmp_path / "out.gguf") as out:
            assert {t: v for t, v in summary(whole).items() if t in summary(out)} == summary(out)
            assert out.count("block_count") == base.count("block_count") + len(find_head(out).blocks)  # type: ignore[operator]
            for key in whole.keys:
                if key.is_array and key.name.startswith(f"{whole.architecture}.") and len(find_head(whole).blocks) == 1:
                    mine = out.key(key.name)
                    assert mine is not None and mine.items() == key.items(), key.name


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.name in ORACLE], ids=lambda v: v.name)
def test_stored_as_f16_f32_and_fp8(variant: Variant, tmp_path: Path) -> None:
    build_variant(variant, TINY, tmp_path / "hf")
    recorded = ORACLE[variant.name]
    assert isinstance(recorded, dict)
    with open_checkpoint(tmp_path / "hf") as checkpoint:
        for wanted in TYPES:
            with open_gguf(extract(checkpoint, tmp_path / f"{wanted}.gguf", wanted)) as out:
                assert summary(out) == recorded[wanted]
        stored = {row.from_type for row in plan_extract_checkpoint(checkpoint, tmp_path / "k.gguf").head}
        kept = {row.to_type for row in plan_extract_checkpoint(checkpoint, tmp_path / "k.gguf").head}
        assert kept == ({"F32", "BF16"} if "F8_E4M3" in stored else {"F32"} | stored)


def test_every_variant_has_an_oracle() -> None:
    assert set(ORACLE) == {variant.name for variant in VARIANTS}


def test_trained_checkpoint(tmp_path: Path) -> None:
    """The trained fixture: BF16 equals the converter's donor file, F32 and Q8_0 what gguf-py makes of that."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import quantize

    with open_checkpoint(TRAINED / "hf") as checkpoint, open_gguf(TRAINED / "donor-bf16.gguf") as donor:
        want = {tensor.name: summary(donor)[tensor.name] for tensor in find_head(donor).tensors}
        for wanted in ("keep", "bf16", "f32", "q8_0"):
            with open_gguf(extract(checkpoint, tmp_path / f"{wanted}.gguf", wanted)) as out:
                if wanted in ("keep", "bf16"):
                    assert summary(out) == want
                    continue
                for tensor in out.tensors:
                    theirs = donor.tensor_by_name[tensor.name]
                    raw = donor.source_of(theirs).read_at(theirs.offset, theirs.n_bytes)
                    if theirs.type.name == "F32":
                        values = np.frombuffer(raw, "<f4")
                    else:
                        values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
                    matrix = values.reshape(theirs.shape[::-1])
                    kind = "F32" if theirs.type.name == "F32" or wanted == "f32" else "Q8_0"
                    encoded_there = quantize(matrix, GGMLQuantizationType[kind]).tobytes()
                    assert out.source_of(tensor).read_at(tensor.offset, tensor.n_bytes) == encoded_there, tensor.name


def test_every_architecture_with_a_fixture_has_a_layout() -> None:
    named = {name for layout in all_layouts() for name in layout.hf_architectures}
    assert len(named) == sum(len(layout.hf_architectures) for layout in all_layouts())
    arches = {layout.arch for layout in all_layouts()}
    assert {str(MANIFEST[name]["arch"]) for name in CONVERTED} == arches  # type: ignore[index]


@pytest.mark.parametrize("name", [name for name in REFUSED if name in MANIFEST])
def test_architectures_that_are_refused(name: str, tmp_path: Path) -> None:
    with open_checkpoint(TINY / name / "hf") as checkpoint, pytest.raises(RefusedError) as caught:
        plan_extract_checkpoint(checkpoint, tmp_path / "x.gguf")
    assert "convert_hf_to_gguf.py --mtp" in str(caught.value.hint)


def test_verification_finds_one_changed_byte(tmp_path: Path) -> None:
    with open_checkpoint(TINY / "qwen35moe" / "hf") as checkpoint:
        path = extract(checkpoint, tmp_path / "x.gguf", "q8_0")
        with open_gguf(path) as out:
            tensor = out.tensor_by_name["blk.2.ffn_up_exps.weight"]
        data = bytearray(path.read_bytes())
        data[tensor.offset + tensor.n_bytes - 1] ^= 1
        path.write_bytes(data)
        with open_gguf(path) as out:
            report = verify_extract_checkpoint(out, checkpoint)
        bad = {check.name: check.detail for check in report.checks if not check.ok}
        assert bad == {"head tensors equal the checkpoint's": tensor.name, "head digest as recorded": ""}


def test_keys_carry_no_path(tmp_path: Path) -> None:
    with open_checkpoint(TINY / "qwen35" / "hf") as checkpoint:
        head = extract(checkpoint, tmp_path / "x.gguf")
        assert str(TINY).encode() not in head.read_bytes()
        with open_gguf(head) as out:
            assert out.text("mtpgraft.donor") == out.text("general.name") == "qwen35"


# What cannot be converted is refused by name.


def copied(source: Path, out: Path, change: dict[str, Entry | None], config: Json | None = None) -> Path:
    """A checkpoint with tensors added, replaced or (None) left out, and config keys overridden."""
    out.mkdir()
    with open_checkpoint(source) as checkpoint:
        tensors: dict[str, Entry] = {}
        for name in checkpoint.file_of:
            t = checkpoint.tensor(name)
            tensors[name] = (t.dtype, t.shape, t.source.read_at(t.offset, t.n_bytes))
        for name, entry in change.items():
            tensors.pop(name, None)
            if entry is not None:
                tensors[name] = entry
        merged = {**checkpoint.config, **(config or {})}
        if isinstance(merged.get("text_config"), dict) and "text_config" not in (config or {}):
            merged["text_config"] = {**merged["text_config"], **(config or {})}  # type: ignore[dict-item]
        (out / "config.json").write_text(json.dumps(merged))
    write_safetensors(out / "model.safetensors", tensors)
    return out


def refusal(path: Path, error: type[MtpgraftError]) -> MtpgraftError:
    with open_checkpoint(path) as checkpoint, pytest.raises(error) as caught:
        plan_extract_checkpoint(checkpoint, path / "x.gguf")
    return caught.value


Q_PROJ = "mtp.layers.0.self_attn.q_proj.weight"
QWEN = TINY / "qwen35" / "hf"
MOE = TINY / "qwen3next" / "hf"


def weights(dtype: str, *shape: int) -> Entry:
    n_bytes = {"I32": 4, "BF16": 2, "F32": 4, "U8": 1, "F8_E4M3": 1}[dtype] * int(np.prod(shape))
    return dtype, shape, stream("w", n_bytes).tobytes()


@pytest.mark.parametrize(
    ("suffix", "method"),
    [(".qweight", "gptq"), (".qweight", "awq"), (".weight_packed", "compressed-tensors")],
)
def test_packed_integers(tmp_path: Path, suffix: str, method: str) -> None:
    packed = Q_PROJ.removesuffix(".weight") + suffix
    change = {Q_PROJ: None, packed: weights("I32", 4, 64)}
    config: Json = {"quantization_config": {"quant_method": method}}
    error = refusal(copied(QWEN, tmp_path / "hf", change, config), RefusedError)
    assert method in error.what and error.where == f"tensor {packed}" and "original repository" in str(error.hint)


@pytest.mark.parametrize("dtype", ["U8", "I32"])
def test_integers_where_numbers_belong(tmp_path: Path, dtype: str) -> None:
    error = refusal(copied(QWEN, tmp_path / "hf", {Q_PROJ: weights(dtype, 64, 32)}), RefusedError)
    assert error.found == dtype


def test_fp8_without_its_scale(tmp_path: Path) -> None:
    error = refusal(copied(QWEN, tmp_path / "hf", {Q_PROJ: weights("F8_E4M3", 64, 32)}), RefusedError)
    assert "without its scale" in error.what


@pytest.mark.parametrize("shape", [(3, 2), (64,), (2,), (4, 2, 1)])
def test_fp8_with_a_scale_that_does_not_fit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    change = {Q_PROJ: weights("F8_E4M3", 64, 32), f"{Q_PROJ}_scale_inv": weights("F32", *shape)}
    config: Json = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [16, 16]}}
    error = refusal(copied(QWEN, tmp_path / "hf", change, config), InvalidFileError)
    assert "scales do not fit" in error.what


@pytest.mark.parametrize("size", [[0, 16], [16], "16", [16, -1], [16, None]])
def test_hostile_block_size(tmp_path: Path, size: object) -> None:
    change = {Q_PROJ: weights("F8_E4M3", 64, 32), f"{Q_PROJ}_scale_inv": weights("F32", 4, 2)}
    config: Json = {"quantization_config": {"quant_method": "fp8", "weight_block_size": size}}
    refusal(copied(QWEN, tmp_path / "hf", change, config), InvalidFileError)


def test_finetune_that_lost_its_head(tmp_path: Path) -> None:
    with open_checkpoint(QWEN) as checkpoint:
        lost = dict.fromkeys(name for name in checkpoint.file_of if name.startswith("mtp."))
    error = refusal(copied(QWEN, tmp_path / "hf", dict(lost)), RefusedError)
    assert "no MTP head" in error.what and "1 head blocks" in str(error.expected) and "finetunes" in str(error.hint)


def test_head_blocks_that_are_missing(tmp_path: Path) -> None:
    error = refusal(copied(QWEN, tmp_path / "hf", {}, {"mtp_num_hidden_layers": 2}), RefusedError)
    assert "not whole" in error.what


def test_required_tensor_that_is_missing_is_seen_in_the_result(tmp_path: Path) -> None:
    """A head without one of its tensors converts, and is not a whole head: verification says which."""
    with (
        open_checkpoint(copied(QWEN, tmp_path / "hf", {Q_PROJ: None})) as checkpoint,
        open_gguf(extract(checkpoint, tmp_path / "x.gguf")) as out,
    ):
        report = verify_extract_checkpoint(out, checkpoint)
    assert not report.ok and "attn_q" in report.checks[1].detail


@pytest.mark.parametrize("number", [0, 1])
def test_expert_that_is_missing(tmp_path: Path, number: int) -> None:
    name = f"mtp.layers.0.mlp.experts.{number}.up_proj.weight"
    error = refusal(copied(MOE, tmp_path / "hf", {name: None}), InvalidFileError)
    assert "experts" in error.what and "2 experts" in str(error.expected)


def test_expert_of_another_shape(tmp_path: Path) -> None:
    change = {"mtp.layers.0.mlp.experts.1.up_proj.weight": weights("BF16", 16, 32)}
    assert "differs" in refusal(copied(MOE, tmp_path / "hf", change), InvalidFileError).what


def test_tensor_that_no_table_knows(tmp_path: Path) -> None:
    change = {"mtp.layers.0.novelty.weight": weights("BF16", 4, 4)}
    error = refusal(copied(QWEN, tmp_path / "hf", change), RefusedError)
    assert error.where == "tensor mtp.layers.0.novelty.weight" and "convert_hf_to_gguf.py" in str(error.hint)


def test_rotary_frequencies_are_left_out(tmp_path: Path) -> None:
    change = {"mtp.layers.0.self_attn.rotary_emb.inv_freq": weights("F32", 4)}
    with open_checkpoint(copied(QWEN, tmp_path / "hf", change)) as checkpoint:
        assert len(find_checkpoint_head(checkpoint).parts) == 15


@pytest.mark.parametrize(
    ("architectures", "text"),
    [
        (["LlamaForCausalLM"], "does not know"),
        ([], "does not know"),
        (None, "does not know"),
        ("text", "does not know"),
        (["DeepseekV4ForCausalLM"], "sidecar"),
        (["DeepseekV3ForCausalLM"], "leaves the head"),
    ],
)
def test_architectures_without_a_layout(tmp_path: Path, architectures: object, text: str) -> None:
    error = refusal(copied(QWEN, tmp_path / "hf", {}, {"architectures": architectures}), RefusedError)
    assert text in error.what


@pytest.mark.parametrize("value", [-1, True, "2", 1.5, 2**40, [2], None])
def test_hostile_counts_in_the_config(tmp_path: Path, value: object) -> None:
    refusal(copied(QWEN, tmp_path / "hf", {}, {"num_hidden_layers": value}), InvalidFileError)


def test_config_nested_in_text_config(tmp_path: Path) -> None:
    """Multimodal models: text_config, and `language_model.` in the names; the head is the same."""
    with open_checkpoint(MOE) as checkpoint:
        config = dict(checkpoint.config)
        assert "text_config" not in config
        expected = {part.name for part in find_checkpoint_head(checkpoint).parts}
    moved: Json = {"architectures": ["Qwen3NextForCausalLM"], "text_config": config}
    path = copied(MOE, tmp_path / "hf", {}, {**dict.fromkeys(config), **moved})
    with open_checkpoint(path) as checkpoint:
        assert {part.name for part in find_checkpoint_head(checkpoint).parts} == expected
        names = {name: name.replace("mtp.", "model.language_model.mtp.", 1) for name in checkpoint.file_of}
        tensors: dict[str, Entry] = {}
        for old, new in names.items():
            t = checkpoint.tensor(old)
            tensors[new] = (t.dtype, t.shape, t.source.read_at(t.offset, t.n_bytes))
    write_safetensors(path / "model.safetensors", tensors)
    with open_checkpoint(path) as checkpoint:
        assert {part.name for part in find_checkpoint_head(checkpoint).parts} == expected


def test_sidecar_is_refused_with_the_way_out() -> None:
    with open_checkpoint(QWEN) as checkpoint:
        assert "graft" in str(refuse_sidecar(checkpoint).hint)


def test_rows_that_do_not_fill_q8_0_blocks_become_f16(tmp_path: Path) -> None:
    """As the converter falls back (QuantError in prepare_tensors)."""
    change = {"mtp.layers.0.mlp.down_proj.weight": weights("BF16", 32, 40)}
    with open_checkpoint(copied(QWEN, tmp_path / "hf", change)) as checkpoint:
        plan = plan_extract_checkpoint(checkpoint, tmp_path / "x.gguf", "q8_0")
    assert {row.name: row.to_type for row in plan.head}["blk.2.ffn_down.weight"] == "F16"
    assert any("becomes F16" in warning for warning in plan.warnings)


def test_truncated_shard_names_itself(tmp_path: Path) -> None:
    path = copied(QWEN, tmp_path / "hf", {})
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError):
        open_checkpoint(path)


# Recipes: any range of rows is the same as that range of the whole.


class Memory:
    """A source in memory that counts how much is asked for at once."""

    def __init__(self, data: bytes) -> None:
        self.data, self.name, self.largest = data, "memory", 0

    @property
    def size(self) -> int:
        return len(self.data)

    def read_at(self, offset: int, n_bytes: int) -> bytes:
        self.largest = max(self.largest, n_bytes)
        return self.data[offset : offset + n_bytes]

    def close(self) -> None:
        pass


def stored(n_rows: int, row: int, seed: int = 0, dtype: str = "F32") -> Stored:
    values = np.random.default_rng(seed).normal(size=(n_rows, row)).astype(np.float32)
    data = values.tobytes() if dtype == "F32" else values.astype(np.float16).tobytes()
    return Stored(Memory(data), "t", 0, dtype, n_rows, row)


RECIPES: dict[str, Rows] = {
    "stored": stored(12, 5),
    "f16": stored(12, 5, dtype="F16"),
    "plus": Plus(stored(12, 5), 1.0),
    "times": Times(stored(12, 5), 3.0),
    "stacked": Stacked((stored(4, 5), stored(1, 5, 1), stored(7, 5, 2))),
    "beside": Beside((stored(12, 2), stored(12, 3, 1))),
    "half": Picked(stored(24, 5), 8, (4, 5, 6, 7)),
    "permuted": Picked(stored(12, 5), 6, (0, 3, 1, 4, 2, 5)),
    "transposed": Transposed(stored(15, 4), 5),
    "transposed half": Transposed(Picked(stored(24, 3), 6, (0, 1, 2)), 3),
    "scaled": Scaled(stored(12, 5), stored(6, 3, 1), 6, 2, 2),
}


@pytest.mark.parametrize("name", RECIPES)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_any_range_of_rows(name: str, data: st.DataObject) -> None:
    rows = RECIPES[name]
    first = data.draw(st.integers(0, rows.n_rows - 1))
    n = data.draw(st.integers(1, rows.n_rows - first))
    whole = rows.read(0, rows.n_rows)
    assert whole.shape == (rows.n_rows, rows.row) and whole.dtype == np.float32
    assert np.array_equal(rows.read(first, n), whole[first : first + n])


def test_what_the_nodes_mean() -> None:
    a = stored(6, 4).read(0, 6)
    assert np.array_equal(Transposed(stored(6, 4), 3).read(0, 8), np.concatenate([a[:3].T, a[3:].T]))
    assert np.array_equal(Picked(stored(6, 4), 3, (2, 0)).read(0, 4), a[[2, 0, 5, 3]])
    scales = stored(2, 2, 1)
    scaled = Scaled(stored(6, 4), scales, 3, 3, 2).read(0, 6)
    assert np.array_equal(scaled, a * np.repeat(np.repeat(scales.read(0, 2), 3, 0), 2, 1))
    half = Plus(stored(2, 4, dtype="F16"), 1.0)
    assert np.array_equal(half.read(0, 2), half.read(0, 2).astype(np.float16).astype(np.float32))


def test_memory_stays_bounded() -> None:
    """64 M of 'experts' are read in pieces of a few MB, never whole."""
    source = Memory(bytes(2 * 2**20))
    expert = Stored(source, "t", 0, "BF16", 1024, 1024)
    pieces = [len(chunk) for chunk in encoded(Stacked((expert,) * 32), 8, n_threads=2)]
    assert sum(pieces) == 32 * 1024 * 1024 // 32 * 34
    assert source.largest <= 2**21 and max(pieces) <= 2**21


def test_fp8_values() -> None:
    """Landmarks of the OCP table, and torch's own where it is installed."""
    codes = np.array([0x00, 0x80, 0x01, 0x08, 0x38, 0x7E, 0xFE, 0x7F], np.uint8)
    values = Stored(Memory(codes.tobytes()), "t", 0, "F8_E4M3", 1, 8).read(0, 1)[0]
    assert values[:7].tolist() == [0.0, -0.0, 2.0**-9, 2.0**-6, 1.0, 448.0, -448.0] and np.isnan(values[7])
    codes = np.array([0x01, 0x3C, 0x7B, 0x7C, 0xFC, 0x7D], np.uint8)
    values = Stored(Memory(codes.tobytes()), "t", 0, "F8_E5M2", 1, 6).read(0, 1)[0]
    assert values[:5].tolist() == [2.0**-16, 1.0, 57344.0, np.inf, -np.inf] and np.isnan(values[5])


def test_bf16_and_f32_are_read_exactly() -> None:
    with open_checkpoint(QWEN) as checkpoint:
        tensor = checkpoint.tensor(Q_PROJ)
        rows = Stored(tensor.source, tensor.name, tensor.offset, tensor.dtype, *tensor.shape)
        assert np.array_equal(rows.read(0, rows.n_rows), floats(tensor))
