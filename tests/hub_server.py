"""A Hugging Face Hub on loopback that serves repositories from folders on disk, for the real client libraries.

The repository `user/name` of type "datasets" is the folder `root/datasets/user/name`, its one revision "main".
"""

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


REPOSITORY = r"(?P<id>[^/]+/[^/]+)"
INFO = re.compile(rf"/api/(?P<type>\w+)/{REPOSITORY}(?:/revision/(?P<revision>[^/]+))?")
TREE = re.compile(rf"/api/(?P<type>\w+)/{REPOSITORY}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?")
PATHS = re.compile(rf"/api/(?P<type>\w+)/{REPOSITORY}/paths-info/(?P<revision>[^/]+)")
FILE = re.compile(rf"/(?:(?P<type>datasets|spaces)/)?{REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


class HubError(Exception):
    """Answered as 404 with this `X-Error-Code`."""


class Hub(ThreadingHTTPServer):
    """The server; `requests` logs what was asked of it, as "GET /api/datasets/user/name"."""

    daemon_threads = True

    def __init__(self, root: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.requests = root, []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def environment(self, home: Path) -> dict[str, str]:
        """Environment of a process whose Hugging Face libraries use this Hub and keep their caches in `home`."""
        ours = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_TOKEN": "hf_dummy", "HF_HUB_DISABLE_XET": "1"}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
        return kept | ours | {"NO_PROXY": "127.0.0.1"}

    def files(self, repo_type: str, repo_id: str, revision: str | None) -> tuple[str, dict[str, bytes]]:
        """Commit hash and content by path of a repository at a revision."""
        folder = self.root / repo_type / repo_id
        if not folder.is_dir():
            raise HubError("RepoNotFound")
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        commit = hashlib.sha1(repr([(name, blob_id(files[name])) for name in files]).encode()).hexdigest()
        if revision not in (None, "main", commit):
            raise HubError("RevisionNotFound")
        return commit, files


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(f"{self.command} {unquote(self.path)}")
        print(self.command, self.path, body, dict(self.headers).get("Range"), flush=True)
        path = unquote(urlsplit(self.path).path)
        for pattern, answer in ((TREE, self.tree), (PATHS, self.paths), (INFO, self.info), (FILE, self.file)):
            if match := pattern.fullmatch(path):
                fields = match.groupdict()
                try:
                    commit, files = self.server.files(
                        fields["type"] or "models", fields["id"], fields["revision"]
                    )
                    return answer(commit, files, fields, body)
                except HubError as error:
                    return self.send(404, b"", {"X-Error-Code": str(error)})
        print("UNKNOWN")
        self.send(404, b"")

    def info(self, commit: str, files: dict[str, bytes], fields: dict, body: bytes) -> None:
        siblings = [{"rfilename": name} for name in files]
        self.send_json({"id": fields["id"], "sha": commit, "private": False, "siblings": siblings, "tags": [], "downloads": 0})

    def tree(self, commit: str, files: dict[str, bytes], fields: dict, body: bytes) -> None:
        top = f"{fields['path']}/" if fields["path"] else ""
        query = parse_qs(urlsplit(self.path).query)
        below = {name for name in files if name.startswith(top)}
        below |= {str(parent) for name in below for parent in Path(name).parents if str(parent).startswith(top)} - {"."}
        if query.get("recursive") not in (["True"], ["true"], ["1"]):
            below = {name for name in below if "/" not in name[len(top) :]}
        if top and not below:
            raise HubError("EntryNotFound")
        self.send_json([entry(name, files) for name in sorted(below)])

    def paths(self, commit: str, files: dict[str, bytes], fields: dict, body: bytes) -> None:
        asked = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
        folders = {str(parent) for name in files for parent in Path(name).parents}
        self.send_json([entry(name, files) for name in asked if name in files or name in folders])

    def file(self, commit: str, files: dict[str, bytes], fields: dict, body: bytes) -> None:
        if fields["path"] not in files:
            raise HubError("EntryNotFound")
        content = files[fields["path"]]
        self.send(200, content, {"ETag": f'"{blob_id(content)}"', "X-Repo-Commit": commit})

    def send_json(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, content: bytes, headers: dict[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def blob_id(content: bytes) -> str:
    """Git's hash of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def entry(name: str, files: dict[str, bytes]) -> dict:
    if name not in files:
        return {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
    return {"type": "file", "path": name, "oid": blob_id(files[name]), "size": len(files[name])}


@contextmanager
def serve(root: Path) -> Iterator[Hub]:
    """A running Hub of the repositories in `root`."""
    with Hub(root) as hub:
        Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()
