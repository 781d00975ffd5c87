"""HTTP to an engine's server: JSON in, JSON out, and server-sent events. Knows nothing of engines.

urllib3, and not the client that the Hub's files come through: a benchmark must reach loopback whatever proxy the user
has, must time the first token as it arrives, and must never follow a redirect with a key in hand.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from mtpgraft.bench.engine import Json

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

_CONNECT_S = 10.0
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
# An error page is shown in one line; an answer is parsed whole.
_MAX_SHOWN = 200


class Unreachable(Exception):  # noqa: N818 (its callers turn it into the error that fits)
    """No answer: refused, reset, timed out, or not HTTP. `why` is for people; `silent` means a time-out."""

    def __init__(self, why: str, silent: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.silent = silent


@dataclass(frozen=True, slots=True)
class Reply:
    """One whole answer."""

    status: int
    text: str

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def json(self) -> Mapping[str, Json] | None:
        """The body, where it is a JSON object."""
        try:
            value = json.loads(self.text)
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    @property
    def message(self) -> str:
        """What the server says is wrong: its own `error.message` where it has one."""
        error = (self.json or {}).get("error")
        if isinstance(error, Mapping):
            error = error.get("message")
        text = str(error) if error else " ".join(self.text.split())[:_MAX_SHOWN]
        return f"HTTP {self.status}: {text}" if text else f"HTTP {self.status}"


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event, and how long after the request it came."""

    ms: float
    data: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Http:
    """A server. `base` has no trailing slash; `api_key` is sent as a bearer token and is in no message.

    timeout_s: for an answer, or for the next piece of a streamed one.
    """

    base: str
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = 900.0
    _pools: list[PoolManager] = field(default_factory=list, repr=False, compare=False)

    def get(self, path: str, timeout_s: float | None = None) -> Reply:
        response = self._request("GET", path, None, timeout_s, stream=False)
        return Reply(response.status, response.data.decode("utf-8", errors="replace"))

    def post(self, path: str, body: Mapping[str, Json], timeout_s: float | None = None) -> Reply:
        response = self._request("POST", path, body, timeout_s, stream=False)
        return Reply(response.status, response.data.decode("utf-8", errors="replace"))

    def stream(self, path: str, body: Mapping[str, Json]) -> Iterator[Event | Reply]:
        """Each event as it comes. A single Reply in place of events: the server refused, or cannot stream."""
        from urllib3.exceptions import HTTPError

        started = time.perf_counter()
        response = self._request("POST", path, body, None, stream=True)
        try:
            if not 200 <= response.status < 300 or "event-stream" not in response.headers.get("content-type", ""):
                yield Reply(response.status, response.read().decode("utf-8", errors="replace"))
                return
            pending = b""
            while piece := response.read1(65536):
                ms = 1000 * (time.perf_counter() - started)
                *lines, pending = (pending + piece).split(b"\n")
                for line in lines:
                    data = line.removeprefix(b"data:").strip()
                    if not line.startswith(b"data:") or data == b"[DONE]":
                        continue
                    value = json.loads(data)
                    if isinstance(value, dict):
                        yield Event(ms, value)
        except (HTTPError, OSError, ValueError) as error:
            raise Unreachable(f"the answer broke off: {_why(error)}") from error
        finally:
            response.close()

    def close(self) -> None:
        for pool in self._pools:
            pool.clear()

    def _request(
        self, method: str, path: str, body: Mapping[str, Json] | None, timeout_s: float | None, *, stream: bool
    ) -> BaseHTTPResponse:
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError, NewConnectionError, TimeoutError

        # A kept connection may be closed by the server just as the next request goes out on it: cpp-httplib, which
        # llama.cpp uses, does so after a stream, after 5 s and after a number of requests. So each gets its own.
        headers = {"Accept": "text/event-stream" if stream else "application/json, text/plain", "Connection": "close"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        try:
            return self._pool().request(
                method,
                self.base + path,
                body=None if body is None else json.dumps(body).encode(),
                headers={**headers, "Content-Type": "application/json"} if body is not None else headers,
                timeout=Timeout(connect=_CONNECT_S, read=timeout_s or self.timeout_s),
                retries=False,
                redirect=False,
                preload_content=not stream,
            )
        except NewConnectionError as error:  # a kind of TimeoutError to urllib3, and no time-out
            raise Unreachable(_why(error)) from error
        except TimeoutError as error:
            raise Unreachable(f"no answer within {timeout_s or self.timeout_s:g} s", silent=True) from error
        except (HTTPError, OSError) as error:
            raise Unreachable(_why(error)) from error

    def _pool(self) -> PoolManager:
        if not self._pools:
            self._pools.append(_pool_for(self.base))
        return self._pools[0]


def shown_url(url: str) -> str:
    """A URL without the user and password that it may carry."""
    parts = urlsplit(url)
    return url if "@" not in parts.netloc else parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _pool_for(base: str) -> PoolManager:
    import urllib3

    parts = urlsplit(base)
    host = parts.hostname or ""
    proxy = None if host in _LOOPBACK or proxy_bypass(host) else getproxies().get(parts.scheme)
    # One connection per concurrent request of `complete_all`; more wait, and are kept out of nobody's figures.
    return urllib3.PoolManager(maxsize=64) if proxy is None else urllib3.ProxyManager(proxy, maxsize=64)


def _why(error: BaseException) -> str:
    """The words at the bottom of urllib3's chain: `Connection refused`, `Remote end closed connection ...`."""
    cause: BaseException | None = error
    said = ""
    while cause is not None:
        if isinstance(cause, OSError):
            said = cause.strerror or str(cause)
        cause = cause.__cause__ or cause.__context__
    return said or str(error) or type(error).__name__
