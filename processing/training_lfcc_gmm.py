"""Training of LFCC-GMM by expectation-maximisation, where the other systems are trained by gradient."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import DataLoader
from tqdm import tqdm  # tqdm.auto would start the workers of a loader twice
from transformers import ProgressCallback, Trainer

from .arguments import EMSettings
from .em import EMError, load_state, train_gmm
from .models import list_settings
from .resuming import hash_rows


STATE_FOLDER = "checkpoint-em"  # in the output folder

# The arguments of `TrainingArguments` that mean something to EM, beside those of the Hub.
USED_ARGUMENTS = {
    *("output_dir", "num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size"),
    *("dataloader_num_workers", "dataloader_pin_memory", "seed", "use_cpu", "disable_tqdm", "report_to"),
    *("run_name", "log_level", "log_level_replica", "log_on_each_node", "ddp_backend", "ddp_timeout"),
    "resume_from_checkpoint",
}


class LFCCGMMTrainer(Trainer):
    """
    [`Trainer`] that fits the mixtures of an `LFCCGMMForAudioClassification` by EM, one label after the other:
    `num_train_epochs` iterations, each a pass over the utterances of the label, of which
    `per_device_train_batch_size` are read at a time. The state of EM is kept in `checkpoint-em` of the output
    folder, from which the same run goes on. `data_collator` gives `input_values` and `attention_mask`.
    A state that cannot be resumed is an `EMError` at once; see [`load_state`].
    """

    def __init__(self, *, settings: EMSettings, **kwargs):
        super().__init__(**kwargs)
        self.remove_callback(ProgressCallback)  # whose bar counts steps; a pass over the corpus has its own
        self.settings = settings
        config = list_settings(self.model.config)
        labels = np.asarray(self.train_dataset.with_format("numpy")["label"][:])
        self.rows, self.places = {}, {}  # by label; a place is the `state_dir` and `identity` of EM
        for name in self.model.gmms:
            index = self.train_dataset.features["label"].str2int(name)
            self.rows[name] = rows = self.train_dataset.select(np.flatnonzero(labels == index))
            self.places[name] = {
                "state_dir": Path(self.args.output_dir, STATE_FOLDER, name),
                "identity": {"label": name, "utterances": hash_rows(rows), **config},
            }
            # What cannot be resumed is an error now, and not after hours.
            load_state(self.model.gmms[name], settings, **self.places[name])

    def train(self, resume_from_checkpoint: str | None = None) -> None:
        """Fit the mixtures; log each iteration's log-likelihood per frame. Raises only `EMError`s."""
        self.callback_handler.on_train_begin(self.args, self.state, self.control)
        for name, gmm in self.model.gmms.items():
            key = f"log_likelihood_{name}"
            log = partial(self.log_iteration, key)
            frames = FrameBatches(self, name)
            try:
                history = train_gmm(gmm, frames, self.settings, **self.places[name], on_iteration=log)
            except ValueError as error:  # such as audio that cannot be decoded
                raise EMError(error) from error
            # Those of the run that this one resumes are in the log, too.
            others = [entry for entry in self.state.log_history if key not in entry]
            own = [{key: value, "epoch": i, "step": i} for i, value in enumerate(history, start=1)]
            self.state.log_history = [*others, *own]
            PartialState().print(
                f"EM of {name}: {len(self.rows[name]):,} utterances, {len(history)} iterations, "
                f"log-likelihood per frame {history[0]:.3f} to {history[-1]:.3f}"
            )
        self.callback_handler.on_train_end(self.args, self.state, self.control)

    def log_iteration(self, key: str, iteration: int, log_likelihood: float) -> None:
        self.state.epoch = self.state.global_step = iteration
        self.log({key: log_likelihood})


class FrameBatches:
    """The frames of a label in batches (frames, features), the same on every pass; this process's share."""

    def __init__(self, trainer: LFCCGMMTrainer, name: str):
        rows, args, process = trainer.rows[name], trainer.args, PartialState()
        size = args.per_device_train_batch_size
        batches = [range(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]
        self.model = trainer.model.to(process.device)
        self.loader = DataLoader(
            rows,
            batch_sampler=batches[process.process_index :: process.num_processes],
            collate_fn=trainer.data_collator,
            num_workers=args.dataloader_num_workers,
        )
        is_hidden = args.disable_tqdm or not process.is_main_process
        self.bar = {"desc": f"EM of {name}", "disable": is_hidden, "leave": False}

    @torch.no_grad()
    def __iter__(self) -> Iterator[torch.Tensor]:
        for batch in tqdm(self.loader, **self.bar):
            inputs = (batch[name].to(self.model.device) for name in ("input_values", "attention_mask"))
            yield self.model.frames(*inputs)[0]
