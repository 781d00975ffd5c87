"""mtpgraft's own cache folder: `$MTPGRAFT_CACHE`, else `$XDG_CACHE_HOME/mtpgraft`, else `~/.cache/mtpgraft`
(Windows: `%LOCALAPPDATA%\\mtpgraft\\Cache`).

    heads/ID/NAME.gguf + about.json     extracted heads of remote donors, whole and verified
    blocks/ID/data + journal + about    what has been fetched of a remote file: headers, and heads not whole yet
    trees/ID.json                       the files of a repo at a commit (never changes), and which commit a branch was

ID is a hash of what the entry stands for. Blocks go when their head is whole, or when nothing has used them for
`BLOCKS_KEPT_S`; heads stay until `mtpgraft cache rm`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from mtpgraft.errors import MtpgraftError
from mtpgraft.jsontext import Json, parse_json
from mtpgraft.modelspec import expanded
from mtpgraft.source.cache_blocks import ABOUT_NAME, DATA_NAME, BlockStore
from mtpgraft.source.local import read_text

HEADS, BLOCKS, TREES = "heads", "blocks", "trees"
BLOCKS_KEPT_S = 7 * 24 * 3600
"""Seconds that unfinished blocks are kept: a week, so that a broken download can wait for the weekend."""


_MAX_JSON_NBYTES = 32 * 2**20
"""The list of a repo of 100,000 files takes 15 MB."""
HEADS_FORMAT = 1
"""Part of every HeadKey. To be raised when `extract` writes something else for the same donor, so that no old head
file is taken for what a newer mtpgraft would make."""


def cache_folder() -> Path:
    """The cache folder as the environment names it now. It need not exist."""
    own = os.environ.get("MTPGRAFT_CACHE")
    if own:
        return expanded(own)
    if sys.platform == "win32" and "LOCALAPPDATA" in os.environ:
        return Path(os.environ["LOCALAPPDATA"]) / "mtpgraft" / "Cache"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mtpgraft"


@dataclass(frozen=True, slots=True)
class HeadKey:
    """What a cached head was made from and how.

    origin: repo or URL. commit: of the repo, or the ETag behind a URL. files: paths in the repo, shards in order.
    kind: "donor" or "sidecar". wanted_type: as for plan_extract.
    """

    origin: str
    commit: str
    files: tuple[str, ...]
    kind: str
    wanted_type: str = "keep"
    made_by: int = HEADS_FORMAT

    @property
    def id(self) -> str:
        return hash_of(json.dumps(asdict(self), sort_keys=True))

    @property
    def file_name(self) -> str:
        """A name that says what it is; never one that looks like a shard's."""
        last = self.files[0].rsplit("/", 1)[-1]
        stem = last.removesuffix(".gguf").removesuffix(".safetensors")
        shard = stem.rpartition("-of-")[0].rpartition("-")[0] if "-of-" in stem else ""
        return f"{shard or stem}.{self.kind}.gguf"


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One thing in the cache.

    kind: "head", "blocks", "trees" or "unfinished". n_bytes: on the disk. used: seconds since 1970.
    """

    kind: str
    name: str
    path: Path
    n_bytes: int
    used: float


def hash_of(text: str) -> str:
    """A folder name for whatever `text` stands for."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def head_path(key: HeadKey) -> Path:
    """Where the head of this key is or will be."""
    return cache_folder() / HEADS / key.id / key.file_name


def cached_head(key: HeadKey) -> Path | None:
    """The head file of this key, or None. A file without its about.json was not finished."""
    path = head_path(key)
    return path if path.is_file() and (path.parent / ABOUT_NAME).is_file() else None


def store_head(key: HeadKey, head: Path) -> Path:
    """Take a complete head file into the cache (moved, or noted if it was written there already)."""
    path = head_path(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    if head != path:
        shutil.move(head, path)
    about = {"name": f"{key.origin}@{key.commit[:12]}:{key.files[0]} ({key.kind})", **asdict(key)}
    _write_json(path.parent / ABOUT_NAME, about)
    return path


def blocks_path(identity: str) -> Path:
    """The block folder of the remote file with this identity (its ETag, or its commit and path)."""
    return cache_folder() / BLOCKS / hash_of(identity)


def open_blocks(identity: str | None, size: int, name: str) -> BlockStore:
    """The block store of a remote file; a temporary one when nothing names its content (identity None).

    name: for people who list the cache. Forgets, by the way, what has not been used for a week.
    """
    store = BlockStore.open(None if identity is None else blocks_path(identity), size, name)
    _prune_blocks()
    return store


def _prune_blocks() -> None:
    with suppress(OSError):
        for folder in (cache_folder() / BLOCKS).iterdir():
            if time.time() - _used(folder) > BLOCKS_KEPT_S:
                shutil.rmtree(folder, ignore_errors=True)


def read_tree(identity: str) -> Mapping[str, Json] | None:
    """A cached JSON document, or None."""
    return _read_json(_tree_path(identity))


def write_tree(identity: str, value: dict[str, object]) -> None:
    """Keep a JSON document; a cache that cannot be written is no error."""
    with suppress(OSError):
        path = _tree_path(identity)
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_json(path, value)


def list_entries() -> list[CacheEntry]:
    """Everything in the cache, heads first; the trees count as one entry."""
    entries: list[CacheEntry] = []
    for kind, folder in (("head", HEADS), ("blocks", BLOCKS)):
        with suppress(OSError):
            for path in sorted((cache_folder() / folder).iterdir()):
                what = kind if (path / ABOUT_NAME).is_file() else "unfinished"
                entries.append(CacheEntry(what, _name(path), path, _disk_nbytes(path), _used(path)))
    trees = cache_folder() / TREES
    if trees.is_dir():
        entries.append(CacheEntry("trees", "file lists of repos", trees, _disk_nbytes(trees), _used(trees)))
    return entries


def remove(entries: Iterable[CacheEntry] | None = None) -> int:
    """Remove these entries, or all. Returns the bytes freed."""
    freed = 0
    for entry in list_entries() if entries is None else entries:
        shutil.rmtree(entry.path, ignore_errors=True)
        if not entry.path.exists():
            freed += entry.n_bytes
    return freed


def remove_blocks(identity: str) -> None:
    """Remove the blocks of one remote file, because its head is whole."""
    shutil.rmtree(blocks_path(identity), ignore_errors=True)


def _tree_path(identity: str) -> Path:
    return cache_folder() / TREES / f"{hash_of(identity)}.json"


def _write_json(path: Path, value: object) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(path)


def _name(folder: Path) -> str:
    name = (_read_json(folder / ABOUT_NAME) or {}).get("name")
    return name if isinstance(name, str) else folder.name


def _read_json(path: Path) -> Mapping[str, Json] | None:
    """A record as `_write_json` wrote it; None when it is missing or damaged."""
    try:
        value = parse_json(read_text(path, _MAX_JSON_NBYTES, "a record of the cache").encode(), path)
    except MtpgraftError:
        return None
    return value if isinstance(value, dict) else None


def _used(path: Path) -> float:
    for file in (path / ABOUT_NAME, path):
        with suppress(OSError):
            return file.stat().st_mtime
    return 0.0


def _disk_nbytes(folder: Path) -> int:
    """Bytes on the disk, which for sparse files is less than their length."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            stat = path.lstat()
            blocks = getattr(stat, "st_blocks", None)
            total += blocks * 512 if blocks is not None and path.name == DATA_NAME else stat.st_size
    return total
