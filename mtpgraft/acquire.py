"""Any donor becomes a local GGUF with its head.

A remote one is extracted into the cache once, and found there the next time; a local checkpoint into a temporary file.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mtpgraft.container import GGUFModel, tensor_type
from mtpgraft.modelspec import HubSpec, LocalSpec, UrlSpec, is_remote, parse_spec
from mtpgraft.open import names_checkpoint, open_donor
from mtpgraft.plan import DONOR, SurgeryPlan
from mtpgraft.plan.types import KEEP
from mtpgraft.plan.values import ConvertTensor, CopyBytes
from mtpgraft.source import cache
from mtpgraft.source.base import Source
from mtpgraft.source.cache import HeadKey
from mtpgraft.source.http import HttpSource
from mtpgraft.source.ranges import Range
from mtpgraft.surgery import RunOptions, extract


@dataclass(frozen=True, slots=True)
class _Remote:
    """A remote donor, pinned. spec: names the same bytes next year. blocks: identities of its files in the cache.

    local: its first file, when the Hugging Face cache holds all of it.
    """

    spec: str
    key: HeadKey | None
    blocks: tuple[str, ...]
    local: Path | None = None


_numbers = itertools.count()
_acquiring: dict[str, threading.Lock] = {}
_registry = threading.Lock()


@contextmanager
def _only_one(key: HeadKey) -> Iterator[None]:
    """Threads that want the same head wait for the first of them; processes write files of their own."""
    with _registry:
        lock = _acquiring.setdefault(key.id, threading.Lock())
    with lock:
        yield


def acquire_donor(spec: str | Path, kind: str = DONOR, run: RunOptions | None = None, wanted_type: str = KEEP) -> Path:
    """A local file with the head of the donor that `spec` names: a local spec's own path, or a head file in the cache.

    A remote head is fetched, written and verified once, also when several threads ask for it; an interrupted run goes
    on from what it has. It keeps its own types, but a checkpoint's are written as `wanted_type`: by way of BF16, FP8
    would be rounded twice.
    run: its callbacks are called as by `surgery.extract`.
    Raises what `open_model` and `surgery.extract` raise.
    """
    parsed = parse_spec(spec)
    if isinstance(parsed, LocalSpec):
        return parsed.path
    remote = _locate_url(parsed, kind) if isinstance(parsed, UrlSpec) else _locate_repo(parsed, kind, wanted_type)
    if remote.local is not None:
        return remote.local
    # Without an ETag nothing says whether it is the same file next time: kept under a key of its own, made anew.
    key = remote.key or HeadKey(remote.spec, "unknown", (remote.spec.partition("?")[0],), kind)
    with _only_one(key):
        found = cache.cached_head(key) if remote.key is not None else None
        return found if found is not None else _into_cache(remote, key, kind, run or RunOptions())


def _into_cache(remote: _Remote, key: HeadKey, kind: str, run: RunOptions) -> Path:
    out = cache.head_path(key)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        extract(remote.spec, out, kind, key.wanted_type, _with_prefetch(run))
    except BaseException:
        with suppress(OSError):
            out.parent.rmdir()  # not listed as an entry of the cache; fails when an older head is in it
        raise
    cache.store_head(key, out)
    for identity in remote.blocks:
        cache.remove_blocks(identity)
    return out


@contextmanager
def local_donor(
    spec: str | Path, folder: Path, run: RunOptions | None = None, wanted_type: str = KEEP
) -> Iterator[str]:
    """What `surgery.graft` takes as donor for this spec: a local GGUF's own name, or a head file made of the rest.

    wanted_type: of the graft's head; a checkpoint's head file is written in it at once.
    folder: where the head of a checkpoint is kept meanwhile; it is removed afterwards. With `run.dry_run` nothing but
    headers is read: a checkpoint's head file then has the right header and no data, a remote GGUF is named itself.
    Raises what `acquire_donor` raises.
    """
    run = run or RunOptions()
    remote = is_remote(str(spec))
    if remote and not run.dry_run:
        yield str(acquire_donor(spec, run=run, wanted_type=wanted_type))
        return
    with open_donor(spec, run.max_header_nbytes) as donor:
        is_gguf = isinstance(donor, GGUFModel)
    if is_gguf:
        yield str(spec)
        return
    head = folder / f".mtpgraft-head.{os.getpid()}-{next(_numbers)}.mtpgraft-tmp"
    try:
        outcome = extract(spec, head, wanted_type=wanted_type, run=replace(run, in_place=False, overwrite=True))
        if run.dry_run:
            header = outcome.plan.files[0].header()
            with head.open("wb") as file:
                file.write(header.raw)
                file.truncate(header.file_nbytes)
        yield str(head)
    finally:
        head.unlink(missing_ok=True)


def prefetch(plan: SurgeryPlan) -> None:
    """Begin to fetch everything that executing `plan` will read from remote files, in the order it will be read."""
    wanted: dict[int, tuple[HttpSource, list[Range]]] = {}
    for source, start, n_bytes in _reads(plan):
        if isinstance(source, HttpSource):
            wanted.setdefault(id(source), (source, []))[1].append((start, start + n_bytes))
    for source, ranges in wanted.values():
        source.prefetch(ranges)


def _reads(plan: SurgeryPlan) -> Iterator[tuple[Source, int, int]]:
    for file in plan.files:
        for tensor in file.tensors:
            data = tensor.data
            if isinstance(data, CopyBytes):
                yield data.source, data.offset, data.n_bytes
            elif isinstance(data, ConvertTensor):
                n_bytes = tensor_type(data.from_type).nbytes(data.shape)
                if n_bytes is not None:
                    yield data.source, data.offset, n_bytes
            else:
                yield from data.rows.ranges


def _with_prefetch(run: RunOptions) -> RunOptions:
    tell = run.on_plan

    def on_plan(plan: SurgeryPlan) -> None:
        if tell is not None:
            tell(plan)
        prefetch(plan)

    return replace(run, on_plan=on_plan, dry_run=False, overwrite=True, in_place=False)


def _locate_repo(spec: HubSpec, kind: str, wanted_type: str) -> _Remote:
    from mtpgraft.source.hub import open_repo

    repo = open_repo(spec)
    pinned = replace(spec, revision=repo.commit, is_bare=False)
    if names_checkpoint(spec, repo):
        paths = tuple(path for path in repo.paths if path.endswith((".safetensors", ".json")))
    else:
        wanted_type = KEEP
        paths = repo.select_gguf(spec)
        pinned = replace(pinned, quant=None, file=paths[0])
        cached = [repo.cached_path(path) for path in paths]
        if all(cached):
            return _Remote(str(pinned), None, (), cached[0])
    key = HeadKey(f"{repo.endpoint}/{repo.repo_id}", repo.commit, paths, kind, wanted_type)
    return _Remote(str(pinned), key, tuple(repo.identity(path) for path in paths))


def _locate_url(spec: UrlSpec, kind: str) -> _Remote:
    from mtpgraft.source.url import blocks_identity, open_url, shard_urls, shown

    etags: list[str | None] = []
    urls = shard_urls(spec.url)
    for url in urls:
        source = open_url(url)
        etags.append(source.identity)
        source.close()
    if not all(etag and not etag.startswith("W/") for etag in etags):
        return _Remote(spec.url, None, ())
    identities = tuple(blocks_identity(url, etag or "") for url, etag in zip(urls, etags, strict=True))
    key = HeadKey(shown(urls[0]).rpartition("/")[0], cache.hash_of(" ".join(identities)), tuple(map(shown, urls)), kind)
    return _Remote(spec.url, key, identities)
