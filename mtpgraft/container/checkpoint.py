"""A Hugging Face checkpoint: config.json and the tensors of its safetensors files, read no further than asked for.

Only the headers of the shards that hold a wanted tensor are read: the head of a model of 15 shards lies in one or two.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mtpgraft.container.safetensors import StoredTensor, read_safetensors, shard_of_tensor
from mtpgraft.errors import InputError, InvalidFileError
from mtpgraft.jsontext import Json, parse_json
from mtpgraft.source.base import Source, read_exactly
from mtpgraft.source.local import LocalFile, folder_entries, is_file, is_folder

CONFIG_NAME = "config.json"
INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"

# Largest seen: config.json of a quantized multimodal model 1 MB, index of a model of 96,000 tensors 9 MB.
_MAX_CONFIG_NBYTES = 16 * 2**20
_MAX_INDEX_NBYTES = 32 * 2**20
_MAX_DECODED_NBYTES = 48 * 2**20
"""Some 200,000 tensors: with the tables made of an index that is 150 MB."""

OpenFile = Callable[[str], Source]
"""Opens one of the checkpoint's files by its name."""


@dataclass(slots=True)
class _Shards:
    """The shards opened so far, and their headers."""

    open_file: OpenFile
    headers: dict[str, dict[str, StoredTensor]] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)

    def header(self, file_name: str) -> dict[str, StoredTensor]:
        if file_name not in self.headers:
            source = self.open_file(file_name)
            try:
                self.headers[file_name] = read_safetensors(source)
            except BaseException:
                source.close()
                raise
            self.sources.append(source)
        return self.headers[file_name]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint as found.

    name: the folder or repository, as a user would name it.
    config: config.json as decoded.
    file_of: the file that each tensor is in, by tensor name, in the order of the header or index.
    """

    name: str
    config: Mapping[str, Json] = field(repr=False)
    file_of: Mapping[str, str] = field(repr=False)
    _shards: _Shards = field(repr=False, compare=False)

    def __contains__(self, name: str) -> bool:
        return name in self.file_of

    def tensor(self, name: str) -> StoredTensor:
        """One tensor. Raises InvalidFileError when the index promises what its shard does not hold."""
        file_name = self.file_of[name]
        tensor = self._shards.header(file_name).get(name)
        if tensor is None:
            raise InvalidFileError(
                "the index says that a tensor is in this file, and it is not",
                file=f"{self.name}/{file_name}",
                where=f"tensor {name}",
                hint="index and files are of different revisions: download them again",
            )
        return tensor

    @property
    def sources(self) -> tuple[Source, ...]:
        """The files opened so far."""
        return tuple(self._shards.sources)

    def close(self) -> None:
        for source in self._shards.sources:
            source.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_checkpoint(path: str | Path) -> Checkpoint:
    """A local checkpoint: its folder, or any of its files. The caller closes it.

    Raises InputError when nothing is there or the folder holds no safetensors checkpoint, InvalidFileError or
    TruncatedError for a bad header.
    """
    folder = Path(path)
    if is_file(folder):
        folder = folder.parent
    if not is_folder(folder):
        raise InputError("no such folder", file=path, hint="check the path")
    names = {entry.name for entry in folder_entries(folder) if entry.is_file()}
    return checkpoint_from_files(str(folder), names, lambda name: LocalFile.open(folder / name))


def is_checkpoint(file_names: Collection[str]) -> bool:
    """Whether files of these names make up a safetensors checkpoint."""
    return CONFIG_NAME in file_names and (INDEX_NAME in file_names or bool(_single(file_names)))


def checkpoint_from_files(name: str, file_names: Collection[str], open_file: OpenFile) -> Checkpoint:
    """The checkpoint that files of these names make up; `open_file` opens one of them.

    With an index, no shard is opened yet. The index wins over a lone file, as in llama.cpp's converter.
    Raises InputError when config.json or the tensors are missing.
    """
    if CONFIG_NAME not in file_names:
        raise InputError(
            "is no Hugging Face checkpoint: config.json is missing",
            file=name,
            hint="name the folder or repository of the original model",
        )
    config = _read_json(name, CONFIG_NAME, open_file, _MAX_CONFIG_NBYTES)
    if not isinstance(config, dict):
        raise InvalidFileError("is not a JSON object", file=f"{name}/{CONFIG_NAME}")
    shards = _Shards(open_file)
    if INDEX_NAME in file_names:
        index = _read_json(name, INDEX_NAME, open_file, _MAX_INDEX_NBYTES)
        file_of = shard_of_tensor(index, f"{name}/{INDEX_NAME}")
        missing = sorted(set(file_of.values()) - set(file_names))
        if missing:
            raise InputError(
                f"{len(missing)} of its shards are missing",
                file=name,
                where=missing[0],
                hint="download the checkpoint again",
            )
        return Checkpoint(name, config, file_of, shards)
    only = _single(file_names)
    if not only:
        raise InputError(
            "holds no safetensors file",
            file=name,
            expected=f"{SINGLE_NAME} or {INDEX_NAME}",
            hint="checkpoints of *.bin files are not read: convert them with llama.cpp's convert_hf_to_gguf.py",
        )
    return Checkpoint(name, config, dict.fromkeys(shards.header(only), only), shards)


def _single(file_names: Collection[str]) -> str | None:
    """The one file that holds all tensors, or None."""
    if SINGLE_NAME in file_names:
        return SINGLE_NAME
    found = [name for name in file_names if name.endswith(".safetensors") and "/" not in name]
    return found[0] if len(found) == 1 else None


def _read_json(name: str, file_name: str, open_file: OpenFile, max_nbytes: int) -> Json:
    source = open_file(file_name)
    try:
        if source.size > max_nbytes:
            raise InvalidFileError("is too large", file=source.name, expected=max_nbytes, found=source.size)
        raw = read_exactly(source, 0, source.size, "the file")
        return parse_json(raw, f"{name}/{file_name}", max_decoded_nbytes=_MAX_DECODED_NBYTES)
    finally:
        source.close()
