"""The conditions of a robustness report: each can be made, and changes what it should."""

import numpy as np
import pytest

from processing.augmentation import build_augmentation
from processing.conditions import CONDITIONS, GROUPS, choose_conditions


RATE = 16_000


@pytest.fixture(scope="module")
def speech():
    """Noise of speech's level, in bursts, between half a second of near silence."""
    generator = np.random.default_rng(0)
    waveform = 0.1 * generator.standard_normal(RATE)
    waveform *= 1 + np.sin(2 * np.pi * 4 * np.arange(RATE) / RATE)
    quiet = 1e-5 * generator.standard_normal(RATE // 2)
    return np.concatenate([quiet, waveform, quiet]).astype(np.float32)


@pytest.mark.parametrize("name", CONDITIONS)
def test_condition_is_the_same_change_for_every_model(name, speech):
    changed, again = (
        build_augmentation([CONDITIONS[name]])(speech, RATE, np.random.default_rng(3)) for _ in range(2)
    )

    np.testing.assert_array_equal(changed, again)
    assert changed.dtype == np.float32 and np.isfinite(changed).all()
    assert len(changed) < len(speech) if "silence" in name else len(changed) == len(speech)
    if len(changed) == len(speech):
        assert np.abs(changed - speech).max() > 1e-3


def test_names_and_groups_stand_for_conditions_each_once():
    assert list(choose_conditions(["all", "noise"])) == list(CONDITIONS)
    assert list(choose_conditions(["level", "noise-0db", "noise"])) == [*GROUPS["noise"], *GROUPS["level"]]
    assert choose_conditions([]) == {}
