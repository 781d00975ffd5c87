"""Safetensors checkpoints whose head was lost on the way: what config.json says against what the files hold."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtpgraft.audit import AuditResult, Verdict, audit
from tests.conftest import TINY

HF = TINY / "qwen35" / "hf"


def checkpoint(
    folder: Path,
    keep: Callable[[str], bool] = lambda name: True,
    rename: Callable[[str], str] = lambda name: name,
    source: Path = HF,
    **config: object,
) -> Path:
    """A copy of a tiny checkpoint with some tensors left out or renamed, and config.json's text part changed."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = (source / "model.safetensors").read_bytes()
    (n,) = struct.unpack("<Q", raw[:8])
    data, header, out = raw[8 + n :], {}, b""
    for name, entry in json.loads(raw[8 : 8 + n]).items():
        if name != "__metadata__" and keep(name):
            start, end = entry["data_offsets"]
            header[rename(name)] = {**entry, "data_offsets": [len(out), len(out) + end - start]}
            out += data[start:end]
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + out)
    values: dict[str, Any] = json.loads((source / "config.json").read_text())
    values.get("text_config", values).update(config)
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def judged(folder: Path) -> AuditResult:
    (result,) = audit([str(folder)])
    return result


def rules_of(result: AuditResult) -> set[str]:
    return {finding.rule.id for finding in result.findings}


def no_head(name: str) -> bool:
    return "mtp" not in name


@pytest.mark.parametrize("arch", sorted(p.parent.name for p in TINY.glob("*/hf")))
def test_sound_checkpoints(arch: str) -> None:
    result = judged(TINY / arch / "hf")
    assert result.verdict in (Verdict.OK, Verdict.UNKNOWN), result
    assert result.n_head_blocks >= 1


def test_declared_and_dropped_by_saving(tmp_path: Path) -> None:
    result = judged(checkpoint(tmp_path / "m", no_head))
    assert (result.verdict, rules_of(result)) == (Verdict.DECLARED_MISSING, {"MTP080"})
    assert "mtp_num_hidden_layers: 1" in result.findings[0].evidence[0]


def test_neither_declared_nor_there(tmp_path: Path) -> None:
    result = judged(checkpoint(tmp_path / "m", no_head, mtp_num_hidden_layers=0))
    assert (result.verdict, rules_of(result)) == (Verdict.DROPPED, {"MTP085"})


def test_there_and_not_declared(tmp_path: Path) -> None:
    result = judged(checkpoint(tmp_path / "m", mtp_num_hidden_layers=0))
    assert (result.verdict, rules_of(result)) == (Verdict.ORPHAN, {"MTP081"})


@pytest.mark.parametrize("lost", ["mtp.fc.", "mtp.pre_fc_norm_hidden", "self_attn.k_proj", "mlp.up_proj"])
def test_part_of_it_is_missing(tmp_path: Path, lost: str) -> None:
    result = judged(checkpoint(tmp_path / "m", lambda name: no_head(name) or lost not in name))
    assert (result.verdict, rules_of(result)) == (Verdict.PARTIAL, {"MTP082"}), result


def test_more_declared_than_there(tmp_path: Path) -> None:
    result = judged(checkpoint(tmp_path / "m", mtp_num_hidden_layers=2))
    assert result.verdict is Verdict.PARTIAL


def test_missing_shards(tmp_path: Path) -> None:
    source = TINY / "glm4moe" / "hf"
    if not (source / "model.safetensors.index.json").exists():
        pytest.skip("that fixture has one file")
    shutil.copytree(source, tmp_path / "m")
    next(iter((tmp_path / "m").glob("model-00003*.safetensors"))).unlink()
    result = judged(tmp_path / "m")
    assert (result.verdict, rules_of(result)) == (Verdict.TRUNCATED, {"MTP083"})


PACKED = {
    "gptq": ({"quant_method": "gptq", "bits": 4}, ".qweight"),
    "awq": ({"quant_method": "awq", "bits": 4}, ".qweight"),
    "compressed-tensors": ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, ".weight_packed"),
    "modelopt": ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, ".weight_scale_2"),
    "fp8": ({"quant_method": "fp8", "fmt": "e4m3"}, None),
}


@pytest.mark.parametrize("method", PACKED)
def test_quantized_checkpoints(tmp_path: Path, method: str) -> None:
    table, suffix = PACKED[method]
    lost = judged(checkpoint(tmp_path / "lost", no_head, quantization_config=table))
    assert (lost.verdict, rules_of(lost)) == (Verdict.DECLARED_MISSING, {"MTP080", "MTP084"})
    assert method in next(f.observed for f in lost.findings if f.rule.id == "MTP084")

    def packed(name: str) -> str:
        is_matrix = "mtp" in name and "proj" in name and suffix is not None
        return name.removesuffix(".weight") + str(suffix) if is_matrix else name

    there = judged(checkpoint(tmp_path / "there", rename=packed, quantization_config=table))
    assert there.verdict is Verdict.OK, there
    assert rules_of(there) == ({"MTP084"} if suffix is None else {"MTP084", "MTP057"})


def test_architectures_without_a_head(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", no_head, mtp_num_hidden_layers=0)
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["LlamaForCausalLM"]
    config.pop("text_config", None)
    (folder / "config.json").write_text(json.dumps(config))
    assert judged(folder).verdict is Verdict.NOT_MTP


def test_bad_checkpoints(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "cut")
    raw = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(raw[:-100])
    assert judged(folder).verdict is Verdict.TRUNCATED
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"[]")
    assert judged(folder).verdict is Verdict.CORRUPT
    (folder / "config.json").write_text("{")
    assert judged(folder).verdict is Verdict.CORRUPT
