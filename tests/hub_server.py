"""A small server that speaks the part of the Hugging Face Hub that downloads need.

huggingface_hub itself is not replaced: tests point ``HF_ENDPOINT`` here. Every request is
recorded, so that a test can say what was never asked for.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

_DATASETS = "datasets/"


@dataclass(frozen=True)
class Request:
    """One request that arrived."""

    method: str
    path: str  # decoded, without the query
    token: str | None  # of the Authorization header


@dataclass
class Repo:
    """A model or dataset on the fake Hub; every commit keeps its files."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated_files: bool = False  # metadata is public, files need access
    required_token: str | None = None  # private: without it the repo does not exist
    fail_with: int | None = None  # every request gets this status
    after_info: Callable[[], None] | None = None  # called once the commit was told
    served: dict[str, bytes] = field(default_factory=dict)  # name -> other bytes than announced

    def commit(self, files: dict[str, bytes], *, branch: str = "main") -> str:
        """Add a commit and move the branch to it."""
        seed = json.dumps([len(self.commits), sorted(files)]).encode()
        commit = hashlib.sha1(seed, usedforsecurity=False).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit

    def find(self, revision: str) -> str | None:
        commit = self.branches.get(revision, revision)
        return commit if commit in self.commits else None


class HubServer:
    """The server; use `running()`."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[HubServer]:
        """A server that answers until the block ends."""
        server = cls()
        thread = threading.Thread(target=server._http.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server._http.shutdown()
            server._http.server_close()
            thread.join()

    def add(self, repo_id: str, files: dict[str, bytes], **settings: object) -> Repo:
        """A model with one commit on ``main``."""
        repo = Repo(**settings)  # type: ignore[arg-type]
        repo.commit(files)
        self.repos[repo_id] = repo
        return repo

    def add_dataset(self, repo_id: str, files: dict[str, bytes], **settings: object) -> Repo:
        """A dataset with one commit on ``main``; a model may have the same name."""
        return self.add(f"{_DATASETS}{repo_id}", files, **settings)

    def fetched(self) -> list[str]:
        """Names of the files whose bytes were asked for, without repeats, sorted."""
        paths = [
            r.path.replace(f"/{_DATASETS}", "/", 1) for r in self.requests if r.method == "GET"
        ]
        parts = [path.split("/", 5) for path in paths]
        return sorted({part[5] for part in parts if len(part) == 6 and part[3] == "resolve"})


def files_of(folder: Path) -> dict[str, bytes]:
    """All files of a folder, as `HubServer.add` takes them."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _is_lfs(name: str) -> bool:
    return name.endswith((".safetensors", ".bin", ".parquet"))


def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\x00" % len(data) + data, usedforsecurity=False).hexdigest()


def _sibling(name: str, data: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": _blob_id(data)}
    if _is_lfs(name):
        digest = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 130}
    return entry


def _tree_entry(name: str, data: bytes) -> dict[str, object]:
    entry: dict[str, object] = {
        "type": "file", "path": name, "size": len(data), "oid": _blob_id(data),
    }  # fmt: skip
    if _is_lfs(name):
        digest = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 130}
    return entry


def _split_revision(parts: list[str], repo: Repo) -> tuple[str, str]:
    """Revision and file name; a branch such as ``refs/convert/parquet`` has slashes of its own."""
    for end in range(len(parts), 0, -1):
        if repo.find("/".join(parts[:end])):
            return "/".join(parts[:end]), "/".join(parts[end:])
    return parts[0], "/".join(parts[1:])


def _handler(server: HubServer) -> type[BaseHTTPRequestHandler]:
    """The request handler class of one server."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            url = urlsplit(self.path)
            path = unquote(url.path)
            authorization = self.headers.get("Authorization")
            token = authorization.removeprefix("Bearer ") if authorization else None
            server.requests.append(Request(self.command, path, token))
            parts = path.strip("/").split("/")
            is_api = parts[0] == "api"
            parts = parts[1:] if is_api else parts
            kind = _DATASETS if parts[0] == "datasets" else ""
            parts = parts[1:] if parts[0] in ("models", "datasets") else parts
            repo_id, parts = "/".join(parts[:2]), parts[2:]
            repo = server.repos.get(kind + repo_id)
            if repo is None or repo.required_token not in (None, token):
                self._error(404 if token else 401, "RepoNotFound")
            elif repo.fail_with is not None:
                self._error(repo.fail_with, None)
            elif is_api:
                self._api(repo, repo_id, parts, parse_qs(url.query))
            else:
                self._file(repo, *_split_revision(parts[1:], repo))

        def _api(
            self, repo: Repo, repo_id: str, parts: list[str], query: dict[str, list[str]]
        ) -> None:
            kind, revision = (parts[0], "/".join(parts[1:])) if parts else ("revision", "main")
            commit = repo.find(revision)
            if commit is None:
                self._error(404, "RevisionNotFound")
                return
            files = repo.commits[commit]
            if kind == "tree":
                self._json([_tree_entry(name, data) for name, data in files.items()])
                return
            siblings = [_sibling(name, data) for name, data in files.items()]
            if "blobs" not in query:
                siblings = [{"rfilename": entry["rfilename"]} for entry in siblings]
            self._json({"id": repo_id, "sha": commit, "siblings": siblings})
            if repo.after_info is not None:
                repo.after_info()

        def _file(self, repo: Repo, revision: str, name: str) -> None:
            commit = repo.find(revision)
            if commit is None:
                self._error(404, "RevisionNotFound")
            elif name not in repo.commits[commit]:
                self._error(404, "EntryNotFound", {"X-Repo-Commit": commit})
            elif repo.gated_files:
                self._error(403 if self.headers.get("Authorization") else 401, "GatedRepo")
            else:
                self._bytes(commit, name, repo.commits[commit][name], repo.served.get(name))

        def _bytes(self, commit: str, name: str, data: bytes, other: bytes | None) -> None:
            etag = hashlib.sha256(data).hexdigest() if _is_lfs(name) else _blob_id(data)
            body = data if other is None else other
            headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
            if _is_lfs(name):
                headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(body))}
            wanted = self.headers.get("Range")
            if wanted and wanted.startswith("bytes="):
                begin = int(wanted.removeprefix("bytes=").split("-")[0])
                headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
                self._send(206, body[begin:], headers)
            else:
                self._send(200, body, headers)

        def _json(self, value: object) -> None:
            self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _error(
            self, status: int, code: str | None, headers: dict[str, str] | None = None
        ) -> None:
            extra = {"X-Error-Code": code} if code else {}
            self._send(status, b"{}", {**extra, **(headers or {})})

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler
