"""Augmentation of training utterances: before the crop, and a function of seed, epoch and utterance."""

import hashlib

import numpy as np
import pytest
import soundfile
import torch
import yaml
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from modeling import RawNet2Config, RawNet2ForAudioClassification
from processing.arguments import GradientArguments
from processing.augmentation import AUGMENTATIONS, AugmentationChain, build_augmentation
from processing.collation import AudioCollator
from processing.feature_extraction_antispoofing import AntiSpoofingFeatureExtractor
from processing.layouts import LAYOUTS
from processing.training import build_trainer


EXTRACTOR = AntiSpoofingFeatureExtractor(num_samples=1000)


@pytest.fixture(scope="module")
def splits(la_corpus):
    return LAYOUTS["asvspoof2019-la"].load(la_corpus).splits


def reverse(waveform, rate, generator):
    return waveform[::-1].copy()


def halve(waveform, rate, generator):
    return waveform / 2


def shorten(waveform, rate, generator):
    return waveform[: 1000 + generator.integers(3)]


def batches(rows, *, num_workers=0, batch_size=5, seed=3, epoch=0, **settings) -> torch.Tensor:
    collator = AudioCollator(EXTRACTOR, seed=seed, **settings)
    collator.epoch.fill_(epoch)
    loader = DataLoader(rows, batch_size=batch_size, collate_fn=collator, num_workers=num_workers)
    return torch.cat([batch["input_values"] for batch in loader])


@pytest.mark.parametrize("crop", ["start", "random"])
def test_augmented_utterance_is_the_same_in_every_worker_and_batch_size(splits, crop):
    names = ("codec", "noise", "speed", "resample", "gain", "trim_silence")
    augmentation = build_augmentation(
        [
            {"rawboost": {"algorithm": 4}, "probability": 0.7},
            *({name: {}, "probability": 0.7} for name in names),
        ]
    )

    alone = batches(splits["train"], augmentation=augmentation, crop=crop)
    shared = batches(splits["train"], augmentation=augmentation, crop=crop, num_workers=2, batch_size=7)

    assert torch.equal(alone, shared)


def test_augmentation_changes_with_epoch_and_seed(splits):
    rows, augmentation = (
        splits["train"].select(range(8)),
        build_augmentation([{"rawboost": {"algorithm": 2}}]),
    )

    first, *others = (
        batches(rows, augmentation=augmentation, **change) for change in ({}, {"epoch": 1}, {"seed": 4})
    )

    for other in others:
        assert all(not torch.equal(*pair) for pair in zip(first, other, strict=True))


def test_whole_utterance_is_augmented_and_then_cropped(splits):
    row = splits["train"][0]
    whole, _ = soundfile.read(row["audio"]["path"], dtype="float32")

    [at_start] = batches([row], augmentation=reverse)
    starts = set()
    for epoch in range(20):
        [crop] = batches([row], augmentation=AugmentationChain(((shorten, 1.0),)), crop="random", epoch=epoch)
        starts |= {start for start in range(3) if np.array_equal(crop, whole[start : start + 1000])}

    np.testing.assert_array_equal(at_start, whole[::-1][:1000])
    assert starts == {0, 1, 2}  # of the shortened utterance


def test_random_crop_without_augmentation_starts_where_it_always_has(splits):
    row = splits["train"][0]
    whole, _ = soundfile.read(row["audio"]["path"], dtype="float32")

    [crop] = batches([row], crop="random", epoch=2)

    utterance = int.from_bytes(hashlib.sha256(row["utterance_id"].encode()).digest()[:8], "little")
    start = np.random.default_rng([3, 2, utterance]).integers(len(whole) - 1000 + 1)
    np.testing.assert_array_equal(crop, whole[start : start + 1000])


def test_only_training_is_augmented(splits, tmp_path):
    sizes = {"sinc_filters": 4, "block_channels": [4], "gru_hidden_size": 4, "embedding_size": 4}
    model = RawNet2ForAudioClassification(RawNet2Config(num_samples=1000, **sizes))
    args = TrainingArguments(str(tmp_path), use_cpu=True, remove_unused_columns=False, report_to="none")
    method = GradientArguments(augmentation='[{"rawboost": {"algorithm": 2}}]')
    rows = {"train": splits["dev"], "dev": splits["dev"]}

    trainer = build_trainer(model, AudioCollator(EXTRACTOR, [1, 0]), rows, args, method)

    clean = batches(splits["dev"], batch_size=8)
    dev = torch.cat([batch["input_values"] for batch in trainer.get_eval_dataloader()])
    in_training = torch.cat([batch["input_values"] for batch in trainer.get_train_dataloader()])
    assert torch.equal(dev, clean)
    assert not (in_training[:, None] == clean).all(dim=-1).any()


def test_chain_applies_each_augmentation_with_its_probability_in_the_order_of_the_list():
    chain = AugmentationChain(((lambda x, *_: x + 1, 0.5), (lambda x, *_: 10 * x, 0.25), (halve, 1.0)))
    generator = np.random.default_rng(0)

    results = [float(chain(np.zeros(1), 16_000, generator)[0]) for _ in range(4000)]

    values, counts = np.unique(results, return_counts=True)
    np.testing.assert_array_equal(values, [0, 0.5, 5])
    np.testing.assert_allclose(counts / 4000, [0.5, 0.375, 0.125], atol=0.03)


def test_recipe_states_parameters_and_probability_and_none_of_them_is_no_augmentation():
    stated = [{"rawboost": {"algorithm": 3, "snr": [5, 15]}, "probability": 0.5}, {"rawboost": None}]

    first, second = build_augmentation(stated).steps

    assert (first[0].algorithm, first[0].snr, first[1]) == (3, [5, 15], 0.5)
    assert second == (AUGMENTATIONS["rawboost"](), 1.0)
    assert build_augmentation([]) is None and build_augmentation(None) is None


def test_chain_states_every_parameter_and_is_built_again_from_that():
    stated = build_augmentation([{name: None} for name in AUGMENTATIONS if name != "reverb"]).stated

    assert stated[4] == {"resample": {"sampling_rate": 8000}, "probability": 1.0}
    assert build_augmentation(yaml.safe_load(yaml.safe_dump(stated))).stated == stated


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ([{"rawbost": {}}], "unknown key 'rawbost' (did you mean 'rawboost'?)"),
        ([{"rawboost": {}, "probabilty": 1}], "unknown key 'probabilty' (did you mean 'probability'?)"),
        ([{"rawboost": {"algoritm": 5}}], "rawboost: unknown key 'algoritm' (did you mean 'algorithm'?)"),
        ([{"rawboost": {"algorithm": 9}}], "rawboost: algorithm 9 is not one of 1 to 8"),
        (
            [{"rawboost": {"snr": [40, 10]}}],
            "rawboost: snr [40, 10] is not a range: two numbers, [low, high]",
        ),
        ([{"rawboost": {"frequency": [-5, 10]}}], "[-5, 10] is not a range: two numbers of at least 0"),
        ([{"reverb": {}}], "missing 1 required positional argument: 'folder'"),
        ([{"rawboost": {"max_impulses": "some"}}], "rawboost: a parameter is missing or of the wrong type"),
        ([{"noise": {"num_recordings": [3, 7]}}], "num_recordings is of a folder, and there is none"),
        ([{"rawboost": {}, "probability": 1.5}], "rawboost: probability 1.5 is not above 0"),
        ([{"rawboost": 5}], "{'rawboost': 5} is not one augmentation with its parameters"),
        (["rawboost"], "'rawboost' is not one augmentation with its parameters"),
        ({"rawboost": {}}, "is not a list"),
    ],
)
def test_mistake_in_the_augmentation_is_an_error_that_names_it(stated, message):
    with pytest.raises(ValueError) as error:
        build_augmentation(stated)

    assert message in str(error.value)


def test_augmentation_that_is_not_json_is_an_error():
    with pytest.raises(ValueError, match="augmentation 'rawboost' is not valid JSON"):
        GradientArguments(augmentation="rawboost")
