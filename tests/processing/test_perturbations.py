"""Speed, bandwidth, level, and silence around the speech."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processing.perturbations import BandLimiting, Gain, SilenceTrimming, SpeedPerturbation


RATE = 16_000
GENERATOR = np.random.default_rng(0)
NOISE = GENERATOR.normal(0, 0.1, 2 * RATE).astype(np.float32)


def make_tone(frequency, seconds=1.0):
    return np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)


@given(factor=st.integers(50, 200).map(lambda percent: percent / 100), num_samples=st.integers(1, 5000))
@settings(max_examples=40, deadline=None)
def test_speed_changes_the_length_by_its_factor(factor, num_samples):
    faster = SpeedPerturbation([factor, factor])(NOISE[:num_samples], RATE, GENERATOR)
    assert len(faster) == -(-num_samples * 100 // round(100 * factor)) and faster.dtype == np.float32


def test_speed_moves_the_pitch():
    for factor in (0.9, 1.1):
        faster = SpeedPerturbation([factor, factor])(make_tone(1000), RATE, GENERATOR)
        expected = np.sin(2 * np.pi * 1000 * factor * np.arange(len(faster)) / RATE)
        np.testing.assert_allclose(faster[200:-200], expected[200:-200], atol=2e-2)


@given(num_samples=st.integers(1, 5000), lower=st.sampled_from([4000, 8000, 11_025, 44_100]))
@settings(max_examples=40, deadline=None)
def test_band_limiting_keeps_the_length(num_samples, lower):
    limited = BandLimiting(lower)(NOISE[:num_samples], RATE, GENERATOR)
    assert limited.shape == (num_samples,) and limited.dtype == np.float32


def test_band_limiting_leaves_what_is_below_half_the_rate_where_it_is():
    low, high = make_tone(1000), make_tone(6000)
    limited = BandLimiting(8000)(low + high, RATE, GENERATOR)
    np.testing.assert_allclose(limited[200:-200], low[200:-200], atol=2e-2)


@pytest.mark.parametrize("decibels", [-20.0, 0.0, 12.0])
def test_gain_is_in_decibels_and_clips_nothing(decibels):
    louder = Gain([decibels, decibels])(10 * NOISE, RATE, GENERATOR)
    np.testing.assert_allclose(louder, 10 * NOISE * 10 ** (decibels / 20), rtol=1e-6)


def surround(speech, before, after, level=0.0):
    """Silence, or noise of that level, of so many samples before and after."""
    generator = np.random.default_rng(1)
    silence = [
        generator.normal(0, level, length) if level else np.zeros(length) for length in (before, after)
    ]
    return np.concatenate([silence[0], speech, silence[1]]).astype(np.float32)


def test_level_beyond_full_scale_is_clipped_only_where_that_is_asked_for():
    louder = Gain([20, 20])(NOISE, RATE, GENERATOR)
    np.testing.assert_allclose(louder, 10 * NOISE, rtol=1e-6)
    np.testing.assert_array_equal(Gain([20, 20], clip=True)(NOISE, RATE, GENERATOR), np.clip(louder, -1, 1))


@given(before=st.integers(0, 5000), after=st.integers(0, 5000), level=st.sampled_from([0.0, 1e-4]))
@settings(max_examples=40, deadline=None)
def test_silence_before_and_after_is_cut_to_a_frame(before, after, level):
    speech = NOISE[:8000].copy()
    speech[3000:5000] = 0  # a pause, which stays
    trimmed = SilenceTrimming()(surround(speech, before, after, level), RATE, GENERATOR)
    assert 8000 <= len(trimmed) <= 8000 + 2 * 320
    start = np.argmax(np.correlate(trimmed, speech))
    np.testing.assert_array_equal(trimmed[start:][:8000], speech)


def test_each_end_can_be_cut_alone():
    speech = surround(NOISE[:8000], 3200, 4800)
    no_start = SilenceTrimming(trailing=False)(speech, RATE, GENERATOR)
    no_end = SilenceTrimming(leading=False)(speech, RATE, GENERATOR)
    np.testing.assert_array_equal(no_start, speech[-len(no_start) :])
    np.testing.assert_array_equal(no_end, speech[: len(no_end)])
    assert 12_800 <= len(no_start) <= 13_200 and 11_200 <= len(no_end) <= 11_600


def test_threshold_is_in_decibels_below_the_loudest_frame():
    speech = surround(make_tone(200, 0.5), 3200, 3200, level=np.sqrt(0.5) * 10 ** (-30 / 20))  # 30 dB below
    assert len(SilenceTrimming([26, 26])(speech, RATE, GENERATOR)) < 8000 + 700
    assert len(SilenceTrimming([34, 34])(speech, RATE, GENERATOR)) == len(speech)


@pytest.mark.parametrize("waveform", [np.zeros(5000), np.zeros(7), np.ones(1), NOISE[:100], NOISE[:333]])
def test_what_is_all_silence_or_shorter_than_a_frame_stays(waveform):
    waveform = waveform.astype(np.float32)
    np.testing.assert_array_equal(SilenceTrimming()(waveform, RATE, GENERATOR), waveform)


@pytest.mark.parametrize(
    ("kind", "parameter"),
    [(SpeedPerturbation, [0, 1]), (BandLimiting, 10), (BandLimiting, 8000.0), (Gain, 3), (Gain, [2, 1])]
    + [(SilenceTrimming, [-3, 40])],
)
def test_impossible_values_are_refused_when_the_recipe_is_read(kind, parameter):
    with pytest.raises(ValueError, match="is not|is no"):
        kind(parameter)
