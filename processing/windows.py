"""Windows of a recording, and the score of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from transformers import PreTrainedModel, SequenceFeatureExtractor

from .calibration import find_llrs
from .scoring import score_batch
from .signal_check import check_signal


@dataclass(frozen=True)
class Window:
    """
    One window of a recording and its score.

    Attributes:
        start_seconds, end_seconds: where it is in the recording.
        score: higher = more bona fide.
        probability: of bona fide: softmax output, at equal priors if calibrated.
        doubt: why the score must not be used, or ""; see [`check_signal`].
        llr, uncut: log-likelihood ratio, cut to the bounds of the calibration and as it gives it; `None` if
            there is none.
        embedding: (size,); of size 0 where the model gives none.
    """

    start_seconds: float
    end_seconds: float
    score: float
    probability: float
    doubt: str
    llr: float | None
    uncut: float | None
    embedding: np.ndarray


def score_windows(
    model: PreTrainedModel,
    extractor: SequenceFeatureExtractor,
    windows: Sequence[tuple[int, np.ndarray]],
    calibration: Mapping | None = None,
) -> list[Window]:
    """Score windows, each given by its first sample and its samples (n,), as one batch."""
    rate, llrs, uncut = extractor.sampling_rate, [None] * len(windows), [None] * len(windows)
    inputs = extractor([samples for _, samples in windows], sampling_rate=rate, return_tensors="pt")
    scores, probabilities, embeddings = (of.numpy() for of in score_batch(model, inputs))
    if calibration:
        llrs, uncut = (of.tolist() for of in find_llrs(calibration, scores))
        probabilities = expit(llrs)
    places = [(start / rate, (start + len(samples)) / rate) for start, samples in windows]
    doubts = [check_signal(samples, rate) for _, samples in windows]
    columns = (scores.tolist(), probabilities.tolist(), doubts, llrs, uncut, embeddings)
    return [Window(*place, *values) for place, *values in zip(places, *columns, strict=True)]
