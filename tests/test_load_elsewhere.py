"""A saved model in an environment and a folder where this package is not: the scores of the evaluation
here."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from elsewhere import Elsewhere
from tiny_base_model import ENCODER_SIZES, WHISPER_SIZES
from transformers import AutoModelForAudioClassification, PreTrainedModel, pipeline

from modeling import (
    AasistConfig,
    AasistForAudioClassification,
    AntiSpoofingFeatureExtractor,
    LCNNConfig,
    LCNNForAudioClassification,
    LFCCGMMConfig,
    LFCCGMMForAudioClassification,
    Wav2Vec2AntiSpoofingConfig,
    Wav2Vec2AntiSpoofingForAudioClassification,
)
from processing.collation import AudioCollator
from processing.corpora import CorpusArguments, load_corpus
from processing.scoring import score_rows


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Elsewhere:
    return Elsewhere(tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture(scope="module")
def moved(tmp_path_factory, trained) -> Path:
    """A copy of the trained folder, so that nothing is found where it was saved."""
    return shutil.copytree(
        trained, tmp_path_factory.mktemp("moved") / "model", ignore=shutil.ignore_patterns("checkpoint-*")
    )


@dataclass(frozen=True)
class Evaluated:
    """A saved model's folder, and what is known of it here."""

    folder: Path
    scores: dict[str, float]  # of the eval split's utterances
    threshold: float


@pytest.fixture(scope="module")
def rawnet2(moved) -> Evaluated:
    """The trained model, with the scores of `train.py`'s own evaluation."""
    lines = (moved / "results" / "eval" / "scores.txt").read_text().splitlines()
    scores = {line.split()[0]: float(line.split()[3]) for line in lines}
    return Evaluated(moved, scores, 0.0)


def with_batch_statistics(model: PreTrainedModel, waveforms: torch.Tensor) -> None:
    """Give the normalisations the statistics of waveforms of many levels: else they hardly see an input."""
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(waveforms * torch.logspace(-1, 1, len(waveforms))[:, None])
    model.eval().config.decision_threshold = -0.25  # which training mode has removed


def untrained(system: str) -> tuple[PreTrainedModel, AntiSpoofingFeatureExtractor]:
    """A small model of an architecture, whose scores differ from file to file, and its feature extractor."""
    shared = {"num_samples": 8000, "decision_threshold": -0.25}
    if system in ("wav2vec2", "whisper"):  # built from sizes: there is no base model anywhere
        sizes = WHISPER_SIZES if system == "whisper" else {"model_type": "wav2vec2", **ENCODER_SIZES}
        model = Wav2Vec2AntiSpoofingForAudioClassification(
            Wav2Vec2AntiSpoofingConfig(encoder_config=sizes, num_trainable_layers=1, **shared)
        )
        model.classifier.weight.data *= 10
        if system == "whisper":  # whose positions would outweigh what it makes of the waveform
            model.encoder.embed_positions.weight.data *= 1e-3
        return model, AntiSpoofingFeatureExtractor(num_samples=8000, do_normalize=system == "wav2vec2")
    if system == "aasist":
        dropouts = ("attention", "pool", "branch", "classifier")
        settings = {"block_channels": [4, 6], **{f"{name}_dropout": 0.0 for name in dropouts}}
        model = AasistForAudioClassification(AasistConfig(**settings, **shared))
        with_batch_statistics(model, 0.1 * torch.randn(16, 8000))
        model.classifier.weight.data *= 10
        return model, AntiSpoofingFeatureExtractor(num_samples=8000)
    if system == "lfcc-gmm":
        model = LFCCGMMForAudioClassification(LFCCGMMConfig(num_components=4, decision_threshold=-0.25))
        return model, AntiSpoofingFeatureExtractor(num_samples=None)
    model = LCNNForAudioClassification(LCNNConfig(front_end=system.removeprefix("lcnn-"), **shared))
    model.classifier.weight.data *= 10
    return model, AntiSpoofingFeatureExtractor(num_samples=8000)


def evaluated(folder: Path, system: str, corpus: Path) -> Evaluated:
    """An untrained model saved to a folder, and its scores here."""
    torch.manual_seed(0)
    model, extractor = untrained(system)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    rows = load_corpus(CorpusArguments(data_dir=str(corpus))).splits["eval"]
    scores = score_rows(model, AudioCollator(extractor), rows)
    assert scores.std() > 0.1
    return Evaluated(folder, dict(zip(rows["utterance_id"], scores.tolist(), strict=True)), -0.25)


def sigmoid(scores) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(scores, dtype=np.float64)))


def bonafide_probability(answer: dict) -> float:
    return next(entry["score"] for entry in answer["pipeline"] if entry["label"] == "bonafide")


def list_files(known: Evaluated, corpus: Path) -> list[Path]:
    return [corpus / "ASVspoof2019_LA_eval" / "flac" / f"{utterance}.flac" for utterance in known.scores]


def check_scores(said: dict, known: Evaluated) -> None:
    """The Auto classes and the pipeline have said elsewhere what is known of a model here."""
    scores = list(known.scores.values())
    np.testing.assert_allclose([answer["score"] for answer in said["answers"]], scores, atol=1e-5)
    probabilities = [bonafide_probability(answer) for answer in said["answers"]]
    np.testing.assert_allclose(probabilities, sigmoid(scores), atol=1e-5)
    assert said["threshold"] == known.threshold


@pytest.mark.parametrize("by_path", [False, True])
def test_auto_classes_and_pipeline_give_the_scores_of_evaluation(elsewhere, rawnet2, la_corpus, by_path):
    said = elsewhere.ask(rawnet2.folder, list_files(rawnet2, la_corpus), by_path=by_path)

    check_scores(said, rawnet2)


SYSTEMS = ("wav2vec2", "whisper", "lcnn-lfcc", "lcnn-cqt", "lfcc-gmm", "aasist")


@pytest.fixture(scope="module")
def said_and_known(elsewhere, la_corpus, tmp_path_factory) -> dict[str, tuple[dict, Evaluated]]:
    """What one process elsewhere says of a model of each architecture, and what is known of it here."""
    folder = tmp_path_factory.mktemp("systems")
    known = [evaluated(folder / system, system, la_corpus) for system in SYSTEMS]
    said = elsewhere.ask_all([each.folder for each in known], list_files(known[0], la_corpus))
    return dict(zip(SYSTEMS, zip(said, known, strict=True), strict=True))


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_architecture_gives_its_scores_where_this_package_is_not(said_and_known, system):
    check_scores(*said_and_known[system])


SCRIPT_WITH_OTHER_ORDER = """
import sys
import torch
from transformers import AutoModelForAudioClassification as Auto

waveform = torch.sin(torch.arange(8000.0))[None]
for labels in ({0: "spoof", 1: "bonafide"}, {"0": "bonafide", "1": "spoof"}):
    model = Auto.from_pretrained(sys.argv[1], id2label=labels, trust_remote_code=True)
    logits = model(waveform).logits[0]
    print(float(logits[model.config.label2id["bonafide"]] - logits[model.config.label2id["spoof"]]))
"""


def test_code_that_travels_permutes_the_labels(elsewhere, moved):
    process = elsewhere.run(SCRIPT_WITH_OTHER_ORDER, moved)

    assert process.returncode == 0, process.stderr
    score, permuted = map(float, process.stdout.split())
    assert score == pytest.approx(permuted, abs=1e-6) and abs(score) > 1e-3


def test_pipeline_needs_no_remote_code_where_this_package_is_imported(moved, la_corpus):
    line = (moved / "results" / "dev" / "scores.txt").read_text().splitlines()[0].split()
    waveform, rate = soundfile.read(la_corpus / "ASVspoof2019_LA_dev" / "flac" / f"{line[0]}.flac")

    answer = pipeline("audio-classification", model=str(moved))({"array": waveform, "sampling_rate": rate})

    assert bonafide_probability({"pipeline": answer}) == pytest.approx(sigmoid(float(line[3])), abs=1e-5)


def test_pipeline_scores_audio_at_other_rates_as_the_evaluation_does(elsewhere, moved, tmp_path):
    generator = np.random.default_rng(0)
    for label in ("bonafide", "spoof"):
        (tmp_path / "corpus" / label).mkdir(parents=True)
        for rate in (8000, 22050, 44100, 48000):
            stereo = 0.1 * generator.standard_normal((2 * rate, 2))
            soundfile.write(tmp_path / "corpus" / label / f"{label}{rate}.wav", stereo, rate)
    rows = load_corpus(CorpusArguments(data_dir=str(tmp_path / "corpus"))).splits["train"]

    said = elsewhere.ask(moved, [row["audio"]["path"] for row in rows])

    model = AutoModelForAudioClassification.from_pretrained(moved)  # registered here: no remote code
    scores = score_rows(model, AudioCollator(AntiSpoofingFeatureExtractor.from_pretrained(moved)), rows)
    probabilities = [bonafide_probability(answer) for answer in said["answers"]]
    np.testing.assert_allclose(probabilities, sigmoid(scores), atol=1e-5)
