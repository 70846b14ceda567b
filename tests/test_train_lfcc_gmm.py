"""`train.py --model lfcc-gmm`: expectation-maximisation in place of gradient training."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


RECIPE = {
    "system": "tiny-gmm",
    "description": "LFCC-GMM small enough for the tests.",
    "corpus": "asvspoof2019-la",
    "model": {
        "model_type": "lfcc-gmm",
        "num_components": 3,
        "lfcc_num_coefficients": 5,
        "lfcc_num_deltas": 1,
    },
    "training": {"num_train_epochs": 6, "per_device_train_batch_size": 4},
}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, la_corpus) -> list:
    path = tmp_path_factory.mktemp("recipe") / "tiny-gmm.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return ["--model", path, "--data_dir", la_corpus]


@pytest.fixture(scope="module")
def run(tmp_path_factory, arguments, train_script) -> tuple[Path, str]:
    """Folder and output of a run."""
    folder = tmp_path_factory.mktemp("gmm") / "run"
    return folder, train_script.run(*arguments, "--output_dir", folder)


def log_likelihoods(folder: Path, label: str) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry[f"log_likelihood_{label}"] for entry in history if f"log_likelihood_{label}" in entry]


@pytest.mark.parametrize("label", ["bonafide", "spoof"])
def test_log_likelihood_of_every_iteration_is_logged_and_does_not_fall(run, label):
    history = log_likelihoods(run[0], label)

    assert 2 <= len(history) <= 6
    assert np.diff(history).min() > -1e-9
    assert f"EM of {label}: 12 utterances, {len(history)} iterations" in run[1]


def test_run_leaves_a_model_scores_results_and_record(run):
    folder, output = run

    assert {"model.safetensors", "config.json", "modeling_lfcc_gmm.py", "recipe.yaml"} <= {
        path.name for path in folder.iterdir()
    }
    results = json.loads((folder / "results" / "dev" / "results.json").read_text())
    threshold = json.loads((folder / "config.json").read_text())["decision_threshold"]
    assert threshold == pytest.approx((results["eer_threshold"] + results["eer_threshold_end"]) / 2, abs=1e-6)
    assert json.loads((folder / "training.json").read_text())["num_parameters"] == 2 * 3 * (1 + 10 + 10)
    assert "Model: lfcc-gmm, 126 parameters" in output


def test_run_that_was_stopped_goes_on_to_the_very_mixtures_of_one_that_was_not(
    run, arguments, train_script, tmp_path
):
    whole, _ = run
    stopped = tmp_path / "stopped"
    # As if killed during the EM of the second label, of which only the start was drawn.
    shutil.copytree(whole / "checkpoint-em" / "bonafide", stopped / "checkpoint-em" / "bonafide")

    train_script.run(*arguments, "--output_dir", stopped, "--resume_from_checkpoint", "last")

    expected, resumed = (load_file(folder / "model.safetensors") for folder in (whole, stopped))
    assert [name for name in expected if not torch.equal(expected[name], resumed[name])] == []
    assert log_likelihoods(stopped, "spoof") == log_likelihoods(whole, "spoof")
    assert log_likelihoods(stopped, "bonafide") == log_likelihoods(whole, "bonafide")


def test_training_log_and_its_tensorboard_lie_in_the_runs_folder(run):
    history = json.loads((run[0] / "trainer_state.json").read_text())["log_history"]
    (events,) = run[0].rglob("events.out.tfevents.*")
    logged = EventAccumulator(str(events.parent)).Reload().Scalars("train/log_likelihood_spoof")

    assert [event.value for event in logged] == pytest.approx(log_likelihoods(run[0], "spoof"), abs=1e-4)
    assert [event.step for event in logged] == list(range(1, len(logged) + 1))
    assert [entry["step"] for entry in history if "log_likelihood_spoof" in entry] == [e.step for e in logged]


@pytest.mark.slow
def test_trained_mixtures_are_trained_on_from_their_folder(run, la_corpus, train_script, tmp_path):
    train_script.run(
        *("--model", run[0], "--data_dir", la_corpus, "--output_dir", tmp_path / "next"),
        *("--num_train_epochs", 2),
    )

    before, after = log_likelihoods(run[0], "spoof"), log_likelihoods(tmp_path / "next", "spoof")
    assert after[0] >= before[-1] - 1e-6


def test_state_of_other_labels_is_refused_in_one_line(run, arguments, la_corpus, tmp_path, refused):
    stopped, corpus = tmp_path / "stopped", shutil.copytree(la_corpus, tmp_path / "LA")
    shutil.copytree(run[0] / "checkpoint-em", stopped / "checkpoint-em")
    protocol = corpus / "ASVspoof2019_LA_cm_protocols" / "ASVspoof2019.LA.cm.train.trn.txt"
    lines = protocol.read_text().splitlines()
    spoof = next(line for line in lines if line.endswith("spoof"))
    bonafide = next(line for line in lines if line.endswith("bonafide"))
    swapped = {spoof: spoof.replace(spoof.split(" ", 2)[2], bonafide.split(" ", 2)[2])}
    swapped[bonafide] = bonafide.replace(bonafide.split(" ", 2)[2], spoof.split(" ", 2)[2])
    protocol.write_text("".join(f"{swapped.get(line, line)}\n" for line in lines))
    arguments = ["--model", arguments[1], "--data_dir", corpus, "--output_dir", stopped]

    message = refused(*arguments, "--resume_from_checkpoint", "last")

    assert message.startswith("train.py: error: ") and "cannot be resumed: utterances was" in message


def test_state_of_another_seed_is_an_error_that_names_it(run, arguments, refused, tmp_path):
    shutil.copytree(run[0] / "checkpoint-em", tmp_path / "run" / "checkpoint-em")

    message = refused(
        *(*arguments, "--output_dir", tmp_path / "run", "--resume_from_checkpoint", "last"), "--seed", "3"
    )

    assert "seed was 42, now 3" in message


def test_recording_that_cannot_be_decoded_ends_em_in_one_line(arguments, la_corpus, tmp_path, refused):
    corpus = shutil.copytree(la_corpus, tmp_path / "LA")
    path = min(corpus.rglob("LA_T_*.flac"))
    path.write_bytes(b"no audio")

    message = refused("--model", arguments[1], "--data_dir", corpus, "--output_dir", tmp_path / "run")

    assert message.startswith("train.py: error: ") and path.stem in message


@pytest.mark.parametrize(
    ("model", "argument", "message"),
    [
        ("lfcc-gmm", ("--max_steps", "1"), "--max_steps has no effect on lfcc-gmm"),
        ("lfcc-gmm", ("--learning_rate", "5"), "--learning_rate has no effect on lfcc-gmm"),
        ("lfcc-gmm", ("--crop", "random"), "--crop has no effect on lfcc-gmm"),
        ("lfcc-gmm", ("--augmentation", "[]"), "--augmentation has no effect on lfcc-gmm"),
        ("lcnn", ("--em_tolerance", "1"), "--em_tolerance has no effect on lcnn"),
    ],
)
def test_argument_of_the_other_way_of_training_is_refused(refused, model, argument, message):
    assert message in refused("--model", model, *argument)


def test_part_of_an_iteration_is_refused(refused, arguments, tmp_path):
    message = refused(*arguments, "--output_dir", tmp_path / "run", "--num_train_epochs", "0.5")

    assert "num_train_epochs is 0.5, but EM makes whole iterations" in message


def test_recordings_of_any_length_are_scored_by_a_run(run, eval_script, tmp_path):
    generator = np.random.default_rng(0)
    for name, length in (("long", 400_000), ("short", 3200), ("one", 1)):
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * generator.standard_normal(length), 16_000)

    eval_script.run("--model", run[0], "--files", tmp_path, "--output_dir", tmp_path / "out")

    recordings = json.loads((tmp_path / "out" / "recordings.json").read_text())["recordings"]
    assert all(r["num_windows"] == 1 and r["error"] is None for r in recordings)
    long, one, short = (r["score"] for r in recordings)  # by name
    assert np.isfinite([long, short]).all() and one is None


@pytest.mark.slow
def test_windows_of_a_system_of_whole_utterances_are_refused(run, eval_script, tmp_path):
    output = eval_script.run("--model", run[0], "--files", tmp_path, "--window_hop", 1, status=1)

    assert "eval.py: error: " in output and "scores whole recordings: there are no windows" in output


@pytest.mark.slow
def test_two_processes_fit_the_mixtures_of_one(run, arguments, train_script, tmp_path):
    train_script.run(
        *(*arguments, "--output_dir", tmp_path / "run", "--use_cpu"),
        launch=("--multi_gpu", "--num_processes", "2", "--main_process_port", "0"),
    )

    one, two = (load_file(folder / "model.safetensors") for folder in (run[0], tmp_path / "run"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
