"""What a donor gives: its head blocks, each tensor with the type it is to have."""

from __future__ import annotations

from dataclasses import dataclass

from mtpgraft.arch import GraphSupport, spec_for
from mtpgraft.container import GGUFModel, Tensor
from mtpgraft.errors import RefusedError
from mtpgraft.head import Head, HeadBlock, HeadState
from mtpgraft.plan.types import choose_type, is_below_q8, n_bytes_as
from mtpgraft.plan.values import ConvertTensor, HeadRow, OutTensor, copied


@dataclass(frozen=True, slots=True)
class HeadTensors:
    """A head as it will be written."""

    tensors: tuple[OutTensor, ...]
    rows: tuple[HeadRow, ...]
    n_blocks: int
    warnings: tuple[str, ...]


def require_head(model: GGUFModel, head: Head, *, even_partial: bool = False) -> None:
    """Raise RefusedError unless this model has a head that can be taken out."""
    if head.spec is not None and not head.spec.is_mtp:
        raise RefusedError(
            "its nextn keys do not mean an MTP head",
            file=model.name,
            where=f"architecture {head.architecture}",
            hint=head.spec.refuse_graft or "use a donor of another architecture",
        )
    if not head.blocks:
        said = f"{head.declared} declared, none present" if head.declared else "none declared, none present"
        raise RefusedError(
            "has no MTP head to take",
            file=model.name,
            expected="tensors of blk.N.nextn.*",
            found=said,
            hint="take the head from the original model, or from a conversion that kept it",
        )
    if head.state is HeadState.PARTIAL and not even_partial:
        raise RefusedError(
            f"its MTP head is not whole: {'; '.join(head.problems[:3]) or 'blocks are missing'}",
            file=model.name,
            expected="a whole head",
            found=f"{len(head.problems)} problems" if head.problems else "fewer blocks",
            hint=f"mtpgraft inspect {model.name} lists them; take the head from another donor",
        )


def plan_head(
    donor: GGUFModel,
    head: Head,
    wanted_type: str,
    first_index: int,
    alignment: int,
    byte_order: str,
    *,
    runnable_only: bool = False,
) -> HeadTensors:
    """The donor's head blocks as tensors of a file whose head begins at `blk.<first_index>`.

    runnable_only: leave out blocks that llama.cpp does not run (it aborts on them: a graph for one head block
        asserts that there is one, qwen35.cpp:503 @ b11434).
    """
    blocks = head.blocks
    warnings: list[str] = []
    single = head.spec is not None and head.spec.graph is GraphSupport.SINGLE
    if runnable_only and single and len(blocks) > 1:
        warnings.append(f"llama.cpp runs one head block of {head.architecture}: {len(blocks) - 1} more are left out")
        blocks = blocks[:1]
    tensors: list[OutTensor] = []
    rows: list[HeadRow] = []
    for number, block in enumerate(blocks):
        for tensor in block.tensors:
            name = f"blk.{first_index + number}.{block.local_name(tensor)}"
            out, warning = _one(donor, block, tensor, wanted_type, name, number, alignment, byte_order)
            tensors.append(out)
            rows.append(HeadRow(tensor.name, name, tensor.shape, tensor.type.name, out_type(out), out.n_bytes))
            if warning:
                warnings.append(warning)
    low = sorted({t.type.name for block in blocks for t in block.tensors if is_below_q8(t)})
    if low:
        warnings.append(
            f"the donor's head is stored as {', '.join(low)}: less than Q8_0 may cost acceptance, "
            "and a better donor is worth looking for"
        )
    return HeadTensors(tuple(tensors), tuple(rows), len(blocks), tuple(warnings))


def out_type(tensor: OutTensor) -> str:
    """Name of the type that a planned tensor has."""
    from mtpgraft.container import tensor_type

    return tensor_type(tensor.type_id).name


def retyped(
    model: GGUFModel,
    tensor: Tensor,
    local_name: str,
    wanted_type: str,
    name: str,
    alignment: int,
    byte_order: str,
    head_block: int | None,
) -> tuple[OutTensor, str | None]:
    """A tensor under a new name, copied or converted as `wanted_type` asks."""
    target, warning = choose_type(local_name, tensor, wanted_type, spec_for(model.architecture))
    source = model.source_of(tensor)
    same_order = byte_order == model.byte_order
    if target.id == tensor.type_id and same_order:
        return copied(tensor, source, alignment, name, head_block), warning
    data = ConvertTensor(source, tensor.offset, tensor.shape, tensor.type_id, model.byte_order)
    n_bytes = n_bytes_as(tensor.shape, target) if target.block_nbytes else tensor.n_bytes
    return OutTensor(name, tensor.shape, target.id, n_bytes, data, head_block), warning


def _one(
    donor: GGUFModel,
    block: HeadBlock,
    tensor: Tensor,
    wanted: str,
    name: str,
    number: int,
    alignment: int,
    byte_order: str,
) -> tuple[OutTensor, str | None]:
    return retyped(donor, tensor, block.local_name(tensor), wanted, name, alignment, byte_order, number)
