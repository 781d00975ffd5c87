"""A file behind any URL: no account, no listing, just ranges."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from mtpgraft.errors import InputError
from mtpgraft.source import cache
from mtpgraft.source.cache_blocks import BlockStore
from mtpgraft.source.http import HttpSource, open_http
from mtpgraft.source.retries import RetryPolicy
from mtpgraft.source.splits import parse_shard_name
from mtpgraft.source.transport import (
    Resolved,
    check_partial,
    is_offline,
    offline_error,
    open_range,
    parse_content_range,
    redirected,
)

_MAX_REDIRECTS = 5


def open_url(url: str, policy: RetryPolicy | None = None) -> HttpSource:
    """Open the file at `url`. Raises InputError when it is not there or the server cannot do ranges."""
    if is_offline():  # without the server's ETag nothing says that what the cache has is still this file
        raise offline_error(shown(url))

    def resolve() -> Resolved:
        return _probe(url)

    def store(facts: Resolved) -> BlockStore:
        # A weak or missing ETag does not promise the same bytes another time.
        strong = facts.etag is not None and not facts.etag.startswith("W/")
        return cache.open_blocks(blocks_identity(url, facts.etag or "") if strong else None, facts.size, shown(url))

    return open_http(shown(url), resolve, store, policy)


def shard_urls(url: str) -> tuple[str, ...]:
    """The URLs of all shards of the set that `url` names one of, or `url` alone."""
    parts = urlsplit(url)
    folder, _, file_name = parts.path.rpartition("/")
    shard = parse_shard_name(file_name)
    if shard is None:
        return (url,)
    names = (shard.sibling(number) for number in range(1, shard.count + 1))
    return tuple(urlunsplit(parts._replace(path=f"{folder}/{name}")) for name in names)


def shown(url: str) -> str:
    """The URL for messages: what stands behind `?` is often a signature."""
    return urlunsplit(urlsplit(url)._replace(query="", fragment=""))


def blocks_identity(url: str, etag: str) -> str:
    """What blocks of this file are kept under."""
    return f"{shown(url)} {etag}"


def _probe(url: str) -> Resolved:
    """One byte, which tells where the redirects end, the size and the ETag. HEAD would be shorter, but servers that
    sign URLs sign them for GET."""
    target, headers = url, dict[str, str]()
    for _ in range(_MAX_REDIRECTS):
        with open_range(target, headers, 0, 1, lambda: None) as response:
            if response.status_code in (301, 302, 303, 307, 308):
                target, headers = redirected(target, headers, response, shown(url))
                continue
            if response.status_code in (401, 403):
                raise InputError("access is denied", file=shown(url), found=f"HTTP {response.status_code}")
            if response.status_code == 416:
                raise InputError("is empty", file=shown(url))
            check_partial(response, shown(url))
            _, _, size = parse_content_range(response, shown(url))
            return Resolved(target, size, response.headers.get("etag"))
    raise InputError("redirects without end", file=shown(url))
