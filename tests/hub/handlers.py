"""What the Hub on loopback and its storage host answer. FakeHub (server.py) counts and makes trouble."""

from __future__ import annotations

import json
import re
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.hub.model import LFS_SUFFIXES, TOKEN, Fault, Repo, Seen

if TYPE_CHECKING:
    from tests.hub.server import FakeHub

_CHUNK = 64 * 1024
_RANGE_REQUIRED_ABOVE = 64 * 2**20


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""


def serve(hub: FakeHub, where: str) -> _Server:
    handler = type("Handler", (_HubHandler if where == "hub" else _StorageHandler,), {"hub": hub, "where": where})
    return _Server(("127.0.0.1", 0), handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub
    where: str
    seen: Seen
    fault: Fault | None

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._handle(self.get)

    def do_HEAD(self) -> None:
        self._handle(self.get)

    def do_POST(self) -> None:
        self._handle(self.post)

    def _handle(self, answer: Callable[[str, dict[str, list[str]]], None]) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        authorization = self.headers.get("Authorization")
        self.seen = Seen(self.where, self.command, path, self.headers.get("Range"), authorization)
        self.hub.seen.append(self.seen)
        self.fault = self.hub.take_fault(self.where, path)
        with self.hub.busy():
            if self.hub.delay_s:
                time.sleep(self.hub.delay_s)
            if self.fault is not None and self.fault.kind == "status":
                extra = {"Retry-After": self.fault.retry_after} if self.fault.retry_after is not None else {}
                self.error(self.fault.n, None, "told to", extra)
                return
            answer(path, parse_qs(parts.query))

    def get(self, path: str, query: dict[str, list[str]]) -> None:
        raise NotImplementedError

    def post(self, path: str, query: dict[str, list[str]]) -> None:
        self.error(405, None, "no")

    def send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.seen.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.seen.body_nbytes = len(body)

    def send_json(self, value: object, headers: dict[str, str] | None = None) -> None:
        self.send(200, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode())

    def error(self, status: int, code: str | None, message: str, extra: dict[str, str] | None = None) -> None:
        headers = {"Content-Type": "application/json", "X-Error-Message": message, **(extra or {})}
        if code:
            headers["X-Error-Code"] = code
        self.send(status, headers, json.dumps({"error": message}).encode())

    def send_file(self, path: Path, headers: dict[str, str], etag: str) -> None:
        """The file or a range of it, with whatever is to go wrong."""
        fault, size = self.fault, path.stat().st_size
        kind = fault.kind if fault else ""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end = 0, size
        if match and kind != "ignore-range":
            start, end = int(match[1]), min(int(match[2]) + 1 if match[2] else size, size)
            if start >= size:
                self.send(416, {"Content-Range": f"bytes */{size}"})
                return
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size + (kind == 'other-size')}"
            if kind == "wrong-range":
                headers["Content-Range"] = f"bytes {start + 64}-{end + 63}/{size}"
                start, end = start + 64, end + 64
        if kind == "etag":
            etag = "changed" + etag
        self.seen.status = 206 if "Content-Range" in headers else 200
        self.send_response(self.seen.status)
        n_sent = end - start + (64 if kind == "too-much" else 0)
        for name, value in {**headers, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(n_sent))
        self.end_headers()
        if self.command == "HEAD":
            return
        with path.open("rb") as file:
            file.seek(start)
            self._send_body(file, n_sent)

    def _send_body(self, file: Any, left: int) -> None:
        kind, n = (self.fault.kind, self.fault.n) if self.fault else ("", 0)
        while left:
            chunk = file.read(min(_CHUNK, left)) or bytes(min(_CHUNK, left))
            if kind == "drop" and self.seen.body_nbytes + len(chunk) > n:
                chunk = chunk[: n - self.seen.body_nbytes]
                self._write(chunk)
                self._reset()
                return
            if kind == "drip":
                chunk = chunk[:n]
                file.seek(len(chunk) - min(_CHUNK, left), 1)
                time.sleep(0.005)
            self._write(chunk)
            left -= len(chunk)

    def _write(self, chunk: bytes) -> None:
        self.wfile.write(chunk)
        self.wfile.flush()
        self.seen.body_nbytes += len(chunk)

    def _reset(self) -> None:
        """End the connection with a RST, as a dying peer or a firewall does."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


class _StorageHandler(_Handler):
    """The second host: signed URLs, no accounts, no names, only content."""

    def get(self, path: str, query: dict[str, list[str]]) -> None:
        signature = query.get("sig", [""])[0]
        if not signature or signature in self.hub.expired:
            self.error(403, None, "Request has expired")
            return
        sha = path.rsplit("/", 1)[-1]
        for repo in self.hub.repos.values():
            for file in repo.files.values():
                if self.hub.etag(file) == sha:
                    if "Range" not in self.headers and file.stat().st_size > _RANGE_REQUIRED_ABOVE:
                        self.error(400, None, "A range is required")  # as Xet's bridge says for very large files
                        return
                    self.send_file(file, {}, sha)
                    return
        self.error(404, None, "no such object")


class _HubHandler(_Handler):
    def get(self, path: str, query: dict[str, list[str]]) -> None:
        if path.startswith("/api/resolve-cache/models/"):
            org, name, _, rest = path.removeprefix("/api/resolve-cache/models/").split("/", 3)
            repo = self._repo(f"{org}/{name}")
            if repo is not None:
                self._send_small(repo, rest)
            return
        if path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/"), query)
            return
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/(.+)", path)
        if match is None:
            self.error(404, None, "Not Found")
            return
        repo = self._repo(match[1])
        if repo is not None:
            self._resolve(repo, match[2])

    def post(self, path: str, query: dict[str, list[str]]) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/paths-info/(.+)", path)
        repo = self._repo(match[1]) if match else None
        if match is None or repo is None or self._commit(repo, match[2]) is None:
            return
        wanted = parse_qs(body).get("paths", [])
        self.send_json([self._entry(repo, path) for path in wanted if path in repo.files])

    def _api(self, rest: str, query: dict[str, list[str]]) -> None:
        parts = rest.split("/", 3)
        repo = self._repo("/".join(parts[:2]))
        if repo is None:
            return
        kind = parts[2] if len(parts) > 2 else "info"
        if kind == "tree":
            self._tree(repo, parts[3], query)
            return
        commit = self._commit(repo, parts[3] if len(parts) > 3 else "main")
        if commit is not None:
            siblings = [{"rfilename": path} for path in sorted(repo.files)]
            info = {"id": repo.repo_id, "modelId": repo.repo_id, "sha": commit, "siblings": siblings, "tags": []}
            self.send_json({**info, "private": repo.private, "gated": "manual" if repo.gated else False})

    def _tree(self, repo: Repo, rest: str, query: dict[str, list[str]]) -> None:
        if self._commit(repo, rest) is None:
            return
        paths = sorted(repo.files)
        folders = sorted({path.rsplit("/", 1)[0] for path in paths if "/" in path})
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in folders]
        entries += [self._entry(repo, path) for path in paths]
        at = int(query.get("cursor", ["0"])[0])
        headers = {}
        if at + self.hub.page < len(entries):
            url = f"{self.hub.endpoint}{self.path.split('?')[0]}?recursive=true&cursor={at + self.hub.page}"
            headers["Link"] = f'<{url}>; rel="next"'
        self.send_json(entries[at : at + self.hub.page], headers)

    def _entry(self, repo: Repo, path: str) -> dict[str, object]:
        file = repo.files[path]
        size, etag = file.stat().st_size, self.hub.etag(file)
        entry: dict[str, object] = {"type": "file", "oid": etag[:40], "size": size, "path": path}
        if file.suffix in LFS_SUFFIXES:
            entry["lfs"] = {"oid": etag, "size": size, "pointerSize": 134}
            entry["xetHash"] = etag
        return entry

    def _resolve(self, repo: Repo, rest: str) -> None:
        revision = next((r for r in (*repo.branches, repo.commit) if rest.startswith(r + "/")), rest.split("/", 1)[0])
        commit, path = self._commit(repo, revision), rest[len(revision) + 1 :]
        if commit is None:
            return
        if repo.gated and not self._has_access():
            status = 403 if self.seen.authorization else 401
            self.error(status, "GatedRepo", f"Access to model {repo.repo_id} is restricted.")
            return
        file = repo.files.get(path)
        if file is None:
            self.error(404, "EntryNotFound", "Entry not found")
            return
        if file.suffix not in LFS_SUFFIXES:
            location = f"/api/resolve-cache/models/{repo.repo_id}/{commit}/{quote(path)}"
            self.send(307, {"Location": location, "X-Repo-Commit": commit})
            return
        etag = self.hub.etag(file)
        location = f"{self.hub.storage}/xet/{etag}?sig={self.hub.sign()}"
        linked = {"X-Linked-Size": str(file.stat().st_size), "X-Linked-Etag": f'"{etag}"', "X-Repo-Commit": commit}
        self.send(302, {"Location": location, "ETag": f'"{etag[::-1]}"', **linked})

    def _send_small(self, repo: Repo, path: str) -> None:
        file = repo.files[path]
        self.send_file(file, {"X-Repo-Commit": repo.commit}, self.hub.etag(file))

    def _repo(self, repo_id: str) -> Repo | None:
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and not self._has_access()):
            # The real Hub does not tell a missing repo from a private one, nor 404 from 401 without a token.
            status = 404 if self.seen.authorization else 401
            self.error(status, "RepoNotFound", "Repository not found")
            return None
        return repo

    def _commit(self, repo: Repo, revision: str) -> str | None:
        commit = repo.commit if revision == repo.commit else repo.branches.get(revision)
        if commit is None:
            self.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _has_access(self) -> bool:
        return self.seen.authorization == f"Bearer {TOKEN}"
