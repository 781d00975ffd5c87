"""From what a user named to the models to audit: files, split sets, folders, lists, repos. Nothing is opened here."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from mtpgraft.errors import InputError, UsageError
from mtpgraft.modelspec import HubSpec, LocalSpec, UrlSpec, parse_spec
from mtpgraft.source.local import is_folder, read_text
from mtpgraft.source.splits import parse_shard_name

_SKIPPED_FOLDERS = frozenset({".git", "__pycache__"})
_MAX_LIST_NBYTES = 16 * 2**20
_MAX_TARGET = 8192  # PATH_MAX is 4096, and URLs are no longer


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


def expand(targets: Iterable[str | Path]) -> Iterator[Item]:
    """The models that the targets name, folders walked and lists read, in order, each once. A Path is always local.

    Raises UsageError for text that means nothing and InputError for a list that cannot be read.
    """
    seen: set[str] = set()
    for target in _listed(targets):
        spec, text = parse_spec(target), str(target)
        found = _local(text, spec.path) if isinstance(spec, LocalSpec) else [Item(Kind.REMOTE, text, spec=spec)]
        for item in found:
            identity = os.path.realpath(item.path) if item.path is not None else item.label
            if identity not in seen:
                seen.add(identity)
                yield item


def read_lists(targets: Iterable[str]) -> Iterator[str]:
    """The targets, with `@file` replaced by its lines: one target a line, blank lines and `#` comments left out.

    `@-` is what comes on standard input.
    """
    for target in targets:
        if not target.startswith("@"):
            yield target
            continue
        path = Path(target[1:])
        for number, line in enumerate(io.StringIO(_list_text(path)), 1):
            if len(line) > _MAX_TARGET:
                raise InputError("is too long for a target", file=path, where=f"line {number}", found=line[:80])
            entry = line.split("#", 1)[0].strip()
            if entry.startswith("@"):
                raise UsageError("a list names another list", file=path, found=entry)
            if entry:
                yield entry


def _list_text(path: Path) -> str:
    if str(path) != "-":
        return read_text(path, _MAX_LIST_NBYTES, "a list of targets")
    try:
        text = sys.stdin.read(_MAX_LIST_NBYTES + 1)
    except UnicodeDecodeError:
        raise InputError("is not text", file="standard input", expected="a list of targets") from None
    if len(text) > _MAX_LIST_NBYTES:
        raise InputError("is too large for a list of targets", file="standard input")
    return text


def _listed(targets: Iterable[str | Path]) -> Iterator[str | Path]:
    for target in targets:
        if isinstance(target, Path):
            yield target
        else:
            yield from read_lists([target])


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
    if not is_folder(path) and not os.path.lexists(path):
        return [Item(Kind.NOTHING, text, note="no such file or folder")]
    if is_folder(path):
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
