"""What is measured of a recording before anything is said of it: how much speech it has, and how well that
was kept. Block by block, in memory that does not grow with the length."""

from dataclasses import dataclass

import numpy as np

from .signal_check import FRAME_SECONDS, QUIETEST


PAUSE_BELOW = 30  # dB below the recording's level: a frame without speech
BAND_BELOW = 60  # dB below the strongest frequency of the long-term spectrum: nothing of the recording
CLIPPED_FROM = 0.99  # of full scale
STEP = 0.5  # dB, of the histogram of levels
LEVELS = np.arange(-120, 20, STEP)  # dB of full scale, of a frame: the lower ends of the histogram's bins


@dataclass(frozen=True)
class Measurement:
    """Something that is measured: what it is called in a sentence, its unit, the smallest difference that
    counts, and which values leave less to judge by than usual: "low" or "high" ones, or neither, ""."""

    title: str
    unit: str
    precision: float
    worse: str = ""


MEASUREMENTS = {
    "seconds": Measurement("its length", "s", 0.1, "low"),
    "speech_seconds": Measurement("the time of speech in it", "s", 0.1, "low"),
    "pauses": Measurement("the part of it without speech", "%", 1),
    "snr": Measurement("its signal-to-noise ratio", "dB", 1, "low"),
    "bandwidth": Measurement("its bandwidth", "Hz", 250, "low"),
    "clipped": Measurement("the part of it that is clipped", "%", 0.1, "high"),
    "level": Measurement("its level", "dB", 1),
    "sampling_rate": Measurement("its sampling rate", "Hz", 0, "low"),
}


class SignalMeter:
    """
    Measures one signal, which it is handed in parts.

    Args:
        sampling_rate: in Hz.
    """

    def __init__(self, sampling_rate: int):
        self.sampling_rate, self.frame_length = sampling_rate, round(FRAME_SECONDS * sampling_rate)
        self.num_samples, self.energy, self.num_clipped = 0, 0.0, 0
        self.held = np.empty(0, np.float32)  # samples of a frame that is not whole yet
        self.counts = np.zeros(len(LEVELS), np.int64)  # of frames, by level
        self.powers = np.zeros(len(LEVELS))  # their sums, likewise
        self.spectrum = np.zeros(self.frame_length // 2 + 1)

    def add(self, samples: np.ndarray) -> None:
        """Take the next samples (num_samples,), of which 1 is full scale."""
        self.num_samples += len(samples)
        self.energy += float(np.sum(np.square(samples, dtype=np.float64)))
        self.num_clipped += np.count_nonzero(np.abs(samples) >= CLIPPED_FROM)
        held = np.concatenate([self.held, samples])
        end = len(held) - len(held) % self.frame_length
        frames, self.held = held[:end].reshape(-1, self.frame_length), held[end:]
        powers = np.mean(np.square(frames, dtype=np.float64), axis=1)
        places = np.searchsorted(LEVELS[1:], to_decibels(powers), side="right")
        self.counts += np.bincount(places, minlength=len(LEVELS))
        self.powers += np.bincount(places, powers, minlength=len(LEVELS))
        spectra = np.fft.rfft(frames * np.blackman(self.frame_length), axis=1)
        self.spectrum += np.sum(np.abs(spectra) ** 2, axis=0)

    def measure(self) -> dict[str, float]:
        """
        The [`MEASUREMENTS`] of what was taken so far, but for the sampling rate, which the file states.

        Speech is found by its energy: frames of 20 ms within 30 dB of the recording's level and above -80 dB
        of full scale; loud noise counts as speech, too. The SNR is the mean power of these frames to the
        level that the quietest tenth of all frames stays below. The bandwidth is the highest frequency within
        60 dB of the strongest one in the long-term spectrum, in steps of 50 Hz.
        """
        level = to_decibels(self.energy / max(1, self.num_samples))
        is_speech = level - PAUSE_BELOW < LEVELS
        is_speech &= LEVELS >= 20 * np.log10(QUIETEST)
        num_frames, num_speech = self.counts.sum(), self.counts[is_speech].sum()
        speech = to_decibels(self.powers[is_speech].sum() / max(1, num_speech))
        floor = LEVELS[np.searchsorted(np.cumsum(self.counts), num_frames / 10)] + STEP / 2
        spectrum = to_decibels(self.spectrum / self.spectrum.max(initial=1e-30))
        return {
            "seconds": self.num_samples / self.sampling_rate,
            "speech_seconds": float(num_speech * FRAME_SECONDS),
            "pauses": 100 * float(1 - num_speech / max(1, num_frames)),
            "snr": float(speech - floor),
            "bandwidth": float(np.flatnonzero(spectrum > -BAND_BELOW).max(initial=0) / FRAME_SECONDS),
            "clipped": 100 * self.num_clipped / max(1, self.num_samples),
            "level": float(level),
        }


def to_decibels(power: float | np.ndarray) -> float | np.ndarray:
    """10 log10 of a power; -120 dB for none."""
    return 10 * np.log10(power + 1e-12)


__all__ = ["MEASUREMENTS", "Measurement", "SignalMeter"]
