"""`results.json`: every number with what it is of."""

import hashlib
import importlib.metadata
import json
import os
import platform
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset

from metrics.det import equal_error_rate

from .rows import Corpus, class_counts
from .scores import split_by_key, write_scores, write_text


PACKAGES = ("torch", "torchaudio", "transformers", "datasets", "accelerate", "safetensors", "numpy")


def evaluate_scores(corpus: Corpus, split: str, rows: Dataset, scores: np.ndarray) -> dict:
    """
    Results of one split: its identity and counts, the EER as a fraction, and the EER threshold of the score.

    Args:
        corpus, split: where the rows are from; a slice is named in full ("train[90%:]").
        rows: the trials.
        scores: (num_trials,) in the order of `rows`, higher = more bona fide.
    """
    eer, threshold = equal_error_rate(*split_by_key(rows, scores))
    counts = class_counts(rows)
    results = {
        "corpus": corpus.name,
        "split": split,
        "num_trials": len(rows),
        **{f"num_{key}": count for key, count in counts.items()},
        "num_missing": None if "[" in split else corpus.missing.get(split, 0),  # unknown for a slice
        "eer": eer,
        "eer_threshold": threshold,
        "score": "logit of bonafide minus logit of spoof, single crop; higher is more bona fide",
    }
    return {**results, "note": corpus.note} if corpus.note else results


def write_results(folder: Path, results: dict, rows: Dataset, scores: np.ndarray) -> None:
    """Write `scores.txt` and `results.json` into `folder`, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_scores(folder / "scores.txt", rows, scores)
    write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")


def describe_model(folder: Path) -> dict:
    """Name of the model's folder and the SHA-256 of its weights."""
    digests = {}
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as stream:
            digests[path.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"model": folder.name, "weights_sha256": digests}


def describe_environment() -> dict:
    """Versions of the libraries and the hardware that a result was computed with."""
    hardware = {"cpu": _cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        hardware["gpu"] = torch.cuda.get_device_name()
        hardware["num_gpus"] = torch.cuda.device_count()
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"versions": {"python": platform.python_version(), **versions}, "hardware": hardware}


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
