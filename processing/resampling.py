"""Resample a signal block by block, so that a part of it has the bits of the whole."""

import functools
import math
from collections.abc import Iterator

import numpy as np
import torch
import torchaudio
from transformers.utils import logging


logger = logging.get_logger(__name__)

RATES = range(1000, 768_001)  # Hz; what a header states beyond is damage
LARGEST_KERNEL = 2**20  # values of torchaudio's filter: 4 MiB. From 44.1 to 16 kHz it has 76,000.
ZERO_CROSSINGS, ROLLOFF = 6, 0.99  # torchaudio's defaults


class Resampler:
    """
    Resamples from `rate` to `sampling_rate`, in Hz, by torchaudio with its defaults.

    The order in which a convolution adds depends on the length of its input. So blocks of about 1/2 s at
    fixed places are resampled each by itself, with a margin on either side, wherever the part begins.
    """

    def __init__(self, rate: int, sampling_rate: int):
        logger.warning_once(f"Audio at {rate} Hz is resampled to {sampling_rate} Hz (said once).")
        self.rate, self.sampling_rate = rate, sampling_rate
        step, new_step = (r // math.gcd(rate, sampling_rate) for r in (rate, sampling_rate))
        width = math.ceil(ZERO_CROSSINGS * step / (min(step, new_step) * ROLLOFF))
        if new_step * (2 * width + step) <= LARGEST_KERNEL:
            # Computed in float32, the filter has the bits of the one in torchaudio.functional.resample.
            self.filter = torchaudio.transforms.Resample(rate, sampling_rate, dtype=torch.float32)
        else:
            self.filter = PolyphaseFilter(step, new_step, width)
        steps = max(1, sampling_rate // (2 * new_step))
        self.block, self.new_block = steps * step, steps * new_step  # in samples of the source, of the result
        self.margin = math.ceil(width / step) * step

    def find_source(self, start: int, stop: int) -> tuple[int, int]:
        """First source sample that samples `start` to `stop` need, and the one after the last."""
        first = start // self.new_block * self.block - self.margin
        return max(0, first), -(-stop // self.new_block) * self.block + self.margin

    def resample(self, source: Iterator[np.ndarray], start: int, stop: int) -> Iterator[np.ndarray]:
        """
        Samples `start` to `stop`, as far as the signal goes, from the source samples of
        [`~Resampler.find_source`] in pieces of any length.
        """
        length = self.margin + self.block + self.margin
        lead = self.margin * self.new_block // self.block
        position = start // self.new_block * self.new_block  # of the block's first sample
        held = np.zeros(max(0, self.margin - position * self.block // self.new_block), np.float32)
        while True:
            while len(held) < length and (piece := next(source, None)) is not None:
                held = np.concatenate([held, piece])
            end = position + count_resampled(len(held) - self.margin, self.rate, self.sampling_rate)
            if min(end, stop) <= position:
                return
            padded = torch.zeros(length)
            padded[: len(held)] = torch.from_numpy(held[:length])
            block = self.filter(padded)[lead : lead + self.new_block].numpy()
            yield block[max(0, start - position) : min(end, stop) - position]
            held, position = held[self.block :], position + self.new_block


class PolyphaseFilter:
    """
    torchaudio's filter from `step` to `new_step` samples without the zeros of its matrix, which are nearly
    all of it where the two rates have hardly a common divisor: 3 GB from 48,001 to 16,000 Hz, here 2.5 MB.
    """

    def __init__(self, step: int, new_step: int, width: int):
        self.step, self.new_step = step, new_step
        self.lead = -(-width * new_step // step)  # results before the first of the signal
        time = np.arange(-self.lead * step, width * new_step + 1) / new_step  # in source samples
        time = (time * min(step, new_step) * ROLLOFF / step).clip(-ZERO_CROSSINGS, ZERO_CROSSINGS)
        window = np.cos(time * np.pi / ZERO_CROSSINGS / 2) ** 2
        self.taps = (min(step, new_step) * ROLLOFF / step * window * np.sinc(time)).astype(np.float32)

    def __call__(self, signal: torch.Tensor) -> torch.Tensor:
        """(k * step,) to (k * new_step,), with silence around it."""
        from scipy.signal import upfirdn  # takes 0.4 s

        length = len(signal) // self.step * self.new_step
        resampled = upfirdn(self.taps, signal.numpy(), self.new_step, self.step)
        return torch.from_numpy(resampled[self.lead :][:length])


@functools.lru_cache(maxsize=64)  # to make the filter takes longer than to use it
def get_resampler(rate: int, sampling_rate: int) -> Resampler:
    return Resampler(rate, sampling_rate)


def check_rate(rate: int, name: str) -> None:
    """Raise a `ValueError` for a rate, in Hz, that no recording has."""
    if rate not in RATES:
        raise ValueError(
            f"{name} states a sampling rate of {rate:,} Hz, which is not between {RATES[0]:,} and "
            f"{RATES[-1]:,} Hz: its header is damaged. Export it again."
        )


def count_resampled(length: int, rate: int, sampling_rate: int) -> int:
    """Number of samples at `sampling_rate` that `length` samples at `rate` become."""
    return -(-length * sampling_rate // rate)


def resample_array(signal: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """A whole signal (n,), float32, at another rate, by torchaudio with its defaults."""
    if rate == new_rate:
        return signal
    divisor = math.gcd(rate, new_rate)
    return _make_filter(rate // divisor, new_rate // divisor)(torch.from_numpy(signal)).numpy()


@functools.lru_cache(maxsize=64)
def _make_filter(step: int, new_step: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(step, new_step, dtype=torch.float32)
