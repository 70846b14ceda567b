"""A Hugging Face Hub on loopback: serves repositories from folders on disk to the real client libraries."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit


API = r"/api/(?P<kind>\w+)/(?P<id>[^/]+/[^/]+)"
REVISION = r"(?P<revision>refs/pr/\d+|[^/]+)"
INFO = re.compile(rf"{API}(?:/revision/{REVISION})?")
TREE = re.compile(rf"{API}/tree/{REVISION}(?:/(?P<path>.+))?")
FILE = re.compile(rf"(?:/(?P<kind>datasets|spaces))?/(?P<id>[^/]+/[^/]+)/resolve/{REVISION}/(?P<path>.+)")


class Hub(ThreadingHTTPServer):
    """
    The folder `root/datasets/user/name` is the data set `user/name`, `root/models/user/name` a model; each
    has one revision, "main". `requests` logs what was asked for, as "GET /api/datasets/user/name".
    """

    def __init__(self, root: Path):
        super().__init__(("127.0.0.1", 0), self.handler)
        self.root, self.requests = root, []

    @property
    def handler(self) -> type[BaseHTTPRequestHandler]:
        return Handler

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def environment(self, home: Path) -> dict[str, str]:
        """For a process whose Hugging Face libraries are to use this Hub and keep their caches in `home`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        ours = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home)}
        return {**kept, **ours, "HF_TOKEN": "hf_dummy", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}

    def files(self, kind: str, repo_id: str, revision: str | None) -> tuple[str, dict[str, bytes]]:
        """Commit hash of a repository and the content of its files by path."""
        folder = self.root / kind / repo_id
        if not folder.is_dir():
            raise FileNotFoundError("RepoNotFound")
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        commit = hashlib.sha1(repr([(path, blob_id(files[path])) for path in files]).encode()).hexdigest()
        if revision not in (None, "main", commit):
            raise FileNotFoundError("RevisionNotFound")
        return commit, files

    def is_private(self, kind: str, repo_id: str) -> bool:
        return False


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {unquote(self.path)}")
        path = unquote(urlsplit(self.path).path)
        try:
            for route, send in ((TREE, self.send_tree), (INFO, self.send_info), (FILE, self.send_file)):
                if match := route.fullmatch(path):
                    kind, repo_id, revision = match["kind"] or "models", match["id"], match["revision"]
                    return send(match, *self.server.files(kind, repo_id, revision))
            self.send(404)
        except FileNotFoundError as error:
            self.send(404, **{"X-Error-Code": str(error)})

    do_HEAD = do_GET

    def send_info(self, asked: re.Match, commit: str, files: dict[str, bytes]) -> None:
        has_sizes = "blobs" in parse_qs(urlsplit(self.path).query)
        siblings = [
            {"rfilename": path, **({"size": len(content)} if has_sizes else {})}
            for path, content in files.items()
        ]
        private = self.server.is_private(asked["kind"], asked["id"])
        info = {"id": asked["id"], "sha": commit, "private": private, "tags": [], "siblings": siblings}
        self.send(200, json.dumps(info).encode())

    def send_tree(self, asked: re.Match, commit: str, files: dict[str, bytes]) -> None:
        top = f"{asked['path']}/" if asked["path"] else ""
        recursive = parse_qs(urlsplit(self.path).query).get("recursive") == ["true"]
        folders = {parent.as_posix(): None for path in files for parent in Path(path).parents[:-1]}
        below = {path: content for path, content in {**folders, **files}.items() if path.startswith(top)}
        if not below:
            raise FileNotFoundError("EntryNotFound")
        shown = [path for path in sorted(below) if recursive or "/" not in path.removeprefix(top)]
        self.send(200, json.dumps([tree_entry(path, below[path]) for path in shown]).encode())

    def send_file(self, asked: re.Match, commit: str, files: dict[str, bytes]) -> None:
        if asked["path"] not in files:
            raise FileNotFoundError("EntryNotFound")
        content = files[asked["path"]]
        headers = {"ETag": f'"{blob_id(content)}"', "X-Repo-Commit": commit}
        if asked_range := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            first, last = map(int, asked_range.groups())
            headers["Content-Range"] = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
            return self.send(206, content[first : last + 1], **headers)
        self.send(200, content, **headers)

    def send(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_) -> None:
        """Nothing on stderr: `Hub.requests` is the log."""


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # as git names a file's content


def tree_entry(path: str, content: bytes | None) -> dict:
    """A file, or a folder if `content` is `None`."""
    kind = "directory" if content is None else "file"
    return {"type": kind, "path": path, "oid": blob_id(content or b""), "size": len(content or b"")}


@contextmanager
def serve(root: Path, kind: type[Hub] = Hub) -> Iterator[Hub]:
    """A running Hub of the repositories in `root`."""
    with kind(root) as hub:
        Thread(target=hub.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield hub
        finally:
            hub.shutdown()
