"""Rows to scores with a model that is passed in, on one process or many, and from where a killed run was."""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from .collation import AudioCollator
from .files import write_text
from .scores import compute_scores


@dataclass(frozen=True)
class Batches:
    """How rows are taken together and decoded."""

    batch_size: int = 32
    num_workers: int = 0  # loader processes; 0 decodes between batches

    def __post_init__(self):
        if self.batch_size < 1 or self.num_workers < 0:
            raise ValueError(
                f"batch_size {self.batch_size} must be positive, num_workers {self.num_workers} not negative."
            )


def score_rows(
    model: PreTrainedModel,
    collator: AudioCollator,
    rows: Dataset,
    *,
    batches: Batches = Batches(),
    checkpoint: "ScoringCheckpoint | None" = None,
    description: str = "Scoring",
) -> torch.Tensor:
    """
    Score every row, in the order of the rows, at the precision of the weights. Under `accelerate launch`
    whole batches are shared out over the processes, so that each is computed as on one process, and every
    process gets all scores.

    Args:
        model, collator: the countermeasure, and what makes a batch of rows for it.
        rows: see `trials.FEATURES`; labels do not matter.
        batches: batch size and loader processes. Whole utterances (`num_samples: null`) go one at a time.
        checkpoint: keeps the scores of finished batches; after a kill only the rest is computed.
        description: of the progress bar.

    Returns:
        (num_rows,), float32, on the CPU; higher = more bona fide.

    Raises:
        ValueError, FileNotFoundError: audio that cannot be decoded; a score that is NaN or infinite; a
            checkpoint of another scoring.
    """
    state = PartialState()
    # Whole utterances would all be padded to the longest.
    size = 1 if collator.feature_extractor.num_samples is None else batches.batch_size
    slices = [range(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]
    done = {} if checkpoint is None else checkpoint.finished(state)
    remaining = [index for index in range(len(slices)) if index not in done]
    own = remaining[state.process_index :: state.num_processes]
    computed = {}
    loader = DataLoader(
        rows,
        batch_sampler=[list(slices[index]) for index in own],
        collate_fn=collator,
        num_workers=batches.num_workers,
    )
    model = model.to(state.device).eval()
    utterances = rows["utterance_id"][:]
    if done:
        state.print(f"{checkpoint.num_scored_before:,} of {len(rows):,} utterances were scored before.")
    share = f" (share of process 1 of {state.num_processes})" if state.num_processes > 1 else ""
    started = time.time()
    with tqdm(
        total=sum(len(slices[index]) for index in own),
        desc=description + share,
        unit=" utterances",
        disable=not state.is_main_process,
    ) as bar:
        for index, batch in zip(own, loader, strict=True):
            scores, _ = score_batch(model, batch)
            check_finite(scores, [f"utterance {utterances[i]}" for i in slices[index]])
            computed[index] = scores.tolist()
            if checkpoint is not None:
                checkpoint.add(index, computed[index])
            bar.update(len(computed[index]))
    gathered = gather_object(list(computed.items())) if state.num_processes > 1 else computed.items()
    if num_scored := sum(len(slices[index]) for index in remaining):
        seconds = time.time() - started
        state.print(
            f"{description}: {num_scored:,} utterances in {seconds:.1f} s, "
            f"{num_scored / seconds:.1f} per second"
        )
    by_batch = {**done, **dict(gathered)}
    return torch.tensor([score for index in range(len(slices)) for score in by_batch[index]])


@torch.inference_mode()
def score_batch(
    model: PreTrainedModel, batch: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Score a batch that a collator or a feature extractor gives, on the model's device.

    Returns:
        Scores (batch,), higher = more bona fide, and softmax outputs of bona fide (batch,), both float32, on
        the CPU.
    """
    inputs = {name: tensor.to(model.device) for name, tensor in batch.items() if name != "labels"}
    logits = model(**inputs).logits.float().cpu()
    label2id = model.config.label2id
    return compute_scores(logits, label2id), logits.softmax(-1)[:, int(label2id["bonafide"])]


def check_finite(scores: torch.Tensor, names: Sequence[str]) -> None:
    """
    Raises:
        ValueError: a score (num_scores,) that is NaN or infinite; the message has its name.
    """
    if not (finite := torch.isfinite(scores)).all():
        at = int(finite.int().argmin())
        raise ValueError(f"The score of {names[at]} is {scores[at]}: check the weights of the model.")


class ScoringCheckpoint:
    """
    Scores of the batches that are finished, so that a killed scoring goes on where it was. Each process
    appends to a file of its own in `folder`, a line a batch; a line that the kill cut short does not count.

    Args:
        folder: holds nothing else; made when needed.
        identity: what is scored by what. Another one's scores are never taken.
        replace: throw another one's scores away, instead of raising.
    """

    def __init__(self, folder: Path, identity: dict, *, replace: bool = False):
        self.folder, self.identity, self.replace = folder, identity, replace
        self.num_scored_before = 0  # utterances, as `finished` finds them
        self._stream = None

    def finished(self, state: PartialState) -> dict[int, list[float]]:
        """
        Scores of the finished batches by the batch's index; and makes ready for more. All processes call it.

        Raises:
            ValueError: the folder holds another scoring; the message names the difference.
        """
        found = [None]
        if state.is_main_process:
            try:
                found = [self._collect()]
            except ValueError as error:
                found = [error]
        broadcast_object_list(found)
        if isinstance(found[0], ValueError):
            raise found[0]
        self.num_scored_before = sum(map(len, found[0].values()))
        self._stream = open(self.folder / f"process-{state.process_index}.jsonl", "w", encoding="utf-8")
        self._write(self.identity)
        return found[0]

    def add(self, index: int, scores: list[float]) -> None:
        """Keep the scores of one batch."""
        self._write([index, scores])

    def remove(self) -> None:
        """Delete the folder, when its scores are kept elsewhere."""
        for path in self.folder.glob("*.jsonl"):
            path.unlink()
        if self.folder.is_dir():
            self.folder.rmdir()

    def _write(self, value) -> None:
        self._stream.write(json.dumps(value) + "\n")
        self._stream.flush()

    def _collect(self) -> dict[int, list[float]]:
        """Read all files of the folder into one, from which another number of processes can go on."""
        os.makedirs(self.folder, exist_ok=True)
        done, paths = {}, sorted(self.folder.glob("process-*.jsonl"))
        for path in [self.folder / "finished.jsonl", *paths]:
            if path.is_file():
                done |= self._read(path)
        lines = [self.identity, *([index, done[index]] for index in sorted(done))]
        write_text(self.folder / "finished.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        for path in paths:
            path.unlink()
        return done

    def _read(self, path: Path) -> dict[int, list[float]]:
        lines = []
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                lines.append(json.loads(line if line.endswith("\n") else "cut short"))
            except json.JSONDecodeError:  # what follows is computed again
                break
        if not lines:
            return {}
        if lines[0] != json.loads(json.dumps(self.identity)):
            if self.replace:
                return {}
            keys = [
                key for key in {**lines[0], **self.identity} if lines[0].get(key) != self.identity.get(key)
            ]
            raise ValueError(
                f"{self.folder} holds the unfinished scoring of something else: "
                + "; ".join(f"{key} {lines[0].get(key)} there, {self.identity.get(key)} now" for key in keys)
                + ". Finish that one, throw it away by --overwrite, or choose another --output_dir."
            )
        return {index: scores for index, scores in lines[1:]}


def hash_rows(rows: Dataset) -> str:
    """
    SHA-256 of the utterances in their order and of their audio: path, size and time of the last change of a
    file, the bytes where they are within the rows.
    """
    digest = hashlib.sha256()
    for batch in rows.select_columns(["utterance_id", "audio"]).with_format("arrow").iter(1000):
        paths = pc.struct_field(batch["audio"], "path").to_pylist()
        contents = pc.struct_field(batch["audio"], "bytes")
        for utterance, path, content in zip(batch["utterance_id"].to_pylist(), paths, contents, strict=True):
            digest.update(f"{utterance} {path} ".encode())
            if content.is_valid:
                digest.update(hashlib.sha256(content.as_buffer()).digest())
            else:
                status = os.stat(path)
                digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()
