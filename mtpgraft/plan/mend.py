"""Plans the mending of a head that is there: its own tensors kept, what is missing or wrong put right.

The trunk is copied as in a graft. The declaration and the per-layer arrays are written anew, as `graft` writes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mtpgraft.arch import GraphSupport
from mtpgraft.arch.spec import companion_weight
from mtpgraft.container import GGUFModel, Key, Tensor
from mtpgraft.container.encode import make_array
from mtpgraft.container.types import BF16, F16, F32
from mtpgraft.errors import RefusedError
from mtpgraft.head import Head, HeadBlock, block_index, significant_dims
from mtpgraft.plan.donor import out_type, retyped
from mtpgraft.plan.extract import donor_label
from mtpgraft.plan.keys import HEAD_SHA256, OWN, SPLIT_KEYS, declare_head, key_changes, provenance, undeclare_head
from mtpgraft.plan.strip import gaps
from mtpgraft.plan.types import n_bytes_as
from mtpgraft.plan.values import ComputedTensor, FilePlan, HeadRow, OutTensor, SurgeryPlan, copied
from mtpgraft.recipe import Plus, Stored

_NORM_DTYPES = {F32: "F32", F16: "F16", BF16: "BF16"}


@dataclass(frozen=True, slots=True)
class Mend:
    """What to change of a head. norm_shift: added to every norm. fill: take tensors that are missing from the donor,
    in `wanted_type`. A donor also gives the values of per-layer arrays that the model itself does not have."""

    norm_shift: float = 0.0
    fill: bool = False
    wanted_type: str = "q8_0"


def plan_mend(
    base: GGUFModel, head: Head, out: Path, mend: Mend, donor: GGUFModel | None = None, donor_head: Head | None = None
) -> SurgeryPlan:
    """The plan of a repair that keeps the head.

    Raises RefusedError when there is no head to keep, or what is missing is not in the donor.
    """
    if not head.blocks:
        raise RefusedError("has no head to mend", file=base.name, hint="a donor is needed: --donor")
    n_trunk = trunk_size(base, head)
    warnings: list[str] = [*head.assumptions, *gaps(base)]
    single = head.spec is not None and head.spec.graph is GraphSupport.SINGLE
    blocks = head.blocks[:1] if single else head.blocks
    if len(blocks) < len(head.blocks):
        warnings.append(f"llama.cpp runs one head block: {len(head.blocks) - 1} more are left out")
    tensors: list[OutTensor] = []
    rows: list[HeadRow] = []
    for number, block in enumerate(blocks):
        theirs = donor_head.blocks[number] if donor_head and number < len(donor_head.blocks) else None
        kept, dropped = _kept(base, head, block, n_trunk + number, number, mend)
        tensors += kept
        warnings += [f"{name} is left out: llama.cpp refuses the file for it" for name in dropped]
        if mend.fill and donor is not None and theirs is not None:
            have = {tensor.local_name for tensor in kept}
            tensors += _filled(base, head, donor, theirs, have, n_trunk + number, number, mend)
    rows = [_row(base, head, tensor, n_trunk) for tensor in tensors]
    keys = tuple(key for key in undeclare_head(base, head).keys if not key.name.startswith(OWN))
    keys = _usable_arrays(base, head, keys, n_trunk, len(blocks), donor)
    array_donor, array_head = (base, head) if donor is None or donor_head is None else (donor, donor_head)
    declared = declare_head(base, keys, n_trunk, len(blocks), array_donor, array_head, head.spec)
    label = donor_label(base if donor is None else donor)
    made_by = tuple(
        key for key in provenance(base, keys, declared.keys, label) if key.name != "mtpgraft.undo.file_size"
    )
    head_names = {tensor.name for tensor in head.tensors}
    trunk = tuple(copied(t, base.source_of(t), base.alignment) for t in base.tensors if t.name not in head_names)
    file = FilePlan(
        path=out,
        version=max(shard.version for shard in base.shards),
        byte_order=base.byte_order,
        alignment=base.alignment,
        keys=(*(key for key in declared.keys if not (base.is_split and key.name in SPLIT_KEYS)), *made_by),
        tensors=(*trunk, *tensors),
        digest_key=HEAD_SHA256,
    )
    changes = key_changes(base.keys, file.keys)
    donor_name = None if donor is None else label
    return SurgeryPlan("repair", base.name, donor_name, (file,), changes, tuple(rows), tuple(warnings))


def trunk_size(model: GGUFModel, head: Head) -> int:
    """Number of trunk blocks by the tensors, whatever the keys say."""
    own = {tensor.name for tensor in head.tensors}
    indices = [i for t in model.tensors if t.name not in own and (i := block_index(t.name)) is not None]
    return max(indices, default=head.n_trunk - 1) + 1


def is_shifted_norm(tensor: Tensor) -> bool:
    """Whether the +1 of zero-centred norms belongs to this head tensor."""
    is_norm = tensor.name.endswith("norm.weight") and len(significant_dims(tensor.shape)) == 1
    return is_norm and tensor.type_id in _NORM_DTYPES


def _kept(
    base: GGUFModel, head: Head, block: HeadBlock, index: int, number: int, mend: Mend
) -> tuple[list[OutTensor], list[str]]:
    """The block's own tensors under their right names, and the names of those that have to go."""
    known = head.spec.known_names() if head.spec and head.spec.tensors else None
    kept, dropped = [], []
    for tensor in block.tensors:
        local = block.local_name(tensor)
        if known is not None and local not in known and companion_weight(local) not in known:
            dropped.append(tensor.name)
            continue
        name, source = f"blk.{index}.{local}", base.source_of(tensor)
        if mend.norm_shift and is_shifted_norm(tensor):
            if base.byte_order != "<":
                raise RefusedError("norms of a big-endian file are not shifted", file=base.name)
            stored = Stored(source, name, tensor.offset, _NORM_DTYPES[tensor.type_id], 1, tensor.n_elements)
            data = ComputedTensor(Plus(stored, mend.norm_shift))
            n_bytes = n_bytes_as(tensor.shape, tensor.type)
            kept.append(OutTensor(name, tensor.shape, tensor.type_id, n_bytes, data, number))
        else:
            kept.append(copied(tensor, source, base.alignment, name, number))
    return kept, dropped


def _filled(
    base: GGUFModel,
    head: Head,
    donor: GGUFModel,
    block: HeadBlock,
    have: set[str],
    index: int,
    number: int,
    mend: Mend,
) -> list[OutTensor]:
    """The donor's tensors that this block lacks; of two forms of one tensor, only that of which parts are there."""
    other_forms: set[str] = set()
    for choice in head.spec.alternatives if head.spec else ():
        ours = [option for option in choice.options if have.intersection(option)]
        if ours:
            other_forms |= {name for option in choice.options if option not in ours for name in option}
    out = []
    for tensor in block.tensors:
        local = block.local_name(tensor)
        if local not in have and local not in other_forms:
            name = f"blk.{index}.{local}"
            new, _ = retyped(donor, tensor, local, mend.wanted_type, name, base.alignment, base.byte_order, number)
            out.append(new)
    return out


def _usable_arrays(
    base: GGUFModel, head: Head, keys: tuple[Key, ...], n_trunk: int, n_head: int, donor: GGUFModel | None
) -> tuple[Key, ...]:
    """The keys with every per-layer array as long as the trunk or the whole, which is what `declare_head` takes."""
    names = {f"{head.architecture}.{rule.key}" for rule in head.spec.arrays} if head.spec else set()
    out = []
    for key in keys:
        if key.name in names and key.is_array and key.item_type is not None:
            if key.n_items > n_trunk and key.n_items != n_trunk + n_head:
                key = make_array(key.name, key.item_type, key.items()[:n_trunk], key.byte_order)
            elif key.n_items < n_trunk:
                theirs = donor.key(key.name) if donor is not None else None
                if (
                    theirs is None
                    or theirs.n_items < n_trunk
                    or theirs.item_type is not key.item_type
                    or theirs.item_type is None
                ):
                    raise RefusedError(
                        "a per-layer array is shorter than the trunk, and its values are not known",
                        file=base.name, where=f"key {key.name}", expected=f"{n_trunk} items",
                        found=f"{key.n_items}", hint="--donor names a whole file of the same model",
                    )  # fmt: skip
                key = make_array(key.name, theirs.item_type, theirs.items()[:n_trunk], key.byte_order)
        out.append(key)
    return tuple(out)


def _row(base: GGUFModel, head: Head, tensor: OutTensor, n_trunk: int) -> HeadRow:
    """What became of a head tensor: kept under its type, shifted, or taken from the donor."""
    number = tensor.head_block or 0
    index = head.blocks[number].index if number < len(head.blocks) else n_trunk + number
    old = base.tensor_by_name.get(f"blk.{index}.{tensor.local_name}")
    before = old.type.name if old is not None else "missing"
    if old is not None and isinstance(tensor.data, ComputedTensor):
        before = f"{old.type.name} before the shift"
    return HeadRow(
        old.name if old else tensor.name, tensor.name, tensor.shape, before, out_type(tensor), tensor.n_bytes
    )
