"""A trained run is published on a Hub by the real client, and used from there where this package is not."""

import hashlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import numpy as np
import pandas as pd
import pytest
import yaml
from browser import drop, open_browser, wait_for_answer
from conftest import ROOT, TINY_RECIPE, Script
from elsewhere import Elsewhere
from hub_publishing import READER, WRITER, PublishingHub, Repository
from hub_server import serve
from huggingface_hub import HfApi
from huggingface_hub.utils import get_session
from small_aasist import converted_aasist

from hub_cards.publish import UNCHANGED, PublishingError, Target, check_access, explain_errors
from hub_cards.run_folder import read_run
from hub_cards.spaces import METRICS
from hub_cards.staging import find_files, stage_files
from hub_cards.submit import submit
from processing.submission import Submission
from processing.trials import Corpus


LOAD_CONFIG = """
import sys
from transformers import AutoConfig
for revision in sys.argv[2:]:
    config = AutoConfig.from_pretrained(sys.argv[1], revision=revision, trust_remote_code=True)
    print(config.model_type, config.decision_threshold)
"""


RESULTS = ("results.json", "scores.txt", "det.png", "scores.png", "per_attack.png")


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


COMPUTE = """
import json, sys
import evaluate
metrics = json.loads(sys.argv[1])
print(json.dumps({name: evaluate.load(f"org/{name}").compute(**of) for name, of in metrics.items()}))
"""


@dataclass(frozen=True)
class Publisher:
    """`python -m hub_cards.publish` as a real process that uses a Hub on loopback."""

    hub: PublishingHub
    home: Path

    def __call__(self, run: Path, *arguments, token: str | None = WRITER, status: int = 0) -> str:
        """What it says, on stdout if it is done and on stderr if it fails."""
        return self.start([sys.executable, "-m", "hub_cards.publish", run, *arguments], token, status)

    def start(self, command: list, token: str | None = WRITER, status: int = 0) -> str:
        process = subprocess.run(
            list(map(str, command)),
            cwd=ROOT,
            env=self.hub.environment(self.home, token),
            capture_output=True,
            text=True,
        )
        assert process.returncode == status, process.stdout + process.stderr
        return process.stderr if status else process.stdout

    def files(self, repo_id: str, revision: str = "main", kind: str = "models") -> dict[str, bytes]:
        """What the Hub holds, without the file that it makes itself."""
        _, files = self.hub.files(kind, repo_id, revision)
        return {path: content for path, content in files.items() if path != ".gitattributes"}


@pytest.fixture(scope="module")
def publisher(tmp_path_factory) -> Iterator[Publisher]:
    with serve(tmp_path_factory.mktemp("hub"), PublishingHub) as hub:
        yield Publisher(hub, tmp_path_factory.mktemp("home"))


@pytest.fixture
def broken(publisher) -> Iterator[PublishingHub]:
    """A Hub on which a test may let requests fail."""
    yield publisher.hub
    publisher.hub.fail = lambda request: None


@pytest.fixture(scope="module")
def run(tmp_path_factory, trained) -> Path:
    """A copy of the trained folder with more in it that is nobody's business."""
    folder = shutil.copytree(trained, tmp_path_factory.mktemp("published") / "run")
    (folder / ".env").write_text(f"HF_TOKEN={WRITER}")
    shutil.rmtree(folder / "learning_curves")  # as an older run lacks it: it is drawn for the Hub
    (folder / "results" / "eval" / ".det.png").write_bytes(b"hidden")
    (folder / "optimizer.pt").write_bytes(b"pickle")
    (folder / "README.md").write_text("A card of an earlier day.")
    return folder


@pytest.fixture
def own_run(tmp_path, run) -> Path:
    """A copy of the run that a test may change."""
    ignored = shutil.ignore_patterns("checkpoint-*", "runs")
    return shutil.copytree(run, tmp_path / "run", ignore=ignored)


@dataclass(frozen=True)
class Published:
    dry_run: str
    requests_of_dry_run: list[str]
    output: str
    files: dict[str, bytes]
    before: dict[str, bytes]
    after: dict[str, bytes]


@pytest.fixture(scope="module")
def published(publisher, run) -> Published:
    """The run on the Hub as org/tiny, after a dry run without a token."""
    before = contents(run)
    dry_run = publisher(run, "--repo_id", "org/tiny", "--dry_run", token=None)
    requests = list(publisher.hub.requests)
    output = publisher(run, "--repo_id", "org/tiny")
    return Published(dry_run, requests, output, publisher.files("org/tiny"), before, contents(run))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Elsewhere:
    return Elsewhere(tmp_path_factory.mktemp("elsewhere"))


def test_published_are_model_code_card_log_and_results_and_nothing_else(published):
    assert set(published.files) == {
        "README.md",
        "config.json",
        "configuration_countermeasure.py",
        "configuration_rawnet2.py",
        "configuration_sinc.py",
        "cosine_classifier.py",
        "feature_extraction_antispoofing.py",
        "float32.py",
        "learning_curves/tiny.png",
        "loss.py",
        "micro_batch.py",
        "model.safetensors",
        "modeling_countermeasure.py",
        "modeling_rawnet2.py",
        "preprocessor_config.json",
        "published.json",
        "recipe.yaml",
        *(f"results/{split}/{name}" for split in ("dev", "eval") for name in RESULTS),
        "sinc.py",
        "trainer_state.json",
        "training.json",
    }


def test_published_files_are_those_of_the_run_but_for_what_is_rendered(published):
    rendered = {"README.md", "learning_curves/tiny.png", "published.json"}
    assert {name: content for name, content in published.files.items() if name not in rendered} == {
        name: published.before[name] for name in published.files.keys() - rendered
    }
    assert published.files["README.md"] != published.before["README.md"]
    assert json.loads(published.files["published.json"]) == sorted(published.files)


def test_no_path_of_this_machine_and_no_token_is_published(published, run, trained):
    texts = b"\n".join(
        content for name, content in published.files.items() if not name.endswith((".png", ".safetensors"))
    )

    for secret in (run.parent, trained.parent, ROOT, Path.home()):
        assert f"{secret}/".encode() not in texts
    assert b"hf_" + b"w" * 34 not in texts


def test_publishing_leaves_the_run_as_it_was(published):
    assert published.after == published.before


def test_dry_run_asks_the_hub_nothing_and_lists_what_is_then_published(published):
    lines = re.compile(r"^  (\S+) +[\d.]+ (?:[kM]B|Bytes)  (?:from the run|rendered)$", re.MULTILINE)
    listed = lines.findall(published.dry_run)

    assert published.requests_of_dry_run == []
    assert sorted(listed) == sorted(published.files)
    assert re.search(r"README\.md +\S+ kB  rendered", published.dry_run)
    assert re.search(
        r"Not published: \.env \(\d+ Bytes\), .*checkpoint-\d+/ \([\d.]+ kB\)", published.dry_run
    )


def test_dry_run_needs_no_torch(own_run, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('torch is not needed')")
    command = [sys.executable, "-m", "hub_cards.publish", own_run, "--repo_id", "org/tiny", "--dry_run"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1"}

    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    assert process.returncode == 0, process.stderr
    assert re.search(r"learning_curves/tiny\.png +\S+ kB  rendered", process.stdout)


def test_url_is_printed_at_the_end(published, publisher):
    assert published.output.splitlines()[-1] == f"Published: {publisher.hub.endpoint}/org/tiny"


def test_three_lines_elsewhere_give_the_score_that_was_computed_before_publishing(
    published, publisher, elsewhere, la_corpus, run
):
    lines = [line.split() for line in (run / "results/eval/scores.txt").read_text().splitlines()]
    files = [la_corpus / "ASVspoof2019_LA_eval" / "flac" / f"{line[0]}.flac" for line in lines]
    environment = publisher.hub.environment(elsewhere.folder / "hub_home", token=None)

    said = elsewhere.ask("org/tiny", files, environment=environment)

    scores = [float(line[3]) for line in lines]
    assert [answer["score"] for answer in said["answers"]] == pytest.approx(scores, abs=1e-5)
    odds = [{entry["label"]: entry["score"] for entry in answer["pipeline"]} for answer in said["answers"]]
    assert [o["bonafide"] > o["spoof"] for o in odds] == [score > 0 for score in scores]


def test_second_publication_deletes_what_an_earlier_one_left_and_nothing_else(published, publisher, run):
    repository = publisher.hub.repositories["org/tiny"]
    old = {
        "model-00001-of-00002.safetensors": b"\0",
        "conformer.py": b"",
        "results/old/scores.txt": b"",
        "learning_curves/old.png": b"\0",
    }
    foreign = dict.fromkeys(("notes.md", "handler.py", "results/mine.csv", "model_int8.safetensors"), b"mine")
    first = repository.commits[repository.branches["main"]]
    manifest = json.dumps([*json.loads(first["published.json"]), *old]).encode()
    repository.commit("main", {**first, **old, **foreign, "published.json": manifest}, "an earlier run")

    output = publisher(run, "--repo_id", "org/tiny")

    assert publisher.files("org/tiny") == published.files | foreign
    assert sorted(re.findall("^Deleting (.*), of an earlier publication$", output, re.M)) == sorted(old)
    commits = len(repository.commits)
    assert "Nothing has changed" in publisher(run, "--repo_id", "org/tiny")
    assert len(repository.commits) == commits


def test_revision_and_pull_request_leave_the_main_branch_alone(published, publisher, own_run, elsewhere):
    repository = publisher.hub.repositories["org/tiny"]
    main = repository.branches["main"]
    config = json.loads((own_run / "config.json").read_text())
    (own_run / "config.json").write_text(json.dumps(config | {"decision_threshold": 7.5}))

    publisher(own_run, "--repo_id", "org/tiny", "--revision", "second")
    output = publisher(own_run, "--repo_id", "org/tiny", "--create_pr")

    assert repository.branches["main"] == main
    card = publisher.files("org/tiny", "second")["README.md"].decode()
    assert card.count('trust_remote_code=True, revision="second")') == 3
    assert "revision=" not in publisher.files("org/tiny")["README.md"].decode()
    assert output.splitlines()[-1] == f"Published: {publisher.hub.endpoint}/org/tiny/discussions/1"
    process = elsewhere.run(
        LOAD_CONFIG,
        *("org/tiny", "second", main, "refs/pr/1"),
        environment=publisher.hub.environment(elsewhere.folder / "revisions", token=None),
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == [
        "rawnet2 7.5",
        f"rawnet2 {config['decision_threshold']}",
        "rawnet2 7.5",
    ]


def test_private_repository_is_for_those_with_a_token_only(publisher, run, elsewhere):
    publisher(run, "--repo_id", "org/private", "--private")

    def load(token):
        environment = publisher.hub.environment(elsewhere.folder / f"private-{token}", token)
        return elsewhere.run(LOAD_CONFIG, "org/private", "main", environment=environment)

    assert load(READER).stdout.startswith("rawnet2 ")
    refused = load(None)
    assert refused.returncode != 0
    assert "org/private is not a local folder" in refused.stderr and "hf auth login" in refused.stderr


def test_private_is_refused_where_the_repository_is_public_already(published, publisher, own_run):
    commits = dict(publisher.hub.repositories["org/tiny"].commits)
    (own_run / "recipe.yaml").write_text((own_run / "recipe.yaml").read_text() + "\n# changed\n")

    message = publisher(own_run, "--repo_id", "org/tiny", "--private", status=1)

    assert "org/tiny exists already and is public" in message
    assert publisher.hub.repositories["org/tiny"].commits == commits


@pytest.mark.parametrize(
    ("token", "repo_id", "said"),
    [
        (None, "org/new", "You are not logged in"),
        ("hf_" + "x" * 34, "org/new", "refused the token (401)"),
        (READER, "org/new", "The token of reader may only read"),
        (WRITER, "nobody/new", "publishes under writer, org and not under nobody"),
    ],
)
def test_who_may_not_publish_is_told_so_in_one_line(publisher, own_run, token, repo_id, said):
    message = publisher(own_run, "--repo_id", repo_id, token=token, status=1)

    assert message.count("\n") == 1 and message.startswith("python -m hub_cards.publish: error: ")
    assert said in message and "hf auth login" in message
    assert "hf_" not in message.replace("hf_…", "")
    assert repo_id not in publisher.hub.repositories


def second_upload(status):
    """Fails all uploads but the first."""
    uploads = []

    def fail(request):
        if request.startswith("PUT "):
            uploads.append(request)
        return status if len(uploads) > 1 and request.startswith("PUT ") else None

    return fail


def the_commit(status):
    return lambda request: status if "/commit/" in request else None


@pytest.mark.parametrize(
    ("name", "fail", "said"),
    [
        ("uploads", second_upload(501), "answered 501"),
        ("commit", the_commit(500), "answered 500"),
        ("conflict", the_commit(412), "was changed by somebody else at the same time"),
        ("connection", the_commit(0), "The request to http://127.0.0.1"),
    ],
)
def test_server_that_fails_half_way_has_nothing_and_the_command_can_be_repeated(
    publisher, broken, own_run, name, fail, said
):
    before, repo_id = contents(own_run), f"org/broken-{name}"
    broken.large.clear()  # what other repositories have, it would not ask for again
    broken.fail = fail

    message = publisher(own_run, "--repo_id", repo_id, status=1)

    assert said in message and "the local run is unchanged" in message
    assert publisher.files(repo_id) == {}
    assert contents(own_run) == before
    broken.fail = lambda request: None
    publisher(own_run, "--repo_id", repo_id)
    assert {"model.safetensors", "README.md"} <= publisher.files(repo_id).keys()


def test_no_connection_is_an_error_of_one_line(publisher, own_run, tmp_path):
    environment = publisher.hub.environment(tmp_path) | {"HF_ENDPOINT": "http://127.0.0.1:9"}

    process = subprocess.run(
        [sys.executable, "-m", "hub_cards.publish", own_run, "--repo_id", "org/new"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )

    assert process.returncode == 1
    assert (
        "The request to http://127.0.0.1:9 failed: ConnectError" in process.stderr
        and process.stderr.count("\n") == 1
    )


@pytest.mark.parametrize("repo_id", ["tiny", "org/na me", "a/b/c", "org/"])
def test_name_that_is_no_repositorys_is_refused(repo_id):
    with pytest.raises(ValueError, match="is not the name of a repository|Repo id must"):
        Target(repo_id)


def test_run_with_a_token_or_a_local_path_in_it_is_refused_before_the_hub_is_asked(publisher, own_run):
    with (own_run / "recipe.yaml").open("a") as recipe:
        recipe.write(f"card: {{licence: mit, note: {WRITER}, audio: {own_run}/flac}}\n")
    asked = len(publisher.hub.requests)

    message = publisher(own_run, "--repo_id", "org/leak", status=1)

    assert "recipe.yaml" in message and "token" in message and WRITER not in message
    assert "Remove that from the files" in message
    assert len(publisher.hub.requests) == asked


def test_card_that_the_hub_refuses_is_an_error_before_a_repository_is_made(publisher, own_run):
    with (own_run / "recipe.yaml").open("a") as recipe:
        recipe.write("card: {license: mitt}\n")

    message = publisher(own_run, "--repo_id", "org/mitt", status=1)

    assert '"license\\" must be one of' in message
    assert "org/mitt" not in publisher.hub.repositories
    assert publisher.hub.requests[-1] == "POST /api/validate-yaml"


def test_path_under_any_root_is_refused(own_run):
    record = json.loads((own_run / "training.json").read_text())
    (own_run / "training.json").write_text(json.dumps({**record, "overridden": {"run_name": "/gpfs/anna/7"}}))

    with pytest.raises(ValueError, match=r"training.json: .*overridden.run_name: /gpfs/anna/7"):
        with stage_files(read_run(own_run), "org/leak"):
            pass


def test_score_file_that_the_results_are_not_of_is_refused(own_run):
    scores = own_run / "results" / "eval" / "scores.txt"
    scores.write_text(scores.read_text().replace(" spoof ", " bonafide ", 1))
    with pytest.raises(ValueError, match="eval/scores.txt has .* trials: evaluate the model again"):
        find_files(read_run(own_run))


def test_hub_that_never_answers_is_an_error_after_a_while(monkeypatch):
    monkeypatch.setattr("hub_cards.publish.TIMEOUT", 0.2)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(PublishingError, match="The request to .* failed: ReadTimeout.*repeat the same"),
        explain_errors(Target("org/tiny"), UNCHANGED),
    ):
        get_session().get(f"http://127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize("answer", [b"[1]", b"<html>", b'{"type": "user", "auth": 3}'])
def test_answer_that_no_hub_gives_is_an_error_in_words(monkeypatch, answer):
    class Liar(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    with ThreadingHTTPServer(("127.0.0.1", 0), Liar) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(HfApi, "whoami", HfApi(f"http://127.0.0.1:{server.server_port}", "hf_a").whoami)
        with pytest.raises(PublishingError, match="answered something else than a Hub does"):
            check_access(Target("org/tiny"))
        server.shutdown()


@pytest.mark.parametrize("name", ["training.json", "results/eval/det.png"])
def test_link_out_of_the_folder_is_not_followed(own_run, tmp_path, name):
    (own_run / name).replace(tmp_path / "private")
    (own_run / name).symlink_to(tmp_path / "private")

    with pytest.raises(ValueError, match=f"{name} leads out of"):
        find_files(read_run(own_run))


@pytest.mark.parametrize("name", ["sinc.py", "modeling_rawnet2.py", "results/eval/scores.txt"])
def test_missing_file_that_users_would_need_is_named(own_run, name):
    (own_run / name).unlink()

    with pytest.raises(FileNotFoundError, match=f"holds no {name}"):
        find_files(read_run(own_run))


def test_converted_model_is_published_with_where_it_comes_from_and_without_curves(
    publisher, tmp_path, elsewhere, la_corpus
):
    folder = converted_aasist(tmp_path)

    publisher(folder, "--repo_id", "org/converted")

    files = publisher.files("org/converted")
    assert {"conversion.json", "recipe.yaml", "model.safetensors", "modeling_aasist.py", "README.md"} < set(
        files
    )
    assert not [name for name in files if name.startswith("learning_curves/") or "train" in name]
    assert files["conversion.json"] == (folder / "conversion.json").read_bytes()
    card = files["README.md"].decode()
    assert "converted, not trained here: from `best.pth`" in card
    assert "None: the weights were converted from a checkpoint, which holds no log of its training." in card
    recordings = sorted((la_corpus / "ASVspoof2019_LA_eval" / "flac").glob("*.flac"))[:2]
    environment = publisher.hub.environment(elsewhere.folder / "hub_home", token=None)
    said = elsewhere.ask("org/converted", recordings, environment=environment)
    here = elsewhere.ask(folder, recordings)
    assert [a["score"] for a in said["answers"]] == [a["score"] for a in here["answers"]]


@pytest.fixture
def training(tmp_path, publisher) -> Script:
    """`train.py` that uses the Hub."""
    script = Script("train.py", tmp_path / "home")
    del script.environment["HF_HUB_OFFLINE"]
    environment = publisher.hub.environment(tmp_path / "home")
    script.environment |= {k: v for k, v in environment.items() if k.startswith("HF_") or k == "NO_PROXY"}
    return script


def test_training_publishes_its_run(publisher, training, tmp_path, tiny_recipe, la_corpus):
    output = training.run(
        *("--model", tiny_recipe, "--data_dir", la_corpus, "--output_dir", tmp_path / "run"),
        *("--num_train_epochs", 1, "--push_to_hub", "--hub_model_id", "org/trained", "--hub_private_repo"),
    )

    files = publisher.files("org/trained")
    assert f"Published: {publisher.hub.endpoint}/org/trained" in output
    assert publisher.hub.repositories["org/trained"].private
    assert publisher.hub.repositories["org/trained"].messages == ["initial commit", "Publish tiny"]
    assert not [name for name in files if name.endswith((".bin", ".pt")) or "tfevents" in name]
    assert json.loads(files["training.json"])["overridden"] == {"num_train_epochs": 1.0}
    assert b"hub" not in files["recipe.yaml"]
    local = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert "/" not in local["best_model_checkpoint"]


@pytest.mark.slow
def test_upload_that_fails_after_training_keeps_the_run_and_says_how_to_repeat_it(
    publisher, broken, training, tmp_path, tiny_recipe, la_corpus
):
    broken.fail = the_commit(500)

    output = training.run(
        *("--model", tiny_recipe, "--data_dir", la_corpus, "--output_dir", tmp_path / "run"),
        *("--num_train_epochs", 1, "--push_to_hub", "--hub_model_id", "org/later", "--hub_revision", "v1"),
        status=1,
    )

    assert "answered 500" in output and WRITER not in output
    command = re.search(r"^  python (-m hub_cards\.publish .*)$", output, re.MULTILINE)[1]
    broken.fail = lambda request: None
    publisher.start([sys.executable, *shlex.split(command)])
    assert (
        publisher.files("org/later", "v1")["model.safetensors"]
        == (tmp_path / "run" / "model.safetensors").read_bytes()
    )
    assert publisher.files("org/later") == {}


def test_who_is_not_logged_in_is_told_so_before_training(training, tmp_path, tiny_recipe, la_corpus):
    del training.environment["HF_TOKEN"]

    output = training.run(
        *("--model", tiny_recipe, "--data_dir", la_corpus, "--output_dir", tmp_path / "run"),
        *("--push_to_hub", "--hub_model_id", "org/never"),
        status=1,
    )

    assert "train.py: error: You are not logged in" in output and "hf auth login" in output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--push_to_hub"], "add --hub_model_id ORG/NAME"),
        (["--push_to_hub", "--hub_model_id", "name"], "ORG/NAME is expected"),
        (["--hub_model_id", "org/name"], "goes with --push_to_hub"),
        (["--push_to_hub", "--hub_model_id", "org/name", "--hub_token", "x"], "--hub_token is not used"),
        (
            ["--push_to_hub", "--hub_model_id", "org/name", "--hub_strategy", "end"],
            "--hub_strategy is not used",
        ),
    ],
)
def test_arguments_that_do_not_say_where_to_publish_are_refused(refused, tiny_recipe, arguments, said):
    assert said in refused("--model", tiny_recipe, *arguments)


def test_recipe_does_not_publish(refused, tmp_path):
    recipe = {**TINY_RECIPE, "training": {**TINY_RECIPE["training"], "hub_model_id": "org/name"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    assert "unknown key 'hub_model_id'" in refused("--model", tmp_path / "recipe.yaml")


def test_submission_is_uploaded_and_its_pull_request_opened(publisher, tmp_path):
    meta = {
        "system": {
            **{"name": "Tiny", "slug": "tiny", "description": "A test."},
            **dict.fromkeys(["code", "checkpoint"], "https://huggingface.co/org/tiny"),
        },
        "submitter": {"hf_username": "writer", "contact": "w@example.com"},
    }
    (tmp_path / "meta.yaml").write_text(yaml.safe_dump(meta))
    trials = pd.DataFrame({"utterance_id": ["a", "b"], "key": ["bonafide", "spoof"]})
    benchmark = Corpus("Set", {}, hub=f"Benchmarks/Set@{'5' * 40}")
    Submission.prepare(tmp_path, benchmark, "eval", 2, overwrite=False).write(trials, np.array([1.0, 0.0]), 1)
    publisher.hub.repositories["Benchmarks/Set"] = Repository(False)
    publisher.hub.repositories["Benchmarks/Set"].commit("main", {"README.md": b"data"}, "initial commit")

    arguments = [str(tmp_path), "--repo_id", "org/tiny", "--submit"]
    twice = f"main({arguments}), main({[*arguments, '--create_pr']})"

    output = publisher.start([sys.executable, "-c", f"from hub_cards.publish import main; {twice}"])

    assert "Submitted: " in output and "/Benchmarks/Set/discussions/1" in output
    assert set(publisher.files("Benchmarks/Set")) == {"README.md"}
    opened = publisher.files("Benchmarks/Set", "refs/pr/1")
    submission = yaml.safe_load(opened["submissions/tiny.yaml"])
    there = publisher.files("org/tiny")
    scores_url = submission["artifact"]["scores_url"]
    commit, path = re.fullmatch(r"https://huggingface.co/org/tiny/resolve/(\w+)/(.+)", scores_url).groups()
    scores = publisher.files("org/tiny", commit)[path]
    assert scores == there[path] == b"a 1\nb 0\n"
    assert hashlib.sha256(scores).hexdigest() == submission["artifact"]["scores_sha256"]
    result = yaml.safe_load(there[".eval_results/Benchmarks/Set/result.yaml"])
    assert result["artifact"] == {"scores_url": scores_url}
    assert (
        yaml.safe_load(there[".eval_results/Set.yaml"])[0]["value"]
        == submission["scores"]["eer_percent"]
        == 0
    )

    # Of the second time all that is new is in pull requests.
    assert "Benchmarks/Set/discussions/2" in output
    assert "refs/pr/1" in publisher.hub.repositories["org/tiny"].branches

    with pytest.raises(ValueError, match="org/tiny, which cannot be private"):
        submit(tmp_path, Target("org/tiny", private=True))
    (tmp_path / path).write_text("a 2\nb 0\n")
    with pytest.raises(ValueError, match="has been changed since"):
        submit(tmp_path, Target("org/tiny"))


@contextmanager
def run_space(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """The address of a Space that runs from the files in a folder, and without those of this checkout."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = environment | {"GRADIO_SERVER_PORT": port, "PYTHONPATH": ""}
    log = folder.parent / f"{folder.name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=folder, env=environment, stdout=output, stderr=output
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert process.poll() is None, log.read_text()
            with suppress(httpx.HTTPError):
                httpx.get(address)
                break
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait()
    assert "Traceback" not in log.read_text()


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.slow
def test_page_is_published_with_its_model_as_a_space_that_runs_from_its_own_files(
    publisher, own_run, la_corpus, tmp_path
):
    listed = publisher(own_run, "--repo_id", "org/shown", "--space", "org/page", "--dry_run", token=None)
    output = publisher(own_run, "--repo_id", "org/shown", "--space", "org/page")

    commit = publisher.hub.repositories["org/shown"].branches["main"]
    files = publisher.files("org/page", kind="spaces")
    assert f"Published: {publisher.hub.endpoint}/spaces/org/page" in output
    assert set(files) == set(re.findall(r"^  (\S+)$", listed.split("as the Space org/page:")[1], re.M))
    assert f'serve("org/shown", revision="{commit}"' in files["app.py"].decode()
    header = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert (header["sdk"], header["app_file"], header["models"]) == ("gradio", "app.py", ["org/shown"])
    assert f"{ROOT}/".encode() not in b"".join(files.values())
    file = next((la_corpus / "ASVspoof2019_LA_eval" / "flac").glob("*.flac"))
    environment = publisher.hub.environment(tmp_path / "home", token=None)
    folder = write_files(tmp_path / "space", files)
    with run_space(folder, environment) as address, open_browser() as browser:
        tab = browser.new_page()
        drop(tab, address, file)
        answer = wait_for_answer(tab, file.name)
    assert re.search("(Human|Synthetic) speech The score of the first 0.50 s, -?[0-9.]+, is", answer)


@pytest.mark.slow
def test_metrics_are_published_as_spaces_which_evaluate_loads_and_which_run(publisher, tmp_path):
    command = [sys.executable, "-m", "hub_cards.publish_metrics", "--namespace", "org"]
    output = publisher.start(command)

    assert output.count("Published: ") == len(METRICS)
    environment = publisher.hub.environment(tmp_path / "home", token=None)
    arguments = [sys.executable, "-c", COMPUTE, json.dumps(METRICS)]
    process = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["eer"]["eer"] == 0.5
    folder = write_files(tmp_path / "eer", publisher.files("org/eer", kind="spaces"))
    with run_space(folder, environment) as address, httpx.Client(base_url=address) as client:
        data = [json.dumps(METRICS["eer"])]
        event = client.post("/gradio_api/call/compute", json={"data": data}).json()["event_id"]
        answer = client.get(f"/gradio_api/call/compute/{event}").text
    assert '"eer": 0.5' in answer
