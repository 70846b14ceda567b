"""What is measured of a recording, in parts of any length."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import firwin, lfilter

from processing.measurements import MEASUREMENTS, SignalMeter


RATE = 16_000


def measure(*parts) -> dict[str, float]:
    meter = SignalMeter(RATE)
    for part in parts:
        meter.add(np.asarray(part, np.float32))
    return meter.measure()


def make_noise(seconds: float, deviation: float, seed: int = 0) -> np.ndarray:
    return deviation * np.random.default_rng(seed).standard_normal(round(seconds * RATE))


def test_speech_pauses_and_snr_of_a_signal_that_is_made_of_them():
    loud, quiet = make_noise(3, 0.1), make_noise(2, 0.001)

    measured = measure(quiet[: RATE // 2], loud, quiet[RATE // 2 :])

    assert measured.keys() | {"sampling_rate"} == MEASUREMENTS.keys()
    assert (measured["seconds"], measured["speech_seconds"]) == (5, pytest.approx(3))
    assert measured["pauses"] == pytest.approx(40)
    assert measured["snr"] == pytest.approx(40, abs=1)  # 20 log10(0.1 / 0.001)
    assert measured["level"] == pytest.approx(10 * np.log10(0.6 * 0.1**2), abs=0.2)
    assert measured["bandwidth"] == 8000


@pytest.mark.parametrize("highest", [3400, 5000])
def test_bandwidth_is_where_the_spectrum_ends(highest):
    limited = lfilter(firwin(1001, highest, fs=RATE, window="blackman"), 1, make_noise(3, 0.1))

    assert measure(limited)["bandwidth"] == pytest.approx(highest, abs=MEASUREMENTS["bandwidth"].precision)


def test_clipped_samples_are_counted():
    assert measure(np.clip(make_noise(2, 1.0), -1, 1))["clipped"] == pytest.approx(
        31.7, abs=1
    )  # beyond 1 sigma
    assert measure(make_noise(2, 0.1))["clipped"] == 0


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, RATE), max_size=4))
def test_measurements_do_not_depend_on_the_parts(cuts):
    signal = make_noise(1, 0.1) * np.linspace(0, 1, RATE)

    assert measure(*np.split(signal, sorted(cuts))) == pytest.approx(measure(signal))


@pytest.mark.parametrize("signal", [np.zeros(RATE), np.zeros(0), np.ones(10)])
def test_what_holds_nothing_has_finite_measurements(signal):
    assert all(np.isfinite(value) for value in measure(signal).values())
