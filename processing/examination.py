"""The validation set of a calibrated model: its trials, of some of which the recordings are examined as any
case is."""

import math

import numpy as np
import pandas as pd
from datasets import Dataset

from .audio import read_header
from .calibration import LLRs
from .measurements import MEASUREMENTS
from .models import Countermeasure
from .recordings import Recording, choose_hop, score_recordings
from .validation_set import ValidationSet


MAX_EXAMINED = 2000  # trials, of more so many are drawn at random


def make_validation_set(
    countermeasure: Countermeasure,
    rows: Dataset,
    trials: pd.DataFrame,
    scores: np.ndarray,
    llrs: LLRs,
    *,
    batch_size: int = 32,
    seed: int = 0,
) -> ValidationSet:
    """
    Examine recordings as [`~processing.recordings.score_recordings`] examines a case, and put them together
    with all trials. What it will cost is printed first.

    Args:
        rows, trials, scores, llrs: of the calibration, in one order; the LLRs are cross-validated.
        batch_size: windows that are scored at once.
        seed: of the draw of the recordings, where there are more than 2,000.

    Raises:
        ValueError: none of the recordings gets a score.
    """
    places = np.arange(len(trials))
    if len(places) > MAX_EXAMINED:
        places = np.sort(np.random.default_rng(seed).choice(places, MAX_EXAMINED, replace=False))
    sources = rows.select(places)["audio"]
    hop = choose_hop(countermeasure.feature_extractor)
    print(_describe_cost(countermeasure, [read_header(source)["seconds"] for source in sources], hop))
    recordings = [*score_recordings(countermeasure, sources, hop_seconds=hop, batch_size=batch_size)]
    has_score = np.array([of.has_score for of in recordings])
    if not has_score.all():
        print(f"Left out of the examination: {np.sum(~has_score):,} recordings that get no score as a case.")
    recordings = [of for of in recordings if of.has_score]
    if not recordings:
        raise ValueError("None of the recordings gets a score as a case: there is nothing to validate with.")
    windows = [_list_scores(of) for of in recordings]
    codes, _ = pd.factorize(trials["speaker_id"])
    return ValidationSet(
        scores=scores.astype(np.float64),
        llrs=llrs.values,
        is_bonafide=(trials["key"] == "bonafide").to_numpy(),
        speakers=np.where(trials["speaker_id"] == "-", -1 - np.arange(len(codes)), codes),
        examined=places[has_score],
        embeddings=np.stack([of.embedding for of in recordings]).astype(np.float32),
        window_scores=np.concatenate(windows),
        window_places=np.repeat(np.arange(len(windows)), [len(of) for of in windows]),
        measurements={
            name: np.array([of.measurements[name] for of in recordings], float) for name in MEASUREMENTS
        },
        about=llrs.calibration,
    )


def _list_scores(recording: Recording) -> np.ndarray:
    """Of the windows that are not in doubt."""
    return np.array([of["score"] for of in recording.list_windows() if of["score"] is not None], np.float64)


def _describe_cost(countermeasure: Countermeasure, seconds: list[float], hop: float | None) -> str:
    extractor = countermeasure.feature_extractor
    text = f"Examining {len(seconds):,} recordings of {sum(seconds) / 3600:.2f} h in their whole length"
    if hop is None:
        return f"{text}: as much as scoring them once more."
    window = extractor.num_samples / extractor.sampling_rate
    num_windows = sum(1 + math.ceil(max(0, of - window) / hop) for of in seconds)
    return f"{text}: about {num_windows:,} windows, each as much as scoring a trial."
