"""What the frozen part gives, kept on disk: the values, when they are used again, and what is refused."""

import os
import shutil
from collections import namedtuple
from pathlib import Path

import datasets
import pytest
import torch
from tiny_base_model import SIZES, WHISPER_SIZES
from transformers import AutoFeatureExtractor, Wav2Vec2Config

from modeling import (
    RawNet2Config,
    RawNet2ForAudioClassification,
    Wav2Vec2AntiSpoofingConfig,
    Wav2Vec2AntiSpoofingForAudioClassification,
)
from processing import trunk_cache
from processing.collation import AudioCollator
from processing.feature_extraction_antispoofing import AntiSpoofingFeatureExtractor
from processing.layouts import LAYOUTS
from processing.scoring import Batches
from processing.trunk_cache import TrunkCollator, cache_trunk


NUM_SAMPLES = 4000  # 12 frames
BATCHES = Batches(batch_size=3)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and shards of 4 utterances: the 16 of dev make 4."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(trunk_cache, "SHARD_SIZE", 4)
    return tmp_path / "cache" / "frozen-trunk"


@pytest.fixture
def corpus(la_corpus, tmp_path) -> Path:
    """A copy whose files may be changed."""
    return shutil.copytree(la_corpus, tmp_path / "LA")


@pytest.fixture
def rows(corpus):
    """16 utterances, in 4 shards."""
    return rows_of(corpus)


def rows_of(corpus):
    return LAYOUTS["asvspoof2019-la"].load(corpus).splits["dev"]


def make_model(num_trainable_layers=1, **settings) -> Wav2Vec2AntiSpoofingForAudioClassification:
    """A model whose weights are the same at every call."""
    torch.manual_seed(0)
    config = Wav2Vec2AntiSpoofingConfig(
        encoder_config=settings.pop("encoder_config", Wav2Vec2Config(**SIZES)),
        num_samples=settings.pop("num_samples", NUM_SAMPLES),
        num_trainable_layers=num_trainable_layers,
        **settings,
    )
    return Wav2Vec2AntiSpoofingForAudioClassification(config)


def make_collator(**settings) -> AudioCollator:
    return AudioCollator(AntiSpoofingFeatureExtractor(**{"num_samples": NUM_SAMPLES, **settings}), [0, 1])


def num_computed(model, rows, collator=None) -> int:
    """Cache the trunk and return of how many utterances it was computed."""
    run_trunk, seen = model.run_trunk, []

    def counting(input_values, **settings):
        seen.extend(waveform for waveform in input_values if waveform.any())  # silence finds out the shape
        return run_trunk(input_values, **settings)

    model.run_trunk = counting
    try:
        cache_trunk(model, collator or make_collator(), rows, batches=BATCHES)
    finally:
        model.run_trunk = run_trunk
    return len(seen)


def shards_of(cache: Path) -> list[str]:
    """Finished shards of the only key."""
    (folder,) = cache.iterdir()
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".safetensors")


# The values


@pytest.mark.parametrize(
    ("settings", "states_and_frames"),
    [
        ({"num_trainable_layers": 1}, (1, 12)),
        ({"num_trainable_layers": "all"}, (1, 12)),
        ({"num_trainable_layers": 0}, (1, 1)),  # nothing but the mean over time matters
        ({"num_trainable_layers": 0, "backend": "attentive"}, (1, 12)),
        ({"num_trainable_layers": 1, "use_weighted_layer_sum": True}, (3, 12)),
        ({"num_trainable_layers": 0, "use_weighted_layer_sum": True}, (4, 1)),
        ({"num_trainable_layers": 0, "backend": "mhfa"}, (4, 12)),
    ],
)
def test_kept_values_are_those_of_the_frozen_part_in_float16_in_the_order_of_the_rows(
    rows, settings, states_and_frames
):
    model, collator = make_model(**settings), make_collator()

    cached = cache_trunk(model, collator, rows, batches=BATCHES)

    crops = collator(list(rows))["input_values"]
    with torch.no_grad():
        expected = model.run_trunk(crops).half()
    kept = torch.stack([row["trunk_states"] for row in cached])
    assert kept.shape == (16, *states_and_frames, 32)
    torch.testing.assert_close(kept.half(), expected, rtol=1e-3, atol=1e-3)  # other batches, other last bits
    assert expected.std(dim=0).max() > 0.05  # the utterances differ, so that their order is seen
    assert [int(row["label"]) for row in cached] == rows["label"][:]


@pytest.mark.parametrize(
    "settings", [{"use_weighted_layer_sum": True}, {"backend": "mhfa", "encoder_config": WHISPER_SIZES}]
)
def test_logits_of_kept_values_are_those_of_the_audio(rows, settings):
    model, collator = make_model(**settings).eval(), make_collator()

    cached = cache_trunk(model, collator, rows, batches=BATCHES)

    with torch.no_grad():
        logits = model(**TrunkCollator([0, 1])(list(cached))).logits
        expected = model(**collator(list(rows))).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-3)


def test_values_are_float32_in_a_batch_and_their_type_on_disk_is_float16(rows):
    cached = cache_trunk(make_model(), make_collator(), rows, batches=BATCHES)

    batch = TrunkCollator([0, 1])([cached[0], cached[5]])

    assert batch["trunk_states"].dtype == torch.float32
    assert cached[0]["trunk_states"].dtype == torch.float16


@pytest.mark.parametrize("ids", [[0, 1], [1, 0]])
def test_labels_of_a_batch_are_the_models_class_indices(rows, ids):
    cached = cache_trunk(make_model(), make_collator(), rows, batches=BATCHES)

    labels = TrunkCollator(ids)([cached[i] for i in range(4)])["labels"]

    assert rows["label"][:4] == [0, 1, 0, 1]
    assert labels.tolist() == [ids[0], ids[1], ids[0], ids[1]]


def test_dropout_has_no_part_in_what_is_kept_of_a_model_in_training(rows):
    model = make_model()
    model.config.encoder_config.hidden_dropout = 0.9
    in_training = cache_trunk(model.train(), make_collator(), rows, batches=BATCHES)
    shutil.rmtree(datasets.config.HF_DATASETS_CACHE)

    in_evaluation = cache_trunk(model.eval(), make_collator(), rows, batches=BATCHES)

    for a, b in zip(in_training, in_evaluation, strict=True):
        assert torch.equal(a["trunk_states"], b["trunk_states"])


# Finished shards


def test_second_run_computes_nothing(rows, capsys):
    assert num_computed(make_model(), rows) == 16
    capsys.readouterr()

    assert num_computed(make_model(), rows) == 0
    assert "of each of 0 utterances, 16 of 16 are there" in capsys.readouterr().out


def test_only_the_missing_shard_is_computed(rows, cache):
    model = make_model()
    before = [row["trunk_states"] for row in cache_trunk(model, make_collator(), rows, batches=BATCHES)]
    (path,) = cache.glob("*/00002-of-00004.safetensors")
    path.unlink()

    assert num_computed(model, rows) == 4

    after = [row["trunk_states"] for row in cache_trunk(model, make_collator(), rows, batches=BATCHES)]
    assert torch.equal(torch.stack(before), torch.stack(after))


def test_last_shard_may_be_a_short_one(rows):
    assert num_computed(make_model(), rows.select(range(6))) == 6
    assert num_computed(make_model(), rows.select(range(6))) == 0


def test_model_that_was_saved_and_loaded_uses_the_cache(rows, tmp_path):
    model = make_model()
    num_computed(model, rows)
    model.save_pretrained(tmp_path / "model")
    make_collator().feature_extractor.save_pretrained(tmp_path / "model")

    loaded = Wav2Vec2AntiSpoofingForAudioClassification.from_pretrained(tmp_path / "model")
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "model")

    assert num_computed(loaded, rows, AudioCollator(extractor, make_collator().label_ids)) == 0


def test_shard_that_was_not_finished_does_not_appear_and_only_the_rest_is_computed(corpus, cache):
    (path,) = corpus.rglob("LA_D_0000006.flac")
    content, times = path.read_bytes(), path.stat()
    path.write_bytes(b"no audio".ljust(len(content)))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # so that the key is that of the mended file

    with pytest.raises(ValueError, match="LA_D_0000006"):
        num_computed(make_model(), rows_of(corpus))
    assert shards_of(cache) == ["00000-of-00004.safetensors"]
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    assert num_computed(make_model(), rows_of(corpus)) == 12
    assert shards_of(cache) == [f"{index:05d}-of-00004.safetensors" for index in range(4)]


def test_failed_run_leaves_nothing_but_finished_shards(corpus, cache):
    (path,) = corpus.rglob("LA_D_0000006.flac")
    path.write_bytes(b"no audio")

    with pytest.raises(ValueError, match="LA_D_0000006"):
        num_computed(make_model(), rows_of(corpus))

    (folder,) = cache.iterdir()
    assert [path.name for path in folder.iterdir()] == ["00000-of-00004.safetensors"]


# What another cache is needed for


def change_weight(model, name):
    with torch.no_grad():
        model.get_parameter(name).view(-1)[-1] += 1e-3
    return model


@pytest.mark.parametrize(
    "name",
    [
        "encoder.feature_extractor.conv_layers.0.conv.weight",
        "encoder.feature_projection.projection.bias",
        "encoder.encoder.pos_conv_embed.conv.bias",
        "encoder.encoder.layer_norm.weight",
        "encoder.encoder.layers.1.final_layer_norm.bias",
    ],
)
def test_another_frozen_weight_makes_another_cache(rows, name):
    num_computed(make_model(), rows)

    assert num_computed(change_weight(make_model(), name), rows) == 16


@pytest.mark.parametrize(
    "name",
    ["encoder.encoder.layers.2.attention.k_proj.weight", "backend.projector.weight", "classifier.bias"],
)
def test_weights_that_are_trained_do_not_matter(rows, name):
    num_computed(make_model(), rows)

    assert num_computed(change_weight(make_model(), name), rows) == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"class_weights": {"bonafide": 3.0, "spoof": 1.0}},
        {"decision_threshold": 0.5},
        {"classifier_dropout": 0.5},
        {"classifier_proj_size": 16},
        {"backend": "attentive"},
        {"encoder_gradient_factor": 0.1},
        {"loss": "oc_softmax"},
        {"id2label": {0: "spoof", 1: "bonafide"}},
    ],
)
def test_settings_of_the_head_do_not_matter(rows, settings):
    num_computed(make_model(), rows)

    assert num_computed(make_model(**settings), rows) == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"num_trainable_layers": 2},
        {"num_trainable_layers": "all"},
        {"num_trainable_layers": 0},
        {"use_weighted_layer_sum": True},
    ],
)
def test_another_frozen_part_makes_another_cache(rows, settings):
    num_computed(make_model(), rows)

    assert num_computed(make_model(**settings), rows) == 16


@pytest.mark.parametrize("settings", [{"padding": "zero"}, {"do_normalize": True}])
def test_other_crops_make_another_cache(rows, settings):
    num_computed(make_model(), rows)

    assert num_computed(make_model(), rows, make_collator(**settings)) == 16


def test_back_end_that_takes_states_before_the_last_norm_makes_another_cache(rows):
    num_computed(make_model(num_trainable_layers=0, backend="mhfa"), rows)

    assert num_computed(make_model(num_trainable_layers=0, backend="sls"), rows) == 16


def test_another_length_of_the_crop_makes_another_cache(rows):
    num_computed(make_model(), rows)

    assert num_computed(make_model(num_samples=5000), rows, make_collator(num_samples=5000)) == 16


def test_changed_audio_file_makes_another_cache(corpus):
    num_computed(make_model(), rows_of(corpus))
    (path,) = corpus.rglob("LA_D_0000009.flac")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))

    assert num_computed(make_model(), rows_of(corpus)) == 16


@pytest.mark.parametrize("indices", [range(15), range(15, -1, -1)])
def test_other_utterances_or_another_order_make_another_cache(rows, indices):
    num_computed(make_model(), rows)

    assert num_computed(make_model(), rows.select(indices)) == len(indices)


def test_labels_are_those_of_the_rows_and_not_of_the_cache(rows):
    num_computed(make_model(), rows)
    flipped = rows.map(lambda row: {"label": 1 - row["label"]}, load_from_cache_file=False)

    cached = cache_trunk(make_model(), make_collator(), flipped, batches=BATCHES)

    assert [int(row["label"]) for row in cached] == [1 - label for label in rows["label"][:]]


# What is refused


def test_random_crop_is_refused_with_a_remedy(rows, cache):
    collator = AudioCollator(AntiSpoofingFeatureExtractor(num_samples=NUM_SAMPLES), [0, 1], crop="random")

    with pytest.raises(ValueError, match="leave out --crop random and augmentation, or the cache"):
        cache_trunk(make_model(), collator, rows)

    assert not cache.exists()


def test_model_of_which_everything_is_trained_is_refused(rows):
    model = make_model("all", train_feature_encoder=True)

    with pytest.raises(ValueError, match="nothing of this wav2vec2-antispoofing is frozen.*Leave the option"):
        cache_trunk(model, make_collator(), rows)


def test_architecture_without_a_frozen_part_is_refused(rows):
    sizes = {"sinc_filters": 4, "block_channels": [4], "gru_hidden_size": 4, "embedding_size": 4}
    model = RawNet2ForAudioClassification(RawNet2Config(num_samples=NUM_SAMPLES, **sizes))

    with pytest.raises(ValueError, match="nothing of this rawnet2 is frozen"):
        cache_trunk(model, make_collator(), rows)


@pytest.mark.parametrize("value", [1e5, float("nan")])
def test_value_that_float16_cannot_hold_is_an_error_that_names_the_utterance(rows, cache, value):
    model = make_model()
    run_trunk, calls = model.run_trunk, []

    def overflowing(input_values):
        states = run_trunk(input_values)
        calls.append(len(input_values))
        if sum(calls) == 1 + 4 + 3:  # silence, the first shard, and the first batch of the second
            states[1, 0, 7, 5] = value
        return states

    model.run_trunk = overflowing

    with pytest.raises(ValueError, match="gives LA_D_0000005 values.*Train without --cache_frozen_trunk"):
        cache_trunk(model, make_collator(), rows, batches=BATCHES)

    assert shards_of(cache) == ["00000-of-00004.safetensors"]


def test_size_is_printed_before_and_is_that_of_the_values(rows, capsys):
    printed = []
    model = make_model()
    run_trunk = model.run_trunk

    def listening(input_values):
        if input_values.any():
            printed.append(capsys.readouterr().out)
        return run_trunk(input_values)

    model.run_trunk = listening
    cached = cache_trunk(model, make_collator(), rows, batches=BATCHES, description="dev")

    size = 2 * sum(row["trunk_states"].numel() for row in cached)  # bytes, float16
    assert printed[0].startswith("Frozen trunk of dev: 1 x 12 x 32 values")
    assert f"of each of 16 utterances, 0 of 16 are there: {size / 1e6:,.1f} MB in " in printed[0]
    assert round(size / 1e6, 3) == 0.012


def test_size_on_disk_is_little_more_than_what_was_announced(rows, cache):
    # Wide enough that the names and offsets beside the values hardly matter.
    long, size = make_collator(num_samples=16000), 2 * 16 * 49 * 32

    cache_trunk(make_model(num_samples=16000), long, rows, batches=BATCHES)

    on_disk = sum(path.stat().st_size for path in cache.rglob("*.safetensors"))
    assert size < on_disk < 1.4 * size


def test_disk_without_the_space_is_an_error_before_anything_is_written(rows, cache, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**6, 10**6 - 12_287, 12_287)  # one byte too few
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    with pytest.raises(ValueError, match="MB left, but .* MB are needed.*HF_DATASETS_CACHE"):
        cache_trunk(make_model(), make_collator(), rows, batches=BATCHES)

    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_space_for_what_is_still_missing_is_enough(rows, cache, monkeypatch):
    num_computed(make_model(), rows)
    (path,) = cache.glob("*/00001-of-00004.safetensors")
    path.unlink()
    usage = namedtuple("usage", "total used free")(10**6, 10**6 - 4_000, 4_000)  # of 4 utterances of 768
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    assert num_computed(make_model(), rows) == 4
