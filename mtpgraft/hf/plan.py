"""Plans a head file from a checkpoint: the same file that `extract` makes of a GGUF of the same model."""

from __future__ import annotations

from pathlib import Path

from mtpgraft import __version__
from mtpgraft.container import DEFAULT_ALIGNMENT, Key, TensorType, ValueType, tensor_type
from mtpgraft.container.checkpoint import Checkpoint
from mtpgraft.container.encode import make_array, make_key
from mtpgraft.container.types import BF16, F16, F32, TENSOR_TYPES_BY_NAME
from mtpgraft.errors import RefusedError
from mtpgraft.hf.head import HeadPart, HfHead, find_checkpoint_head
from mtpgraft.hf.keys import head_keys, vocabulary_size
from mtpgraft.hf.layout import HfLayout
from mtpgraft.hf.norms import checkpoint_fingerprint
from mtpgraft.kinship import encode_fingerprint
from mtpgraft.plan.extract import DONOR
from mtpgraft.plan.keys import HEAD_SHA256
from mtpgraft.plan.types import KEEP, n_bytes_as
from mtpgraft.plan.values import ComputedTensor, FilePlan, HeadRow, OutTensor, SurgeryPlan
from mtpgraft.quantize import parse_type

BYTE_ORDER = "<"
_VERSION = 3  # of GGUF: what llama.cpp writes since 2023

# `keep`: what the numbers were trained in. FP8 becomes BF16: times its scale it needs more bits than FP8 has.
_KEPT = {"F32": F32, "F64": F32, "F16": F16}

_ROUTERS = ("ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "indexer.proj.weight")


def plan_extract_checkpoint(checkpoint: Checkpoint, out: Path, wanted_type: str = KEEP) -> SurgeryPlan:
    """The plan of `mtpgraft extract CHECKPOINT -o out`: a head file (kind "donor").

    Names, shapes, types and bytes are those of llama.cpp's convert_hf_to_gguf.py --mtp with --outtype `wanted_type`;
    "keep" is the type that the tensors are stored in (FP8: BF16).
    Raises RefusedError when there is no whole head or it cannot be converted, InvalidFileError for a bad checkpoint.
    """
    head = find_checkpoint_head(checkpoint)
    tensors: list[OutTensor] = []
    rows: list[HeadRow] = []
    warnings = list(head.warnings)
    for part in head.parts:
        target, warning = written_type(part, wanted_type, head.layout)
        n_bytes = n_bytes_as(part.shape, target)
        tensors.append(OutTensor(part.name, part.shape, target.id, n_bytes, ComputedTensor(part.rows), part.block))
        rows.append(HeadRow(_origin(part), part.name, part.shape, part.dtype, target.name, n_bytes))
        warnings += [warning] if warning else []
    file = FilePlan(
        path=out,
        version=_VERSION,
        byte_order=BYTE_ORDER,
        alignment=DEFAULT_ALIGNMENT,
        keys=_keys(checkpoint, head),
        tensors=tuple(tensors),
        digest_key=HEAD_SHA256,
    )
    return SurgeryPlan("extract", None, checkpoint.name, (file,), (), tuple(rows), tuple(warnings))


def refuse_sidecar(checkpoint: Checkpoint) -> RefusedError:
    """Why a checkpoint gives no sidecar, and what to do instead."""
    return RefusedError(
        "a sidecar needs a tokenizer in GGUF's form, which a Hugging Face checkpoint does not have",
        file=checkpoint.name,
        hint="graft the head onto a GGUF of the model, or graft it and extract --as sidecar from the result",
    )


def written_type(part: HeadPart, wanted: str, layout: HfLayout) -> tuple[TensorType, str | None]:
    """The type that a tensor gets, and a warning when that is not what was asked for.

    ModelBase.prepare_tensors, conversion/base.py:1084-1167 @ b11434: F32 for 1-D tensors, norms, routers and everything
    that is no `.weight`; F16 where rows do not fill the blocks of the wanted type.
    """
    name = part.local_name
    exact = layout.stays_f32 if layout.routers_quantized else (*_ROUTERS, *layout.stays_f32)
    if len(part.shape) < 2 or name.endswith("_norm.weight") or not name.endswith(".weight") or name in exact:
        return tensor_type(F32), None
    target = tensor_type(_KEPT.get(part.dtype, BF16)) if wanted == KEEP else parse_type(wanted)
    if part.shape[0] % target.block == 0:
        return target, None
    fallback = TENSOR_TYPES_BY_NAME["F16"]
    reason = f"rows of {part.shape[0]} do not fill {target.name} blocks of {target.block}"
    return fallback, f"{part.name} becomes {fallback.name}: {reason}"


def _origin(part: HeadPart) -> str:
    more = len(part.origins) - 1
    return part.origins[0] + (f" and {more} more" if more else "")


def _keys(checkpoint: Checkpoint, head: HfHead) -> tuple[Key, ...]:
    arch = head.layout.arch
    label = checkpoint_label(checkpoint)
    blocks = [head.n_trunk + number for number in range(head.n_blocks)]
    keys = [
        make_key("general.architecture", ValueType.STRING, arch, BYTE_ORDER),
        make_key("general.name", ValueType.STRING, label, BYTE_ORDER),
        *head_keys(arch, head.config, head.n_trunk, head.n_blocks, BYTE_ORDER),
        make_key("mtpgraft.version", ValueType.STRING, __version__, BYTE_ORDER),
        make_key("mtpgraft.kind", ValueType.STRING, DONOR, BYTE_ORDER),
        make_key("mtpgraft.donor", ValueType.STRING, label, BYTE_ORDER),
        make_key(HEAD_SHA256, ValueType.STRING, "0" * 64, BYTE_ORDER),
        make_array("mtpgraft.head_blocks", ValueType.UINT32, blocks, BYTE_ORDER),
    ]
    n_vocab = vocabulary_size(head.config)
    if n_vocab:
        keys.append(make_key("mtpgraft.vocab_size", ValueType.UINT32, n_vocab, BYTE_ORDER))
    return (*keys, *encode_fingerprint(checkpoint_fingerprint(checkpoint), BYTE_ORDER))


def checkpoint_label(checkpoint: Checkpoint) -> str:
    """What to call a checkpoint in keys: `org/repo` of the Hub, or the folder's own name, never a path."""
    name = checkpoint.name.replace("\\", "/").rstrip("/")
    if name.startswith("hf:"):
        return name.removeprefix("hf:")
    parts = name.split("/")
    generic = len(parts) > 1 and parts[-1] in ("hf", "model", "checkpoint", ".")
    return parts[-2] if generic and parts[-2] else parts[-1]
