"""GGUF headers as values. `open_gguf` is the way in: it reads headers only, never tensor data."""

from __future__ import annotations

from pathlib import Path

from mtpgraft.container.gguf import MAX_HEADER_NBYTES, read_shard
from mtpgraft.container.types import TENSOR_TYPES, TensorType, ValueType, tensor_type
from mtpgraft.container.values import DEFAULT_ALIGNMENT, GGUFModel, Key, Scalar, Shard, Tensor
from mtpgraft.errors import InvalidFileError
from mtpgraft.source.base import Source
from mtpgraft.source.local import LocalFile
from mtpgraft.source.splits import find_local_shards, parse_shard_name

__all__ = [
    "DEFAULT_ALIGNMENT",
    "MAX_HEADER_NBYTES",
    "TENSOR_TYPES",
    "GGUFModel",
    "Key",
    "Scalar",
    "Shard",
    "Tensor",
    "TensorType",
    "ValueType",
    "gguf_from_sources",
    "open_gguf",
    "tensor_type",
]


def open_gguf(path: str | Path, max_header_nbytes: int = MAX_HEADER_NBYTES) -> GGUFModel:
    """Open a GGUF file, any shard of a split set, or a folder that holds one model. The caller closes it.

    Raises InputError when the path or a shard is missing, InvalidFileError or TruncatedError for a bad header.
    """
    sources: list[Source] = []
    try:
        for shard_path in find_local_shards(Path(path)):
            sources.append(LocalFile.open(shard_path))
        return gguf_from_sources(sources, max_header_nbytes)
    except BaseException:
        for source in sources:
            source.close()
        raise


def gguf_from_sources(sources: list[Source], max_header_nbytes: int = MAX_HEADER_NBYTES) -> GGUFModel:
    """The model that these sources make up, in shard order; split keys are checked against each other."""
    shards = tuple(read_shard(source, i, max_header_nbytes) for i, source in enumerate(sources))
    model = GGUFModel(shards)
    _check_split_keys(model)
    return model


def _check_split_keys(model: GGUFModel) -> None:
    """What llama.cpp's loader checks of a split set (llama_model_loader, src/llama-model-loader.cpp @ b11434): it reads
    the count of the first shard alone, and no shard's number where that count is 0 or 1."""
    count = _split_key(model.shards[0], "split.count", ValueType.UINT16, required=model.is_split)
    if count != len(model.shards) and (model.is_split or (count or 0) > 1):  # gguf-split --merge leaves 0
        raise _not_of_this_set(model, model.shards[0], "split.count", len(model.shards), count)
    seen: set[str] = set()
    for number, shard in enumerate(model.shards):
        if shard.byte_order != model.byte_order:
            raise InvalidFileError("differs in byte order from the first shard", file=shard.source.name)
        if model.is_split:
            found = _split_key(shard, "split.no", ValueType.UINT16, required=True)
            if found != number:
                raise _not_of_this_set(model, shard, "split.no", number, found)
        for tensor in shard.tensors:
            if tensor.name in seen:
                raise InvalidFileError(
                    "a tensor is in two shards", file=shard.source.name, where=f"tensor {tensor.name}"
                )
            seen.add(tensor.name)
    if not model.is_split:
        return
    total = _split_key(model.shards[0], "split.tensors.count", ValueType.INT32, required=True)
    if total != len(seen):
        raise InvalidFileError(
            "the shards do not hold all tensors",
            file=model.name,
            where="key split.tensors.count",
            expected=total,
            found=len(seen),
        )


def _split_key(shard: Shard, name: str, value_type: ValueType, *, required: bool) -> int | None:
    key = shard.key_by_name.get(name)
    if key is None and not required:
        return None
    if key is None or key.type is not value_type:
        raise InvalidFileError(
            "lacks what a shard of a split set has" if key is None else "has the wrong type",
            file=shard.source.name,
            where=f"key {name}",
            expected=value_type.name.lower(),
            found="nothing" if key is None else key.type.name.lower(),
        )
    return int(key.scalar())


def _not_of_this_set(
    model: GGUFModel, shard: Shard, key_name: str, expected: int, found: int | None
) -> InvalidFileError:
    renamed = not model.is_split and parse_shard_name(shard.source.name.rsplit("/", 1)[-1]) is None
    return InvalidFileError(
        "is a shard of a split set under another name" if renamed else "does not belong to this split set",
        file=shard.source.name,
        where=f"key {key_name}",
        expected=expected,
        found=found,
        hint="give the shards the names that gguf-split gave them",
    )
