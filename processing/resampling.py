"""Resample a signal block by block, so that a part of it has the bits of the whole."""

import functools
import math
from collections.abc import Iterator

import numpy as np
import torch
import torchaudio
from transformers.utils import logging


logger = logging.get_logger(__name__)


class Resampler:
    """
    Resamples from `rate` to `sampling_rate`, in Hz, by torchaudio with its defaults.

    The order in which a convolution adds depends on the length of its input. So blocks of about 1/2 s at
    fixed places are resampled each by itself, with a margin on either side, wherever the part begins.
    """

    def __init__(self, rate: int, sampling_rate: int):
        logger.warning(f"Audio at {rate} Hz is resampled to {sampling_rate} Hz (said once).")
        # Computed in float32, the filter has the bits of the one in torchaudio.functional.resample.
        self.filter = torchaudio.transforms.Resample(rate, sampling_rate, dtype=torch.float32)
        self.rate, self.sampling_rate = rate, sampling_rate
        step, new_step = (r // math.gcd(rate, sampling_rate) for r in (rate, sampling_rate))
        steps = max(1, sampling_rate // (2 * new_step))
        self.block, self.new_block = steps * step, steps * new_step  # in samples of the source, of the result
        self.margin = math.ceil(self.filter.width / step) * step

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


get_resampler = functools.cache(Resampler)  # to make the filter takes longer than to use it


def count_resampled(length: int, rate: int, sampling_rate: int) -> int:
    """Number of samples at `sampling_rate` that `length` samples at `rate` become."""
    return -(-length * sampling_rate // rate)
