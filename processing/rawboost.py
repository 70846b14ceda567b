"""
RawBoost: noise of telephony that is made from the waveform itself, without other recordings.

Source: Tak et al., "RawBoost: A Raw Data Boosting and Augmentation Method Applied to Automatic Speaker
Verification Anti-Spoofing", ICASSP 2022, and its code, TakHemlata/RawBoost-antispoofing, whose defaults and
whose names, in the comments, these are.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .noise import measure_level, scale_to_level
from .ranges import check_range, draw


# Methods of [`RawBoost`], and which of them make each algorithm, one after the other; 8 adds both up.
LNL, ISD, SSI = "convolve", "add_impulses", "add_stationary_noise"
ALGORITHMS = {
    1: [LNL],
    2: [ISD],
    3: [SSI],
    4: [LNL, ISD, SSI],
    5: [LNL, ISD],
    6: [LNL, SSI],
    7: [ISD, SSI],
    8: [LNL, ISD],
}
RESPONSE_POINTS = 512  # of scipy.signal.freqz, over half the circle


@dataclass(frozen=True)
class RawBoost:
    """
    Linear and non-linear convolutive noise (LnL), impulsive signal-dependent noise (ISD) and stationary
    signal-independent noise (SSI), combined by the number of an `algorithm`: 1 LnL, 2 ISD, 3 SSI,
    4 LnL → ISD → SSI, 5 LnL → ISD, 6 LnL → SSI, 7 ISD → SSI, 8 LnL + ISD of the same waveform. 5 is the
    paper's choice for ASVspoof 2021 LA, 3 that of Tak et al., Odyssey 2022, for DF. The length is kept.

    The centres of bands are not drawn above half the sampling rate, which the published code refuses.
    """

    algorithm: int = 5
    num_bands: int = 5  # nBands: of a filter
    frequency: Sequence[float] = (20.0, 8000.0)  # minF, maxF: centre of a band, Hz
    bandwidth: Sequence[float] = (100.0, 1000.0)  # minBW, maxBW: Hz
    num_taps: Sequence[float] = (10, 100)  # minCoeff, maxCoeff: of a band; an even number is raised by one
    gain: Sequence[float] = (0.0, 0.0)  # minG, maxG: of a filter, dB
    num_orders: int = 5  # N_f: powers of the waveform in LnL
    gain_reduction: Sequence[float] = (5.0, 20.0)  # {min,max}BiasLinNonLin: of `gain` from order 2 on, dB
    max_impulses: float = 10.0  # P: of ISD, per cent of the samples
    impulse_gain: float = 2.0  # g_sd
    snr: Sequence[float] = (10.0, 40.0)  # SNRmin, SNRmax: of SSI, dB

    def __post_init__(self):
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm {self.algorithm!r} is not one of 1 to {max(ALGORITHMS)}.")
        for name in ("num_bands", "num_orders"):
            if not isinstance(value := getattr(self, name), int) or value < 1:
                raise ValueError(f"{name} {value!r} is not a whole number of at least 1.")
        if not 0 <= self.max_impulses <= 100 or not self.impulse_gain > 0:
            raise ValueError(
                f"max_impulses {self.max_impulses} must be from 0 to 100 per cent, and impulse_gain "
                f"{self.impulse_gain} above 0."
            )
        for name in ("frequency", "bandwidth", "gain_reduction"):
            check_range(name, getattr(self, name), 0)
        check_range("num_taps", self.num_taps, 1)
        for name in ("gain", "snr"):
            check_range(name, getattr(self, name), -np.inf)

    def __call__(self, waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
        """The waveform (num_samples,), float32, in [-1, 1], with the noise of `algorithm`."""
        parts = [getattr(self, name) for name in ALGORITHMS[self.algorithm]]
        if self.algorithm == 8:
            return limit_peak(sum(part(waveform, rate, generator) for part in parts))
        for part in parts:
            waveform = part(waveform, rate, generator)
        return waveform

    def convolve(self, x: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
        """LnL: the sum of the powers x, x², … each through a filter of its own, without its mean."""
        low, high = self.gain
        reduced = (low - self.gain_reduction[0], high - self.gain_reduction[1])  # once, not at each order
        gains = [self.gain] + [reduced] * (self.num_orders - 1)
        filters = self.design_filters(rate, generator, gains)
        powers = itertools.accumulate([x] * self.num_orders, np.multiply)
        y = filter_and_sum(np.stack([*powers]), filters)
        return limit_peak(y - y.mean())

    def add_impulses(self, x: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
        """ISD: at random places, the sample times `impulse_gain` and a random factor in [-1, 1] is added."""
        number = int(len(x) * (draw(generator, (0, self.max_impulses)) / 100))
        places = generator.choice(len(x), number, replace=False, shuffle=False)
        first, second = generator.uniform(-1, 1, (2, number))
        y = x.copy()
        y[places] *= 1 + self.impulse_gain * first * second
        return limit_peak(y)

    def add_stationary_noise(self, x: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
        """SSI: filtered white noise at a signal-to-noise ratio."""
        noise = generator.standard_normal(len(x), dtype=np.float32)
        noise = filter_and_sum(noise[None], self.design_filters(rate, generator, [self.gain]))
        return x + scale_to_level(noise, measure_level(x) / 10 ** (draw(generator, self.snr) / 20))

    def design_filters(
        self, rate: int, generator: np.random.Generator, gains: Sequence[Sequence[float]]
    ) -> list[np.ndarray]:
        """
        Taps of a filter for each of `gains`: band-stop filters in a row, whose response, where it is largest,
        has a gain drawn from that range.
        """
        nyquist = rate / 2
        frequency = self.frequency[0], min(self.frequency[1], nyquist)
        bands, levels = np.empty((len(gains), self.num_bands, 3)), np.empty((len(gains), 1))
        for i, gain in enumerate(gains):
            for band in bands[i]:
                band[:] = [draw(generator, each) for each in (frequency, self.bandwidth, self.num_taps)]
            levels[i] = 10 ** (draw(generator, gain) / 20)
        centres, widths, lengths = np.moveaxis(bands, -1, 0)  # each (filters, bands)
        low = np.maximum(centres - widths / 2, 1e-3)
        high = np.minimum(centres + widths / 2, nyquist - 1e-3)
        lengths = lengths.astype(int) // 2 * 2 + 1
        totals = lengths.sum(axis=1) - self.num_bands + 1
        # The product of their responses is that of filters in a row, over points enough for their length.
        stride = -(-max(totals) // (2 * RESPONSE_POINTS))
        points = 2 * RESPONSE_POINTS * stride
        taps = design_band_stops(low / nyquist, high / nyquist, lengths)
        response = np.fft.rfft(taps, points).prod(axis=1)
        peaks = np.abs(response[:, :-1:stride]).max(axis=1, keepdims=True)
        cascades = np.fft.irfft(response * levels / peaks, points)
        return [taps[:total] for taps, total in zip(cascades, totals, strict=True)]


def design_band_stops(low: np.ndarray, high: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """
    Taps (…, longest) of band-stop filters of odd lengths from `low` to `high`, in units of half the sampling
    rate, by a Hamming window, with a response of 1 at 0 Hz; 0 behind the end of the shorter ones.
    """
    low, high, middle = (each[..., None] for each in (low, high, (lengths - 1) // 2))
    t = np.arange(lengths.max()) - middle
    ideal = np.sinc(t) - high * np.sinc(high * t) + low * np.sinc(low * t)
    window = 0.54 + 0.46 * np.cos(np.pi * t / np.maximum(middle, 1))
    taps = np.where(t <= middle, window * ideal, 0)
    return taps / taps.sum(axis=-1, keepdims=True)


def filter_and_sum(signals: np.ndarray, filters: Sequence[np.ndarray]) -> np.ndarray:
    """
    Each signal (signals, num_samples) through its filter, and their sum (num_samples,). The output starts
    (taps + 1) / 2 samples into the convolution, as that of the published filterFIR.
    """
    from scipy.signal import oaconvolve  # takes 0.4 s

    y = np.zeros(signals.shape[1], np.float32)
    for x, taps in zip(np.pad(signals, ((0, 0), (0, 2))), filters, strict=True):
        y += oaconvolve(x, taps.astype(np.float32))[(len(taps) + 1) // 2 :][: len(y)]
    return y


def limit_peak(x: np.ndarray) -> np.ndarray:
    """x, divided by its largest magnitude where that exceeds 1."""
    return x / max(1, np.abs(x).max())
