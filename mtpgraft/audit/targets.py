"""From what a user named to the models to audit: files, split sets, folders, lists, repos. Nothing is opened here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from mtpgraft.errors import InputError, UsageError
from mtpgraft.modelspec import HubSpec, LocalSpec, UrlSpec, parse_spec
from mtpgraft.source.splits import parse_shard_name

_SKIPPED_FOLDERS = frozenset({".git", "__pycache__"})
_MAX_LIST_NBYTES = 64 * 2**20


class Kind(Enum):
    """What an item is read as."""

    GGUF = "gguf"
    CHECKPOINT = "checkpoint"
    REMOTE = "remote"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Item:
    """One model to audit. label: as the user named it, or the file found under what was named.

    spec: what to open for a remote item. note: why there is nothing to open (NOTHING).
    """

    kind: Kind
    label: str
    path: Path | None = None
    spec: HubSpec | UrlSpec | None = None
    note: str = ""


def expand(targets: Iterable[str]) -> Iterator[Item]:
    """The models that the targets name, folders walked and lists read, in order, each once.

    Raises UsageError for text that means nothing and InputError for a list that cannot be read.
    """
    seen: set[str] = set()
    for text in read_lists(targets):
        spec = parse_spec(text)
        found = _local(text, spec.path) if isinstance(spec, LocalSpec) else [Item(Kind.REMOTE, text, spec=spec)]
        for item in found:
            identity = str(item.path.resolve()) if item.path is not None else item.label
            if identity not in seen:
                seen.add(identity)
                yield item


def read_lists(targets: Iterable[str]) -> Iterator[str]:
    """The targets, with `@file` replaced by its lines: one target a line, blank lines and `#` comments left out."""
    for target in targets:
        if not target.startswith("@"):
            yield target
            continue
        path = Path(target[1:])
        try:
            if path.stat().st_size > _MAX_LIST_NBYTES:
                raise InputError("is too large to be a list", file=path)
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
            raise InputError(f"the list cannot be read: {reason}", file=path) from None
        for line in text.splitlines():
            entry = line.split("#", 1)[0].strip()
            if entry.startswith("@"):
                raise UsageError("a list names another list", file=path, found=entry)
            if entry:
                yield entry


def gguf_in(folder: Path, names: Iterable[str]) -> list[Path]:
    """The GGUF files of these names, of each split set the lowest shard that is there."""
    seen: set[tuple[str, int]] = set()
    found: list[Path] = []
    for name in sorted(names):
        if not name.lower().endswith(".gguf"):
            continue
        shard = parse_shard_name(name)
        if shard is not None:
            if (shard.prefix, shard.count) in seen:
                continue
            seen.add((shard.prefix, shard.count))
        found.append(folder / name)
    return found


def _local(text: str, path: Path) -> list[Item]:
    if not path.exists():
        return [Item(Kind.NOTHING, text, note="no such file or folder")]
    if path.is_dir():
        items = list(_walk(path))
        return items or [Item(Kind.NOTHING, text, note="holds no GGUF file and no safetensors checkpoint")]
    if path.suffix in (".safetensors", ".json"):
        return [Item(Kind.CHECKPOINT, str(path.parent), path.parent)]
    return [Item(Kind.GGUF, text, path)]


def _walk(root: Path) -> Iterator[Item]:
    for folder_name, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED_FOLDERS)
        folder = Path(folder_name)
        for path in gguf_in(folder, names):
            yield Item(Kind.GGUF, str(path), path)
        has_tensors = any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names)
        if "config.json" in names and has_tensors:
            yield Item(Kind.CHECKPOINT, str(folder), folder)
