"""Rows to scores with a model that is passed in, on one process or many, and from where a killed run was."""

import itertools
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, send_to_device
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel, SequenceFeatureExtractor
from transformers.utils import ModelOutput

from .augmentation import Augmentation
from .collation import AudioCollator
from .conditions import CONDITIONS
from .files import hash_files, write_text
from .models import Countermeasure
from .results import describe_countermeasure, digest_config
from .resuming import describe_difference, hash_rows, read_on_main
from .scores import compute_scores
from .trials import Corpus


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

    def choose_size(self, feature_extractor: SequenceFeatureExtractor) -> int:
        """Utterances in a batch: one where they are taken whole, or all would be padded to the longest."""
        return 1 if feature_extractor.num_samples is None else self.batch_size


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
    the processes take batches in turn, so that each is computed as on one process, and every process gets all
    scores.

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
    process = PartialState()
    size = batches.choose_size(collator.feature_extractor)
    corpora = np.asarray(rows["corpus"][:]) if "corpus" in rows.column_names else np.zeros(len(rows))
    # A batch is of one corpus, so that its scores have the bits that they have without the others.
    ends = [*np.flatnonzero(corpora[1:] != corpora[:-1]) + 1, len(rows)]
    slices = [
        range(i, min(i + size, end))
        for begin, end in itertools.pairwise([0, *ends])
        for i in range(begin, end, size)
    ]
    finished = [] if checkpoint is None else checkpoint.load()
    scores = [score for batch in finished for score in batch]
    num_before = len(scores)
    if num_before:
        process.print(f"{num_before:,} of {len(rows):,} utterances were scored before.")
    own = slices[len(finished) + process.process_index :: process.num_processes]
    loader = DataLoader(
        rows,
        batch_sampler=own,
        collate_fn=collator,
        num_workers=batches.num_workers,
        pin_memory=process.device.type == "cuda",
    )
    num_rounds = len(range(len(finished), len(slices), process.num_processes))
    # For the last processes there may be no batch in the last round.
    rounds = itertools.islice(itertools.chain(loader, itertools.repeat(None)), num_rounds)
    model = model.to(process.device).eval()
    utterances = rows["utterance_id"][:]
    started = time.time()
    total = len(rows) - num_before
    with tqdm(total=total, desc=description, unit=" utterances", disable=not process.is_main_process) as bar:
        for scored in score_ahead(model, rounds):
            computed = gather_object(scored)
            new = [score for of_batch in computed for score in of_batch]
            names = utterances[len(scores) : len(scores) + len(new)]
            for name, score in zip(names, new, strict=True):
                if not math.isfinite(score):
                    raise ValueError(
                        f"The score of utterance {name} is {score}: check the weights of the model."
                    )
            scores += new
            if checkpoint is not None:
                checkpoint.add(computed)
            bar.update(len(new))
    if total:
        seconds = time.time() - started
        process.print(
            f"{description}: {total:,} utterances in {seconds:.1f} s, {total / seconds:.1f} per second"
        )
    return torch.tensor(scores)


def score_conditions(
    countermeasure: Countermeasure,
    rows: Dataset,
    augmentations: Mapping[str, Augmentation],
    batches: Batches,
    clean: "ScoringCheckpoint",
) -> dict[str, np.ndarray]:
    """
    Score every row (num_rows,) under each condition, by its name: what its augmentation makes of the whole
    recording, with random numbers that are a function of the utterance, and so the same for every model. Each
    has a checkpoint in a folder beside that of the `clean` scoring; errors are those of [`score_rows`].
    """
    scored = {}
    for name, augmentation in augmentations.items():
        scored[name] = score_rows(
            countermeasure.model,
            AudioCollator(countermeasure.feature_extractor, augmentation=augmentation),
            rows,
            batches=batches,
            checkpoint=ScoringCheckpoint(
                clean.path.parent / "conditions" / name / clean.path.name,
                {**clean.identity, "condition": {name: CONDITIONS[name]}},
                replace=clean.replace,
            ),
            description=f"Scoring under {name}",
        ).numpy()
    return scored


def score_ahead(model: PreTrainedModel, batches: Iterator[Mapping | None]) -> Iterator[list[list[float]]]:
    """
    The scores of each batch, in a list that is empty where there is none. They come when the next batch has
    been started, so that a GPU computes that one while these are kept.
    """
    waiting, end = deque(), object()
    while True:
        try:
            batch = next(batches, end)
        except BaseException:  # what was computed before the recording that cannot be read is kept
            yield from (_take_scores(model, started) for started in waiting)
            raise
        if batch is end:
            break
        waiting.append([] if batch is None else [_start_batch(model, batch)])
        if len(waiting) > 1:
            yield _take_scores(model, waiting.popleft())
    yield from (_take_scores(model, started) for started in waiting)


def _take_scores(model: PreTrainedModel, started: list[Callable[[], torch.Tensor]]) -> list[list[float]]:
    return [compute_scores(wait(), model.config.label2id).tolist() for wait in started]


@torch.inference_mode()
def _start_batch(model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> Callable[[], torch.Tensor]:
    """Start the computation of a batch; what is returned waits for its logits, float32, on the CPU."""
    on_gpu = model.device.type == "cuda"
    logits = _forward(model, batch).logits.float().to("cpu", non_blocking=on_gpu)
    copied = torch.cuda.current_stream().record_event() if on_gpu else None

    def wait() -> torch.Tensor:
        if copied is not None:
            copied.synchronize()
        return logits

    return wait


def _forward(model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> ModelOutput:
    inputs = {name: of for name, of in batch.items() if name != "labels"}
    return model(**send_to_device(inputs, model.device, non_blocking=model.device.type == "cuda"))


@torch.inference_mode()
def score_batch(
    model: PreTrainedModel, batch: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Score a batch that a collator or a feature extractor gives, on the model's device: scores (batch,), higher
    = more bona fide, softmax outputs of bona fide (batch,), and embeddings (batch, size), of size 0 where the
    model gives none; all float32, on the CPU.
    """
    outputs, label2id = _forward(model, batch), model.config.label2id
    logits, embeddings = outputs.logits.float().cpu(), getattr(outputs, "embeddings", None)
    embeddings = torch.empty(len(logits), 0) if embeddings is None else embeddings.float().cpu()
    return compute_scores(logits, label2id), logits.softmax(-1)[:, int(label2id["bonafide"])], embeddings


def identify_scoring(
    countermeasure: Countermeasure, corpus: Corpus, split: str, rows: Dataset, batches: Batches
) -> dict:
    """All that the scores depend on: a killed scoring goes on only where nothing of it has changed."""
    of_rows = {"corpus": corpus.name, "split": split, "rows_sha256": hash_rows(rows)}
    return {**identify_scorer(countermeasure, batches), **of_rows}


def identify_scorer(countermeasure: Countermeasure, batches: Batches) -> dict:
    """All that the scores of given rows depend on, but for the number of threads."""
    folder = countermeasure.folder
    return {
        **describe_countermeasure(countermeasure),
        "files_sha256": hash_files([*folder.glob("*processor_config.json"), *folder.glob("*.py")]),
        "config_sha256": digest_config(folder),
        "batch_size": batches.batch_size,
        "device": PartialState().device.type,
        "torch": torch.__version__,
    }


class ScoringCheckpoint:
    """
    Scores of the batches that are finished, in their order, so that a killed scoring goes on where it was,
    on any number of processes. The main process appends to a file, a line a batch; a line that the kill cut
    short does not count. Scores of another identity (what is scored by what) are never taken: they are an
    error, or are thrown away where `replace` says so.
    """

    def __init__(self, path: Path, identity: Mapping, *, replace: bool = False):
        self.path, self.identity, self.replace = path, identity, replace
        self.num_scored_before = 0  # utterances, as `load` finds them

    def load(self) -> list[list[float]]:
        """The scores of each finished batch. All processes call it; a `ValueError` names another scoring."""
        finished = read_on_main(self._read)
        self.num_scored_before = sum(map(len, finished))
        return finished

    def add(self, batches: list[list[float]]) -> None:
        """Keep the scores of the next batches."""
        if PartialState().is_main_process:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(scores) + "\n" for scores in batches)

    def remove(self) -> None:
        """Delete the file, when its scores are kept elsewhere."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> list[list[float]]:
        """Read what is finished, and leave nothing else in the file."""
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        identity, *finished = lines or [self.identity]
        if difference := describe_difference(identity, self.identity):
            if not self.replace:
                raise ValueError(
                    f"{self.path} holds the unfinished scoring of something else: {difference}. Finish that "
                    "one, throw it away by --overwrite, or choose another --output_dir."
                )
            finished = []
        lines = [self.identity, *finished]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))
        return finished
