import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from metrics.det import equal_error_rate
from processing.layouts import LAYOUTS
from processing.scores import ASV_KEYS, read_asv_scores


SCORES_2019 = """\
bonafide target 7.981530
bonafide target 22.408420
bonafide nontarget -8.5
A07 spoof 1.25
A19 spoof -1e1
"""
# Score, then what the metadata say of the trial from the fifth field on.
TRIALS_2021 = [
    ("3.5", "bonafide target notrim eval"),
    ("-4.1", "bonafide nontarget notrim eval"),
    ("0.5", "A07 spoof notrim eval"),
    ("9.5", "bonafide target notrim progress"),
    ("-9.5", "bonafide nontarget notrim progress"),
    ("1.5", "A10 spoof notrim progress"),
    ("2.5", "bonafide target trim hidden_track"),
    ("-2.5", "bonafide nontarget trim hidden_track"),
    ("-1.5", "A11 spoof trim hidden_track"),
]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def write_2021(folder: Path, trials: list[tuple[str, str]] = TRIALS_2021) -> list[Path]:
    names = [f"LA_0007-alaw-ita_tx LA_E_{5013670 + i}-alaw-ita_tx" for i in range(len(trials))]
    scores = [f"{name} {score}\n" for name, (score, _) in zip(names, trials, strict=True)]
    about = [f"{name} alaw ita_tx {rest}\n" for name, (_, rest) in zip(names, trials, strict=True)]
    metadata = write(folder / "trial_metadata.txt", "".join(about))
    return [write(folder / "score.txt", "".join(scores)), metadata]


def of_key(scores: pd.DataFrame, key: str) -> list[float]:
    return scores.score[scores.key == key].tolist()


def attacks_of(scores: pd.DataFrame) -> set[str]:
    return set(scores.attack[scores.key == "spoof"])


# ASVspoof 2019


def test_scores_of_2019_are_told_apart_by_key(tmp_path):
    scores = read_asv_scores(write(tmp_path / "scores.txt", SCORES_2019))
    assert of_key(scores, "target") == [7.98153, 22.40842]
    assert of_key(scores, "nontarget") == [-8.5]
    assert of_key(scores, "spoof") == [1.25, -10.0]
    assert attacks_of(scores) == {"A07", "A19"}
    assert scores.score.dtype == np.dtype("float64")


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("bonafide target", id="too short"),
        pytest.param("LA_0001 bonafide target 1.0", id="too long"),
        pytest.param("bonafide genuine 1.0", id="unknown key"),
        pytest.param("A07 target 1.0", id="target with an attack"),
        pytest.param("bonafide spoof 1.0", id="spoof without an attack"),
    ],
)
def test_a_malformed_line_is_named_with_its_file_and_number(tmp_path, line):
    path = write(tmp_path / "scores.txt", f"{SCORES_2019}\n{line}\n")
    with pytest.raises(ValueError, match=rf"scores\.txt, line 7: '{line}' is not `attack key score`"):
        read_asv_scores(path)


@pytest.mark.parametrize("score", ["nan", "-inf", "1,5"])
def test_a_score_that_is_not_finite_is_named_with_its_file_and_line(tmp_path, score):
    path = write(tmp_path / "scores.txt", f"{SCORES_2019}bonafide target {score}\n")
    with pytest.raises(ValueError, match=rf"scores\.txt, line 6: the score '{score}' .*not a finite number"):
        read_asv_scores(path)


@pytest.mark.parametrize("key", ["target", "nontarget", "spoof"])
def test_a_key_without_a_trial_is_named(tmp_path, key):
    lines = [line for line in SCORES_2019.splitlines() if line.split()[1] != key]
    with pytest.raises(ValueError, match=rf"scores\.txt lists no {key} trial"):
        read_asv_scores(write(tmp_path / "scores.txt", "\n".join(lines)))


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"scores\.txt lists no ASV trial"):
        read_asv_scores(write(tmp_path / "scores.txt", "\n"))


@pytest.mark.parametrize("number", [0, 3])
def test_another_number_of_files_is_refused(number):
    with pytest.raises(TypeError, match="positional argument"):
        read_asv_scores(*[Path("scores.txt")] * number)


@pytest.mark.parametrize(
    ("split", "counts"), [("dev", (1_484, 5_768, 22_296)), ("eval", (5_370, 33_327, 63_882))]
)
def test_official_scores_of_2019_have_their_counts_and_attacks(shared_data, split, counts):
    corpus = LAYOUTS["asvspoof2019-la"].load(shared_data / "asvspoof2019_la_mini")
    scores = read_asv_scores(*corpus.asv_score_files[split])
    numbers = range(1, 7) if split == "dev" else range(7, 20)
    assert tuple(len(of_key(scores, key)) for key in ASV_KEYS) == counts
    assert attacks_of(scores) == {f"A{number:02d}" for number in numbers}


@pytest.mark.parametrize(
    ("split", "eer", "threshold"), [("dev", 0.0242653, -3.548998), ("eval", 0.0245778, -5.680051)]
)
def test_official_scores_of_2019_give_the_published_equal_error_rate(shared_data, split, eer, threshold):
    corpus = LAYOUTS["asvspoof2019-la"].load(shared_data / "asvspoof2019_la_mini")
    scores = read_asv_scores(*corpus.asv_score_files[split])
    assert equal_error_rate(of_key(scores, "target"), of_key(scores, "nontarget")) == (
        pytest.approx(eer, abs=5e-8),
        threshold,
    )


def test_official_eval_scores_of_2019_give_the_published_error_rates(shared_data):
    corpus = LAYOUTS["asvspoof2019-la"].load(shared_data / "asvspoof2019_la_mini")
    scores, threshold = read_asv_scores(*corpus.asv_score_files["eval"]), -5.680051
    target, nontarget, spoof = (np.array(of_key(scores, key)) for key in ASV_KEYS)
    assert np.mean(nontarget >= threshold) == pytest.approx(0.0246047, abs=5e-8)
    assert np.mean(target < threshold) == pytest.approx(0.0245810, abs=5e-8)
    assert np.mean(spoof >= threshold) == pytest.approx(0.7606525, abs=5e-8)


def test_2019_dev_and_eval_go_with_their_own_asv_scores(tmp_path, la_corpus):
    root = tmp_path / "LA"
    shutil.copytree(la_corpus, root)
    names = {split: f"ASVspoof2019.LA.asv.{split}.gi.trl.scores.txt" for split in ("dev", "eval")}
    (root / "ASVspoof2019_LA_asv_scores").mkdir()
    files = {
        split: (write(root / "ASVspoof2019_LA_asv_scores" / name, SCORES_2019),)
        for split, name in names.items()
    }
    assert LAYOUTS["asvspoof2019-la"].load(root).asv_score_files == files


def test_2019_without_asv_scores_has_none(la_corpus):
    assert LAYOUTS["asvspoof2019-la"].load(la_corpus).asv_score_files == {}


# ASVspoof 2021


@pytest.mark.parametrize(
    ("split", "target", "nontarget", "spoof", "attack"),
    [
        ("eval", 3.5, -4.1, 0.5, "A07"),
        ("progress", 9.5, -9.5, 1.5, "A10"),
        ("hidden", 2.5, -2.5, -1.5, "A11"),
    ],
)
def test_only_the_trials_of_the_subset_count(tmp_path, split, target, nontarget, spoof, attack):
    scores = read_asv_scores(*write_2021(tmp_path), split=split)
    assert (of_key(scores, "target"), of_key(scores, "nontarget")) == ([target], [nontarget])
    assert (of_key(scores, "spoof"), attacks_of(scores)) == ([spoof], {attack})


@pytest.mark.parametrize("split", [None, "dev"])
def test_a_split_that_is_no_subset_is_answered_with_those_there_are(tmp_path, split):
    with pytest.raises(ValueError, match=r"trial_metadata\.txt .*eval, progress, hidden.* but the split is"):
        read_asv_scores(*write_2021(tmp_path), split=split)


def test_a_subset_without_trials_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"trial_metadata\.txt, subset hidden, lists no ASV trial"):
        read_asv_scores(*write_2021(tmp_path, TRIALS_2021[:6]), split="hidden")


def test_a_key_without_a_trial_in_the_subset_is_named(tmp_path):
    with pytest.raises(ValueError, match="subset progress, lists no spoof trial"):
        read_asv_scores(*write_2021(tmp_path, TRIALS_2021[:5]), split="progress")


def test_lines_of_different_utterances_are_refused(tmp_path):
    scores, metadata = write_2021(tmp_path)
    scores.write_text(scores.read_text().replace("LA_E_5013672-", "LA_E_5013699-"))
    with pytest.raises(ValueError, match=r"differ at line 3: LA_E_5013699-\S+ and LA_E_5013672-"):
        read_asv_scores(scores, metadata, split="eval")


@pytest.mark.parametrize("shorter", [0, 1], ids=["scores", "metadata"])
def test_files_of_different_lengths_are_refused(tmp_path, shorter):
    files = write_2021(tmp_path)
    files[shorter].write_text("".join(files[shorter].read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match=r"score\.txt and .*metadata\.txt .* differ at the end"):
        read_asv_scores(*files, split="eval")


@pytest.mark.parametrize(
    "about", ["bonafide target eval", "bonafide target notrim dev", "A07 target notrim eval"]
)
def test_malformed_metadata_are_named_with_file_and_line(tmp_path, about):
    files = write_2021(tmp_path, [*TRIALS_2021, ("1.0", about)])
    with pytest.raises(ValueError, match=rf"trial_metadata\.txt, line 10: .*{about}' is not `speaker"):
        read_asv_scores(*files, split="eval")


@pytest.mark.parametrize("score", ["", "1.0 2.0"], ids=["none", "two"])
def test_a_line_without_its_one_score_is_named_with_file_and_line(tmp_path, score):
    files = write_2021(tmp_path, [*TRIALS_2021, (score, "bonafide target notrim eval")])
    with pytest.raises(ValueError, match=r"score\.txt, line 10: .* is not `speaker utterance score`"):
        read_asv_scores(*files, split="eval")


@pytest.mark.parametrize("score", ["nan", "inf", "high"])
def test_a_score_of_2021_that_is_not_finite_is_named_with_file_and_line(tmp_path, score):
    files = write_2021(tmp_path, [*TRIALS_2021, (score, "bonafide target notrim eval")])
    with pytest.raises(ValueError, match=rf"score\.txt, line 10: the score '{score}' .*not a finite number"):
        read_asv_scores(*files, split="eval")


def test_a_hundred_thousand_trials_are_read_in_well_under_two_seconds(tmp_path):
    files = write_2021(tmp_path, TRIALS_2021 * 11_112)
    started = time.process_time()
    scores = read_asv_scores(*files, split="eval")
    assert time.process_time() - started < 2  # 0.25 s where it was written
    assert len(of_key(scores, "spoof")) == 11_112
