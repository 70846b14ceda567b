"""Models that are not of this package, small and random ones of five architectures of transformers, against
transformers' own pipeline on the same recordings."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    AutoModelForAudioClassification,
    HubertConfig,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
    pipeline,
)

import eval as script
from processing.collation import AudioCollator
from processing.layouts import LAYOUTS
from processing.models import load_countermeasure
from processing.recordings import score_recordings
from processing.scores import read_scores
from processing.scoring import Batches, score_rows
from processing.shards import score_shard


LAYERS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CONVOLUTIONS = {"conv_dim": (8,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
WHISPER = {f"{part}_{of}": n for part in ("encoder", "decoder") for of, n in (("layers", 1), ("ffn_dim", 32))}
WHISPER |= {f"{part}_attention_heads": 2 for part in ("encoder", "decoder")} | {"d_model": 16}
WHISPER |= {"max_source_positions": 50, "num_mel_bins": 16, "vocab_size": 8, "pad_token_id": 0}
ARCHITECTURES = {
    # Normalised over time, so that padding to the longest of a batch would change the scores.
    "wav2vec2": (Wav2Vec2Config, LAYERS | CONVOLUTIONS, Wav2Vec2FeatureExtractor()),
    "hubert": (
        HubertConfig,
        {**LAYERS, **CONVOLUTIONS, "feat_extract_norm": "layer"},
        Wav2Vec2FeatureExtractor(sampling_rate=8000, return_attention_mask=True),
    ),
    "wav2vec2-bert": (
        Wav2Vec2BertConfig,
        {**LAYERS, "feature_projection_input_dim": 32},
        SeamlessM4TFeatureExtractor(feature_size=16, num_mel_bins=16),
    ),
    # These crop and fill up themselves: to 1.295 s and 1 s.
    "ast": (
        ASTConfig,
        {**LAYERS, "max_length": 128, "num_mel_bins": 32},
        ASTFeatureExtractor(max_length=128, num_mel_bins=32),
    ),
    "whisper": (WhisperConfig, WHISPER, WhisperFeatureExtractor(feature_size=16, chunk_length=1)),
}


def save_model(folder: Path, architecture: str, labels=("fake", "real"), **settings) -> Path:
    config_class, own, extractor = ARCHITECTURES[architecture]
    torch.manual_seed(0)
    labels = dict(enumerate(labels))
    config = config_class(**own, **settings, id2label=labels, label2id={of: i for i, of in labels.items()})
    model = AutoModelForAudioClassification.from_config(config)
    for name, parameter in model.named_parameters():
        if name in ("classifier.weight", "classifier.dense.weight"):  # so that scores of recordings differ
            parameter.data *= 20
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("foreign")
    return {name: save_model(root / name, name) for name in ARCHITECTURES}


@pytest.fixture(scope="module")
def rows(la_corpus):
    """Noise of 0.3 to 1.5 s at 16 kHz."""
    return LAYOUTS["asvspoof2019-la"].load(la_corpus).splits["eval"].select(range(4))


def ask_pipeline(folder: Path, waveforms: list[np.ndarray], real: str = "real") -> list[float]:
    """The scores that transformers' probabilities make, of waveforms at 16 kHz."""
    classifier = pipeline("audio-classification", model=str(folder))
    scores = []
    for waveform in waveforms:
        answer = classifier({"array": waveform, "sampling_rate": 16_000}, top_k=2)
        found = {of["label"]: np.log(np.float64(of["score"])) for of in answer}
        scores.append(found.pop(real) - sum(found.values()))
    return scores


def read_waveforms(rows) -> list[np.ndarray]:
    return [soundfile.read(audio["path"], dtype="float32")[0] for audio in rows["audio"]]


def score(folder: Path, rows, batch_size: int = 4, **options) -> np.ndarray:
    model = load_countermeasure(str(folder), **options)
    collator = AudioCollator(model.feature_extractor)
    return score_rows(model.model, collator, rows, batches=Batches(batch_size)).numpy()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_of_whole_recordings_are_those_of_the_pipeline_whatever_the_batch(models, rows, architecture):
    expected = ask_pipeline(models[architecture], read_waveforms(rows))

    assert np.std(expected) > 1e-3
    for batch_size in (1, 4):
        assert score(models[architecture], rows, batch_size) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("architecture", ["wav2vec2", "wav2vec2-bert", "ast", "whisper"])
def test_crop_is_of_the_beginning_and_what_is_shorter_stays_so_in_any_batch(models, rows, architecture):
    waveforms = read_waveforms(rows)
    cropped = [waveform[:12_800] for waveform in waveforms]
    assert min(map(len, waveforms)) < 12_800 < max(map(len, waveforms))

    scores = score(models[architecture], rows, batch_size=len(rows), seconds=0.8)

    assert scores == pytest.approx(ask_pipeline(models[architecture], cropped), abs=2e-5)


def test_recordings_of_a_shard_have_the_same_scores_beside_a_broken_one(models, rows):
    countermeasure = load_countermeasure(str(models["wav2vec2"]), seconds=0.8)
    audio = [row["audio"] for row in rows]
    audio.insert(1, {"path": None, "bytes": b"no audio"})
    shard = ({"utterance_id": f"u{i}", "audio": of} for i, of in enumerate(audio))

    scores = score_shard(countermeasure, shard, Batches(3))["score"].to_pylist()

    assert scores.pop(1) is None
    assert scores == score(models["wav2vec2"], rows, batch_size=3, seconds=0.8).tolist()


@pytest.mark.parametrize(("architecture", "seconds"), [("wav2vec2", 1.0), ("whisper", None)])
def test_windows_of_a_recording_have_the_scores_of_the_pipeline(models, tmp_path, architecture, seconds):
    waveform = np.float32(0.1 * np.random.default_rng(0).standard_normal(40_000))
    soundfile.write(tmp_path / "long.wav", waveform, 16_000, subtype="FLOAT")
    model = load_countermeasure(str(models[architecture]), seconds=seconds)  # Whisper's crops by itself

    (recording,) = score_recordings(model, [tmp_path / "long.wav"])

    assert recording.starts == [0.0, 0.5, 1.0, 1.5]
    parts = [waveform[round(start * 16_000) :][:16_000] for start in recording.starts]
    assert recording.scores == pytest.approx(ask_pipeline(models[architecture], parts), abs=2e-5)


@pytest.mark.parametrize("architecture", ["wav2vec2", "wav2vec2-bert", "ast"])
def test_recording_of_a_hundredth_of_a_second_is_filled_up_to_a_tenth(models, tmp_path, architecture):
    waveform = np.float32(0.1 * np.random.default_rng(0).standard_normal(160))
    soundfile.write(tmp_path / "short.wav", waveform, 16_000, subtype="FLOAT")

    (recording,) = score_recordings(load_countermeasure(str(models[architecture])), [tmp_path / "short.wav"])

    expected = ask_pipeline(models[architecture], [np.pad(waveform, (0, 1440))])
    assert recording.scores == pytest.approx(expected, abs=2e-5)


def test_label_map_says_what_labels_without_names_mean(rows, tmp_path):
    folder = save_model(tmp_path / "model", "ast", labels=("LABEL_0", "LABEL_1"))
    expected = np.array(ask_pipeline(folder, read_waveforms(rows), real="LABEL_1"))

    assert score(folder, rows, label_map="label_0=spoof,LABEL_1=bonafide") == pytest.approx(
        expected, abs=2e-5
    )
    assert score(folder, rows, label_map="LABEL_0=bonafide,LABEL_1=spoof") == pytest.approx(
        -expected, abs=2e-5
    )


def test_label_map_turns_labels_that_are_spelt_as_ours(rows, tmp_path):
    folder = save_model(tmp_path / "model", "ast", labels=("spoof", "bonafide"))

    turned = score(folder, rows, label_map="spoof=bonafide,bonafide=spoof")

    assert turned == pytest.approx(-score(folder, rows), abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "label_map", "message"),
    [
        ({"labels": ("LABEL_0", "LABEL_1")}, None, "--label_map LABEL_0=bonafide,LABEL_1=spoof or"),
        ({"labels": ("LABEL_0", "LABEL_1")}, "LABEL_O=spoof", r"'LABEL_0' \(did you mean 'label_o'\?\)"),
        (
            {"labels": ("spoofed", "real")},
            None,
            r"'spoofed' \(did you mean 'spoof'\?\) and 'real', which means",
        ),
        ({"labels": ("fake", "spoof")}, None, "'fake', which means spoof, and 'spoof', which means spoof,"),
        ({"labels": ("a", "b")}, "a=spoof,b=spoof", "one must mean bona fide, the other spoof"),
        ({"labels": ("real", "fake", "unsure")}, None, "the labels real, fake, unsure"),
        ({"labels": ("real",)}, None, "the labels real "),
        ({"problem_type": "regression"}, None, "problem type: regression"),
        ({"problem_type": "multi_label_classification"}, None, "two that exclude each other"),
    ],
)
def test_labels_that_do_not_tell_bonafide_from_spoof_are_refused(tmp_path, settings, label_map, message):
    folder = save_model(tmp_path / "model", "ast", **settings)

    with pytest.raises(ValueError, match=message):
        load_countermeasure(str(folder), label_map=label_map)


@pytest.mark.parametrize(
    ("architecture", "seconds", "message"),
    [
        ("ast", 1.5, "ASTFeatureExtractor of this model takes 0.1 s to 1.295 s"),
        ("hubert", 0.01, "Wav2Vec2FeatureExtractor of this model takes 0.1 s to inf s"),
    ],
)
def test_crop_that_the_extractor_does_not_take_is_refused(models, architecture, seconds, message):
    with pytest.raises(ValueError, match=message):
        load_countermeasure(str(models[architecture]), seconds=seconds)


def test_base_model_without_a_classifier_and_model_without_an_extractor_are_refused(models, tmp_path):
    bare = shutil.copytree(models["wav2vec2"], tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    headless = shutil.copytree(models["wav2vec2"], tmp_path / "headless")
    AutoModelForAudioClassification.from_pretrained(headless).wav2vec2.save_pretrained(headless)

    with pytest.raises((FileNotFoundError, ValueError), match="preprocessor_config.json"):
        load_countermeasure(str(bare))
    with pytest.raises(ValueError, match="lacks 4 of the needed tensors, among them classifier.bias"):
        load_countermeasure(str(headless), label_map="LABEL_0=spoof,LABEL_1=bonafide")


def test_evaluation_and_calibration_say_whose_preprocessing_it_was(tmp_path, la_corpus, capsys):
    folder = save_model(tmp_path / "model", "wav2vec2", labels=("machine", "human"))
    rows = LAYOUTS["asvspoof2019-la"].load(la_corpus).splits["dev"]
    audio = rows[0]["audio"]["path"]
    common = ["--model", str(folder), "--num_threads", "1", "--label_map", "human=bonafide,machine=spoof"]
    corpus = ["--data_dir", str(la_corpus), "--split", "dev", "--num_resamples", "0"]

    script.main([*common, *corpus, "--calibrate", "--output_dir", str(tmp_path / "dev")])
    script.main([*common, "--files", audio, "--report", "--output_dir", str(tmp_path / "files")])
    script.main([*common, "--files", audio, "--seconds", "0.2", "--output_dir", str(tmp_path / "crop")])

    output = capsys.readouterr().out
    assert "Labels: machine means spoof, human means bonafide" in output
    assert "the model's own Wav2Vec2FeatureExtractor at 16,000 Hz, whole recordings" in output
    results = json.loads((tmp_path / "dev" / "results.json").read_text())
    assert results["preprocessing"] == {
        "labels": {"machine": "spoof", "human": "bonafide"},
        "feature_extractor": "Wav2Vec2FeatureExtractor",
        "sampling_rate": 16_000,
        "seconds": None,
    }
    scores = read_scores(tmp_path / "dev" / "scores.txt")["score"]
    assert [*scores] == pytest.approx(ask_pipeline(folder, read_waveforms(rows), real="human"), abs=2e-5)
    of_file, of_crop = (
        json.loads((tmp_path / name / "recordings.json").read_text())["recordings"][0]
        for name in ("files", "crop")
    )
    assert of_file["score"] == pytest.approx(scores.iloc[0], abs=2e-5)
    assert of_file["llr"] is not None and of_crop["llr"] is None  # it was calibrated on whole recordings
    assert len([*(tmp_path / "files").glob("report-*.html")]) == 1
    for more, message in (
        (["--torch_compile"], "leave --torch_compile out"),
        (["--label_map", "human=bonafide,machine=spoof,robot=spoof"], "has no label 'robot'"),
    ):
        with pytest.raises(SystemExit, match=message):
            script.main([*common, *more, "--files", audio, "--output_dir", str(tmp_path / "no")])
