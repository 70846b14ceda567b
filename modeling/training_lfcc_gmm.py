"""Training of LFCC-GMM by expectation-maximisation, where the other systems are trained by gradient."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import ProgressCallback, Trainer, TrainingArguments
from transformers.hf_argparser import HfArg

from .em import EMSettings, train_gmm
from .modeling_lfcc_gmm import LFCCGMMForAudioClassification


# The arguments of `TrainingArguments` that mean something to EM, beside those of the Hub.
USED_ARGUMENTS = {
    "output_dir",
    "num_train_epochs",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "seed",
    "use_cpu",
    "disable_tqdm",
    "report_to",
    "run_name",
    "log_level",
    "log_level_replica",
    "log_on_each_node",
    "ddp_backend",
    "ddp_timeout",
    "resume_from_checkpoint",
}


@dataclass
class EMArguments:
    """Settings of EM beside its iterations (`num_train_epochs`) and its `seed`; see [`EMSettings`]."""

    _argument_group_name = "lfcc-gmm only"
    em_variance_floor: float = HfArg(
        default=EMSettings.variance_floor,
        help="lfcc-gmm: smallest variance of a component, relative to the variance of all frames.",
    )
    em_tolerance: float = HfArg(
        default=EMSettings.tolerance,
        help="lfcc-gmm: stop once an iteration gains less log-likelihood per frame, in nats.",
    )
    em_start_frames: int = HfArg(
        default=EMSettings.sample_frames, help="lfcc-gmm: frames that are drawn for the start by k-means++."
    )


class LFCCGMMTrainer(Trainer):
    """
    [`Trainer`] that fits the mixtures of an [`LFCCGMMForAudioClassification`] by EM, one label after the
    other: `num_train_epochs` iterations, each a pass over the utterances of the label.
    `per_device_train_batch_size` utterances are read at a time. The state of EM is kept in `checkpoint-em` of
    the output folder, from which the same call goes on.

    Args:
        em_args: settings of EM.
        digest: what identifies rows and their audio, so that the state of others is never resumed.
        is_new: whether the mixtures start from k-means++, and not from what the model has.
        **kwargs: of [`Trainer`]; `train_dataset` has the columns of `trials.FEATURES`, `data_collator` gives
            `input_values` and `attention_mask`.
    """

    def __init__(
        self, *, em_args: EMArguments, digest: Callable[[Dataset], str], is_new: bool = True, **kwargs
    ):
        super().__init__(**kwargs)
        self.em_args, self.digest, self.is_new = em_args, digest, is_new
        self.remove_callback(ProgressCallback)  # whose bar counts steps; a pass over the corpus has its own

    def train(self, resume_from_checkpoint: str | None = None) -> None:
        """
        Fit the mixtures; log each iteration's log-likelihood per frame.

        Raises:
            ValueError: `num_train_epochs` is no number of iterations; see [`train_gmm`].
        """
        epochs = self.args.num_train_epochs
        if epochs < 1 or epochs != int(epochs):
            raise ValueError(f"num_train_epochs is {epochs}, but EM makes whole iterations, one at least.")
        settings = EMSettings(
            num_iterations=int(epochs),
            tolerance=self.em_args.em_tolerance,
            variance_floor=self.em_args.em_variance_floor,
            sample_frames=self.em_args.em_start_frames,
            seed=self.args.seed if self.is_new else None,
        )
        names = self.train_dataset.features["label"].names
        labels = np.asarray(self.train_dataset.with_format("numpy")["label"][:])
        self.callback_handler.on_train_begin(self.args, self.state, self.control)
        for name in self.model.gmms:
            rows = self.train_dataset.select(np.flatnonzero(labels == names.index(name)))
            history = self.fit(name, rows, settings)
            PartialState().print(
                f"EM of {name}: {len(rows):,} utterances, {len(history)} iterations, log-likelihood per "
                f"frame {history[0]:.3f} to {history[-1]:.3f}"
            )
        self.callback_handler.on_train_end(self.args, self.state, self.control)

    def fit(self, name: str, rows: Dataset, settings: EMSettings) -> list[float]:
        """Fit the mixture of a label to its rows; the log-likelihoods that [`train_gmm`] returns."""
        key = f"log_likelihood_{name}"

        def log(iteration: int, log_likelihood: float) -> None:
            self.state.epoch = self.state.global_step = iteration
            self.log({key: log_likelihood})

        history = train_gmm(
            self.model.gmms[name],
            FrameBatches(self.model, rows, self.data_collator, self.args, description=name),
            settings,
            state_dir=Path(self.args.output_dir, "checkpoint-em", name),
            identity=f"{name}, {self.digest(rows)}, {self.model.config.to_json_string()}",
            on_iteration=log,
        )
        # Those of the run that this one resumes are in the log, too.
        others = [entry for entry in self.state.log_history if key not in entry]
        own = [{key: value, "epoch": i, "step": i} for i, value in enumerate(history, start=1)]
        self.state.log_history = [*others, *own]
        return history


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
