"""Plans the removal of a head: the exact inverse of a graft."""

from __future__ import annotations

from pathlib import Path

from mtpgraft.container import GGUFModel, Key
from mtpgraft.errors import RefusedError
from mtpgraft.head import Head, HeadState
from mtpgraft.plan.keys import SPLIT_KEYS, UNDO_SIZE, undeclare_head
from mtpgraft.plan.values import FilePlan, HeadRow, OutTensor, SurgeryPlan, copied


def plan_strip(model: GGUFModel, head: Head, out: Path) -> SurgeryPlan:
    """The plan of `mtpgraft strip`: the model without its head, in one file.

    Of a file that mtpgraft grafted, the result is the base, byte for byte. Of any other, block_count and the
    per-layer arrays are lowered and nextn_predict_layers goes.
    Raises RefusedError when there is no head, or nothing would be left.
    """
    if not head.blocks and not head.declared:
        raise RefusedError("has no MTP head to remove", file=model.name, expected="blk.N.nextn.* tensors")
    if head.state in (HeadState.SIDECAR, HeadState.HEAD_FILE):
        raise RefusedError("holds nothing but a head", file=model.name, expected="a model with a trunk")
    if head.spec is not None and not head.spec.is_mtp:
        raise RefusedError(
            "its nextn keys do not mean an MTP head",
            file=model.name,
            where=f"architecture {head.architecture}",
        )
    without = undeclare_head(model, head)
    keys = tuple(key for key in without.keys if not (model.is_split and key.name in SPLIT_KEYS))
    removed = {tensor.name for tensor in head.tensors}
    file = FilePlan(
        path=out,
        version=max(shard.version for shard in model.shards),
        byte_order=model.byte_order,
        alignment=model.alignment,
        keys=keys,
        tensors=trunk_tensors(model, head),
        exact_nbytes=_recorded_size(model),
    )
    rows = tuple(
        HeadRow(t.name, t.name, t.shape, t.type.name, "removed", t.n_bytes) for t in model.tensors if t.name in removed
    )
    return SurgeryPlan("strip", model.name, None, (file,), without.changes, rows, (*without.warnings, *gaps(model)))


def trunk_tensors(model: GGUFModel, head: Head) -> tuple[OutTensor, ...]:
    """Every tensor but the head's, copied as it is, in order."""
    removed = {tensor.name for tensor in head.tensors}
    return tuple(
        copied(tensor, model.source_of(tensor), model.alignment)
        for tensor in model.tensors
        if tensor.name not in removed
    )


def gaps(model: GGUFModel) -> tuple[str, ...]:
    """A warning for each shard whose offsets or end are not as llama.cpp writes them."""
    warnings = [
        f"{shard.source.name} has gaps or another order in its data: the result has none (llama.cpp refuses them)"
        for shard in model.shards
        if shard.has_gaps
    ]
    warnings += [
        f"{shard.source.name} has {shard.trailing_nbytes} bytes after its last tensor: they are not copied"
        for shard in model.shards
        if shard.trailing_nbytes
    ]
    return tuple(warnings)


def _recorded_size(model: GGUFModel) -> int | None:
    key: Key | None = model.key(UNDO_SIZE)
    value = None if key is None or key.is_array else key.scalar()
    return value if isinstance(value, int) and not model.is_split else None
