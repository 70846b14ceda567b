"""What the Trainer here does otherwise than the library's."""

import copy
import json
from pathlib import Path

import one_step
import pytest
import torch
from conftest import ROOT, Script
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from modeling import AntiSpoofingFeatureExtractor, RawNet2Config, RawNet2ForAudioClassification
from processing.collation import AudioCollator
from processing.layouts import LAYOUTS
from processing.training import (
    AntiSpoofingTrainer,
    make_metrics,
)


class RecordingCollator(AudioCollator):
    """Notes the epoch of every batch."""

    def __call__(self, rows):
        self.seen.append(int(self.epoch))
        return super().__call__(rows)


def small_trainer(
    folder: Path, la_corpus: Path, optimizer: str | None = None, **changes
) -> AntiSpoofingTrainer:
    """A small trainer over two epochs whose collators note the epoch of their batches; `changes` are those of
    its arguments."""
    splits = LAYOUTS["asvspoof2019-la"].load(la_corpus).splits
    extractor = AntiSpoofingFeatureExtractor(num_samples=4000)
    collators = [RecordingCollator(extractor, [1, 0], crop=crop) for crop in ("random", "start")]
    for collator in collators:
        collator.seen = []
    sizes = {"sinc_filters": 4, "block_channels": [4], "gru_hidden_size": 4, "embedding_size": 4}
    model = RawNet2ForAudioClassification(RawNet2Config(num_samples=4000, **sizes))
    arguments = {"num_train_epochs": 2, "per_device_train_batch_size": 12, "save_strategy": "epoch"}
    arguments |= {"eval_strategy": "epoch", "remove_unused_columns": False, "use_cpu": True}
    return AntiSpoofingTrainer(
        model=model,
        args=TrainingArguments(str(folder / "run"), **arguments | changes),
        optimizer=optimizer,
        train_dataset=splits["train"],
        eval_dataset=splits["dev"],
        data_collator=collators[0],
        eval_collator=collators[1],
        compute_metrics=make_metrics(model),
    )


@pytest.fixture
def trainer(tmp_path, la_corpus) -> AntiSpoofingTrainer:
    return small_trainer(tmp_path, la_corpus)


def test_evaluation_has_every_trial_where_training_drops_its_last_batch(tmp_path, la_corpus):
    batches = {"per_device_train_batch_size": 7, "per_device_eval_batch_size": 5}  # of 24 and 16 utterances
    trainer = small_trainer(tmp_path, la_corpus, dataloader_drop_last=True, **batches)

    trainer.train()
    metrics = trainer.evaluate()

    assert metrics["eval_num_bonafide"] + metrics["eval_num_spoof"] == 16
    assert trainer.data_collator.seen == [0] * 3 + [1] * 3  # 3 whole batches an epoch


def test_adam_is_torchs_with_the_weight_decay_in_the_gradient_of_every_parameter(tmp_path, la_corpus):
    settings = {"learning_rate": 1e-2, "weight_decay": 0.3, "adam_beta2": 0.9, "max_grad_norm": 0.0}
    trainer = small_trainer(
        *(tmp_path, la_corpus, "adam"),
        max_steps=1,
        lr_scheduler_type="constant",
        save_strategy="no",
        **settings,
    )
    torch.manual_seed(1)
    alone = copy.deepcopy(trainer.model).train()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
    trainer.train_dataset = trainer.train_dataset.select([0, 1])
    trainer.data_collator = lambda rows: {name: tensor.clone() for name, tensor in batch.items()}

    trainer.train()

    optimizer = torch.optim.Adam(alone.parameters(), lr=1e-2, betas=(0.9, 0.9), weight_decay=0.3)
    alone(**batch).loss.backward()
    optimizer.step()
    trained = trainer.model.state_dict()
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(trained[name], tensor, msg=lambda text, name=name: f"{name}: {text}")


def test_training_crops_by_epoch_and_evaluation_by_its_own_collator(trainer):
    trainer.train()

    assert trainer.data_collator.seen == [0, 0, 1, 1]  # 24 utterances in batches of 12
    assert len(trainer.eval_collator.seen) == 4  # 16 utterances in batches of 8, twice


def test_old_state_file_does_not_vouch_for_a_half_written_checkpoint(trainer):
    folder = Path(trainer.args.output_dir) / "checkpoint-2"
    (folder / "optimizer.pt").mkdir(parents=True)  # in its place no file can be written
    (folder / "trainer_state.json").write_text("{}")

    with pytest.raises(RuntimeError):
        trainer.train()

    assert (folder / "model.safetensors").exists() and not (folder / "trainer_state.json").exists()


def test_run_that_ends_before_its_first_evaluation_keeps_its_last_weights(trainer):
    trainer.args.load_best_model_at_end = True
    trainer.args.eval_strategy = IntervalStrategy.NO

    trainer.train()

    assert trainer.state.global_step == 4 and trainer.state.best_model_checkpoint is None


def test_weights_of_a_run_have_the_permissions_of_its_other_files(trained):
    modes = {name: (trained / name).stat().st_mode for name in ("model.safetensors", "config.json")}

    assert modes["model.safetensors"] == modes["config.json"]


@pytest.mark.parametrize(("batch_size", "num_batches"), [(8, 1), (2, 4), (1, 8)])
@pytest.mark.parametrize(
    ("trainer_class", "normalizer"),
    # The sum of the weights 9, 9, 1, …; the library's counts 8 utterances of the mean weight 5.
    [(AntiSpoofingTrainer, 24.0), (Trainer, 40.0)],
)
def test_step_is_one_objective_however_it_is_divided(
    tmp_path, batch_size, num_batches, trainer_class, normalizer
):
    loss, expected = one_step.expect(normalizer)

    trainer = one_step.take_step(tmp_path, batch_size, num_batches, trainer_class=trainer_class)

    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss, abs=1e-6)
    for name, tensor in trainer.model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("loss", ["focal", "am_softmax", "oc_softmax", "p2sgrad"])
def test_step_and_dev_loss_of_every_loss_are_its_weighted_mean(tmp_path, loss):
    model, batch = one_step.make_model(loss).train(), one_step.collate(one_step.make_rows())
    of_step = model(**batch).loss
    of_step.backward()

    trainer = one_step.take_step(tmp_path, 2, 4, loss=loss)

    assert trainer.state.log_history[0]["loss"] == pytest.approx(of_step.item(), rel=1e-5)
    trained = trainer.model.state_dict()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            expected = parameter.detach() - parameter.grad
            torch.testing.assert_close(trained[name], expected, rtol=1e-4, atol=1e-5, msg=name)
    with torch.no_grad():
        of_dev = trainer.model.eval()(**one_step.collate(one_step.make_rows()[:5])).loss
    assert trainer.evaluate()["eval_loss"] == pytest.approx(float(of_dev), rel=1e-6)


def test_step_of_two_processes_is_that_of_one(tmp_path):
    script = Script("tests/one_step.py", tmp_path)
    script.environment["PYTHONPATH"] = str(ROOT)

    script.run(tmp_path, launch=("--multi_gpu", "--num_processes", "2", "--main_process_port", "0"))

    loss, expected = one_step.expect(24.0)
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    assert state["log_history"][0]["loss"] == pytest.approx(loss, abs=1e-6)
    trained = load_file(tmp_path / "model.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(trained[name], tensor, rtol=0, atol=1e-6, msg=name)
    of_one = dict(one_step.estimate_statistics(tmp_path).named_buffers())
    first, second = (load_file(tmp_path / f"statistics-{rank}.safetensors") for rank in (0, 1))
    names = [name for name in of_one if "running" in name]
    assert names and all(torch.equal(first[name], second[name]) for name in names)
    for name in names:
        torch.testing.assert_close(first[name], of_one[name], rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_dev_loss_is_the_weighted_mean_over_all_trials(tmp_path, batch_size):
    trainer = one_step.take_step(tmp_path, batch_size, 1)
    batch = one_step.collate(one_step.make_rows()[:5])
    with torch.no_grad():
        logits = trainer.model(batch["input_values"]).logits
    expected = F.cross_entropy(logits, batch["labels"], weight=torch.tensor([9.0, 1.0]))

    assert trainer.evaluate()["eval_loss"] == pytest.approx(float(expected), rel=1e-6)
