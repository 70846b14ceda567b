"""Publish a finished run on the Hugging Face Hub: python -m hub_cards.publish RUN --repo_id ORG/NAME."""

import argparse
import json
import shlex
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_token,
)
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from .publication import MANIFEST, left_behind, prepared
from .run_folder import RunFolder, read_run


# With results and learning curves what an earlier publication may have left and its manifest names. Nothing
# else is ever deleted.
WEIGHTS_AND_CODE = ("model*.safetensors", "model.safetensors.index.json", "*.py")
LOG_IN = "log in by `hf auth login` or set HF_TOKEN; the token needs write access to {namespace}"
UNCHANGED = "Nothing was published; the local run is unchanged: repeat the same command."
NOT_KNOWN = (
    "Nothing was published, unless only the last answer was lost; the local run is unchanged: repeat the "
    "same command, which does no harm."
)


class PublishingError(RuntimeError):
    """The Hub refused, or could not be reached."""


@dataclass(frozen=True)
class Target:
    """
    Where a run is published.

    Attributes:
        repo_id: repository, as ORG/NAME.
        private: whether the repository is to be private.
        revision: branch, made where it is not there; `None` is the main one.
        create_pr: open a pull request instead of changing the main branch.
    """

    repo_id: str
    private: bool = False
    revision: str | None = None
    create_pr: bool = False

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: a malformed name, or a pull request against another branch.
        """
        try:
            validate_repo_id(self.repo_id)
        except HFValidationError as error:
            raise ValueError(f"{self.repo_id!r} is not the name of a repository: {error}") from None
        if self.repo_id.count("/") != 1:
            raise ValueError(
                f"{self.repo_id!r} is not the name of a repository: ORG/NAME is expected, ORG being an "
                "organisation or a user of the Hub."
            )
        if self.create_pr and self.revision:
            raise ValueError("A pull request is opened against the main branch: give no revision with it.")

    @property
    def namespace(self) -> str:
        return self.repo_id.split("/")[0]

    def command(self, folder: Path) -> str:
        """The command that publishes a run's folder here."""
        options = ["--private"] if self.private else []
        options += ["--revision", self.revision] if self.revision else []
        options += ["--create_pr"] if self.create_pr else []
        return shlex.join(
            ["python", "-m", "hub_cards.publish", str(folder), "--repo_id", self.repo_id, *options]
        )


def check_access(target: Target) -> None:
    """
    Raises:
        PublishingError: nobody is logged in, or the account may not write where the target is.
    """
    with _explained(target, ""):
        account = HfApi().whoami()
        log_in = LOG_IN.format(namespace=target.namespace)
        token = (account.get("auth") or {}).get("accessToken") or {}
        if token.get("role") == "read":
            raise PublishingError(f"The token of {account['name']} may only read: {log_in}.")
        names = [account["name"], *(organisation["name"] for organisation in account.get("orgs") or [])]
        if not target.create_pr and target.namespace.lower() not in [name.lower() for name in names]:
            raise PublishingError(
                f"The token is of {account['name']}, who publishes under {', '.join(names)} and not under "
                f"{target.namespace}: give another ORG/NAME, or {log_in}."
            )


def publish(run: RunFolder, target: Target) -> CommitInfo:
    """
    Publish a run in one commit, which also deletes what an earlier publication left and this one lacks.
    Everything is prepared and checked before anything is asked of the Hub. Says what is done.

    Raises:
        FileNotFoundError, ValueError: see [`prepared`].
        PublishingError: see [`check_access`]; the Hub refused, or the connection broke.
    """
    api = HfApi()
    with prepared(run, target.repo_id, target.revision) as files:
        check_access(target)
        sizes = {name: path.stat().st_size for name, path in files.items()}
        total = _size(sum(sizes.values()))
        print(f"Publishing {run.system} as {target.repo_id}: {len(files)} files, {total}")
        with _explained(target, UNCHANGED):
            api.create_repo(target.repo_id, private=target.private or None, exist_ok=True)
            before = api.model_info(target.repo_id)
            if target.private and not before.private:
                raise PublishingError(
                    f"{target.repo_id} is there already and public, so --private was not done. Make it "
                    "private in its settings on the Hub, or choose another name. Nothing was published."
                )
            if target.revision:
                api.create_branch(target.repo_id, branch=target.revision, exist_ok=True)
                before = api.model_info(target.repo_id, revision=target.revision)
            there = {sibling.rfilename for sibling in before.siblings}
            stale = stale_files(there & published_before(target, there, before.sha), files)
            for name in stale:
                print(f"Deleting {name}, of an earlier publication")
            operations = [CommitOperationAdd(name, path) for name, path in files.items()]
            commit = api.create_commit(
                target.repo_id,
                [*operations, *(CommitOperationDelete(name) for name in stale)],
                commit_message=f"Publish {run.system}",
                revision=target.revision,
                create_pr=target.create_pr,
                parent_commit=before.sha,
            )
    with _explained(target, f"The files were sent ({commit.commit_url}) but could not be listed."):
        listed = api.list_repo_tree(target.repo_id, recursive=True, revision=commit.oid)
        there = {file.path: file.size for file in listed if isinstance(file, RepoFile)}
    if lacking := [name for name, size in sizes.items() if there.get(name) != size]:
        raise PublishingError(
            f"{commit.commit_url} lacks {', '.join(lacking)} or has them of another size: is there a "
            ".gitignore in the repository? Remove it, and repeat the same command."
        )
    if commit.oid == before.sha:
        print(f"Nothing has changed since the last publication: {target.repo_id} stays as it is.")
        return commit
    branch = f"/tree/{target.revision}" if target.revision else ""
    print(f"Published: {commit.pr_url or f'{constants.ENDPOINT}/{target.repo_id}{branch}'}")
    return commit


def published_before(target: Target, there: Collection[str], commit: str) -> set[str]:
    """Names of what the last publication put into a repository, as its manifest says; none without one."""
    if MANIFEST not in there:
        return set()
    path = HfApi().hf_hub_download(target.repo_id, MANIFEST, revision=commit)
    try:
        return set(json.loads(Path(path).read_text(encoding="utf-8")))
    except (ValueError, TypeError):  # not ours
        return set()


def stale_files(there: Collection[str], files: Collection[str]) -> list[str]:
    """What is in the repository, of a kind that is published, and not in this publication."""
    return sorted(
        name
        for name in set(there) - set(files)
        if name.startswith(("results/", "learning_curves/"))
        or ("/" not in name and any(fnmatchcase(name, kind) for kind in WEIGHTS_AND_CODE))
    )


@contextmanager
def _explained(target: Target, outcome: str) -> Iterator[None]:
    """Turns an error of the Hub's client into one line with what to do, which never holds a token."""
    try:
        yield
    except PublishingError:
        raise
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error, HTTPError) and not hasattr(error, "response"):
            outcome = NOT_KNOWN if outcome == UNCHANGED else outcome
        message = f"{_explanation(error, target)} {outcome}".strip()
        token = get_token()
        raise PublishingError(message.replace(token, "***") if token else message) from None


def _explanation(error: Exception, target: Target) -> str:
    """What an error of the Hub's client means, and what to do."""
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # of the upload of one file
    log_in = LOG_IN.format(namespace=target.namespace)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, LocalTokenNotFoundError):
        return f"You are not logged in to {constants.ENDPOINT}: {log_in}."
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so the Hub is not asked: unset it."
    if isinstance(error, RepositoryNotFoundError):
        return f"{target.repo_id} is not there, or private and not for the account you use: {log_in}."
    if status in (401, 403):
        return f"{constants.ENDPOINT} refused the token ({status}): {log_in}."
    if status in (409, 412):
        return f"{target.repo_id} was changed by somebody else at the same time ({status})."
    if status is not None:
        said = getattr(error, "server_message", None)
        return f"{constants.ENDPOINT} answered {status}{f' ({said})' if said else ''}."
    if isinstance(error, (HTTPError, OSError)):
        return f"The connection to {constants.ENDPOINT} broke ({type(error).__name__})."
    return f"{target.repo_id} could not be published: {error}"


def describe(run: RunFolder, files: dict[str, Path], target: Target) -> str:
    """What would be published, with sizes and where it comes from, and what would stay behind."""
    sizes = {name: path.stat().st_size for name, path in files.items()}
    width = max(map(len, files))
    lines = [f"{run.system}, as {target.repo_id}:"]
    for name, path in files.items():
        origin = "from the run" if path.is_symlink() else "rendered"
        lines.append(f"  {name:<{width}}  {_size(sizes[name]):>9}  {origin}")
    lines.append(f"{len(files)} files, {_size(sum(sizes.values()))}")
    if left := left_behind(run.folder, files):
        kept = (f"{name} ({_size(size)})" for name, size in left.items())
        lines.append("Not published: " + ", ".join(kept))
    return "\n".join(lines)


def _size(num_bytes: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000 or unit == "GB":
            return f"{num_bytes:.1f} {unit}" if unit != "B" else f"{num_bytes} B"
        num_bytes /= 1000


def training_target(args, chosen: Collection[str]) -> Target | None:
    """
    Where `train.py` is to publish the finished run; the Trainer is told not to do it itself, since it would
    upload every file of its own, a pickle with paths of this machine among them.

    Args:
        args: `TrainingArguments`, of which `push_to_hub` is changed.
        chosen: names of the arguments that the command line gives.

    Raises:
        ValueError: arguments that do not go together.
    """
    if args.hub_token is not None:
        raise ValueError(
            "--hub_token would show the token to everybody who lists the processes of this machine: log in "
            "by `hf auth login` or set HF_TOKEN instead."
        )
    if refused := {"hub_strategy", "hub_always_push"} & set(chosen):
        raise ValueError(
            f"--{min(refused)} is of the Trainer's own uploads: only the finished run is published here. "
            "Leave it out."
        )
    if args.push_to_hub and not args.hub_model_id:
        raise ValueError("--push_to_hub needs to know where to: add --hub_model_id ORG/NAME.")
    if not args.push_to_hub:
        if given := {"hub_model_id", "hub_private_repo", "hub_revision"} & set(chosen):
            raise ValueError(f"--{min(given)} goes with --push_to_hub, which is not given.")
        return None
    args.push_to_hub = False
    return Target(args.hub_model_id, private=bool(args.hub_private_repo), revision=args.hub_revision)


def publish_trained(folder: Path, target: Target) -> None:
    """
    Publish a run that has just been trained.

    Raises:
        SystemExit: that failed; the message gives the command that repeats it.
    """
    try:
        publish(read_run(folder), target)
    except Exception as error:  # whatever it is: hours of training are to be kept, and the way on shown
        sys.exit(
            f"train.py: error: {error}\nThe model is trained and kept in {folder}. To publish it:\n"
            f"  {target.command(folder)}"
        )


def main(argv: list[str]) -> None:
    """Publish the run that the arguments name, or say what would be published."""
    parser = argparse.ArgumentParser(prog="python -m hub_cards.publish", description=__doc__)
    parser.add_argument("run", type=Path, help="the folder that train.py left")
    parser.add_argument("--repo_id", required=True, metavar="ORG/NAME", help="repository on the Hub")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--revision", help="branch to publish on, made where it is not there")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request instead")
    parser.add_argument("--dry_run", action="store_true", help="check everything and list it, offline")
    args = parser.parse_args(argv)
    try:
        target = Target(args.repo_id, args.private, args.revision, args.create_pr)
        run = read_run(args.run)
        if args.dry_run:
            with prepared(run, target.repo_id, target.revision) as files:
                print(describe(run, files, target))
        else:
            publish(run, target)
    except (OSError, ValueError, PublishingError) as error:
        sys.exit(f"{parser.prog}: error: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{parser.prog}: interrupted. {NOT_KNOWN}")


if __name__ == "__main__":
    main(sys.argv[1:])
