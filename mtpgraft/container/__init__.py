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
    seen: dict[str, int] = {}
    for number, shard in enumerate(model.shards):
        if shard.byte_order != model.byte_order:
            raise InvalidFileError("differs in byte order from the first shard", file=shard.source.name)
        for key_name, expected in (("split.count", len(model.shards)), ("split.no", number)):
            key = shard.key_by_name.get(key_name)
            if key is not None and not key.is_array and key.scalar() != expected:
                if key_name == "split.count" and not model.is_split and key.scalar() == 0:
                    continue  # gguf-split --merge leaves split.count = 0
                renamed = not model.is_split and parse_shard_name(shard.source.name.rsplit("/", 1)[-1]) is None
                raise InvalidFileError(
                    "is a shard of a split set under another name" if renamed else "does not belong to this split set",
                    file=shard.source.name,
                    where=f"key {key_name}",
                    expected=expected,
                    found=key.scalar(),
                    hint="give the shards the names that gguf-split gave them",
                )
        for tensor in shard.tensors:
            if tensor.name in seen:
                raise InvalidFileError(
                    "a tensor is in two shards", file=shard.source.name, where=f"tensor {tensor.name}"
                )
            seen[tensor.name] = number
    total = model.key("split.tensors.count")
    if model.is_split and total is not None and total.scalar() != len(seen):
        raise InvalidFileError(
            "the shards do not hold all tensors",
            file=model.name,
            where="key split.tensors.count",
            expected=total.scalar(),
            found=len(seen),
        )
