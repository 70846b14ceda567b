"""A submission to the Speech Anti-Spoofing Arena by version 4 of its schema (`submission.schema.json` and
`result.schema.json` of speech-spoof-bench 0.3.0), and the same result as the Hub has it on a model's page."""

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from metrics.det import equal_error_rate, interpolated_equal_error_rate
from metrics.names import format_value

from .files import hash_file, write_text
from .trials import Corpus, split_classes


ARENA = "https://huggingface.co/spaces/SpeechAntiSpoofingBenchmarks/SpeechAntiSpoofingArena"
BENCH_VERSION = "speech-spoof-bench==0.3.0"  # whose schema and EER these are
TASK = "antispoofing_eval"  # in the eval.yaml of the benchmark's data sets
MOST_SKIPPED = 0.05  # share of the trials
NOT_UPLOADED = "0" * 40  # in place of the commit that holds the scores
META_NAME = "meta.yaml"
# What the fields of meta.yaml must be, in words and as a pattern; those of PAPER may be left out together.
TEXT = "text, in quotes where it looks like a number", r".+"
ADDRESS = "an address, https://…", r"https?://\S+"
NEEDED = {
    "system.name": TEXT,
    "system.slug": ("small letters, digits and dashes", r"[a-z0-9][a-z0-9-]*"),
    "system.description": TEXT,
    "system.code": ADDRESS,
    "system.checkpoint": ADDRESS,
    "submitter.hf_username": TEXT,
    "submitter.contact": TEXT,
}
PAPER = {"system.paper.arxiv_id": TEXT, "system.paper.url": ADDRESS, "system.paper.bibtex": TEXT}
OPTIONAL = {"system.params_millions": ("a number", r"\d+(\.\d+)?"), "notes": TEXT}


@dataclass(frozen=True)
class Submission:
    """
    A submission that is to be written.

    Attributes:
        folder: where to.
        meta: what its author says of the system, of `meta.yaml` there.
        dataset: id, revision and split of the data set.
        num_skipped: recordings that could not be read.
    """

    folder: Path
    meta: dict
    dataset: dict[str, str]
    num_skipped: int

    @classmethod
    def prepare(
        cls, folder: Path, corpus: Corpus, split: str, num_trials: int, *, overwrite: bool
    ) -> "Submission":
        """
        What is known before anything is scored.

        Raises:
            FileNotFoundError: no `meta.yaml`.
            FileExistsError: there is a submission already.
            ValueError: a `meta.yaml` that the Arena would refuse, another corpus than the test split of a
                data set of the Hub, or more than 5 % of its recordings left out.
        """
        meta = read_meta(folder / META_NAME)
        if not corpus.hub or split != "eval":
            raise ValueError(
                "--submission is of the whole test split of a data set of the Hub at a known commit: give "
                "its id by --dataset, SpeechAntiSpoofingBenchmarks/…, online, and no other --split."
            )
        path = folder / "submissions" / f"{meta['system']['slug']}.yaml"
        if path.exists() and not overwrite:
            raise FileExistsError(
                f"{path} exists already. Replace it by --overwrite, or name another folder."
            )
        skipped = corpus.unreadable.get(split, 0)
        if skipped > MOST_SKIPPED * (skipped + num_trials):
            raise ValueError(
                f"{skipped:,} recordings are left out, but the Arena allows 5 % of them at most."
            )
        dataset_id, revision = corpus.hub.split("@")
        return cls(folder, meta, {"id": dataset_id, "revision": revision, "split": "test"}, skipped)

    def write(self, trials: pd.DataFrame, scores: np.ndarray, num_parameters: int) -> str:
        """Write `.eval_results` and `submissions` of the scores (num_trials,), and say what was written."""
        path = self.folder / locate_scores(self.dataset["id"])
        texts = [f"{score:.9g}" for score in scores]
        lines = zip(map(unquote, trials["utterance_id"]), texts, strict=True)
        write_text(path, "".join(f"{utterance} {score}\n" for utterance, score in lines))
        classes = split_classes(trials, np.array(texts, np.float64))  # as the Arena will read them
        of_arena, (eer, _) = interpolated_equal_error_rate(*classes), equal_error_rate(*classes)
        notes = f"Scored by speech-antispoofing; EER by the official ASVspoof definition {100 * eer:.6f} %."
        system = {**self.meta["system"]}
        system.setdefault("params_millions", num_parameters / 1e6)
        submission = {
            "schema_version": 4,
            "system": system,
            "dataset": self.dataset,
            "scores": {
                "eer_percent": 100 * of_arena,
                "n_trials": len(trials) + self.num_skipped,
                "n_skipped": self.num_skipped,
            },
            "artifact": {"scores_url": "", "scores_sha256": hash_file(path), "bench_version": BENCH_VERSION},
            "reproduction": {},
            "submitter": self.meta["submitter"],
            "submitted_at": datetime.date.today().isoformat(),
            "notes": " ".join(filter(None, [self.meta.get("notes"), notes])),
        }
        repo_id = f"{self.meta['submitter']['hf_username']}/{system['slug']}"
        for name, text in render_submission(submission, repo_id, NOT_UPLOADED).items():
            write_text(self.folder / name, text)
        eers = f"{format_value('eer', of_arena)} as the Arena computes it (interpolated)"
        return (
            f"Submission on {self.dataset['id']}: EER {eers}, {format_value('eer', eer)} by the official "
            f"definition\nTo submit it: python -m hub_cards.publish {self.folder} --repo_id ORG/NAME --submit"
        )


def locate_scores(dataset_id: str) -> str:
    """Path of the scores, in the model's repository."""
    return f".eval_results/{dataset_id}/scores.txt"


def render_submission(submission: Mapping, repo_id: str, commit: str) -> dict[str, str]:
    """The YAML files of a submission, by path, if its scores are in this commit of a model's repository."""
    system, dataset = submission["system"], submission["dataset"]
    scores_url = f"https://huggingface.co/{repo_id}/resolve/{commit}/{locate_scores(dataset['id'])}"
    of_system = f"{ARENA}?system={system['slug']}"
    paper = {"paper": {"arxiv_id": system["paper"]["arxiv_id"]}} if "paper" in system else {}
    result = {
        "schema_version": 1,
        "system": {"name": system["name"], "slug": system["slug"], **paper},
        "dataset": dataset,
        "scores": submission["scores"],
        "arena": {"url": ARENA, "system_url": of_system},
        "artifact": {"scores_url": scores_url},
    }
    entry = EvalResultEntry(
        dataset_id=dataset["id"],
        task_id=TASK,
        value=submission["scores"]["eer_percent"],
        dataset_revision=dataset["revision"],
        date=submission["submitted_at"],
        source_url=of_system,
        source_name="Speech Anti-Spoofing Arena",
        notes="EER in per cent, interpolated; lower is better",
    )
    whole = {**submission, "artifact": {**submission["artifact"], "scores_url": scores_url}}
    contents = {
        f".eval_results/{dataset['id']}/result.yaml": result,
        f".eval_results/{dataset['id'].split('/')[1]}.yaml": eval_result_entries_to_yaml([entry]),
        f"submissions/{system['slug']}.yaml": whole,
    }
    return {name: yaml.safe_dump(content, sort_keys=False) for name, content in contents.items()}


def read_meta(path: Path) -> dict:
    """What the author says of a system. FileNotFoundError, ValueError: nothing, or what the Arena refuses."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}. Write it, with the fields {', '.join(NEEDED)}.")
    try:
        meta = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    fields, known = _flatten(meta), NEEDED | PAPER | OPTIONAL
    needed = NEEDED | (PAPER if PAPER.keys() & fields.keys() else {})
    problems = [f"{name} is not a field that the Arena knows" for name in fields if name not in known]
    for name in [*needed, *(OPTIONAL.keys() & fields.keys())]:
        (what, pattern), value = known[name], fields.get(name)
        is_right = isinstance(value, str) != (what == "a number")
        if not is_right or not re.fullmatch(pattern, str(value), re.DOTALL):
            problems.append(f"{name} must be {what}, not {value!r}")
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems)}.")
    return meta


def _flatten(node: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(node, dict):
        return {prefix: node}
    parts = (_flatten(value, f"{prefix}.{name}".lstrip(".")) for name, value in node.items())
    return {name: value for part in parts for name, value in part.items()}
