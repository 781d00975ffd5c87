"""Split sets: `NAME-00001-of-00003.gguf`, as llama.cpp's gguf-split names them (llama_split_path, src/llama.cpp)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mtpgraft.errors import InputError
from mtpgraft.source.local import folder_entries, is_folder

_SHARD_NAME = re.compile(r"^(?P<prefix>.+)-(?P<no>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ShardName:
    """The parts of a shard's file name. `number` counts from 1."""

    prefix: str
    number: int
    count: int

    def sibling(self, number: int) -> str:
        """File name of another shard of the same set."""
        return shard_file_name(self.prefix, number, self.count)


def shard_file_name(prefix: str, number: int, count: int) -> str:
    """`prefix-00001-of-00003.gguf` for number 1 of 3."""
    return f"{prefix}-{number:05d}-of-{count:05d}.gguf"


def parse_shard_name(file_name: str) -> ShardName | None:
    """The parts of a shard's name, or None for the name of a single file."""
    match = _SHARD_NAME.match(file_name)
    if match is None:
        return None
    return ShardName(match["prefix"], int(match["no"]), int(match["count"]))


def find_local_shards(path: Path) -> tuple[Path, ...]:
    """The files of the GGUF that `path` names: a single file, any shard of a set, or a folder that holds one set.

    Raises InputError when shards are missing, or a folder holds no GGUF or more than one.
    """
    if is_folder(path):
        return find_local_shards(_only_gguf_in(path))
    shard = parse_shard_name(path.name)
    if shard is None:
        return (path,)
    paths = tuple(path.with_name(shard.sibling(number)) for number in range(1, shard.count + 1))
    there = {p.name for p in folder_entries(path.parent)} if is_folder(path.parent) else set()
    missing = [p.name for p in paths if p.name not in there]
    if missing or not 1 <= shard.number <= shard.count:
        raise InputError(
            "the split set is incomplete",
            file=path,
            expected=f"{shard.count} shards",
            found=f"missing {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}" if missing else path.name,
            hint="download the missing shards into the same folder",
        )
    return paths


def _only_gguf_in(folder: Path) -> Path:
    files = sorted(p for p in folder_entries(folder) if p.suffix == ".gguf" and p.is_file())
    firsts = [p for p in files if (shard := parse_shard_name(p.name)) is None or shard.number == 1]
    if len(firsts) == 1:
        return firsts[0]
    if not firsts:
        raise InputError(
            "holds no GGUF file" if not files else "holds shards but no first shard",
            file=folder,
            expected="one GGUF file or one split set",
            found=f"{len(files)} .gguf files",
        )
    names = ", ".join(p.name for p in firsts[:8])
    raise InputError(
        "holds several GGUF models",
        file=folder,
        expected="one GGUF file or one split set",
        found=names,
        hint="name the file itself",
    )
