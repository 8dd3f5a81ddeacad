"""A Hugging Face hub on localhost, as far as `huggingface_hub` and `datasets` ask one: folders served as repositories.

`<root>/models/<owner>/<name>/<revision>/…` and `<root>/datasets/…` hold the files. In the hub's words: a repository
that is gated answers 401 to everyone without `TOKEN`, an unknown revision 404 with `RevisionNotFound`.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_marked_token_of_these_tests"
_FILE = re.compile(r"/(?:(?P<kind>datasets)/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_API = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"
    r"(?:/(?P<call>revision|tree|paths-info)/(?P<revision>[^/]+)(?:/(?P<path>.+))?)?"
)


@dataclass
class Hub:
    """A running hub; what it is asked is kept."""

    root: Path
    gated: set[str] = field(default_factory=set)
    """Repositories that ask for a token."""
    cut: set[str] = field(default_factory=set)
    """Names of files whose connection breaks after half of the bytes."""
    asked: list[str] = field(default_factory=list)
    """Methods and paths, in order."""
    url: str = ""

    def folder(self, kind: str, repo: str, revision: str = "main") -> Path:
        """Where the files of a revision go."""
        return self.root / kind / repo / revision.replace("/", "%2F")


def commit_of(folder: Path) -> str:
    """40 hex digits of a revision."""
    return hashlib.sha1("/".join(folder.parts[-3:]).encode(), usedforsecurity=False).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:  # standard output is the tests'
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        posted = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        path = urlsplit(self.path).path
        found = _FILE.fullmatch(path) or _API.fullmatch(path)
        if found is None:
            return self._error(404, "RepoNotFound", "Repository not found")
        repo, kind = found["repo"], found["kind"] or "models"
        repository = self.hub.root / kind / repo
        if repo in self.hub.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._error(401, "GatedRepo", f"Access to model {repo} is restricted. You must be authenticated.")
        if not repository.is_dir():
            return self._error(401, "RepoNotFound", "Invalid username or password.")
        folders = {commit_of(folder): folder for folder in repository.iterdir()}
        revision = found["revision"] or "main"
        folder = folders.get(revision, repository / revision)  # quoted in the URL as in the folder's name
        if not folder.is_dir():
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {unquote(revision)}")
        inside = unquote(found["path"] or "")
        if found.re is _FILE:
            return self._file(folder, folder / inside)
        return self._api(found["call"], kind, repo, folder, inside, parse_qs(posted).get("paths", []))

    def _api(self, call: str | None, kind: str, repo: str, folder: Path, inside: str, paths: list[str]) -> None:
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        if call == "tree":
            if not (folder / inside).is_dir():
                return self._error(404, "EntryNotFound", f"{inside} does not exist")
            below = (
                (folder / inside).rglob("*") if "recursive=true" in self.path.lower() else (folder / inside).iterdir()
            )
            return self._json([self._entry(folder, path) for path in sorted(below)])
        if call == "paths-info":
            known = [folder / path for path in paths if (folder / path).exists()]
            return self._json([self._entry(folder, path) for path in known])
        names = [{"rfilename": str(file.relative_to(folder))} for file in files]
        info = {"_id": "1", "id": repo, "sha": commit_of(folder), "siblings": names, "private": False, "tags": []}
        return self._json(info | {"downloads": 0, "likes": 0, "gated": repo in self.hub.gated, "disabled": False})

    def _entry(self, folder: Path, path: Path) -> dict[str, object]:
        name = str(path.relative_to(folder))
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": commit_of(folder)}
        return {"type": "file", "path": name, "size": path.stat().st_size, "oid": self._etag(path)}

    def _etag(self, file: Path) -> str:
        return hashlib.sha1(file.read_bytes(), usedforsecurity=False).hexdigest()

    def _file(self, folder: Path, file: Path) -> None:
        if not file.is_file():
            return self._error(404, "EntryNotFound", "Entry not found", commit_of(folder))
        content = file.read_bytes()
        start, end = 0, len(content)
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(asked[1]), int(asked[2]) + 1 if asked[2] else end
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{self._etag(file)}"')
        self.send_header("X-Repo-Commit", commit_of(folder))
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        if file.name in self.hub.cut:
            self.wfile.write(content[start : start + (end - start) // 2])
            self.close_connection = True
        else:
            self.wfile.write(content[start:end])

    def _json(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str, message: str, commit: str | None = None) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        if commit is not None:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def running(root: Path) -> Iterator[Hub]:
    """Serve the repositories below `root` until the end of the block."""
    hub = Hub(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
