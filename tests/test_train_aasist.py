"""`train.py` with AASIST as its authors train it: plain Adam, a cosine above zero, whole batches only."""

import hashlib
import json

import pytest
import torch
import yaml
from conftest import Script
from safetensors.torch import load_file
from small_aasist import converted_aasist, write_recipe
from test_train import results_of


@pytest.fixture(scope="module")
def run(tmp_path_factory, la_corpus, train_script: Script):
    """The folder of a small AASIST that `train.py` trained."""
    folder = tmp_path_factory.mktemp("aasist")
    path = write_recipe(folder / "small.yaml", num_samples=8000)
    recipe = yaml.safe_load(path.read_text())
    recipe["training"] |= {"num_train_epochs": 8, "per_device_train_batch_size": 5, "learning_rate": 3e-3}
    path.write_text(yaml.safe_dump(recipe))
    arguments = ("--logging_steps", 1, "--per_device_eval_batch_size", 3)
    train_script.run("--model", path, "--data_dir", la_corpus, "--output_dir", folder / "run", *arguments)
    return folder / "run"


def test_small_aasist_learns_the_made_corpus_and_is_evaluated_on_every_trial(run):
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    evaluations = [entry for entry in history if "eval_eer" in entry]

    assert results_of(run, "dev")["eer"] < 0.2
    assert [e["eval_num_bonafide"] + e["eval_num_spoof"] for e in evaluations] == [16] * 8
    assert results_of(run, "eval")["num_trials"] == 12


def test_corpus_without_a_whole_batch_is_refused_before_training(run, la_corpus, refused, tmp_path):
    message = refused(
        *("--model", run.parent / "small.yaml", "--data_dir", la_corpus, "--output_dir", tmp_path / "other"),
        *("--per_device_train_batch_size", 25, "--use_cpu"),
    )

    assert "has 24 utterances, fewer than a batch of 25" in message
    assert "lower --per_device_train_batch_size" in message


def test_learning_rate_falls_by_a_cosine_to_the_recipes_lowest(run):
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    rates = [entry["learning_rate"] for entry in history if "learning_rate" in entry]

    assert len(rates) == 8 * 4  # 24 utterances in batches of 5, the last of which is left out
    assert rates[0] == 3e-3 and rates[16] == pytest.approx((3e-3 + 5e-6) / 2)
    assert 5e-6 < rates[-1] < 2e-5


def test_weights_are_averaged_as_its_authors_do_and_both_dev_eers_are_recorded(run):
    record = json.loads((run / "training.json").read_text()).get("averaging")
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    eers = {entry["step"]: entry["eval_eer"] for entry in history if "eval_eer" in entry}
    chosen = [s for s in eers if eers[s] <= min(0.01, *(e for t, e in eers.items() if t <= s))]
    saved = min(eers.values())

    if len(chosen) < 2:  # how well so few utterances are learnt depends on the machine's rounding
        assert record is None
    else:
        assert record["steps"] == chosen and record["eer_of_best"] == saved
        assert record["is_kept"] == (record["eer"] <= saved)
        saved = min(saved, record["eer"])
    assert results_of(run, "dev")["eer"] == saved


def test_card_names_the_optimizer_and_the_averaging_of_the_authors_recipe(run):
    card = (run / "README.md").read_text()

    assert (
        "| `optimizer` | adam (torch.optim.Adam, weight decay as an L2 term in the gradient of every "
        "parameter) |" in card
    )
    assert "| `optim` |" not in card and "| `max_grad_norm` | 0 (no gradient clipping) |" in card
    said = "swa (those whose dev EER was at most the lowest before, and at most 1 %)"
    assert f"| `average_checkpoints` | {said} |" in card and "`train.py` averages the same epochs" in card
    assert "These are not the weights that the reported numbers above are of" in card
    assert (run / "learning_curves" / "small.png").is_file()


def test_learning_rate_below_the_lowest_of_the_schedule_is_refused(refused):
    message = refused("--model", "aasist", "--learning_rate", "1e-6")

    assert "--learning_rate 1e-06 is below the schedule's min_lr 5e-06, to which it would rise" in message


@pytest.mark.slow
def test_training_that_goes_on_from_converted_weights_says_which(tmp_path, la_corpus, train_script):
    converted, run = converted_aasist(tmp_path), tmp_path / "next"

    train_script.run(
        *("--model", converted, "--data_dir", la_corpus, "--output_dir", run, "--max_steps", 1),
        *("--per_device_train_batch_size", 8, "--learning_rate", 0, "--lr_scheduler_type", "constant"),
    )

    digest = hashlib.sha256((tmp_path / "best.pth").read_bytes()).hexdigest()
    record = json.loads((run / "training.json").read_text())
    assert record["system"] == "small"
    assert record["origin"]["before"].items() >= {"checkpoint": "best.pth", "sha256": digest}.items()
    of_weights = hashlib.sha256((converted / "model.safetensors").read_bytes()).hexdigest()
    converted_origin = json.loads((converted / "conversion.json").read_text())["origin"]
    about = {"model": "converted", "weights_sha256": {"model.safetensors": of_weights}}
    assert record["origin"]["before"] == {**about, **converted_origin}
    assert not record["origin"]["license_from_recipe"]  # of weights that may be anybody's
    weights = [load_file(folder / "model.safetensors")["classifier.weight"] for folder in (converted, run)]
    assert torch.equal(*weights)
    card = (run / "README.md").read_text()
    assert f"from the weights of `converted`, converted from `best.pth` (SHA-256 `{digest}`)" in card
    assert not (run / "conversion.json").exists()  # its own weights were trained
