"""A Hugging Face Hub on loopback: the API as huggingface_hub uses it, and a second host that large files are read from.

It serves folders, counts what it sends, and misbehaves when told to. What it answers follows the real Hub: errors with
X-Error-Code, trees in pages with a Link header, HEAD and GET of `resolve` with ETag, X-Repo-Commit, X-Linked-Size and
X-Linked-Etag and a redirect to a signed URL, small files first redirected on the same host (`/api/resolve-cache/`).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.hub.handlers import serve
from tests.hub.model import LFS_SUFFIXES, Fault, Repo, Seen


class FakeHub:
    """Start it with `with FakeHub() as hub`. `endpoint` is what HF_ENDPOINT is set to."""

    def __init__(self, page: int = 3) -> None:
        self.page = page
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.expired: set[str] = set()
        self.n_signatures = 0
        self.max_parallel = 0
        self.delay_s = 0.0
        self._parallel = 0
        self._etags: dict[tuple[Path, float, int], str] = {}
        self._lock = threading.Lock()
        self._hub = serve(self, "hub")
        self._storage = serve(self, "storage")

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._hub.server_address[1]}"

    @property
    def storage(self) -> str:
        """The second host. Another name, so that not even cookies would be shared."""
        return f"http://localhost:{self._storage.server_address[1]}"

    def __enter__(self) -> FakeHub:
        for server in (self._hub, self._storage):
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self._hub, self._storage):
            server.shutdown()
            server.server_close()

    def add(self, repo_id: str, files: dict[str, Path] | Path, **options: bool) -> Repo:
        """Serve these files, or all of a folder."""
        if isinstance(files, Path):
            files = {path.relative_to(files).as_posix(): path for path in files.rglob("*") if path.is_file()}
        repo = Repo(repo_id, files, **options)
        repo.branches = {"main": repo.commit}
        self.repos[repo_id] = repo
        return repo

    def fault(self, where: str, kind: str, n: int = 0, **options: Any) -> None:
        self.faults.append(Fault(where, kind, n, **options))

    def expire(self) -> None:
        """All URLs signed so far stop working."""
        with self._lock:
            self.expired = {str(n) for n in range(1, self.n_signatures + 1)}

    def reset(self) -> None:
        """Forget counters and faults."""
        self.seen.clear()
        self.faults.clear()
        self.max_parallel = 0

    def requests(self, where: str | None = None, method: str | None = None) -> list[Seen]:
        return [s for s in self.seen if (where is None or s.where == where) and (method is None or s.method == method)]

    @property
    def file_nbytes(self) -> int:
        """Bytes of files sent, from either host; the API's JSON does not count."""
        return sum(s.body_nbytes for s in self.seen if s.status in (200, 206) and not s.path.startswith("/api/models/"))

    def etag(self, path: Path) -> str:
        """sha256 of what the Hub stores as LFS, git's blob id of everything else."""
        stat = path.stat()
        key = (path, stat.st_mtime, stat.st_size)
        if key not in self._etags:
            lfs = path.suffix in LFS_SUFFIXES
            digest = hashlib.sha256() if lfs else hashlib.sha1(b"blob %d\0" % stat.st_size)
            with path.open("rb") as file:
                while chunk := file.read(2**20):
                    digest.update(chunk)
            self._etags[key] = digest.hexdigest()
        return self._etags[key]

    def sign(self) -> int:
        with self._lock:
            self.n_signatures += 1
            return self.n_signatures

    def take_fault(self, where: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.where == where and fault.matches in path and fault.times > 0:
                    if fault.skip > 0:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    @contextmanager
    def busy(self) -> Iterator[None]:
        with self._lock:
            self._parallel += 1
            self.max_parallel = max(self.max_parallel, self._parallel)
        try:
            yield
        finally:
            with self._lock:
                self._parallel -= 1
