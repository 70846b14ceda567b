"""Codecs as augmentation: real encoders, on speech-like sound made here."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate, lfilter

from processing import speech_codecs
from processing.speech_codecs import CODECS, CodecAugmentation, FFmpegCodec


RATE = 16_000
EVERY_SETTING = [f"{name}-{setting}" for name, codec in CODECS.items() for setting in codec.settings.split()]
TELEPHONE = ("alaw", "mulaw", "gsm", "amrnb")


def make_speech(num_samples: int = 24_000, rate: int = RATE) -> np.ndarray:
    """Pulses of a moving pitch and noise through three formants, louder and softer."""
    generator = np.random.default_rng(1)
    time = np.arange(num_samples) / rate
    phase = np.cumsum(140 + 40 * np.sin(3 * time)) / rate
    source = 10 * (np.diff(np.floor(phase), prepend=0) > 0) + generator.standard_normal(num_samples)
    for frequency, bandwidth in ((500, 90), (1500, 120), (2500, 200)):
        radius = np.exp(-np.pi * bandwidth / rate)
        source = lfilter([1], [1, -2 * radius * np.cos(2 * np.pi * frequency / rate), radius**2], source)
    speech = source * (1 + 0.8 * np.sin(8 * time))
    return (0.3 * speech / np.abs(speech).max()).astype(np.float32)


def code(waveform: np.ndarray, codec: str, rate: int = RATE) -> np.ndarray:
    return CodecAugmentation([codec])(waveform, rate, np.random.default_rng(0))


@pytest.mark.parametrize("codec", EVERY_SETTING)
def test_speech_keeps_its_place_and_length_and_is_not_clean(codec):
    speech = make_speech()
    coded = code(speech, codec)
    lag = np.argmax(correlate(coded, speech)) - (len(speech) - 1)
    assert abs(lag) <= codec.startswith(("opus", *TELEPHONE))  # these run at another rate
    assert coded.shape == speech.shape and coded.dtype == np.float32
    correlation = np.corrcoef(coded, speech)[0, 1]
    assert 0.6 < correlation < 1 - 1e-9


@given(
    codec=st.sampled_from(CodecAugmentation.codecs),
    num_samples=st.integers(1, 9000),
    rate=st.sampled_from([8000, 16_000, 22_050]),
)
@settings(max_examples=60, deadline=None)
def test_length_is_kept_at_any_length_and_rate(codec, num_samples, rate):
    waveform = make_speech(9000, rate)[:num_samples]
    assert code(waveform, codec, rate).shape == (num_samples,)


@pytest.mark.parametrize("codec", TELEPHONE)
def test_telephony_leaves_nothing_above_its_band(codec):
    name = f"{codec}-12.2" if codec == "amrnb" else codec
    noise = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    power = np.abs(np.fft.rfft(code(noise, name))) ** 2  # a value for each Hz
    assert power[5000:].sum() < 1e-3 * power.sum()


@pytest.mark.parametrize("name", ["mp3", "opus", "amrnb", "vorbis", "g722"])
def test_more_bits_are_nearer_to_the_original(name):
    speech, bits = make_speech(), CODECS[name].settings.split()
    errors = [np.square(code(speech, f"{name}-{setting}") - speech).sum() for setting in (bits[0], bits[-1])]
    assert errors[1] < 0.8 * errors[0]


def test_mu_law_takes_the_nearest_of_the_levels_of_g711():
    """Of 14 bits, (2 m + 33) 2^e - 33 for a mantissa m below 16 and an exponent e below 8, and the sign."""
    positive = [((2 * mantissa + 33) << exponent) - 33 for exponent in range(8) for mantissa in range(16)]
    levels = np.array([*positive, *(-level for level in positive)]) / 2**13
    speech = make_speech(4000, 8000)
    coded = code(speech, "mulaw", 8000)
    distances = np.abs(levels - speech[:, None])
    np.testing.assert_allclose(
        np.abs(coded - speech), distances.min(axis=1), atol=2**-12
    )  # FFmpeg decides at 14 bits
    assert np.isin(coded, levels.astype(np.float32)).all()


def test_loud_waveforms_are_clipped_and_do_not_wrap_around():
    loud = 4 * make_speech()
    for codec in ("alaw", "gsm", "g722-64", "opus-32", "amrnb-12.2"):
        assert np.corrcoef(code(loud, codec), np.clip(loud, -1, 1))[0, 1] > 0.6


def test_codec_is_drawn_by_the_generator_and_each_of_the_list_comes():
    augment = pickle.loads(pickle.dumps(CodecAugmentation(["alaw", "mulaw", "mp3-32"])))
    speech = make_speech(4000)
    drawn = [augment(speech, RATE, np.random.default_rng(seed)) for seed in range(20)]
    again = [augment(speech, RATE, np.random.default_rng(seed)) for seed in range(20)]
    np.testing.assert_array_equal(drawn, again)
    assert len({each.tobytes() for each in drawn}) == 3


@pytest.mark.parametrize(
    ("codecs", "message"),
    [
        (["speex"], "no codec 'speex'. There are mp3, aac"),
        (["mp3-33"], "write one of mp3-8, mp3-16"),
        (["opus"], "write one of opus-6"),
        ([], "not a list of codecs"),
        ("mp3-32", "not a list of codecs"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(codecs, message):
    with pytest.raises(ValueError, match=message):
        CodecAugmentation(codecs)


def test_encoder_that_the_wheel_lacks_is_refused_when_it_is_named(monkeypatch):
    monkeypatch.setitem(speech_codecs.CODECS, "speex", FFmpegCodec("libspeex", "libspeex", 8000, "8"))
    with pytest.raises(ValueError, match="cannot encode speex"):
        CodecAugmentation(["alaw", "speex"])
