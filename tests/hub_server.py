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


API = r"/api/(?P<kind>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)"
INFO = re.compile(rf"{API}(?:/revision/(?P<revision>[^/]+))?")
TREE = re.compile(rf"{API}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?")
FILE = re.compile(
    r"/(?:(?P<kind>datasets|spaces)/)?(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"
)
CLIENT_SETTINGS = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_")  # prefixes of environment variables


class NotFound(Exception):
    """Answered as 404 with this `X-Error-Code`."""


class Hub(ThreadingHTTPServer):
    """
    Attributes:
        root: the data set `user/name` is the folder `root/datasets/user/name`, a model `root/models/user/name`.
            Each has one revision, "main", whose commit hash changes with its files.
        requests: what was asked for, in order, as "GET /api/datasets/user/name".
    """

    daemon_threads = True

    def __init__(self, root: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.requests = root, []

    def environment(self, home: Path) -> dict[str, str]:
        """For a process whose Hugging Face libraries are to use this Hub and keep their caches in `home`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(CLIENT_SETTINGS)}
        ours = {"HF_ENDPOINT": f"http://127.0.0.1:{self.server_port}", "HF_HOME": str(home)}
        return {**kept, **ours, "HF_TOKEN": "hf_dummy", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}

    def files(self, kind: str, repo_id: str, revision: str | None) -> tuple[str, dict[str, bytes]]:
        """Commit hash of a repository and the content of its files by path."""
        folder = self.root / kind / repo_id
        if not folder.is_dir():
            raise NotFound("RepoNotFound")
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        commit = hashlib.sha1(repr([(path, blob_id(files[path])) for path in files]).encode()).hexdigest()
        if revision not in (None, "main", commit):
            raise NotFound("RevisionNotFound")
        return commit, files


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {unquote(self.path)}")
        path = unquote(urlsplit(self.path).path)
        for route, answer in ((TREE, self.send_tree), (INFO, self.send_info), (FILE, self.send_file)):
            if match := route.fullmatch(path):
                asked = match.groupdict()
                try:
                    files = self.server.files(asked["kind"] or "models", asked["id"], asked["revision"])
                    return answer(asked, *files)
                except NotFound as error:
                    return self.send(404, **{"X-Error-Code": str(error)})
        self.send(404)

    do_HEAD = do_GET

    def send_info(self, asked: dict, commit: str, files: dict[str, bytes]) -> None:
        siblings = [{"rfilename": path} for path in files]
        self.send_json({"id": asked["id"], "sha": commit, "private": False, "tags": [], "siblings": siblings})

    def send_tree(self, asked: dict, commit: str, files: dict[str, bytes]) -> None:
        top = f"{asked['path']}/" if asked["path"] else ""
        recursive = parse_qs(urlsplit(self.path).query).get("recursive") == ["true"]
        folders = {parent.as_posix(): None for path in files for parent in Path(path).parents[:-1]}
        below = {path: content for path, content in {**folders, **files}.items() if path.startswith(top)}
        if not below:
            raise NotFound("EntryNotFound")
        shown = [path for path in sorted(below) if recursive or "/" not in path.removeprefix(top)]
        self.send_json([tree_entry(path, below[path]) for path in shown])

    def send_file(self, asked: dict, commit: str, files: dict[str, bytes]) -> None:
        if asked["path"] not in files:
            raise NotFound("EntryNotFound")
        content = files[asked["path"]]
        self.send(200, content, **{"ETag": f'"{blob_id(content)}"', "X-Repo-Commit": commit})

    def send_json(self, value: dict | list) -> None:
        self.send(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

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
    entry = {"path": path, "oid": blob_id(content or b"")}
    return (
        {**entry, "type": "directory"} if content is None else {**entry, "type": "file", "size": len(content)}
    )


@contextmanager
def serve(root: Path) -> Iterator[Hub]:
    """A running Hub of the repositories in `root`."""
    with Hub(root) as hub:
        Thread(target=hub.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield hub
        finally:
            hub.shutdown()
