"""Frames as those of LFCC, and mixtures on them, here and in scikit-learn."""

import numpy as np
import torch
from sklearn.mixture import GaussianMixture

from modeling.modeling_lfcc_gmm import DiagonalGMM


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
