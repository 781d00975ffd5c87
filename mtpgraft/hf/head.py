"""Finds the head in a checkpoint and says how each of its GGUF tensors is computed. No tensor data is read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from mtpgraft.container.checkpoint import Checkpoint
from mtpgraft.errors import InvalidFileError, RefusedError
from mtpgraft.hf.config import HfConfig
from mtpgraft.hf.layout import NAMES, REFUSED, RENAMES, HfLayout, layout_for
from mtpgraft.hf.steps import Context, Part
from mtpgraft.hf.stored import is_auxiliary, rows_of
from mtpgraft.recipe import Plus, Rows, Stacked

ALL_BLOCKS = "*"

_IN_BLOCK = re.compile(r"^(?:(?:model\.)?mtp\.layers|model\.mtp_layers)\.([0-9]{1,6})\.(.+)$", re.DOTALL)
_BESIDE_BLOCKS = re.compile(r"^(?:model\.)?mtp\.(.+)$", re.DOTALL)
_IN_LAYERS = re.compile(r"^model\.layers\.([0-9]{1,6})\.(.+)$", re.DOTALL)
_EXPERT = re.compile(r"^(.*\.?experts)\.([0-9]{1,6})\.([^.]+)\.weight$")
# prepare_tensors skips these, conversion/base.py:1059 @ b11434.
_SKIPPED = (".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq")


_MAX_DIM = 2**20
"""Largest vocabularies are a quarter of it. Recipes list rows one by one, and a sparse file may be of any size."""


@dataclass(frozen=True, slots=True)
class HeadPart:
    """One GGUF tensor of the head.

    name: `blk.N.something`. shape: GGUF order. rows: how it is computed. block: number of its head block.
    origins: the stored tensors it is made of. dtype: how those are stored.
    """

    name: str
    shape: tuple[int, ...]
    rows: Rows = field(repr=False)
    block: int
    origins: tuple[str, ...]
    dtype: str

    @property
    def local_name(self) -> str:
        return self.name.split(".", 2)[2]


@dataclass(frozen=True, slots=True)
class HfHead:
    """The head of a checkpoint. n_trunk: number of trunk blocks, and index of the first head block."""

    layout: HfLayout
    config: HfConfig
    n_trunk: int
    n_blocks: int
    parts: tuple[HeadPart, ...]
    warnings: tuple[str, ...]


def find_layout(checkpoint: Checkpoint) -> tuple[HfLayout, HfConfig]:
    """What this checkpoint's architecture is in GGUF. Raises RefusedError when its head cannot be converted."""
    config = HfConfig.of(checkpoint.name, checkpoint.config)
    layout = layout_for(list(config.architectures))
    if layout is None:
        reason = next((REFUSED[name] for name in config.architectures if name in REFUSED), None)
        raise RefusedError(
            reason or "mtpgraft does not know how to convert a head of this architecture",
            file=config.file,
            where="key architectures",
            found=", ".join(config.architectures) or "nothing",
            hint="convert it with llama.cpp's convert_hf_to_gguf.py --mtp and use the result as the donor",
        )
    return layout, config


def find_checkpoint_head(checkpoint: Checkpoint) -> HfHead:
    """The head of this checkpoint.

    Raises RefusedError when there is none, it is not whole, or it is stored in a way that cannot be converted;
    InvalidFileError when tensors and config contradict each other.
    """
    layout, config = find_layout(checkpoint)
    n_trunk = config.n_trunk
    blocks = _blocks(checkpoint, layout, n_trunk)
    n_blocks = _check_count(checkpoint, config, blocks)
    warnings = [] if layout.remark is None else [layout.remark]
    parts: list[HeadPart] = []
    for number in range(n_blocks):
        stored = [_part(checkpoint, config, layout, name, local) for local, name in blocks[number].items()]
        for part in _converted(_stacked(stored, config), layout, config):
            name = f"blk.{n_trunk + number}.{part.name}"
            parts.append(HeadPart(name, part.shape[::-1], part.rows, number, part.origins, part.dtype))
    _refuse_twice(checkpoint, parts)
    return HfHead(layout, config, n_trunk, n_blocks, _in_file_order(checkpoint, parts), tuple(warnings))


def _blocks(checkpoint: Checkpoint, layout: HfLayout, n_trunk: int) -> dict[int, dict[str, str]]:
    """Number of the head block -> its tensors: name in the block -> name in the checkpoint."""
    located: list[tuple[str, str, str]] = []
    for name in checkpoint.file_of:
        if is_auxiliary(name, checkpoint) or name.endswith(_SKIPPED):
            continue
        place = _locate(name, n_trunk)
        if place is not None:
            located.append((*_renamed(place, layout), name))
    numbers = sorted({int(block) for block, _, _ in located if block != ALL_BLOCKS})
    blocks: dict[int, dict[str, str]] = {number: {} for number in numbers}
    for block, local, name in located:
        for number in numbers if block == ALL_BLOCKS else [int(block)]:
            if local in blocks[number]:
                raise InvalidFileError("a head tensor is there twice", file=checkpoint.name, where=f"tensor {name}")
            blocks[number][local] = name
    return blocks


def _locate(name: str, n_trunk: int) -> str | None:
    """`<block>.<name in the block>` of a head tensor, None for any other."""
    plain = name.replace("language_model.", "")  # ModelBase.filter_tensors, conversion/base.py:596 @ b11434
    if match := _IN_BLOCK.match(plain):
        return f"{int(match[1])}.{match[2]}"
    if match := _BESIDE_BLOCKS.match(plain):
        return f"{ALL_BLOCKS}.{match[1]}"
    match = _IN_LAYERS.match(plain)
    return f"{int(match[1]) - n_trunk}.{match[2]}" if match and int(match[1]) >= n_trunk else None


def _renamed(place: str, layout: HfLayout) -> tuple[str, str]:
    for pattern, replacement in (*layout.renames, *RENAMES):
        place = re.sub(pattern, replacement, place)
    block, _, local = place.partition(".")
    return block, local


def _check_count(checkpoint: Checkpoint, config: HfConfig, blocks: dict[int, dict[str, str]]) -> int:
    declared = config.declared or 0
    if not blocks:
        raise RefusedError(
            "has no MTP head to take",
            file=checkpoint.name,
            expected=f"{declared} head blocks, as config.json declares" if declared else "tensors of a head",
            found="none of their tensors" if declared else "none, and none declared",
            hint="finetunes often lose it: take the head from the model that this one was made from",
        )
    n_blocks = len(blocks)
    if sorted(blocks) != list(range(n_blocks)):
        raise InvalidFileError(
            "its head blocks are not numbered one after the other", file=checkpoint.name, found=sorted(blocks)[:8]
        )
    if declared > n_blocks:
        raise RefusedError(
            "its MTP head is not whole",
            file=checkpoint.name,
            expected=f"{declared} head blocks, as config.json declares",
            found=f"{n_blocks}",
            hint="take the head from the original model",
        )
    return n_blocks


def _part(checkpoint: Checkpoint, config: HfConfig, layout: HfLayout, name: str, local: str) -> Part:
    stored = checkpoint.tensor(name)
    if max(stored.shape, default=0) > _MAX_DIM:
        raise InvalidFileError(
            "has a dimension that no head has", file=config.file, where=f"tensor {name}",
            expected=f"at most {_MAX_DIM}", found=list(stored.shape),
        )  # fmt: skip
    return Part(local, stored.shape, rows_of(checkpoint, config, stored, layout.reader), (name,), stored.dtype)


def _stacked(parts: list[Part], config: HfConfig) -> list[Part]:
    """Experts that are stored one by one, as one tensor (n_expert, ...) per projection; all others as they are."""
    out: list[Part] = []
    experts: dict[str, dict[int, Part]] = {}
    for part in parts:
        match = _EXPERT.match(part.name)
        if match:
            experts.setdefault(f"{match[1]}.{match[3]}.weight", {})[int(match[2])] = part
        else:
            out.append(part)
    n_experts = config.count_or_none("n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts")
    for name, by_number in experts.items():
        first = by_number[min(by_number)]
        expected = n_experts or len(by_number)
        missing = next((number for number in range(expected) if number not in by_number), None)
        if missing is not None or len(by_number) != expected:
            raise InvalidFileError(
                "the experts of its head are not all there",
                file=config.file,
                where=first.origins[0],
                expected=f"{expected} experts",
                found=f"{len(by_number)}" + (f", without number {missing}" if missing is not None else ""),
            )
        ordered = [by_number[number] for number in range(expected)]
        odd = next((p for p in ordered if p.shape != first.shape or p.dtype != first.dtype), None)
        if odd is not None:
            raise InvalidFileError(
                "an expert differs in shape or dtype from the others", file=config.file, where=odd.origins[0]
            )
        origins = tuple(origin for part in ordered for origin in part.origins)
        rows = Stacked(tuple(part.rows for part in ordered))
        out.append(replace(first, name=name, shape=(expected, *first.shape), rows=rows, origins=origins))
    return out


def _converted(parts: list[Part], layout: HfLayout, config: HfConfig) -> list[Part]:
    """The parts after the layout's steps, under their GGUF names."""
    context = Context(config, {part.name: part for part in parts})
    for step in layout.steps:
        parts = [new for part in parts for new in _applied(step(part, context), part)]
    return [_finished(part, layout, config) for part in parts]


def _applied(results: list[Part] | None, part: Part) -> list[Part]:
    return [part] if results is None else results


def _finished(part: Part, layout: HfLayout, config: HfConfig) -> Part:
    name = gguf_name(part.name, layout)
    if name is None:
        raise RefusedError(
            f"its head has a tensor that mtpgraft does not know in {layout.arch}",
            file=config.file,
            where=f"tensor {part.origins[0]}",
            hint="convert the model with llama.cpp's convert_hf_to_gguf.py --mtp and use the result as the donor",
        )
    centred = layout.zero_centred and name.endswith("norm.weight")
    return replace(part, name=name, rows=Plus(part.rows, 1.0) if centred else part.rows)


def gguf_name(name: str, layout: HfLayout) -> str | None:
    """GGUF's name in the block for Hugging Face's; None when no table has it."""
    base, dot, suffix = name, "", ""
    known = layout.names.get(name) or NAMES.get(name)
    if known is None:
        base, dot, suffix = name.rpartition(".")
        known = layout.names.get(base) or NAMES.get(base)
        if suffix not in ("weight", "bias"):
            return None
    return None if known is None else f"{known}{dot}{suffix}"


def _refuse_twice(checkpoint: Checkpoint, parts: Iterable[HeadPart]) -> None:
    seen: set[str] = set()
    for part in parts:
        if part.name in seen:
            raise InvalidFileError(
                "two of its head tensors convert to one",
                file=checkpoint.name,
                where=f"tensor {part.origins[0]}",
                found=part.name,
            )
        seen.add(part.name)


def _in_file_order(checkpoint: Checkpoint, parts: list[HeadPart]) -> tuple[HeadPart, ...]:
    """Sorted by where their data lies: remote files are then read from front to back."""

    def place(part: HeadPart) -> tuple[str, int]:
        stored = checkpoint.tensor(part.origins[0])
        return checkpoint.file_of[stored.name], stored.offset

    return tuple(sorted(parts, key=place))
