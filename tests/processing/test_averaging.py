"""Averages of checkpoints: which are averaged, the mean itself, batch statistics, and which model is kept."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.optim.swa_utils import update_bn
from transformers import TrainingArguments, set_seed

from modeling import AntiSpoofingFeatureExtractor, RawNet2Config, RawNet2ForAudioClassification
from processing.arguments import GradientArguments
from processing.averaging import KeepingCallback, choose_steps, estimate_batch_statistics, keep_better_average
from processing.collation import AudioCollator
from processing.files import write_text
from processing.layouts import LAYOUTS
from processing.training import build_trainer


def log(*evaluations: tuple[float, float]) -> list[dict]:
    """A Trainer's log with an evaluation, of this EER and loss, every 10 steps; the first before training."""
    return [
        entry
        for i, (eer, loss) in enumerate(evaluations)
        for entry in (
            {"step": 10 * i, "loss": 0.5},
            {"step": 10 * i, "eval_eer": eer, "eval_loss": loss},
        )
    ]


def test_checkpoints_of_lowest_dev_eer_and_of_equal_ones_of_lowest_dev_loss_are_chosen():
    history = log((0.0, 0.0), (0.2, 0.9), (0.02, 0.5), (0.02, 0.3), (0.01, 0.8), (0.02, 0.4))

    assert choose_steps(history, "1") == [40]
    assert choose_steps(history, "3") == [30, 40, 50]
    assert choose_steps(history, "9") == [10, 20, 30, 40, 50]
    assert choose_steps([], "3") == []


def test_swa_takes_what_is_at_most_the_lowest_before_and_1_per_cent_at_the_start():
    eers = [0.0, 0.02, 0.012, 0.01, 0.011, 0.008, 0.008, 0.009, 0.004, 0.008]

    assert choose_steps(log(*((eer, 1.0) for eer in eers)), "swa") == [30, 50, 60, 80]


def build(folder: Path, la_corpus: Path, **changes):
    """A trainer of a small RawNet2 that averages 3 of its 5 checkpoints, all of which stay."""
    arguments = {"num_train_epochs": 5, "per_device_train_batch_size": 5, "learning_rate": 3e-3}
    arguments |= {"eval_strategy": "epoch", "save_strategy": "epoch", "remove_unused_columns": False}
    arguments |= {"load_best_model_at_end": True, "metric_for_best_model": "eer", "greater_is_better": False}
    arguments |= {"train_sampling_strategy": "sequential", "use_cpu": True, "disable_tqdm": True}
    sizes = {"sinc_filters": 4, "block_channels": [4], "gru_hidden_size": 4, "embedding_size": 4}
    set_seed(0)
    model = RawNet2ForAudioClassification(RawNet2Config(num_samples=4000, **sizes))
    method = GradientArguments(crop="random", average_checkpoints="3")
    collator = AudioCollator(AntiSpoofingFeatureExtractor(num_samples=4000), [1, 0])
    splits = LAYOUTS["asvspoof2019-la"].load(la_corpus).splits
    return build_trainer(
        model, collator, splits, TrainingArguments(str(folder), **arguments | changes), method
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory, la_corpus):
    """A trainer whose training has ended, and the weights of its best checkpoint."""
    trainer = build(tmp_path_factory.mktemp("averaging"), la_corpus)
    trainer.train()
    return trainer, copy.deepcopy(trainer.model.state_dict())


@pytest.fixture
def trainer(finished):
    trainer, best = finished
    trainer.model.load_state_dict(best)
    return trainer


def test_average_is_the_mean_of_the_checkpoints_parameters_with_statistics_of_its_own(trainer, monkeypatch):
    monkeypatch.setattr(trainer, "predict", lambda *a, **k: SimpleNamespace(metrics={"average_eer": 0.0}))
    evaluations = [entry for entry in trainer.state.log_history if "eval_eer" in entry]
    lowest = sorted(evaluations, key=lambda entry: (entry["eval_eer"], entry["eval_loss"]))[:3]

    record = keep_better_average(trainer, "3")

    folder = Path(trainer.args.output_dir)
    files = [load_file(folder / f"checkpoint-{e['step']}" / "model.safetensors") for e in lowest]
    assert record["steps"] == sorted(entry["step"] for entry in lowest)
    for name, parameter in trainer.model.named_parameters():
        mean = np.mean([tensors[name].astype(np.float64) for tensors in files], axis=0)
        np.testing.assert_allclose(parameter.detach().numpy(), mean, rtol=1e-6, atol=1e-9, err_msg=name)
    before = {name: mean for name, mean in files[0].items() if name.endswith("running_mean")}
    assert before and not any(np.allclose(trainer.model.state_dict()[name], before[name]) for name in before)


def test_batch_statistics_are_those_of_torch_over_the_training_batches_of_the_next_epoch(trainer):
    reference = copy.deepcopy(trainer.model)
    collator = trainer.data_collator
    collator.epoch.fill_(5)
    rows = [trainer.train_dataset[i] for i in range(24)]
    batches = [collator(rows[start : start + 5])["input_values"] for start in range(0, 24, 5)]
    update_bn(batches, reference)
    collator.epoch.fill_(0)  # as in a run that is resumed when nothing is left to train

    estimate_batch_statistics(trainer)

    for name, tensor in trainer.model.state_dict().items():
        torch.testing.assert_close(tensor, reference.state_dict()[name], rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize(("difference", "is_kept"), [(-0.01, True), (0.0, True), (0.01, False)])
def test_average_is_kept_unless_the_dev_eer_of_the_best_checkpoint_is_lower(
    finished, trainer, monkeypatch, capsys, difference, is_kept
):
    lowest = min(entry["eval_eer"] for entry in trainer.state.log_history if "eval_eer" in entry)
    eer = lowest + difference
    monkeypatch.setattr(trainer, "predict", lambda *a, **k: SimpleNamespace(metrics={"average_eer": eer}))

    record = keep_better_average(trainer, "3")

    assert (record["eer"], record["eer_of_best"], record["is_kept"]) == (eer, lowest, is_kept)
    best = finished[1]
    is_best = all(torch.equal(tensor, best[name]) for name, tensor in trainer.model.state_dict().items())
    assert is_best == (not is_kept)
    said = capsys.readouterr().out
    assert f"Dev EER of the best checkpoint: {100 * lowest:.3f} %; of the average of 3" in said
    assert f"{100 * eer:.3f} %. The {'average' if is_kept else 'best checkpoint'} is kept." in said


def test_average_is_evaluated_on_every_dev_trial_without_another_entry_in_the_log(trainer):
    history = copy.deepcopy(trainer.state.log_history)

    record = keep_better_average(trainer, "5")
    metrics = trainer.evaluate()

    assert metrics["eval_num_bonafide"] + metrics["eval_num_spoof"] == 16
    assert record["eer" if record["is_kept"] else "eer_of_best"] == metrics["eval_eer"]
    assert trainer.state.log_history[:-1] == history  # the last is of this test's own evaluation
    trainer.state.log_history = history


def test_parameters_that_training_may_not_average_any_more_are_removed(tmp_path):
    history = log((0.5, 1.0), (0.4, 1.0), (0.3, 1.0), (0.2, 1.0), (0.3, 1.0), (0.1, 1.0))
    whole, early, cut_off = (
        json.dumps({"log_history": history}),
        json.dumps({"log_history": history[:6]}),
        "{",
    )
    for step, text in ((20, early), (40, cut_off), (50, whole)):
        write_text(tmp_path / f"checkpoint-{step}" / "trainer_state.json", text)
    for step in (10, 20, 30, 40, 50):
        write_text(tmp_path / "averaging" / f"step-{step}.safetensors", "")

    args, state = SimpleNamespace(output_dir=str(tmp_path)), SimpleNamespace(is_world_process_zero=True)
    KeepingCallback("2").on_save(args, state, None)

    kept = {path.stem for path in (tmp_path / "averaging").iterdir()}
    assert kept == {"step-10", "step-20", "step-30", "step-50"}  # by checkpoint-20, and by checkpoint-50


@pytest.mark.parametrize("average", ["5", "swa"])
def test_too_few_checkpoints_are_said_and_the_best_is_kept(trainer, finished, capsys, tmp_path, average):
    history = log((0.5, 1.0), (0.3, 1.0), (0.2, 1.0), (0.005, 1.0))  # of which swa takes the last
    trainer = SimpleNamespace(
        model=trainer.model,
        accelerator=trainer.accelerator,
        state=SimpleNamespace(log_history=history),
        args=SimpleNamespace(output_dir=str(tmp_path)),
    )

    assert keep_better_average(trainer, average) is None
    assert "No average is made" in capsys.readouterr().out
    assert all(torch.equal(t, finished[1][name]) for name, t in trainer.model.state_dict().items())
