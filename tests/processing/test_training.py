"""Which checkpoints a run goes on from, and what the Trainer here does otherwise than the library's."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from modeling import AntiSpoofingFeatureExtractor, RawNet2Config, RawNet2ForAudioClassification
from processing import asvspoof2019
from processing.collation import AudioCollator
from processing.training import (
    AntiSpoofingTrainer,
    find_checkpoint,
    find_last_checkpoint,
    find_problem,
    make_eer_metric,
)


@pytest.fixture
def run(tmp_path):
    """A folder with two checkpoints, of steps 9 and 10."""
    for step in (9, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        save_file({"weight": torch.zeros(100)}, folder / "model.safetensors")
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.save({"state": torch.zeros(100)}, folder / name)
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": [0] * 50}))
    return tmp_path


def test_newest_checkpoint_is_taken_by_its_number(run):
    assert find_last_checkpoint(run).name == "checkpoint-10"


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
)
@pytest.mark.parametrize("kept", [None, 0, 1, 20, 0.5, -1])
def test_checkpoint_with_a_cut_or_missing_file_is_skipped(run, name, kept):
    path = run / "checkpoint-10" / name
    content = path.read_bytes()
    path.unlink()
    if kept is not None:
        path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])

    assert find_problem(run / "checkpoint-10") is not None
    assert find_last_checkpoint(run).name == "checkpoint-9"


def test_last_starts_anew_where_there_is_no_checkpoint(tmp_path):
    assert find_checkpoint(tmp_path, "last") is None


def test_finished_model_without_checkpoints_is_not_trained_over(tmp_path):
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(FileExistsError, match="holds a finished model"):
        find_checkpoint(tmp_path, "last")


def test_named_checkpoint_of_another_run_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="is not a checkpoint of --output_dir"):
        find_checkpoint(tmp_path / "other", str(run / "checkpoint-10"))


def test_named_checkpoint_with_a_newer_one_beside_it_is_refused(run):
    with pytest.raises(FileExistsError, match="checkpoint-10 is newer than"):
        find_checkpoint(run, str(run / "checkpoint-9"))


def test_existing_run_is_refused_without_resume(run):
    with pytest.raises(FileExistsError, match="already holds a run"):
        find_checkpoint(run, None)


def test_named_checkpoint_is_taken_if_it_is_complete(run):
    (run / "checkpoint-9" / "optimizer.pt").unlink()

    assert find_checkpoint(run, str(run / "checkpoint-10")) == run / "checkpoint-10"
    with pytest.raises(ValueError, match="optimizer.pt is missing"):
        find_checkpoint(run, str(run / "checkpoint-9"))


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
    splits = asvspoof2019.LA.load(la_corpus).splits
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
        compute_metrics=make_eer_metric(model.config.label2id),
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
