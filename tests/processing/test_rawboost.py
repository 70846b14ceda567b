"""RawBoost against its published definition in float64, at the same stream of random numbers."""

import numpy as np
import pytest
from scipy import signal

from processing.rawboost import RawBoost


RATE = 16_000
# Every parameter otherwise than published; the filters are longer than the 1,024 points of freqz.
OTHER = {
    "num_bands": 4,
    "frequency": [300, 3000],
    "bandwidth": [50, 900],
    "num_taps": [5, 700],
    "gain": [-6, 3],
    "gain_reduction": [2, 9],
    "num_orders": 4,
    "max_impulses": 60,
    "impulse_gain": 0.7,
    "snr": [-3, 12],
}


class Published:
    """RawBoost as it is published, step by step."""

    def __init__(self, generator, **parameters):
        self.generator = generator
        self.p = {**vars(RawBoost()), **parameters}

    def uniform(self, limits):
        low, high = limits  # in this order; the range of a reduced gain runs from its higher end
        return low + (high - low) * self.generator.random()

    def coefficients(self, gain):
        b = 1
        for _ in range(self.p["num_bands"]):
            centre, width = self.uniform(self.p["frequency"]), self.uniform(self.p["bandwidth"])
            length = int(self.uniform(self.p["num_taps"]))
            length += length % 2 == 0
            low, high = centre - width / 2, centre + width / 2
            low = low if low > 0 else 1 / 1000
            high = high if high < RATE / 2 else RATE / 2 - 1 / 1000
            b = np.convolve(signal.firwin(length, [low, high], window="hamming", fs=RATE), b)
        gain = self.uniform(gain)
        _, response = signal.freqz(b, 1, fs=RATE)
        return 10 ** (gain / 20) * b / np.abs(response).max()

    def filter(self, x, b):
        n = len(b) + 1
        y = signal.lfilter(b, 1, np.pad(x, (0, n)))
        return y[int(n / 2) : int(len(y) - n / 2)]

    def normalize(self, x):
        return x / np.abs(x).max() if np.abs(x).max() > 1 else x

    def lnl(self, x):
        (low, high), y = self.p["gain"], 0
        for i in range(1, self.p["num_orders"] + 1):
            if i == 2:
                low, high = low - self.p["gain_reduction"][0], high - self.p["gain_reduction"][1]
            y = y + self.filter(x**i, self.coefficients((low, high)))
        return self.normalize(y - y.mean())

    def isd(self, x):
        number = int(len(x) * (self.uniform((0, self.p["max_impulses"])) / 100))
        places = self.generator.choice(len(x), number, replace=False, shuffle=False)
        factor = (2 * self.generator.random(number) - 1) * (2 * self.generator.random(number) - 1)
        y = x.copy()
        y[places] = x[places] + self.p["impulse_gain"] * x[places] * factor
        return self.normalize(y)

    def ssi(self, x):
        noise = self.generator.standard_normal(len(x), dtype=np.float32).astype(np.float64)
        noise = self.filter(noise, self.coefficients(self.p["gain"]))
        noise = noise / np.abs(noise).max()
        noise = noise / np.linalg.norm(noise) * np.linalg.norm(x) / 10 ** (0.05 * self.uniform(self.p["snr"]))
        return x + noise

    def __call__(self, x):
        series = {1: "lnl", 2: "isd", 3: "ssi", 4: "lnl isd ssi", 5: "lnl isd", 6: "lnl ssi", 7: "isd ssi"}
        if self.p["algorithm"] == 8:
            return self.normalize(self.lnl(x) + self.isd(x))
        for part in series[self.p["algorithm"]].split():
            x = getattr(self, part)(x)
        return x


def made_waveform(length: int, peak: float = 1.0) -> np.ndarray:
    """Noise whose level goes up and down."""
    noise = np.random.default_rng(1).standard_normal(length) * np.sin(np.arange(length) / 3000)
    return (peak * noise / np.abs(noise).max()).astype(np.float32)


@pytest.mark.parametrize("length", [30_000, 300])  # several blocks of the FFT; less than a filter
@pytest.mark.parametrize("parameters", [{}, OTHER], ids=["published", "other"])
@pytest.mark.parametrize("algorithm", range(1, 9))
def test_every_algorithm_is_the_published_one(algorithm, parameters, length):
    waveform = made_waveform(length)

    y = RawBoost(algorithm, **parameters)(waveform, RATE, np.random.default_rng(7))

    expected = Published(np.random.default_rng(7), algorithm=algorithm, **parameters)(waveform.astype(float))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-6)
    assert np.abs(y - waveform).max() > 1e-3


def test_waveform_that_is_handed_in_is_left_as_it_was():
    waveform = made_waveform(1000)
    before = waveform.copy()

    for algorithm in range(1, 9):
        RawBoost(algorithm)(waveform, RATE, np.random.default_rng(0))

    np.testing.assert_array_equal(waveform, before)


def test_quiet_waveforms_silence_and_low_rates_give_finite_samples_of_the_same_length():
    for waveform in (np.zeros(500, np.float32), made_waveform(500, peak=1e-4), np.ones(1, np.float32)):
        for seed in range(20):
            y = RawBoost(4)(waveform, 8000, np.random.default_rng(seed))

            assert y.shape == waveform.shape and np.isfinite(y).all()
