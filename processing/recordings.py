"""Scores of a person's own recordings: of the first crop, and over windows where a recording is longer."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from tqdm.auto import tqdm
from transformers import SequenceFeatureExtractor

from .audio import count_samples, decode_audio, decode_windows
from .audio_folder import AUDIO_EXTENSIONS
from .files import write_text
from .models import Countermeasure
from .scores import compute_scores


COLUMNS = (
    "file",
    "score",
    "probability_bonafide",
    "verdict",
    "seconds",
    "num_windows",
    "mean_score",
    "min_score",
    "min_start_seconds",
    "error",
)


@dataclass(frozen=True)
class Windows:
    """How long recordings are taken apart, and how many windows are scored at once."""

    hop_seconds: float | None = None  # from start to start of two windows; `None`: half a window
    batch_size: int = 32

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size {self.batch_size} must be positive.")

    def hop(self, extractor: SequenceFeatureExtractor) -> float | None:
        """
        Seconds from window to window; `None` where a recording is one window.

        Raises:
            ValueError: windows that leave gaps, or do not move on.
        """
        if extractor.num_samples is None:
            return None
        window = extractor.num_samples / extractor.sampling_rate
        hop = window / 2 if self.hop_seconds is None else self.hop_seconds
        if not 1 / extractor.sampling_rate <= hop <= window:
            raise ValueError(
                f"Windows every {hop:g} s of {window:g} s each leave gaps or do not move on. Choose a "
                f"distance above 0 and up to {window:g} s."
            )
        return hop


@dataclass
class Recording:
    """
    One recording and its scores, higher = more bona fide.

    Attributes:
        file: its path.
        seconds: its length.
        starts: (num_windows,) seconds, where each window begins; the first is the crop that the model was
            trained on.
        scores: (num_windows,), of each window.
        probabilities: (num_windows,), softmax output of bona fide.
        error: why it could not be scored, or "".
    """

    file: Path
    seconds: float = 0.0
    starts: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    error: str = ""

    def summary(self, threshold: float | None) -> dict:
        """The values of `COLUMNS`. The verdict is that of the first crop at `threshold`, if there is one."""
        if self.error:
            return {**dict.fromkeys(COLUMNS), "file": printable(self.file), "error": printable(self.error)}
        lowest = int(np.argmin(self.scores))
        verdict = None if threshold is None else ("bonafide" if self.scores[0] > threshold else "spoof")
        return {
            "file": printable(self.file),
            "score": self.scores[0],
            "probability_bonafide": self.probabilities[0],
            "verdict": verdict,
            "seconds": self.seconds,
            "num_windows": len(self.scores),
            "mean_score": float(np.mean(self.scores)),
            "min_score": self.scores[lowest],
            "min_start_seconds": self.starts[lowest],
            "error": None,
        }


def printable(value: Path | str) -> str:
    """As text that can be written: bytes of a file's name that are not UTF-8 as `\\xe9`."""
    return str(value).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def find_recordings(paths: Iterable[Path]) -> tuple[list[Path], int]:
    """
    The files named, and those in the folders named that have the ending of an audio file, each once; and how
    many other files lie in those folders. A folder without one stands for itself, and can't be read.
    """
    found, num_others = [], 0
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(file for file in path.rglob("*") if file.is_file())
        audio = [file for file in inside if file.suffix.lower() in AUDIO_EXTENSIONS]
        found += audio or [path]
        num_others += len(inside) - len(audio)
    once: dict[str, Path] = {}
    for file in found:
        once.setdefault(os.path.abspath(file), file)
    return list(once.values()), num_others


def score_recordings(
    countermeasure: Countermeasure, files: Iterable[str | Path], windows: Windows = Windows()
) -> Iterator[Recording]:
    """
    Score recordings of any format and length, one after the other, as they are finished. Memory does not grow
    with the length, but for a model that takes whole utterances: it gets each as one window.

    Args:
        countermeasure: see [`~processing.models.load_countermeasure`].
        files: audio files. What can't be read is not raised, but named in the recording's `error`.
        windows: distance of the windows' starts in seconds, and the batch size.

    Raises:
        ValueError: windows that are further apart than they are long.
    """
    crop, rate = countermeasure.feature_extractor.num_samples, countermeasure.feature_extractor.sampling_rate
    batch_size = 1 if crop is None else windows.batch_size
    hop = round((windows.hop(countermeasure.feature_extractor) or 0) * rate)
    waiting: list[tuple[Recording, np.ndarray]] = []
    unfinished: list[Recording] = []
    with tqdm(desc="Scoring", unit=" windows") as bar:
        for file in map(Path, files):
            recording = Recording(file)
            unfinished.append(recording)
            bar.set_postfix_str(printable(file.name))
            bar.total = (bar.total or 0) + _count_windows(file, crop, hop, rate)
            bar.refresh()
            for start, samples in _decode(recording, crop, hop, rate):
                recording.starts.append(start / rate)
                recording.seconds = (start + len(samples)) / rate
                waiting.append((recording, samples))
                if len(waiting) == batch_size:
                    _score(countermeasure, waiting)
                    bar.update(len(waiting))
                    waiting.clear()
            waiting = [(other, samples) for other, samples in waiting if not other.error]
            while unfinished and not any(other is unfinished[0] for other, _ in waiting):
                yield unfinished.pop(0)
        if waiting:
            _score(countermeasure, waiting)
            bar.update(len(waiting))
    yield from unfinished


def write_recordings(
    folder: Path, recordings: Iterable[Recording], threshold: float | None, about: Mapping
) -> None:
    """
    Write `recordings.csv`, a line a recording, and `recordings.json`, which begins with `about` and has every
    window's score.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recordings = list(recordings)
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(recording.summary(threshold) for recording in recordings)
    write_text(folder / "recordings.csv", table.getvalue())
    content = [
        {
            **recording.summary(threshold),
            "windows": []
            if recording.error  # how many were scored before depends on the batches
            else [
                {"start_seconds": start, "score": score}
                for start, score in zip(recording.starts, recording.scores, strict=True)
            ],
        }
        for recording in recordings
    ]
    write_text(folder / "recordings.json", json.dumps({**about, "recordings": content}, indent=2) + "\n")


def _count_windows(file: Path, crop: int | None, hop: int, rate: int) -> int:
    """Number of windows, for the progress bar: 0 for what can't be read."""
    if crop is None:
        return 1
    try:
        return 1 + max(0, -(-(count_samples(file, sampling_rate=rate) - crop) // hop))
    except (ValueError, OSError):
        return 0


def _decode(recording: Recording, crop: int | None, hop: int, rate: int) -> Iterator[tuple[int, np.ndarray]]:
    """The recording's windows, as far as it can be read."""
    try:
        if crop is None:
            yield 0, decode_audio(recording.file, sampling_rate=rate)
        else:
            yield from decode_windows(recording.file, num_samples=crop, hop=hop, sampling_rate=rate)
    except (ValueError, OSError) as error:
        recording.error = str(error)


def _score(countermeasure: Countermeasure, waiting: list[tuple[Recording, np.ndarray]]) -> None:
    """Score a batch of windows, and give each recording its own."""
    device, extractor = PartialState().device, countermeasure.feature_extractor
    model = countermeasure.model.to(device).eval()
    batch = extractor(
        [samples for _, samples in waiting], sampling_rate=extractor.sampling_rate, return_tensors="pt"
    )
    with torch.inference_mode():
        logits = model(**batch.to(device)).logits.float().cpu()
    label2id = model.config.label2id
    probabilities = logits.softmax(-1)[:, int(label2id["bonafide"])]
    scores = compute_scores(logits, label2id)
    for (recording, _), score, probability in zip(waiting, scores, probabilities, strict=True):
        if not torch.isfinite(score):
            recording.error = f"The model gives {recording.file} the score {score}."
        recording.scores.append(float(score))
        recording.probabilities.append(float(probability))
