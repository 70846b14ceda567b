"""LFCC-GMM against scikit-learn and SciPy, and its behaviour as a `PreTrainedModel`."""

import copy
import json
import math

import numpy as np
import pytest
import scipy.stats
import soundfile
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from made_frames import lfcc_like_frames, mixture_on, scikit_learns
from transformers import AutoConfig, AutoModelForAudioClassification, pipeline

from modeling import AntiSpoofingFeatureExtractor, LFCCGMMConfig, LFCCGMMForAudioClassification
from modeling.modeling_lfcc_gmm import DiagonalGMM
from processing.collation import AudioCollator
from processing.corpora import CorpusArguments, load_corpus
from processing.em import EMSettings, train_gmm
from processing.models import load_countermeasure
from processing.recordings import score_recordings
from processing.scoring import score_rows


def test_log_likelihood_in_float64_is_scikit_learns():
    frames = lfcc_like_frames(3000)
    gmm = mixture_on(frames, 64)

    found = gmm.log_likelihood(frames)

    np.testing.assert_allclose(found, scikit_learns(gmm).score_samples(frames.numpy()), rtol=1e-10)


def test_log_likelihood_is_scipys():
    frames = lfcc_like_frames(50, num_features=6)
    gmm = mixture_on(frames, 3)

    found = gmm.log_likelihood(frames)

    joint = [
        np.log(weight) + scipy.stats.multivariate_normal(mean, np.diag(variance)).logpdf(frames.numpy())
        for weight, mean, variance in zip(*(buffer.numpy() for buffer in gmm.buffers()), strict=True)
    ]
    np.testing.assert_allclose(found, np.logaddexp.reduce(joint), rtol=1e-9)


def test_float32_is_close_to_float64_on_features_far_from_zero():
    frames = lfcc_like_frames(4000).float() + 100
    gmm = mixture_on(frames.double(), 64).float()
    exact = scikit_learns(gmm).score_samples(frames.double().numpy())

    error = gmm.log_likelihood(frames).double().numpy() - exact

    # Some of these frames are at -3000 nats, and without centring the errors are of whole nats.
    assert np.abs(error).max() < 5e-3
    assert abs(error.mean()) < 2e-4


def test_log_likelihood_of_a_component_without_weight_and_of_no_frames():
    gmm = mixture_on(lfcc_like_frames(100), 2)
    single = DiagonalGMM(1, 60).double()
    single.load_state_dict({"weights": torch.ones(1), "means": gmm.means[:1], "variances": gmm.variances[:1]})
    gmm.weights.copy_(torch.tensor([1.0, 0.0]))
    frames = lfcc_like_frames(20, seed=3)

    torch.testing.assert_close(gmm.log_likelihood(frames), single.log_likelihood(frames))
    assert gmm.log_likelihood(frames[:0]).shape == (0,)


def test_log_likelihood_does_not_depend_on_how_frames_are_chunked(monkeypatch):
    frames = lfcc_like_frames(1000)
    gmm = mixture_on(frames, 16)
    expected = gmm.log_likelihood(frames)
    monkeypatch.setattr("modeling.modeling_lfcc_gmm.CPU_CHUNK", 77)

    torch.testing.assert_close(gmm.log_likelihood(frames), expected, rtol=1e-12, atol=0)


@pytest.fixture
def model() -> LFCCGMMForAudioClassification:
    """Sixteen components per class, fitted to noise so that scores are of ordinary size."""
    torch.manual_seed(0)
    model = LFCCGMMForAudioClassification(LFCCGMMConfig(num_components=16)).eval()
    noise = 0.1 * torch.randn(2, 16000)
    for gmm, waveform in zip(model.gmms.values(), (noise[:1], noise[1:].cumsum(1) / 20), strict=True):
        train_gmm(gmm, [model.frames(waveform)[0]], EMSettings(num_iterations=2))
    return model


UNUSUAL = {
    "digital silence": np.zeros(16000),
    "one click in silence": np.eye(1, 16000, 8000)[0],
    "constant": np.full(16000, 0.5),
    "clipped": np.sign(np.sin(np.arange(16000) * 0.2)),
    "a second of silence in noise": np.r_[np.random.default_rng(0).normal(0, 0.1, 8000), np.zeros(16000)],
}


@pytest.fixture
def speech_like_gmm(model) -> DiagonalGMM:
    """64 components on the frames of noise of varying level, none of them silent."""
    noise = np.random.default_rng(1).normal(size=32000) * np.geomspace(1e-3, 0.3, 32000)
    frames = model.frames(torch.from_numpy(noise).float()[None])[0]
    gmm = DiagonalGMM(64, 60)
    train_gmm(gmm, [frames], EMSettings(num_iterations=3))
    return gmm


@pytest.mark.parametrize("recording", UNUSUAL.values(), ids=UNUSUAL)
def test_float32_frames_of_unusual_recordings_have_their_float64_densities(model, speech_like_gmm, recording):
    frames = model.frames(torch.from_numpy(recording).float()[None])[0]

    found = speech_like_gmm.log_likelihood(frames)

    expected = scikit_learns(speech_like_gmm).score_samples(frames.double().numpy())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("variance", [1e-3, 1e-5], ids=["narrow", "too narrow for float32"])
def test_frames_of_a_narrow_component_far_from_all_others_have_their_float64_densities(variance):
    gmm = mixture_on(lfcc_like_frames(1000), 8).float()
    gmm.means[3], gmm.variances[3] = -131.0, variance
    frames = (gmm.means[3] + math.sqrt(variance) * torch.randn(50, 60)).float()
    frames = torch.cat([frames, lfcc_like_frames(200).float()])

    found = gmm.log_likelihood(frames)

    weights, means, variances = (buffer.double().numpy() for buffer in gmm.buffers())
    square = (frames.double().numpy()[:, None] - means) ** 2  # scikit-learn expands it
    joint = np.log(weights) - 0.5 * (square / variances + np.log(2 * np.pi * variances)).sum(axis=2)
    np.testing.assert_allclose(found, np.logaddexp.reduce(joint, axis=1), rtol=0, atol=1e-3)


def test_em_sums_with_silent_frames_are_those_of_float64(speech_like_gmm, model):
    recording = torch.from_numpy(UNUSUAL["a second of silence in noise"]).float()
    frames = model.frames(recording[None])[0]

    found = speech_like_gmm.statistics(frames)

    expected = speech_like_gmm.statistics(frames.double())
    scores = scikit_learns(speech_like_gmm).score_samples(frames.double().numpy())
    assert float(found.log_likelihood) == pytest.approx(scores.sum(), abs=1e-3 * len(frames))
    for name in ("occupancy", "first", "second"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-3)


def test_untrained_model_is_a_valid_mixture():
    model = LFCCGMMForAudioClassification(LFCCGMMConfig())

    logits = model(0.1 * torch.randn(1, 16000)).logits

    assert list(model.gmms) == ["bonafide", "spoof"]
    assert model.gmms["spoof"].means.shape == (512, 60)
    assert model.gmms["spoof"].weights.sum() == pytest.approx(1)
    assert torch.isfinite(logits).all()
    assert logits[0, 0] != logits[0, 1]


def test_score_is_the_difference_of_scikit_learns_mean_log_likelihoods(shared_data):
    recording = sorted((shared_data / "asvspoof2019_la_mini").rglob("*.flac"))[0]
    waveform = torch.from_numpy(soundfile.read(recording, dtype="float32")[0])
    model = LFCCGMMForAudioClassification(LFCCGMMConfig(num_components=32))
    frames = model.frames(waveform[None])[0]
    for gmm, part in zip(model.gmms.values(), frames.chunk(2), strict=True):
        train_gmm(gmm, [part], EMSettings(num_iterations=3))

    logits = model(waveform[None]).logits[0]

    expected = [scikit_learns(gmm).score(frames.double().numpy()) for gmm in model.gmms.values()]
    score = logits[model.config.label2id["bonafide"]] - logits[model.config.label2id["spoof"]]
    assert abs(expected[0] - expected[1]) > 0.1
    assert float(score) == pytest.approx(expected[0] - expected[1], abs=5e-4)


def test_logits_do_not_depend_on_padding_or_on_the_batch(model):
    generator = np.random.default_rng(0)
    waveforms = [
        0.1 * generator.standard_normal(length).astype(np.float32) for length in (320, 9000, 16001, 479)
    ]
    inputs = AntiSpoofingFeatureExtractor(num_samples=None)(
        waveforms, sampling_rate=16000, return_tensors="pt"
    )

    logits = model(**inputs).logits

    alone = torch.cat([model(torch.from_numpy(waveform)[None]).logits for waveform in waveforms])
    torch.testing.assert_close(logits, alone, rtol=1e-6, atol=1e-5)


def test_logits_are_in_the_order_of_the_labels_and_weigh_into_the_loss(model):
    weights = {"bonafide": 3.0, "spoof": 1.0}
    other = LFCCGMMForAudioClassification(
        LFCCGMMConfig(num_components=16, id2label={0: "spoof", 1: "bonafide"}, class_weights=weights)
    )
    other.load_state_dict(model.state_dict())
    waveform = 0.1 * torch.randn(2, 8000)

    output = other(waveform, labels=torch.tensor([0, 1]))

    logits = model(waveform).logits
    torch.testing.assert_close(output.logits, logits.flip(1))
    losses = torch.logsumexp(logits, 1) - torch.stack([logits[0, 1], logits[1, 0]])
    assert float(output.loss) == pytest.approx(float((losses * torch.tensor([1.0, 3.0])).sum() / 4))
    assert len(other(waveform, return_dict=False)) == 2  # logits and embeddings


def test_logits_under_autocast_are_those_of_float32(model):
    waveform = 0.1 * torch.randn(2, 8000)
    expected = model(waveform).logits

    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(waveform).logits

    assert torch.equal(logits, expected)
    assert logits.dtype == torch.float32


def test_utterance_shorter_than_a_window_has_a_score(model):
    assert model(0.1 * torch.ones(1, 10)).logits.isfinite().all()


def test_whole_utterances_are_scored_one_at_a_time_so_that_none_is_padded(model, la_corpus, tmp_path):
    model.save_pretrained(tmp_path)
    AntiSpoofingFeatureExtractor(num_samples=None).save_pretrained(tmp_path)
    countermeasure = load_countermeasure(str(tmp_path))
    rows = load_corpus(CorpusArguments(data_dir=str(la_corpus))).splits["eval"]
    sizes = []
    countermeasure.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_values"])), with_kwargs=True
    )

    of_rows = score_rows(countermeasure.model, AudioCollator(countermeasure.feature_extractor), rows)
    of_files = list(score_recordings(countermeasure, [row["audio"]["path"] for row in rows]))

    assert sizes == [1] * 2 * len(rows)
    assert [recording.scores[0] for recording in of_files] == of_rows.tolist()


def test_mixtures_and_front_end_keep_their_precision_in_a_model_of_half_precision(model, tmp_path):
    model.save_pretrained(tmp_path)
    waveform = torch.sin(torch.arange(8000.0))[None] / 2

    cast = copy.deepcopy(model).to(torch.bfloat16)
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)

    for other in (cast, loaded):
        assert torch.equal(other(waveform).logits, model(waveform).logits)


def test_saved_model_loads_by_the_auto_classes_and_scores_in_the_pipeline(model, tmp_path):
    model.save_pretrained(tmp_path)
    AntiSpoofingFeatureExtractor(num_samples=None).save_pretrained(tmp_path)
    waveform = 0.1 * np.random.default_rng(0).standard_normal(20000).astype(np.float32)

    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path)
    answer = pipeline("audio-classification", model=str(tmp_path))(
        {"array": waveform, "sampling_rate": 16000}
    )

    assert AutoConfig.from_pretrained(tmp_path).num_samples is None
    assert json.loads((tmp_path / "config.json").read_text())["num_samples"] is None
    torch.testing.assert_close(dict(loaded.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    logits = model(torch.from_numpy(waveform)[None]).logits[0]
    assert torch.equal(loaded(torch.from_numpy(waveform)[None]).logits[0], logits)
    probability = {entry["label"]: entry["score"] for entry in answer}
    assert probability["bonafide"] == pytest.approx(float(logits.softmax(0)[0]), abs=1e-5)
    assert sum(probability.values()) == pytest.approx(1)


def test_model_without_parameters_knows_its_device_and_dtype(model):
    assert model.device == torch.device("cpu")
    assert model.dtype == torch.float32
    assert model.double().dtype == torch.float64


def test_config_refuses_what_is_no_mixture():
    with pytest.raises(StrictDataclassClassValidationError, match="num_components must be at least 1"):
        LFCCGMMConfig(num_components=0)
