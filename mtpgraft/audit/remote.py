"""Audits repos on the Hub and files on servers: every GGUF and the safetensors of a repo, by ranges, in parallel."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from mtpgraft.audit import rules
from mtpgraft.audit.build import finding
from mtpgraft.audit.checkpoint import audit_files
from mtpgraft.audit.run import Audited, AuditOptions, failed, header_or_deep, import_heavy
from mtpgraft.audit.sidecars import profile_of
from mtpgraft.audit.upstream import card_base_models, upstream_repos
from mtpgraft.audit.values import AuditResult, Verdict
from mtpgraft.container import gguf_from_sources
from mtpgraft.errors import InputError, MtpgraftError
from mtpgraft.head import HeadState
from mtpgraft.modelspec import HubSpec, UrlSpec
from mtpgraft.open import fetched, open_sources
from mtpgraft.source.base import Source
from mtpgraft.source.http import HttpSource
from mtpgraft.source.hub import HubRepo, open_repo
from mtpgraft.source.splits import parse_shard_name

_NO_MODEL = re.compile(r"(?:^|[-_./])(?:mmproj|imatrix)", re.IGNORECASE)
"""Projectors and importance matrices: their names give them away, and their headers need not be fetched."""
_MAX_README_NBYTES = 4 * 2**20

OpenAll = Callable[[], list[Source]]


def audit_remote(spec: HubSpec | UrlSpec, label: str, options: AuditOptions) -> list[Audited]:
    """The results for a repo (one per GGUF in it, and one for its safetensors), for one file of it, or for a URL.

    Raises MtpgraftError when the repo itself cannot be read.
    """
    if isinstance(spec, UrlSpec):
        return [_audited(lambda: open_sources(spec), label, label, (), options)]
    repo = open_repo(spec)
    originals = originals_of(repo)
    if spec.quant is not None or (spec.file is not None and spec.file.endswith(".gguf")):
        first = repo.select_gguf(spec)[0]
        return [_audit_set(repo, first, originals, options)]
    firsts = [path for _, path in gguf_specs(repo)]
    import_heavy(options.deep, remote=True)
    with ThreadPoolExecutor(max(1, min(options.n_jobs, len(firsts)))) as pool:
        found = list(pool.map(lambda first: _audit_set(repo, first, originals, options), firsts))
    if repo.has_safetensors and "config.json" in repo.paths:
        found.append(Audited(_audit_checkpoint(repo)))
    if not found:
        raise InputError("holds no GGUF file and no safetensors checkpoint", file=repo.name)
    return found


def _audit_set(repo: HubRepo, first: str, originals: tuple[str, ...], options: AuditOptions) -> Audited:
    """One GGUF of a repo, split or not."""
    label = f"{repo.name}/{first}"
    shard = parse_shard_name(first.rsplit("/", 1)[-1])
    paths = [first]
    if shard is not None:
        folder = first.rpartition("/")[0]
        names = [shard.sibling(number) for number in range(1, shard.count + 1)]
        paths = [f"{folder}/{name}" if folder else name for name in names]
        missing = [path for path in paths if path not in repo.paths]
        if missing:
            observed = f"{len(paths) - len(missing)} shards"
            gone = finding(rules.SPLIT_INCOMPLETE, label, f"{len(paths)} shards", observed, tuple(missing[:8]))
            return Audited(AuditResult(label, Verdict.TRUNCATED, findings=(gone,)))
    folder = f"{repo.name}/{first}".rpartition("/")[0]
    return _audited(lambda: [repo.open(path) for path in paths], label, folder, originals, options)


def _audited(open_all: OpenAll, label: str, folder: str, originals: tuple[str, ...], options: AuditOptions) -> Audited:
    sources: list[Source] = []
    try:
        sources = open_all()
        model = gguf_from_sources(sources)
        asked = tuple(dict.fromkeys((*originals, *upstream_repos(model))))
        judged = header_or_deep(model, label, (), options.deep, norms=partial(options.lookup.norms_of, asked))
        if judged.head is not None and judged.head.state is HeadState.NONE:
            upstream = options.lookup.of(asked)
            judged = header_or_deep(model, label, (), options.deep, upstream)
        cost = fetched(model)
        return Audited(judged.result(fetched_nbytes=cost.n_bytes if cost else 0), profile_of(judged), folder)
    except MtpgraftError as error:
        n_bytes = sum(source.size for source in sources) or None
        n_fetched = sum(source.stats.n_bytes for source in sources if isinstance(source, HttpSource))
        return Audited(replace(failed(label, error, n_bytes), fetched_nbytes=n_fetched))
    finally:
        for source in sources:
            source.close()


def _audit_checkpoint(repo: HubRepo) -> AuditResult:
    opened: list[Source] = []

    def open_file(name: str) -> Source:
        opened.append(repo.open(name))
        return opened[-1]

    try:
        # Only the root's own files: a folder of a repo may hold another model.
        sizes = {file.path: file.size for file in repo.files if "/" not in file.path}
        result = audit_files(repo.name, sizes, open_file)
    except MtpgraftError as error:
        result = failed(repo.name, error)
    n_bytes = sum(source.stats.n_bytes for source in opened if isinstance(source, HttpSource))
    return replace(result, fetched_nbytes=n_bytes)


def originals_of(repo: HubRepo) -> tuple[str, ...]:
    """The repos that its GGUF files were made from: its own checkpoint, or `base_model` of its card."""
    if repo.has_safetensors and "config.json" in repo.paths:
        return (repo.repo_id,)
    if "README.md" not in repo.paths:
        return ()
    try:
        return card_base_models(repo.read_small("README.md", _MAX_README_NBYTES).decode("utf-8", "replace"))
    except MtpgraftError:
        return ()


def gguf_specs(repo: HubRepo) -> list[tuple[str, str]]:
    """Every GGUF model of a repo: a spec that names it at this commit, and its path (of a split set, one shard's)."""
    paths = [path for path in repo.paths if path.lower().endswith(".gguf") and not _NO_MODEL.search(path)]
    return [(str(HubSpec(repo.repo_id, repo.commit, file=path)), path) for path in _sets(paths)]


def _sets(paths: list[str]) -> list[str]:
    """One path per model: single files, and the lowest shard that is there of each set."""
    seen: set[tuple[str, str, int]] = set()
    found = []
    for path in sorted(paths):
        folder, _, name = path.rpartition("/")
        shard = parse_shard_name(name)
        if shard is not None:
            if (folder, shard.prefix, shard.count) in seen:
                continue
            seen.add((folder, shard.prefix, shard.count))
        found.append(path)
    return found
