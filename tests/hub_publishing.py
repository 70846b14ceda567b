"""The publishing half of the Hub on loopback: accounts, repositories with branches and commits, uploads."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from hub_server import FILE, INFO, REVISION, TREE, Handler, Hub, blob_id


WRITER, READER = "hf_" + "w" * 34, "hf_" + "r" * 34  # tokens, as long as real ones
ACCOUNTS = {
    WRITER: {"name": "writer", "orgs": [{"name": "org"}], "auth": {"accessToken": {"role": "write"}}},
    READER: {"name": "reader", "orgs": [{"name": "org"}], "auth": {"accessToken": {"role": "read"}}},
}
LICENSES = ("mit", "apache-2.0", "other")  # of those that the Hub knows
REPOSITORY = r"/api/(?P<kind>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)"


@dataclass
class Repository:
    """Commits by their hash, each with the content of its files by path, and the branches by name."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        about = [len(self.commits), sorted((path, blob_id(content)) for path, content in files.items())]
        commit = hashlib.sha1(repr(about).encode()).hexdigest()
        self.commits[commit], self.branches[branch] = files, commit
        self.messages.append(message)
        return commit


class PublishingHub(Hub):
    """
    A Hub with accounts that is published to. `fail` is asked about each request, as "PUT /lfs/…", and may
    answer the status of an error, or 0, upon which the connection breaks.
    """

    def __init__(self, root: Path):
        super().__init__(root)
        self.repositories: dict[str, Repository] = {}  # of a Space as spaces/org/name
        self.large: dict[str, bytes] = {}  # by SHA-256
        self.fail: Callable[[str], int | None] = lambda request: None

    @property
    def handler(self) -> type[Handler]:
        return PublishingHandler

    def environment(self, home: Path, token: str | None = WRITER) -> dict[str, str]:
        """As [`Hub.environment`], with a token or none."""
        environment = super().environment(home)
        del environment["HF_TOKEN"]
        return environment | ({"HF_TOKEN": token} if token else {})

    def files(self, kind: str, repo_id: str, revision: str | None) -> tuple[str, dict[str, bytes]]:
        if (repository := self.find(kind, repo_id)) is None:
            return super().files(kind, repo_id, revision)
        commit = repository.branches.get(revision or "main", revision)
        if commit not in repository.commits:
            raise FileNotFoundError("RevisionNotFound")
        return commit, repository.commits[commit]

    def find(self, kind: str | None, repo_id: str) -> Repository | None:
        return self.repositories.get(f"spaces/{repo_id}" if kind == "spaces" else repo_id)

    def is_private(self, kind: str | None, repo_id: str) -> bool:
        repository = self.find(kind, repo_id)
        return repository is not None and repository.private


class PublishingHandler(Handler):
    server: PublishingHub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.fails():
            return None
        if path == "/api/whoami-v2":
            self.server.requests.append(f"GET {path}")
            account = self.account()
            return self.answer({"type": "user", **account}) if account else self.refuse(401)
        match = next((found for route in (TREE, INFO, FILE) if (found := route.fullmatch(path))), None)
        if match and self.server.is_private(match["kind"], match["id"]) and self.account() is None:
            self.server.requests.append(f"{self.command} {path}")
            return self.refuse(401, "RepoNotFound")  # as where there is none
        return super().do_GET()

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        body = self.body()  # read in any case, or the connection could not be kept
        if self.fails():
            return None
        if path.startswith("/lfs/"):
            self.server.large[hashlib.sha256(body).hexdigest()] = body
            return self.send(200 if path == f"/lfs/{hashlib.sha256(body).hexdigest()}" else 400)
        if path == "/api/validate-yaml":
            return self.validate(json.loads(body)["content"])
        if self.account() is None:
            return self.refuse(401)
        if self.account()["auth"]["accessToken"]["role"] != "write":
            return self.refuse(403)
        if path == "/api/repos/create":
            return self.create_repository(json.loads(body))
        for route, handle in (
            (rf"{REPOSITORY}/preupload/{REVISION}", self.choose_modes),
            (
                r"(?:/(?P<kind>spaces))?/(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/batch",
                self.give_addresses,
            ),
            (rf"{REPOSITORY}/branch/(?P<branch>.+)", self.create_branch),
            (rf"{REPOSITORY}/commit/{REVISION}", self.commit),
        ):
            if match := re.fullmatch(route, path):
                if self.server.find(match["kind"], match["id"]) is None:
                    return self.refuse(404, "RepoNotFound")
                return handle(match, body)
        self.send(404)

    do_PUT = do_POST

    def create_repository(self, asked: dict) -> None:
        is_space = asked.get("type") == "space"
        if is_space and asked.get("sdk") not in ("gradio", "docker", "static"):
            return self.refuse(400)
        repo_id = f"{'spaces/' if is_space else ''}{asked['organization']}/{asked['name']}"
        if asked["organization"] not in ("org", self.account()["name"]):
            return self.refuse(403)
        is_new = repo_id not in self.server.repositories
        if is_new:
            repository = Repository(asked.get("visibility") == "private")
            repository.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
            self.server.repositories[repo_id] = repository
        self.answer({"url": f"{self.server.endpoint}/{repo_id}"}, 200 if is_new else 409)

    def create_branch(self, asked: re.Match, body: bytes) -> None:
        branches = self.server.find(asked["kind"], asked["id"]).branches
        if asked["branch"] in branches:
            return self.refuse(409)
        branches[asked["branch"]] = branches["main"]
        self.send(200)

    def validate(self, card: str) -> None:
        try:
            header = yaml.safe_load(card.split("---")[1])
            errors = [] if isinstance(header, dict) else [{"message": "metadata is no mapping"}]
            if not errors and header.get("license", "other") not in LICENSES:
                errors = [{"message": f'"license" must be one of {LICENSES}'}]
        except (yaml.YAMLError, IndexError) as error:
            errors = [{"message": str(error)}]
        self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def choose_modes(self, asked: re.Match, body: bytes) -> None:
        """Text goes with the commit, what is binary on its own before it."""
        _, there = self.server.files(asked["kind"], asked["id"], asked["revision"])
        answers = []
        for file in json.loads(body)["files"]:
            mode = "lfs" if b"\0" in base64.b64decode(file["sample"]) else "regular"
            answer = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
            if (content := there.get(file["path"])) is not None:
                answer["oid"] = hashlib.sha256(content).hexdigest() if mode == "lfs" else blob_id(content)
            answers.append(answer)
        self.answer({"files": answers})

    def give_addresses(self, asked: re.Match, body: bytes) -> None:
        objects = json.loads(body)["objects"]
        for entry in objects:
            if entry["oid"] not in self.server.large:
                address = {"href": f"{self.server.endpoint}/lfs/{entry['oid']}"}
                entry["actions"] = {"upload": address}
        self.answer({"transfer": "basic", "objects": objects})

    def commit(self, asked: re.Match, body: bytes) -> None:
        repository, branch = self.server.find(asked["kind"], asked["id"]), asked["revision"]
        parent, files = self.server.files(asked["kind"], asked["id"], branch)
        files, header = dict(files), {}
        for line in body.splitlines():
            key, value = json.loads(line).values()
            if key == "header":
                header = value
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            elif files.pop(value["path"], None) is None:  # deletedFile
                return self.refuse(404, "EntryNotFound")
        if header.get("parentCommit", parent) != parent:
            return self.refuse(412)
        answer = {}
        if "create_pr" in parse_qs(urlsplit(self.path).query):
            number = 1 + sum(name.startswith("refs/pr/") for name in repository.branches)
            branch = f"refs/pr/{number}"
            answer = {"pullRequestUrl": f"{self.server.endpoint}/{asked['id']}/discussions/{number}"}
        commit = repository.commit(branch, files, header["summary"])
        address = f"{self.server.endpoint}/{asked['id']}/commit/{commit}"
        self.answer({"success": True, "commitOid": commit, "commitUrl": address, **answer})

    def account(self) -> dict | None:
        return ACCOUNTS.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def fails(self) -> bool:
        """Whether this request is one that `Hub.fail` breaks."""
        status = self.server.fail(f"{self.command} {unquote(self.path)}")
        if status:
            self.send(status)
        elif status == 0:
            self.close_connection = True
        return status is not None

    def answer(self, content: dict, status: int = 200) -> None:
        self.send(status, json.dumps(content).encode())

    def refuse(self, status: int, code: str | None = None) -> None:
        self.send(status, **({"X-Error-Code": code} if code else {}))
