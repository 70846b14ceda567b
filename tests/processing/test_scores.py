"""Scores and score files."""

import numpy as np
import pytest

from processing import asvspoof2019
from processing.scores import cm_scores, split_by_key, write_scores


@pytest.fixture(scope="module")
def rows(la_corpus):
    return asvspoof2019.load(la_corpus).splits["eval"]


@pytest.mark.parametrize(
    ("label2id", "expected"), [({"spoof": 0, "bonafide": 1}, [1.5]), ({"spoof": 1, "bonafide": 0}, [-1.5])]
)
def test_score_is_bonafide_minus_spoof_whatever_the_order(label2id, expected):
    assert cm_scores(np.array([[0.5, 2.0]]), label2id).tolist() == expected


def test_score_file_has_four_columns_and_keeps_every_float32(tmp_path, rows):
    scores = np.random.default_rng(0).standard_normal(len(rows)).astype(np.float32) * 1e3

    write_scores(tmp_path / "scores.txt", rows, scores)

    lines = [line.split(" ") for line in (tmp_path / "scores.txt").read_text().splitlines()]
    assert [line[:3] for line in lines[:2]] == [
        ["LA_E_0000000", "-", "bonafide"],
        ["LA_E_0000001", "A01", "spoof"],
    ]
    np.testing.assert_array_equal(np.array([line[3] for line in lines], dtype=np.float32), scores)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.txt"]


def test_score_file_with_another_number_of_scores_is_refused(tmp_path, rows):
    with pytest.raises(ValueError):
        write_scores(tmp_path / "scores.txt", rows, [0.0] * (len(rows) - 1))
    assert not (tmp_path / "scores.txt").exists()


def test_scores_are_split_by_the_key_of_their_row(rows):
    bonafide, spoof = split_by_key(rows, np.arange(len(rows)))

    assert bonafide.tolist() == [0, 2, 4, 6, 8, 10] and spoof.tolist() == [1, 3, 5, 7, 9, 11]
