"""Expectation-maximisation (EM) of a diagonal Gaussian mixture model over a corpus that is never held in
memory (Dempster et al., 1977; start by k-means++, Arthur & Vassilvitskii, 2007)."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, reduce
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from .kmeans import FrameSample, kmeans_clusters
from .modeling_lfcc_gmm import DiagonalGMM, GMMStatistics


logger = logging.get_logger(__name__)

ABSOLUTE_VARIANCE_FLOOR = 1e-6  # for features that do not vary at all
SMALLEST_WEIGHT = 1e-12  # so that the logarithm of an empty component's weight is finite
SMALLEST_OCCUPANCY = 1e-3  # frames; a component with fewer is empty
STATE_FILE = "em_state.json"


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


def train_gmm(
    gmm: DiagonalGMM,
    batches: Iterable[torch.Tensor],
    settings: EMSettings = EMSettings(),
    *,
    state_dir: Path | None = None,
    identity: str = "",
    on_iteration: Callable[[int, float], None] | None = None,
) -> list[float]:
    """
    Fit a mixture to frames by EM, in place. One pass over `batches` draws the start, each iteration is one
    more; only sums are kept of them, in float64. The work is done on the device of the batches, k-means++ on
    the CPU.

    The start is k-means++ on a random sample, then a few iterations of k-means: it costs one pass over the
    corpus, where binary splitting costs several for each doubling of the components.

    The log-likelihood never falls, but for rounding: a variance clipped at the floor is the best one above
    it, and a component that no frame belongs to keeps its mean and variances. (From a given start with
    variances below the floor, the first iteration may lower it.)

    Under `accelerate launch` each process calls this with its own share of the batches and all end with the
    same mixture. Where process r of n gets the batches r, r + n, r + 2n, …, that is the mixture of one
    process up to rounding; any other sharing out is as good, but draws another sample for the start.

    Args:
        gmm: the mixture.
        batches: frames of (frames, features), the same on every walk through; walked through once an
            iteration, so a generator will not do. A batch may be empty.
        settings: see [`EMSettings`].
        state_dir: folder in which the state is kept after every iteration; a later call goes on from there
            and, with as many processes, ends with the same mixture to the last bit.
        identity: what the batches are (corpus, front end, class); a state of another identity is refused.
        on_iteration: called, in every process, with the number of each iteration, from 1, and its
            log-likelihood; not for the iterations of an earlier call.

    Returns:
        The log-likelihood per frame, in nats, at the start of each iteration, that is of the mixture that the
        iteration improved; of all iterations, an earlier call's included.

    Raises:
        ValueError: no frames or fewer than components, another number of frames than in the pass before, NaN
            or infinity in them, a state of another identity, a damaged one or one of more iterations.
    """
    # In float64 and on the CPU, whatever the module is: only products over frames are done elsewhere.
    work = DiagonalGMM(*gmm.means.shape).double()
    work.load_state_dict({name: buffer.cpu() for name, buffer in gmm.state_dict().items()})
    checkpoint = None
    progress = None
    if state_dir is not None:
        checkpoint = EMCheckpoint(Path(state_dir), _identity(work, settings, identity))
        progress = checkpoint.load(work)
    if progress is None:
        progress = EMProgress()
        if settings.seed is not None:
            progress.num_frames = initialize_gmm(work, batches, settings)
        if checkpoint is not None:
            checkpoint.save(work, progress)
    if len(progress.history) > settings.num_iterations:
        raise ValueError(
            f"{state_dir} holds the state after {len(progress.history)} iterations, but num_iterations is "
            f"{settings.num_iterations}. Take another folder."
        )
    while not progress.is_finished(settings):
        statistics = _collect(work, batches)
        log_likelihood = float(statistics.log_likelihood / statistics.num_frames)
        _check_pass(statistics, progress)
        _maximize(work, statistics, settings.variance_floor)
        progress.history.append(log_likelihood)
        if checkpoint is not None:
            checkpoint.save(work, progress)
        if PartialState().is_main_process:
            logger.info(
                f"EM iteration {len(progress.history)}: log-likelihood per frame {log_likelihood:.6f}"
            )
        if on_iteration is not None:
            on_iteration(len(progress.history), log_likelihood)
    gmm.load_state_dict(work.state_dict())
    return progress.history


def initialize_gmm(gmm: DiagonalGMM, batches: Iterable[torch.Tensor], settings: EMSettings) -> int:
    """
    Set a mixture to the clusters that k-means, started by k-means++, finds in a random sample of the frames.
    The frames are scaled to unit variance for it. See [`train_gmm`].

    Returns:
        The number of frames, in all processes.
    """
    num_components, num_features = gmm.means.shape
    if settings.sample_frames < num_components:
        raise ValueError(
            f"sample_frames {settings.sample_frames} are fewer than the {num_components} components."
        )
    state = PartialState()
    sums = torch.zeros(1 + 2 * num_features, dtype=torch.float64)  # frames, x, x²
    sample = FrameSample(settings.sample_frames)
    for index, batch in enumerate(batches):
        generator = np.random.default_rng([settings.seed, index * state.num_processes + state.process_index])
        sample.offer(batch, generator.random(len(batch)))
        values = batch.double() if batch.device.type != "mps" else batch.cpu().double()
        sums += torch.cat([values.new_tensor([len(batch)]), values.sum(0), values.square().sum(0)]).cpu()
    sums = _sum_over_processes(sums)
    num_frames, mean, variance = int(sums[0]), sums[1 : 1 + num_features], sums[1 + num_features :]
    _check_frames(num_frames, sums, num_components)
    mean = mean / num_frames
    variance = (variance / num_frames - mean.square()).clamp(min=ABSOLUTE_VARIANCE_FLOOR)

    shares = gather_object([sample.taken()])
    if state.is_main_process:
        frames = FrameSample.join(shares, settings.sample_frames).double()
        frames = ((frames - mean) / variance.sqrt()).float()
        weights, means, variances = kmeans_clusters(frames, num_components, settings.seed)
        gmm.weights.copy_(weights)
        gmm.means.copy_(mean + means * variance.sqrt())
        variances = variances.clamp(min=settings.variance_floor) * variance
        gmm.variances.copy_(variances.clamp(min=ABSOLUTE_VARIANCE_FLOOR))
    gmm.load_state_dict(broadcast_object_list([gmm.state_dict()])[0])
    return num_frames


def _collect(gmm: DiagonalGMM, batches: Iterable[torch.Tensor]) -> GMMStatistics:
    """Statistics of all batches of all processes."""
    num_components, num_features = gmm.means.shape
    sums = torch.zeros(2 + num_components * (1 + 2 * num_features), dtype=torch.float64)
    center = None
    for batch in batches:
        part = gmm.statistics(batch)
        center = part.center
        sums += torch.cat(
            [
                torch.stack([part.log_likelihood, part.num_frames]),
                part.occupancy,
                part.first.flatten(),
                part.second.flatten(),
            ]
        )
    centers = [center for center in gather_object([center]) if center is not None]  # all the same
    sums = _sum_over_processes(sums)
    totals, occupancy, first, second = sums.split(
        [2, num_components, num_components * num_features, num_components * num_features]
    )
    return GMMStatistics(
        centers[0] if centers else torch.zeros(num_features),
        totals[0],
        totals[1],
        occupancy,
        first.view(num_components, num_features),
        second.view(num_components, num_features),
    )


def _maximize(gmm: DiagonalGMM, statistics: GMMStatistics, variance_floor: float) -> None:
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


def _sum_over_processes(sums: torch.Tensor) -> torch.Tensor:
    """The sum of a CPU tensor of every process; as it is where there is one process."""
    state = PartialState()
    return sums if state.num_processes == 1 else reduce(sums.to(state.device), "sum").cpu()


def _check_frames(num_frames: int, sums: torch.Tensor, num_components: int) -> None:
    if not torch.isfinite(sums).all():
        raise ValueError("There is NaN or infinity in the frames.")
    if num_frames < num_components:
        raise ValueError(
            f"{num_frames} frames are too few for {num_components} components. If there are more, note that "
            "batches are walked through several times: give a list or a data loader, not a generator."
        )


def _check_pass(statistics: GMMStatistics, progress: "EMProgress") -> None:
    num_frames = int(statistics.num_frames)
    _check_frames(num_frames, statistics.log_likelihood, len(statistics.occupancy))
    if progress.num_frames not in (None, num_frames):
        raise ValueError(
            f"This pass over the batches had {num_frames} frames, the one before {progress.num_frames}: "
            "every pass must walk through the same batches."
        )
    progress.num_frames = num_frames


@dataclass
class EMProgress:
    """How far EM is."""

    history: list[float] = field(default_factory=list)  # log-likelihood per frame of each iteration
    num_frames: int | None = None  # in all processes; None before the first pass

    def is_finished(self, settings: EMSettings) -> bool:
        """Whether the iterations are done or the last one gained too little."""
        if len(self.history) >= settings.num_iterations:
            return True
        return len(self.history) > 1 and self.history[-1] - self.history[-2] < settings.tolerance


class EMCheckpoint:
    """
    The state of EM in a folder. `em_state.json` is replaced at once and last, and names the file of the
    parameters that it goes with, so that a kill leaves the state of the last complete iteration.
    """

    def __init__(self, folder: Path, identity: dict):
        self.folder = folder
        self.identity = identity

    def save(self, gmm: DiagonalGMM, progress: EMProgress) -> None:
        """Write the state; the main process only."""
        if not PartialState().is_main_process:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        parameters = self.folder / f"em_iteration_{len(progress.history):04d}.safetensors"
        partial = self.folder / "em_parameters.partial"
        save_file({name: buffer.contiguous() for name, buffer in gmm.state_dict().items()}, partial)
        _replace(partial, parameters)
        state = {
            "identity": self.identity,
            "parameters": parameters.name,
            "sha256": hashlib.sha256(parameters.read_bytes()).hexdigest(),
            "num_frames": progress.num_frames,
            "history": progress.history,  # repr of a float64 survives JSON
        }
        partial = self.folder / f"{STATE_FILE}.partial"
        partial.write_text(json.dumps(state, indent=2) + "\n")
        _replace(partial, self.folder / STATE_FILE)
        for old in self.folder.glob("em_iteration_*.safetensors"):
            if old != parameters:
                old.unlink()

    def load(self, gmm: DiagonalGMM) -> EMProgress | None:
        """
        Read the state, on the main process, for all processes; `None` where there is none.

        Raises:
            ValueError: it is of another identity or damaged.
        """
        outcome = None
        if PartialState().is_main_process:
            try:
                outcome = self._read()
            except ValueError as error:
                outcome = error
        outcome = broadcast_object_list([outcome])[0]
        if isinstance(outcome, ValueError):
            raise outcome
        if outcome is None:
            return None
        progress, buffers = outcome
        gmm.load_state_dict(buffers)
        return progress

    def _read(self) -> tuple[EMProgress, dict[str, torch.Tensor]] | None:
        path = self.folder / STATE_FILE
        if not path.is_file():
            return None
        try:
            state = json.loads(path.read_text())
            found = state["identity"]
            parameters = self.folder / state["parameters"]
            progress = EMProgress(state["history"], state["num_frames"])
            is_whole = hashlib.sha256(parameters.read_bytes()).hexdigest() == state["sha256"]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise ValueError(f"{path} or what it names is damaged ({error}); delete {self.folder}.") from None
        if found != self.identity:
            names = [name for name in self.identity if found.get(name) != self.identity[name]]
            raise ValueError(
                f"{path} is the state of another training: "
                + "; ".join(f"{name} was {found.get(name)!r}, now {self.identity[name]!r}" for name in names)
                + ". Delete it or take another folder."
            )
        if not is_whole:
            raise ValueError(f"{parameters} is not the file that {path} goes with; delete {self.folder}.")
        return progress, load_file(parameters)


def _identity(gmm: DiagonalGMM, settings: EMSettings, run: str) -> dict:
    """What must agree for EM to go on: all that the parameters depend on, but the number of iterations."""
    start = "k-means++"
    if settings.seed is None:
        digest = hashlib.sha256()
        for buffer in gmm.state_dict().values():
            digest.update(buffer.numpy().tobytes())
        start = digest.hexdigest()
    return {
        "run": run,
        "num_components": len(gmm.weights),
        "num_features": gmm.means.shape[1],
        "start": start,
        "seed": settings.seed,
        "sample_frames": settings.sample_frames,
        "variance_floor": settings.variance_floor,
    }


def _replace(partial: Path, path: Path) -> None:
    """Give a written file its name, once it is on the disk."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


__all__ = ["EMSettings", "initialize_gmm", "train_gmm"]
