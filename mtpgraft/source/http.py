"""A file behind HTTP: random access by ranges, with everything fetched kept in a block store.

Nothing is fetched that was not asked for: a read fetches what it lacks, and `prefetch` names what will be read, which
several connections then fetch in order while the reader follows them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from mtpgraft.errors import MtpgraftError, TransientError
from mtpgraft.source.cache_blocks import BlockStore, Stretch
from mtpgraft.source.ranges import PIECE_NBYTES, Range, RangeSet, coalesce, pieces
from mtpgraft.source.retries import RetryPolicy
from mtpgraft.source.transport import FetchStats, RangeClient, Resolved, Resolver, note_opened

N_CONNECTIONS = 8
"""Ranges in flight. One connection to the Hub's storage gives 20 to 50 MB/s; more than eight draws rate limits."""
_WAIT_S = 1.0  # between two looks at whether what is waited for has arrived
_STOP_S = 2.0  # for the workers to notice that they are not wanted any more


class HttpSource:
    """One remote file as a Source. Thread-safe.

    name: how a user would name it. identity: what names its content, or None when the server does not say.
    """

    def __init__(self, client: RangeClient, size: int, store: BlockStore, identity: str | None = None) -> None:
        self.identity = identity
        self._client = client
        self._size = size
        self._store = store
        self._state = threading.Condition()
        self._claimed = RangeSet()
        self._wanted: deque[Range] = deque()
        self._workers: list[threading.Thread] = []
        self._failure: MtpgraftError | None = None

    @property
    def name(self) -> str:
        return self._client.name

    @property
    def size(self) -> int:
        return self._size

    @property
    def stats(self) -> FetchStats:
        """What has been fetched so far through this source (not what earlier runs left in the store)."""
        return self._client.stats

    def read_at(self, offset: int, n_bytes: int) -> bytes:
        """At most `n_bytes` bytes from `offset`; fewer only at the end of the file.

        Raises TransientError when the network or the disk fails, InputError when the server cannot serve ranges.
        """
        start, end = min(offset, self._size), min(offset + n_bytes, self._size)
        if start >= end:
            return b""
        if not self._store.covers(start, end):
            self._bring(start, end)
        return self._store.read(start, end)

    def prefetch(self, ranges: Iterable[Range]) -> None:
        """Begin to fetch these [start, end) ranges, first things first, on several connections. Returns at once.

        Errors come out of the read that needs the missing bytes.
        """
        clipped = [(max(0, start), min(end, self._size)) for start, end in ranges]
        missing = [gap for start, end in coalesce(clipped) for gap in self._store.gaps(start, end)]
        with self._state:
            self._wanted.extend(piece for start, end in missing for piece in pieces(start, end))
            self._workers = [worker for worker in self._workers if worker.is_alive()]
            for _ in range(min(N_CONNECTIONS - len(self._workers), len(self._wanted))):
                worker = threading.Thread(target=self._work, name="mtpgraft-fetch", daemon=True)
                self._workers.append(worker)
                worker.start()

    def close(self) -> None:
        """Stop fetching. What has arrived stays in the store."""
        self._client.stopping.set()
        with self._state:
            self._wanted.clear()
            self._state.notify_all()
        deadline = time.monotonic() + _STOP_S
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        if not any(worker.is_alive() for worker in self._workers):
            self._store.close()  # else a worker waits for a dead server: closing under it could hit a reused descriptor

    def _bring(self, start: int, end: int) -> None:
        """Have [start, end) in the store: fetch what nobody fetches, wait for the rest."""
        if end - start > PIECE_NBYTES:
            self.prefetch([(start, end)])
        while not self._store.covers(start, end):
            piece = self._claim(start, end)
            if piece is not None:
                self._fetch(piece)
                continue
            with self._state:
                if self._client.stopping.is_set():
                    raise TransientError("reading was interrupted", file=self.name)
                if not self._store.covers(start, end) and self._claimed.n_bytes:
                    self._state.wait(_WAIT_S)

    def _claim(self, start: int, end: int) -> Range | None:
        """The first piece of [start, end) that is neither here nor on its way, now the caller's to fetch.

        Raises the failure that stopped the workers, if one did.
        """
        with self._state:
            for gap in self._store.gaps(start, end):
                if self._failure is not None:
                    raise self._failure
                for low, high in self._claimed.gaps(*gap):
                    piece = (low, min(high, low + PIECE_NBYTES))
                    self._claimed.add(*piece)
                    return piece
        return None

    def _fetch(self, piece: Range) -> None:
        """Fetch a claimed piece into the store, and give up the claim whatever happens."""
        stretch = Stretch(piece[0], piece[0])

        def take(chunk: bytes) -> None:
            self._store.put(stretch, chunk)

        try:
            self._client.fetch(*piece, take)
        finally:
            self._store.note(stretch)
            with self._state:
                self._claimed.discard(*piece)
                self._state.notify_all()

    def _work(self) -> None:
        """A worker: fetch wanted pieces until there are none."""
        while True:
            with self._state:
                if not self._wanted or self._client.stopping.is_set():
                    return
                start, end = self._wanted.popleft()
            try:
                while (piece := self._claim(start, end)) is not None:
                    self._fetch(piece)
            except MtpgraftError as error:
                with self._state:
                    self._failure = self._failure or error
                    self._wanted.clear()
                    self._state.notify_all()
                return


def open_http(
    name: str,
    resolver: Resolver,
    store: Callable[[Resolved], BlockStore],
    policy: RetryPolicy | None = None,
    known: Resolved | None = None,
) -> HttpSource:
    """Open a remote file.

    store: gives the block store once size and ETag are known. known: size and ETag from a listing; nothing is then
    asked of the network before the first read of something that is not in the store.
    """
    client = RangeClient(name, resolver, policy or RetryPolicy(), FetchStats())
    facts = known or client.resolved()
    note_opened(name, facts.size)
    return HttpSource(client, facts.size, store(facts), facts.etag)
