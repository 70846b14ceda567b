"""Logits to scores, and score files in the format of the official ASVspoof tools."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset


def cm_scores(logits: np.ndarray, label2id: dict[str, int]) -> np.ndarray:
    """
    Countermeasure scores, higher = more bona fide: the logit of bona fide minus the logit of spoof.

    Args:
        logits: (num_trials, 2).
        label2id: the model's class index by name.

    Returns:
        (num_trials,), in the dtype of `logits`.
    """
    return logits[:, int(label2id["bonafide"])] - logits[:, int(label2id["spoof"])]


def split_by_key(rows: Dataset, scores: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the bona fide and of the spoofed trials; `scores` in the order of `rows`."""
    labels = rows.with_format("numpy", columns=["label"])["label"][:]
    names = rows.features["label"].names
    scores = np.asarray(scores)
    return scores[labels == names.index("bonafide")], scores[labels == names.index("spoof")]


def write_scores(path: Path, rows: Dataset, scores: Sequence[float]) -> None:
    """
    Write a score file, `utterance_id attack key score` on each line; 9 significant digits, which a float32
    survives. The file appears whole or not at all.

    Raises:
        ValueError: not one score per row.
    """
    names = rows.features["label"].names
    columns = rows.select_columns(["utterance_id", "attack", "label"])[:]
    lines = [
        f"{utterance} {attack} {names[label]} {score:.9g}\n"
        for utterance, attack, label, score in zip(
            columns["utterance_id"], columns["attack"], columns["label"], scores, strict=True
        )
    ]
    write_text(path, "".join(lines))


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
