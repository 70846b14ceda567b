"""`train.py --model lfcc-gmm`: expectation-maximisation in place of gradient training."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file


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
    assert json.loads((folder / "config.json").read_text())["decision_threshold"] == results["eer_threshold"]
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
    assert log_likelihoods(stopped, "bonafide") == []  # those are the other run's


@pytest.mark.slow
def test_two_processes_fit_the_mixtures_of_one(run, arguments, train_script, tmp_path):
    train_script.run(
        *(*arguments, "--output_dir", tmp_path / "run", "--use_cpu"),
        launch=("--multi_gpu", "--num_processes", "2", "--main_process_port", "0"),
    )

    one, two = (load_file(folder / "model.safetensors") for folder in (run[0], tmp_path / "run"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
