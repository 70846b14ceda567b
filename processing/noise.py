"""Additive noise at a signal-to-noise ratio: recordings from a folder, such as MUSAN, or white noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from .audio import count_samples, decode_audio
from .folder_tree import list_recordings
from .ranges import check_range, draw


@dataclass(frozen=True)
class AdditiveNoise:
    """
    The waveform plus noise, at a ratio of their mean powers over the whole utterance. Its length and its
    level are kept; the sum may exceed 1, and is not clipped.

    The ratio by default is that of Snyder et al., "X-vectors", ICASSP 2018, for `musan/noise`. Theirs for
    `musan/music` is an SNR of 5 to 15; for babble, 13 to 20 and 3 to 7 recordings of `musan/speech`.

    Args:
        folder: of recordings, at any depth; `None`: white Gaussian noise. WAV and FLAC are quick; of other
            formats all that precedes the part that is drawn is decoded, too. What is too short is repeated.
        snr: signal-to-noise ratio, dB.
        num_recordings: how many, [lowest, highest], are added up at the same power.

    Raises:
        FileNotFoundError: the folder is not there, or holds no recordings.
    """

    folder: str | None = None
    snr: Sequence[float] = (0.0, 15.0)
    num_recordings: Sequence[int] = (1, 1)

    def __post_init__(self):
        check_range("snr", self.snr, -np.inf)
        check_range("num_recordings", self.num_recordings, 1)
        if self.folder is None and tuple(self.num_recordings) != (1, 1):
            raise ValueError("num_recordings is of a folder, and there is none: add folder.")
        _ = self.recordings

    @cached_property
    def recordings(self) -> list[Path]:
        """All below the folder."""
        return [] if self.folder is None else list_recordings(Path(self.folder))

    def __call__(self, waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
        """(num_samples,), float32, at `rate` in Hz."""
        noise = self.make_noise(len(waveform), rate, generator)
        level = measure_level(waveform) / 10 ** (draw(generator, self.snr) / 20)
        return waveform + scale_to_level(noise, level)

    def make_noise(self, num_samples: int, rate: int, generator: np.random.Generator) -> np.ndarray:
        """(num_samples,), at any level."""
        if not self.recordings:
            return generator.standard_normal(num_samples, dtype=np.float32)
        low, high = map(int, self.num_recordings)
        noise = np.zeros(num_samples, np.float32)
        for i in generator.integers(len(self.recordings), size=generator.integers(low, high + 1)):
            length = count_samples(self.recordings[i], sampling_rate=rate)
            part = {
                "start": int(generator.integers(max(0, length - num_samples) + 1)),
                "num_samples": num_samples,
            }
            recording = decode_audio(self.recordings[i], sampling_rate=rate, **part)
            noise += np.resize(scale_to_level(recording, 1.0), num_samples)
        return noise


def measure_level(signal: np.ndarray) -> float:
    """Root of the mean power."""
    return float(np.sqrt(np.mean(np.square(signal, dtype=np.float64))))


def scale_to_level(signal: np.ndarray, level: float) -> np.ndarray:
    """The signal at another root of its mean power; digital silence stays."""
    return signal * np.float32(level / (measure_level(signal) or 1.0))
