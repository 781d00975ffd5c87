"""Finds the MTP head in a GGUF header and judges it.

The head blocks are `blk.[n_trunk] ... blk.[n_trunk + n - 1]`, behind the trunk. What is *declared* is
`<arch>.nextn_predict_layers` and `<arch>.block_count` (head blocks included: llama-model.cpp:1331 and
llama-hparams.cpp:348 @ b11434); what is *present* is in the tensor table. The two need not agree.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from mtpgraft.arch import ArchSpec, GraphSupport, spec_for
from mtpgraft.arch.spec import COMPANION_BASES, Need, companion_weight
from mtpgraft.container import GGUFModel, Tensor
from mtpgraft.errors import InvalidFileError

_BLOCK = re.compile(r"^blk\.(0|[1-9][0-9]{0,8})\.(.+)$")  # as llama.cpp spells a number: blk.01 is no block to it
_MAX_ROW = 2**22  # the widest feed-forward layers have a twentieth of it
_MAX_PROBLEMS = 200  # a file of 65,536 strange tensors says nothing more by naming each
_MAX_BLOCKS = 512  # LLAMA_MAX_LAYERS, src/llama-hparams.h @ b11434


class HeadState(Enum):
    """What a file holds of a head. The same words as audit's verdicts."""

    OK = "ok"
    NONE = "none"
    """No tensors and no declaration. Whether the model ought to have one, the header cannot say."""
    DECLARED_MISSING = "declared-missing"
    ORPHAN = "orphan"
    PARTIAL = "partial"
    NOT_MTP = "not-mtp"
    SIDECAR = "sidecar"
    """The head and the root tensors llama.cpp needs to load it with -md; no trunk."""
    HEAD_FILE = "head-file"
    """Only the head: mtpgraft's donor file, a pseudo-GGUF."""


@dataclass(frozen=True, slots=True)
class HeadBlock:
    """One head block: its index in this file, and its tensors in table order."""

    index: int
    tensors: tuple[Tensor, ...]

    def local_name(self, tensor: Tensor) -> str:
        """The tensor's name without `blk.N.`."""
        return tensor.name.split(".", 2)[2]


@dataclass(frozen=True, slots=True)
class Head:
    """The head of one model, as found.

    block_count, declared: the keys' values; declared is None when the key is absent.
    n_trunk: number of trunk blocks.
    problems: what is wrong, in words, each naming a tensor or key.
    assumptions: what was assumed because no row describes the architecture.
    """

    architecture: str
    spec: ArchSpec | None
    state: HeadState
    block_count: int
    declared: int | None
    n_trunk: int
    blocks: tuple[HeadBlock, ...]
    problems: tuple[str, ...]
    assumptions: tuple[str, ...]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(tensor for block in self.blocks for tensor in block.tensors)

    @property
    def n_bytes(self) -> int:
        return sum(tensor.n_bytes for tensor in self.tensors)

    @property
    def types(self) -> dict[str, int]:
        """Number of head tensors by type name, most frequent first."""
        counts: dict[str, int] = {}
        for tensor in self.tensors:
            counts[tensor.type.name] = counts.get(tensor.type.name, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def is_whole(self) -> bool:
        """True when the head can be taken out and used."""
        return bool(self.blocks) and self.state in (HeadState.OK, HeadState.SIDECAR, HeadState.HEAD_FILE)


def block_index(name: str) -> int | None:
    """N of a tensor named `blk.N.something`, or None."""
    match = _BLOCK.match(name)
    return int(match[1]) if match else None


def find_head(model: GGUFModel) -> Head:
    """Find and judge the head of this model.

    Raises InvalidFileError when the architecture or the block count is missing or unusable.
    """
    architecture = model.architecture
    spec = spec_for(architecture)
    block_count = model.count("block_count")
    if block_count is None:
        raise InvalidFileError(
            "has no block count",
            file=model.name,
            where=f"key {architecture}.block_count",
            hint="is this a language model? adapters, projectors and vocabularies have no head",
        )
    if not 0 < block_count <= _MAX_BLOCKS:
        raise InvalidFileError(
            "has an impossible number of layers",
            file=model.name,
            where=f"key {architecture}.block_count",
            expected=f"1 to {_MAX_BLOCKS}",
            found=block_count,
        )
    declared = model.count("nextn_predict_layers")
    model.count("embedding_length")  # of another type than uint32, no engine reads the file
    by_block = _tensors_by_block(model.tensors)
    if spec is not None and spec.graph is GraphSupport.WHOLE:  # a drafter in a file of its own: all of it is head
        n_trunk, head_indices, problems = 0, sorted(by_block), list[str]()
    else:
        n_trunk, head_indices, problems = _split_blocks(block_count, declared or 0, by_block)
    blocks = tuple(HeadBlock(index, tuple(by_block[index])) for index in head_indices)
    _refuse_endless_rows(model, blocks)
    assumptions: tuple[str, ...] = ()
    if spec is None and (blocks or declared):
        assumptions = (
            f"mtpgraft knows no architecture {architecture!r}: the head is taken to be every tensor of "
            f"blk.{n_trunk} and after, no per-layer key but full-length ones is changed",
        )
    if spec is not None and blocks:
        problems = [*problems, *_block_problems(model, spec, blocks)][:_MAX_PROBLEMS]
    state = _state(model, spec, declared or 0, blocks, by_block, n_trunk, problems)
    return Head(architecture, spec, state, block_count, declared, n_trunk, blocks, tuple(problems), assumptions)


def _refuse_endless_rows(model: GGUFModel, blocks: tuple[HeadBlock, ...]) -> None:
    """Conversion and `audit --deep` hold a row at a time, and a sparse file can have rows of any length."""
    for block in blocks:
        for tensor in block.tensors:
            if tensor.row > _MAX_ROW:
                raise InvalidFileError(
                    "has rows longer than any head's",
                    file=model.name,
                    where=f"tensor {tensor.name}",
                    expected=f"at most {_MAX_ROW} elements",
                    found=tensor.row,
                )


def _tensors_by_block(tensors: Iterable[Tensor]) -> dict[int, list[Tensor]]:
    by_block: dict[int, list[Tensor]] = {}
    for tensor in tensors:
        index = block_index(tensor.name)
        if index is not None:
            by_block.setdefault(index, []).append(tensor)
    return by_block


def _split_blocks(
    block_count: int, declared: int, by_block: dict[int, list[Tensor]]
) -> tuple[int, list[int], list[str]]:
    """Number of trunk blocks, the indices of the head blocks present, and what does not add up."""
    with_nextn = sorted(i for i, tensors in by_block.items() if any(".nextn." in t.name for t in tensors))
    if declared > block_count:
        return block_count, with_nextn, [f"nextn_predict_layers {declared} exceeds block_count {block_count}"]
    if declared == 0:
        n_trunk = min([block_count, *with_nextn])
        return n_trunk, [i for i in sorted(by_block) if i >= n_trunk], []
    n_trunk = block_count - declared
    in_range = [i for i in sorted(by_block) if n_trunk <= i < block_count]
    outside = [i for i in with_nextn if not n_trunk <= i < block_count]
    if in_range and not with_nextn:
        # The blocks that the keys call a head have no nextn tensor: they are trunk, and block_count was never raised.
        # llama.cpp then skips the last trunk layer (design of TRUNK_PROBE) or refuses the file.
        problem = f"block_count {block_count} was not raised: blk.{n_trunk} is a trunk block, not a head"
        return block_count, [], [problem]
    if outside and not in_range:
        moved = min(outside)
        problem = f"the head is at blk.{moved}, block_count {block_count} and nextn {declared} put it at blk.{n_trunk}"
        return min(moved, block_count), [i for i in sorted(by_block) if i >= moved], [problem]
    problems = [f"blk.{i} has head tensors outside the declared head blocks" for i in outside]
    beyond = [i for i in sorted(by_block) if i >= block_count and i not in outside]
    problems += [f"blk.{i} has tensors outside the declared blocks: llama.cpp refuses the file for it" for i in beyond]
    return n_trunk, in_range, problems


def _block_problems(model: GGUFModel, spec: ArchSpec, blocks: tuple[HeadBlock, ...]) -> list[str]:
    problems: list[str] = []
    n_embd = model.count("embedding_length")
    known = spec.known_names()
    for block in blocks:
        present = {block.local_name(tensor): tensor for tensor in block.tensors}
        problems += [
            f"unknown tensor blk.{block.index}.{name}: llama.cpp refuses the file for it"
            for name in present
            if name not in known and not _is_companion(name, present)
        ]
        for wanted in spec.tensors:
            tensor = present.get(wanted.name)
            if tensor is None:
                if wanted.need is not Need.OPTIONAL:
                    problems.append(f"missing tensor blk.{block.index}.{wanted.name}")
            elif n_embd is not None:
                problems += _shape_problem(tensor, wanted.shape, n_embd)
        for alternative in spec.alternatives:
            chosen = [option for option in alternative.options if all(name in present for name in option)]
            either = " or ".join("+".join(option) for option in alternative.options)
            if not chosen and not alternative.optional:
                problems.append(f"missing tensors in blk.{block.index}: {either}")
            elif len(chosen) > 1 and not any(set(a) < set(b) for a in chosen for b in chosen):
                problems.append(f"too many tensors in blk.{block.index}: {either}, not both")
    return problems


def _is_companion(name: str, present: dict[str, Tensor]) -> bool:
    """Whether this is a scale that belongs to one of the block's NVFP4 weights."""
    return name.rpartition(".")[0] in COMPANION_BASES and companion_weight(name) in present


def _shape_problem(tensor: Tensor, symbols: tuple[str, ...], n_embd: int) -> list[str]:
    known = {"D": n_embd, "2D": 2 * n_embd}
    dims = significant_dims(tensor.shape)
    if not symbols or (
        len(symbols) == len(dims)
        and all(known.get(symbol, dim) == dim for symbol, dim in zip(symbols, dims, strict=True))
    ):
        return []
    expected = ", ".join(str(known.get(symbol, symbol)) for symbol in symbols)
    return [f"tensor {tensor.name} has shape {list(tensor.shape)}, expected [{expected}]"]


def significant_dims(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without trailing ones: ggml pads every shape to four dimensions with them (ggml_n_dims)."""
    n_dims = max((i + 1 for i, dim in enumerate(shape) if dim != 1), default=min(1, len(shape)))
    return shape[:n_dims]


def _state(
    model: GGUFModel,
    spec: ArchSpec | None,
    declared: int,
    blocks: tuple[HeadBlock, ...],
    by_block: dict[int, list[Tensor]],
    n_trunk: int,
    problems: list[str],
) -> HeadState:
    if spec is not None and not spec.is_mtp:
        return HeadState.NOT_MTP
    if not blocks:
        return HeadState.DECLARED_MISSING if declared else HeadState.NONE
    if problems or (declared and len(blocks) < declared):
        return HeadState.PARTIAL
    if not declared or declared < len(blocks):
        return HeadState.ORPHAN
    if not any(index < n_trunk for index in by_block):
        has_root = "token_embd.weight" in model.tensor_by_name
        return HeadState.SIDECAR if has_root else HeadState.HEAD_FILE
    return HeadState.OK


def n_runnable_blocks(head: Head) -> int:
    """How many of the head's blocks a llama.cpp graph runs: 0 where none does, 1 of a single head, else all."""
    if head.spec is None:
        return len(head.blocks)
    if head.spec.graph is GraphSupport.NONE:
        return 0
    return min(1, len(head.blocks)) if head.spec.graph is GraphSupport.SINGLE else len(head.blocks)


def head_digest(rows: Iterable[tuple[int, str, tuple[int, ...], int, str]]) -> str:
    """sha256 of a head, independent of the block index and the order its tensors are stored at.

    rows: (number of the head block from 0, local name, GGUF-order shape, type id, sha256 of the data) per tensor.
    Equal digests mean equal heads, whatever files they are in.
    """
    lines = sorted(
        f"{number} {name} {'x'.join(map(str, shape))} {type_id} {sha256}\n"
        for number, name, shape, type_id, sha256 in rows
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()
