"""Publish a finished run on the Hugging Face Hub: python -m hub_cards.publish RUN --repo_id ORG/NAME."""

import argparse
import json
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    ModelInfo,
    SpaceCard,
    SpaceInfo,
    constants,
    get_token,
)
from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import get_session, validate_repo_id

from processing.files import read_json

from .card import CARD_NAME
from .run_folder import RunFolder, read_run
from .spaces import stage_page
from .staging import MANIFEST, describe_files, format_total_size, stage_files


TIMEOUT = 300  # seconds without an answer: the Hub may think long about a commit of many files
LOG_IN = "log in by `hf auth login`, or set HF_TOKEN to a token with write access"
UNCHANGED = (
    "Unless only its last answer was lost, nothing was published; the local run is unchanged: repeat the "
    "same command."
)


class PublishingError(RuntimeError):
    """The Hub refused, or could not be reached."""


@dataclass(frozen=True)
class Target:
    """Where a run is published. ValueError: a malformed name."""

    repo_id: str  # ORG/NAME
    private: bool = False
    revision: str | None = None  # a branch, which is made if it does not exist; `None` is the main one
    create_pr: bool = False  # a pull request, which leaves the main branch alone
    repo_type: str = "model"  # or "space"

    def __post_init__(self) -> None:
        validate_repo_id(self.repo_id)
        if "/" not in self.repo_id:
            raise ValueError(
                f"{self.repo_id!r} is not the name of a repository: ORG/NAME is expected, ORG being an "
                "organisation or a user of the Hub."
            )

    @property
    def address(self) -> str:
        """Of its page."""
        return f"{constants.ENDPOINT}/{'spaces/' if self.repo_type == 'space' else ''}{self.repo_id}"


def check_access(target: Target) -> None:
    """PublishingError: nobody is logged in, or the account may not write where the target is."""
    with explain_errors(target):
        account = HfApi().whoami()
        token = (account.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise PublishingError(f"The token of {account['name']} may only read: {LOG_IN}.")
    names = [account["name"], *(organisation["name"] for organisation in account.get("orgs") or [])]
    namespace = target.repo_id.split("/")[0]
    if not target.create_pr and namespace.lower() not in [name.lower() for name in names]:
        raise PublishingError(
            f"The token is of {account['name']}, who publishes under {', '.join(names)} and not under "
            f"{namespace}: give another ORG/NAME, or {LOG_IN}."
        )


def publish(run: RunFolder, target: Target) -> CommitInfo:
    """
    Publish a run in one commit, which also deletes what an earlier publication left and this one lacks.
    Everything is staged and checked before anything is asked of the Hub, and the Hub has checked account and
    card before anything is made there. Says what is done. Errors: see [`stage_files`] and [`check_access`];
    PublishingError: the Hub refused, or the connection broke.
    """
    with stage_files(run, target.repo_id, target.revision) as files:
        return push_files(files, target, run.system)


def push_files(files: Mapping[str, Path], target: Target, what: str) -> CommitInfo:
    """Put files, by their names there, into a repository as [`publish`] does; `what` they are is said."""
    api, kind = HfApi(), {"repo_type": target.repo_type}
    check_access(target)
    sizes = {name: path.stat().st_size for name, path in files.items()}
    print(f"Publishing {what} as {target.repo_id}: {len(files)} files, {format_total_size(*files.values())}")
    with explain_errors(target, UNCHANGED):
        # Before anything is made; the Hub knows all licences.
        {"model": ModelCard, "space": SpaceCard}[target.repo_type].load(files[CARD_NAME]).validate()
        before = open_repository(target)
        there = {sibling.rfilename for sibling in before.siblings}
        stale = sorted((there & read_manifest(target, there, before.sha)) - files.keys())
        for name in stale:
            print(f"Deleting {name}, of an earlier publication")
        operations = [CommitOperationAdd(name, path) for name, path in files.items()]
        operations += [CommitOperationDelete(name) for name in stale]
        commit = api.create_commit(
            target.repo_id,
            operations,
            commit_message=f"Publish {what}",
            revision=target.revision,
            create_pr=target.create_pr,
            parent_commit=before.sha,
            **kind,
        )
    # The Hub leaves out what a .gitignore in the repository names, and does not say so.
    with explain_errors(target, f"The files were sent ({commit.commit_url}) but could not be listed."):
        at = {"revision": commit.oid, "timeout": TIMEOUT}  # list_repo_tree would wait for ever
        listed = api.repo_info(target.repo_id, files_metadata=True, **at, **kind)
        there = {file.rfilename: file.size for file in listed.siblings}
    if lacking := [name for name, size in sizes.items() if there.get(name) != size]:
        raise PublishingError(
            f"{commit.commit_url} lacks {', '.join(lacking)} or has them of another size: is there a "
            ".gitignore in the repository? Remove it, and repeat the same command."
        )
    if commit.oid == before.sha:
        print(f"Nothing has changed since the last publication: {target.repo_id} stays as it is.")
    else:
        branch = f"/tree/{target.revision}" if target.revision else ""
        print(f"Published: {commit.pr_url or f'{target.address}{branch}'}")
    return commit


def publish_page(space: Target, model: str, commit: str, *, is_dry: bool = False) -> None:
    """Publish the page of [`~hub_cards.demo`] with a commit of a model, as a Space that runs from its own
    files; `is_dry` only lists them."""
    with stage_page(space.repo_id, model, commit) as files:
        if is_dry:
            print(f"The page, as the Space {space.repo_id}:", *files, sep="\n  ")
        else:
            push_files(files, space, f"the page of {model}")
    if space.private:
        print(f"To read {model}, {space.repo_id} needs a secret HF_TOKEN: {space.address}/settings")


def open_repository(target: Target) -> ModelInfo | SpaceInfo:
    """Make the repository and its branch where they do not exist, and tell what is there. PublishingError: it
    is public and was to be private."""
    api, kind = HfApi(), {"repo_type": target.repo_type}
    sdk = {"space_sdk": "gradio"} if target.repo_type == "space" else {}
    api.create_repo(target.repo_id, private=target.private or None, exist_ok=True, **kind, **sdk)
    found = api.repo_info(target.repo_id, **kind, timeout=TIMEOUT)
    if target.private and not found.private:
        raise PublishingError(
            f"{target.repo_id} exists already and is public, so --private was not done. Make it private in "
            "its settings on the Hub, or choose another name. Nothing was published."
        )
    if target.revision:
        api.create_branch(target.repo_id, branch=target.revision, exist_ok=True, **kind)
        found = api.repo_info(target.repo_id, revision=target.revision, **kind, timeout=TIMEOUT)
    return found


def read_manifest(target: Target, there: Collection[str], commit: str) -> set[str]:
    """Names of what the last publication put into a repository; none without its manifest."""
    if MANIFEST not in there:
        return set()
    options = {"repo_type": target.repo_type, "revision": commit}
    path = HfApi().hf_hub_download(target.repo_id, MANIFEST, **options)
    return set(read_json(Path(path)))


@contextmanager
def explain_errors(target: Target, outcome: str = "") -> Iterator[None]:
    """Turn an error of the Hub's client into one line with what to do, which never holds the token. The
    client waits for an answer for `TIMEOUT` seconds, by itself for ever."""
    get_session().timeout = TIMEOUT
    try:
        yield
    except PublishingError:
        raise
    except (HTTPError, OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        if isinstance(error, RuntimeError) and error.__cause__:
            error = error.__cause__  # of the upload of one file
        status = getattr(getattr(error, "response", None), "status_code", None)
        hub = constants.ENDPOINT
        if isinstance(error, LocalTokenNotFoundError):
            reason = f"You are not logged in to {hub}: {LOG_IN}"
        elif status in (401, 403):
            reason = f"{hub} refused the token ({status}): {LOG_IN}"
        elif status in (409, 412):
            reason = f"{target.repo_id} was changed by somebody else at the same time ({status})"
        elif status:
            reason = (
                f"{hub} answered {status} ({getattr(error, 'server_message', None) or 'no reason given'})"
            )
        elif isinstance(error, (TypeError, LookupError, AttributeError, json.JSONDecodeError)):
            reason = f"{hub} answered something else than a Hub does: {error!r}"
        elif isinstance(error, ValueError):  # of what the client has the Hub check
            reason = f"{hub} refuses the header of the card: {error}"
        else:  # among them, that there is no connection
            reason = f"The request to {hub} failed: {error!r}"
        token = get_token()
        message = f"{reason}. {outcome}".strip()
        raise PublishingError(message.replace(token, "***") if token else message) from None


def find_target(args, chosen: Collection[str]) -> Target | None:
    """Where `train.py` is to publish the finished run, by its `TrainingArguments` and the names of those that
    the command line gives. ValueError: arguments that cannot be combined."""
    if refused := {"hub_token", "hub_strategy", "hub_always_push"} & set(chosen):
        raise ValueError(
            f"--{min(refused)} is not used: only the finished run is published, with the token of `hf auth "
            "login` or of HF_TOKEN. Leave it out."
        )
    if args.push_to_hub and not args.hub_model_id:
        raise ValueError("--push_to_hub needs to know where to: add --hub_model_id ORG/NAME.")
    if args.push_to_hub:
        return Target(args.hub_model_id, private=bool(args.hub_private_repo), revision=args.hub_revision)
    if given := {"hub_model_id", "hub_private_repo", "hub_revision"} & set(chosen):
        raise ValueError(f"--{min(given)} goes with --push_to_hub, which is not given.")
    return None


def publish_trained(folder: Path, target: Target) -> None:
    """Publish a run that has just been trained. SystemExit: that failed; the message gives the command that
    repeats it."""
    try:
        publish(read_run(folder), target)
    except Exception as error:  # whatever it is: hours of training are to be kept, and the way on shown
        command = ["python", "-m", "hub_cards.publish", str(folder), "--repo_id", target.repo_id]
        command += ["--private"] if target.private else []
        command += ["--revision", target.revision] if target.revision else []
        sys.exit(
            f"train.py: error: {error}\nThe model is trained and kept in {folder}. To publish it:\n"
            f"  {shlex.join(command)}"
        )


def main(argv: list[str]) -> None:
    """Publish the run that the arguments name, or say what would be published."""
    parser = argparse.ArgumentParser(prog="python -m hub_cards.publish", description=__doc__)
    parser.add_argument("run", type=Path, help="the folder that train.py left, or eval.py --submission")
    parser.add_argument("--repo_id", required=True, metavar="ORG/NAME", help="repository on the Hub")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--revision", help="branch to publish on, which is made if it does not exist")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request instead")
    parser.add_argument(
        "--space", metavar="ORG/NAME", help="publish the page of hub_cards.demo with the model, as a Space"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--dry_run", action="store_true", help="check everything and list it, offline")
    instead.add_argument("--submit", action="store_true", help="submit what eval.py --submission left")
    args = parser.parse_args(argv)
    try:
        target = Target(args.repo_id, args.private, args.revision, args.create_pr)
        space = args.space and Target(args.space, args.private, repo_type="space")
        if space and (args.create_pr or args.submit):
            raise ValueError("--space goes with a model that is published: without --create_pr and --submit.")
        if args.submit:
            from .submit import submit  # which is built on what is here

            submit(args.run, target)
            return
        run = read_run(args.run)
        if args.dry_run:
            with stage_files(run, target.repo_id, target.revision) as files:
                print(f"{run.system}, as {target.repo_id}:\n{describe_files(run, files)}")
            commit = "the commit"
        else:
            commit = publish(run, target).oid
        if space:
            publish_page(space, target.repo_id, commit, is_dry=args.dry_run)
    except (OSError, ValueError, PublishingError) as error:
        sys.exit(f"{parser.prog}: error: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{parser.prog}: interrupted. {UNCHANGED}")


if __name__ == "__main__":
    main(sys.argv[1:])
