"""`eval.py` as its users run it: on a corpus, from a score file alone, on recordings; killed and resumed, on
two processes, and given what it must refuse."""

import base64
import csv
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import official
import pytest
import soundfile
import torch
import yaml
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

import eval as script
from metrics.calibration import fit_calibration
from metrics.det import equal_error_rate
from processing import model_evaluation
from processing.audio import decode_audio
from processing.calibration import calibrate_score_file
from processing.corpora import load_corpus
from processing.evaluation_arguments import EvaluationArguments
from processing.layouts import read_protocol
from processing.measurements import MEASUREMENTS
from processing.report import LLR_PLOTS
from processing.scores import read_scores
from processing.trials import KEY_OF_LABEL
from processing.validation_set import ValidationSet


PLOTS = {"det.png", "scores.png", "per_attack.png"}


@pytest.fixture(autouse=True, scope="module")
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """`eval.py` with these arguments, in a folder of its own: exit status and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = script.main([*map(str, arguments), "--num_threads", "1"])
        return status, capsys.readouterr().out

    return run


@pytest.fixture
def fails(run, capsys):
    """The one line of error that these arguments end with."""

    def fails(*arguments):
        with pytest.raises(SystemExit) as exit_:
            run(*arguments)
        message = str(exit_.value.code)
        return capsys.readouterr().err if message == "2" else message

    return fails


@pytest.fixture(scope="session")
def wide_corpus(tmp_path_factory, la_corpus):
    """The made corpus with an eval split of 240 trials, links to its 12 recordings, and made ASV scores."""
    root = shutil.copytree(la_corpus, tmp_path_factory.mktemp("wide") / "LA", symlinks=True)
    protocol = root / "ASVspoof2019_LA_cm_protocols" / "ASVspoof2019.LA.cm.eval.trl.txt"
    lines = [line.split() for line in protocol.read_text().splitlines()]
    folder = root / "ASVspoof2019_LA_eval" / "flac"
    text = []
    for i in range(240):
        speaker, utterance, _, attack, key = lines[i % 12]
        (folder / f"LA_E_9{i:06d}.flac").symlink_to(folder / f"{utterance}.flac")
        text.append(f"LA_{i % 20:04d} LA_E_9{i:06d} - {attack} {key}\n")
    protocol.write_text("".join(text))
    scores = root / "ASVspoof2019_LA_asv_scores"
    scores.mkdir()
    generator = np.random.default_rng(0)
    asv = [f"bonafide target {x}\n" for x in generator.normal(4, 1, 50)]
    asv += [f"bonafide nontarget {x}\n" for x in generator.normal(0, 1, 50)]
    asv += [f"A01 spoof {x}\n" for x in generator.normal(3, 1, 50)]
    (scores / "ASVspoof2019.LA.asv.eval.gi.trl.scores.txt").write_text("".join(asv))
    return root


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory, wide_corpus, trained, eval_script):
    """Folder and output of `accelerate launch eval.py` on that corpus."""
    folder = tmp_path_factory.mktemp("evaluated") / "out"
    output = eval_script.run(
        *("--model", trained, "--data_dir", wide_corpus, "--output_dir", folder, "--num_threads", 1)
    )
    return folder, output


def test_corpus_evaluation_writes_scores_results_and_plots(evaluated):
    folder, _ = evaluated

    assert {path.name for path in folder.iterdir()} == {"scores.txt", "results.json", *PLOTS}
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in PLOTS)


def test_results_have_the_metrics_of_the_score_file(evaluated):
    folder, _ = evaluated
    file = read_scores(folder / "scores.txt")
    keys = file.key.to_numpy()
    results = json.loads((folder / "results.json").read_text())

    expected, _ = equal_error_rate(file.score[keys == "bonafide"], file.score[keys == "spoof"])
    assert results["eer"] == pytest.approx(expected, abs=1e-12)
    assert (results["corpus"], results["split"], results["num_trials"]) == ("ASVspoof 2019 LA", "eval", 240)
    assert 0 <= results["min_tdcf_2019"] <= 1 and results["min_tdcf_2021"] > results["min_tdcf_2019"] - 1e-9
    assert results["per_attack"]["A01"]["num_spoof"] == 120
    assert results["asv_score_files"] == ["ASVspoof2019.LA.asv.eval.gi.trl.scores.txt"]
    at = results["at_decision_threshold"]
    scores, frr = file.score.to_numpy(), at["frr"]
    rejected = (scores[keys == "bonafide"] <= at["threshold"]).sum()
    assert (frr["errors"], frr["trials"], at["far"]["trials"]) == (rejected, 120, 120)
    assert frr["low"] <= frr["rate"] <= frr["high"]
    assert at["far"]["errors"] == (scores[keys == "spoof"] > at["threshold"]).sum()
    assert len(results["weights_sha256"]["model.safetensors"]) == 64
    assert {"versions", "hardware", "seconds", "confidence_intervals"} <= set(results)


def test_output_says_what_it_does_and_what_each_number_is_of(evaluated):
    _, output = evaluated

    assert "Corpus: ASVspoof 2019 LA eval, 240 trials (120 bona fide, 120 spoof)" in output
    assert "ASV scores: ASVspoof2019.LA.asv.eval.gi.trl.scores.txt" in output
    assert "Scoring ASVspoof 2019 LA eval: 240 utterances in" in output and "per second" in output
    assert "ASVspoof 2019 LA eval: 120 bona fide, 120 spoof" in output
    assert "min t-DCF (2019 form)" in output and "min t-DCF (2021 form)" in output
    assert (
        "At the model's decision threshold, " in output and "% intervals: exact (Clopper-Pearson)" in output
    )


@pytest.mark.slow
def test_killed_evaluation_goes_on_with_the_same_bits_on_two_processes(
    evaluated, tmp_path, wide_corpus, trained, eval_script
):
    folder = tmp_path / "killed"
    arguments = ["--model", trained, "--data_dir", wide_corpus, "--output_dir", folder, "--num_threads", 1]
    process = eval_script.start(*arguments)
    finished = folder / ".scoring.jsonl"
    while not finished.is_file() or len(finished.read_text().splitlines()) < 4:
        assert process.poll() is None
        time.sleep(0.002)
    eval_script.kill(process)
    assert not (folder / "results.json").exists()

    two = ("--multi_gpu", "--num_processes", "2", "--main_process_port", "0")
    output = eval_script.run(*arguments, "--use_cpu", launch=(*two, "tests/process_group_at_exit.py"))

    assert output.count("Process group at exit: False") == 2
    assert "of 240 utterances were scored before." in output
    assert 0 < results_in(folder)["num_scored_before"] < 240
    assert (folder / "scores.txt").read_bytes() == (evaluated[0] / "scores.txt").read_bytes()
    assert not (folder / ".scoring.jsonl").exists()


@pytest.mark.slow  # the killed evaluation above ends on two processes, too
def test_two_processes_write_the_file_of_one(evaluated, tmp_path, wide_corpus, trained, eval_script):
    output = eval_script.run(
        *("--model", trained, "--data_dir", wide_corpus, "--output_dir", tmp_path, "--num_threads", 1),
        "--use_cpu",
        launch=("--multi_gpu", "--num_processes", "2", "--main_process_port", "0"),
    )

    assert (tmp_path / "scores.txt").read_bytes() == (evaluated[0] / "scores.txt").read_bytes()
    assert json.loads((tmp_path / "results.json").read_text())["num_processes"] == 2
    assert output.count("EER   ") == 1  # one process prints


def test_finished_results_are_not_replaced_unasked(evaluated, tmp_path, fails, run, wide_corpus, trained):
    folder = shutil.copytree(evaluated[0], tmp_path / "done")
    arguments = ["--model", trained, "--data_dir", wide_corpus, "--output_dir", folder]
    before = (folder / "results.json").read_bytes()

    assert "holds results already. Replace them by --overwrite" in fails(*arguments)

    assert (folder / "results.json").read_bytes() == before
    run(*arguments, "--overwrite", "--num_resamples", 0)
    assert "confidence_intervals" not in json.loads((folder / "results.json").read_text())


def test_unfinished_scoring_of_another_config_or_other_audio_is_never_gone_on_with(
    run, fails, trained, la_corpus, tmp_path
):
    corpus = shutil.copytree(la_corpus, tmp_path / "LA")
    model = shutil.copytree(trained, tmp_path / "model")
    broken = corpus / "ASVspoof2019_LA_eval" / "flac" / "LA_E_0000007.flac"
    content = broken.read_bytes()
    # Of which neither the header nor the last sample tells.
    soundfile.write(broken, np.where(np.arange(8000) == 100, np.nan, 0), 16000, format="WAV", subtype="FLOAT")
    arguments = ["--model", model, "--data_dir", corpus, "--batch_size", 2, "--output_dir", tmp_path / "out"]
    assert "LA_E_0000007.flac" in fails(*arguments)
    broken.write_bytes(content)

    assert "unfinished scoring of something else: rows_sha256" in fails(*arguments)
    config = json.loads((model / "config.json").read_text())
    config["id2label"] = {"0": config["id2label"]["1"], "1": config["id2label"]["0"]}
    config["label2id"] = {name: 1 - index for name, index in config["label2id"].items()}
    (model / "config.json").write_text(json.dumps(config))
    assert "config_sha256" in fails(*arguments)
    run(*arguments, "--overwrite")
    results = results_in(tmp_path / "out")
    assert results["eer"] > 0.5  # the labels are the wrong way round for all trials alike


def test_asv_scores_of_other_attacks_are_refused_before_the_scoring(fails, trained, la_corpus, tmp_path):
    (tmp_path / "asv.txt").write_text("bonafide target 3\nbonafide nontarget 0\nA19 spoof 3.5\n")

    error = fails(
        *("--model", trained, "--data_dir", la_corpus, "--asv_score_file", tmp_path / "asv.txt"),
        *("--output_dir", tmp_path / "out"),
    )

    assert "dev with dev, eval with eval" in error
    assert not (tmp_path / "out").exists()


def test_submission_holds_the_scores_of_a_data_set_of_the_hub(
    run, fails, monkeypatch, trained, la_corpus, tmp_path
):
    arguments = ("--model", trained, "--data_dir", la_corpus, "--output_dir", "out", "--submission", ".")
    system = {"name": "Tiny", "slug": "tiny", "description": "A test.", "code": "https://x"}
    submitter = {"hf_username": "lab", "contact": "lab@example.com"}
    meta = {"system": {**system, "checkpoint": "https://x"}, "submitter": submitter}
    (tmp_path / "meta.yaml").write_text(yaml.safe_dump(meta))
    assert "--submission is of the whole test split of a data set of the Hub" in fails(*arguments)
    of_hub = f"org/LA@{'5' * 40}"
    monkeypatch.setattr(
        model_evaluation, "load_corpus", lambda *a, **b: replace(load_corpus(*a, **b), hub=of_hub)
    )

    _, output = run(*arguments)

    submission = yaml.safe_load((tmp_path / "submissions" / "tiny.yaml").read_text())
    assert submission["dataset"] == {"id": "org/LA", "revision": "5" * 40, "split": "test"}
    assert results_in(tmp_path / "out")["data_set"] == of_hub
    scores = (tmp_path / ".eval_results" / "org" / "LA" / "scores.txt").read_text().splitlines()
    whole = (tmp_path / "out" / "scores.txt").read_text().splitlines()
    assert scores == [f"{utterance} {score}" for utterance, _, _, score in map(str.split, whole)]
    assert "by the official definition\nTo submit it: python -m hub_cards.publish" in output


def test_results_of_a_local_model_go_beside_it_by_corpus_and_split(run, trained, la_corpus, tmp_path):
    model = shutil.copytree(trained, tmp_path / "model")

    _, output = run("--model", model, "--data_dir", la_corpus, "--split", "dev", "--num_resamples", 10)

    assert (model / "results" / "asvspoof-2019-la-dev" / "results.json").is_file()
    assert "ASV scores: none, so there will be no t-DCF" in output
    assert "The t-DCF is left out: there are no ASV scores." in output


def test_scores_equal_those_that_training_ended_with(run, trained, la_corpus, tmp_path):
    run("--model", trained, "--data_dir", la_corpus, "--output_dir", tmp_path / "out", "--num_resamples", 0)

    ours, of_training = (
        read_scores(folder / "scores.txt") for folder in (tmp_path / "out", trained / "results" / "eval")
    )
    np.testing.assert_allclose(ours.score, of_training.score, atol=1e-6)


def write_scores(path, shift=1.0, seed=0, width=4, num=60):
    generator = np.random.default_rng(seed)
    common = np.random.default_rng(99).normal(size=num)
    lines = []
    for i in range(num):
        key, attack = ("spoof", f"A0{1 + i % 2}") if i % 3 else ("bonafide", "-")
        score = common[i] + 0.3 * generator.normal() + shift * (key == "bonafide")
        fields = {4: [attack, key], 3: [key], 2: []}[width]
        lines.append(" ".join([f"u{i}", *fields, repr(float(score))]) + "\n")
    path.write_text("".join(lines))
    return path


@pytest.fixture
def protocol(tmp_path):
    lines = [f"s{i % 11} u{i} - {f'A0{1 + i % 2} spoof' if i % 3 else '- bonafide'}\n" for i in range(60)]
    path = tmp_path / "my_protocol.txt"
    path.write_text("".join(lines))
    return path


def results_in(folder):
    return json.loads((folder / "results.json").read_text())


def write_dev_scores(path, **options):
    path.write_text(write_scores(path, **options).read_text().replace("u", "dev"))
    return path


def split_by_class(path):
    table = read_scores(path)
    return table.score[table.key == "bonafide"].to_numpy(), table.score[table.key == "spoof"].to_numpy()


def find_llr(calibration, scores):
    return np.clip(calibration["a"] * scores + calibration["b"], *calibration["bounds"])


def test_llrs_are_fitted_on_dev_and_the_scores_stay(run, fails, tmp_path, protocol):
    path, dev = write_scores(tmp_path / "a.txt"), write_dev_scores(tmp_path / "dev.txt", seed=1, shift=1.5)
    fixed = ("--score_file", path, "--num_resamples", 0, "--output_dir")

    _, output = run(*fixed, tmp_path / "out", "--calibrate_on", dev)

    results, classes = results_in(tmp_path / "out"), split_by_class(path)
    calibration, llrs = results["calibration"], split_by_class(tmp_path / "out" / "llrs.txt")
    expected = find_llr(calibration, np.concatenate(classes))
    np.testing.assert_allclose(np.concatenate(llrs), expected, atol=1e-6)
    assert 0 < calibration["num_cut"] == np.isin(expected, calibration["bounds"]).sum()
    assert f"{calibration['num_cut']} of 60 LLRs were cut to the bounds" in output
    expected = fit_calibration(*split_by_class(dev))
    assert (calibration["a"], calibration["b"]) == pytest.approx((expected.a[0], expected.b))
    assert results["cllr"] == pytest.approx(official.cllr(*classes))
    assert results["llr_metrics"]["cllr"] == pytest.approx(official.cllr(*llrs), abs=1e-6)
    assert results["llr_metrics"]["misleading_evidence"]["1"]["spoof"]["errors"] == (llrs[1] > 0).sum()
    assert "Calibration loss (bits)" in output and "LR of spoof above 100" in output
    plots = [tmp_path / "out" / f"{name}.png" for name in LLR_PLOTS]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in plots)
    counts = [calibration[name] for name in ("num_bonafide", "num_spoof", "num_speakers", "prior")]
    assert counts == [20, 40, None, 0.5]
    assert calibration["sha256"] == [hashlib.sha256(dev.read_bytes()).hexdigest()]
    assert "fitted on 20 bona fide and 40 spoofed trials at the prior 0.5" in output

    run(*fixed, tmp_path / "out", "--overwrite")

    assert not any(path.exists() for path in plots)  # of the LLRs that are replaced

    (trials,) = read_protocol(protocol).splits.values()
    args = EvaluationArguments(score_file=str(path), calibrate_on=[str(path)])
    same = calibrate_score_file(args, KEY_OF_LABEL, trials, read_scores(path).score.to_numpy())

    assert same.calibration["num_speakers"] == 11 and "cross-validated over speakers" in same.source
    assert "has 60 of the trials of" in fails(
        *fixed, tmp_path / "o", "--calibrate_on", shutil.copy(path, tmp_path / "copy.txt")
    )
    bare = write_dev_scores(tmp_path / "bare.txt", width=2)
    assert "Name the protocol with --calibrate_protocol" in fails(
        *fixed, tmp_path / "o", "--calibrate_on", bare
    )
    assert "higher scores mean spoof" in fails(
        *fixed, tmp_path / "o", "--calibrate_on", dev, "--higher_is", "spoof"
    )


def test_fusion_is_evaluated_in_the_place_of_its_systems(run, fails, tmp_path):
    files = [write_scores(tmp_path / f"{name}.txt", seed=seed) for seed, name in enumerate("ab")]
    dev = [write_dev_scores(tmp_path / f"{name}_dev.txt", seed=9 + i) for i, name in enumerate("ab")]
    fused = ("--score_file", files[0], "--fuse", files[1], "--num_resamples", 0)

    run(*fused, "--calibrate_on", *dev)

    folder = tmp_path / "evaluation" / "a+b"
    calibration = results_in(folder)["calibration"]
    expected = fit_calibration(*(np.column_stack(of) for of in zip(*map(split_by_class, dev), strict=True)))
    assert calibration["a"] == pytest.approx(expected.a) and calibration["systems"] == ["a.txt", "b.txt"]
    systems = zip(*map(split_by_class, files), strict=True)
    for of, scores in zip(split_by_class(folder / "scores.txt"), systems, strict=True):
        np.testing.assert_allclose(of, expected.apply(np.column_stack(scores)), atol=1e-6)
    cut = (np.clip(of, *calibration["bounds"]) for of in split_by_class(folder / "scores.txt"))
    for of, expected in zip(split_by_class(folder / "llrs.txt"), cut, strict=True):
        np.testing.assert_allclose(of, expected, atol=1e-6)
    assert "one more for each of --fuse" in fails(*fused, "--calibrate_on", dev[0])


@pytest.mark.parametrize("width", [2, 3, 4])
def test_score_file_of_any_width_with_a_protocol(run, tmp_path, protocol, width):
    path = write_scores(tmp_path / "system.txt", width=width)

    _, output = run("--score_file", path, "--protocol", protocol, "--output_dir", tmp_path / "out")

    results = results_in(tmp_path / "out")
    assert output.strip().startswith("my_protocol.txt all: 20 bona fide, 40 spoof")
    assert results["confidence_intervals"]["method"].startswith("bootstrap of 11 speakers")
    assert set(results["per_attack"]) == {"A01", "A02"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"scores.txt", "results.json", *PLOTS}
    first = (tmp_path / "out" / "scores.txt").read_text().split()
    assert first[:3] == ["u0", "-", "bonafide"]


def test_score_file_alone_with_its_own_keys_and_default_folder(run, tmp_path):
    path = write_scores(tmp_path / "system.txt", width=3)

    _, output = run("--score_file", path)

    assert "system.txt all: 20 bona fide, 40 spoof" in output
    assert results_in(tmp_path / "evaluation" / "system")["num_trials"] == 60


def test_csv_of_two_logits_and_numbers_for_keys(run, fails, tmp_path):
    lines = [f"{i};c{i};{i % 7};{i % 5 + 3 * (i % 2)};{i % 2}\n" for i in range(60)]
    (tmp_path / "a.csv").write_bytes("".join(["n;clip;fake;real;y\n", *lines]).encode("utf-16"))
    columns = ("--score_columns", "_,utterance,spoof,bonafide,key")

    assert "by --score_columns" in fails("--score_file", tmp_path / "a.csv")
    message = fails("--score_file", tmp_path / "a.csv", *columns)
    assert "'0' (30x), '1' (30x). Say what others mean with --label_map" in message
    run("--score_file", tmp_path / "a.csv", *columns, "--label_map", "1=bonafide,0=spoof")

    results = results_in(tmp_path / "evaluation" / "a")
    scores = {i: i % 5 + 3 * (i % 2) - i % 7 for i in range(60)}
    of_class = [[score for i, score in scores.items() if i % 2 == key] for key in (1, 0)]
    assert results["eer"] == equal_error_rate(*of_class)[0]
    assert results["score"] == "bona fide minus spoof, of the file"


def test_key_file_of_asvspoof5_with_scores_of_paths(run, tmp_path):
    keys = [f"E_{i}\t{'spoof' if i % 3 else 'bonafide'}\n" for i in range(60)]
    scores = [f"/data/flac_E/E_{i}.flac,{i % 8 - i % 3}\n" for i in range(60)]
    (tmp_path / "key.tsv").write_text("".join(["filename\tcm-label\n", *keys]))
    (tmp_path / "scores.csv").write_text("".join(scores))

    _, output = run("--score_file", tmp_path / "scores.csv", "--protocol", tmp_path / "key.tsv")

    assert "key.tsv all: 20 bona fide, 40 spoof" in output


def test_lines_of_2021_with_scores_are_evaluated_by_subset(run, fails, tmp_path):
    subsets = ["eval"] * 60 + ["progress"] * 30
    lines = [
        f"LA_{i % 11} LA_E_{i} {'alaw' if i % 2 else 'none'} ita_tx {'A07 spoof' if i % 3 else '- bonafide'} "
        f"notrim {subset} {i % 8 - i % 3}\n"
        for i, subset in enumerate(subsets)
    ]
    (tmp_path / "scores.txt").write_text("".join(lines))

    _, output = run("--score_file", tmp_path / "scores.txt")

    assert "Left out: scores of 30 trials in other splits of the protocol than eval." in output
    results = results_in(tmp_path / "evaluation" / "scores")
    assert (results["split"], results["num_trials"], set(results["per_codec"])) == (
        "eval",
        60,
        {"alaw", "none"},
    )
    assert "has no split 'dev', only eval, progress" in fails(
        *("--score_file", tmp_path / "scores.txt", "--split", "dev")
    )


def test_score_file_with_asv_scores(run, tmp_path, wide_corpus):
    path = write_scores(tmp_path / "system.txt")
    lines = ["bonafide target 3\nbonafide target 4\nbonafide nontarget 0\nA01 spoof 3.5\nA02 spoof -1\n"]
    (tmp_path / "asv.txt").write_text("".join(lines))

    run("--score_file", path, "--asv_score_file", tmp_path / "asv.txt", "--output_dir", tmp_path / "out")

    results = results_in(tmp_path / "out")
    assert results["asv"]["p_fa_spoof"] == 0.5
    assert results["min_tdcf_2019"] is not None and results["asv_score_files"] == ["asv.txt"]


def test_official_score_file_gives_the_official_numbers(run, tmp_path, shared_data):
    folder = shared_data / "asvspoof2019_la_mini" / "ASVspoof2019_LA_asv_scores"

    _, output = run(
        *("--score_file", shared_data / "published_scores" / "RawGAT_ST_cat.asvspoof2019_la_eval.txt"),
        *("--protocol", shared_data / "asvspoof2019_la_protocols" / "ASVspoof2019.LA.cm.eval.trl.txt"),
        *("--asv_score_file", folder / "ASVspoof2019.LA.asv.eval.gi.trl.scores.txt"),
        *("--output_dir", tmp_path / "out", "--num_resamples", 10),
    )

    results = results_in(tmp_path / "out")
    assert 100 * results["eer"] == pytest.approx(1.235388940, abs=5e-10)
    assert results["min_tdcf_2019"] == pytest.approx(0.038810095, abs=5e-10)
    assert results["min_tdcf_2021"] == pytest.approx(0.099108305, abs=5e-10)
    assert "ASVspoof 2019 LA eval: 7,355 bona fide, 63,882 spoof" in output


def test_inverted_scores_are_reported_and_turned_only_when_told(run, tmp_path):
    path = write_scores(tmp_path / "system.txt", shift=-3)

    _, output = run("--score_file", path, "--output_dir", tmp_path / "as_is")
    assert results_in(tmp_path / "as_is")["eer"] > 0.5
    assert "say --higher_is spoof" in output

    _, output = run("--score_file", path, "--higher_is", "spoof", "--output_dir", tmp_path / "turned")
    turned = results_in(tmp_path / "turned")
    assert turned["eer"] < 0.5 and "say --higher_is" not in output
    assert turned["score"] == "negated: the file's higher is spoof"


def test_comparison_prints_the_paired_test_and_keeps_both_systems(run, tmp_path):
    path, other = write_scores(tmp_path / "a.txt", 2.0), write_scores(tmp_path / "b.txt", 0.5, seed=1)

    _, output = run("--score_file", path, "--compare", other, "--output_dir", tmp_path / "out")

    comparison = results_in(tmp_path / "out")["comparison"]
    assert "a minus b (compared), paired on the same trials" in output and "p = " in output
    assert comparison["differences"]["eer"]["value"] == pytest.approx(
        results_in(tmp_path / "out")["eer"] - comparison["other_results"]["eer"]
    )
    assert comparison["differences"]["eer"]["value"] < 0


def test_system_compared_may_have_the_other_sign(run, tmp_path):
    path, other = write_scores(tmp_path / "a.txt", 2.0), write_scores(tmp_path / "b.txt", -3.0)

    run(
        *("--score_file", path, "--compare", other, "--compare_higher_is", "spoof"),
        *("--output_dir", tmp_path / "out"),
    )

    assert results_in(tmp_path / "out")["comparison"]["other_results"]["eer"] < 0.5


def test_few_trials_are_not_compared(fails, tmp_path):
    path = write_scores(tmp_path / "a.txt", num=12)

    assert "--compare needs at least 10 bona fide" in fails("--score_file", path, "--compare", path)


def test_split_names_the_trials_of_a_file_with_keys(run, tmp_path):
    path = write_scores(tmp_path / "a.txt")

    _, output = run("--score_file", path, "--split", "progress", "--output_dir", tmp_path / "out")

    assert output.strip().startswith("a.txt progress: ")


def test_subsets_of_a_2021_protocol_are_never_mixed(run, fails, tmp_path):
    subsets = ["eval", "progress"]
    lines = [
        f"LA_{i:04d} u{i} alaw ita_tx {'A07 spoof' if i % 3 else 'bonafide bonafide'} "
        f"notrim {subsets[i % 2]}\n"
        for i in range(60)
    ]
    protocol = tmp_path / "trial_metadata.txt"
    protocol.write_text("".join(lines))
    path = write_scores(tmp_path / "a.txt", width=2)

    _, output = run(
        *("--score_file", path, "--protocol", protocol, "--compare", path, "--output_dir", tmp_path / "out")
    )

    results = results_in(tmp_path / "out")
    assert results["comparison"]["differences"]["eer"]["p_value"] == 1
    assert (results["corpus"], results["split"], results["num_trials"]) == ("ASVspoof 2021 LA", "eval", 30)
    assert results["per_codec"]["alaw"]["num_spoof"] == 20
    assert "Left out: scores of 30 trials in other splits" in output
    assert (tmp_path / "out" / "per_codec.png").is_file()
    assert "no split 'dev', only" in fails("--score_file", path, "--protocol", protocol, "--split", "dev")


def test_conditions_change_every_recording_and_are_reported_beside_the_clean_ones(
    run, fails, trained, wide_corpus, tmp_path
):
    arguments = ["--model", trained, "--data_dir", wide_corpus, "--output_dir", tmp_path / "out"]
    arguments += ["--num_resamples", 50]

    _, output = run(*arguments, "--conditions", "level-20db", "noise-0db")

    folder = tmp_path / "out" / "conditions"
    quiet, clean = (read_scores(path / "scores.txt") for path in (folder / "level-20db", folder.parent))
    classifier = AutoModelForAudioClassification.from_pretrained(trained).eval()
    extractor = AutoFeatureExtractor.from_pretrained(trained)
    audio = wide_corpus / "ASVspoof2019_LA_eval" / "flac"
    waveforms = [0.1 * decode_audio(audio / f"{name}.flac") for name in quiet.utterance_id[:12]]
    with torch.no_grad():
        inputs = extractor(waveforms, sampling_rate=16000, return_tensors="pt")
        logits = classifier(**inputs).logits
    labels = classifier.config.label2id
    expected = logits[:, labels["bonafide"]] - logits[:, labels["spoof"]]
    np.testing.assert_allclose(quiet.score[:12], expected, atol=1e-4)
    results = results_in(tmp_path / "out")
    is_bonafide = quiet.key == "bonafide"
    for name, scores in (("level-20db", quiet), ("noise-0db", read_scores(folder / "noise-0db/scores.txt"))):
        under = results["conditions"][name]
        eer, _ = equal_error_rate(scores.score[is_bonafide], scores.score[~is_bonafide])
        assert under["eer"] == pytest.approx(eer, abs=1e-12)
        assert under["differences"]["eer"]["value"] == pytest.approx(eer - results["eer"], abs=1e-12)
        assert f"  {name}" in output and f"Scoring under {name}: 240 utterances" in output
        assert not np.allclose(scores.score, clean.score, atol=1e-3)
    assert (tmp_path / "out" / "conditions.png").is_file()
    assert "EER minus clean" in output and "at the threshold of the clean EER" in output

    # More conditions: what was scored before is not scored again.
    more = ["--conditions", "level", "noise-0db"]
    assert "holds results already" in fails(*arguments, *more)
    before = (folder / "noise-0db" / "scores.txt").read_bytes()
    _, output = run(*arguments, *more, "--overwrite")
    assert output.count("240 of 240 utterances were scored before.") == 3
    assert "Scoring under level+20db: 240 utterances" in output
    assert (folder / "noise-0db" / "scores.txt").read_bytes() == before
    assert list(results_in(tmp_path / "out")["conditions"]) == ["noise-0db", "level-20db", "level+20db"]


def test_conditions_are_known_by_name_and_need_a_model_and_a_corpus(fails, trained):
    assert "--conditions: invalid choice: 'mp3'" in fails("--model", trained, "--conditions", "mp3")
    for other in (["--model", trained, "--files", "a.wav"], ["--score_file", "a.txt"]):
        assert "--conditions cannot be combined with" in fails(*other, "--conditions", "noise")


@pytest.fixture
def recordings(tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    generator = np.random.default_rng(0)
    soundfile.write(folder / "short.wav", 0.1 * generator.standard_normal(5000), 16000)
    soundfile.write(folder / "long.flac", 0.1 * generator.standard_normal(40000), 16000)
    (folder / "notes.txt").write_text("no audio")
    return folder


def test_recordings_are_scored_as_the_pipeline_scores_them(run, trained, recordings, tmp_path):
    status, output = run(
        *("--model", trained, "--files", recordings / "long.flac", recordings, "--window_hop", 0.25),
        *("--output_dir", tmp_path / "out"),
    )

    assert status == 0
    table = list(csv.DictReader((tmp_path / "out" / "recordings.csv").open()))
    assert [row["file"].rpartition("/")[2] for row in table] == ["long.flac", "short.wav"]
    classifier = pipeline(
        "audio-classification",
        model=AutoModelForAudioClassification.from_pretrained(trained),
        feature_extractor=AutoFeatureExtractor.from_pretrained(trained),
    )
    for row in table:
        waveform = decode_audio(row["file"])
        answer = {a["label"]: a["score"] for a in classifier({"array": waveform, "sampling_rate": 16000})}
        assert float(row["probability_bonafide"]) == pytest.approx(answer["bonafide"], abs=1e-6)
    # 40,000 samples, windows of 8,000 every 4,000
    assert [int(row["num_windows"]) for row in table] == [9, 1]
    assert "Skipped: 1 file without the ending of an audio file" in output and "short.wav" in output
    content = json.loads((tmp_path / "out" / "recordings.json").read_text())
    assert len(content["recordings"][0]["windows"]) == 9


def test_verdict_follows_from_the_first_crop_at_the_dev_threshold(run, trained, recordings, tmp_path):
    _, output = run(
        "--model", trained, "--files", recordings, "--window_hop", 0.5, "--output_dir", tmp_path / "o"
    )

    threshold = json.loads((trained / "config.json").read_text())["decision_threshold"]
    rows = json.loads((tmp_path / "o" / "recordings.json").read_text())
    assert rows["decision_threshold"] == threshold
    for row in rows["recordings"]:
        assert row["verdict"] == ("bonafide" if row["windows"][0]["score"] > threshold else "spoof")
    assert "for single crops" in output and "The threshold does not hold for" in " ".join(output.split())


def test_model_without_a_threshold_gives_no_verdict(run, trained, recordings, tmp_path):
    model = shutil.copytree(trained, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "decision_threshold": None}))

    _, output = run(
        "--model", model, "--files", recordings, "--window_hop", 0.5, "--output_dir", tmp_path / "o"
    )

    assert "Verdict: none" in output
    assert json.loads((tmp_path / "o" / "recordings.json").read_text())["recordings"][0]["verdict"] is None


def test_threshold_of_an_evaluation_becomes_that_of_the_verdicts(
    run, trained, la_corpus, recordings, tmp_path
):
    model = shutil.copytree(trained, tmp_path / "model", ignore=shutil.ignore_patterns("results"))
    before = {**json.loads((model / "config.json").read_text()), "decision_threshold": None}
    (model / "config.json").write_text(json.dumps(before))

    _, output = run(
        *("--model", model, "--data_dir", la_corpus, "--split", "dev", "--num_resamples", 0),
        "--set_decision_threshold",
    )

    (path,) = model.glob("results/*/results.json")
    results = json.loads(path.read_text())
    threshold = (results["eer_threshold"] + results["eer_threshold_end"]) / 2
    assert json.loads((model / "config.json").read_text()) == {**before, "decision_threshold": threshold}
    assert f"Decision threshold: {threshold:.4f}, written into" in output
    assert f"{model / 'README.md'} does not have this yet: python -m hub_cards.card {model}" in output
    run("--model", model, "--files", recordings, "--output_dir", tmp_path / "o")
    for row in json.loads((tmp_path / "o" / "recordings.json").read_text())["recordings"]:
        assert row["verdict"] == ("bonafide" if row["score"] > threshold else "spoof")


def test_calibration_is_written_and_makes_llrs_of_recordings_corpora_and_the_pipeline(
    run, trained, la_corpus, recordings, tmp_path, monkeypatch
):
    model = shutil.copytree(trained, tmp_path / "model", ignore=shutil.ignore_patterns("results"))
    before = json.loads((model / "config.json").read_text())
    dev = ("--model", model, "--data_dir", la_corpus, "--split", "dev", "--num_resamples", 0)

    _, output = run(*dev, "--set_decision_threshold", "--calibrate", "--calibration_prior", 0.4)

    assert f"instead of {before['decision_threshold']:.4f}" in output
    calibration = json.loads((model / "config.json").read_text())["calibration"]
    (folder,) = model.glob("results/*")
    weights = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    expected = fit_calibration(*split_by_class(folder / "scores.txt"), prior=0.4)
    assert (calibration["a"], calibration["b"]) == pytest.approx((expected.a[0], expected.b), rel=1e-4)
    assert calibration["weights_sha256"] == {"model.safetensors": weights}
    names = ("corpus", "split", "prior", "num_bonafide", "num_spoof", "num_speakers")
    assert [calibration[name] for name in names] == ["ASVspoof 2019 LA", "dev", 0.4, 8, 8, 4]
    written = results_in(folder)["calibration"]
    assert written.items() >= calibration.items() and "cross-validated over speakers" in written["llrs"]
    after = official.cllr(*split_by_class(folder / "llrs.txt"))
    assert results_in(folder)["llr_metrics"]["cllr"] == pytest.approx(after, abs=1e-6)

    validation = ValidationSet.load(model)
    assert validation.about == calibration and len(validation.examined) == 16
    np.testing.assert_allclose(
        validation.scores[validation.is_bonafide], split_by_class(folder / "scores.txt")[0]
    )
    np.testing.assert_allclose(
        validation.llrs[validation.is_bonafide], split_by_class(folder / "llrs.txt")[0]
    )
    _, firsts = np.unique(validation.window_places, return_index=True)
    np.testing.assert_allclose(validation.window_scores[firsts], validation.scores, atol=1e-5)
    assert len(np.unique(validation.speakers)) == 4 and validation.speakers.min() >= 0
    assert {*validation.measurements} == {*MEASUREMENTS}
    assert all(np.isfinite(of).all() for of in validation.measurements.values())
    scores = (folder / "scores.txt").read_bytes()
    run(*dev, "--overwrite", "--conditions", "bandwidth")

    under = folder / "conditions" / "8khz"
    expected = find_llr(calibration, np.concatenate(split_by_class(under / "scores.txt")))
    np.testing.assert_allclose(np.concatenate(split_by_class(under / "llrs.txt")), expected, atol=1e-6)
    of_condition = results_in(folder)["conditions"]["8khz"]["llr_metrics"]
    assert of_condition["cllr"] == pytest.approx(official.cllr(*split_by_class(under / "llrs.txt")), abs=1e-6)
    assert (folder / "scores.txt").read_bytes() == scores  # bit for bit
    assert "which was fitted on these trials" in results_in(folder)["calibration"]["llrs"]
    llrs = [find_llr(calibration, of) for of in split_by_class(folder / "scores.txt")]
    np.testing.assert_allclose(
        np.concatenate(split_by_class(folder / "llrs.txt")), np.concatenate(llrs), 1e-6
    )

    _, output = run("--model", model, "--files", recordings, "--report_audio", "--output_dir", tmp_path / "o")

    assert "fitted on 8 bona fide and 8 spoofed trials of 4 speakers of ASVspoof 2019 LA dev" in output
    classifier = pipeline("audio-classification", model=str(model), trust_remote_code=True)
    for row in json.loads((tmp_path / "o" / "recordings.json").read_text())["recordings"]:
        assert row["llr"] == pytest.approx(find_llr(calibration, row["score"]))
        statement = row["statement"]
        assert row["verdict"] == statement["decision"]["verdict"]
        assert (row["no_statement"] is None) == statement["fitness"]["is_fit"]
        is_told = statement["fitness"]["is_fit"] and row["num_windows"] > 1
        assert (statement["windows"] is not None) == is_told
        assert statement["llr"]["bounds"] == calibration["bounds"]
        uncut = calibration["a"] * row["score"] + calibration["b"]
        assert row["llr_is_cut"] == (not calibration["bounds"][0] <= uncut <= calibration["bounds"][1])
        assert row["llr_low"] <= row["llr"] <= row["llr_high"]
        assert (
            row["file_format"]["sampling_rate"]
            == statement["fitness"]["measurements"]["sampling_rate"]["value"]
        )
        assert row["windows"][-1]["llr"] is not None and f" {row['llr']:.2f} " in output
        waveform = {"array": decode_audio(row["file"]), "sampling_rate": 16000}
        answer = {a["label"]: a["score"] for a in classifier(waveform)}
        assert answer["bonafide"] == pytest.approx(1 / (1 + np.exp(-row["llr"])), abs=1e-5)
        assert row["probability_bonafide"] == pytest.approx(answer["bonafide"], abs=1e-5)
        (page,) = (tmp_path / "o").glob(f"report-*-{row['file'].rpartition('/')[2].partition('.')[0]}.html")
        report = json.loads(page.with_suffix(".json").read_text())
        assert report["answer"]["reasons"] == statement["fitness"]["reasons"]
        assert (
            report["statement"] == statement and f"--files {recordings} --report_audio" in report["command"]
        )
        with open(row["file"], "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        assert report["material"]["sha256"] == digest and digest in page.read_text()
        (sound,) = re.findall(r'<audio controls src="data:[^,]*;base64,([^"]*)">', page.read_text())
        assert hashlib.sha256(base64.b64decode(sound)).hexdigest() == digest

    # The same recording through a pipe.
    (expected, *_) = json.loads((tmp_path / "o" / "recordings.json").read_text())["recordings"]
    with subprocess.Popen(["cat", expected["file"]], stdout=subprocess.PIPE) as cat:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(cat.stdout))
        status, of_stream = run("--model", model, "--stream", "--output_dir", tmp_path / "s")
    assert status == 0 and f"Written: {tmp_path / 's'}" in of_stream
    (row,) = json.loads((tmp_path / "s" / "recordings.json").read_text())["recordings"]
    _, printed, _ = of_stream.split("\n\n")
    assert row["num_windows"] == len(printed.splitlines()) - 1 > 1
    for name in ("seconds", "num_windows", "score", "llr", "llr_low", "verdict", "mean_score", "min_score"):
        assert row[name] == pytest.approx(expected[name], abs=1e-5)
    told, told_before = (of["statement"]["fitness"]["measurements"] for of in (row, expected))
    assert told["sampling_rate"]["value"] == told_before["sampling_rate"]["value"] == 16_000


def test_report_of_a_model_that_is_not_calibrated_is_refused(fails, trained, recordings, tmp_path):
    message = fails("--model", trained, "--files", recordings, "--report", "--output_dir", tmp_path / "o")

    assert "--report needs a calibrated model" in message and not (tmp_path / "o").exists()


@pytest.mark.parametrize("split", [(), ("--split", "eval"), ("--split", "eval[:6]")])
@pytest.mark.parametrize("choice", ["--set_decision_threshold", "--calibrate"])
def test_threshold_and_calibration_are_not_chosen_on_eval(fails, trained, la_corpus, split, choice):
    before = (trained / "config.json").read_bytes()

    message = fails("--model", trained, "--data_dir", la_corpus, *split, choice)

    assert "needs --split with a development set" in message
    assert (trained / "config.json").read_bytes() == before


def test_evaluation_leaves_the_threshold_alone_unasked(run, trained, la_corpus, tmp_path):
    model = shutil.copytree(trained, tmp_path / "model", ignore=shutil.ignore_patterns("results"))
    before = (model / "config.json").read_bytes()

    run("--model", model, "--data_dir", la_corpus, "--num_resamples", 0)

    assert (model / "config.json").read_bytes() == before


def test_folder_of_the_name_of_a_system_is_a_model(run, trained, recordings, tmp_path):
    shutil.copytree(trained, tmp_path / "aasist", ignore=shutil.ignore_patterns("checkpoint-*"))

    status, _ = run("--model", "aasist", "--files", recordings, "--output_dir", tmp_path / "o")

    assert status == 0


def test_unreadable_recording_is_listed_and_the_exit_status_says_so(run, trained, recordings, tmp_path):
    (recordings / "broken.wav").write_bytes(b"RIFF")

    status, output = run(
        "--model", trained, "--files", recordings, tmp_path / "absent.wav", "--window_hop", 0.5
    )

    assert status == 1
    assert "broken.wav" in output and "no audio file" in output and "short.wav" in output
    (folder,) = (tmp_path / "evaluation").iterdir()
    rows = list(csv.DictReader((folder / "recordings.csv").open()))
    assert [bool(row["error"]) for row in rows] == [True, False, False, True]


def test_windows_are_held_against_segment_labels_and_plotted(run, fails, trained, recordings, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("long 2.5 spoof 0.0-0.6-bonafide 0.6-1.6-spoof 1.6-2.5-bonafide\n")
    arguments = "--model", trained, "--files", recordings, "--window_hop", 0.5, "--segment_labels", labels
    assert f"{labels} has no line for 1 of the 2 recordings; the first is" in fails(*arguments)
    labels.write_text(f"{labels.read_text()}short 0.3125 bonafide 0.0-0.3125-bonafide\n")

    _, output = run(*arguments, "--plot_timeline", "--output_dir", tmp_path / "out")

    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["timeline-001-long.png"]
    results = json.loads((tmp_path / "out" / "localization.json").read_text())
    of_range, frames = results["range"], results["frame"]
    assert (of_range["bonafide"], of_range["spoof"], of_range["without_score"]) == (1.8125, 1.0, 0)
    assert (frames["bonafide"], frames["spoof"], results["frame_seconds"]) == (91, 50, 0.02)
    described = json.loads((tmp_path / "out" / "recordings.json").read_text())["recordings"]
    scores = [window["score"] for of in described for window in of["windows"]]
    assert of_range["threshold"] in scores
    assert f"Range EER {100 * of_range['eer']:.2f} %" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --model, a trained model, or --score_file"),
        (["--model", "m", "--score_file", "s"], "give either --model"),
        (["--model", "rawnet2"], "is the recipe of a system. Train it first"),
        (
            ["--model", "m", "--files", "a.wav", "--data_dir", "LA"],
            "--data_dir cannot be combined with --files",
        ),
        (["--score_file", "s", "--data_dir", "LA"], "--data_dir cannot be combined with --score_file"),
        (["--model", "m", "--protocol", "p"], "--protocol cannot be combined with --model on a corpus"),
        (["--model", "m", "--splits", "dev"], "unknown argument --splits (did you mean '--split'?)"),
        (["--score_file", "s", "--higher_is", "real"], "invalid choice: 'real'"),
        (["--score_file", "nothing.txt"], "no score file nothing.txt"),
        (["--score_file", "s", "--num_resamples", "-3"], "--num_resamples -3: it must not be negative"),
        (["--score_file", "s", "--compare", "t", "--num_resamples", "0"], "nor 0 with --compare"),
        (["--score_file", "s", "--calibrate"], "--calibrate cannot be combined with --score_file"),
        (["--model", "m", "--calibration_prior", "1"], "it must be above 0 and below 1"),
        (["--model", "nothing/at/all"], "no folder nothing/at/all"),
        (
            ["--model", "m", "--files", "a.wav", "--set_decision_threshold"],
            "--set_decision_threshold cannot be combined with --files",
        ),
        (
            ["--score_file", "s", "--set_decision_threshold"],
            "--set_decision_threshold cannot be combined with --score_file",
        ),
    ],
)
def test_arguments_that_cannot_be_combined_are_one_line_of_error(fails, arguments, message):
    error = fails(*arguments)

    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_missing_protocol_and_wrong_trials_are_errors(fails, tmp_path, protocol):
    path = write_scores(tmp_path / "a.txt", width=2)

    assert "Name the protocol with --protocol" in fails("--score_file", path)
    assert "no protocol" in fails("--score_file", path, "--protocol", tmp_path / "nothing.txt")
    label_map = ("--label_map", "1=bonafide,0=spoof")
    assert "--label_map has no effect" in fails("--score_file", path, "--protocol", protocol, *label_map)
    (tmp_path / "few.txt").write_text("u0 1.0\nu1 0.5\n")
    message = fails("--score_file", tmp_path / "few.txt", "--protocol", protocol)
    assert "no score for 58 of the 60 trials" in message
