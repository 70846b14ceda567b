"""Rows to scores with a model that is passed in, on one process or many."""

import torch
from accelerate import Accelerator
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from .collation import AudioCollator
from .scores import cm_scores


def score_rows(
    model: PreTrainedModel,
    collator: AudioCollator,
    rows: Dataset,
    *,
    batch_size: int = 8,
    num_workers: int = 0,
    description: str = "Scoring",
) -> torch.Tensor:
    """
    Score every row, in the order of the rows, at the precision of the weights. Under `accelerate launch` the
    rows are shared out over the processes, and every process gets all scores.

    Returns:
        (num_rows,), float32, on the CPU; higher = more bona fide.

    Raises:
        ValueError, FileNotFoundError: audio that cannot be decoded.
    """
    accelerator = Accelerator()
    loader = DataLoader(rows, batch_size=batch_size, collate_fn=collator, num_workers=num_workers)
    model = model.to(accelerator.device).eval()
    scores = []
    with tqdm(
        total=len(rows), desc=description, unit=" utterances", disable=not accelerator.is_main_process
    ) as bar:
        for batch in accelerator.prepare(loader):
            batch.pop("labels", None)
            with torch.inference_mode():
                logits = model(**batch).logits
            logits = accelerator.gather_for_metrics(logits).float().cpu()
            scores.append(cm_scores(logits, model.config.label2id))
            bar.update(len(logits))
    return torch.cat(scores)
