"""Scoring that was interrupted, and scoring that must not be mixed with another."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, DatasetInfo
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

import modeling  # noqa: F401  registers the architectures
from processing.collation import AudioCollator
from processing.layouts import LAYOUTS
from processing.models import load_countermeasure
from processing.resuming import hash_rows
from processing.scoring import Batches, ScoringCheckpoint, score_rows
from processing.trials import FEATURES


ROOT = Path(__file__).resolve().parents[2]
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
    return LAYOUTS["asvspoof2019-la"].load(corpus).splits["eval"]


def interrupted(model, collator, corpus, path):
    """Scores of a run that ended at its third batch of 5 in the first go."""
    file, content = damage(corpus, "LA_E_0000007")
    batches = Batches(batch_size=3)
    with pytest.raises(ValueError, match="LA_E_0000007"):
        score_rows(
            model, collator, rows_of(corpus), batches=batches, checkpoint=ScoringCheckpoint(path, IDENTITY)
        )
    file.write_bytes(content)
    return batches


def test_interrupted_scoring_goes_on_where_it_was_with_the_same_bits(model, collator, corpus, tmp_path):
    path = tmp_path / "scoring.jsonl"
    batches = interrupted(model, collator, corpus, path)
    seen = []

    class CountingCollator(AudioCollator):
        def __call__(self, rows):
            seen.extend(row["utterance_id"] for row in rows)
            return super().__call__(rows)

    counting = CountingCollator(collator.feature_extractor)

    scores = score_rows(
        model, counting, rows_of(corpus), batches=batches, checkpoint=ScoringCheckpoint(path, IDENTITY)
    )

    assert seen == [f"LA_E_{i:07d}" for i in range(6, 12)]  # two batches of 3 were finished
    assert torch.equal(scores, score_rows(model, collator, rows_of(corpus), batches=batches))


def test_line_that_the_kill_cut_short_does_not_count(model, collator, corpus, tmp_path):
    path = tmp_path / "scoring.jsonl"
    batches = interrupted(model, collator, corpus, path)
    text = path.read_text()
    assert len(text.splitlines()) == 3
    path.write_text(text[:-5])

    checkpoint = ScoringCheckpoint(path, IDENTITY)
    scores = score_rows(model, collator, rows_of(corpus), batches=batches, checkpoint=checkpoint)

    assert torch.equal(scores, score_rows(model, collator, rows_of(corpus), batches=batches))


SHARE = """
import sys
from pathlib import Path
from accelerate import PartialState
import modeling
from processing.layouts import LAYOUTS
from processing.collation import AudioCollator
from processing.models import load_countermeasure
from processing.scoring import Batches, ScoringCheckpoint, score_rows


class Dying(AudioCollator):
    def __call__(self, rows):
        if rows[0]["utterance_id"] == "LA_E_0000006":
            raise KeyboardInterrupt
        return super().__call__(rows)


corpus, trained, path = sys.argv[1:]
PartialState(cpu=True)
cm = load_countermeasure(trained)
checkpoint = ScoringCheckpoint(Path(path), {"model": "m", "corpus": "c"})
rows = LAYOUTS["asvspoof2019-la"].load(Path(corpus)).splits["eval"]
score_rows(cm.model, Dying(cm.feature_extractor), rows, batches=Batches(2), checkpoint=checkpoint)
"""


@pytest.mark.slow
def test_killed_scoring_of_two_processes_goes_on_in_one_with_the_same_bits(la_corpus, trained, tmp_path):
    path, launch = tmp_path / "scoring.jsonl", ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
    (tmp_path / "share.py").write_text(SHARE)
    process = subprocess.run(
        [sys.executable, *launch, "--standalone", tmp_path / "share.py", la_corpus, trained, path],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        timeout=300,
    )
    assert process.returncode != 0
    assert len(path.read_text().splitlines()) == 1 + 2  # of 6 batches, the first of each process
    checkpoint, cm = ScoringCheckpoint(path, IDENTITY), load_countermeasure(str(trained))
    countermeasure = (cm.model, AudioCollator(cm.feature_extractor), rows_of(la_corpus))
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on whose number the last bits depend

    scores = score_rows(*countermeasure, batches=Batches(2), checkpoint=checkpoint)
    whole = score_rows(*countermeasure, batches=Batches(2))

    torch.set_num_threads(num_threads)
    assert torch.equal(scores, whole)
    assert checkpoint.num_scored_before == 4


def test_scores_of_another_model_are_never_taken(model, collator, corpus, tmp_path):
    path = tmp_path / "scoring.jsonl"
    batches = interrupted(model, collator, corpus, path)
    other = ScoringCheckpoint(path, {**IDENTITY, "model": "another"})

    with pytest.raises(ValueError, match="scoring of something else: model was 'm', now 'another'"):
        score_rows(model, collator, rows_of(corpus), batches=batches, checkpoint=other)

    assert len(path.read_text().splitlines()) == 3  # nothing is lost


def test_removed_checkpoint_leaves_nothing(model, collator, corpus, tmp_path):
    checkpoint = ScoringCheckpoint(tmp_path / "scoring.jsonl", IDENTITY)
    score_rows(model, collator, rows_of(corpus), checkpoint=checkpoint)

    checkpoint.remove()

    assert list(tmp_path.iterdir()) == [corpus]


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
    path = tmp_path / "scoring.jsonl"
    batches = interrupted(model, collator, corpus, path)
    other = ScoringCheckpoint(path, {**IDENTITY, "model": "another"}, replace=True)

    scores = score_rows(model, collator, rows_of(corpus), batches=batches, checkpoint=other)

    assert torch.equal(scores, score_rows(model, collator, rows_of(corpus), batches=batches))
    assert other.num_scored_before == 0  # nothing was taken over
    assert json.loads(path.read_text().splitlines()[0])["model"] == "another"
