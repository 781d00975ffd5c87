"""Judges a safetensors checkpoint: what config.json says against what the index or header holds."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from mtpgraft.arch import ArchSpec, spec_for
from mtpgraft.arch.shipping import Ships, shipping_of
from mtpgraft.arch.spec import Need
from mtpgraft.audit import rules
from mtpgraft.audit.build import finding
from mtpgraft.audit.values import AuditResult, Finding, Verdict, overall
from mtpgraft.container.checkpoint import Checkpoint, checkpoint_from_files
from mtpgraft.errors import InputError, InvalidFileError, RefusedError, TruncatedError
from mtpgraft.hf.config import HfConfig
from mtpgraft.hf.head import find_checkpoint_head
from mtpgraft.hf.layout import REFUSED, layout_for
from mtpgraft.jsontext import Json
from mtpgraft.source.base import Source
from mtpgraft.source.local import LocalFile, folder_entries

_DECLARING_KEYS = ("mtp_num_hidden_layers", "num_nextn_predict_layers")
_HEAD_PREFIXES = ("mtp.", "model.mtp.", "model.mtp_layers.")
_MAX_EVIDENCE = 6


@dataclass(frozen=True, slots=True)
class _Head:
    """The head tensors of an index, as named there. n_blocks: None where the names do not number them."""

    names: tuple[str, ...]
    n_blocks: int


def audit_folder(folder: Path, label: str) -> AuditResult:
    """The result for a checkpoint in a local folder. Raises MtpgraftError for what cannot be read."""
    sizes = {entry.name: entry.stat().st_size for entry in folder_entries(folder) if entry.is_file()}
    return audit_files(label, sizes, lambda name: LocalFile.open(folder / name))


def audit_files(label: str, sizes: dict[str, int], open_file: Callable[[str], Source]) -> AuditResult:
    """The result for a checkpoint of these files and sizes, local or not. Only headers are read."""
    weights = [name for name in sizes if name.endswith(".safetensors")]
    n_bytes = sum(sizes[name] for name in weights)
    try:
        checkpoint = checkpoint_from_files(label, sizes, open_file)
    except InputError as error:
        if isinstance(error, InvalidFileError | TruncatedError) or "shards are missing" not in error.what:
            raise
        gone = finding(rules.CKPT_SHARDS, label, "every shard of the index", error.what, (error.where or "",))
        return AuditResult(label, Verdict.TRUNCATED, findings=(gone,), n_bytes=n_bytes)
    with checkpoint:
        return _judge(checkpoint, label, n_bytes)


def _judge(checkpoint: Checkpoint, label: str, n_bytes: int) -> AuditResult:
    config = HfConfig.of(checkpoint.name, checkpoint.config)
    layout = layout_for(list(config.architectures))
    found: list[Finding] = []
    quantized = _quantization(config)
    if quantized:
        keys = ("config.json quantization_config",)
        found.append(finding(rules.CKPT_QUANTIZED, label, "plain weights", quantized, keys))
    if layout is None:
        reason = next((REFUSED[name] for name in config.architectures if name in REFUSED), None)
        seen = ", ".join(config.architectures) or "no architectures entry"
        head = head_names(checkpoint, config)
        if not config.declared and not head.names:
            found.append(finding(rules.NO_HEAD_ARCH, label, "an architecture with a head", seen, ("config.json",)))
            return _result(label, Verdict.NOT_MTP, None, head, found, n_bytes)
        found += _presence(label, config, head, None)
        found.append(finding(rules.UNKNOWN_ARCH, label, "a known architecture", reason or seen, ("config.json",)))
        return _result(label, Verdict.UNKNOWN, None, head, found, n_bytes)
    head = head_names(checkpoint, config)
    found += _presence(label, config, head, layout.arch)
    if head.names and not any(f.verdict for f in found):
        found += _wholeness(checkpoint, label, quantized)
    return _result(label, Verdict.OK if head.names else Verdict.UNKNOWN, layout.arch, head, found, n_bytes)


def head_names(checkpoint: Checkpoint, config: HfConfig) -> _Head:
    """The names of the head's tensors in the index: `mtp.*`, `model.mtp_layers.*` or layers behind the trunk."""
    try:
        n_trunk: int | None = config.n_trunk
    except InvalidFileError:
        n_trunk = None
    names: list[str] = []
    blocks: set[int] = set()
    for name in checkpoint.file_of:
        plain = name.replace("language_model.", "")
        index = _layer(plain)
        if plain.startswith(_HEAD_PREFIXES):
            names.append(name)
            if index is not None:
                blocks.add(index)
        elif index is not None and n_trunk is not None and index >= n_trunk and plain.startswith("model.layers."):
            names.append(name)
            blocks.add(index)
    return _Head(tuple(names), len(blocks) or bool(names))


def _layer(name: str) -> int | None:
    parts = name.split(".")
    for before, number in pairwise(parts):
        if before in ("layers", "mtp_layers"):
            return int(number) if number.isascii() and number.isdigit() and len(number) < 7 else None
    return None


def _presence(label: str, config: HfConfig, head: _Head, arch: str | None) -> list[Finding]:
    declared = config.declared
    key = next((name for name in _DECLARING_KEYS if name in config.values), _DECLARING_KEYS[0])
    evidence = (f"config.json {key}: {'absent' if declared is None else declared}",)
    if declared and not head.names:
        return [
            finding(rules.CKPT_MISSING, label, f"{declared} head block(s)", "no head tensor in the index", evidence)
        ]
    if declared and head.n_blocks < declared:
        observed = f"{head.n_blocks} head block(s)"
        return [finding(rules.CKPT_PARTIAL, label, f"{declared} head blocks", observed, (*evidence, head.names[0]))]
    if head.names and declared == 0:
        fix = rules.CKPT_UNDECLARED.fix.replace("{key}", key)
        observed = f"{len(head.names)} head tensors"
        return [
            finding(rules.CKPT_UNDECLARED, label, f"{key} of 1 or more", observed, (*evidence, head.names[0]), "", fix)
        ]
    if not head.names and arch is not None:
        spec = spec_for(arch)
        if spec is not None and shipping_of(spec).ships is Ships.ALWAYS:
            expected = f"a head, as {spec.title} models ship one"
            return [finding(rules.CKPT_DROPPED, label, expected, "none, and none declared", evidence)]
    return []


def _wholeness(checkpoint: Checkpoint, label: str, quantized: str | None) -> list[Finding]:
    """Whether every tensor that a GGUF head needs can be made of what is there."""
    try:
        head = find_checkpoint_head(checkpoint)
    except (InputError, RefusedError) as error:
        if quantized:  # stored in a form that is not converted: that it is there is all that can be said
            return [finding(rules.NOT_CHECKED, label, "weights that can be converted", str(error))]
        evidence = tuple(part for part in (error.where, error.what) if part)
        expected = error.expected or "a whole head"
        return [finding(rules.CKPT_PARTIAL, label, expected, error.found or error.what, evidence)]
    spec = spec_for(head.layout.arch)
    if spec is None:
        return []
    lacking: list[str] = []
    for block in range(head.n_blocks):
        names = {part.local_name for part in head.parts if part.block == block}
        lacking += [f"blk.{head.n_trunk + block}.{name}" for name in _absent(spec, names)]
    if not lacking:
        return []
    evidence = tuple(lacking[:_MAX_EVIDENCE])
    expected = f"{len(lacking)} more tensors, by their GGUF names"
    return [finding(rules.CKPT_PARTIAL, label, expected, "absent", evidence)]


def _absent(spec: ArchSpec, names: set[str]) -> list[str]:
    """What a head block of these tensors lacks, by the architecture's row."""
    lacking = [tensor.name for tensor in spec.tensors if tensor.need is Need.REQUIRED and tensor.name not in names]
    for choice in spec.alternatives:
        if not choice.optional and not any(names.issuperset(option) for option in choice.options):
            lacking.append(choice.options[0][0])
    return lacking


def _quantization(config: HfConfig) -> str | None:
    """What quantized the checkpoint: `gptq (4)`, `compressed-tensors (pack-quantized)`, `fp8`, `modelopt (NVFP4)`."""
    table = config.table("quantization_config", "compression_config")
    method = table.get("quant_method")
    if not isinstance(method, str):
        return None
    detail: Json = next((table[key] for key in ("format", "quant_algo", "fmt", "bits") if table.get(key)), None)
    return f"{method} ({detail})" if isinstance(detail, str | int) else method


def _result(
    label: str, otherwise: Verdict, arch: str | None, head: _Head, found: Collection[Finding], n_bytes: int
) -> AuditResult:
    findings = tuple(found)
    return AuditResult(
        label, overall(findings, otherwise), arch, int(head.n_blocks), findings=findings, n_bytes=n_bytes
    )  # fmt: skip
