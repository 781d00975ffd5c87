"""What is known of the model that a file was made from."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from mtpgraft.container import GGUFModel
from mtpgraft.errors import MtpgraftError, RefusedError
from mtpgraft.kinship import Fingerprint

_MAX_BASES = 8


@dataclass(frozen=True, slots=True)
class Upstream:
    """names: what it is called, the best first. has_head: None when it could not be read. evidence: why."""

    names: tuple[str, ...]
    has_head: bool | None = None
    evidence: tuple[str, ...] = ()


def model_names(model: GGUFModel) -> tuple[str, ...]:
    """Every name that the header gives the model or its originals."""
    keys = ["general.name", "general.basename", "general.finetune", "general.source.url", "general.source.repo_url"]
    for i in range(_MAX_BASES):
        keys += [f"general.base_model.{i}.name", f"general.base_model.{i}.repo_url"]
    return tuple(text for key in keys if (text := model.text(key)))


def upstream_repos(model: GGUFModel) -> tuple[str, ...]:
    """`org/name` of the repos that the header calls its source or its base models, nearest first."""
    keys = ["general.source.huggingface.repository", "general.source.repo_url", "general.source.url"]
    keys += [f"general.base_model.{i}.repo_url" for i in range(_MAX_BASES)]
    found: list[str] = []
    for key in keys:
        repo = _repo_id(model.text(key) or "")
        if repo and repo not in found:
            found.append(repo)
    return tuple(found)


def _repo_id(url: str) -> str | None:
    for host in ("huggingface.co/", "hf.co/"):
        _, found, path = url.partition(host)
        parts = path.strip("/").split("/")
        if found and len(parts) >= 2 and parts[0] not in ("datasets", "spaces", "api"):
            return "/".join(parts[:2])
    if "://" not in url and url.count("/") == 1:
        return url
    return None


@dataclass(frozen=True, slots=True)
class Norms:
    """An upstream's norms: of its trunk, and of its head where it has one. name: what the upstream is called."""

    name: str
    trunk: Fingerprint
    head: Fingerprint | None


@dataclass(frozen=True, slots=True)
class Lookup:
    """Asks the Hub about upstream repos, each once. Safe to share between threads."""

    known: dict[str, Upstream] = field(default_factory=dict)
    norms: dict[str, Norms | None] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, repo_ids: Iterable[str]) -> Upstream | None:
        """The nearest of these repos whose head could be told, or else why none could; None without repos."""
        unread: list[Upstream] = []
        for repo_id in repo_ids:
            with self.lock:
                found = self.known.get(repo_id)
            if found is None:
                found = _look_up(repo_id)
                with self.lock:
                    self.known[repo_id] = found
            if found.has_head is not None:
                return found
            unread.append(found)
        return unread[0] if unread else None

    def norms_of(self, repo_ids: Iterable[str]) -> Norms | None:
        """The norms of the nearest of these repos that can be read; some kB of each are."""
        for repo_id in repo_ids:
            with self.lock:
                asked = repo_id in self.norms
            if not asked:
                found = _read_norms(repo_id)
                with self.lock:
                    self.norms[repo_id] = found
            if self.norms[repo_id] is not None:
                return self.norms[repo_id]
        return None


def _read_norms(repo_id: str) -> Norms | None:
    from mtpgraft.container.checkpoint import checkpoint_from_files, is_checkpoint
    from mtpgraft.hf import checkpoint_fingerprint, checkpoint_head_norms
    from mtpgraft.modelspec import HubSpec
    from mtpgraft.source.hub import open_repo

    try:
        repo = open_repo(HubSpec(repo_id))
        if not is_checkpoint(repo.paths):
            return None
        with checkpoint_from_files(repo.name, repo.paths, repo.open) as checkpoint:
            trunk = checkpoint_fingerprint(checkpoint)
            try:
                head: Fingerprint | None = checkpoint_head_norms(checkpoint)
            except RefusedError:
                head = None
            return Norms(f"hf:{repo_id} @{repo.commit[:12]}", trunk, head)
    except MtpgraftError:
        return None


def card_base_models(readme: str) -> tuple[str, ...]:
    """`base_model` of a model card's front matter: one repo, or a list of them."""
    if not readme.startswith("---"):
        return ()
    front = readme[3:].split("\n---", 1)[0]
    match = re.search(r"^base_model:[ \t]*(.*)$((?:\n[ \t]*-[ \t]+.*)*)", front, re.M)
    if match is None:
        return ()
    listed = re.findall(r"-[ \t]+(.+)", match[2]) if not match[1].strip() else match[1].strip("[] \t").split(",")
    names = [name.strip().strip("'\"") for name in listed]
    return tuple(name for name in names if re.fullmatch(r"[\w.-]+/[\w.-]+", name))


def _look_up(repo_id: str) -> Upstream:
    """Read an upstream's config and index, or the header of its one GGUF. Never raises what the Hub answers."""
    from mtpgraft.audit.checkpoint import head_names
    from mtpgraft.container.checkpoint import checkpoint_from_files, is_checkpoint
    from mtpgraft.hf.config import HfConfig
    from mtpgraft.modelspec import HubSpec
    from mtpgraft.source.hub import open_repo

    name = f"hf:{repo_id}"
    try:
        repo = open_repo(HubSpec(repo_id))
        if not is_checkpoint(repo.paths):
            return Upstream((name,), None, (f"{name} holds no safetensors checkpoint",))
        with checkpoint_from_files(repo.name, repo.paths, repo.open) as checkpoint:
            head = head_names(checkpoint, HfConfig.of(checkpoint.name, checkpoint.config))
    except MtpgraftError as error:
        return Upstream((name,), None, (f"{name} could not be read: {error.what}",))
    if head.names:
        return Upstream((name,), True, (f"{name} @{repo.commit[:12]} has {len(head.names)} head tensors",))
    return Upstream((name,), False, (f"{name} @{repo.commit[:12]} has no head tensor",))
