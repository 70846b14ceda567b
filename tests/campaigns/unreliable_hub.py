"""
Publish to a Hub on loopback that fails, stalls or lies at each of its answers:

    PYTHONPATH=. python tests/campaigns/unreliable_hub.py

A run with a Space is published once, and a submission to a benchmark once, to learn which requests are made.
Then, for each of them and each kind of failure, the same is published to a new Hub that fails there: the
command must end in words within its time, with another status than 0 unless everything is there, without the
token in its output; what it calls published must be there whole; and the same command, repeated when the Hub
is well, must succeed.
"""

import argparse
import contextlib
import os
import re
import signal
import socket
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1]))
from hub_publishing import WRITER, PublishingHandler, PublishingHub, Repository
from hub_server import serve


BENCHMARK = "Benchmarks/Set"
SECONDS = 60  # that a command may take
KINDS = ("500", "429", "404", "reset", "half", "garbage", "other JSON", "empty", "etag", "stall")


class UnreliableHandler(PublishingHandler):
    def send(self, status: int, content: bytes = b"", **headers: str) -> None:
        """Answer, or, at the request whose turn it is, something else."""
        hub = self.server
        hub.asked.append(f"{self.command} {self.path.split('?')[0]}")
        if len(hub.asked) - 1 != hub.turn:
            return super().send(status, content, **headers)
        hub.met = hub.asked[-1]
        if hub.kind.isdigit():
            return super().send(int(hub.kind), b'{"error": "unwell"}')
        if hub.kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.close()
            self.close_connection = True
        elif hub.kind == "half":
            super().send_response(status)
            self.send_header("Content-Length", str(len(content) + 100))
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = True
        elif hub.kind == "stall":
            hub.stalled.wait(2 * SECONDS)
            self.close_connection = True
        elif hub.kind == "etag":
            super().send(status, content, **{**headers, "ETag": '"0000"', "X-Repo-Commit": "f" * 40})
        else:
            lies = {"garbage": b"<html>\xff", "other JSON": b'[{"sha": 1, "path": null}]', "empty": b""}
            super().send(status, lies[hub.kind])


class UnreliableHub(PublishingHub):
    kind, turn, met = "", -1, ""

    def __init__(self, root: Path):
        import threading

        super().__init__(root)
        self.asked, self.stalled = [], threading.Event()

    @property
    def handler(self) -> type:
        return UnreliableHandler


def run(arguments: list[str], hub: UnreliableHub, log: Path) -> tuple[int, str]:
    """Exit status and output of `hub_cards.publish` in a process of its own, which has this Hub's address."""
    if (child := os.fork()) == 0:
        status = 70
        with contextlib.suppress(BaseException):
            out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
            signal.alarm(SECONDS)
            try:
                publish.main(arguments)
                status = 0
            except SystemExit as stop:
                status = stop.code if isinstance(stop.code, int) else 1
                print(stop.code)
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
        os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), log.read_text(errors="replace")


def list_files(hub: UnreliableHub) -> set[tuple[str, str, bytes]]:
    """Repository, name and content of all files of all branches; the commits that they name are left out."""
    return {
        (repo_id, name, re.sub(rb"[0-9a-f]{40}", b"commit", content))
        for repo_id, of in hub.repositories.items()
        for commit in of.branches.values()
        for name, content in of.commits[commit].items()
    }


def write_submission(folder: Path) -> None:
    """What `eval.py --submission` leaves of two trials of a benchmark."""
    import numpy as np
    import pandas as pd
    import yaml

    from processing.corpora import Corpus
    from processing.submission import Submission

    folder.mkdir()
    pages = dict.fromkeys(["code", "checkpoint"], "https://huggingface.co/org/tiny")
    system = {"name": "Tiny", "slug": "tiny", "description": "A trial.", **pages}
    meta = {"system": system, "submitter": {"hf_username": "writer", "contact": "w@example.com"}}
    (folder / "meta.yaml").write_text(yaml.safe_dump(meta))
    trials = pd.DataFrame({"utterance_id": ["a", "b"], "key": ["bonafide", "spoof"]})
    benchmark = Corpus("Set", {}, hub=f"{BENCHMARK}@{'5' * 40}")
    Submission.prepare(folder, benchmark, "eval", 2, overwrite=False).write(trials, np.array([1.0, 0.0]), 1)


def reset(hub: UnreliableHub, kind: str, turn: int) -> None:
    """A Hub with nothing but the benchmark's data set, which will fail once."""
    hub.repositories.clear()
    hub.large.clear()
    hub.asked.clear()
    hub.stalled.clear()
    hub.kind, hub.turn = kind, turn
    hub.repositories[BENCHMARK] = Repository(False)
    hub.repositories[BENCHMARK].commit("main", {"README.md": b"data"}, "initial commit")


def try_failures(name: str, command: list[str], hub: UnreliableHub, kinds: list[str], log: Path) -> int:
    """Publish with each failure at each request; returns the number of findings, which are printed."""
    reset(hub, "", -1)
    status, text = run(command, hub, log)
    assert status == 0, text
    number, findings, outcomes, expected = len(hub.asked), 0, Counter(), list_files(hub)
    print(f"{name}, {number} requests: {', '.join(hub.asked)}", flush=True)
    for kind in kinds:
        for turn in range(number):
            reset(hub, kind, turn)
            status, text = run(command, hub, log)
            hub.stalled.set()
            whole = expected <= list_files(hub)
            hub.turn = -1
            again, text_again = run(command, hub, log)
            problems = {
                f"exit status {status}": status not in (0, 1),
                "a traceback": "Traceback" in text,
                "done, but not whole": status == 0 and not whole,
                "no word of why": status == 1 and "error: " not in text,
                "the token is shown": WRITER in text + text_again,
                f"repeated, status {again}: {text_again[-200:]}": again != 0,
                "repeated, but not whole": not expected <= list_files(hub),
            }
            found = [problem for problem, is_found in problems.items() if is_found]
            outcomes[kind, status] += 1
            findings += bool(found)
            if found:
                print(f"{kind} at {turn}, {hub.met}: {'; '.join(found)}\n    {text[-400:]}", flush=True)
    print(f"{name}, {sum(outcomes.values())} publications: {dict(outcomes)}, {findings} findings", flush=True)
    return findings


def main() -> None:
    global publish
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        os.environ |= {"HF_HOME": str(work / "home"), "HF_TOKEN": WRITER, "HF_HUB_DISABLE_XET": "1"}
        os.environ |= {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        os.environ |= {"HF_HUB_DOWNLOAD_TIMEOUT": "2", "HF_HUB_ETAG_TIMEOUT": "2"}
        with serve(work / "hub", UnreliableHub) as hub:
            os.environ["HF_ENDPOINT"] = hub.endpoint
            from huggingface_hub import constants
            from made_run import add_evaluation, made_scores, made_trials, make_run

            from hub_cards import publish

            publish.TIMEOUT = 2
            assert constants.ENDPOINT == hub.endpoint
            trials = made_trials()
            add_evaluation(make_run(work / "run"), trials, made_scores(trials, seed=1))
            write_submission(work / "submission")
            commands = {
                "a run with its Space": [str(work / "run"), "--repo_id", "org/tiny", "--space", "org/page"],
                "a submission": [str(work / "submission"), "--repo_id", "org/tiny", "--submit"],
            }
            log = work / "log.txt"
            findings = sum(
                try_failures(name, command, hub, args.kinds, log) for name, command in commands.items()
            )
            sys.exit(bool(findings))


if __name__ == "__main__":
    main()
