"""EM over streams against scikit-learn: start, floor, resuming, several processes, and what is refused."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from made_frames import lfcc_like_frames, mixture_on
from safetensors.torch import load_file
from sklearn.mixture import GaussianMixture

from modeling.modeling_lfcc_gmm import DiagonalGMM
from processing.em import ABSOLUTE_VARIANCE_FLOOR, EMError, EMSettings, train_gmm
from processing.kmeans import FrameSample


ROOT = Path(__file__).resolve().parents[2]
GIVEN_START = {
    "seed": None,
    "variance_floor": 0.0,
    "tolerance": -1.0,
}  # scikit-learn has no floor of this kind


def states_equal(a: DiagonalGMM, b: DiagonalGMM) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.buffers(), b.buffers(), strict=True))


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
        one.offer(key, batch)
        shares[i % 2].offer(key, batch)
        assert sum(len(kept) for _, kept in one.parts) < 2 * 500

    sample = one.take()[1]

    joined = FrameSample(500)
    joined.parts = shares[0].parts + shares[1].parts
    assert torch.equal(joined.take()[1], sample)
    assert torch.equal(sample[:, 0], frames[np.argsort(keys)[:500], 0])
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

    np.testing.assert_allclose(gmm.variances[:, 1], ABSOLUTE_VARIANCE_FLOOR, rtol=1e-6)
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
    assert [path.name for path in tmp_path.iterdir()] == ["em_state.safetensors"]


@pytest.mark.parametrize("completed", range(4))
def test_kill_while_the_state_is_written_leaves_the_last_complete_one(tmp_path, monkeypatch, completed):
    """A kill before any of the renames loses at most that iteration."""
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

    monkeypatch.setattr(os, "replace", replace_or_die)
    with pytest.raises(Killed):
        train_gmm(resumed, [frames], settings, state_dir=tmp_path)
    monkeypatch.setattr(os, "replace", replace)

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
    with pytest.raises(EMError, match="after 4 iterations, but num_iterations is 2"):
        train_gmm(again, [frames], settings, state_dir=tmp_path)


def test_state_of_another_training_is_refused(tmp_path):
    frames = lfcc_like_frames(400, num_features=4)
    settings = EMSettings(num_iterations=1)
    train_gmm(DiagonalGMM(4, 4), [frames], settings, state_dir=tmp_path, identity={"label": "bonafide"})

    with pytest.raises(EMError, match="label was 'bonafide', now 'spoof'"):
        train_gmm(DiagonalGMM(4, 4), [frames], settings, state_dir=tmp_path, identity={"label": "spoof"})
    with pytest.raises(EMError, match="num_components was 4, now 8"):
        train_gmm(DiagonalGMM(8, 4), [frames], settings, state_dir=tmp_path, identity={"label": "bonafide"})


def test_batches_that_cannot_be_walked_through_twice_are_refused():
    frames = lfcc_like_frames(400, num_features=4)

    with pytest.raises(EMError, match="not a generator"):
        train_gmm(DiagonalGMM(4, 4), (batch for batch in frames.split(100)), EMSettings())


@pytest.mark.parametrize("seed", [0, None])
def test_nan_in_the_frames_is_refused(seed):
    frames = lfcc_like_frames(400, num_features=4)
    frames[17, 2] = torch.nan

    with pytest.raises(EMError, match="NaN or infinity"):
        train_gmm(DiagonalGMM(4, 4), [frames], EMSettings(seed=seed))


@pytest.mark.parametrize("seed", [0, None])
def test_fewer_frames_than_components_are_refused(seed):
    frames = lfcc_like_frames(3, num_features=4)

    with pytest.raises(EMError, match="3 frames are too few for 4 components"):
        train_gmm(DiagonalGMM(4, 4), [frames], EMSettings(seed=seed))


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="num_iterations 0"):
        EMSettings(num_iterations=0)
    with pytest.raises(ValueError, match="variance_floor 1"):
        EMSettings(variance_floor=1)
    with pytest.raises(EMError, match="sample_frames 3 are fewer than the 4"):
        train_gmm(DiagonalGMM(4, 4), [lfcc_like_frames(9, num_features=4)], EMSettings(sample_frames=3))


SHARE = """
import sys
import torch
from accelerate import PartialState
from safetensors.torch import save_file
from processing.em import EMError, EMSettings, train_gmm
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
    train_gmm(resumed, batches, settings, state_dir=f"{folder}/state", identity={"label": "another"})
    raise SystemExit("a state of another identity was taken")
except EMError:
    pass
tensors = {**gmm.state_dict(), "history": torch.tensor(history, dtype=torch.float64)}
save_file(tensors, f"{folder}/of_process_{state.process_index}.safetensors")
state.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_find_the_mixture_of_one_and_resume_to_the_last_bit(tmp_path):
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
