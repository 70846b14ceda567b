"""Simple changes of a waveform: its speed, its bandwidth, its level, and the silence around the speech."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .ranges import check_range, draw
from .resampling import RATES, resample_array


FRAME_SECONDS, HOP_SECONDS = 0.02, 0.01


@dataclass(frozen=True)
class SpeedPerturbation:
    """
    The waveform played faster or slower, which moves its pitch and formants as well (Ko et al., "Audio
    augmentation for speech recognition", Interspeech 2015, with the factors 0.9, 1 and 1.1). **The length
    changes**, to ceil(num_samples / factor). The factor has two digits, so that filters can be kept.
    """

    factor: Sequence[float] = (0.9, 1.1)

    def __post_init__(self):
        check_range("factor", self.factor, 0.1, 10)

    def __call__(self, waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
        """(num_samples,) to (ceil(num_samples / factor),), float32; `rate` does not matter."""
        return resample_array(waveform, round(100 * draw(generator, self.factor)), 100)


@dataclass(frozen=True)
class BandLimiting:
    """
    The waveform resampled to a lower rate, in Hz, and back: nothing is left above half that rate. Its length
    is kept.
    """

    sampling_rate: int = 8000

    def __post_init__(self):
        if not isinstance(self.sampling_rate, int) or self.sampling_rate not in RATES:
            raise ValueError(
                f"sampling_rate {self.sampling_rate!r} is no whole number of at least {RATES[0]} Hz."
            )

    def __call__(self, waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
        """(num_samples,), float32, at `rate` in Hz; as it is where `rate` is not higher."""
        lower = resample_array(waveform, rate, min(rate, self.sampling_rate))
        return resample_array(lower, min(rate, self.sampling_rate), rate)[: len(waveform)]


@dataclass(frozen=True)
class Gain:
    """
    The waveform at another level; `gain` in dB. Its length is kept. What exceeds 1 is clipped only where
    `clip` says so.
    """

    gain: Sequence[float] = (-12.0, 12.0)  # as in audiomentations
    clip: bool = False

    def __post_init__(self):
        check_range("gain", self.gain, -np.inf)

    def __call__(self, waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
        """(num_samples,), float32; `rate` does not matter."""
        louder = waveform * np.float32(10 ** (draw(generator, self.gain) / 20))
        return np.clip(louder, -1, 1) if self.clip else louder


@dataclass(frozen=True)
class SilenceTrimming:
    """
    The waveform without the silence before and after the speech, of which detectors take the length for a cue
    (Müller et al., "Speech is silver, silence is golden", 2021). **The length changes**: the first and the
    last frame of 20 ms that are left are at most `threshold` dB, a range, below the one with the most energy.
    `leading` and `trailing` say which of the two is cut. What holds no sound at all stays.
    """

    threshold: Sequence[float] = (40.0, 40.0)
    leading: bool = True
    trailing: bool = True

    def __post_init__(self):
        check_range("threshold", self.threshold, 0)

    def __call__(self, waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
        """(num_samples,) to (at most num_samples,), float32, at `rate` in Hz."""
        length, hop = round(FRAME_SECONDS * rate), round(HOP_SECONDS * rate)
        power = np.concatenate([[0.0], np.cumsum(np.square(waveform, dtype=np.float64))])
        starts = np.arange(0, max(1, len(waveform) - length + hop), hop)
        ends = np.minimum(starts + length, len(waveform))
        energy = power[ends] - power[starts]
        loud = np.flatnonzero(energy >= energy.max() * 10 ** (-draw(generator, self.threshold) / 10))
        start = starts[loud[0]] if self.leading else 0
        return waveform[start : ends[loud[-1]] if self.trailing else None]
