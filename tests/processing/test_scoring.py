"""Scoring that was interrupted, and scoring that must not be mixed with another."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, DatasetInfo
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

import modeling  # noqa: F401  registers the architectures
from processing import asvspoof2019
from processing.collation import AudioCollator
from processing.scoring import Batches, ScoringCheckpoint, hash_rows, score_rows
from processing.trials import FEATURES


IDENTITY = {"model": "m", "corpus": "c"}


@pytest.fixture(scope="module")
def model(trained):
    return AutoModelForAudioClassification.from_pretrained(trained)


@pytest.fixture(scope="module")
def collator(trained):
    return AudioCollator(AutoFeatureExtractor.from_pretrained(trained))


@pytest.fixture
def corpus(la_corpus, tmp_path):
    """A copy whose files may be damaged."""
    return shutil.copytree(la_corpus, tmp_path / "LA")


def damage(corpus, utterance) -> tuple:
    """Make one recording undecodable; returns what mends it."""
    (path,) = corpus.rglob(f"{utterance}.flac")
    content = path.read_bytes()
    path.write_bytes(b"no audio")
    return path, content


def rows_of(corpus):
    return asvspoof2019.LA.load(corpus).splits["eval"]


def interrupted(model, collator, corpus, folder):
    """Scores of a run that ended at its third batch of 5 in the first go."""
    path, content = damage(corpus, "LA_E_0000007")
    batches = Batches(batch_size=3)
    with pytest.raises(ValueError, match="LA_E_0000007"):
        score_rows(
            model, collator, rows_of(corpus), batches=batches, checkpoint=ScoringCheckpoint(folder, IDENTITY)
        )
    path.write_bytes(content)
    return batches


def test_interrupted_scoring_goes_on_where_it_was_with_the_same_bits(
    model, collator, corpus, tmp_path, monkeypatch
):
    folder = tmp_path / "scoring"
    batches = interrupted(model, collator, corpus, folder)
    seen = []
    counting = AudioCollator(collator.feature_extractor)
    monkeypatch.setattr(counting, "_choose_start", lambda row: seen.append(row["utterance_id"]) or 0)

    scores = score_rows(
        model, counting, rows_of(corpus), batches=batches, checkpoint=ScoringCheckpoint(folder, IDENTITY)
    )

    assert seen == [f"LA_E_{i:07d}" for i in range(6, 12)]  # two batches of 3 were finished
    assert torch.equal(scores, score_rows(model, collator, rows_of(corpus), batches=batches))


def test_line_that_the_kill_cut_short_does_not_count(model, collator, corpus, tmp_path):
    folder = tmp_path / "scoring"
    batches = interrupted(model, collator, corpus, folder)
    path = folder / "process-0.jsonl"
    text = path.read_text()
    assert len(text.splitlines()) == 3
    path.write_text(text[:-5])

    checkpoint = ScoringCheckpoint(folder, IDENTITY)
    scores = score_rows(model, collator, rows_of(corpus), batches=batches, checkpoint=checkpoint)

    assert torch.equal(scores, score_rows(model, collator, rows_of(corpus), batches=batches))


def test_finished_batches_of_any_number_of_processes_are_used(model, collator, corpus, tmp_path):
    folder = tmp_path / "scoring"
    batches = interrupted(model, collator, corpus, folder)
    own, moved = folder / "process-0.jsonl", folder / "process-3.jsonl"
    lines = own.read_text().splitlines(keepends=True)
    own.write_text(lines[0] + lines[1])
    moved.write_text(lines[0] + lines[2])

    scores = score_rows(
        model, collator, rows_of(corpus), batches=batches, checkpoint=ScoringCheckpoint(folder, IDENTITY)
    )

    assert torch.equal(scores, score_rows(model, collator, rows_of(corpus), batches=batches))
    finished = (folder / "finished.jsonl").read_text().splitlines()[1:]
    assert [json.loads(line)[0] for line in finished] == [0, 1]


def test_scores_of_another_model_are_never_taken(model, collator, corpus, tmp_path):
    folder = tmp_path / "scoring"
    batches = interrupted(model, collator, corpus, folder)
    other = ScoringCheckpoint(folder, {**IDENTITY, "model": "another"})

    with pytest.raises(ValueError, match="unfinished scoring of something else: model m there, another now"):
        score_rows(model, collator, rows_of(corpus), batches=batches, checkpoint=other)

    assert (folder / "process-0.jsonl").is_file()  # nothing is lost


def test_removed_checkpoint_leaves_nothing(model, collator, corpus, tmp_path):
    checkpoint = ScoringCheckpoint(tmp_path / "scoring", IDENTITY)
    score_rows(model, collator, rows_of(corpus), checkpoint=checkpoint)

    checkpoint.remove()

    assert not (tmp_path / "scoring").exists()


def test_score_that_is_no_number_is_an_error_that_names_the_utterance(trained, collator, la_corpus):
    model = AutoModelForAudioClassification.from_pretrained(trained)
    with torch.no_grad():
        list(model.parameters())[-1].fill_(float("nan"))

    with pytest.raises(ValueError, match="score of utterance LA_E_0000000 is nan"):
        score_rows(model, collator, rows_of(la_corpus))


def test_loader_processes_and_batch_size_do_not_change_the_scores(model, collator, la_corpus):
    rows = rows_of(la_corpus)

    scores = [
        score_rows(model, collator, rows, batches=Batches(*b)).numpy() for b in ((5, 0), (5, 2), (1, 0))
    ]

    np.testing.assert_array_equal(scores[0], scores[1])
    np.testing.assert_allclose(scores[0], scores[2], atol=1e-6)


@pytest.mark.parametrize("values", [{"batch_size": 0}, {"num_workers": -1}])
def test_impossible_batches_are_refused(values):
    with pytest.raises(ValueError, match="must be positive, num_workers"):
        Batches(**values)


def test_digest_changes_with_order_and_with_the_audio(corpus):
    rows = rows_of(corpus)
    before = hash_rows(rows)

    assert hash_rows(rows) == before
    assert hash_rows(rows.select(range(11, -1, -1))) != before
    path, content = damage(corpus, "LA_E_0000003")
    assert hash_rows(rows) != before


def rows_with_audio_within(*contents: bytes, path: str | None = "a.flac") -> Dataset:
    columns = {
        "utterance_id": [f"u{i}" for i in range(len(contents))],
        "speaker_id": ["s"] * len(contents),
        "audio": [{"bytes": content, "path": path} for content in contents],
        "attack": ["-"] * len(contents),
        "label": [0] * len(contents),
    }
    return Dataset(pa.table(columns, schema=FEATURES.arrow_schema), info=DatasetInfo(features=FEATURES))


@pytest.mark.parametrize("path", ["a.flac", None])
def test_digest_changes_with_the_bytes_of_audio_within_the_rows(path):
    before = hash_rows(rows_with_audio_within(b"one", b"two", path=path))

    assert hash_rows(rows_with_audio_within(b"one", b"two", path=path)) == before
    assert hash_rows(rows_with_audio_within(b"one", b"twO", path=path)) != before
    assert hash_rows(rows_with_audio_within(b"two", b"one", path=path)) != before
    assert hash_rows(rows_with_audio_within(b"one", path=path)) != before


def test_replaced_checkpoint_starts_anew(model, collator, corpus, tmp_path):
    folder = tmp_path / "scoring"
    batches = interrupted(model, collator, corpus, folder)
    other = ScoringCheckpoint(folder, {**IDENTITY, "model": "another"}, replace=True)

    scores = score_rows(model, collator, rows_of(corpus), batches=batches, checkpoint=other)

    assert torch.equal(scores, score_rows(model, collator, rows_of(corpus), batches=batches))
    assert len((folder / "finished.jsonl").read_text().splitlines()) == 1  # nothing was taken over
