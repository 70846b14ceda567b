"""What the frozen part of a model gives for every utterance, computed once and kept on disk for training."""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import torch
from accelerate import PartialState
from datasets import Array3D, ClassLabel, Dataset, Features, Value, concatenate_datasets
from pyarrow import ArrowInvalid
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from .base_model import IGNORED_ENCODER_KEYS, hash_tensors
from .collation import AudioCollator
from .resuming import read_on_main
from .scoring import Batches, hash_rows


SHARD_SIZE = 256  # utterances; what a kill costs at most
VERSION = 1  # to be raised with every change of what is computed
# Keys of a config that do not change what the frozen part gives. Another version of transformers may.
IGNORED_CONFIG_KEYS = (IGNORED_ENCODER_KEYS - {"transformers_version"}) | {
    "attention_size",
    "class_weights",
    "classifier_dropout",
    "classifier_proj_size",
    "decision_threshold",
}


class TrunkCollator:
    """
    Collates cached rows into `trunk_states` (batch, states, frames, hidden_size), float32, and `labels`
    (batch,).

    Args:
        label_ids: the model's class index of each index of the rows' `ClassLabel`.
    """

    def __init__(self, label_ids: list[int]):
        self.label_ids = torch.tensor(label_ids)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        labels = self.label_ids[torch.stack([row["label"] for row in rows])]
        return {"trunk_states": torch.stack([row["trunk_states"] for row in rows]), "labels": labels}


def cache_trunk(
    model: PreTrainedModel,
    collator: AudioCollator,
    rows: Dataset,
    *,
    batches: Batches = Batches(),
    description: str = "utterances",
) -> Dataset:
    """
    What the frozen part gives for every row, in the order of the rows, as `trunk_states` in float16, with
    `utterance_id` and `label`. It is computed in float32 on the process's device, through `datasets.map` in
    shards of 256 utterances, and kept in the cache of `datasets` under a key of utterances and audio files,
    crop, and frozen weights. Finished shards are used again, after a kill or in another run; under
    `accelerate launch` they are shared out over the processes.

    Args:
        model: with a frozen trunk.
        collator: crops as in evaluation, without a random crop.
        rows: see `trials.FEATURES`.
        batches: batch size, and in `num_workers` how many threads decode.
        description: of the rows, for what is printed.

    Raises:
        ValueError: nothing of the model is frozen; a random crop; a value that float16 can't hold; audio that
            cannot be decoded; too little space on the disk.
    """
    if not getattr(model.config, "has_frozen_trunk", False):
        raise ValueError(
            f"--cache_frozen_trunk: nothing of this {model.config.model_type} is frozen, so there is nothing "
            "to compute beforehand. Leave the option out."
        )
    if collator.crop != "start":
        raise ValueError(
            f"--cache_frozen_trunk: what is kept of an utterance is one crop of it, but the crop is "
            f"{collator.crop}. Leave --cache_frozen_trunk or --crop {collator.crop} out."
        )
    process = PartialState()
    folder = Path(datasets.config.HF_DATASETS_CACHE, "frozen-trunk", _make_key(model, collator, rows)[:32])
    ranges = [range(i, min(i + SHARD_SIZE, len(rows))) for i in range(0, len(rows), SHARD_SIZE)]
    shards = {folder / f"{i:05d}-of-{len(ranges):05d}.arrow": part for i, part in enumerate(ranges)}
    # All processes must share out the same ones.
    missing = read_on_main(lambda: [path for path, part in shards.items() if not _is_whole(path, len(part))])
    if missing:
        model = model.to(process.device)
        shape = _find_shape(model)
        remaining = sum(len(shards[path]) for path in missing)
        size = 2 * math.prod(shape) * remaining  # bytes
        values = f"{' x '.join(map(str, shape))} values (states x frames x width) in float16"
        process.print(
            f"Frozen trunk of {description}: {values} of each of {remaining:,} utterances, "
            f"{len(rows) - remaining:,} of {len(rows):,} are there: {size / 1e6:,.1f} MB in {folder}"
        )
        _make_room(folder, size)
        own = missing[process.process_index :: process.num_processes]
        total = sum(len(shards[path]) for path in own)
        with (
            _hide_bars_of_datasets(),
            tqdm(total=total, desc="Frozen trunk", disable=not process.is_main_process) as bar,
            ThreadPoolExecutor(max(1, batches.num_workers)) as pool,
        ):
            run = partial(_run_trunk, model=model, collator=collator, pool=pool, bar=bar)
            for path in own:
                _write_shard(path, rows.select(shards[path]), run, shape, batches.batch_size)
        process.wait_for_everyone()
        if not all(path.is_file() for path in shards):
            raise ValueError(
                f"{folder} lacks shards that another process has written: several machines need an "
                "HF_DATASETS_CACHE on a disk that they share."
            )
    else:
        process.print(f"Frozen trunk of {description}: {len(rows):,} utterances are in {folder}")
    return concatenate_datasets([Dataset.from_file(str(path)) for path in shards]).with_format(
        "torch", columns=["trunk_states", "label"]
    )


@torch.no_grad()
def _find_shape(model: PreTrainedModel) -> tuple[int, int, int]:
    """Of what the frozen part gives of an utterance: (states, frames, hidden_size)."""
    silence = torch.zeros(1, model.config.num_samples, device=model.device)
    return tuple(model.run_trunk(silence).shape[1:])


@torch.no_grad()
def _run_trunk(
    batch: dict[str, list],
    *,
    model: PreTrainedModel,
    collator: AudioCollator,
    pool: ThreadPoolExecutor,
    bar: tqdm,
) -> dict[str, list]:
    """The columns of a shard from those of a batch of rows, which the threads of the pool decode."""
    rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    decoded = [crop["input_values"] for crop in pool.map(collator, [[row] for row in rows])]
    states = model.run_trunk(torch.cat(decoded).to(model.device)).half().cpu().numpy()
    finite = np.isfinite(states).all(axis=(1, 2, 3))
    if not finite.all():
        raise ValueError(
            f"The frozen part gives {batch['utterance_id'][int(finite.argmin())]} values that are NaN or "
            "beyond float16. Train without --cache_frozen_trunk."
        )
    bar.update(len(rows))
    return {"utterance_id": batch["utterance_id"], "label": batch["label"], "trunk_states": list(states)}


def _write_shard(
    path: Path, rows: Dataset, run: Callable[[dict], dict], shape: tuple[int, int, int], batch_size: int
) -> None:
    """Compute a shard; it appears under its name when it is whole."""
    features = Features(
        {
            "utterance_id": Value("string"),
            "label": ClassLabel(names=rows.features["label"].names),
            "trunk_states": Array3D(shape=shape, dtype="float16"),
        }
    )
    rows.map(
        run,
        batched=True,
        batch_size=batch_size,
        writer_batch_size=batch_size,
        features=features,
        remove_columns=[name for name in rows.column_names if name not in features],
        cache_file_name=str(path),
        load_from_cache_file=False,  # a shard that is there could not be read
        new_fingerprint=hashlib.sha256(str(path).encode()).hexdigest()[:16],
    )


def _make_key(model: PreTrainedModel, collator: AudioCollator, rows: Dataset) -> str:
    """SHA-256 of all that the cached values depend on."""
    crop = json.loads(collator.feature_extractor.to_json_string())
    config = {k: v for k, v in model.config.to_dict().items() if k not in IGNORED_CONFIG_KEYS}
    encoder = {k: v for k, v in config.pop("encoder_config").items() if k not in IGNORED_ENCODER_KEYS}
    tensors = (
        (f"{index} {name}", tensor)
        for index, module in enumerate(model.frozen_modules())
        for name, tensor in module.state_dict().items()
    )
    parts = {
        "version": VERSION,
        "config": config,
        "encoder_config": encoder,
        "weights": hash_tensors(tensors),
        "feature_extractor": {k: v for k, v in crop.items() if k != "auto_map"},
        "rows": hash_rows(rows),
        "labels": hashlib.sha256(bytes(rows.with_format("numpy")["label"][:].astype(np.int8))).hexdigest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _make_room(folder: Path, needed: int) -> None:
    """
    Make the folder, without temporary files of killed runs: those that nobody has touched for an hour.

    Raises:
        ValueError: it cannot be made, or the disk has less space than the needed bytes.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be made ({error.strerror}). Set HF_DATASETS_CACHE to a folder that can be "
            "written."
        ) from error
    for path in folder.glob("tmp*"):
        if time.time() - path.stat().st_mtime > 3600:
            path.unlink(missing_ok=True)
    if needed > (free := shutil.disk_usage(folder).free):
        raise ValueError(
            f"{folder} has {free / 1e6:,.1f} MB left, but {needed / 1e6:,.1f} MB are needed. Free some, or "
            "set HF_DATASETS_CACHE to a folder on another disk."
        )


def _is_whole(path: Path, num_rows: int) -> bool:
    """Whether a shard is there and can be read; one that a full disk or a crash cut off is computed again."""
    try:
        return len(Dataset.from_file(str(path))) == num_rows
    except (OSError, ArrowInvalid):
        return False


@contextmanager
def _hide_bars_of_datasets() -> Iterator[None]:
    """There is one bar for all shards."""
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
