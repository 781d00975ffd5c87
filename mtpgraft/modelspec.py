"""What a user may type where a model is wanted, as a value. Pure text: the one question asked of the disk is whether a
bare `org/repo` exists here as a path.

    spec     = path                                   a file, any shard of a split set, or a folder
             | "hf:" hub | "hf://" hub                Hugging Face
             | "hf.co/" hub | "huggingface.co/" hub
             | org "/" name [...]                     the same, where no such path exists on this machine
             | "https://" host "/" ...                any file that a server gives out by ranges
    hub      = repo ["@" revision] [":" quant | ":" file | "/" file]
    repo     = org "/" name | name                    (`name` alone only behind a prefix)
    revision = branch, tag, commit or `refs/pr/N`     default: main
    quant    = "Q4_K_M", "UD-Q4_K_XL", ...            held against file names, without regard to case
    file     = path in the repo that ends in .gguf or .safetensors, or has a "/"

`https://huggingface.co/org/repo`, `.../tree/REV`, `.../resolve/REV/FILE` and `.../blob/REV/FILE` (also on hf.co and on
the host of HF_ENDPOINT) mean the repo and not the page. `http://` is taken only for this machine and for HF_ENDPOINT,
because a token or a model must not travel in the clear.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mtpgraft.errors import UsageError

HUB_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
DEFAULT_ENDPOINT = "https://huggingface.co"
DEFAULT_REVISION = "main"
_MODEL_SUFFIXES = (".gguf", ".safetensors")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_HUB = re.compile(rf"^(?P<repo>{_NAME}(?:/{_NAME})?)(?:@(?P<rev>[^:]+))?(?::(?P<pick>.+))?$")
_HUB_SLASH = re.compile(rf"^(?P<repo>{_NAME}/{_NAME})/(?P<file>.+)$")
_BARE = re.compile(rf"^{_NAME}/{_NAME}(?:@[^:]+)?(?::.+)?$")


@dataclass(frozen=True, slots=True)
class LocalSpec:
    """A file or folder on this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class HubSpec:
    """A repo on the Hub, and which model in it.

    revision: as typed, not yet pinned to a commit.
    quant: to be held against file names; file: a path in the repo. At most one of the two is given.
    is_bare: typed without a prefix, so it may have been meant as a path.
    """

    repo_id: str
    revision: str = DEFAULT_REVISION
    quant: str | None = None
    file: str | None = None
    is_bare: bool = False

    def __str__(self) -> str:
        revision = "" if self.revision == DEFAULT_REVISION else f"@{self.revision}"
        pick = self.quant or self.file
        return f"hf:{self.repo_id}{revision}{f':{pick}' if pick else ''}"


@dataclass(frozen=True, slots=True)
class UrlSpec:
    """A file on some server."""

    url: str

    def __str__(self) -> str:
        return self.url


ModelSpec = LocalSpec | HubSpec | UrlSpec


def endpoint() -> str:
    """The Hub's address: HF_ENDPOINT as it is now, or huggingface.co. Without a slash at the end."""
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def parse_spec(text: str | Path) -> ModelSpec:
    """The meaning of what was typed. A Path is always local. Raises UsageError for text that means nothing."""
    if isinstance(text, Path):
        return LocalSpec(text)
    if not text:
        raise UsageError("no model given", expected="a path, hf:org/repo or https://...")
    for prefix in ("hf://", "hf:"):
        if text.startswith(prefix):
            return _hub(text, text.removeprefix(prefix).removeprefix("models/"))
    lowered = text.lower()
    if lowered.startswith(("https://", "http://")):
        return _url(text)
    for host in sorted(HUB_HOSTS):
        if lowered.startswith(host + "/") and not _exists(text):
            return _url("https://" + text)
    if _BARE.match(text) and not text.lower().endswith(_MODEL_SUFFIXES) and not _exists(text):
        return _hub(text, text, is_bare=True)
    if _BARE.match(text) and ":" in text and not _exists(text):
        return _hub(text, text, is_bare=True)
    return LocalSpec(expanded(text))


def is_remote(text: str | Path) -> bool:
    """True when reading it goes over the network."""
    return not isinstance(parse_spec(text), LocalSpec)


def _exists(text: str) -> bool:
    try:
        return expanded(text).exists()
    except OSError:  # a name that the file system cannot have
        return False


def expanded(text: str) -> Path:
    """A path as typed, `~` replaced by the home folder where there is one."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~ of nobody on this machine: a name like any other
        return Path(text)


def _hub(text: str, rest: str, *, is_bare: bool = False) -> HubSpec:
    match = _HUB.match(rest)
    if match is not None:
        quant, file = _pick(match["pick"])
        return HubSpec(match["repo"], match["rev"] or DEFAULT_REVISION, quant, file, is_bare)
    match = _HUB_SLASH.match(rest)
    if match is not None:
        return HubSpec(match["repo"], DEFAULT_REVISION, None, match["file"], is_bare)
    raise UsageError(
        "is no model on the Hub", file=text, expected="hf:org/repo[@revision][:QUANT or :path/in/repo]",
        hint="for example hf:org/repo:Q4_K_M",
    )  # fmt: skip


def _pick(text: str | None) -> tuple[str | None, str | None]:
    """(quant, file): which of the two stands behind the colon."""
    if text is None:
        return None, None
    if "/" in text or text.lower().endswith(_MODEL_SUFFIXES):
        return None, text.lstrip("/")
    return text, None


def _url(text: str) -> ModelSpec:
    try:
        parts = urlsplit(text)
        host, _ = (parts.hostname or "").lower(), parts.port
    except ValueError as error:
        raise UsageError(f"is no URL: {error}", file=text) from None
    if not host:
        raise UsageError("is no URL: it names no host", file=text)
    ours = urlsplit(endpoint())
    is_endpoint = parts.netloc.lower() == ours.netloc.lower() and parts.scheme.lower() == ours.scheme
    if parts.scheme.lower() == "http" and host not in _LOOPBACK and not is_endpoint:
        raise UsageError("is read over https only", file=text, expected="https://...", found="http://...")
    if parts.username or parts.password:
        raise UsageError("holds a password", file=f"https://{host}/...", hint="give a URL without user and password")
    if host in HUB_HOSTS or is_endpoint:
        return _hub_page(text, parts.path.strip("/"))
    if "/" not in text.split("://", 1)[1].rstrip("/"):
        raise UsageError("names a server and no file", file=text)
    return UrlSpec(text)


def _hub_page(text: str, path: str) -> HubSpec:
    """`org/repo`, `org/repo:QUANT`, `org/repo/tree/REV[/folder]`, `org/repo/resolve/REV/file` of a page's address."""
    path = unquote(path).removeprefix("models/")
    parts = path.split("/")
    if parts[0] in ("datasets", "spaces", "api", "docs", "collections"):
        raise UsageError("is no model repo", file=text, expected="https://huggingface.co/org/repo")
    if len(parts) > 3 and parts[2] in ("resolve", "blob", "raw", "tree"):
        repo_id, kind, rest = "/".join(parts[:2]), parts[2], parts[3:]
        n_revision = 3 if rest[:2] in (["refs", "pr"], ["refs", "convert"]) else 1
        revision, file = "/".join(rest[:n_revision]), "/".join(rest[n_revision:])
        if kind == "tree" and file:
            raise UsageError(
                "is a folder in a repo", file=text, hint=f"name the file: hf:{repo_id}@{revision}:{file}/..."
            )
        return HubSpec(repo_id, revision, None, file or None)
    return _hub(text, path)
