"""Joint scores of speaker verification and countermeasure, from files of ASVspoof 5 track 2 to results."""

import json

import numpy as np
import official
import pytest

import eval as script


KINDS = ("target", "nontarget", "spoof")
HEADER = ("spk", "filename", "cm-score", "asv-score", "sasv-score")


@pytest.fixture
def joint(tmp_path, monkeypatch):
    """CM and ASV scores by class; `scores.tsv` and `keys.tsv` of them are in the folder."""
    monkeypatch.chdir(tmp_path)
    scores = np.random.default_rng(0).normal(0, 1, (2, 120)) + np.repeat([[1, 1, 0], [2, 0, 1]], 40, axis=1)
    # Four trials in a row are of one utterance, against four speakers.
    trials = [(f"E_{i % 12:04d}", f"E_{i // 4:010d}") for i in range(120)]
    lines = [
        (*trial, f"{a:.17g}", f"{b:.17g}", f"{a + b:.17g}")
        for trial, a, b in zip(trials, *scores, strict=True)
    ]
    write(tmp_path / "scores.tsv", [HEADER, *lines])
    keys = [(*trial, "-", kind) for trial, kind in zip(trials, np.repeat(KINDS, 40), strict=True)]
    write(tmp_path / "keys.tsv", [("spk", "filename", "cm-label", "asv-label"), *keys[::-1]])
    return [np.split(of, 3) for of in scores]


def write(path, lines):
    path.write_text("".join("\t".join(line) + "\n" for line in lines))


def read(path):
    return [line.split("\t") for line in path.read_text().splitlines()]


def test_official_files_give_the_official_values_with_intervals(joint, tmp_path, capsys):
    script.main("--score_file scores.tsv --protocol keys.tsv --num_resamples 50".split())

    output, (cm, asv) = capsys.readouterr().out, joint
    results = json.loads((tmp_path / "evaluation" / "scores" / "results.json").read_text())
    t_eer, *thresholds = official.t_eer(cm, asv)
    a_dcf = official.min_a_dcf(*(a + b for a, b in zip(cm, asv, strict=True)))
    assert (results["t_eer"], results["min_a_dcf"]) == pytest.approx((t_eer, a_dcf), abs=1e-12)
    assert [results["t_eer_point"][f"{of}_threshold"] for of in ("cm", "asv")] == thresholds
    bounds = results["confidence_intervals"]
    assert bounds["method"] == "bootstrap of 12 speakers, percentiles of 50 resamples"
    assert bounds["t_eer"][0] < t_eer < bounds["t_eer"][1]
    assert "scores.tsv: 40 target, 40 nontarget, 40 spoof" in output
    assert f"  t-EER (concurrent)      {100 * t_eer:.3f} % [{100 * bounds['t_eer'][0]:.3f}, " in output
    assert f"  min a-DCF               {a_dcf:.4f} [" in output


def test_scores_of_one_system_may_have_their_keys_beside_them(joint, tmp_path, capsys):
    kinds = {(speaker, utterance): kind for speaker, utterance, _, kind in read(tmp_path / "keys.tsv")}
    rows = [(s, u, kinds[s, u], x) for s, u, *_, x in read(tmp_path / "scores.tsv")[1:]]
    write(tmp_path / "scores.tsv", [("speaker", "utterance", "key", "sasv_score"), *rows])

    script.main(["--score_file", "scores.tsv"])

    output = capsys.readouterr().out
    expected = official.min_a_dcf(*(a + b for a, b in zip(*joint, strict=True)))
    assert "40 target, 40 nontarget, 40 spoof" in output and f"{expected:.4f}" in output
    assert "t-EER" not in output


def test_score_that_a_system_does_not_have_is_left_out(joint, tmp_path, capsys):
    header, *lines = read(tmp_path / "scores.tsv")
    write(tmp_path / "scores.tsv", [header, *([s, u, cm, asv, "-"] for s, u, cm, asv, _ in lines)])

    script.main("--score_file scores.tsv --protocol keys.tsv --num_resamples 0".split())

    output = capsys.readouterr().out
    assert f"{100 * official.t_eer(*joint)[0]:.3f} %\n" in output and "a-DCF" not in output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "must list the same trials and keys, but 1 are in one only"),
        (lambda lines: [*lines, lines[5]], "scores.tsv, line 122: .* is not another trial than those before"),
        (
            lambda lines: [*lines[:9], [*lines[9][:4], "nan"], *lines[10:]],
            "line 10: the score 'nan' is not a",
        ),
        (lambda lines: [*lines[:9], lines[9][:4], *lines[10:]], "line 10: .* is not a line of 5 fields"),
        (lambda lines: [lines[0], *([*of[:3], "-", "-"] for of in lines[1:])], "There are neither"),
        (
            lambda lines: [[*lines[0], "key"], *([*of, "spoof"] for of in lines[1:])],
            "the same trials and keys, but 160 are in one only",
        ),
        (lambda lines: [["a", *lines[0][1:]], *lines[1:]], "a trial is told by its speaker and utterance"),
    ],
)
def test_files_that_do_not_fit_are_refused(joint, tmp_path, change, message):
    write(tmp_path / "scores.tsv", change(read(tmp_path / "scores.tsv")))

    with pytest.raises(SystemExit, match=message):
        script.main("--score_file scores.tsv --protocol keys.tsv".split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "does not say which trials are target, nontarget, spoof"),
        ("--protocol scores.tsv", "does not say which trials are target, nontarget, spoof"),
        ("--protocol keys.tsv --higher_is spoof", "--higher_is cannot be combined with joint scores"),
        ("--protocol keys.tsv --label_map a=spoof", "--label_map cannot be combined with joint scores"),
    ],
)
def test_arguments_that_say_nothing_of_joint_scores_are_refused(joint, arguments, message):
    with pytest.raises(SystemExit, match=message):
        script.main(["--score_file", "scores.tsv", *arguments.split()])
