"""Plans a graft: a base with a donor's head behind its trunk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mtpgraft.arch import GraphSupport
from mtpgraft.container import GGUFModel, Key, ValueType
from mtpgraft.container.encode import make_key
from mtpgraft.errors import RefusedError
from mtpgraft.head import Head, HeadState
from mtpgraft.kinship import Verdict, kinship, n_tokens
from mtpgraft.plan.donor import HeadTensors, plan_head, require_head
from mtpgraft.plan.extract import donor_label
from mtpgraft.plan.keys import (
    HEAD_SHA256,
    OWN,
    SPLIT_KEYS,
    declare_head,
    key_changes,
    provenance,
    undeclare_head,
)
from mtpgraft.plan.pad import with_block_padding
from mtpgraft.plan.strip import gaps, trunk_tensors
from mtpgraft.plan.values import FilePlan, SurgeryPlan, copied
from mtpgraft.source.splits import shard_file_name

# Hyper-parameters that give a head block its shapes. Same name, other value: the head does not fit the trunk.
_SHAPE_KEYS = (
    "embedding_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.q_lora_rank",
    "attention.kv_lora_rank",
    "feed_forward_length",
    "expert_count",
    "expert_feed_forward_length",
    "expert_shared_feed_forward_length",
    "rope.dimension_count",
)

_SWAPPED = "the base comes first: mtpgraft graft BASE DONOR"


@dataclass(frozen=True, slots=True)
class GraftOptions:
    """wanted_type: type of the head's matrices. replace: take the base's own head out first. allow_mismatch: go on
    when base and donor differ in ways that still make a file llama.cpp loads. keep_split: a split base stays split."""

    wanted_type: str = "q8_0"
    replace: bool = False
    allow_mismatch: bool = False
    keep_split: bool = False


def plan_graft(
    base: GGUFModel, base_head: Head, donor: GGUFModel, donor_head: Head, out: Path, options: GraftOptions
) -> SurgeryPlan:
    """The plan of `mtpgraft graft`: the base's trunk as it is, the donor's head behind it, the keys that say so.

    Raises RefusedError when the pair does not fit, the base has a head already, or llama.cpp could not load it.
    """
    refuse_unfit_base(base, base_head, options, donor_head)
    differences = _pair_problems(base, donor, options)
    require_head(donor, donor_head)
    warnings = [*donor_head.assumptions, *differences, *_kinship_problems(base, donor, options), *gaps(base)]
    n_trunk = base_head.n_trunk
    clean_keys = undeclare_head(base, base_head).keys if base_head.blocks else base.keys
    clean_keys = tuple(key for key in clean_keys if not key.name.startswith(OWN))
    head = plan_head(
        donor, donor_head, options.wanted_type, n_trunk, base.alignment, base.byte_order, runnable_only=True
    )
    declared = declare_head(base, clean_keys, n_trunk, head.n_blocks, donor, donor_head, donor_head.spec)
    made_by = provenance(base, clean_keys, declared.keys, donor_label(donor))
    if base_head.blocks:  # --replace: the base's own head is gone, its old size would mislead strip
        made_by = tuple(key for key in made_by if key.name != "mtpgraft.undo.file_size")
    trunk = trunk_tensors(base, base_head)
    if base_head.spec is not None and base_head.spec.graph is GraphSupport.NONE:
        warnings.append(f"no llama.cpp graph runs the head of {base.architecture}: the file keeps it, nothing uses it")
    if options.keep_split and base.is_split:
        files = _split_files(base, base_head, (*declared.keys, *made_by), head, out)
    else:
        keys = tuple(key for key in declared.keys if not (base.is_split and key.name in SPLIT_KEYS))
        file = FilePlan(
            path=out,
            version=max(shard.version for shard in base.shards),
            byte_order=base.byte_order,
            alignment=base.alignment,
            keys=(*keys, *made_by),
            tensors=(*trunk, *head.tensors),
            digest_key=HEAD_SHA256,
        )
        files = (file if base.is_split else with_block_padding(file, base.shards[0].data_start),)
    changes = key_changes(base.keys, files[0].keys)
    return SurgeryPlan("graft", base.name, donor_label(donor), files, changes, head.rows, (*warnings, *head.warnings))


def refuse_unfit_base(base: GGUFModel, head: Head, options: GraftOptions, donor_head: Head | None = None) -> None:
    """Raise RefusedError unless this model can receive a head. donor_head: where known, for a better hint."""
    spec = head.spec
    if spec is not None and (spec.refuse_graft or not spec.is_mtp):
        raise RefusedError(
            f"a head is not grafted onto {base.architecture}: {spec.refuse_graft or 'it has no MTP head'}",
            file=base.name,
            where=f"architecture {base.architecture}",
        )
    if head.state in (HeadState.SIDECAR, HeadState.HEAD_FILE):
        raise RefusedError(
            "is a head file, not a base",
            file=base.name,
            expected="a model with a trunk",
            hint=_SWAPPED,
        )
    if head.blocks and not options.replace:
        raise RefusedError(
            "has an MTP head already",
            file=base.name,
            expected="a base without a head",
            found=f"{len(head.blocks)} head block(s) from blk.{head.blocks[0].index}, {head.state.value}",
            hint=_SWAPPED if donor_head and not donor_head.blocks else "--replace puts the donor's head in its place",
        )


def _pair_problems(base: GGUFModel, donor: GGUFModel, options: GraftOptions) -> list[str]:
    """Refuse a pair that cannot work; return warnings for what --allow-mismatch lets through."""
    if base.architecture != donor.architecture:
        raise RefusedError(
            "the donor is of another architecture",
            file=donor.name,
            where="key general.architecture",
            expected=base.architecture,
            found=donor.architecture,
            hint="a head fits only the model it was trained with",
        )
    width, donor_width = base.count("embedding_length"), donor.count("embedding_length")
    if width != donor_width:
        raise RefusedError(
            "the donor's head is made for another width",
            file=donor.name,
            where=f"key {base.architecture}.embedding_length",
            expected=width,
            found=donor_width,
            hint="a head fits only the model it was trained with",
        )
    different = [*_differing_shape_keys(base, donor)]
    n_vocab, donor_n_vocab = n_tokens(base), n_tokens(donor)
    if n_vocab and donor_n_vocab and n_vocab != donor_n_vocab:
        different.append(f"vocabulary: {n_vocab} tokens in the base, {donor_n_vocab} in the donor")
    if different and not options.allow_mismatch:
        raise RefusedError(
            f"base and donor are not the same model: {'; '.join(different)}",
            file=donor.name,
            hint="take the head from the model that the base was made from; --allow-mismatch goes on all the same",
        )
    return [f"base and donor differ in {text}" for text in different]


def _kinship_problems(base: GGUFModel, donor: GGUFModel, options: GraftOptions) -> list[str]:
    """Refuse a donor whose trunk is another model's; return a warning for one that is close, or cannot be told."""
    found = kinship(base, donor)
    if found.verdict is Verdict.DIFFERENT and not options.allow_mismatch:
        raise RefusedError(
            f"base and donor are not the same model: {found.explanation}",
            file=donor.name,
            hint="take the head from the model that the base was made from; --allow-mismatch goes on all the same",
        )
    warnings = [] if found.verdict is Verdict.SAME else [found.explanation]
    if found.same_tokens is False:
        warnings.append("base and donor have different token lists: the head may draft tokens that mean something else")
    return warnings


def _differing_shape_keys(base: GGUFModel, donor: GGUFModel) -> list[str]:
    found = []
    for name in _SHAPE_KEYS:
        ours, theirs = base.hparam(name), donor.hparam(name)
        if ours is None or theirs is None or ours.is_array or theirs.is_array:
            continue
        if ours.scalar() != theirs.scalar():
            found.append(f"{name}: {ours.scalar()} in the base, {theirs.scalar()} in the donor")
    return found


def _split_files(
    base: GGUFModel, base_head: Head, keys: tuple[Key, ...], head: HeadTensors, out: Path
) -> tuple[FilePlan, ...]:
    """The base's shards under their new names, with the head in one more shard behind them."""
    if base_head.blocks:
        raise RefusedError("--replace with --keep-split is not done", file=base.name, hint="leave out --keep-split")
    n_shards = len(base.shards) + 1
    n_tensors = len(base.tensors) + len(head.tensors)
    stem = out.name.removesuffix(".gguf")
    files: list[FilePlan] = []
    for number, shard in enumerate(base.shards):
        tensors = tuple(copied(t, shard.source, shard.alignment) for t in shard.tensors)
        shard_keys = keys if number == 0 else shard.keys
        files.append(
            FilePlan(
                path=out.with_name(shard_file_name(stem, number + 1, n_shards)),
                version=shard.version,
                byte_order=shard.byte_order,
                alignment=shard.alignment,
                keys=_with_split_keys(shard_keys, number, n_shards, n_tensors, shard.byte_order),
                tensors=tensors,
                digest_key=HEAD_SHA256 if number == 0 else None,
            )
        )
    last = base.shards[-1]
    files.append(
        FilePlan(
            path=out.with_name(shard_file_name(stem, n_shards, n_shards)),
            version=last.version,
            byte_order=last.byte_order,
            alignment=32,
            keys=_with_split_keys((), n_shards - 1, n_shards, n_tensors, last.byte_order),
            tensors=head.tensors,
        )
    )
    return tuple(files)


def _with_split_keys(
    keys: tuple[Key, ...], number: int, n_shards: int, n_tensors: int, byte_order: str
) -> tuple[Key, ...]:
    """Keys with this shard's split.* values, of the types that gguf-split writes (tools/gguf-split @ b11434)."""
    values = {
        "split.no": make_key("split.no", ValueType.UINT16, number, byte_order),
        "split.count": make_key("split.count", ValueType.UINT16, n_shards, byte_order),
        "split.tensors.count": make_key("split.tensors.count", ValueType.INT32, n_tensors, byte_order),
    }
    out = [values.pop(key.name, key) for key in keys]
    return (*out, *values.values())


__all__ = ["GraftOptions", "plan_graft"]
