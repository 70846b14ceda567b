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
        llr: log-likelihood ratio, cut to the bounds of the calibration; `None` if there is none.
        uncut: the same as the calibration gives it.
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
    """
    Score windows as one batch, on the model's device.

    Args:
        windows: of each the first sample, counted from the beginning of the recording, and the samples (n,),
            at the extractor's rate.
        calibration: of the model's config.
    """
    rate, llrs, uncut = extractor.sampling_rate, [None] * len(windows), [None] * len(windows)
    inputs = extractor([samples for _, samples in windows], sampling_rate=rate, return_tensors="pt")
    scores, probabilities, embeddings = (of.numpy() for of in score_batch(model, inputs))
    if calibration:
        llrs, uncut = (of.tolist() for of in find_llrs(calibration, scores))
        probabilities = expit(llrs)
    columns = zip(windows, scores.tolist(), probabilities.tolist(), llrs, uncut, embeddings, strict=True)
    return [
        Window(
            start_seconds=start / rate,
            end_seconds=(start + len(samples)) / rate,
            score=score,
            probability=probability,
            doubt=check_signal(samples, rate),
            llr=llr,
            uncut=raw,
            embedding=embedding,
        )
        for (start, samples), score, probability, llr, raw, embedding in columns
    ]
