"""What the frozen part of a model gives for every utterance, computed once and kept on disk for training."""

import hashlib
import json
import math
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
from accelerate import PartialState
from datasets import Array3D, ClassLabel, Dataset, Features, Value, concatenate_datasets
from pyarrow import ArrowInvalid
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from .base_model import IGNORED_ENCODER_KEYS
from .collation import AudioCollator
from .resuming import hash_rows, hash_tensors, read_on_main
from .scoring import Batches


SHARD_SIZE = 256  # utterances; what a kill costs at most
VERSION = 1  # to be raised with every change of what is computed


class TrunkCollator:
    """
    Collates cached rows into `trunk_states` (batch, states, frames, hidden_size), float32, and `labels`
    (batch,); `label_ids` are the model's class index of each index of the rows' `ClassLabel`.
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
    `accelerate launch` they are shared out over the processes. `num_workers` threads decode.

    Raises:
        ValueError: nothing of the model is frozen, or adapters are trained in it; a random crop or
            augmentation; a value that float16 cannot hold; audio that cannot be decoded; too little space on
            the disk.
    """
    if not getattr(model.config, "has_frozen_trunk", False):
        raise ValueError(
            f"--cache_frozen_trunk: nothing of this {model.config.model_type} is frozen, so there is nothing "
            "to compute beforehand. Leave the option out."
        )
    if any(p.requires_grad for module in model.frozen_modules() for p in module.parameters()):
        raise ValueError(
            "--cache_frozen_trunk keeps what the frozen part gives, but adapters are trained in it, which "
            "change that. Leave out the cache or --lora_rank."
        )
    is_whole = collator.feature_extractor.num_samples is None
    if is_whole or collator.crop != "start" or collator.augmentation is not None:
        raise ValueError(
            "--cache_frozen_trunk keeps one crop of each utterance, of num_samples, as it is: leave out "
            "--crop random and augmentation, or the cache."
        )
    model = model.to(PartialState().device)
    with torch.no_grad():
        silence = torch.zeros(1, model.config.num_samples, device=model.device)
        shape = tuple(model.run_trunk(silence).shape[1:])  # states, frames, hidden_size
    key = _make_key(model, collator, rows, shape)
    folder = Path(datasets.config.HF_DATASETS_CACHE, "frozen-trunk", key[:32])
    ranges = [range(i, min(i + SHARD_SIZE, len(rows))) for i in range(0, len(rows), SHARD_SIZE)]
    shards = {folder / f"{i:05d}-of-{len(ranges):05d}.arrow": part for i, part in enumerate(ranges)}
    # All processes must share out the same ones.
    missing = read_on_main(lambda: [path for path, part in shards.items() if not _is_whole(path, len(part))])
    if not missing:
        PartialState().print(f"Frozen trunk of {description}: {len(rows):,} utterances are in {folder}")
    else:
        remaining = sum(len(shards[path]) for path in missing)
        size = 2 * math.prod(shape) * remaining  # bytes
        values = f"{' x '.join(map(str, shape))} values (states x frames x width) in float16"
        PartialState().print(
            f"Frozen trunk of {description}: {values} of each of {remaining:,} utterances, "
            f"{len(rows) - remaining:,} of {len(rows):,} are there: {size / 1e6:,.1f} MB in {folder}"
        )
        _make_room(folder, size)
        _write_shards({path: rows.select(shards[path]) for path in missing}, model, collator, shape, batches)
    return concatenate_datasets([Dataset.from_file(str(path)) for path in shards]).with_format(
        "torch", columns=["trunk_states", "label"]
    )


def _write_shards(
    shards: dict[Path, Dataset],
    model: PreTrainedModel,
    collator: AudioCollator,
    shape: tuple[int, int, int],
    batches: Batches,
) -> None:
    """Compute shards, this process its share of them; each appears under its name when it is whole."""
    process = PartialState()
    own = list(shards.items())[process.process_index :: process.num_processes]
    total = sum(len(rows) for _, rows in own)
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()  # there is one bar for all shards
    try:
        with (
            tqdm(total=total, desc="Frozen trunk", disable=not process.is_main_process) as bar,
            ThreadPoolExecutor(max(1, batches.num_workers)) as pool,
        ):
            run = partial(_run_trunk, model=model, collator=collator, pool=pool, bar=bar)
            for path, rows in own:
                label = ClassLabel(names=rows.features["label"].names)
                states = Array3D(shape=shape, dtype="float16")
                features = Features(utterance_id=Value("string"), label=label, trunk_states=states)
                rows.map(
                    run,
                    batched=True,
                    batch_size=batches.batch_size,
                    writer_batch_size=batches.batch_size,
                    features=features,
                    remove_columns=[name for name in rows.column_names if name not in features],
                    cache_file_name=str(path),
                    load_from_cache_file=False,  # a shard that is there could not be read
                    new_fingerprint=hashlib.sha256(str(path).encode()).hexdigest()[:16],
                )
    finally:
        if shown:
            datasets.enable_progress_bars()
    process.wait_for_everyone()


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


def _make_key(
    model: PreTrainedModel, collator: AudioCollator, rows: Dataset, shape: tuple[int, int, int]
) -> str:
    """SHA-256 of all that the cached values depend on; of the head, it is their shape and norm alone."""
    crop = json.loads(collator.feature_extractor.to_json_string())
    encoder = model.config.encoder_config.to_dict()
    tensors = (
        (f"{index} {name}", tensor)
        for index, module in enumerate(model.frozen_modules())
        for name, tensor in module.state_dict().items()
    )
    parts = {
        "version": VERSION,
        "transformers": transformers.__version__,
        "encoder_config": {k: v for k, v in encoder.items() if k not in IGNORED_ENCODER_KEYS},
        "num_frozen_layers": model.config.num_frozen_layers,
        "has_last_norm": model.config.has_last_norm,
        "shape": shape,
        "weights": hash_tensors(tensors),
        "feature_extractor": {k: v for k, v in crop.items() if k != "auto_map"},
        "rows": hash_rows(rows),
        "labels": hashlib.sha256(bytes(rows.with_format("numpy")["label"][:].astype(np.int8))).hexdigest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _make_room(folder: Path, needed: int) -> None:
    """Make the folder, remove what killed runs left in it, and check that it has that many bytes of space."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("tmp*"):
        if time.time() - path.stat().st_mtime > 3600:  # seconds in which nobody has touched it
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
