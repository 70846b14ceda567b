"""Scores of a recording while it comes: of every window as soon as it is whole."""

import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from accelerate import PartialState
from transformers import PreTrainedModel, SequenceFeatureExtractor

from .audio import WindowCutter
from .recordings import choose_hop
from .report import format_time
from .windows import Window, score_windows


MAX_WHOLE_SECONDS = 3600  # that are held for a model of whole recordings
WINDOW_TITLES = f"{'score':>9} {'LLR':>9} {'p(bonafide)':>11} {'mean':>9} {'min':>9} {'from':>10} {'to':>10}"


@dataclass(frozen=True)
class StreamedWindow:
    """
    A window, and the score of the stream up to its end.

    Attributes:
        window: the window and its own score.
        is_early: whether it is shorter than the crop: it has the score of a recording that ends there, and
            does not count for mean and lowest.
        mean_score, min_score: of all windows so far but those in doubt; NaN without any.
    """

    window: Window
    is_early: bool
    mean_score: float
    min_score: float


class StreamingScorer:
    """
    Scores one stream. The windows and, to the rounding of float32, their scores are those that
    [`~processing.recordings.score_recordings`] gives the same signal, whatever chunks it comes in. Only the
    latest window is held, so that a stream may be endless. A model of whole recordings scores in the end, and
    an hour is held for it.

    Args:
        model: a countermeasure, also an exported one; see [`~processing.models.load_countermeasure`].
        feature_extractor: of the model.
        hop_seconds: from the start of a window to that of the next; see [`choose_hop`].
        min_seconds: an early score after so many seconds, and again each time that the stream is twice as
            long, up to half the crop. `None`: the first score is that of the crop.
        calibration: of the model, as a `Countermeasure` has it; windows have LLRs by it.

    Raises:
        ValueError: windows that are further apart than they are long; `min_seconds` that are not positive.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        feature_extractor: SequenceFeatureExtractor,
        *,
        hop_seconds: float | None = None,
        min_seconds: float | None = None,
        calibration: dict | None = None,
    ):
        self.model = model.to(PartialState().device).eval()
        self.feature_extractor, self.calibration = feature_extractor, calibration
        rate, hop = feature_extractor.sampling_rate, choose_hop(feature_extractor, hop_seconds)
        if min_seconds is not None and not 1 / rate <= min_seconds < math.inf:
            raise ValueError(f"min_seconds {min_seconds:g} must be positive: 1, for instance.")
        num_early = min_seconds and round(min_seconds * rate)
        self.cutter = WindowCutter(feature_extractor.num_samples, hop and round(hop * rate), num_early)
        self.max_samples = MAX_WHOLE_SECONDS * rate if hop is None else math.inf
        self.num_scored, self.mean_score, self.min_score = 0, math.nan, math.nan

    def push(self, chunk: np.ndarray) -> list[StreamedWindow]:
        """
        Take the next samples (n,), floating point, at the feature extractor's rate, of which 1 is full scale.
        Returns the windows that they complete, often none.

        Raises:
            ValueError: another kind of samples; NaN or infinity; a score that is not finite; more than an
                hour for a model of whole recordings; a stream that was finished.
        """
        if self.cutter is None:
            raise ValueError("This stream was finished. Make another StreamingScorer for the next one.")
        chunk = np.asarray(chunk)
        if chunk.ndim != 1 or chunk.dtype.kind != "f":
            raise ValueError(
                f"A chunk of {chunk.dtype} and shape {chunk.shape} was given, but floating point in [-1, 1] "
                "and shape (samples,) is expected: divide 16-bit samples by 32768, average channels."
            )
        if self.cutter.num_held + len(chunk) > self.max_samples:
            raise ValueError(
                f"This model scores whole recordings, up to {format_time(MAX_WHOLE_SECONDS)} of a stream."
            )
        samples = chunk.astype(np.float32)  # a copy: who records may use the chunk again
        return [self._score(*window) for window in self.cutter.add(samples)]

    def finish(self) -> list[StreamedWindow]:
        """The stream has ended: returns its last window, unless it has been returned."""
        cutter, self.cutter = self.cutter, None
        return [] if cutter is None else [self._score(*window) for window in cutter.finish()]

    def _score(self, start: int, samples: np.ndarray, is_early: bool) -> StreamedWindow:
        extractor, windows = self.feature_extractor, [(start, samples)]
        (window,) = score_windows(self.model, extractor, windows, self.calibration)
        if not window.doubt and not math.isfinite(window.score):
            raise ValueError(f"The score of the stream is {window.score}: check the model's weights.")
        if not window.doubt and not is_early:
            self.num_scored += 1
            mean = window.score if self.num_scored == 1 else self.mean_score
            self.mean_score = mean + (window.score - mean) / self.num_scored
            self.min_score = float(np.fmin(self.min_score, window.score))
        return StreamedWindow(window, is_early, self.mean_score, self.min_score)


@contextmanager
def end_on_interrupt(pipe: BinaryIO) -> Iterator[None]:
    """Ctrl-C ends a pipe: what has come is read, and then there is nothing more. A second one interrupts."""

    def end(*_) -> None:
        signal.signal(signal.SIGINT, before)
        os.dup2(os.open(os.devnull, os.O_RDONLY), pipe.fileno())

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def describe_window(result: StreamedWindow) -> str:
    """A window as a line below `WINDOW_TITLES`."""
    window, remark = result.window, "early, not a whole window" if result.is_early else ""
    llr = math.nan if window.llr is None else window.llr
    values = [window.score, llr, window.probability]
    if window.doubt:
        values, remark = [math.nan] * 3, f"no score, because {window.doubt}"
    elif window.llr != window.uncut:
        remark += ", LLR cut to the bounds" if remark else "LLR cut to the bounds"
    formats = ("9.4f", "9.2f", "11.4f", "9.4f", "9.4f")
    columns = zip([*values, result.mean_score, result.min_score], formats, strict=True)
    cells = [f"{value:{of}}".replace("nan", "  -") for value, of in columns]
    cells += [f"{format_time(of):>10}" for of in (window.start_seconds, window.end_seconds)]
    return f"{' '.join(cells)}  {remark}".rstrip()


__all__ = ["StreamedWindow", "StreamingScorer"]
