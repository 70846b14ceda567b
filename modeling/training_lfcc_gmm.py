"""Training of LFCC-GMM by expectation-maximisation, where the other systems are trained by gradient."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import Trainer, TrainingArguments

from .em import EMSettings, train_gmm
from .modeling_lfcc_gmm import LFCCGMMForAudioClassification


class LFCCGMMTrainer(Trainer):
    """
    [`Trainer`] that fits the mixtures of an [`LFCCGMMForAudioClassification`] by EM, one label after the
    other: `num_train_epochs` iterations, each a pass over the utterances of the label.
    `per_device_train_batch_size` utterances are read at a time. The state of EM is kept in `checkpoint-em` of
    the output folder, from which the same call goes on.

    Args:
        identity: what is trained on, and on which front end; see [`train_gmm`].
        **kwargs: of [`Trainer`]; `train_dataset` has the columns of `rows.FEATURES`, `data_collator` gives
            `input_values` and `attention_mask`.
    """

    def __init__(self, *, identity: str, **kwargs):
        super().__init__(**kwargs)
        self.identity = identity

    def train(self, resume_from_checkpoint: str | None = None) -> None:
        """Fit the mixtures; log each iteration's log-likelihood per frame."""
        names = self.train_dataset.features["label"].names
        labels = np.asarray(self.train_dataset.with_format("numpy")["label"][:])
        settings = EMSettings(num_iterations=int(self.args.num_train_epochs), seed=self.args.seed)
        for name, gmm in self.model.gmms.items():
            rows = self.train_dataset.select(np.flatnonzero(labels == names.index(name)))
            batches = FrameBatches(self.model, rows, self.data_collator, self.args, description=name)

            def log(iteration: int, log_likelihood: float, name: str = name) -> None:
                self.state.epoch = iteration
                self.log({f"log_likelihood_{name}": log_likelihood})

            history = train_gmm(
                gmm,
                batches,
                settings,
                state_dir=Path(self.args.output_dir, "checkpoint-em", name),
                identity=f"{self.identity}, {name}",
                on_iteration=log,
            )
            PartialState().print(
                f"EM of {name}: {len(rows):,} utterances, {len(history)} iterations, log-likelihood per "
                f"frame {history[0]:.3f} to {history[-1]:.3f}"
            )


class FrameBatches:
    """
    The frames of utterances, batch by batch, the same on every walk through; under `accelerate launch`, those
    of this process.

    Args:
        model: whose front end gives the frames.
        rows: the utterances.
        collator: decodes them.
        args: batch size and loader processes.
        description: of the progress bar.
    """

    def __init__(
        self,
        model: LFCCGMMForAudioClassification,
        rows: Dataset,
        collator: Callable,
        args: TrainingArguments,
        *,
        description: str,
    ):
        size, state = args.per_device_train_batch_size, PartialState()
        slices = [list(range(start, min(start + size, len(rows)))) for start in range(0, len(rows), size)]
        self.model = model.to(state.device)
        self.loader = DataLoader(
            rows,
            batch_sampler=slices[state.process_index :: state.num_processes],
            collate_fn=collator,
            num_workers=args.dataloader_num_workers,
        )
        self.description = f"EM of {description}"
        self.is_shown = state.is_main_process and not args.disable_tqdm

    @torch.no_grad()
    def __iter__(self) -> Iterator[torch.Tensor]:
        for batch in tqdm(self.loader, desc=self.description, disable=not self.is_shown, leave=False):
            inputs = (batch[name].to(self.model.device) for name in ("input_values", "attention_mask"))
            yield self.model.frames(*inputs)[0]
