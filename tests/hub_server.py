"""A server that answers as the Hub does, on this machine: models with commits, branches and tags, gated and private
ones, small files in place and large ones by a redirect to another host, uploads and commits.

    with HubServer() as hub:
        hub.add("org/name", {"config.json": b"{}"}, tags=("v1",))

`hub.log` holds (method, path, headers) of every request; `hub.cut` names files whose next download breaks off in the
middle; `hub.silent` makes it take every request and answer none. What it must answer was read from huggingface_hub.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

LARGE = (".safetensors", ".bin")
Files = dict[str, bytes]


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Repo:
    """A model: its commits, and the names that stand for them."""

    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    access: str = "public"
    """`public`; `gated`: anyone sees it, and only the token reads it; `private`: only the token sees it."""
    messages: list[str] = field(default_factory=list)

    def commit(self, files: Files, branch: str = "main", message: str = "") -> str:
        """A new commit on a branch."""
        self.messages.append(message)
        name = hashlib.sha1(repr((sorted(files.items()), len(self.messages))).encode()).hexdigest()
        self.commits[name], self.branches[branch] = dict(files), name
        return name

    def named(self, revision: str) -> str | None:
        """The commit of a branch, a tag or itself."""
        found = self.branches.get(revision) or self.tags.get(revision) or revision
        return found if found in self.commits else None


class HubServer:
    """The server and what it holds."""

    token = "hf_right"

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: Files = {}
        self.cut: set[str] = set()
        self.silent = False
        self.log: list[tuple[str, str, dict[str, str]]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"hub": self}))
        self.server.daemon_threads = True
        self.released = threading.Event()

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    @property
    def port(self) -> int:
        return self.server.server_address[1]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, name: str, files: Files, access: str = "public", tags: tuple[str, ...] = ()) -> str:
        """A model, or another commit of one; returns the commit."""
        repo = self.repos.setdefault(name, Repo(access=access))
        found = repo.commit(files)
        repo.tags.update(dict.fromkeys(tags, found))
        self.blobs |= {_sha(data): data for data in files.values()}
        return found

    def asked(self, method: str, part: str) -> list[dict[str, str]]:
        """Headers of the requests whose path holds a part."""
        return [headers for verb, path, headers in self.log if verb == method and part in path]


class _Answers(BaseHTTPRequestHandler):
    """One request."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        self._route()

    do_HEAD = do_POST = do_PUT = do_GET

    def _route(self) -> None:
        self.path = unquote(urlsplit(self.path).path)
        self.hub.log.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.hub.silent:
            self.hub.released.wait(60)
            return
        for pattern, answer in ROUTES:
            if found := re.fullmatch(pattern, self.path):
                answer(self, *found.groups())
                return
        self._say(404, {"error": "no such address"})

    # ---- reading ----------------------------------------------------------------------------------------------------

    def _repo(self, name: str, revision: str | None = None, reads: bool = False) -> tuple[Repo, str] | None:
        """The model and the commit, or None when an error has been sent."""
        repo, right = self.hub.repos.get(name), self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if self.headers.get("Authorization") and not right:
            return self._fail(401, "", "Invalid credentials in Authorization header")
        if repo is None or (repo.access == "private" and not right):
            return self._fail(404 if right else 401, "RepoNotFound", "Repository not found")
        if reads and repo.access == "gated" and not right:
            return self._fail(401, "GatedRepo", "Access to this model is restricted")
        commit = repo.named(revision or "main")
        if commit is None:
            return self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo, commit

    def _info(self, name: str, revision: str | None = None) -> None:
        if found := self._repo(name, revision):
            siblings = [{"rfilename": path} for path in found[0].commits[found[1]]]
            self._say(200, {"_id": name, "id": name, "sha": found[1], "siblings": siblings, "private": False,
                            "tags": [], "downloads": 0, "likes": 0})  # fmt: skip

    def _tree(self, name: str, revision: str) -> None:
        if found := self._repo(name, revision):
            self._say(200, [_entry(path, data) for path, data in found[0].commits[found[1]].items()])

    def _refs(self, name: str) -> None:
        if found := self._repo(name):
            rows = {
                kind: [{"name": name, "ref": name, "targetCommit": commit} for name, commit in names.items()]
                for kind, names in (("branches", found[0].branches), ("tags", found[0].tags))
            }
            self._say(200, {**rows, "converts": []})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        found = self._repo(name, revision, reads=True)
        if not found:
            return
        repo, commit = found
        if path not in repo.commits[commit]:
            self._fail(404, "EntryNotFound", "Entry not found")
            return
        data, headers = repo.commits[commit][path], {"X-Repo-Commit": commit}
        if not path.endswith(LARGE):
            self._send(200, data, {**headers, "ETag": f'"{_git(data)}"'}, path)
            return
        linked = {"X-Linked-Etag": f'"{_sha(data)}"', "X-Linked-Size": str(len(data)), "ETag": '"of the redirect"'}
        # another host, as the Hub's: nobody may send it the token
        self._send(
            302, b"", {**headers, **linked, "Location": f"http://localhost:{self.hub.port}/cdn/{_sha(data)}/{path}"}
        )

    def _cdn(self, digest: str, path: str) -> None:
        self._send(200, self.hub.blobs[digest], {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"}, path)

    # ---- writing ----------------------------------------------------------------------------------------------------

    def _create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._fail(401, "", "Invalid username or password.")
        elif asked["organization"] != "me":
            self._fail(403, "", "You don't have the rights to create a model under this namespace")
        elif name in self.hub.repos:
            self._say(409, {"error": "You already created this model repo", "url": f"{self.hub.endpoint}/{name}"})
        else:
            access = "private" if asked.get("private") or asked.get("visibility") == "private" else "public"
            self.hub.add(name, {".gitattributes": b""}, access)
            self._say(200, {"url": f"{self.hub.endpoint}/{name}", "name": name})

    def _branch(self, name: str, branch: str) -> None:
        if found := self._repo(name):
            if branch in found[0].branches:
                self._fail(409, "", "Reference already exists")
                return
            found[0].branches[branch] = found[1]
            self._say(200, {})

    def _preupload(self, name: str, revision: str) -> None:
        if found := self._repo(name, revision):
            old = found[0].commits[found[1]]
            self._say(200, {"files": [
                {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                 "shouldIgnore": False, "oid": _oid(file["path"], old[file["path"]]) if file["path"] in old else None}
                for file in json.loads(self.body)["files"]
            ]})  # fmt: skip

    def _batch(self, name: str) -> None:
        def action(asked: dict[str, Any]) -> dict[str, Any]:
            if asked["oid"] in self.hub.blobs:
                return {**asked}
            return {**asked, "actions": {"upload": {"href": f"http://localhost:{self.hub.port}/lfs/{asked['oid']}"}}}

        self._say(200, {"transfer": "basic", "objects": [action(asked) for asked in json.loads(self.body)["objects"]]})

    def _put(self, digest: str) -> None:
        assert _sha(self.body) == digest
        self.hub.blobs[digest] = self.body
        self._send(200, b"", {})

    def _commit(self, name: str, branch: str) -> None:
        found = self._repo(name, branch)
        if not found:
            return
        rows = [json.loads(line) for line in self.body.splitlines()]
        files = dict(found[0].commits[found[1]])
        for row in rows[1:]:
            value = row["value"]
            files[value["path"]] = (
                self.hub.blobs[value["oid"]] if row["key"] == "lfsFile" else base64.b64decode(value["content"])
            )
        commit = found[0].commit(files, branch, rows[0]["value"]["summary"])
        self.hub.blobs |= {_sha(data): data for data in files.values()}
        self._say(200, {"commitUrl": f"{self.hub.endpoint}/{name}/commit/{commit}", "commitOid": commit})

    def _yaml(self) -> None:
        assert json.loads(self.body)["content"].startswith("---\n")
        self._say(200, {"errors": [], "warnings": []})

    # ---- answers ----------------------------------------------------------------------------------------------------

    def _fail(self, status: int, code: str, message: str) -> None:
        self._send(status, json.dumps({"error": message}).encode(), {"X-Error-Code": code, "X-Error-Message": message})

    def _say(self, status: int, value: Any) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str], path: str = "") -> None:
        """The whole, the part that a Range asks for, or, where it is to break off, half of it."""
        if (start := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")) and status == 200:
            headers = {**headers, "Content-Range": f"bytes {start[1]}-{len(data) - 1}/{len(data)}"}
            status, data = 206, data[int(start[1]) :]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if path in self.hub.cut:
            self.hub.cut.discard(path)
            self.close_connection = True
            data = data[: len(data) // 2]
        self.wfile.write(data)


def _entry(path: str, data: bytes) -> dict[str, Any]:
    """A file as the tree lists it."""
    entry = {"type": "file", "path": path, "size": len(data), "oid": _git(data)}
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": _sha(data), "size": len(data), "pointerSize": 130}
    return entry


def _git(data: bytes) -> str:
    """What git calls a file with these bytes."""
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def _oid(path: str, data: bytes) -> str:
    return _sha(data) if path.endswith(LARGE) else _git(data)


_REPO = r"([\w.-]+/[\w.-]+)"
ROUTES: list[tuple[str, Any]] = [
    (r"/api/repos/create", _Answers._create),
    (r"/api/validate-yaml", _Answers._yaml),
    (rf"/api/models/{_REPO}", _Answers._info),
    (rf"/api/models/{_REPO}/revision/(.+)", _Answers._info),
    (rf"/api/models/{_REPO}/tree/(.+)", _Answers._tree),
    (rf"/api/models/{_REPO}/refs", _Answers._refs),
    (rf"/api/models/{_REPO}/branch/(.+)", _Answers._branch),
    (rf"/api/models/{_REPO}/preupload/(.+)", _Answers._preupload),
    (rf"/api/models/{_REPO}/commit/(.+)", _Answers._commit),
    (rf"/{_REPO}\.git/info/lfs/objects/batch", _Answers._batch),
    (rf"/{_REPO}/resolve/([^/]+)/(.+)", _Answers._resolve),
    (r"/lfs/(\w+)", _Answers._put),
    (r"/cdn/(\w+)/(.+)", _Answers._cdn),
]


@contextlib.contextmanager
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The server, an empty cache, no token, and no way to anywhere else."""
    connect, lookup = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        assert address[0] in ("127.0.0.1", "::1"), f"the network was touched: {address}"
        connect(self, address)

    def guarded_lookup(host: Any, *given: Any, **named: Any) -> Any:
        host = host.decode() if isinstance(host, bytes) else host
        assert host in ("127.0.0.1", "localhost"), f"the network was touched: {host}"
        return lookup(host, *given, **named)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_lookup)
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr("qwenkit.hub._SECONDS", 1)
        monkeypatch.chdir(tmp_path)
        yield server
