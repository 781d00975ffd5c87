"""Names of the repos on the test Hub, and short ways to open them."""

from __future__ import annotations

from mtpgraft.modelspec import HubSpec, parse_spec
from mtpgraft.source.base import Source
from mtpgraft.source.hub import HubRepo, open_repo
from mtpgraft.source.retries import RetryPolicy

MB = 2**20
FAST = RetryPolicy(n_attempts=4, first_delay_s=0.01, max_delay_s=0.02)
DONOR_REPO = "fixtures/donor"
BIG_REPO = "fixtures/big"


def opened(path: str, repo_id: str = DONOR_REPO) -> Source:
    return repo_of(repo_id).open(path)


def repo_of(text: str) -> HubRepo:
    spec = parse_spec(f"hf:{text}")
    assert isinstance(spec, HubSpec)
    return open_repo(spec, FAST)
