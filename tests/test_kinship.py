"""Kinship by trunk norms: the same model in every quant, a finetune, another model, and what is not known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtpgraft.container import GGUFModel, ValueType, open_gguf
from mtpgraft.container.checkpoint import open_checkpoint
from mtpgraft.container.encode import make_array, make_key
from mtpgraft.errors import InvalidFileError
from mtpgraft.head import find_head
from mtpgraft.hf import checkpoint_fingerprint, plan_extract_checkpoint
from mtpgraft.kinship import (
    N_BLOCKS,
    NAMES_KEY,
    NORMS_KEY,
    Fingerprint,
    Kinship,
    NormSample,
    Verdict,
    compare,
    encode_fingerprint,
    fingerprint,
    fingerprint_keys,
    kinship,
    sampled_blocks,
)
from mtpgraft.plan import plan_extract
from mtpgraft.write import write_plan
from tests.conftest import ROOT, TINY, TRAINED

MANIFEST = json.loads((TINY / "manifest.json").read_text(encoding="utf-8"))["models"]
QUANTS = sorted(path.name for path in TRAINED.glob("base-*.gguf") if "-of-" not in path.name)
CALIBRATION = json.loads((ROOT / "tests" / "data" / "kinship_norms.json").read_text(encoding="utf-8"))


def norms(**values: list[float]) -> Fingerprint:
    return Fingerprint(tuple(NormSample(name, tuple(v)) for name, v in values.items()), None, None)


def random_norm(seed: int, scale: float = 0.1, n: int = 64) -> list[float]:
    values: list[float] = (1 + scale * np.random.default_rng(seed).normal(size=n)).astype(np.float32).tolist()
    return values


@pytest.mark.parametrize("name", QUANTS)
def test_every_quant_of_a_model_is_the_same_model(name: str) -> None:
    with open_gguf(TRAINED / name) as base, open_gguf(TRAINED / "donor-bf16.gguf") as donor:
        found = kinship(base, donor)
    assert found.verdict is Verdict.SAME and found.distance == 0.0 and found.n_equal == found.n_values
    assert found.n_norms == 5 and found.same_tokens is True and found.same_vocabulary_size is True


def test_head_files_carry_their_fingerprint(tmp_path: Path) -> None:
    """From the checkpoint, and from a GGUF with the keys that `extract` adds."""
    with (
        open_gguf(TRAINED / QUANTS[0]) as base,
        open_gguf(TRAINED / "donor-bf16.gguf") as donor,
        open_checkpoint(TRAINED / "hf") as checkpoint,
    ):
        write_plan(plan_extract_checkpoint(checkpoint, tmp_path / "a.gguf")).publish()
        plan = plan_extract(donor, find_head(donor), tmp_path / "b.gguf")
        own = {key.name for key in plan.files[0].keys}
        keys = (*plan.files[0].keys, *(key for key in fingerprint_keys(donor) if key.name not in own))
        write_plan(replace(plan, files=(replace(plan.files[0], keys=keys),))).publish()
        for name, same_tokens in (("a.gguf", None), ("b.gguf", True)):
            with open_gguf(tmp_path / name) as head:
                found = kinship(base, head)
                assert (found.verdict, found.same_tokens) == (Verdict.SAME, same_tokens)
                assert found.same_vocabulary_size is True
                assert fingerprint(head).norms == fingerprint(donor).norms


@pytest.mark.parametrize("name", [name for name in MANIFEST if name != "deepseek4"])
def test_checkpoint_and_its_gguf_have_one_fingerprint(name: str) -> None:
    """+1 and names as the converter has them, in every architecture; the vocabulary's size too."""
    with open_checkpoint(TINY / name / "hf") as checkpoint, open_gguf(TINY / name / "whole.gguf") as model:
        ours, theirs = checkpoint_fingerprint(checkpoint), fingerprint(model)
        assert len(ours.norms) >= 2
        assert ours.norms == theirs.norms and ours.n_tokens == theirs.n_tokens
        assert kinship(model, ours).verdict is Verdict.SAME


def test_another_model_of_the_same_shapes() -> None:
    with open_gguf(TINY / "qwen35" / "whole.gguf") as base, open_gguf(TINY / "qwen35-tied" / "whole.gguf") as donor:
        found = kinship(base, donor)
    assert found.verdict is Verdict.DIFFERENT and found.distance is not None and found.distance > 1
    assert "different models" in found.explanation


def calibrated(name: str) -> Fingerprint:
    return norms(**CALIBRATION["models"][name]["norms"])


@pytest.mark.parametrize("name", [name for name in CALIBRATION["models"] if name != "base"])
def test_trained_models(name: str) -> None:
    """Finetunes and an independent training run, as recorded (how they were made is in the file)."""
    found = compare(calibrated("base"), calibrated(name))
    assert found.verdict is Verdict(CALIBRATION["models"][name]["verdict"]), found.explanation
    assert found.distance == pytest.approx(CALIBRATION["models"][name]["distance"], abs=1e-3)


def test_rounding_to_bf16_is_no_difference() -> None:
    """One side converted from F32 weights, the other from their BF16 copy, zero-centred or not."""
    exact = np.array(random_norm(1), np.float32)
    as_is = _round(exact)
    centred = _round(exact - 1) + np.float32(1)
    for other in (as_is, centred):
        assert compare(norms(a=exact.tolist()), norms(a=other.tolist())).verdict is Verdict.SAME


def _round(values: np.ndarray) -> np.ndarray:
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def test_one_step_of_bf16_is_a_difference() -> None:
    values = np.array(random_norm(2), np.float32)
    values = _round(values)
    moved = values.copy()
    moved[3] += np.float32(2**-7)
    found = compare(norms(a=values.tolist()), norms(a=moved.tolist()))
    assert found.verdict is Verdict.CLOSE and found.n_equal == 63 and "finetune" in found.explanation


def test_norms_without_the_plus_one_are_told_apart() -> None:
    values = np.array(random_norm(3), np.float32)
    found = compare(norms(a=values.tolist()), norms(a=(values - 1).tolist()))
    assert found.verdict is Verdict.DIFFERENT and "shifted by" in found.explanation


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_values(bad: float) -> None:
    values = random_norm(4)
    found = compare(norms(a=values), norms(a=[bad, *values[1:]]))
    assert found.verdict is Verdict.DIFFERENT


def test_norms_that_were_never_trained() -> None:
    ones = [1.0] * 64
    assert compare(norms(a=ones), norms(a=ones)).verdict is Verdict.SAME
    assert compare(norms(a=ones), norms(a=[2.0] * 64)).verdict is Verdict.DIFFERENT


@pytest.mark.parametrize(
    ("ours", "theirs", "text"),
    [
        (norms(a=[1.0]), norms(), "no fingerprint"),
        (norms(), norms(a=[1.0]), "the base has no trunk norms"),
        (norms(a=[1.0]), norms(b=[1.0]), "in common"),
        (norms(a=[1.0]), norms(a=[1.0, 2.0]), "in common"),
    ],
)
def test_unknown(ours: Fingerprint, theirs: Fingerprint, text: str) -> None:
    found: Kinship = compare(ours, theirs)
    assert found.verdict is Verdict.UNKNOWN and text in found.explanation and found.distance is None


def test_converters_sidecar_has_no_fingerprint() -> None:
    with open_gguf(TINY / "qwen35" / "no-mtp.gguf") as base, open_gguf(TINY / "qwen35" / "mtp.gguf") as sidecar:
        found = kinship(base, sidecar)
    assert found.verdict is Verdict.UNKNOWN and found.same_tokens is True


def test_tokenizers_are_compared() -> None:
    same, other = Fingerprint((), "a" * 64, 100), Fingerprint((), "b" * 64, 101)
    assert compare(same, same).same_tokens is True
    found = compare(same, other)
    assert (found.same_tokens, found.same_vocabulary_size, found.n_tokens) == (False, False, (100, 101))
    assert compare(same, replace(other, tokens_sha256=None)).same_tokens is None


@pytest.mark.parametrize("n", [0, 1, 2, N_BLOCKS, N_BLOCKS + 1, 48, 64, 93])
def test_sampled_blocks(n: int) -> None:
    blocks = sampled_blocks(n)
    assert len(blocks) == len(set(blocks)) == min(n, N_BLOCKS) and list(blocks) == sorted(blocks)
    assert not n or (blocks[0], blocks[-1]) == (0, n - 1)


class Counting:
    """A source that counts what is read of it."""

    def __init__(self, inner: object) -> None:
        self.inner, self.n_bytes = inner, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def read_at(self, offset: int, n_bytes: int) -> bytes:
        self.n_bytes += n_bytes
        data: bytes = self.inner.read_at(offset, n_bytes)  # type: ignore[attr-defined]
        return data


def test_a_few_kilobytes_are_read() -> None:
    with open_gguf(TRAINED / "donor-bf16.gguf") as donor, open_gguf(TRAINED / QUANTS[0]) as base:
        counted = Counting(donor.shards[0].source)
        remote = GGUFModel((replace(donor.shards[0], source=counted),))  # type: ignore[arg-type]
        assert kinship(base, remote).verdict is Verdict.SAME
        assert 0 < counted.n_bytes <= (N_BLOCKS + 1) * 256


def test_fingerprint_keys_are_small_and_come_back() -> None:
    found = norms(**{f"blk.{i}.attn_norm.weight": random_norm(i) for i in range(N_BLOCKS + 1)})
    keys = encode_fingerprint(found, "<")
    assert sum(len(key.record) for key in keys) < 6000
    assert encode_fingerprint(Fingerprint((), None, None), "<") == ()


@pytest.mark.parametrize("n_values", [1, 3, 0])
def test_stored_fingerprint_that_does_not_fit(n_values: int) -> None:
    with open_gguf(TINY / "qwen35" / "mtp.gguf") as sidecar:
        shard = sidecar.shards[0]
        names = make_array(NAMES_KEY, ValueType.STRING, ["a", "b"], "<")
        values = make_array(NORMS_KEY, ValueType.FLOAT32, [1.0] * n_values, "<")
        bad = GGUFModel((replace(shard, keys=(*shard.keys, names, values)),))
        with pytest.raises(InvalidFileError, match="names beside it"):
            fingerprint(bad)
        odd = make_key(NORMS_KEY, ValueType.STRING, "x", "<")
        with pytest.raises(InvalidFileError, match="names beside it"):
            fingerprint(GGUFModel((replace(shard, keys=(*shard.keys, names, odd)),)))
