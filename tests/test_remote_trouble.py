"""What goes wrong between here and the Hub.

Every misbehaviour of the server (tests/hub) ends in a right result or in the documented error, never in a wrong file.
"""

from __future__ import annotations

import random
import socket
import threading
from pathlib import Path

import pytest

from mtpgraft.acquire import acquire_donor
from mtpgraft.errors import InputError, InvalidFileError, MtpgraftError, TransientError
from mtpgraft.head import HeadState, find_head
from mtpgraft.modelspec import HubSpec
from mtpgraft.open import open_model
from mtpgraft.source import cache
from mtpgraft.source.http import HttpSource
from mtpgraft.source.hub import open_repo
from mtpgraft.source.ranges import RangeSet, coalesce, pieces
from mtpgraft.source.retries import RetryPolicy
from mtpgraft.source.transport import redirected, retry_after_s
from mtpgraft.source.url import open_url
from tests.hub.model import OTHER_TOKEN, TOKEN
from tests.hub.reading import BIG_REPO, DONOR_REPO, FAST, MB, opened, repo_of
from tests.hub.server import FakeHub

# What goes wrong on the way, and comes right


@pytest.mark.parametrize(
    ("kind", "n", "options"),
    [
        ("drop", 0, {}),
        ("drop", 1, {"times": 3}),
        ("drop", 70_000, {"times": 3}),
        ("status", 429, {"retry_after": "0"}),
        ("status", 429, {}),
        ("status", 500, {"times": 3}),
        ("status", 503, {"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        ("drip", 20_000, {}),
        ("status", 403, {}),  # an expired signature: resolved anew
    ],
)
def test_trouble_that_passes_ends_in_the_right_bytes(
    hub: FakeHub, trained: Path, kind: str, n: int, options: dict[str, object]
) -> None:
    hub.fault("storage", kind, n, **options)
    source = opened("Donor-BF16.gguf")
    assert source.read_at(1000, 2 * MB) == (trained / "donor-bf16.gguf").read_bytes()[1000 : 1000 + 2 * MB]
    source.close()


def test_parallel_reads_through_a_bad_line(hub: FakeHub, big_model: Path) -> None:
    rng = random.Random(1)
    for _ in range(12):
        hub.fault("storage", "drop", rng.randrange(8 * MB), skip=rng.randrange(4))
    repo = repo_of(BIG_REPO)
    source = repo.open("Big-BF16.gguf")
    assert isinstance(source, HttpSource)
    size = source.size
    source.prefetch([(size - 40 * MB, size)])
    with big_model.open("rb") as file:
        for at in range(size - 40 * MB, size, 3 * MB):
            file.seek(at)
            assert source.read_at(at, 3 * MB) == file.read(3 * MB)
    source.close()


@pytest.mark.parametrize(("status", "retry_after"), [(429, "1"), (503, None), (500, None)])
def test_the_hub_itself_may_stumble(hub: FakeHub, status: int, retry_after: str | None) -> None:
    hub.fault("hub", "status", status, retry_after=retry_after, times=1, matches="/revision/")
    hub.fault("hub", "status", status, retry_after="0", times=1, matches="/resolve/")
    source = opened("Donor-BF16.gguf")
    assert source.read_at(0, 4) == b"GGUF"
    source.close()


def test_signed_urls_that_expire_are_renewed(hub: FakeHub) -> None:
    source = opened("Donor-BF16.gguf")
    assert source.read_at(0, 4) == b"GGUF"
    hub.expire()
    assert len(source.read_at(MB, MB)) == MB
    source.close()


def test_the_token_goes_to_the_hub_alone(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with open_model("hf:fixtures/private") as model:
        assert find_head(model).state is HeadState.OK
    repo_of("fixtures/bases").read_small("my notes/read me.md")
    assert {seen.authorization for seen in hub.requests("hub")} == {f"Bearer {TOKEN}"}
    assert {seen.authorization for seen in hub.requests("storage")} == {None}


class _Redirect:
    def __init__(self, location: str) -> None:
        self.headers = {"location": location}


def test_redirects_keep_the_token_on_its_host_and_encryption_on() -> None:
    headers = {"authorization": "Bearer x"}
    assert redirected("https://a.co/x", headers, _Redirect("/y"), "m") == ("https://a.co/y", headers)
    for elsewhere in ("https://b.co/y", "https://a.co:8443/y", "//b.co/y"):
        assert redirected("https://a.co/x", headers, _Redirect(elsewhere), "m")[1] == {}
    for refused in ("http://a.co/y", "file:///etc/passwd"):
        with pytest.raises(InputError):
            redirected("https://a.co/x", headers, _Redirect(refused), "m")


# What goes wrong and stays wrong


@pytest.mark.parametrize(
    ("kind", "n", "error", "says"),
    [
        ("ignore-range", 0, InputError, "ignores ranges"),
        ("wrong-range", 0, InputError, "another range"),
        ("other-size", 0, TransientError, "changed"),
        ("too-much", 0, InputError, "more than asked"),
        ("status", 404, InputError, "no such file"),
        ("status", 418, InputError, "refuses"),
        ("status", 403, InputError, "denied"),
        ("status", 503, TransientError, "failed 4 times"),
        ("status", 429, TransientError, "failed 4 times"),
        ("drop", 5, TransientError, "failed 4 times"),
    ],
)
def test_trouble_that_stays_is_one_clear_error(
    hub: FakeHub, kind: str, n: int, error: type[MtpgraftError], says: str
) -> None:
    hub.fault("storage", kind, n, times=99)
    source = opened("Donor-BF16.gguf")
    with pytest.raises(error, match=says) as caught:
        source.read_at(0, 100_000)
    assert caught.value.file == f"hf:{DONOR_REPO}/Donor-BF16.gguf"
    source.close()
    assert isinstance(source, HttpSource)
    assert source.stats.n_bytes < MB  # never a download of the whole


def test_a_file_that_changes_while_it_is_read(hub: FakeHub) -> None:
    source = opened("Donor-BF16.gguf")
    assert source.read_at(0, 4) == b"GGUF"
    hub.fault("storage", "etag")
    with pytest.raises(TransientError, match="changed on the server"):
        source.read_at(MB, 1000)
    source.close()


def test_errors_of_workers_reach_the_reader(hub: FakeHub) -> None:
    hub.fault("storage", "ignore-range", times=99)
    source = opened("Donor-BF16.gguf")
    assert isinstance(source, HttpSource)
    source.prefetch([(0, source.size)])
    with pytest.raises(InputError, match="ignores ranges"):
        source.read_at(0, source.size)
    source.close()


@pytest.mark.parametrize("kind", ["ignore-range", "wrong-range", "too-much", "other-size"])
def test_a_failed_extract_leaves_no_head(hub: FakeHub, kind: str) -> None:
    hub.fault("storage", kind, times=99, skip=1)
    with pytest.raises(MtpgraftError):
        acquire_donor(f"hf:{DONOR_REPO}")
    assert "head" not in [entry.kind for entry in cache.list_entries()]
    hub.reset()
    assert acquire_donor(f"hf:{DONOR_REPO}").exists()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("hf:fixtures/nothing", "no such repo"),
        ("fixtures/nothing", "no such path here"),
        ("hf:fixtures/private", "no such repo"),
        (f"hf:{DONOR_REPO}@v9", "no such branch"),
        (f"hf:{DONOR_REPO}:Nothing.gguf", "no file Nothing.gguf"),
        (f"hf:{DONOR_REPO}:Q8_0", "nothing named Q8_0"),
        ("hf:fixtures/bases", "several models"),
        ("hf:fixtures/gated", "is gated"),
        ("hf:fixtures/checkpoint", "holds no GGUF"),
        ("hf:fixtures/notes", "holds no GGUF"),
        ("hf:a--b/c..d", "no name of a repo"),
    ],
)
def test_bad_specs_are_one_clear_error(hub: FakeHub, spec: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        open_model(spec)
    assert caught.value.exit_code == 2
    assert spec.removeprefix("hf:").split(":")[0].split("@")[0] in (caught.value.file or "")


def test_gated_repos_with_and_without_access(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", OTHER_TOKEN)
    with pytest.raises(InputError, match="your account has no access"):
        open_model("hf:fixtures/gated")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    open_model("hf:fixtures/gated").close()


def test_a_header_over_the_cap(hub: FakeHub) -> None:
    with pytest.raises(InvalidFileError, match="larger than the cap"):
        open_model(f"hf:{BIG_REPO}", max_header_nbytes=MB)
    assert hub.file_nbytes <= MB


def test_a_small_file_over_the_cap(hub: FakeHub) -> None:
    with pytest.raises(InvalidFileError, match="too large"):
        repo_of(DONOR_REPO).read_small("Donor-BF16.gguf", MB)


def test_urls_that_are_none_and_urls_offline(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="is no URL"):
        open_model("http://127.0.0.1:1/\x00.gguf")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="not in the cache"):
        open_model(f"{hub.storage}/x.gguf")


def test_nobody_listens(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(TransientError, match="does not answer") as caught:
        repo_of(DONOR_REPO)
    assert caught.value.exit_code == 3


# Ranges


def test_range_sets_hold_what_was_added() -> None:
    rng = random.Random(3)
    have, model = RangeSet(), [False] * 200
    for _ in range(400):
        start = rng.randrange(200)
        end = min(200, start + rng.randrange(12))
        if rng.random() < 0.6:
            have.add(start, end)
            model[start:end] = [True] * (end - start)
        else:
            have.discard(start, end)
            model[start:end] = [False] * (end - start)
        assert have.n_bytes == sum(model)
        low = rng.randrange(200)
        high = rng.randrange(low, 201)
        assert have.covers(low, high) == all(model[low:high])
        assert sum(b - a for a, b in have.gaps(low, high)) == (high - low) - sum(model[low:high])
        assert all(not any(model[a:b]) for a, b in have.gaps(low, high))


def test_requests_are_few_and_waste_little() -> None:
    tensors = [(0, 1000), (1024, 50_000), (50_016, 100_000), (900_000, 900_100)]
    assert coalesce(tensors) == [(0, 100_000), (900_000, 900_100)]
    assert pieces(10, 35, 10) == [(10, 20), (20, 30), (30, 35)]
    assert coalesce([]) == []


def test_retry_after_and_patience() -> None:
    assert retry_after_s({"retry-after": "7"}) == 7
    assert retry_after_s({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after_s({"retry-after": "soon"}) is None
    policy = RetryPolicy()
    assert policy.delay_s(1, 3600) == policy.max_retry_after_s
    assert all(policy.delay_s(n, None) <= policy.max_delay_s for n in range(1, 20))


def test_no_server_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer attempts than for a server that answered once: who has no network is to be told soon."""
    waits: list[float] = []
    monkeypatch.setattr(threading.Event, "wait", lambda self, timeout=None: waits.append(timeout))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(TransientError, match="failed 3 times: ConnectError"):
            open_url(f"{address}/model.gguf", RetryPolicy(first_delay_s=0.01))
        assert len(waits) == 2
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(TransientError, match="the Hub does not answer: ConnectError"):
            open_repo(HubSpec("org/repo"), RetryPolicy(first_delay_s=0.01))
        assert len(waits) == 4


def test_a_url_that_cannot_do_ranges(hub: FakeHub, trained: Path) -> None:
    hub.fault("storage", "ignore-range", times=9)
    with pytest.raises(InputError, match="ignores ranges"):
        open_url(f"{hub.storage}/xet/{hub.etag(trained / 'donor-bf16.gguf')}?sig=7000", FAST)
