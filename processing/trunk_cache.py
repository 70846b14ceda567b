"""What the frozen part of a model gives for every utterance, computed once and kept on disk for training."""

import hashlib
import json
import math
import shutil
from pathlib import Path

import datasets
import torch
import transformers
from accelerate import PartialState
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch.utils.data import ConcatDataset, DataLoader, StackDataset
from tqdm import tqdm  # tqdm.auto would start the workers of a loader twice
from transformers import PreTrainedModel

from .base_model import IGNORED_ENCODER_KEYS
from .collation import AudioCollator
from .files import write_whole
from .resuming import hash_rows, hash_tensors, read_on_main
from .scoring import Batches


SHARD_SIZE = 256  # utterances; what a kill costs at most
VERSION = 2  # to be raised with every change of what is computed


class TrunkCollator:
    """
    Collates cached rows into `trunk_states` (batch, states, frames, hidden_size), float32, and `labels`
    (batch,); `label_ids` are the model's class index of each index of the rows' `ClassLabel`.
    """

    def __init__(self, label_ids: list[int]):
        self.label_ids = torch.tensor(label_ids)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        labels = self.label_ids[torch.stack([row["label"] for row in rows])]
        return {"trunk_states": torch.stack([row["trunk_states"] for row in rows]).float(), "labels": labels}


def cache_trunk(
    model: PreTrainedModel,
    collator: AudioCollator,
    rows: Dataset,
    *,
    batches: Batches = Batches(),
    description: str = "utterances",
) -> ConcatDataset:
    """
    What the frozen part gives for every row, in the order of the rows, as `trunk_states` in float16, with its
    `label`. It is computed in float32 on the process's device, and kept in the cache of `datasets` in files
    of 256 utterances, under a key of utterances and audio files, crop, and frozen weights. Finished files are
    used again, after a kill or in another run; under `accelerate launch` the processes share the work.

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
    shards = {folder / f"{i:05d}-of-{len(ranges):05d}.safetensors": part for i, part in enumerate(ranges)}
    # All processes must share out the same ones.
    missing = read_on_main(lambda: [path for path in shards if not path.is_file()])
    remaining = sum(len(shards[path]) for path in missing)
    size = 2 * math.prod(shape) * remaining  # bytes
    PartialState().print(
        f"Frozen trunk of {description}: {' x '.join(map(str, shape))} values (states x frames x width) in "
        f"float16 of each of {remaining:,} utterances, {len(rows) - remaining:,} of {len(rows):,} are there: "
        f"{size / 1e6:,.1f} MB in {folder}"
    )
    if missing:
        _make_room(folder, size)
        _write_shards({path: shards[path] for path in missing}, rows, model, collator, batches)
    labels = torch.tensor(rows["label"][:])
    return ConcatDataset(
        StackDataset(trunk_states=load_file(path)["trunk_states"], label=labels[part.start : part.stop])
        for path, part in shards.items()
    )


@torch.no_grad()
def _write_shards(
    shards: dict[Path, range],
    rows: Dataset,
    model: PreTrainedModel,
    collator: AudioCollator,
    batches: Batches,
) -> None:
    """Compute shards, this process its share of them; each appears under its name when it is whole."""
    process = PartialState()
    own = list(shards.items())[process.process_index :: process.num_processes]
    size = batches.batch_size
    places = {path: [part[i : i + size] for i in range(0, len(part), size)] for path, part in own}
    loader = DataLoader(
        rows,
        batch_sampler=sum(places.values(), []),
        collate_fn=collator,
        num_workers=batches.num_workers,
    )
    bar = {"desc": "Frozen trunk", "unit": " batches", "disable": not process.is_main_process}
    inputs = iter(tqdm(loader, **bar))
    for path, of_shard in places.items():
        states = []
        for place, batch in zip(of_shard, inputs, strict=False):
            states.append(model.run_trunk(batch["input_values"].to(model.device)).half().cpu())
            finite = states[-1].isfinite().flatten(1).all(dim=1)
            if not finite.all():
                utterance = rows[place[int(finite.int().argmin())]]["utterance_id"]
                raise ValueError(
                    f"The frozen part gives {utterance} values that are NaN or beyond float16. Train without "
                    "--cache_frozen_trunk."
                )
        with write_whole(path) as partial:
            save_file({"trunk_states": torch.cat(states)}, partial)
    process.wait_for_everyone()


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
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _make_room(folder: Path, needed: int) -> None:
    """Make the folder, and check that it has that many bytes of space."""
    folder.mkdir(parents=True, exist_ok=True)
    if needed > (free := shutil.disk_usage(folder).free):
        raise ValueError(
            f"{folder} has {free / 1e6:,.1f} MB left, but {needed / 1e6:,.1f} MB are needed. Free some, or "
            "set HF_DATASETS_CACHE to a folder on another disk."
        )
