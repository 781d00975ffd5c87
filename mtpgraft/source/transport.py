"""One range of one remote file, over HTTP: what may be retried is retried, everything else is an error.

The client is the one that huggingface_hub itself uses (`get_session`): a pool of connections that honours proxies,
certificates and a client factory that the user set, and no dependency more. It is httpx in huggingface_hub 1.x and
httpx2 in 2.x, with one interface, so only what both have is used.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit

from mtpgraft.errors import InputError, MtpgraftError, TransientError
from mtpgraft.source.retries import Retry, RetryPolicy, retrying

_TIMEOUT_S = (10.0, 30.0, 30.0, 60.0)
"""connect, read (between two chunks), write, wait for a free connection."""
_RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_SLOWEST_S, _SLOWEST_NBYTES = 30.0, 30 * 2**10
"""A connection that brings less in that time is given up: a server that sends a byte now and then would never end."""
_PROGRESS_NBYTES = 256 * 2**10
"""A connection that brought this much before it broke does not count as a failed attempt."""
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})  # as huggingface_hub/constants.py reads its switches
_CONTENT_RANGE = re.compile(r"^bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})$")


@dataclass(frozen=True, slots=True)
class Resolved:
    """Where a file's bytes are right now.

    headers: sent to this URL's own origin only. etag: what names the content (for a Hub file its sha256 or git id).
    """

    url: str
    size: int
    etag: str | None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class Resolver(Protocol):
    """Finds out where a file's bytes are; asked again when a signed URL has expired."""

    def __call__(self) -> Resolved: ...


@dataclass(slots=True)
class FetchStats:
    """What reading a file cost: requests sent, bytes of body received (those of failed attempts too)."""

    n_requests: int = 0
    n_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Fetched:
    """What remote files have cost the network. of_nbytes: size of all of them."""

    n_bytes: int
    n_requests: int
    of_nbytes: int


class _Totals:
    """What this process has fetched of all files together."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.stats = FetchStats()
        self.size_by_name: dict[str, int] = {}


_TOTALS = _Totals()


def fetched_in_all() -> Fetched:
    """What this process has fetched so far, of every remote file it opened (each counts once)."""
    with _TOTALS.lock:
        return Fetched(_TOTALS.stats.n_bytes, _TOTALS.stats.n_requests, sum(_TOTALS.size_by_name.values()))


def note_opened(name: str, size: int) -> None:
    """Count this file's size into `fetched_in_all`."""
    with _TOTALS.lock:
        _TOTALS.size_by_name[name] = size


class _Expired(Exception):  # noqa: N818
    """The server refuses access that it gave before."""


class RangeClient:
    """Fetches ranges of one file. Safe to share between threads.

    Raises TransientError when retries are used up or the file changed, InputError when the server cannot do ranges,
    answers another one than asked, or refuses access.
    """

    def __init__(self, name: str, resolver: Resolver, policy: RetryPolicy, stats: FetchStats) -> None:
        self.name = name
        self.policy = policy
        self.stats = stats
        self.stopping = threading.Event()
        self._resolver = resolver
        self._resolved: Resolved | None = None
        self._seen_etag: tuple[str, str] | None = None  # origin that gave it, ETag
        self._lock = threading.Lock()

    def resolved(self) -> Resolved:
        """Where the bytes are; asks once."""
        with self._lock:
            if self._resolved is None:
                self._resolved = retrying(self._resolve, self.policy, self.stopping, self._gave_up)
            return self._resolved

    def fetch(self, start: int, end: int, sink: Callable[[bytes], None]) -> None:
        """Hand the bytes of [start, end) to `sink`, in order. Whatever came before an error has been handed over."""
        position, n_failures, n_refreshed, anchor = start, 0, 0, start

        def take(chunk: bytes) -> None:
            nonlocal position
            sink(chunk)
            position += len(chunk)

        while position < end:
            if self.stopping.is_set():
                raise TransientError("reading was interrupted", file=self.name)
            target = self.resolved()
            try:
                self._attempt(target, position, end, take)
            except _Expired:
                if n_refreshed and position == anchor:
                    raise InputError("access is denied", file=self.name, hint=_ACCESS_HINT) from None
                n_refreshed, anchor = n_refreshed + 1, position
                self._refresh(target)
            except Retry as failure:
                n_failures = 1 if position - anchor >= _PROGRESS_NBYTES else n_failures + 1
                anchor = position
                if n_failures >= self.policy.n_attempts:
                    raise self._gave_up(failure, n_failures) from failure.__cause__
                self.stopping.wait(self.policy.delay_s(n_failures, failure.retry_after_s))

    def _resolve(self) -> Resolved:
        self._count_request()
        with translated():
            return self._resolver()

    def _gave_up(self, failure: Retry, n_attempts: int) -> TransientError:
        what = f"reading failed {n_attempts} times: {failure.what}"
        return TransientError(what, file=self.name, hint="run it again later: what was fetched is kept")

    def _attempt(self, target: Resolved, start: int, end: int, take: Callable[[bytes], None]) -> None:
        url, headers = target.url, dict(target.headers)
        for _ in range(_MAX_REDIRECTS):
            with open_range(url, headers, start, end, self._count_request) as response:
                if response.status_code in _REDIRECTS:
                    url, headers = redirected(url, headers, response, self.name)
                    continue
                self._check(response, target, start, end, url)
                self._receive(response, end - start, take)
                return
        raise InputError("redirects without end", file=self.name)

    def _check(self, response: Any, target: Resolved, start: int, end: int, url: str) -> None:
        status = int(response.status_code)
        if status in (401, 403):
            raise _Expired
        check_partial(response, self.name)
        got = parse_content_range(response, self.name)
        if got[2] != target.size:
            raise _changed(self.name, f"{target.size} bytes", f"{got[2]} bytes")
        if got[:2] != (start, end):
            raise InputError(
                "the server answers another range than asked", file=self.name, where=f"offset {start}",
                expected=f"bytes {start}-{end - 1}", found=f"bytes {got[0]}-{got[1] - 1}", hint=_WHOLE_HINT,
            )  # fmt: skip
        self._check_etag(response.headers.get("etag"), url)

    def _check_etag(self, etag: str | None, url: str) -> None:
        if not etag:
            return
        with self._lock:
            origin = _origin(url)
            if self._seen_etag is None or self._seen_etag[0] != origin:
                self._seen_etag = (origin, etag)  # the Hub's and its storage's ETags for one file may differ
            elif self._seen_etag[1] != etag:
                raise _changed(self.name, f"ETag {self._seen_etag[1]}", f"ETag {etag}")

    def _receive(self, response: Any, n_bytes: int, take: Callable[[bytes], None]) -> None:
        left = n_bytes
        since, arrived = time.monotonic(), 0
        with translated():
            for chunk in response.iter_raw():
                self._count(0, len(chunk))
                arrived += len(chunk)
                if time.monotonic() - since > _SLOWEST_S:
                    if arrived < _SLOWEST_NBYTES:
                        raise Retry(f"the connection brings {arrived} bytes in {_SLOWEST_S:.0f} s")
                    since, arrived = time.monotonic(), 0
                if len(chunk) > left:
                    raise InputError("the server sends more than asked", file=self.name, expected=f"{n_bytes} bytes")
                left -= len(chunk)
                take(chunk)
                if self.stopping.is_set():
                    raise TransientError("reading was interrupted", file=self.name)
        if left:
            raise Retry(f"the connection ended {left} bytes early")

    def _refresh(self, old: Resolved) -> None:
        """Resolve again, unless another thread has."""
        with self._lock:
            if self._resolved is old:
                self._resolved = None
        new = self.resolved()
        if (new.size, new.etag) != (old.size, old.etag):
            raise _changed(self.name, f"ETag {old.etag}", f"ETag {new.etag}")

    def _count_request(self) -> None:
        self._count(1, 0)

    def _count(self, n_requests: int, n_bytes: int) -> None:
        with _TOTALS.lock:  # not the client's own, which resolving may hold for seconds
            for stats in (self.stats, _TOTALS.stats):
                stats.n_requests += n_requests
                stats.n_bytes += n_bytes


_ACCESS_HINT = "set HF_TOKEN, or log in with `hf auth login`, to an account that may read it"
_WHOLE_HINT = "mtpgraft reads parts of files only: download the whole file, and name the local copy"


def open_range(url: str, headers: Mapping[str, str], start: int, end: int, count: Callable[[], None]) -> Any:
    """A context manager for the streamed response to one GET with a Range. Redirects are not followed."""
    return _Exchange(url, {**headers, "Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}, count)


class _Exchange:
    """`client.stream` with the client's errors translated."""

    def __init__(self, url: str, headers: dict[str, str], count: Callable[[], None]) -> None:
        self._url, self._headers, self._count = url, headers, count

    def __enter__(self) -> Any:
        from huggingface_hub import get_session

        self._count()
        with translated():
            self._stream = get_session().stream(
                "GET", self._url, headers=self._headers, timeout=_TIMEOUT_S, follow_redirects=False
            )
            return self._stream.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._stream.__exit__(*error)


class translated:  # noqa: N801 (reads as a verb: with translated(): ...)
    """Turns the HTTP client's and huggingface_hub's errors into Retry or InputError."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, Retry | MtpgraftError):
            return
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        if isinstance(error, OfflineModeIsEnabled):
            raise offline_error() from error
        if type(error).__name__ == "InvalidURL":
            raise InputError(f"is no URL: {error}") from error
        http_error = HfHubHTTPError.__mro__[1]  # httpx.HTTPError or httpx2.HTTPError
        closed = isinstance(error, RuntimeError) and "closed" in str(error)  # by huggingface_hub, after its own failure
        if closed or (isinstance(error, http_error) and not isinstance(error, HfHubHTTPError)):
            name = type(error).__name__
            if name in ("UnsupportedProtocol", "TooManyRedirects", "DecodingError"):
                raise InputError(f"cannot be read over HTTP: {error}") from error
            is_unreached = name in ("ConnectError", "ConnectTimeout")
            raise Retry(f"{name}: {error}" if str(error) else name, is_unreached=is_unreached) from error


def check_partial(response: Any, name: str) -> None:
    """Raise unless the status is 206."""
    status = int(response.status_code)
    if status == 206:
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise InputError("the server compresses ranges", file=name, expected="identity", found=encoding)
        return
    if status in _RETRY_STATUS:
        raise Retry(f"the server answers {status}", retry_after_s(response.headers))
    if status == 200:
        raise InputError(
            "the server ignores ranges", file=name, expected="206 Partial Content", found="200 OK", hint=_WHOLE_HINT
        )
    if status in (404, 410):
        raise InputError("no such file on the server", file=name, found=f"HTTP {status}", hint="check the address")
    if status == 416:
        raise _changed(name, "the size it had", "a shorter file")
    raise InputError("the server refuses", file=name, expected="206 Partial Content", found=f"HTTP {status}")


def parse_content_range(response: Any, name: str) -> tuple[int, int, int]:
    """(start, end, size of the whole) of a 206."""
    text = response.headers.get("content-range", "")
    match = _CONTENT_RANGE.match(text.strip())
    if match is None:
        raise InputError(
            "the server does not say which range it sends", file=name, where="header Content-Range",
            expected="bytes FIRST-LAST/SIZE", found=text or "nothing", hint=_WHOLE_HINT,
        )  # fmt: skip
    return int(match[1]), int(match[2]) + 1, int(match[3])


def redirected(url: str, headers: dict[str, str], response: Any, name: str) -> tuple[str, dict[str, str]]:
    """Where a redirect points to, and what may be sent there: to another origin nothing that identifies the user."""
    target = urljoin(url, response.headers.get("location", ""))
    if urlsplit(target).scheme not in ("http", "https"):
        raise InputError("redirects to no web address", file=name, found=target)
    if urlsplit(url).scheme == "https" and urlsplit(target).scheme == "http":
        raise InputError("redirects from https to http", file=name, found=target)
    return target, headers if _origin(target) == _origin(url) else {}


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that Retry-After asks for: a number or a date (RFC 9110, 10.2.3)."""
    text = headers.get("retry-after", "").strip()
    if text.isdigit():
        return float(text)
    try:
        import email.utils  # 20 ms, for once in a blue moon

        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def is_offline() -> bool:
    """HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE), as it is now."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in _TRUE


def offline_error(name: str | None = None) -> InputError:
    """HF_HUB_OFFLINE is set and the caches do not have it."""
    return InputError(
        "is not in the cache, and HF_HUB_OFFLINE forbids the network", file=name,
        hint="unset HF_HUB_OFFLINE, or give a local file",
    )  # fmt: skip


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def _changed(name: str, expected: str, found: str) -> TransientError:
    return TransientError(
        "changed on the server while it was read", file=name, expected=expected, found=found,
        hint="run it again: it starts over with the new file",
    )  # fmt: skip
