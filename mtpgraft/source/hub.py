"""Hugging Face: what a repo holds at a commit, and its files as sources.

Everything that talks to the Hub's API goes through huggingface_hub, which brings accounts, tokens, endpoints and the
offline switch; it is imported on first use because that takes a third of a second. Bytes come by ranges (http.py) from
where the Hub's redirect points to, without the token. Files that are in the Hugging Face cache are read there.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from mtpgraft import __version__
from mtpgraft.errors import InputError, InvalidFileError
from mtpgraft.modelspec import DEFAULT_ENDPOINT, HubSpec, endpoint
from mtpgraft.source import cache
from mtpgraft.source.base import Source, read_exactly
from mtpgraft.source.http import open_http
from mtpgraft.source.hub_errors import hub_error, translated_hub
from mtpgraft.source.hub_select import select_gguf
from mtpgraft.source.local import LocalFile
from mtpgraft.source.retries import RetryPolicy, retrying
from mtpgraft.source.transport import Resolved, is_offline, offline_error

MAX_SMALL_NBYTES = 64 * 2**20
"""Largest file read whole: tokenizer.json of a 262 k vocabulary is 33 MB, an index of 100 shards under 10 MB."""
_LIBRARY = "mtpgraft"
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_API_TIMEOUT_S = 30.0
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RepoFile:
    """A file of a repo. etag: its sha256 (LFS, Xet) or git blob id, which is what the Hub gives as its ETag."""

    path: str
    size: int
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class HubRepo:
    """A repo at one commit. local: its folder in the Hugging Face cache when nothing else may be asked (offline)."""

    repo_id: str
    commit: str
    files: tuple[RepoFile, ...]
    endpoint: str = DEFAULT_ENDPOINT
    local: Path | None = None
    policy: RetryPolicy = field(default=RetryPolicy(), repr=False)

    @property
    def name(self) -> str:
        return f"hf:{self.repo_id}"

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(file.path for file in self.files)

    @property
    def has_gguf(self) -> bool:
        return any(path.lower().endswith(".gguf") for path in self.paths)

    @property
    def has_safetensors(self) -> bool:
        return any(path.endswith(".safetensors") for path in self.paths)

    def file(self, path: str) -> RepoFile:
        """Raises InputError when the repo has no such file."""
        for file in self.files:
            if file.path == path:
                return file
        raise InputError("no such file in the repo", file=f"{self.name}/{path}", found=f"{len(self.files)} files")

    def select_gguf(self, spec: HubSpec) -> tuple[str, ...]:
        """The paths of the GGUF that `spec` names, shards in order."""
        return select_gguf(self.paths, self.name, spec.quant, spec.file)

    def open(self, path: str) -> Source:
        """The file at `path`: from the Hugging Face cache when it is there, else by ranges. The caller closes it."""
        file = self.file(path)
        cached = self.cached_path(path)
        if cached is not None:
            return LocalFile.open(cached)
        name = f"{self.name}/{path}"
        store = cache.open_blocks(self.identity(path), file.size, f"{name} @{self.commit[:12]}")
        known = Resolved("", file.size, file.etag)
        return open_http(name, lambda: self._resolve(file), lambda _: store, self.policy, known)

    def read_small(self, path: str, max_nbytes: int = MAX_SMALL_NBYTES) -> bytes:
        """A whole small file (JSON). Raises InvalidFileError when it is larger than `max_nbytes`."""
        size = self.file(path).size
        if size > max_nbytes:
            raise InvalidFileError(
                "is too large to be what it should be", file=f"{self.name}/{path}",
                expected=f"at most {max_nbytes} bytes", found=f"{size} bytes",
            )  # fmt: skip
        source = self.open(path)
        try:
            return read_exactly(source, 0, source.size, path)
        finally:
            source.close()

    def cached_path(self, path: str) -> Path | None:
        """Where the Hugging Face cache has this file whole, or None."""
        if self.local is not None:
            return self.local / path
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repo_id, path, revision=self.commit)
        if not isinstance(found, str) or Path(found).stat().st_size != self.file(path).size:
            return None
        return Path(found)

    def identity(self, path: str) -> str:
        """What names the content of a file: blocks are kept under it."""
        return self.file(path).etag or f"{self.endpoint}/{self.repo_id}/{self.commit}/{path}"

    def _resolve(self, file: RepoFile) -> Resolved:
        """Ask the Hub where the bytes are. A location on another host gets no token."""
        name = f"{self.name}/{file.path}"
        if is_offline():
            raise offline_error(name)
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but not re-exported

        url = hf_hub_url(self.repo_id, file.path, revision=self.commit, endpoint=self.endpoint)
        with translated_hub(name, self.repo_id):
            found = get_hf_file_metadata(
                url, timeout=_API_TIMEOUT_S, endpoint=self.endpoint, library_name=_LIBRARY, library_version=__version__
            )
        if (found.size is not None and found.size != file.size) or (file.etag and found.etag not in (None, file.etag)):
            raise InputError(
                "is not the file that the repo lists", file=name, expected=f"{file.size} bytes, ETag {file.etag}",
                found=f"{found.size} bytes, ETag {found.etag}",
            )  # fmt: skip
        same = _origin(found.location) == _origin(self.endpoint)
        headers = build_hf_headers(library_name=_LIBRARY, library_version=__version__) if same else {}
        return Resolved(found.location, file.size, file.etag, headers)


def open_repo(spec: HubSpec, policy: RetryPolicy | None = None) -> HubRepo:
    """The repo of `spec`, its revision pinned to a commit and its files listed.

    Online this asks the Hub once for the commit (not if a whole commit id is given) and once per commit for the list.
    Raises InputError when repo or revision do not exist or are not for this account, TransientError for the network.
    """
    policy = policy or RetryPolicy()
    where = endpoint()
    if is_offline():
        return _offline_repo(spec, where, policy)
    commit = spec.revision if _COMMIT.match(spec.revision) else _pin(spec, where, policy)
    files = _cached_files(where, spec.repo_id, commit)
    if files is None:
        files = _list(spec, where, commit, policy)
        tree: dict[str, object] = {"repo": spec.repo_id, "commit": commit, "files": [asdict(file) for file in files]}
        cache.write_tree(_tree_identity(where, spec.repo_id, commit), tree)
    return HubRepo(spec.repo_id, commit, files, where, None, policy)


def _pin(spec: HubSpec, where: str, policy: RetryPolicy) -> str:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=where, library_name=_LIBRARY, library_version=__version__)

    def ask() -> str | None:
        return api.repo_info(spec.repo_id, revision=spec.revision, timeout=_API_TIMEOUT_S).sha

    commit = _asked(ask, spec, policy)
    if commit is None or not _COMMIT.match(commit):
        raise InputError("the Hub gives no commit for it", file=spec, found=commit)
    cache.write_tree(_ref_identity(where, spec), {"commit": commit})
    return commit


def _list(spec: HubSpec, where: str, commit: str, policy: RetryPolicy) -> tuple[RepoFile, ...]:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile as HubFile

    api = HfApi(endpoint=where, library_name=_LIBRARY, library_version=__version__)

    def ask() -> tuple[RepoFile, ...]:
        tree = api.list_repo_tree(spec.repo_id, recursive=True, revision=commit)
        files = (
            _repo_file(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id)
            for entry in tree
            if isinstance(entry, HubFile)
        )
        return tuple(file for file in files if file is not None)

    return _asked(ask, spec, policy)


def _asked(ask: Callable[[], _T], spec: HubSpec, policy: RetryPolicy) -> _T:
    """The answer of an API call, asked again when that may help."""

    def once() -> _T:
        with translated_hub(str(spec), spec.repo_id, spec.is_bare):
            return ask()

    try:
        return retrying(once, policy, threading.Event(), lambda failure, n: hub_error(failure, str(spec), spec.is_bare))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:  # out of huggingface_hub
        raise InputError(
            "the Hub's answer makes no sense", file=spec, found=f"{type(error).__name__}: {error}"[:200],
            hint="is HF_ENDPOINT a Hub?",
        ) from error  # fmt: skip


def _offline_repo(spec: HubSpec, where: str, policy: RetryPolicy) -> HubRepo:
    """What the caches know of the repo: our own file list, or else a snapshot in the Hugging Face cache."""
    commit: str | None = spec.revision
    if not _COMMIT.match(spec.revision):
        known = cache.read_tree(_ref_identity(where, spec))
        commit = str(known["commit"]) if known and "commit" in known else None
    if commit is not None:
        files = _cached_files(where, spec.repo_id, commit)
        if files is not None:
            return HubRepo(spec.repo_id, commit, files, where, None, policy)
    return _snapshot(spec, where) or _raise_offline(spec)


def _snapshot(spec: HubSpec, where: str) -> HubRepo | None:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return None
    for repo in repos:
        if (repo.repo_type, repo.repo_id) != ("model", spec.repo_id):
            continue
        for revision in repo.revisions:
            if spec.revision == revision.commit_hash or spec.revision in revision.refs:
                root = revision.snapshot_path
                files = tuple(
                    RepoFile(file.file_path.relative_to(root).as_posix(), file.size_on_disk) for file in revision.files
                )
                return HubRepo(spec.repo_id, revision.commit_hash, files, where, root)
    return None


def _raise_offline(spec: HubSpec) -> HubRepo:
    raise offline_error(str(spec))


def _cached_files(where: str, repo_id: str, commit: str) -> tuple[RepoFile, ...] | None:
    tree = cache.read_tree(_tree_identity(where, repo_id, commit))
    return None if tree is None else files_from_tree(tree)


def files_from_tree(tree: object) -> tuple[RepoFile, ...] | None:
    """The file list that the cache keeps of a commit, or None when it is damaged."""
    entries = tree.get("files") if isinstance(tree, dict) else None
    if not isinstance(entries, list):
        return None
    found: list[RepoFile] = []
    for entry in entries:
        fields = entry if isinstance(entry, dict) else {}
        file = _repo_file(fields.get("path"), fields.get("size"), fields.get("etag"))
        if file is None:
            return None
        found.append(file)
    return tuple(found)


def _repo_file(path: object, size: object, etag: object) -> RepoFile | None:
    """One entry of a listing, or None for what cannot be a file of a repo: a path that leads out of it."""
    if not isinstance(path, str) or not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**63:
        return None
    if any(part in ("", ".", "..") for part in path.split("/")) or any(char in path for char in "\\\0:"):
        return None
    if path.encode("utf-8", "replace").decode() != path:  # half a character names no file
        return None
    return RepoFile(path, size, etag) if isinstance(etag, str | None) else None


def _tree_identity(where: str, repo_id: str, commit: str) -> str:
    return f"tree {where} {repo_id} {commit}"


def _ref_identity(where: str, spec: HubSpec) -> str:
    return f"ref {where} {spec.repo_id} {spec.revision}"


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.netloc.lower()
