"""What the Hub on loopback holds, what it is told to do wrong, and what it has seen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

TOKEN = "hf_test_token_of_an_account_with_access"
OTHER_TOKEN = "hf_test_token_of_an_account_without"
LFS_SUFFIXES = (".gguf", ".safetensors")


@dataclass
class Repo:
    """files: path in the repo -> path on disk. gated and private: TOKEN alone opens it."""

    repo_id: str
    files: dict[str, Path]
    gated: bool = False
    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        return hashlib.sha1(self.repo_id.encode()).hexdigest()


@dataclass
class Fault:
    """One kind of misbehaviour, of the next `times` requests that match.

    where: "hub" or "storage". matches: held against the path. kind: one of
        drop (after `n` bytes of body), status (`n`), ignore-range, wrong-range, other-size, drip (`n` bytes at a time),
        etag, too-much.
    """

    where: str
    kind: str
    n: int = 0
    times: int = 1
    matches: str = ""
    retry_after: str | None = None
    skip: int = 0


@dataclass
class Seen:
    """One request as it came. body_nbytes: sent as its answer's body."""

    where: str
    method: str
    path: str
    range: str | None
    authorization: str | None
    status: int = 0
    body_nbytes: int = 0
