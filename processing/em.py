"""Expectation-maximisation (EM) of a Gaussian mixture model over a corpus that is never held in memory
(Dempster et al., 1977; start by k-means++, Arthur & Vassilvitskii, 2007)."""

import copy
import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers.utils import logging

from .arguments import EMSettings
from .files import write_whole
from .kmeans import FrameSample, kmeans_clusters
from .resuming import describe_difference, hash_tensors, read_on_main


logger = logging.get_logger(__name__)

ABSOLUTE_VARIANCE_FLOOR = 1e-6  # for features that do not vary at all
SMALLEST_WEIGHT = 1e-12  # so that the logarithm of an empty component's weight is finite
SMALLEST_OCCUPANCY = 1e-3  # frames; a component with fewer is empty
STATE_NAME = "em_state.safetensors"


class EMError(ValueError):
    """EM that cannot begin or go on, for a reason that lies in the frames, the settings or a kept state."""


@dataclass
class EMState:
    """How far EM is, and the file in which that is kept."""

    gmm: nn.Module  # in float64 and on the CPU; only products over frames are done elsewhere
    run: dict  # what must agree for EM to go on: all that the parameters depend on, but num_iterations
    path: Path | None  # `None` keeps nothing
    history: list[float] = field(default_factory=list)  # log-likelihood per frame of each iteration
    num_frames: int | None = None  # of a pass over the batches of all processes; `None` before the first

    def save(self) -> None:
        """Write the state, by the main process; a kill meanwhile leaves the one before."""
        if self.path is None or not PartialState().is_main_process:
            return
        tensors = {name: buffer.contiguous() for name, buffer in self.gmm.state_dict().items()}
        # repr of a float64 survives JSON
        about = {"run": self.run, "history": self.history, "num_frames": self.num_frames}
        with write_whole(self.path) as partial:
            save_file(tensors, partial, metadata={"em": json.dumps(about)})

    def read(self) -> tuple[dict[str, torch.Tensor], dict] | None:
        """The buffers of the mixture, and the rest, that the file holds; `None` where there is none."""
        if self.path is None or not self.path.is_file():
            return None
        with safe_open(self.path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            about = json.loads(file.metadata()["em"])
        return tensors, about


def train_gmm(
    gmm: nn.Module,
    batches: Iterable[torch.Tensor],
    settings: EMSettings = EMSettings(),
    *,
    state_dir: Path | None = None,
    identity: Mapping | None = None,
    on_iteration: Callable[[int, float], None] | None = None,
) -> list[float]:
    """
    Fit a mixture to frames by EM, in place, and return the log-likelihood per frame, in nats, at the start of
    each iteration. One pass over `batches` draws the start, which is k-means++ on a random sample and a few
    iterations of k-means; each iteration is one more. Only sums are kept of the frames, in float64.

    The log-likelihood never falls, but for rounding: a variance clipped at the floor is the best one above
    it, and a component that no frame belongs to keeps its mean and variances. (From a given start with
    variances below the floor, the first iteration may lower it.)

    Under `accelerate launch` each process calls this with its own share of the batches and all end with the
    same mixture; where process r of n has the batches r, r + n, …, with that of one process up to rounding.

    Args:
        gmm: with the buffers `weights` (components,), `means` and `variances` (components, features), and
            `statistics`, as `DiagonalGMM` has them.
        batches: (frames, features) each, perhaps without frames; the same on every pass, so no generator.
        state_dir: folder in which the state is kept after every iteration; a later call goes on from there
            and, with as many processes, ends with the same mixture to the last bit.
        identity: what the batches are (corpus, front end, class); a state of another identity is refused.
        on_iteration: called, in every process, with the number of each new iteration, from 1, and its
            log-likelihood.

    Raises:
        EMError: fewer frames than components, NaN or infinity in them; see [`load_state`].
    """
    state = load_state(gmm, settings, state_dir, identity)
    if settings.seed is not None and state.num_frames is None:
        state.num_frames = initialize_gmm(state.gmm, batches, settings)
        state.save()
    history = state.history
    while len(history) < settings.num_iterations:
        if len(history) > 1 and history[-1] - history[-2] < settings.tolerance:
            break
        statistics = _collect_statistics(state, batches)
        _maximize(state.gmm, statistics, settings.variance_floor)
        history.append(float(statistics.log_likelihood / statistics.num_frames))
        state.save()
        logger.info(f"EM iteration {len(history)}: log-likelihood per frame {history[-1]:.6f}")
        if on_iteration is not None:
            on_iteration(len(history), history[-1])
    gmm.load_state_dict(state.gmm.state_dict())
    return history


def initialize_gmm(gmm: nn.Module, batches: Iterable[torch.Tensor], settings: EMSettings) -> int:
    """
    Set a mixture in float64 to the clusters that k-means finds in a random sample of the frames, which are
    scaled to unit variance for it; see [`train_gmm`]. Returns the number of frames, in all processes.
    """
    num_components, num_features = gmm.means.shape
    process = PartialState()
    sums = torch.zeros(1 + 2 * num_features, dtype=torch.float64)  # frames, x, x²
    sample = FrameSample(settings.sample_frames)
    for index, batch in enumerate(batches):
        at = index * process.num_processes + process.process_index
        frames = batch.cpu()
        sample.offer(np.random.default_rng([settings.seed, at]).random(len(frames)), frames)
        values = frames.double()
        sums += torch.cat([values.new_tensor([len(frames)]), values.sum(0), values.square().sum(0)])
    sums = sum(gather_object([sums]))
    sample.parts = gather_object(sample.parts)
    num_frames = int(sums[0])
    _check_frames(num_frames, num_components, float(sums.sum()))
    if process.is_main_process:
        mean, square = (sums[1:] / num_frames).split(num_features)
        variance = (square - mean.square()).clamp(min=ABSOLUTE_VARIANCE_FLOOR)
        _, frames = sample.take()
        frames = ((frames.double() - mean) / variance.sqrt()).float()
        weights, means, variances = kmeans_clusters(frames, num_components, settings.seed)
        gmm.weights.copy_(weights)
        gmm.means.copy_(mean + means * variance.sqrt())
        variances = variances.clamp(min=settings.variance_floor) * variance
        gmm.variances.copy_(variances.clamp(min=ABSOLUTE_VARIANCE_FLOOR))
    gmm.load_state_dict(broadcast_object_list([gmm.state_dict()])[0])
    return num_frames


def load_state(
    gmm: nn.Module, settings: EMSettings, state_dir: Path | None, identity: Mapping | None
) -> EMState:
    """
    The state that an earlier [`train_gmm`] left in a folder, or that of EM which has not begun.

    Raises:
        EMError: more components than frames to draw; a state of another identity or of more iterations than
            are asked for.
    """
    if settings.seed is not None and settings.sample_frames < len(gmm.weights):
        raise EMError(
            f"sample_frames {settings.sample_frames} are fewer than the {len(gmm.weights)} components."
        )
    run = {
        **(identity or {}),
        "num_components": len(gmm.weights),
        "num_features": gmm.means.shape[1],
        "start": hash_tensors(gmm.state_dict().items()) if settings.seed is None else "k-means++",
        "seed": settings.seed,
        "sample_frames": settings.sample_frames,
        "variance_floor": settings.variance_floor,
    }
    path = None if state_dir is None else Path(state_dir) / STATE_NAME
    state = EMState(copy.deepcopy(gmm).cpu().double(), run, path)
    if (found := read_on_main(state.read)) is None:
        return state
    tensors, about = found
    difference = describe_difference(about["run"], run)
    if (done := len(about["history"])) > settings.num_iterations:
        difference = f"it is after {done} iterations, but num_iterations is {settings.num_iterations}"
    if difference:
        raise EMError(f"{path} cannot be resumed: {difference}. Take another folder, or delete it.")
    state.gmm.load_state_dict(tensors)
    state.history, state.num_frames = about["history"], about["num_frames"]
    return state


def _collect_statistics(state: EMState, batches: Iterable[torch.Tensor]):
    """The `GMMStatistics` of all batches of all processes."""
    shares = []  # of this process a sum, or nothing where it has no batches
    for batch in batches:
        shares = [_add_statistics([*shares, state.gmm.statistics(batch)])]
    shares = gather_object(shares)
    num_frames = sum(int(share.num_frames) for share in shares)
    _check_frames(num_frames, len(state.gmm.weights), sum(float(share.log_likelihood) for share in shares))
    state.num_frames = num_frames
    return _add_statistics(shares)


def _add_statistics(shares: list):
    """The sum of statistics about the same center."""
    names = [each.name for each in dataclasses.fields(shares[0]) if each.name != "center"]
    return dataclasses.replace(
        shares[0], **{name: sum(getattr(share, name) for share in shares) for name in names}
    )


def _maximize(gmm: nn.Module, statistics, variance_floor: float) -> None:
    """Set a mixture to what is most likely given the statistics, its variances no lower than the floor."""
    occupancy = statistics.occupancy[:, None]
    mean = statistics.first.sum(dim=0) / statistics.num_frames
    variance = statistics.second.sum(dim=0) / statistics.num_frames - mean.square()  # of all frames
    floor = (variance_floor * variance).clamp(min=ABSOLUTE_VARIANCE_FLOOR)

    is_empty = occupancy < SMALLEST_OCCUPANCY
    means = statistics.first / occupancy.clamp(min=SMALLEST_OCCUPANCY)
    variances = statistics.second / occupancy.clamp(min=SMALLEST_OCCUPANCY) - means.square()
    gmm.means.copy_(torch.where(is_empty, gmm.means, statistics.center + means))
    gmm.variances.copy_(torch.where(is_empty, gmm.variances, torch.maximum(variances, floor)))
    weights = (statistics.occupancy / statistics.num_frames).clamp(min=SMALLEST_WEIGHT)
    gmm.weights.copy_(weights / weights.sum())
    if is_empty.any() and PartialState().is_main_process:
        logger.warning(
            f"{int(is_empty.sum())} of {len(gmm.weights)} components are empty and stay as they are."
        )


def _check_frames(num_frames: int, num_components: int, total: float) -> None:
    """Check a pass over the batches by its number of frames and a sum over all of them."""
    if num_frames < num_components:
        raise EMError(
            f"{num_frames} frames are too few for {num_components} components. If there are more, note that "
            "there are several passes over the batches: give a list or a data loader, not a generator."
        )
    if not math.isfinite(total):
        raise EMError("There is NaN or infinity in the frames.")
