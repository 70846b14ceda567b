import numpy as np
import pytest
import soundfile

from processing import trivial_cues
from processing.arguments import CorpusArguments
from processing.corpora import load_corpus


RATE = 16_000


def test_auc_and_interval_are_those_of_all_pairs():
    generator = np.random.default_rng(0)
    bonafide, spoof = generator.integers(0, 9, 40), generator.integers(2, 11, 25)  # with ties

    found = trivial_cues.measure_auc(bonafide, spoof)

    wins = (bonafide[:, None] > spoof) + 0.5 * (bonafide[:, None] == spoof)
    # DeLong, DeLong and Clarke-Pearson, 1988: the variances of the means over each class's own trials.
    variance = np.var(wins.mean(axis=1), ddof=1) / 40 + np.var(wins.mean(axis=0), ddof=1) / 25
    expected = wins.mean() + 1.96 * np.sqrt(variance) * np.array([0, -1, 1])
    np.testing.assert_allclose([found.value, found.low, found.high], expected)


def test_cues_of_a_tone_with_silence_around_it():
    tone = 0.1 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    signal = np.concatenate([np.zeros(RATE // 2), tone, np.zeros(RATE // 4)]) + 1e-4

    cues = trivial_cues.measure_cues(signal)

    power = 0.1**2 / 2 / 1.75
    assert cues["duration"] == 1.75
    assert cues["level"] == pytest.approx(10 * np.log10(power), abs=0.01)
    assert cues["peak"] == pytest.approx(10 * np.log10(0.1**2 / power), abs=0.05)
    assert cues["dc"] == pytest.approx(-80 - 10 * np.log10(power), abs=0.1)
    assert cues["noise_floor"] == pytest.approx(-80 - 10 * np.log10(power), abs=0.1)
    assert cues["pauses"] == pytest.approx(0.75 / 1.75, abs=0.02)
    assert (cues["leading_silence"], cues["trailing_silence"]) == (0.5, pytest.approx(0.25, abs=0.02))
    assert cues["below_60_hz"] < -40 and cues["above_7_khz"] < -40


def test_cue_that_tells_the_classes_apart_is_warned_of(tmp_path):
    generator = np.random.default_rng(0)
    for label, silence in (("real", 3000), ("fake/vits", 300)):
        (tmp_path / label).mkdir(parents=True)
        for i in range(12):
            signal = 0.05 * generator.standard_normal(8000)
            signal[:silence] = 0
            soundfile.write(tmp_path / label / f"{label[:4]}{i}.wav", signal, RATE)

    cues = trivial_cues.compare_cues(load_corpus(CorpusArguments(str(tmp_path))).splits["train"])

    silence = cues.set_index(["cue", "attack"]).loc[("leading_silence", "vits")]
    assert silence["auc"] == 1
    assert (silence["bonafide"], silence["spoof"]) == (0.18, 0)  # 3000 and 300 samples, in whole 20 ms
    described = trivial_cues.describe_cues(cues)
    assert "Warning: leading_silence alone" in described
    assert "Warning: duration" not in described
