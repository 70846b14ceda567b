"""The start of a Gaussian mixture: a random sample of a stream of frames, and its clusters by k-means
(Arthur & Vassilvitskii, "k-means++: The Advantages of Careful Seeding", SODA 2007)."""

import numpy as np
import torch


KMEANS_ITERATIONS = 10
KMEANS_CHUNK = 4096  # frames whose distances to all centres are held at a time


class FrameSample:
    """
    A uniform random sample of at most `size` frames of a stream: each has a random key, the smallest win. So
    the sample does not depend on how the stream is shared out over processes.
    """

    def __init__(self, size: int):
        self.size = size
        self.parts: list[tuple[np.ndarray, torch.Tensor]] = []  # keys (n,), frames (n, features)

    def offer(self, keys: np.ndarray, frames: torch.Tensor) -> None:
        self.parts.append((keys, frames))
        if sum(len(keys) for keys, _ in self.parts) >= 2 * self.size:
            self.parts = [self.take()]

    def take(self) -> tuple[np.ndarray, torch.Tensor]:
        """The keys (at most size,) and frames (at most size, features) of the sample, in the keys' order."""
        keys = np.concatenate([keys for keys, _ in self.parts])
        order = np.argsort(keys)[: self.size]
        return keys[order], torch.cat([frames for _, frames in self.parts])[torch.from_numpy(order)]


def kmeans_clusters(
    frames: torch.Tensor, num_components: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights (components,), means and variances (components, features), float64, of the k-means clusters."""
    centers = kmeans_plus_plus(frames, num_components, np.random.default_rng(seed))
    for _ in range(KMEANS_ITERATIONS + 1):  # the last for the means alone
        counts, first, second = _assign(frames, centers)
        # A cluster that has lost its frames keeps its centre.
        means = torch.where(counts[:, None] > 0, first / counts[:, None].clamp(min=1), centers.double())
        centers = means.float()
    scatter = (second - counts[:, None] * means.square()).clamp(min=0)
    within = scatter.sum(dim=0) / len(frames)
    # The mean variance within clusters counts as one more frame: a cluster may consist of a single one.
    variances = (scatter + within) / (counts[:, None] + 1)
    return (counts + 1) / (counts + 1).sum(), means, variances


def kmeans_plus_plus(
    frames: torch.Tensor, num_components: int, generator: np.random.Generator
) -> torch.Tensor:
    """Frames drawn one after the other by their squared distance from the nearest: (components, features)."""
    norms = frames.square().sum(dim=1)
    chosen = [int(generator.integers(len(frames)))]
    nearest = torch.full_like(norms, torch.inf)
    while len(chosen) < num_components:
        center = frames[chosen[-1]]
        distance = torch.addmv(norms, frames, center, alpha=-2).add_(norms[chosen[-1]]).clamp_(min=0)
        nearest = torch.minimum(nearest, distance)
        nearest[chosen[-1]] = 0
        cumulated = nearest.double().cumsum(0)
        drawn = torch.searchsorted(cumulated, generator.random() * cumulated[-1], right=True)
        chosen.append(min(int(drawn), len(frames) - 1))
    return frames[torch.tensor(chosen)]


def _assign(frames: torch.Tensor, centers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Counts (components,) and sums of the frames and of their squares (components, features), float64."""
    half_norms = 0.5 * centers.square().sum(dim=1)
    counts = torch.zeros(len(centers), dtype=torch.float64)
    first, second = (torch.zeros(centers.shape, dtype=torch.float64) for _ in range(2))
    for chunk in frames.split(KMEANS_CHUNK):
        index = torch.addmm(half_norms, chunk, centers.T, alpha=-1).argmin(dim=1)
        chunk = chunk.double()
        counts += torch.bincount(index, minlength=len(centers))
        first.index_add_(0, index, chunk)
        second.index_add_(0, index, chunk.square())
    return counts, first, second
