"""Rows to a batch: the crop of training depends on seed, epoch and utterance, and on nothing else."""

from io import BytesIO

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from processing.collation import AudioCollator, label_ids
from processing.feature_extraction_antispoofing import AntiSpoofingFeatureExtractor
from processing.layouts import LAYOUTS


@pytest.fixture(scope="module")
def rows(la_corpus):
    return LAYOUTS["asvspoof2019-la"].load(la_corpus).splits["train"]


def batches(rows, collator, num_workers=0, batch_size=5) -> torch.Tensor:
    loader = DataLoader(rows, batch_size=batch_size, collate_fn=collator, num_workers=num_workers)
    return torch.cat([batch["input_values"] for batch in loader])


def test_batch_is_the_start_of_each_file_with_labels_in_the_models_order(rows):
    collator = AudioCollator(AntiSpoofingFeatureExtractor(num_samples=4000), [1, 0])

    batch = collator([rows[0], rows[1]])

    waveforms = [soundfile.read(rows[i]["audio"]["path"], dtype="float32")[0][:4000] for i in (0, 1)]
    np.testing.assert_array_equal(batch["input_values"], np.stack(waveforms))
    assert batch["labels"].tolist() == [1, 0]  # bona fide, spoof


@pytest.mark.parametrize("num_workers", [1, 2])
def test_random_crop_is_the_same_in_every_worker_and_batch_size(rows, num_workers):
    extractor = AntiSpoofingFeatureExtractor(num_samples=1000)

    alone = batches(rows, AudioCollator(extractor, crop="random", seed=3))
    shared = batches(rows, AudioCollator(extractor, crop="random", seed=3), num_workers, batch_size=7)

    assert torch.equal(alone, shared)


def test_random_crop_changes_with_epoch_and_seed_and_comes_back(rows):
    extractor = AntiSpoofingFeatureExtractor(num_samples=1000)
    collator = AudioCollator(extractor, crop="random", seed=3)

    first = batches(rows, collator)
    collator.epoch.fill_(1)
    second = batches(rows, collator)
    collator.epoch.fill_(0)

    assert not torch.equal(first, second)
    assert torch.equal(first, batches(rows, collator))
    assert not torch.equal(first, batches(rows, AudioCollator(extractor, crop="random", seed=4)))


def test_random_crop_is_a_part_of_the_file(rows):
    collator = AudioCollator(AntiSpoofingFeatureExtractor(num_samples=1000), crop="random", seed=3)

    crop = collator([rows[0]])["input_values"][0].numpy()

    whole, _ = soundfile.read(rows[0]["audio"]["path"], dtype="float32")
    windows = np.lib.stride_tricks.sliding_window_view(whole, 1000)
    assert (windows == crop).all(axis=1).sum() == 1


def crop_of(waveform: np.ndarray, epoch: int = 0, seed: int = 0, **settings) -> np.ndarray:
    """The random crop of an utterance; `settings` are the extractor's."""
    file = BytesIO()
    soundfile.write(file, waveform, 16_000, format="WAV", subtype="FLOAT")
    collator = AudioCollator(AntiSpoofingFeatureExtractor(**settings), crop="random", seed=seed)
    collator.epoch.fill_(epoch)
    batch = collator([{"utterance_id": "x", "audio": {"path": None, "bytes": file.getvalue()}}])
    return batch["input_values"][0].numpy()


@given(length=st.integers(1, 200), num_samples=st.integers(1, 100), seed=st.integers(0, 2**32 - 1))
def test_random_crop_is_a_slice_and_repeats_with_its_seed(length, num_samples, seed):
    waveform = np.arange(length, dtype=np.float32)

    crops = [crop_of(waveform, seed=seed, num_samples=num_samples) for _ in range(2)]

    np.testing.assert_array_equal(crops[0], crops[1])
    assert len(crops[0]) == num_samples
    if length >= num_samples:
        np.testing.assert_array_equal(np.diff(crops[0]), 1)
    else:
        assert crops[0][0] == 0


def test_random_crop_reaches_the_first_and_the_last_sample():
    waveform = np.arange(6, dtype=np.float32)

    starts = {crop_of(waveform, epoch, num_samples=4)[0] for epoch in range(200)}

    assert starts == {0, 1, 2}


def test_random_crop_is_normalized_by_its_own_samples():
    first, second = np.random.default_rng(0).uniform(-1, 1, (2, 1000))
    waveform = np.concatenate([first, 10 + 5 * second]).astype(np.float32)  # unlike in mean and power
    settings = {"num_samples": 500, "do_normalize": True}

    values = crop_of(waveform, **settings)

    at_start = AntiSpoofingFeatureExtractor(**settings)(waveform, sampling_rate=16_000)["input_values"][0]
    assert not np.array_equal(values, at_start)
    np.testing.assert_allclose([values.mean(), values.std()], [0, 1], atol=1e-4)


def test_random_crop_of_whole_utterances_is_the_utterance():
    waveform = np.arange(6, dtype=np.float32)

    np.testing.assert_array_equal(crop_of(waveform, num_samples=None), waveform)


def test_file_that_cannot_be_decoded_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "notes.flac"
    path.write_text("not audio")
    collator = AudioCollator(AntiSpoofingFeatureExtractor())

    with pytest.raises(ValueError, match="notes.flac"):
        collator([{"utterance_id": "x", "audio": {"path": str(path), "bytes": None}, "label": 0}])


def test_labels_meet_by_name():
    assert label_ids(["bonafide", "spoof"], {"spoof": 0, "bonafide": 1}) == [1, 0]
    assert label_ids(["bonafide", "spoof"], {"spoof": 1, "bonafide": 0}) == [0, 1]


def test_model_without_the_labels_is_an_error_that_names_them():
    with pytest.raises(ValueError, match="LABEL_0, LABEL_1, but the rows need bonafide, spoof"):
        label_ids(["bonafide", "spoof"], {"LABEL_0": 0, "LABEL_1": 1})


def test_unknown_crop_is_an_error():
    with pytest.raises(ValueError, match="crop 'middle'"):
        AudioCollator(AntiSpoofingFeatureExtractor(), crop="middle")
