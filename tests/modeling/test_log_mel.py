"""Whisper's log-mel spectrogram against transformers' own feature extractor."""

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor

from modeling.log_mel import LogMelSpectrogram


@pytest.mark.parametrize("num_mel_bins", [80, 128])
@pytest.mark.parametrize("num_samples", [201, 8000, 64600])
def test_features_are_those_of_whispers_feature_extractor(num_samples, num_mel_bins):
    rng = np.random.default_rng(0)
    waveforms = [
        0.1 * rng.standard_normal(num_samples),
        1e-3 * rng.standard_normal(num_samples),  # each by its own maximum
        rng.standard_normal(num_samples) * (np.arange(num_samples) < num_samples // 2),  # then silence
        np.zeros(num_samples),
    ]
    waveforms = [waveform.astype(np.float32) for waveform in waveforms]
    extractor = WhisperFeatureExtractor(feature_size=num_mel_bins)

    features = LogMelSpectrogram(WhisperConfig(num_mel_bins=num_mel_bins))(
        torch.from_numpy(np.stack(waveforms))
    )

    expected = extractor(waveforms, padding="do_not_pad", sampling_rate=16000, return_tensors="pt")
    assert features.shape == (4, num_mel_bins, num_samples // 160)
    torch.testing.assert_close(features, expected.input_features, atol=1e-5, rtol=0)


def test_features_are_of_float32_under_autocast_and_in_a_model_of_bfloat16():
    waveform = 0.1 * torch.randn(2, 8000)
    log_mel = LogMelSpectrogram(WhisperConfig())
    expected = log_mel(waveform)

    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = log_mel.bfloat16()(waveform)

    assert torch.equal(under_autocast, expected)
