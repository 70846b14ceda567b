"""Expectation-maximisation (EM) of a Gaussian mixture model over a corpus that is never held in memory
(Dempster et al., 1977; start by k-means++, Arthur & Vassilvitskii, 2007)."""

import copy
import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers.utils import logging

from .base_model import hash_tensors
from .files import write_whole
from .kmeans import FrameSample, kmeans_clusters
from .resuming import describe_difference, read_on_main


logger = logging.get_logger(__name__)

ABSOLUTE_VARIANCE_FLOOR = 1e-6  # for features that do not vary at all
SMALLEST_WEIGHT = 1e-12  # so that the logarithm of an empty component's weight is finite
SMALLEST_OCCUPANCY = 1e-3  # frames; a component with fewer is empty
STATE_NAME = "em_state.safetensors"


class EMError(ValueError):
    """EM that cannot begin or go on, for a reason that lies in the frames, the settings or a kept state."""


@dataclass(frozen=True)
class EMSettings:
    """
    Settings of [`train_gmm`].

    Args:
        num_iterations: of EM, at most.
        tolerance: EM stops once an iteration gains less log-likelihood per frame than this, in nats.
        variance_floor: smallest variance of a component, relative to the variance of all frames.
        sample_frames: frames drawn for the start by k-means++, about 200 a component.
        seed: of that draw and of k-means++; `None` starts from the parameters that the mixture has.
    """

    num_iterations: int = 30
    tolerance: float = 1e-4
    variance_floor: float = 1e-3
    sample_frames: int = 100_000
    seed: int | None = 0

    def __post_init__(self):
        if self.num_iterations < 1 or self.sample_frames < 1 or (self.seed is not None and self.seed < 0):
            raise ValueError(
                f"num_iterations {self.num_iterations} and sample_frames {self.sample_frames} must be at "
                f"least 1, seed {self.seed} not negative."
            )
        if not 0 <= self.variance_floor < 1:
            raise ValueError(f"variance_floor {self.variance_floor} must be from 0 to below 1.")


@dataclass
class EMState:
    """
    How far EM is.

    Attributes:
        gmm: in float64 and on the CPU; only products over frames are done elsewhere.
        history: log-likelihood per frame of each iteration.
        num_frames: of a pass over the batches of all processes; `None` before the first.
    """

    gmm: nn.Module
    history: list[float]
    num_frames: int | None


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
    Fit a mixture to frames by EM, in place. One pass over `batches` draws the start, each iteration is one
    more; only sums are kept of them, in float64. Frames are worked on where they are, k-means on the CPU.

    The start is k-means++ on a random sample, then a few iterations of k-means: it costs one pass over the
    corpus, where binary splitting costs several for each doubling of the components.

    The log-likelihood never falls, but for rounding: a variance clipped at the floor is the best one above
    it, and a component that no frame belongs to keeps its mean and variances. (From a given start with
    variances below the floor, the first iteration may lower it.)

    Under `accelerate launch` each process calls this with its own share of the batches and all end with the
    same mixture; where process r of n has the batches r, r + n, …, with that of one process up to rounding.

    Args:
        gmm: with the buffers `weights` (components,), `means` and `variances` (components, features), and
            `statistics`, as `DiagonalGMM` has them.
        batches: frames of (frames, features), the same on every pass, so a generator will not do. A batch
            may be empty.
        state_dir: folder in which the state is kept after every iteration; a later call goes on from there
            and, with as many processes, ends with the same mixture to the last bit.
        identity: what the batches are (corpus, front end, class); a state of another identity is refused.
        on_iteration: called, in every process, with the number of each iteration, from 1, and its
            log-likelihood; not for the iterations of an earlier call.

    Returns:
        The log-likelihood per frame, in nats, at the start of each iteration, an earlier call's included.

    Raises:
        EMError: no frames or fewer than components, another number of frames than in the pass before, NaN
            or infinity in them; see [`load_state`].
    """
    identity = identity or {}
    state = load_state(gmm, settings, state_dir, identity)
    save = functools.partial(_save_state, state_dir, _describe_run(gmm, settings, identity))
    if state is None:
        state = EMState(copy.deepcopy(gmm).cpu().double(), [], None)
        if settings.seed is not None:
            state.num_frames = initialize_gmm(state.gmm, batches, settings)
        save(state)
    while not _is_finished(state.history, settings):
        statistics = _collect_statistics(state, batches)
        log_likelihood = float(statistics.log_likelihood / statistics.num_frames)
        _maximize(state.gmm, statistics, settings.variance_floor)
        state.history.append(log_likelihood)
        save(state)
        if PartialState().is_main_process:
            logger.info(f"EM iteration {len(state.history)}: log-likelihood per frame {log_likelihood:.6f}")
        if on_iteration is not None:
            on_iteration(len(state.history), log_likelihood)
    gmm.load_state_dict(state.gmm.state_dict())
    return state.history


def initialize_gmm(gmm: nn.Module, batches: Iterable[torch.Tensor], settings: EMSettings) -> int:
    """
    Set a mixture to the clusters that k-means, started by k-means++, finds in a random sample of the frames.
    The frames are scaled to unit variance for it. See [`train_gmm`].

    Returns:
        The number of frames, in all processes.
    """
    num_components, num_features = gmm.means.shape
    process = PartialState()
    sums = torch.zeros(1 + 2 * num_features, dtype=torch.float64)  # frames, x, x²
    sample = FrameSample(settings.sample_frames)
    for index, batch in enumerate(batches):
        at = index * process.num_processes + process.process_index
        sample.offer(batch, np.random.default_rng([settings.seed, at]).random(len(batch)))
        values = batch.double() if batch.device.type != "mps" else batch.cpu().double()
        sums += torch.cat([values.new_tensor([len(batch)]), values.sum(0), values.square().sum(0)]).cpu()
    shares = gather_object([(sums, sample.taken())])
    sums = sum(share for share, _ in shares)
    num_frames, mean, variance = int(sums[0]), sums[1 : 1 + num_features], sums[1 + num_features :]
    _check_frames(num_frames, sums, num_components)

    if process.is_main_process:
        mean = mean / num_frames
        variance = (variance / num_frames - mean.square()).clamp(min=ABSOLUTE_VARIANCE_FLOOR)
        frames = FrameSample.join([taken for _, taken in shares], settings.sample_frames).double()
        frames = ((frames - mean) / variance.sqrt()).float()
        weights, means, variances = kmeans_clusters(frames, num_components, settings.seed)
        gmm.weights.copy_(weights)
        gmm.means.copy_(mean + means * variance.sqrt())
        variances = variances.clamp(min=settings.variance_floor) * variance
        gmm.variances.copy_(variances.clamp(min=ABSOLUTE_VARIANCE_FLOOR))
    gmm.load_state_dict(broadcast_object_list([gmm.state_dict()])[0])
    return num_frames


def load_state(
    gmm: nn.Module, settings: EMSettings, state_dir: Path | None, identity: Mapping
) -> EMState | None:
    """
    The state that an earlier [`train_gmm`] left in a folder, `None` where there is none.

    Raises:
        EMError: more components than frames to draw; a state of another identity, a damaged one or one of
            more iterations than are asked for.
    """
    if settings.seed is not None and settings.sample_frames < len(gmm.weights):
        raise EMError(
            f"sample_frames {settings.sample_frames} are fewer than the {len(gmm.weights)} components."
        )
    path = state_dir and Path(state_dir) / STATE_NAME
    found = read_on_main(lambda: path and path.is_file() and _read_state(path))
    if not found:
        return None
    tensors, about = found
    if difference := describe_difference(about["run"], _describe_run(gmm, settings, identity)):
        raise EMError(
            f"{path} is the state of another training: {difference}. Delete it or take another folder."
        )
    if len(about["history"]) > settings.num_iterations:
        raise EMError(
            f"{path} holds the state after {len(about['history'])} iterations, but num_iterations is "
            f"{settings.num_iterations}. Take another folder."
        )
    gmm = copy.deepcopy(gmm).cpu().double()
    gmm.load_state_dict(tensors)
    return EMState(gmm, about["history"], about["num_frames"])


def _read_state(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            about = json.loads(file.metadata()["em"])
        if about["sha256"] != hash_tensors(sorted(tensors.items())):
            raise ValueError("its SHA-256 is another")
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise EMError(f"{path} is damaged ({error}); delete it to start anew.") from None
    return tensors, about


def _save_state(state_dir: Path | None, run: Mapping, state: EMState) -> None:
    """Write the state, by the main process; a kill meanwhile leaves the one before."""
    if state_dir is None or not PartialState().is_main_process:
        return
    tensors = {name: buffer.contiguous() for name, buffer in state.gmm.state_dict().items()}
    about = {
        "run": run,
        "history": state.history,  # repr of a float64 survives JSON
        "num_frames": state.num_frames,
        "sha256": hash_tensors(sorted(tensors.items())),
    }
    with write_whole(Path(state_dir) / STATE_NAME) as partial:
        save_file(tensors, partial, metadata={"em": json.dumps(about)})


def _describe_run(gmm: nn.Module, settings: EMSettings, identity: Mapping) -> dict:
    """What must agree for EM to go on: all that the parameters depend on, but the number of iterations."""
    return {
        **identity,
        "num_components": len(gmm.weights),
        "num_features": gmm.means.shape[1],
        "start": hash_tensors(gmm.state_dict().items()) if settings.seed is None else "k-means++",
        "seed": settings.seed,
        "sample_frames": settings.sample_frames,
        "variance_floor": settings.variance_floor,
    }


def _is_finished(history: list[float], settings: EMSettings) -> bool:
    """Whether the iterations are done or the last one gained too little."""
    if len(history) >= settings.num_iterations:
        return True
    return len(history) > 1 and history[-1] - history[-2] < settings.tolerance


def _collect_statistics(state: EMState, batches: Iterable[torch.Tensor]):
    """The `GMMStatistics` of all batches of all processes."""
    shares = [functools.reduce(_add_statistics, map(state.gmm.statistics, batches), None)]
    total = functools.reduce(_add_statistics, gather_object(shares), None)
    num_frames = 0 if total is None else int(total.num_frames)
    _check_frames(num_frames, total.log_likelihood if num_frames else None, len(state.gmm.weights))
    if state.num_frames not in (None, num_frames):
        raise EMError(
            f"This pass over the batches had {num_frames} frames, the one before {state.num_frames}: "
            "every pass must walk through the same batches."
        )
    state.num_frames = num_frames
    return total


def _add_statistics(one, other):
    """The sum of two statistics about the same center; either may be `None`."""
    if one is None or other is None:
        return one if other is None else other
    names = [field.name for field in dataclasses.fields(one) if field.name != "center"]
    return dataclasses.replace(one, **{name: getattr(one, name) + getattr(other, name) for name in names})


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


def _check_frames(num_frames: int, sums: torch.Tensor | None, num_components: int) -> None:
    if num_frames < num_components:
        raise EMError(
            f"{num_frames} frames are too few for {num_components} components. If there are more, note that "
            "there are several passes over the batches: give a list or a data loader, not a generator."
        )
    if not torch.isfinite(sums).all():
        raise EMError("There is NaN or infinity in the frames.")
