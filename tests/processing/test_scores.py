"""Scores, and score files: ours and those of others."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from processing import asvspoof2019
from processing.scores import compute_scores, list_scored_trials, match_scores, read_scores, write_scores
from processing.trials import list_trials


FILE = Path("scores.txt")
TRIALS = pd.DataFrame(
    {
        "utterance_id": ["u1", "u2", "u3"],
        "speaker_id": ["s1", "s1", "s2"],
        "attack": ["-", "A07", "A08"],
        "key": ["bonafide", "spoof", "spoof"],
    }
)


@pytest.fixture(scope="module")
def trials(la_corpus):
    return list_trials(asvspoof2019.LA.load(la_corpus).splits["eval"])


@pytest.fixture
def score_file(tmp_path):
    def write(text: str):
        path = tmp_path / "scores.txt"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ("label2id", "expected"), [({"spoof": 0, "bonafide": 1}, [1.5]), ({"spoof": 1, "bonafide": 0}, [-1.5])]
)
def test_score_is_bonafide_minus_spoof_whatever_the_order(label2id, expected):
    assert compute_scores(np.array([[0.5, 2.0]]), label2id).tolist() == expected


def test_score_file_has_four_columns_and_keeps_every_float32(tmp_path, trials):
    scores = np.random.default_rng(0).standard_normal(len(trials.key)).astype(np.float32) * 1e3

    write_scores(tmp_path / "scores.txt", trials, scores)

    lines = [line.split(" ") for line in (tmp_path / "scores.txt").read_text().splitlines()]
    assert [line[:3] for line in lines[:2]] == [
        ["LA_E_0000000", "-", "bonafide"],
        ["LA_E_0000001", "A01", "spoof"],
    ]
    np.testing.assert_array_equal(np.array([line[3] for line in lines], dtype=np.float32), scores)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.txt"]


def test_score_file_with_another_number_of_scores_is_refused(tmp_path, trials):
    with pytest.raises(ValueError):
        write_scores(tmp_path / "scores.txt", trials, [0.0] * (len(trials.key) - 1))
    assert not (tmp_path / "scores.txt").exists()


def test_what_is_written_is_read_back(tmp_path, trials):
    scores = np.random.default_rng(0).standard_normal(len(trials.key)).astype(np.float32)
    write_scores(tmp_path / "scores.txt", trials, scores)

    file = read_scores(tmp_path / "scores.txt")

    np.testing.assert_array_equal(file.score.astype(np.float32), scores)
    assert (
        file[["utterance_id", "attack", "key"]].values.tolist()
        == trials[["utterance_id", "attack", "key"]].values.tolist()
    )


@pytest.mark.parametrize(
    "text",
    [
        "u1 - bonafide 2.5\nu2 A07 spoof -1\n",
        "u1 bonafide 2.5\nu2 spoof -1\n",
        "u1 2.5 bonafide\nu2 -1 spoof\n",
        "\ufeffu1\tBona-Fide\t2.5\r\n\r\nu2\tfake\t-1e0\r\n",
        "filename cm-score key\nu1 2.5 bonafide\nu2 -1 spoof\n",
    ],
)
def test_columns_are_told_apart_by_what_they_hold(score_file, text):
    file = read_scores(score_file(text))

    assert (file.utterance_id.tolist(), file.score.tolist()) == (["u1", "u2"], [2.5, -1.0])
    assert file.key.tolist() == ["bonafide", "spoof"]


def test_two_columns_have_no_key(score_file):
    file = read_scores(score_file("u1 2.5\nu2 -1\n"))

    assert (file.score.tolist(), list(file)) == ([2.5, -1.0], ["utterance_id", "score"])
    with pytest.raises(ValueError, match="does not say which trials are bona fide. Name the protocol"):
        list_scored_trials(file, file=FILE)


def test_trials_of_a_file_that_names_no_attack_have_an_unknown_one(score_file):
    trials = list_scored_trials(read_scores(score_file("u1 bonafide 2.5\nu2 spoof -1\n")), file=FILE)

    assert (trials.attack.tolist(), trials.speaker_id.tolist()) == (["-", "unknown"], ["-", "-"])


def test_bona_fide_has_no_attack_however_the_file_calls_it(score_file):
    trials = list_scored_trials(
        read_scores(score_file("u1 bonafide bonafide 2.5\nu2 A07 spoof -1\n")), file=FILE
    )

    assert (trials.attack.tolist(), trials.key.tolist()) == (["-", "A07"], ["bonafide", "spoof"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no score"),
        ("filename cm-score\n", "holds no score"),
        ("u1 1 2 3 4\n", "line 1: 'u1 1 2 3 4' is not"),
        ("u1 1\nu2\n", "line 2: 'u2' is not"),
        ("u1 1\nu2 nan\n", "line 2: the score 'nan' is not a finite number"),
        ("u1 1\nu2 1e999\n", "line 2: the score '1e999' is not a finite number"),
        ("u1 1\nu2 x\n", "line 2: the score 'x' is not a finite number"),
        ("u1 1\nu2 1_0\n", "line 2: the score '1_0' is not a finite number"),
        ("u1 1\nu1 2\n", "u1 is listed 2 times"),
        ("u1 1 0.5\nu2 0 0.7\n", "a label written as a number cannot be told from a score"),
        ("u1 bonafide spoof\nu2 spoof spoof\n", "Exactly one column must hold numbers"),
        ("u1 A07 0.5\nu2 - 0.7\n", "one must hold keys"),
        ("u1,1\nu2,2\n", "between white space"),
    ],
)
def test_file_that_cannot_be_understood_is_an_error_that_says_why(score_file, text, message):
    with pytest.raises(ValueError, match=message):
        read_scores(score_file(text))


def test_missing_score_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no score file .*nothing.txt"):
        read_scores(tmp_path / "nothing.txt")


def test_scores_come_in_the_order_of_the_protocol(score_file):
    file = read_scores(score_file("u3 3\nu1 1\nu2 2\n"))

    assert match_scores(file, TRIALS, file=FILE, source="P").tolist() == [1, 2, 3]


def test_scores_of_other_splits_are_left_out(score_file):
    file = read_scores(score_file("p1 9\nu3 3\nu1 1\nu2 2\n"))

    assert match_scores(file, TRIALS, file=FILE, source="P", elsewhere={"p1"}).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u1 1\nu2 2\n", "no score for 1 of the 3 trials of P; the first is u3"),
        ("u1.flac 1\nu2.flac 2\nu3.flac 3\n", "Write utterances without the ending of their files"),
        ("u1 1\nu2 2\nu3 3\nx 4\n", "scores of utterances that are not in P: 1 in all, one of them x"),
        ("u1 spoof 1\nu2 spoof 2\nu3 spoof 3\n", "calls u1 spoof, but P calls it bonafide"),
    ],
)
def test_scores_that_do_not_match_their_protocol_are_refused(score_file, text, message):
    with pytest.raises(ValueError, match=message):
        match_scores(read_scores(score_file(text)), TRIALS, file=FILE, source="P")
