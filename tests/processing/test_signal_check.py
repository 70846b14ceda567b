"""Signals that cannot be what was recorded, and quiet, loud and short ones that can."""

import numpy as np
import pytest

from processing.audio import decode_audio
from processing.signal_check import check_signal


RATE = 16_000
NOISE = np.random.default_rng(0).normal(0, 0.1, 4 * RATE).astype(np.float32)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(4 * RATE), "there are 0.00 s of sound in the "),
        (np.full(4 * RATE, 0.3), "there are 0.00 s of sound in the "),
        (NOISE[:1], "there are 0.00 s of sound in the "),
        (NOISE[: RATE // 16], "there are 0.06 s of sound in the "),
        (np.eye(1, 4 * RATE, 999)[0], "there are 0.02 s of sound in the "),
        (NOISE * 32768, "its samples reach 1"),
    ],
    ids=["silence", "constant", "one sample", "a sixteenth of a second", "one click", "not scaled"],
)
def test_signal_without_a_recording_in_it_is_named(samples, reason):
    assert check_signal(samples.astype(np.float32), RATE).startswith(reason)


@pytest.mark.parametrize(
    "samples",
    [
        NOISE * 0.003,
        np.r_[np.zeros(3 * RATE), NOISE[: RATE // 2]],
        NOISE[: RATE // 8],
        np.clip(NOISE * 100, -1.4, 1.4),
    ],
    ids=["60 dB below full scale", "half a second in silence", "an eighth of a second", "clipped"],
)
def test_unusual_recording_is_let_through(samples):
    assert check_signal(samples.astype(np.float32), RATE) == ""


def test_real_recordings_are_let_through(shared_data):
    files = sorted((shared_data / "open_speech").rglob("*.flac"))[::10]

    reasons = {check_signal(decode_audio(file, num_samples=64_000), RATE) for file in files}

    assert len(files) > 10
    assert reasons == {""}
