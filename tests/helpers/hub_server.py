"""A Hub for tests on the loopback: what huggingface_hub asks for when models are published and loaded, and faults.

Repositories live in memory. Large files are handed out by a second port, as by the Hub's CDN, which refuses whoever
sends it a token. Every request is noted.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKENS = {"hf_ann": ("ann", "write"), "hf_ann_reads": ("ann", "read"), "hf_bob": ("bob", "write")}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".png", ".bin"))


@dataclass
class Commit:
    files: dict[str, bytes]
    title: str
    parent: str | None
    oid: str = ""

    def __post_init__(self) -> None:
        names = [(path, sha256(content)) for path, content in sorted(self.files.items())]
        self.oid = hashlib.sha1(repr((names, self.title, self.parent)).encode()).hexdigest()


@dataclass
class Repo:
    id: str
    private: bool = False
    gated: bool = False
    readers: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(
        self, changes: dict[str, bytes | None], title: str = "a commit", branch: str = "main", base: str | None = None
    ) -> str:
        parent = base or self.branches.get(branch)
        files = dict(self.commits[parent].files) if parent else {}
        for path, content in changes.items():
            if content is None:
                files.pop(path, None)
            else:
                files[path] = content
        commit = Commit(files, title, parent)
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit.oid

    def at(self, revision: str) -> Commit | None:
        return self.commits.get(self.branches.get(revision) or self.tags.get(revision) or revision)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    port: str  # "hub" or "cdn"
    token: str | None
    agent: str


@dataclass
class Fault:
    """What goes wrong with requests whose `METHOD /path` a pattern is found in.

    Args:
        pattern: Regular expression.
        status: Answered in place of the right one.
        cut_after: Bytes of the body that are sent before the connection is closed.
        delay: Seconds before the answer.
        drip: Seconds between two bytes of the body.
        before: Called before the answer is made, to change what the Hub holds.
        times: How often; always when None.
    """

    pattern: str
    status: int | None = None
    cut_after: int | None = None
    delay: float = 0.0
    drip: float = 0.0
    before: Callable[[], Any] | None = None
    replace: Callable[[bytes], bytes] | None = None
    times: int | None = None


class Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", headers: dict[str, str] | None = None):
        super().__init__(status, code, message)
        self.status, self.headers = status, dict(headers or {})
        if code:
            self.headers["X-Error-Code"] = code
        if message:
            self.headers["X-Error-Message"] = message


class LocalHub:
    """The server. `with LocalHub() as hub:` serves on `hub.url` until the end of the block."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.xet_folder = ""  # where the client's own simulation of Xet puts what is uploaded
        self.lock = threading.RLock()

    def __enter__(self) -> LocalHub:
        self._servers = [self._serve("hub"), self._serve("cdn")]
        hub, cdn = (server.server_address[1] for server in self._servers)
        # Another name, since not every version of the client takes another port for another host.
        self.url, self.cdn = f"http://127.0.0.1:{hub}", f"http://localhost:{cdn}"
        return self

    def _serve(self, port: str) -> ThreadingHTTPServer:
        handler = type("Handler", (_Handler,), {"hub": self, "port": port})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def clear(self) -> None:
        for what in (self.repos, self.objects, self.requests, self.faults):
            what.clear()

    def add(self, repo_id: str, files: dict[str, bytes] | None = None, **options: Any) -> Repo:
        """A repository with one commit, as if somebody had made it on the web page."""
        repo = self.repos[repo_id] = Repo(repo_id, **options)
        repo.commit({".gitattributes": b"*.safetensors filter=lfs\n", **(files or {})}, "initial commit")
        return repo

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Content by path, without what every repository has."""
        found = self.repos[repo_id].at(revision).files
        return {path: content for path, content in found.items() if path != ".gitattributes"}

    def asked(self, pattern: str = "") -> list[str]:
        """`METHOD /path` of the requests so far that match."""
        lines = [f"{request.method} {request.path}" for request in self.requests]
        return [line for line in lines if re.search(pattern, line)]

    @contextmanager
    def failing(self, pattern: str, **what: Any) -> Iterator[Fault]:
        """Inside the block, a `Fault`."""
        fault = Fault(pattern, **what)
        self.faults.append(fault)
        try:
            yield fault
        finally:
            self.faults.remove(fault)


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    port: str
    protocol_version = "HTTP/1.1"
    headers: Message

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        authorization = self.headers.get("Authorization")
        token = authorization.removeprefix("Bearer ") if authorization else None
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(self.command, path, self.port, token, self.headers.get("User-Agent", ""))
        fault = Fault("")
        with self.hub.lock:
            self.hub.requests.append(request)
            for candidate in self.hub.faults:
                if candidate.times != 0 and re.search(candidate.pattern, f"{self.command} {path}"):
                    fault = candidate
                    fault.times = None if fault.times is None else fault.times - 1
                    break
        threading.Event().wait(fault.delay)  # not time.sleep, which tests of the client's retries replace
        if fault.before is not None:
            fault.before()
        try:
            if fault.status is not None:
                raise Refused(fault.status, message="a fault of this test")
            if self.port == "cdn" and token is not None:
                raise Refused(400, message="a token was sent to the CDN")
            with self.hub.lock:
                calls = _Calls(self.hub, token, parse_qs(parts.query))
                status, headers, content = calls.route(self.command, path, parts.path, body)
        except Refused as refused:
            status, headers, content = refused.status, refused.headers, b'{"error":"refused"}'
        if fault.replace is not None:
            content = fault.replace(content)
        self._send(status, headers, content, fault.cut_after, fault.drip)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer

    def _send(self, status: int, headers: dict[str, str], content: bytes, cut_after: int | None, drip: float) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and status == 200:
            start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
            headers = {**headers, "Content-Range": f"bytes {start}-{end}/{len(content)}"}
            status, content = 206, content[start : end + 1]
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), "Accept-Ranges": "bytes", **headers}.items():
            self.send_header(name, value)
        if cut_after is not None:
            self.close_connection = True
            if cut_after == 0:  # not even the status line leaves
                self._headers_buffer = []
                return
            content = content[:cut_after]
        self.end_headers()
        if self.command != "HEAD":
            for byte in content if drip else ():
                self.wfile.write(bytes([byte]))
                threading.Event().wait(drip)
            self.wfile.write(b"" if drip else content)


Answer = tuple[int, dict[str, str], bytes]


def as_json(value: Any, status: int = 200) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


class _Calls:
    """One request: who asks, for what."""

    def __init__(self, hub: LocalHub, token: str | None, query: dict[str, list[str]]):
        self.hub, self.token, self.query = hub, token, query
        self.user, self.role = TOKENS.get(token, (None, None))

    def route(self, method: str, path: str, raw_path: str, body: bytes) -> Answer:
        if path.startswith("/objects/"):
            return self._objects(method, path.removeprefix("/objects/"), body)
        if self.token is not None and self.user is None:
            raise Refused(401, message="Invalid credentials in Authorization header")
        if path == "/api/whoami-v2":
            return as_json({"type": "user", "name": self._known(), "auth": {"accessToken": {"role": self.role}}})
        if path == "/api/validate-yaml":
            return as_json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        # A branch named refs/pr/1 is one segment of the path as it was sent.
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(\w[\w-]*)(?:/([^/]+))?)?", raw_path):
            repo_id, call, revision = unquote(found[1]), found[2], unquote(found[3] or "main")
            return self._api(method, self._visible(repo_id), call, revision, body)
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self._batch(self._visible(found[1]), json.loads(body))
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", raw_path):
            return self._resolve(method, self._visible(unquote(found[1])), unquote(found[2]), unquote(found[3]))
        raise Refused(404)

    def _known(self) -> str:
        if self.user is None:
            raise Refused(401, message="Invalid username or password.")
        return self.user

    def _visible(self, repo_id: str) -> Repo:
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and self.user not in {repo_id.split("/")[0], *repo.readers}):
            raise Refused(401 if self.user is None else 404, "RepoNotFound", "Repository not found")
        return repo

    def _check_writes(self, namespace: str) -> None:
        if self._known() != namespace or self.role != "write":
            raise Refused(403, message=f"You don't have the rights to write under the namespace {namespace!r}")

    def _create(self, asked: dict[str, Any]) -> Answer:
        owner = asked.get("organization") or self._known()
        repo_id = f"{owner}/{asked['name']}"
        url = {"url": f"{self.hub.url}/{repo_id}"}
        if repo_id in self.hub.repos:
            self._visible(repo_id)
            return as_json({**url, "error": "You already created this model repo"}, status=409)
        self._check_writes(owner)
        self.hub.add(repo_id, private=bool(asked.get("private")) or asked.get("visibility") == "private")
        return as_json(url)

    def _api(self, method: str, repo: Repo, call: str | None, revision: str, body: bytes) -> Answer:
        if method == "GET" and call in (None, "revision"):
            return self._info(repo, revision)
        if call == "refs":
            kinds = {"branches": repo.branches, "tags": repo.tags}
            refs = {
                kind: [{"name": name, "ref": name, "targetCommit": oid} for name, oid in names.items()]
                for kind, names in kinds.items()
            }
            return as_json({**refs, "converts": []})
        if method == "GET" and call == "xet-write-token":
            token = {"casUrl": f"local://{self.hub.xet_folder}", "accessToken": "xet", "exp": int(time.time()) + 3600}
            headers = {"Cas-Url": token["casUrl"], "Access-Token": "xet", "Token-Expiration": str(token["exp"])}
            return 200, {f"X-Xet-{name}": value for name, value in headers.items()}, json.dumps(token).encode()
        if method == "GET":
            raise Refused(404)
        if "create_pr" not in self.query:
            self._check_writes(repo.id.split("/")[0])
        self._known()
        if call == "branch":
            if revision in repo.branches:
                raise Refused(409, message="Reference already exists")
            repo.branches[revision] = repo.branches["main"]
            return as_json({})
        if repo.at(revision) is None:
            raise Refused(404, "RevisionNotFound", "Invalid rev id")
        if call == "preupload":
            return self._preupload(repo.at(revision), json.loads(body))
        if call == "commit":
            return self._commit(repo, revision, [json.loads(line) for line in body.splitlines() if line])
        raise Refused(404)

    def _info(self, repo: Repo, revision: str) -> Answer:
        commit = repo.at(revision)
        if commit is None:
            raise Refused(404, "RevisionNotFound", "Invalid rev id")
        siblings = []
        for path, content in sorted(commit.files.items()):
            entry: dict[str, Any] = {"rfilename": path}
            if "blobs" in self.query:
                entry |= {"size": len(content), "blobId": git_sha1(content)}
                if is_large(path):
                    entry["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        info = {"id": repo.id, "sha": commit.oid, "author": repo.id.split("/")[0], "private": repo.private}
        return as_json({**info, "gated": "manual" if repo.gated else False, "tags": [], "siblings": siblings})

    def _preupload(self, commit: Commit, asked: dict[str, Any]) -> Answer:
        files = []
        for file in asked["files"]:
            path = file["path"]
            entry = {"path": path, "uploadMode": "lfs" if is_large(path) else "regular", "shouldIgnore": False}
            if (content := commit.files.get(path)) is not None:
                entry["oid"] = sha256(content) if is_large(path) else git_sha1(content)
            files.append(entry)
        return as_json({"files": files})

    def _batch(self, repo: Repo, asked: dict[str, Any]) -> Answer:
        answers = []
        for wanted in asked["objects"]:
            answer = dict(wanted)
            if wanted["oid"] not in self.hub.objects:
                answer["actions"] = {"upload": {"href": f"{self.hub.cdn}/objects/{wanted['oid']}", "header": {}}}
            answers.append(answer)
        return as_json({"transfer": "basic", "objects": answers})

    def _objects(self, method: str, oid: str, body: bytes) -> Answer:
        if method == "PUT":
            if sha256(body) != oid:
                raise Refused(400, message="the bytes are not those that were announced")
            self.hub.objects[oid] = body
            return 200, {}, b""
        return 200, {"ETag": f'"{oid}"'}, self.hub.objects[oid]

    def _commit(self, repo: Repo, revision: str, lines: list[dict[str, Any]]) -> Answer:
        header = lines[0]["value"]
        base = header.get("parentCommit")
        is_proposal = "create_pr" in self.query
        if base and base != repo.branches.get(revision) and not is_proposal:
            raise Refused(412, message="A commit has happened since. Please refresh and try again.")
        changes: dict[str, bytes | None] = {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                changes[value["path"]] = self.hub.objects[value["oid"]]
            else:
                changes[value["path"]] = None
        branch = f"refs/pr/{sum('/pr/' in name for name in repo.branches) + 1}" if is_proposal else revision
        oid = repo.commit(changes, header["summary"], branch, base=base or repo.branches[revision])
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{repo.id}/commit/{oid}"}
        if is_proposal:
            answer["pullRequestUrl"] = f"{self.hub.url}/{repo.id}/discussions/{branch.rpartition('/')[2]}"
        return as_json(answer)

    def _resolve(self, method: str, repo: Repo, revision: str, path: str) -> Answer:
        if repo.gated and self.user not in {repo.id.split("/")[0], *repo.readers}:
            raise Refused(401 if self.user is None else 403, "GatedRepo", "Access to this model is restricted")
        commit = repo.at(revision)
        if commit is None:
            raise Refused(404, "RevisionNotFound", "Invalid rev id")
        headers = {"X-Repo-Commit": commit.oid}
        if path not in commit.files:
            raise Refused(404, "EntryNotFound", "Entry not found", headers)
        content = commit.files[path]
        if not is_large(path):
            return 200, {**headers, "ETag": f'"{git_sha1(content)}"'}, content
        oid = sha256(content)
        self.hub.objects[oid] = content
        headers |= {"X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(len(content)), "ETag": f'"{oid}"'}
        return 302, {**headers, "Location": f"{self.hub.cdn}/objects/{oid}"}, b""
