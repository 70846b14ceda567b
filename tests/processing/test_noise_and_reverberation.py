"""Noise at a signal-to-noise ratio and responses of rooms: folders in the layouts of MUSAN, RIRS_NOISES."""

import pickle

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import fftconvolve

from processing.noise import AdditiveNoise
from processing.reverberation import Reverberation


RATE = 16_000
SPEECH = np.random.default_rng(3).normal(0, 0.05, RATE).astype(np.float32)
TONES = {"noise/free-sound/a.wav": 200, "noise/sound-bible/b.wav": 300, "speech/librivox/c.wav": 1000}
TONES |= {"speech/librivox/d.wav": 2000, "speech/us-gov/e.wav": 3000}


def write(path, signal, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, np.asarray(signal, np.float32), rate, subtype="FLOAT")


def measure_ratio(noisy, clean):
    return 10 * np.log10(np.mean(clean.astype(float) ** 2) / np.mean((noisy.astype(float) - clean) ** 2))


def find_tones(noise):
    """The tones in a second of noise, which are in `TONES`, and the power of each."""
    power = np.abs(np.fft.rfft(noise)) ** 2  # a value for each Hz
    return {tone: power[tone] for tone in TONES.values() if power[tone] > power.max() / 100}


@pytest.fixture(scope="module")
def musan(tmp_path_factory):
    """A tone in each file, at levels of their own; that of 300 Hz is shorter than the speech."""
    root = tmp_path_factory.mktemp("corpora") / "musan"
    for i, (name, tone) in enumerate(TONES.items()):
        time = np.arange(4000 if tone == 300 else 3 * RATE) / RATE
        write(root / name, 0.1 * (i + 1) * np.sin(2 * np.pi * tone * time))
    (root / "README").write_text("MUSAN")
    return root


@given(
    snr=st.floats(-20, 60),
    num_samples=st.integers(2, 3000),
    level=st.floats(1e-3, 1),
    seed=st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_white_noise_needs_no_folder_and_has_the_ratio_that_was_asked_for(snr, num_samples, level, seed):
    clean = (level * SPEECH[:num_samples]).astype(np.float32)
    noisy = AdditiveNoise(snr=[snr, snr])(clean, RATE, np.random.default_rng(seed))
    assert noisy.shape == clean.shape and noisy.dtype == np.float32
    assert measure_ratio(noisy, clean) == pytest.approx(snr, abs=0.05)


@pytest.mark.parametrize(("folder", "number", "snr"), [("", 1, 5), ("noise", 1, -3), ("speech", 3, 17)])
def test_recorded_noise_has_the_ratio_that_was_asked_for(musan, folder, number, snr):
    augment = AdditiveNoise(str(musan / folder), snr=[snr, snr], num_recordings=[number, number])
    for seed in range(8):
        noisy = augment(SPEECH, RATE, np.random.default_rng(seed))
        assert measure_ratio(noisy, SPEECH) == pytest.approx(snr, abs=0.01)


def test_ratios_are_spread_evenly_over_the_range():
    augment = AdditiveNoise(snr=[5, 15])
    generator = np.random.default_rng(0)
    ratios = [measure_ratio(augment(SPEECH, RATE, generator), SPEECH) for _ in range(200)]
    assert 5 <= min(ratios) < 5.5 and 14.5 < max(ratios) <= 15 and 9.3 < np.mean(ratios) < 10.7


def test_every_recording_of_the_folder_comes_and_a_short_one_is_repeated(musan):
    augment = pickle.loads(pickle.dumps(AdditiveNoise(str(musan))))
    noises = [augment(SPEECH, RATE, np.random.default_rng(seed)) - SPEECH for seed in range(40)]
    assert {tone for noise in noises for tone in find_tones(noise)} == set(TONES.values())
    short = next(noise for noise in noises if 300 in find_tones(noise))
    np.testing.assert_allclose(short[4000:8000], short[:4000], atol=1e-6)


def test_recordings_are_added_up_at_the_same_power_for_babble(musan):
    augment = AdditiveNoise(str(musan / "speech"), snr=[0, 0], num_recordings=[2, 3])
    babble = [find_tones(augment(SPEECH, RATE, np.random.default_rng(seed)) - SPEECH) for seed in range(20)]
    assert {len(tones) for tones in babble} >= {2, 3}
    powers = next(list(tones.values()) for tones in babble if len(tones) == 3)
    assert max(powers) < 1.1 * min(powers)


def test_noise_of_another_rate_keeps_its_pitch_and_parts_start_anywhere(tmp_path):
    time = np.arange(5 * 44_100) / 44_100
    write(tmp_path / "sweep.flac.wav", np.sin(2 * np.pi * (400 * time + 50 * time**2)), 44_100)
    augment = AdditiveNoise(str(tmp_path), snr=[0, 0])
    peaks = []
    for seed in range(12):
        noise = augment(SPEECH, RATE, np.random.default_rng(seed)) - SPEECH
        peaks.append(np.argmax(np.abs(np.fft.rfft(noise * np.hanning(RATE)))))
    assert 400 < min(peaks) < 550 and 700 < max(peaks) < 900  # 400 Hz to 900 Hz in 5 s


@pytest.mark.parametrize("waveform", [np.zeros(RATE, np.float32), SPEECH])
def test_silence_stays_silence(tmp_path, waveform):
    write(tmp_path / "silence.wav", np.zeros(RATE))
    noisy = AdditiveNoise(str(tmp_path))(waveform, RATE, np.random.default_rng(0))
    np.testing.assert_array_equal(noisy, waveform)


@pytest.mark.parametrize("kind", [AdditiveNoise, Reverberation])
def test_folder_without_recordings_is_refused_when_it_is_named(tmp_path, kind):
    (tmp_path / "notes.txt").write_text("none")
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileNotFoundError, match="not a folder that holds recordings"):
            kind(str(folder))


@pytest.fixture(scope="module")
def rirs(tmp_path_factory):
    """A simulated response, a measured one of two channels, and the noises that lie beside them."""
    root = tmp_path_factory.mktemp("corpora") / "RIRS_NOISES"
    generator = np.random.default_rng(0)
    decay = np.exp(-np.arange(6000) / 1500)[:, None] * generator.normal(0, 0.1, (6000, 2))
    decay[:80] = 0  # the way to the microphone
    decay[80] = [1, -1]
    write(root / "simulated_rirs/largeroom/Room001/Room001-00001.wav", decay[:, 0])
    write(root / "real_rirs_isotropic_noises/RVB2014_type1_rir_largeroom1_far_angla.wav", decay)
    write(root / "real_rirs_isotropic_noises/RVB2014_type1_noise_largeroom1_1.wav", np.ones((RATE, 2)))
    write(root / "pointsource_noises/noise-free-sound-0000.wav", np.ones(RATE))
    return root, decay


def test_reverberation_is_the_convolution_from_the_direct_sound_on_at_the_level_of_the_waveform(rirs):
    root, decay = rirs
    by_channel = [fftconvolve(SPEECH.astype(float), channel)[80 : 80 + RATE] for channel in decay.T]
    by_channel = [each * np.sqrt(np.mean(SPEECH**2) / np.mean(each**2)) for each in by_channel]
    channels = set()
    for seed in range(12):
        wet = Reverberation(str(root))(SPEECH, RATE, np.random.default_rng(seed))
        assert wet.dtype == np.float32
        errors = [np.abs(wet - each).max() for each in by_channel]
        assert min(errors) < 1e-5
        channels.add(int(np.argmin(errors)))
    assert channels == {0, 1}


@pytest.mark.parametrize("num_samples", [1, 100, 5000])
def test_reverberation_keeps_the_length_and_silence(rirs, num_samples):
    for waveform in (SPEECH[:num_samples], np.zeros(num_samples, np.float32)):
        wet = Reverberation(str(rirs[0]))(waveform, RATE, np.random.default_rng(0))
        assert wet.shape == waveform.shape and np.isfinite(wet).all()
        assert np.sum(wet**2) == pytest.approx(np.sum(waveform**2), rel=1e-4)


def test_folder_of_noises_has_no_room_responses(rirs):
    with pytest.raises(FileNotFoundError, match="noise only"):
        Reverberation(str(rirs[0] / "pointsource_noises"))
