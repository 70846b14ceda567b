"""What is submitted to the Speech Anti-Spoofing Arena: by its schema, restated, and by its recomputation."""

import datetime
import hashlib

import numpy as np
import official
import pandas as pd
import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics.det import interpolated_equal_error_rate
from processing.submission import Submission
from processing.trials import Corpus


META = {
    "system": {
        "name": "Tiny",
        "slug": "tiny-1",
        "description": "A test.",
        "code": "https://github.com/lab/tiny",
        "checkpoint": "https://huggingface.co/lab/tiny",
        "paper": {"arxiv_id": "2110.01200", "url": "https://arxiv.org/abs/2110.01200", "bibtex": "@x{1}"},
    },
    "submitter": {"hf_username": "lab", "contact": "lab@example.com"},
}
COMMIT = "5" * 40
TEXT, URI = {"type": "string", "minLength": 1}, {"type": "string", "format": "uri"}


def make(needed, optional=None):
    """The schema of an object with these properties and no others."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [*needed],
        "properties": {**needed, **(optional or {})},
    }


COUNT = {"type": "integer", "minimum": 0}
SLUG = {"type": "string", "pattern": "^[a-z0-9][a-z0-9-]*$"}
DATASET = make(
    {
        "id": {"type": "string", "pattern": "^[^/]+/[^/]+$"},
        "revision": {"type": "string", "pattern": "^[0-9a-f]{7,40}$"},
        "split": TEXT,
    }
)
SCORES = make({"n_trials": COUNT, "n_skipped": COUNT, "eer_percent": {"type": "number"}})
SCORES_URL = {"type": "string", "pattern": "^https://huggingface\\.co/[^/]+/[^/]+/resolve/[0-9a-f]{7,40}/"}
SUBMISSION = make(
    {
        "schema_version": {"const": 4},
        "system": make(
            {"name": TEXT, "slug": SLUG, "description": {"type": "string"}, "code": URI, "checkpoint": URI},
            {
                "paper": make({"arxiv_id": TEXT, "url": URI, "bibtex": TEXT}),
                "params_millions": {"type": "number", "minimum": 0},
            },
        ),
        "dataset": DATASET,
        "scores": SCORES,
        "artifact": make(
            {
                "scores_url": SCORES_URL,
                "scores_sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
                "bench_version": TEXT,
            }
        ),
        "submitter": make({"hf_username": TEXT, "contact": TEXT}),
        "submitted_at": {"type": "string", "format": "date"},
    },
    {"reproduction": {"type": "object", "maxProperties": 0}, "notes": {"type": "string"}},
)
RESULT = make(
    {
        "schema_version": {"const": 1},
        "system": make({"name": TEXT, "slug": SLUG, "paper": make({"arxiv_id": TEXT})}),
        "dataset": DATASET,
        "scores": SCORES,
        "arena": make(dict.fromkeys(["url", "system_url"], {"type": "string", "pattern": "^https://"})),
        "artifact": make({"scores_url": SCORES_URL}),
    }
)


def prepare(folder, meta=META, *, hub=f"org/Set@{COMMIT}", split="eval", unreadable=0, overwrite=False):
    (folder / "meta.yaml").write_text(yaml.safe_dump(meta))
    corpus = Corpus("Set", {}, unreadable={split: unreadable}, hub=hub)
    return Submission.prepare(folder, corpus, split, 100, overwrite=overwrite)


@pytest.fixture
def trials():
    keys = np.repeat(["bonafide", "spoof"], [40, 60])
    return pd.DataFrame({"utterance_id": [f"u{i}%25" for i in range(100)], "key": keys})


@pytest.fixture
def scores():
    # With ties, and two scores that nine digits do not tell apart.
    drawn = np.round(np.random.default_rng(0).normal(0, 1, 100), 1) + np.repeat([1, 0], [40, 60])
    drawn[[0, 99]] = 0.3, 0.3 + 1e-12
    return drawn


@settings(deadline=None, max_examples=150)
@given(*[st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=15)] * 2)
def test_interpolated_eer_is_that_of_the_arena(bonafide, spoof):
    value = 100 * interpolated_equal_error_rate(bonafide, spoof)

    assert value == pytest.approx(official.eer_of_arena(bonafide, spoof), abs=1e-9)


def test_files_are_valid_by_the_schemas_and_for_the_hub(tmp_path, trials, scores):
    jsonschema = pytest.importorskip("jsonschema")
    text = prepare(tmp_path).write(trials, scores, 1_234_567)

    submission = yaml.safe_load((tmp_path / "submissions" / "tiny-1.yaml").read_text())
    jsonschema.validate(submission, SUBMISSION, format_checker=jsonschema.FormatChecker())
    result = yaml.safe_load((tmp_path / ".eval_results" / "org" / "Set" / "result.yaml").read_text())
    jsonschema.validate(result, RESULT)
    assert submission["system"] == {**META["system"], "params_millions": 1.234567}
    assert submission["submitted_at"] == datetime.date.today().isoformat()
    assert result["scores"] == submission["scores"]
    (entry,) = parse_eval_result_entries(
        yaml.safe_load((tmp_path / ".eval_results" / "Set.yaml").read_text())
    )
    assert (entry.dataset_id, entry.task_id, entry.dataset_revision) == (
        "org/Set",
        "antispoofing_eval",
        COMMIT,
    )
    assert entry.value == submission["scores"]["eer_percent"]
    eer = official.eer(scores[:40], scores[40:])[0]
    assert f"EER {entry.value:.3f} % as the Arena computes it" in text
    assert f"{100 * eer:.3f} % by the official definition" in text


def test_recomputation_of_the_arena_finds_the_claimed_numbers(tmp_path, trials, scores):
    prepare(tmp_path, unreadable=3).write(trials, scores, 1)

    claimed = yaml.safe_load((tmp_path / "submissions" / "tiny-1.yaml").read_text())
    content = (tmp_path / ".eval_results" / "org" / "Set" / "scores.txt").read_bytes()
    assert hashlib.sha256(content).hexdigest() == claimed["artifact"]["scores_sha256"]
    found = {name: float(score) for name, score in map(str.split, content.decode().splitlines())}
    labels = {f"u{i}%": int(i >= 40) for i in range(100)}  # ids as the data set has them
    assert found.keys() == labels.keys()
    assert len(found) + claimed["scores"]["n_skipped"] == claimed["scores"]["n_trials"] == 103
    classes = [[found[name] for name, label in labels.items() if label == of] for of in (0, 1)]
    assert official.eer_of_arena(*classes) == pytest.approx(claimed["scores"]["eer_percent"], abs=1e-6)


def test_system_without_a_paper_has_a_submission(tmp_path, trials, scores):
    jsonschema = pytest.importorskip("jsonschema")
    system = {name: value for name, value in META["system"].items() if name != "paper"}
    meta = {**META, "system": {**system, "params_millions": 7.5}, "notes": "Mine."}
    prepare(tmp_path, meta).write(trials, scores, 1)

    submission = yaml.safe_load((tmp_path / "submissions" / "tiny-1.yaml").read_text())
    jsonschema.validate(submission, SUBMISSION)
    assert submission["system"]["params_millions"] == 7.5
    assert submission["notes"].startswith("Mine. Scored by")


@pytest.mark.parametrize(
    ("system", "message"),
    [
        ({"slug": "Tiny_1"}, "system.slug must be small letters, digits and dashes, not 'Tiny_1'"),
        ({"code": None}, "system.code must be an address"),
        ({"licence": "mit"}, "system.licence is not a field that the Arena knows"),
        (
            {"paper": {"arxiv_id": 2110.012}},
            "arxiv_id must be text, in quotes .*, not 2110.012; system.paper.url must be an ad.*, not None",
        ),
    ],
)
def test_meta_that_the_arena_would_refuse_is_refused_before_anything_is_scored(tmp_path, system, message):
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path, {**META, "system": {**META["system"], **system}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hub": ""}, "give its id by --dataset"),
        ({"split": "eval[:10%]"}, "of the whole test split"),
        ({"unreadable": 6}, "6 recordings are left out, but the Arena allows 5 %"),
    ],
)
def test_what_is_not_a_whole_data_set_of_the_hub_is_not_submitted(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path, **options)


def test_submission_is_not_replaced_unasked(tmp_path, trials, scores):
    prepare(tmp_path).write(trials, scores, 1)

    with pytest.raises(FileExistsError, match="tiny-1.yaml exists already"):
        prepare(tmp_path)
    prepare(tmp_path, overwrite=True)


def test_folder_needs_a_meta(tmp_path):
    with pytest.raises(FileNotFoundError, match="meta.yaml. Write it, with the fields system.name"):
        Submission.prepare(tmp_path, Corpus("Set", {}), "eval", 1, overwrite=False)
