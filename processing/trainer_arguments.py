"""Which of transformers' `TrainingArguments` work here; those that do not are found out before data are
loaded."""

import copy
import tempfile

import torch
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.debug_utils import DebugOption


_LOWEST = "the best model is the one of the lowest dev EER (eer; eer_mean: mean over corpora) or loss (loss)"
_CHOOSES = [None, *(f"{start}{name}" for name in ("eer", "eer_mean", "loss") for start in ("", "eval_"))]
_ALL_TRIALS = "the EER is one of all trials, and not of batches"
_WHOLE_WEIGHTS = "saving and resuming need the whole weights in each process"
# The only values that work, and why.
SUPPORTED = {
    "label_smoothing_factor": ([0], "the Trainer's would bypass the class weights"),
    "metric_for_best_model": (_CHOOSES, _LOWEST),
    "greater_is_better": ([None, False], _LOWEST),
    "prediction_loss_only": ([False], _ALL_TRIALS),
    "batch_eval_metrics": ([False], _ALL_TRIALS),
    "eval_do_concat_batches": ([True], _ALL_TRIALS),
    "remove_unused_columns": ([False], "the audio is in a column that is no argument of the network"),
    "label_names": ([None, ["labels"]], "the labels of a batch are called labels"),
    "train_sampling_strategy": (["random", "sequential"], "crops have one length"),
    "use_liger_kernel": ([False], "there are no such kernels for these networks"),
    "neftune_noise_alpha": ([None], "waveforms have no embeddings to add noise to"),
    "debug": ([[], [DebugOption.UNDERFLOW_OVERFLOW]], "the other options are of TPUs"),
    "fsdp": ([None, False], _WHOLE_WEIGHTS),
    "deepspeed": ([None], _WHOLE_WEIGHTS),
}
COUNTS = "gradient_accumulation_steps", "per_device_eval_batch_size", "eval_accumulation_steps"


class TrainerArguments(TrainingArguments):
    """[`TrainingArguments`] under a heading of their own, after the project's."""

    _argument_group_name = "arguments of transformers' Trainer"


def check_trainer_arguments(args: TrainingArguments) -> None:
    """
    ValueError: a value that is not in `SUPPORTED`, a count of 0, or one with which a Trainer of a stand-in
    cannot be put together, such as an optimizer of a package that is not installed, or a schedule with
    arguments that it does not take.
    """
    for name, (values, reason) in SUPPORTED.items():
        if (value := getattr(args, name)) not in values:
            raise ValueError(f"--{name} {value} is not supported: {reason}. Leave it out.")
    for name in COUNTS:
        if (value := getattr(args, name)) is not None and value < 1:
            raise ValueError(f"--{name} {value}: at least 1 is needed.")
    args, model, data = copy.copy(args), nn.Linear(1, 1), [0]
    part = "arguments of transformers' Trainer"
    with tempfile.TemporaryDirectory() as args.output_dir:
        try:
            trainer = Trainer(model, args, data_collator=list, train_dataset=data, eval_dataset=data)
            part = "--dataloader_*"
            trainer.get_train_dataloader()
            if args.optim_target_modules is None:  # which the stand-in does not have
                part = f"--optim {args.optim.value}"
                trainer.create_optimizer()
                part = f"--lr_scheduler_type {args.lr_scheduler_type.value}, --lr_scheduler_kwargs"
                trainer.create_scheduler(num_training_steps=100)
            if args.torch_compile:
                part = "--torch_compile_backend, --torch_compile_mode"
                torch.compile(model, backend=args.torch_compile_backend, mode=args.torch_compile_mode)
        except (ImportError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{part}: {error}") from error
