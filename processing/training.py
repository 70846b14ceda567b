"""The trainer of a model; of training by gradient the crop, dev EER, and runs that go on after a kill."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset
from torch import nn
from torch.optim import Adam, Optimizer
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from metrics.det import equal_error_rate

from .arguments import EMSettings, GradientArguments
from .augmentation import build_augmentation
from .averaging import KeepingCallback
from .collation import AudioCollator
from .corpus_names import shorten_name
from .scores import compute_scores
from .scoring import Batches
from .streamed_rows import StreamedRows, is_streamed
from .training_lfcc_gmm import LFCCGMMTrainer
from .trunk_cache import TrunkCollator, cache_trunk


def build_trainer(
    model: PreTrainedModel,
    collator: AudioCollator,
    splits: dict[str, Dataset],
    args: TrainingArguments,
    method: GradientArguments | EMSettings,
) -> Trainer:
    """
    The trainer of a model on the splits "train" and "dev": by EM, or by gradient on audio or on what the
    frozen part of the model gives of it. The collator is that of evaluation.

    Raises:
        ValueError: a training split without one whole batch; see [`build_augmentation`], [`cache_trunk`] and
            [`LFCCGMMTrainer`].
    """
    train, dev = splits["train"], splits["dev"]
    corpora = dev["corpus"][:] if "corpus" in dev.column_names else None
    common = {"model": model, "args": args, "processing_class": collator.feature_extractor}
    if isinstance(method, EMSettings):
        return LFCCGMMTrainer(
            settings=method, train_dataset=train, eval_dataset=dev, data_collator=collator, **common
        )
    needed = args.train_batch_size * args.world_size
    if args.dataloader_drop_last and len(train) < needed:
        raise ValueError(
            f"The training split has {len(train):,} utterances, fewer than a batch of {needed:,}, and "
            "batches that are not whole are left out (dataloader_drop_last): lower "
            "--per_device_train_batch_size."
        )
    train_collator = AudioCollator(
        collator.feature_extractor,
        collator.label_ids,
        crop=method.crop,
        augmentation=build_augmentation(method.augmentation),
        seed=args.seed,
    )
    if method.cache_frozen_trunk:
        batches = Batches(args.per_device_eval_batch_size, args.dataloader_num_workers)
        train = cache_trunk(model, train_collator, train, batches=batches, description="train")
        dev = cache_trunk(model, collator, dev, batches=batches, description="dev")
        train_collator = collator = TrunkCollator(collator.label_ids)
    elif is_streamed(train):
        train = StreamedRows(train, args, train_collator.epoch, buffer=method.shuffle_buffer)
    patience = method.early_stopping_patience
    if patience is not None and args.eval_strategy == "no":
        patience = None
        PartialState().print("Without evaluation during training there is no early stopping.")
    trainer = AntiSpoofingTrainer(
        train_dataset=train,
        eval_dataset=dev,
        data_collator=train_collator,
        eval_collator=collator,
        optimizer=method.optimizer,
        early_stopping_patience=patience,
        layer_decay=method.layer_decay,
        compute_metrics=make_metrics(model, corpora),
        **common,
    )
    if method.is_averaging:
        trainer.add_callback(KeepingCallback(method.average_checkpoints))
    return trainer


class AntiSpoofingTrainer(Trainer):
    """
    [`Trainer`] with an `eval_collator` beside its `data_collator`, so that only training crops at random and
    augments; with a loss that is the weighted mean over an optimizer step, however it is divided into batches
    and processes; and with a resumed run that goes on exactly where a killed one was.

    `optimizer` "adam" is `torch.optim.Adam` instead of the one that `args.optim` names. As in the field's
    published code, its weight decay is an L2 term in the gradient of every parameter. Training stops after
    `early_stopping_patience` evaluations without a lower dev EER. With `layer_decay` D, the learning rate of
    the head is that of `args`, and the one of each block of an encoder D times that of what lies above it, as
    in ELECTRA (Clark et al., ICLR 2020) and BEiT (Bao et al., ICLR 2022).
    """

    def __init__(
        self,
        *,
        eval_collator: AudioCollator | TrunkCollator,
        optimizer: str | None = None,
        early_stopping_patience: int | None = None,
        layer_decay: float | None = None,
        **kwargs,
    ):
        if optimizer == "adam":
            args = kwargs["args"]
            betas = args.adam_beta1, args.adam_beta2
            settings = {"lr": args.learning_rate, "betas": betas, "eps": args.adam_epsilon}
            kwargs["optimizer_cls_and_kwargs"] = (Adam, settings)
        if early_stopping_patience is not None:
            kwargs["callbacks"] = [EarlyStoppingCallback(early_stopping_patience)]
        super().__init__(**kwargs)
        self.eval_collator, self.early_stopping_patience = eval_collator, early_stopping_patience
        self.layer_decay = layer_decay
        if isinstance(self.data_collator, AudioCollator):
            self.add_callback(EpochCallback(self.data_collator))

    def get_train_dataloader(self) -> DataLoader:
        """As in [`Trainer`]; rows that are streamed are divided between the processes already."""
        if not isinstance(self.train_dataset, StreamedRows):
            return super().get_train_dataloader()
        args = self.args
        loader = DataLoader(
            self.train_dataset,
            args.train_batch_size,
            num_workers=args.dataloader_num_workers,
            collate_fn=self.data_collator,
            pin_memory=args.dataloader_pin_memory,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            prefetch_factor=args.dataloader_prefetch_factor,
            persistent_workers=args.dataloader_persistent_workers,
        )
        return prepare_data_loader(loader, args.device, 1, 0, put_on_device=True, dispatch_batches=False)

    def num_examples(self, dataloader: DataLoader) -> int:
        """As in [`Trainer`]; of rows that are streamed those of all processes."""
        rows = dataloader.dataset
        return len(rows.rows) if isinstance(rows, StreamedRows) else super().num_examples(dataloader)

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """As in [`Trainer`], with the collator of evaluation, and with every trial."""
        train_collator, self.data_collator = self.data_collator, self.eval_collator
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator, self.args.dataloader_drop_last = train_collator, drop_last

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        """That of evaluation."""
        return self.get_eval_dataloader(test_dataset)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """As in [`Trainer`]; with plain Adam, all parameters."""
        if self.optimizer_cls_and_kwargs is None:
            return super().get_decay_parameter_names(model)
        return [name for name, _ in model.named_parameters()]

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """As in [`Trainer`]; with a layer decay each layer has groups of its own, the head the first."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new and self.layer_decay is not None:
            counts = self.model.count_layers_above()
            optimizer.param_groups[:] = decay_learning_rates(optimizer.param_groups, counts, self.layer_decay)
        return optimizer

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        """As in [`Trainer`]; of a run that had stopped early, or done its last step, only the model is
        loaded."""
        if resume_from_checkpoint is not None:
            state = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / "trainer_state.json"))
            stopping = state.stateful_callbacks.get("EarlyStoppingCallback")
            counter = stopping["attributes"]["early_stopping_patience_counter"] if stopping else 0
            had_stopped = self.early_stopping_patience is not None and counter >= self.early_stopping_patience
            # In the middle of an epoch, the library would train one step more.
            if had_stopped or 0 < self.args.max_steps <= state.global_step:
                self.state = state
                if self.args.load_best_model_at_end:
                    self._load_best_model()
                else:
                    self._load_from_checkpoint(resume_from_checkpoint)
                return None
        output = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        is_moved = self.state.best_global_step and self.state.best_model_checkpoint is None
        if self.args.load_best_model_at_end and is_moved:
            self._load_best_model()
        return output

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """As in [`Trainer`], with the batch statistics that a checkpoint would hold: those of rank 0."""
        if self.args.world_size > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, src=0)
        return super().evaluate(*args, **kwargs)

    # The methods below are the library's own, so they are to be looked at whenever its version is raised.

    def _get_num_items_in_batch(self, batch_samples: list[dict], device: torch.device) -> torch.Tensor:
        # What the loss of an optimizer step is divided by: each utterance counts as much as it weighs.
        weights = torch.tensor(self.model.config.normalized_class_weights, device=device)
        counts = [weights[batch["labels"].to(device)].sum() for batch in batch_samples]
        num_items = sum(counts, start=torch.zeros((), device=device))
        if self.args.average_tokens_across_devices:
            num_items = self.accelerator.reduce(num_items, "sum")
        # `nn.DataParallel` hands each GPU one.
        return num_items.expand(self.args.n_gpu, 1) if self.args.n_gpu > 1 else num_items

    def _load_callback_state(self) -> None:
        # The checkpoint brings the patience that it was saved with; that of this run counts.
        super()._load_callback_state()
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback):
                callback.early_stopping_patience = self.early_stopping_patience

    def _load_best_model(self) -> None:
        # The state has the path that the run had when the checkpoint was saved; it may have been moved since.
        best = Path(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}")
        if not any(best.glob("*.safetensors")):
            raise FileNotFoundError(f"The checkpoint with the lowest dev EER, {best}, is not there any more.")
        self.state.best_model_checkpoint = str(best)
        super()._load_best_model()

    def _save_rng_state(self, output_dir: str) -> None:
        # trainer_state.json, which is written next, says that the checkpoint is complete: on all ranks.
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def _save_checkpoint(self, model, trial) -> None:
        # An old checkpoint of the same step must not vouch, by its last file, for a half-written new one.
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            Path(self._get_output_dir(trial), name, "trainer_state.json").unlink(missing_ok=True)
        super()._save_checkpoint(model, trial)


def decay_learning_rates(
    groups: list[dict], num_layers_above: Mapping[nn.Parameter, int], decay: float
) -> list[dict]:
    """The groups of an optimizer, each divided by layers, whose learning rates are multiplied by the decay to
    the power of the number of layers above; those without any come first."""
    divided: dict[tuple[int, int], dict] = {}
    for index, group in enumerate(groups):
        for parameter in group["params"]:
            num_above = num_layers_above[parameter]
            empty = {**group, "lr": group["lr"] * decay**num_above, "params": []}
            divided.setdefault((num_above, index), empty)["params"].append(parameter)
    return [divided[key] for key in sorted(divided)]


class EpochCallback(TrainerCallback):
    """Tells the collator of training the epoch, which augmentation and the random crop depend on, and rows
    that are streamed how many of its batches a resumed run has been trained on before."""

    def __init__(self, collator: AudioCollator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, train_dataloader, **kwargs):
        self.collator.epoch.fill_(int(state.epoch or 0))
        rows = train_dataloader.dataset
        if isinstance(rows, StreamedRows) and not args.ignore_data_skip:
            steps_in_epoch = math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)
            rows.skip.fill_(state.global_step % steps_in_epoch * args.gradient_accumulation_steps)


def make_metrics(
    model: PreTrainedModel, corpora: Sequence[str] | None = None
) -> Callable[[EvalPrediction], dict[str, float]]:
    """
    `compute_metrics` for the [`Trainer`]: the EER, a fraction, the model's own loss of all trials, in place
    of the Trainer's mean over batches, and the numbers of trials. `corpora`, the name of each trial's, add
    the EER of each corpus that has both classes, and `eer_mean`, their mean.
    """
    groups = {shorten_name(name): np.asarray(corpora) == name for name in dict.fromkeys(corpora or ())}

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        outputs = prediction.predictions
        logits = np.asarray(outputs[0] if isinstance(outputs, tuple) else outputs)
        label2id = model.config.label2id
        scores = compute_scores(logits, label2id)
        labels = prediction.label_ids
        is_bonafide = labels == int(label2id["bonafide"])
        eer, _ = equal_error_rate(scores[is_bonafide], scores[~is_bonafide])
        eers = {
            f"eer_{name}": equal_error_rate(scores[own & is_bonafide], scores[own & ~is_bonafide])[0]
            for name, own in groups.items()
            if (own & is_bonafide).any() and (own & ~is_bonafide).any()
        }
        if eers:
            eers["eer_mean"] = float(np.mean([*eers.values()]))
        loss = model.loss_function(torch.from_numpy(logits).float(), torch.from_numpy(labels))
        counts = {"num_bonafide": int(is_bonafide.sum()), "num_spoof": int((~is_bonafide).sum())}
        return {"eer": eer, **eers, "loss": float(loss), **counts}

    return compute_metrics
