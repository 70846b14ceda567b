"""The settings of a run, which are kept when it starts and compared when it goes on from a checkpoint."""

import hashlib
import json
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

from datasets import Dataset
from transformers import TrainingArguments
from transformers.utils import logging

from .base_model import RECORD_NAME
from .files import strip_folders, write_json
from .resuming import count_audio_bytes, describe_difference
from .trials import count_classes, list_trials


logger = logging.get_logger(__name__)

# What may change when a run goes on, by patterns of arguments' names: it does not alter what is trained on
# what, or it is not read again.
MAY_CHANGE = {
    "number of epochs and steps": (
        "num_train_epochs",
        "max_steps",
        "early_stopping_patience",
        "em_tolerance",
    ),
    "logging": ("log*", "disable_tqdm", "report_to", "run_name", "project", "trackio_*", "debug")
    + ("skip_memory_metrics", "include_num_input_tokens_seen"),
    "workers": ("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers")
    + ("dataloader_prefetch_factor", "dataloader_multiprocessing_context", "dataloader_in_order"),
    "saving": ("output_dir", "save_*", "enable_jit_checkpoint", "push_to_hub", "hub_*", "do_*")
    + ("resume_from_checkpoint", "ignore_data_skip", "restore_callback_states_from_checkpoint"),
    "scoring": ("per_device_eval_batch_size", "eval_accumulation_steps", "eval_use_gather_object")
    + ("eval_on_start", "include_for_metrics"),
    "machine": ("use_cpu", "local_rank", "ddp_*", "torch_*", "tf32", "full_determinism")
    + ("*_checkpointing", "*_checkpointing_kwargs", "cache_frozen_trunk"),
}


def describe_settings(
    args: TrainingArguments, own_args: Mapping, splits: Mapping[str, tuple[str, Dataset]]
) -> dict:
    """
    All that must not change while a run is trained: the arguments, this project's own ones by name, but for
    those of `MAY_CHANGE`; the number of devices; and of "train" and "dev", given by name and rows, the
    trials and the bytes of their audio.
    """
    patterns = [pattern for group in MAY_CHANGE.values() for pattern in group]
    settings = {
        name: strip_folders(value)
        for name, value in {**args.to_dict(), **own_args}.items()
        if not any(fnmatch(name, pattern) for pattern in patterns)
    }
    settings["num_devices"] = args.world_size * max(1, args.n_gpu)
    for role, (name, rows) in splits.items():
        trials = list_trials(rows)
        listed = trials[["utterance_id", "key"]].to_csv(index=False)
        settings[role] = {
            "split": name,
            **count_classes(trials),
            "audio_bytes": count_audio_bytes(rows),
            "trials_sha256": hashlib.sha256(listed.encode()).hexdigest(),
        }
    return settings


def record_start(folder: Path, settings: Mapping, base_model: Mapping | None) -> None:
    """Note in a run's folder, when it begins, its settings and what [`load_base_model`] says: a resumed run
    reads them there."""
    record = {"base_model": base_model, "settings": settings}
    record = {name: value for name, value in record.items() if value is not None}
    write_json(folder / RECORD_NAME, record, default=str)


def check_same_settings(folder: Path, settings: Mapping) -> None:
    """ValueError: the run in the folder, which is to go on, began with other settings; all are named."""
    path = folder / RECORD_NAME
    before = json.loads(path.read_bytes()).get("settings") if path.is_file() else None
    if before is None:
        logger.warning(f"{folder} does not say with which settings its run began: they cannot be compared.")
    elif difference := describe_difference(before, {k: v for k, v in settings.items() if k in before}):
        raise ValueError(
            f"{folder} is of a run with other settings: {difference}. Resume with those, or start another "
            f"run in a new --output_dir. What may change: {', '.join(MAY_CHANGE)}."
        )
