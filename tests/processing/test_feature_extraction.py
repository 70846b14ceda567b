"""The crop-and-pad contract of the feature extractor."""

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, Wav2Vec2FeatureExtractor

import modeling  # noqa: F401  registers the feature extractor
from processing.feature_extraction_antispoofing import AntiSpoofingFeatureExtractor


def noise(length: int) -> np.ndarray:
    return np.random.default_rng(length).uniform(-1, 1, length).astype(np.float32)


@pytest.fixture(scope="module")
def extractor() -> AntiSpoofingFeatureExtractor:
    return AntiSpoofingFeatureExtractor()


@pytest.mark.parametrize("length", [64_000, 64_001, 30 * 60 * 16_000])
def test_long_audio_is_cropped_at_its_start(extractor, length):
    waveform = noise(length)

    values = extractor(waveform, sampling_rate=16000, return_tensors="np")["input_values"]

    assert values.shape == (1, 64_000) and values.dtype == np.float32
    np.testing.assert_array_equal(values[0], waveform[:64_000])


@pytest.mark.parametrize("length", [1, 63_999, 20_000])
def test_short_audio_is_tiled_not_zero_padded(extractor, length):
    waveform = noise(length)

    values = extractor(waveform, sampling_rate=16000, return_tensors="np")["input_values"][0]

    np.testing.assert_array_equal(values, [waveform[i % length] for i in range(64_000)])


@pytest.mark.parametrize("length", [1, 63_999])
def test_short_audio_is_zero_padded_where_asked(length):
    waveform = noise(length)

    values = AntiSpoofingFeatureExtractor(padding="zero")(waveform, sampling_rate=16000)["input_values"][0]

    np.testing.assert_array_equal(values, np.concatenate([waveform, np.zeros(64_000 - length, np.float32)]))


def test_whole_utterances_are_zero_padded_to_the_longest_with_a_mask():
    extractor = AntiSpoofingFeatureExtractor(num_samples=None)

    batch = extractor([noise(3), noise(5)], sampling_rate=16000, return_tensors="pt")

    assert batch["input_values"].shape == (2, 5)
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["input_values"][0, 3:].tolist() == [0, 0]


@pytest.mark.parametrize("length", [900, 1000, 2500])
def test_normalized_crop_is_that_of_transformers_and_zeros_are_added_behind_it(length):
    waveform = 0.1 * noise(length) + 0.05
    extractor = AntiSpoofingFeatureExtractor(num_samples=1000, padding="zero", do_normalize=True)

    values = extractor(waveform, sampling_rate=16000)["input_values"][0]

    reference = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    settings = {"max_length": 1000, "padding": "max_length", "truncation": True, "sampling_rate": 16000}
    np.testing.assert_allclose(values, reference(waveform, **settings)["input_values"][0], atol=1e-6)
    assert values.dtype == np.float32 and (values[length:] == 0).all()


def test_short_audio_is_normalized_before_it_is_tiled():
    waveform = 0.1 * noise(700) + 0.05
    extractor = AntiSpoofingFeatureExtractor(num_samples=1000, do_normalize=True)

    values = extractor(waveform, sampling_rate=16000)["input_values"][0]

    reference = Wav2Vec2FeatureExtractor(do_normalize=True)(waveform, sampling_rate=16000)["input_values"][0]
    np.testing.assert_allclose(values, np.concatenate([reference, reference[:300]]), atol=1e-6)


def test_whole_utterances_are_normalized_each_by_itself_without_its_padding():
    waveforms = [0.1 * noise(300) + 0.05, noise(500)]
    extractor = AntiSpoofingFeatureExtractor(num_samples=None, do_normalize=True)

    values = extractor(waveforms, sampling_rate=16000)["input_values"]

    reference = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    expected = reference(waveforms, padding=True, sampling_rate=16000)["input_values"]
    np.testing.assert_allclose(values, expected, atol=1e-6)


def test_silence_is_normalized_to_silence():
    extractor = AntiSpoofingFeatureExtractor(num_samples=1000, do_normalize=True)

    values = extractor(np.zeros(1000, np.float32), sampling_rate=16000)["input_values"][0]

    assert not values.any()


def test_samples_are_not_normalized_by_default(extractor):
    waveform = 0.1 * noise(64_000) + 0.05

    values = extractor(waveform, sampling_rate=16000)["input_values"][0]

    assert not extractor.do_normalize
    assert values.tobytes() == waveform.tobytes()


def test_batch_of_tensors_lists_and_float64_arrays_comes_out_as_float32(extractor):
    batch = extractor([torch.ones(5), [0.5] * 7, np.zeros(3)], sampling_rate=16000, return_tensors="pt")

    assert batch["input_values"].shape == (3, 64_000)
    assert batch["input_values"].dtype == torch.float32
    assert batch["input_values"][:, 0].tolist() == [1.0, 0.5, 0.0]


def test_one_channel_with_a_channel_axis_is_accepted(extractor):
    waveform = noise(10)

    values = extractor(waveform[None], sampling_rate=16000)["input_values"][0]

    np.testing.assert_array_equal(values[:10], waveform)


@pytest.mark.parametrize(
    "arguments",
    [
        {"padding": "max_length", "max_length": 900, "truncation": True},
        {"padding": True, "pad_to_multiple_of": 64},
        {"padding": "longest", "max_length": 400, "truncation": True, "return_attention_mask": False},
    ],
)
def test_whole_utterances_take_the_arguments_of_transformers(arguments):
    waveforms = [noise(300), noise(700)]
    settings = {"sampling_rate": 16000, "return_tensors": "pt", **arguments}

    batch = AntiSpoofingFeatureExtractor(num_samples=None)(waveforms, **settings)

    reference = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)
    expected = reference(waveforms, **settings)
    assert [*batch] == [*expected]
    assert all(torch.equal(batch[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_length": 400, "truncation": True},
        {"max_length": 400, "truncation": True, "padding": "max_length", "return_attention_mask": True},
        {"max_length": 400, "truncation": True, "return_tensors": "pt", "device": "cpu"},
    ],
)
def test_truncated_audio_is_filled_up_to_the_length_of_the_model(arguments):
    waveform = noise(700)

    batch = AntiSpoofingFeatureExtractor(num_samples=1000)(waveform, sampling_rate=16000, **arguments)

    values = np.asarray(batch["input_values"])
    np.testing.assert_array_equal(values, [[waveform[i % 400] for i in range(1000)]])
    if "return_attention_mask" in arguments:
        assert (np.asarray(batch["attention_mask"]) == 1).all()
    else:
        assert "attention_mask" not in batch


@pytest.mark.parametrize(
    ("length", "arguments", "asked"),
    [
        (700, {"padding": False}, 700),
        (700, {"padding": "do_not_pad"}, 700),
        (1100, {"truncation": False}, 1100),
        (700, {"padding": "max_length", "max_length": 2000}, 2000),
        (700, {"pad_to_multiple_of": 256}, 1024),
    ],
)
def test_arguments_that_ask_for_another_length_are_refused(length, arguments, asked):
    extractor = AntiSpoofingFeatureExtractor(num_samples=1000)

    with pytest.raises(ValueError, match=f"ask for {asked} samples; this model takes 1000"):
        extractor(noise(length), sampling_rate=16000, **arguments)


def test_device_is_for_tensors(extractor):
    with pytest.raises(ValueError, match="pass return_tensors='pt'"):
        extractor(noise(10), sampling_rate=16000, device="cpu")


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros((2, 100), np.float32), r"shape \(2, 100\).*one channel"),
        (np.zeros((100, 2), np.float32), r"shape \(100, 2\).*one channel"),
        ([np.zeros((2, 100), np.float32)], r"shape \(2, 100\).*one channel"),
        (np.zeros(0, np.float32), "[Ee]mpty"),
        ([np.ones(3, np.float32), np.zeros(0, np.float32)], "Waveform 1 is empty"),
        ([], "[Ee]mpty"),
        (np.array([0.0, np.nan]), "NaN or infinity at sample 1"),
        (np.array([np.inf, 0.0]), "NaN or infinity at sample 0"),
        (np.zeros(5, np.int16), "divide 16-bit samples by 32768"),
    ],
)
def test_bad_waveform_is_an_error_that_says_what_is_wrong(extractor, waveform, message):
    with pytest.raises(ValueError, match=message):
        extractor(waveform, sampling_rate=16000)


def test_other_sampling_rate_is_refused_and_never_resampled(extractor):
    with pytest.raises(ValueError, match="sampled at 8000 Hz, but this model takes 16000 Hz"):
        extractor(noise(100), sampling_rate=8000)


@pytest.mark.parametrize("settings", [{"padding": "mirror"}, {"num_samples": 0}])
def test_bad_setting_is_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        AntiSpoofingFeatureExtractor(**settings)


def test_saved_extractor_comes_back_by_the_auto_class(tmp_path):
    extractor = AntiSpoofingFeatureExtractor(num_samples=64_600, padding="zero", do_normalize=True)
    extractor.save_pretrained(tmp_path)

    loaded = AutoFeatureExtractor.from_pretrained(tmp_path)

    assert type(loaded) is AntiSpoofingFeatureExtractor
    assert (loaded.num_samples, loaded.padding, loaded.sampling_rate) == (64_600, "zero", 16000)
    assert loaded.do_normalize
