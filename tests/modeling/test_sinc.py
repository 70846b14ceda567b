"""The sinc bank against its formula in float64, its frequency response, and the published codes' edges."""

import math

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional as F

from modeling.configuration_sinc import SincFrontEndConfig
from modeling.sinc import SincBank, band_edges


def make_bank(filters: int, filter_length: int, **settings) -> SincBank:
    """With settings of the config by their names without `sinc_`."""
    settings = {"filters": filters, "filter_length": filter_length, **settings}
    return SincBank(SincFrontEndConfig(**{f"sinc_{name}": value for name, value in settings.items()}))


def taps_by_formula(low_hz: float, high_hz: float, length: int, rate: int) -> list[float]:
    """w(t) [2 f2 sinc(2 f2 t) - 2 f1 sinc(2 f1 t)], term by term, with the textbook's Hamming window."""
    taps = []
    for n in range(length):
        t = n - (length - 1) / 2
        window = 0.54 - 0.46 * math.cos(2 * math.pi * n / (length - 1))
        low_pass = [
            2 * f if t == 0 else math.sin(2 * math.pi * f * t) / (math.pi * t)
            for f in (low_hz / rate, high_hz / rate)
        ]
        taps.append(window * (low_pass[1] - low_pass[0]))
    return taps


@pytest.mark.parametrize("length", [129, 128, 17])
def test_taps_equal_the_formula_in_float64(length):
    bank = make_bank(4, length, max_frequency=8000.0)

    odd = length + 1 - length % 2
    expected = [taps_by_formula(2000 * k, 2000 * (k + 1), odd, 16000) for k in range(4)]

    assert bank.filters.shape == (4, 1, odd)
    np.testing.assert_allclose(bank.filters[:, 0].double(), expected, atol=3e-8)


@pytest.mark.parametrize("scale", ["linear", "mel", "inverse_mel"])
def test_each_filter_passes_its_band_and_stops_what_is_far_outside(scale):
    bank = make_bank(16, 1025, scale=scale)
    edges = band_edges(16, scale, 0.0, 8000.0).numpy()

    gain = np.abs(np.fft.rfft(bank.filters[:, 0].double().numpy(), 16000))  # one bin per Hz

    transition = 4 * 16000 / 1025  # main lobe of the Hamming window, in Hz
    frequency = np.arange(8001)
    for k in range(16):
        inside = (frequency > edges[k] + transition) & (frequency < edges[k + 1] - transition)
        outside = (frequency < edges[k] - transition) | (frequency > edges[k + 1] + transition)
        assert np.all(np.abs(gain[k, inside] - 1) < 0.01)
        assert np.all(gain[k, outside] < 0.01)


def test_linear_bank_of_rawnet2_has_the_edges_of_the_icassp_2021_code():
    # The authors' code: 131 points from 0 to 8000 Hz, of which the first 129 are used as edges.
    points = [i * 8000 / 130 for i in range(131)][:129]

    edges = band_edges(128, "linear", 0.0, 8000 * 128 / 130)

    np.testing.assert_allclose(edges, points, atol=1e-9)


def test_mel_edges_are_equally_spaced_on_the_mel_scale():
    edges = band_edges(20, "mel", 0.0, 8000.0).numpy()

    mel = 2595 * np.log10(1 + edges / 700)

    np.testing.assert_allclose(np.diff(mel), mel[-1] / 20, rtol=1e-12)
    np.testing.assert_allclose(edges[[0, -1]], [0, 8000], atol=1e-9)


def test_inverse_mel_edges_are_the_mel_edges_mirrored():
    mel, inverse = (band_edges(20, scale, 100.0, 8000.0).numpy() for scale in ("mel", "inverse_mel"))

    np.testing.assert_allclose(np.diff(inverse), np.diff(mel)[::-1], rtol=1e-10)
    np.testing.assert_allclose(inverse[[0, -1]], [100, 8000], atol=1e-9)


def test_unknown_scale_is_an_error_that_names_the_valid_ones():
    with pytest.raises(
        StrictDataclassError, match="expected one of .'linear', 'mel', 'inverse_mel'., got bark"
    ):
        make_bank(4, 129, scale="bark")


def test_convolution_equals_numpy_correlation():
    waveform = np.random.default_rng(0).standard_normal(500)
    bank = make_bank(3, 33)

    output = bank(torch.from_numpy(waveform).float()[None])

    expected = [np.correlate(waveform, taps, mode="valid") for taps in bank.filters[:, 0].double().numpy()]
    np.testing.assert_allclose(output[0].T.double(), expected, atol=1e-5)


@pytest.mark.parametrize("num_samples", [500, 6001])  # one piece of frames, several
def test_largest_magnitudes_are_those_of_the_convolution(num_samples):
    bank, waveform = make_bank(3, 33), torch.randn(2, num_samples)

    pooled = bank.max_magnitudes(waveform, 3)

    expected = F.max_pool1d(F.conv1d(waveform[:, None], bank.filters).abs(), 3).transpose(1, 2)
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=0)


def test_learnable_bank_starts_as_the_fixed_one_and_has_gradients():
    fixed, learnable = make_bank(8, 65), make_bank(8, 65, learnable=True)
    waveform = torch.randn(2, 400)

    output = learnable(waveform)
    output.square().sum().backward()

    torch.testing.assert_close(output, fixed(waveform), atol=1e-5, rtol=0)
    assert not list(fixed.parameters())
    assert all(parameter.grad.abs().max() > 0 for parameter in learnable.parameters())


def test_learnable_bank_follows_its_edges():
    bank = make_bank(1, 129, min_frequency=1000.0, max_frequency=2000.0, learnable=True)

    with torch.no_grad():
        bank.low.fill_(3000 / 16000)
        bank.width.fill_(500 / 16000)
    impulse = torch.zeros(1, 257)
    impulse[0, 128] = 1.0
    response = bank(impulse)[0, :, 0].detach().double().flip(0)

    np.testing.assert_allclose(response, taps_by_formula(3000, 3500, 129, 16000), atol=1e-6)
