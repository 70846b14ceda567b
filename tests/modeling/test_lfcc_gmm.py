"""LFCC-GMM against scikit-learn and SciPy, its training by EM over streams, and its behaviour as a
`PreTrainedModel`."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import soundfile
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from sklearn.mixture import GaussianMixture
from transformers import AutoConfig, AutoModelForAudioClassification, pipeline

import modeling.em as training
from modeling import AntiSpoofingFeatureExtractor, LFCCGMMConfig, LFCCGMMForAudioClassification
from modeling.em import EMSettings, train_gmm
from modeling.kmeans import FrameSample
from modeling.modeling_lfcc_gmm import DiagonalGMM
from processing.collation import AudioCollator
from processing.corpora import CorpusArguments, load_corpus
from processing.models import load_countermeasure
from processing.recordings import score_recordings
from processing.scoring import score_rows


ROOT = Path(__file__).resolve().parents[2]
GIVEN_START = {
    "seed": None,
    "variance_floor": 0.0,
    "tolerance": -1.0,
}  # scikit-learn has no floor of this kind


def lfcc_like_frames(num_frames: int, *, num_features: int = 60, seed: int = 0) -> torch.Tensor:
    """
    Frames in ten clusters whose means and variances fall from coefficient to coefficient as those of LFCC
    do, from -20 and 50 to 0 and 0.02; float64.
    """
    generator = np.random.default_rng(seed)
    scale = np.sqrt(np.geomspace(50, 0.02, num_features))
    centers = generator.normal(size=(10, num_features))
    frames = centers[generator.integers(10, size=num_frames)]
    frames = frames + generator.uniform(0.2, 0.6, num_features) * generator.normal(size=frames.shape)
    return torch.from_numpy(frames * scale + np.linspace(-20, 0, num_features))


def mixture_on(frames: torch.Tensor, num_components: int) -> DiagonalGMM:
    """A mixture, float64, with frames as means and variances of all sizes down to a thousandth."""
    generator = np.random.default_rng(1)
    gmm = DiagonalGMM(num_components, frames.shape[1]).double()
    gmm.means.copy_(frames[torch.from_numpy(generator.permutation(len(frames))[:num_components])])
    gmm.variances.copy_(frames.var(dim=0) * torch.from_numpy(10 ** generator.uniform(-3, 0, gmm.means.shape)))
    gmm.weights.copy_(torch.from_numpy(generator.dirichlet(np.full(num_components, 2.0))))
    return gmm


def scikit_learns(gmm: DiagonalGMM) -> GaussianMixture:
    """The same mixture there."""
    weights, means, variances = (
        buffer.double().numpy() for buffer in (gmm.weights, gmm.means, gmm.variances)
    )
    reference = GaussianMixture(len(weights), covariance_type="diag")
    reference._set_parameters((weights, means, variances, 1 / np.sqrt(variances)))
    return reference


def states_equal(a: DiagonalGMM, b: DiagonalGMM) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.buffers(), b.buffers(), strict=True))


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


def test_em_is_scikit_learns_from_the_same_start():
    frames = lfcc_like_frames(4000)
    start = mixture_on(frames, 8)
    reference = GaussianMixture(
        8,
        covariance_type="diag",
        reg_covar=0,
        tol=0,
        max_iter=6,
        weights_init=start.weights.numpy().copy(),
        means_init=start.means.numpy().copy(),
        precisions_init=1 / start.variances.numpy(),
    )
    with pytest.warns(UserWarning, match="converge"):
        reference.fit(frames.numpy())

    history = train_gmm(start, frames.split(300), EMSettings(num_iterations=6, **GIVEN_START))

    np.testing.assert_allclose(start.weights, reference.weights_, rtol=1e-9)
    np.testing.assert_allclose(start.means, reference.means_, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(start.variances, reference.covariances_, rtol=1e-8)
    np.testing.assert_allclose(history, reference.lower_bounds_, rtol=1e-11)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_log_likelihood_never_falls_even_where_variances_are_clipped(seed, dtype):
    frames = lfcc_like_frames(1500, num_features=12, seed=seed).to(dtype)
    frames[:300] = frames[0]  # digital silence
    gmm = DiagonalGMM(24, 12)
    settings = EMSettings(num_iterations=15, tolerance=-1.0, variance_floor=0.05, seed=seed)

    history = train_gmm(gmm, [frames], settings)

    assert np.diff(history).min() > (-1e-10 if dtype == torch.float64 else -2e-6)
    assert history[-1] > history[0] + 0.05
    ratio = gmm.variances / frames.var(dim=0, correction=0)
    assert ratio.min() == pytest.approx(0.05, rel=1e-3)


def test_stream_of_batches_gives_what_one_batch_gives():
    frames = lfcc_like_frames(2000)
    one, many = mixture_on(frames, 8), mixture_on(frames, 8)
    settings = EMSettings(num_iterations=4, **GIVEN_START)

    history = train_gmm(one, [frames], settings)
    streamed = train_gmm(many, [frames[:0], *frames.split(123)], settings)

    np.testing.assert_allclose(streamed, history, rtol=1e-12)
    torch.testing.assert_close(many.state_dict(), one.state_dict(), rtol=1e-9, atol=1e-12)


def test_start_finds_clusters_that_lie_apart():
    centers = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    generator = torch.Generator().manual_seed(0)
    frames = centers.repeat(500, 1) + 0.3 * torch.randn(2000, 2, generator=generator)
    gmm = DiagonalGMM(4, 2)

    train_gmm(gmm, frames.split(100), EMSettings(num_iterations=2, sample_frames=200))

    order = torch.argsort(gmm.means @ torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(gmm.means[order], centers, atol=0.05, rtol=0)
    torch.testing.assert_close(gmm.variances, torch.full((4, 2), 0.09), atol=0.015, rtol=0)
    torch.testing.assert_close(gmm.weights, torch.full((4,), 0.25))


def test_frame_sample_is_uniform_bounded_and_independent_of_sharing_out():
    frames = torch.arange(10_000.0)[:, None]
    keys = np.random.default_rng(0).random(10_000)
    one, *shares = (FrameSample(500) for _ in range(3))
    for i, (batch, key) in enumerate(zip(frames.split(100), np.split(keys, 100), strict=True)):
        one.offer(batch, key)
        shares[i % 2].offer(batch, key)
        assert sum(map(len, one.frames)) < 2 * 500

    sample = one.taken()[1]

    assert torch.equal(FrameSample.join([share.taken() for share in shares], 500), sample)
    assert len(sample.unique()) == 500
    assert abs(sample.mean() - 5000) < 4 * 10_000 / np.sqrt(12 * 500)


def test_stops_once_an_iteration_gains_less_than_the_tolerance():
    frames = lfcc_like_frames(1000, num_features=4)

    history = train_gmm(
        DiagonalGMM(2, 4), [frames], EMSettings(num_iterations=100, tolerance=0.01, sample_frames=100)
    )

    gains = np.diff(history)
    assert len(history) < 100
    assert gains[-1] < 0.01
    assert (gains[:-1] >= 0.01).all()


def test_empty_component_keeps_its_mean_and_variances(caplog):
    frames = lfcc_like_frames(500, num_features=4)
    gmm = mixture_on(frames, 3)
    gmm.means[2] = 1e4
    variances = gmm.variances[2].clone()

    history = train_gmm(gmm, [frames], EMSettings(num_iterations=3, **GIVEN_START))

    assert gmm.means[2].eq(1e4).all()
    assert torch.equal(gmm.variances[2], variances)
    assert 0 < gmm.weights[2] < 1e-9
    assert np.isfinite(history).all()
    assert gmm.log_likelihood(frames).isfinite().all()


def test_feature_that_does_not_vary_gets_the_absolute_floor():
    frames = lfcc_like_frames(500, num_features=4)
    frames[:, 1] = 3.0
    gmm = DiagonalGMM(2, 4)

    history = train_gmm(gmm, [frames], EMSettings(num_iterations=3))

    np.testing.assert_allclose(gmm.variances[:, 1], training.ABSOLUTE_VARIANCE_FLOOR, rtol=1e-6)
    assert np.isfinite(history).all()


class Killed(Exception):
    pass


def kill_at(iteration: int):
    def on_iteration(number: int, _: float) -> None:
        if number == iteration:
            raise Killed

    return on_iteration


RESUMED = EMSettings(num_iterations=6, tolerance=-1.0, sample_frames=300)


def test_killed_and_resumed_training_ends_with_the_same_bits(tmp_path):
    frames = lfcc_like_frames(1000, num_features=8).float()
    uninterrupted, resumed = DiagonalGMM(8, 8), DiagonalGMM(8, 8)
    history = train_gmm(uninterrupted, frames.split(200), RESUMED)
    for iteration in (1, 4):
        with pytest.raises(Killed):
            train_gmm(
                resumed, frames.split(200), RESUMED, state_dir=tmp_path, on_iteration=kill_at(iteration)
            )
    seen = []

    continued = train_gmm(
        resumed,
        frames.split(200),
        RESUMED,
        state_dir=tmp_path,
        on_iteration=lambda *arguments: seen.append(arguments),
    )

    assert continued == history
    assert states_equal(resumed, uninterrupted)
    assert seen == [(5, history[4]), (6, history[5])]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("completed", range(8))
def test_kill_while_the_state_is_written_leaves_the_last_complete_one(tmp_path, monkeypatch, completed):
    """Each state is two files: a kill before any of the renames loses at most that iteration."""
    frames = lfcc_like_frames(400, num_features=4).float()
    settings = EMSettings(num_iterations=3, tolerance=-1.0)
    uninterrupted, resumed = DiagonalGMM(4, 4), DiagonalGMM(4, 4)
    history = train_gmm(uninterrupted, [frames], settings)
    replace, calls = os.replace, []

    def replace_or_die(*arguments):
        if len(calls) == completed:
            raise Killed
        calls.append(arguments)
        replace(*arguments)

    monkeypatch.setattr(training.os, "replace", replace_or_die)
    with pytest.raises(Killed):
        train_gmm(resumed, [frames], settings, state_dir=tmp_path)
    monkeypatch.setattr(training.os, "replace", replace)

    assert train_gmm(resumed, [frames], settings, state_dir=tmp_path) == history
    assert states_equal(resumed, uninterrupted)


def test_finished_training_is_not_run_again_but_goes_on_where_more_is_asked(tmp_path):
    frames = lfcc_like_frames(400, num_features=4)
    settings = EMSettings(num_iterations=2, tolerance=-1.0)
    more = EMSettings(num_iterations=4, tolerance=-1.0)
    first, again, longer, at_once = (DiagonalGMM(4, 4) for _ in range(4))
    history = train_gmm(first, [frames], settings, state_dir=tmp_path)

    assert train_gmm(again, [], settings, state_dir=tmp_path) == history
    assert states_equal(first, again)
    assert train_gmm(longer, [frames], more, state_dir=tmp_path) == train_gmm(at_once, [frames], more)
    assert states_equal(longer, at_once)
    with pytest.raises(ValueError, match="after 4 iterations, but num_iterations is 2"):
        train_gmm(again, [frames], settings, state_dir=tmp_path)


def test_state_of_another_training_is_refused(tmp_path):
    frames = lfcc_like_frames(400, num_features=4)
    settings = EMSettings(num_iterations=1)
    train_gmm(DiagonalGMM(4, 4), [frames], settings, state_dir=tmp_path, identity="bonafide")

    with pytest.raises(ValueError, match="run was 'bonafide', now 'spoof'"):
        train_gmm(DiagonalGMM(4, 4), [frames], settings, state_dir=tmp_path, identity="spoof")
    with pytest.raises(ValueError, match="num_components was 4, now 8"):
        train_gmm(DiagonalGMM(8, 4), [frames], settings, state_dir=tmp_path, identity="bonafide")


@pytest.mark.parametrize("damage", ["parameters", "state", "missing"])
def test_damaged_state_is_refused(tmp_path, damage):
    frames = lfcc_like_frames(400, num_features=4)
    train_gmm(DiagonalGMM(4, 4), [frames], EMSettings(num_iterations=1), state_dir=tmp_path)
    parameters = next(tmp_path.glob("*.safetensors"))
    if damage == "parameters":
        parameters.write_bytes(parameters.read_bytes()[:-1] + b"\x07")
    elif damage == "missing":
        parameters.unlink()
    else:
        (tmp_path / "em_state.json").write_text('{"identity"')

    with pytest.raises(ValueError, match="delete"):
        train_gmm(DiagonalGMM(4, 4), [frames], EMSettings(num_iterations=1), state_dir=tmp_path)


def test_batches_that_cannot_be_walked_through_twice_are_refused():
    frames = lfcc_like_frames(400, num_features=4)

    with pytest.raises(ValueError, match="not a generator"):
        train_gmm(DiagonalGMM(4, 4), (batch for batch in frames.split(100)), EMSettings())


def test_pass_with_other_frames_than_the_last_is_refused():
    class Shrinking:
        num_frames = 400

        def __iter__(self):
            self.num_frames -= 10
            return iter([lfcc_like_frames(self.num_frames, num_features=4)])

    with pytest.raises(ValueError, match="380 frames, the one before 390"):
        train_gmm(DiagonalGMM(4, 4), Shrinking(), EMSettings())


@pytest.mark.parametrize("seed", [0, None])
def test_nan_in_the_frames_is_refused(seed):
    frames = lfcc_like_frames(400, num_features=4)
    frames[17, 2] = torch.nan

    with pytest.raises(ValueError, match="NaN or infinity"):
        train_gmm(DiagonalGMM(4, 4), [frames], EMSettings(seed=seed))


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="num_iterations 0"):
        EMSettings(num_iterations=0)
    with pytest.raises(ValueError, match="variance_floor 1"):
        EMSettings(variance_floor=1)
    with pytest.raises(ValueError, match="sample_frames 3 are fewer than the 4"):
        train_gmm(DiagonalGMM(4, 4), [lfcc_like_frames(9, num_features=4)], EMSettings(sample_frames=3))


SHARE = """
import sys
import torch
from accelerate import PartialState
from safetensors.torch import save_file
from modeling.em import EMSettings, train_gmm
from modeling.modeling_lfcc_gmm import DiagonalGMM

folder = sys.argv[1]
state = PartialState(cpu=True)
batches = torch.load(f"{folder}/batches.pt")[state.process_index :: state.num_processes]
settings = EMSettings(num_iterations=5, tolerance=-1.0, sample_frames=300)


def kill(iteration, _):
    if iteration == 3:
        raise KeyboardInterrupt


gmm = DiagonalGMM(8, 8).double()
history = train_gmm(gmm, batches, settings)
resumed = DiagonalGMM(8, 8).double()
try:
    train_gmm(resumed, batches, settings, state_dir=f"{folder}/state", on_iteration=kill)
except KeyboardInterrupt:
    pass
state.wait_for_everyone()
assert train_gmm(resumed, batches, settings, state_dir=f"{folder}/state") == history
assert all(torch.equal(a, b) for a, b in zip(gmm.buffers(), resumed.buffers()))
try:
    train_gmm(resumed, batches, settings, state_dir=f"{folder}/state", identity="another")
    raise SystemExit("a state of another identity was taken")
except ValueError:
    pass
tensors = {**gmm.state_dict(), "history": torch.tensor(history, dtype=torch.float64)}
save_file(tensors, f"{folder}/of_process_{state.process_index}.safetensors")
state.destroy_process_group()
"""


def test_two_processes_find_the_mixture_of_one_and_resume_to_the_last_bit(tmp_path):
    from safetensors.torch import load_file

    batches = lfcc_like_frames(1000, num_features=8).split([90, 110] * 5)
    torch.save(batches, tmp_path / "batches.pt")
    (tmp_path / "share.py").write_text(SHARE)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]

    process = subprocess.run(
        [*launch, tmp_path / "share.py", tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert process.returncode == 0, process.stderr
    one = DiagonalGMM(8, 8).double()
    history = train_gmm(one, batches, EMSettings(num_iterations=5, tolerance=-1.0, sample_frames=300))
    for rank in range(2):
        found = load_file(tmp_path / f"of_process_{rank}.safetensors")
        np.testing.assert_allclose(found.pop("history"), history, rtol=1e-11)
        torch.testing.assert_close(found, dict(one.state_dict()), rtol=1e-9, atol=1e-11)


@pytest.fixture
def model() -> LFCCGMMForAudioClassification:
    """Sixteen components per class, fitted to noise so that scores are of ordinary size."""
    torch.manual_seed(0)
    model = LFCCGMMForAudioClassification(LFCCGMMConfig(num_components=16)).eval()
    noise = 0.1 * torch.randn(2, 16000)
    for gmm, waveform in zip(model.gmms.values(), (noise[:1], noise[1:].cumsum(1) / 20), strict=True):
        train_gmm(gmm, [model.frames(waveform)[0]], EMSettings(num_iterations=2))
    return model


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
    assert len(other(waveform, return_dict=False)) == 1


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
