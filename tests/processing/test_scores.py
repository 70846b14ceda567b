"""Scores, and score files: ours and those of others."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from processing.layouts import LAYOUTS, read_protocol
from processing.scores import (
    compute_scores,
    list_scored_trials,
    make_scored_corpus,
    match_scores,
    read_scores,
    write_scores,
)
from processing.trials import list_trials, read_label_map


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
    return list_trials(LAYOUTS["asvspoof2019-la"].load(la_corpus).splits["eval"])


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


def test_file_name_beside_an_id_is_not_the_id(score_file):
    scored = read_scores(score_file("file_name,utterance_id,score\na/1.flac,u1,2.5\nb/2.flac,u2,-1\n"))

    assert scored.utterance_id.tolist() == ["u1", "u2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no score"),
        ("filename cm-score\n", "holds no score"),
        ("u1 1 2 3 4\n", "cannot be told what its columns are. Its first line is 'u1 1 2 3 4'"),
        ("u1 1\nu2\n", "line 2: 'u2' is not"),
        ("u1 1\nu2 nan\n", "line 2: the score 'nan' is not a finite number"),
        ("u1 1\nu2 1e999\n", "line 2: the score '1e999' is not a finite number"),
        ("u1 1\nu2 x\n", "line 2: the score 'x' is not a finite number"),
        ("u1 1\nu2 1_0\n", "line 2: the score '1_0' is not a finite number"),
        ("u1 1\nu1 2\n", "u1 is listed 2 times"),
        ("u1 1 0.5\nu2 0 0.7\n", "first line is 'u1 1 0.5'.* --score_columns .*--label_map 1=bonafide"),
        ("u1 bonafide spoof\nu2 spoof spoof\n", "cannot be told what its columns are"),
        ("u1 A07 0.5\nu2 - 0.7\n", "first line is 'u1 A07 0.5'.*by --score_columns"),
        ("u1 -1.5 2\nu2 3 -0.5\n", "first line is 'u1 -1.5 2'.*utterance,spoof,bonafide"),
        ("u1 2,5\nu2 -1,0\n", "'u1 2,5', a comma may stand in a number or between two fields"),
        ("filename,score,label\nu1,2.5,1\n", r"labels must be spelt .*'1' \(1x\).* with --label_map"),
        ("filename,path,score\nu1,a,2.5\n", "'filename' and 'path' could both be the utterance"),
        ("filename,p_fake\nu1,0.9\nu2,0.1\n", "cannot be told which column is the score.*'filename,p_fake'"),
        (
            "s1 u1 alaw ita_tx A07 spoof notrim eval 1\ns1 u2 alaw ita_tx A07 spoof notrim dev 1\n",
            "line 2: .* is not of the subset eval or progress or hidden",
        ),
        ("score,label\n2.5,real\n", "cannot be told which column is the utterance"),
        ("u1,2.5\nu2,2.5,3\n", "line 2: 'u2,2.5,3' is not a line of 2 fields"),
        ("u\0001 2.5\n", "is not a text file"),
    ],
)
def test_file_that_cannot_be_understood_is_an_error_that_says_why(score_file, text, message):
    with pytest.raises(ValueError, match=message):
        read_scores(score_file(text))


@pytest.mark.parametrize(
    "text",
    [
        "u1,2.5\nu2,-1\n",
        "u1;2.5\nu2;-1\n",
        "filename,score\nu1,2.5\nu2,-1\n",
        "filename, cm-score\nu1, 2.5\nu2, -1\n",
        ",score\nu1,2.5\nu2,-1\n",
        "clip my_score_v2\nu1 2.5\nu2 -1\n",
        "file,score,fake_logit\nu1,2.5,-2.5\nu2,-1,1\n",
        ',Utterance ID,duration,Score\n0,u1,3.5,2.5\n1,"u2",4.5,-1\n',
        "filename,fake,real\nu1,0.5,3.0\nu2,0,-1\n",
        "real_logit\tspoof_logit\tfile\n3.0\t0.5\tu1\n-1\t0\tu2\n",
        "spk\tfilename\tcm-score\tasv-score\tsasv-score\nE_1\tu1\t2.5\t0\t1\nE_1\tu2\t-1\t0\t1\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_columns_are_told_by_a_header_between_any_delimiter_in_any_encoding(tmp_path, text, encoding):
    (tmp_path / "scores.csv").write_bytes(text.replace("\n", "\r\n").encode(encoding))

    file = read_scores(tmp_path / "scores.csv")

    assert (file.utterance_id.tolist(), file.score.tolist()) == (["u1", "u2"], [2.5, -1.0])


@pytest.mark.parametrize(
    ("text", "columns", "label_map"),
    [
        ("filename,score,label\nu1,2.5,1\nu2,-1,0\n", None, "1=bonafide,0=spoof"),
        ("u1 2.5 1\nu2 -1 0\n", None, "1=bonafide,0=spoof"),
        ("u1 2.5 human\nu2 -1 Deepfake\n", None, "human=bonafide,deepfake=spoof"),
        ("Output, u1, 1, 2.5\nOutput, u2, 0, -1\n", "_,utterance,key,score", "1=bonafide,0=spoof"),
        ("path;p;y\nu1;2.5;real\nu2;-1;fake\n", "utterance,score,key", None),
        ("filename,score,is_spoof\nu1,2.5,0\nu2,-1,1\n", None, None),
        ("filename,bonafide,score\nu1,True,2.5\nu2,False,-1\n", None, None),
        ("filename,spoof,bonafide,class\nu1,-1,1.5,real\nu2,0,-1,fake\n", None, None),
        ("s1 u1 2.5 bonafide\ns1 u2 -1 spoof\n", None, None),
        ("s1 u1 - - bonafide 2.5\ns1 u2 - A07 spoof -1\n", None, None),
    ],
)
def test_keys_are_told_by_a_header_or_the_user(score_file, text, columns, label_map):
    file = read_scores(score_file(text), columns and columns.split(","), read_label_map(label_map))

    assert (file.utterance_id.tolist(), file.score.tolist()) == (["u1", "u2"], [2.5, -1.0])
    assert file.key.tolist() == ["bonafide", "spoof"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("_,score,_", "it cannot be told which column is the utterance"),
        ("utterance,score,kye", "these names of columns are not known: kye"),
        ("utterance,score", "it has 3 columns, but 2 are named"),
    ],
)
def test_names_of_columns_that_do_not_fit_are_refused(score_file, columns, message):
    with pytest.raises(ValueError, match=rf"scores.txt: {message}.*first line is 'u1 2.5 1'"):
        read_scores(score_file("u1 2.5 1\n"), columns.split(","))


def test_names_with_white_space_are_words_and_fields_that_are_not_needed_may_be_empty(score_file):
    trials = list_scored_trials(
        read_scores(score_file('file,system,attack,label,score\n"a, b.wav",,,real,1\nc,,X TTS,fake,0\n')),
        file=FILE,
    )

    assert trials.utterance_id.tolist() == ["a,%20b.wav", "c"]
    assert trials.attack.tolist() == ["-", "X%20TTS"]


def test_lines_of_the_2021_protocol_with_a_score_are_trials_of_their_subset(score_file):
    path = score_file(
        "LA_0009 LA_E_9332881 alaw ita_tx A07 spoof notrim eval -5.8546\n"
        "LA_0020 LA_E_7294490 g722 loc_tx bonafide bonafide notrim eval 5.5\n"
        "LA_0020 LA_E_7294491 g722 loc_tx bonafide bonafide notrim progress 6\n"
        "LA_0020 LA_E_7294492 none loc_tx A10 spoof trim hidden_track 7\n"
    )

    corpus = make_scored_corpus(read_scores(path), file=path)

    assert {name: trials.utterance_id.tolist() for name, trials in corpus.splits.items()} == {
        "eval": ["LA_E_9332881", "LA_E_7294490"],
        "progress": ["LA_E_7294491"],
        "hidden": ["LA_E_7294492"],
    }
    trials = corpus.splits["eval"]
    assert trials[["speaker_id", "attack", "key"]].values.tolist() == [
        ["LA_0009", "A07", "spoof"],
        ["LA_0020", "-", "bonafide"],
    ]
    assert corpus.breakdowns == ("codec", "transmission")


def test_missing_score_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no score file .*nothing.txt"):
        read_scores(tmp_path / "nothing.txt")


def test_scores_come_in_the_order_of_the_protocol(score_file):
    file = read_scores(score_file("u3 3\nu1 1\nu2 2\n"))

    assert match_scores(file, TRIALS, file=FILE, source="P").tolist() == [1, 2, 3]


@pytest.mark.parametrize("name", ["{}.flac", "/data/LA/flac/{}.flac", r"C:\data\{}.WAV", "{}"])
@pytest.mark.parametrize("listed", ["{}", "eval/{}.wav"])
def test_names_with_folders_and_endings_are_matched_without_them(score_file, name, listed):
    file = read_scores(score_file("".join(f"{name.format(f'u{i}')} {i}\n" for i in (3, 1, 2))))
    trials = TRIALS.assign(utterance_id=TRIALS.utterance_id.map(listed.format))

    assert match_scores(file, trials, file=FILE, source="P").tolist() == [1, 2, 3]


def test_names_that_differ_in_their_folders_only_are_not_matched_without_them(score_file):
    file = read_scores(score_file("a/u1 1\nb/u1 2\na/u2 3\na/u3 4\n"))

    with pytest.raises(ValueError, match="no score for 3 of the 3 trials of P.* is u1. The first .* is a/u1"):
        match_scores(file, TRIALS, file=FILE, source="P")


def test_scores_of_other_splits_are_left_out(score_file):
    file = read_scores(score_file("p1 9\nu3 3\nu1 1\nu2 2\n"))

    assert match_scores(file, TRIALS, file=FILE, source="P", elsewhere=pd.Series(["p1"])).tolist() == [
        1,
        2,
        3,
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u1 1\nu2 2\n", "no score for 1 of the 3 trials of P; the first is u3"),
        ("u1 1\nu2 2\nu3 3\nx 4\n", "scores of utterances that are not in P: 1 in all, one of them x"),
        ("u1 spoof 1\nu2 spoof 2\nu3 spoof 3\n", "calls u1 spoof, but P calls it bonafide"),
    ],
)
def test_scores_that_do_not_match_their_protocol_are_refused(score_file, text, message):
    with pytest.raises(ValueError, match=message):
        match_scores(read_scores(score_file(text)), TRIALS, file=FILE, source="P")


@pytest.mark.parametrize("read", [read_scores, read_protocol])
def test_first_line_of_a_megabyte_is_refused_and_not_shown(tmp_path, read):
    path = tmp_path / "scores.txt"
    path.write_text(f"utt,key,score,{'x' * 10**6}\na,spoof,1,x\n")

    with pytest.raises(ValueError, match="scores.txt: its first line of 1,000,014 characters") as error:
        read(path)
    assert len(str(error.value)) < 1000


def test_huge_field_is_not_shown_whole_and_an_open_quote_is_named_with_its_line(tmp_path):
    path, lines = tmp_path / "scores.csv", ["utt,key,score", "a,spoof,1", 'b,"spoof,2', "c,spoof,3"]
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match="scores.csv, line 3: "):
        read_scores(path)

    path.write_text(f"a spoof 1\nb spoof {'x' * 10**6}\n")
    with pytest.raises(ValueError, match="scores.csv, line 2: ") as error:
        read_scores(path)
    assert len(str(error.value)) < 1000
