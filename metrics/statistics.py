"""Confidence intervals of the EER, detection costs and Cllr, and a paired test between two countermeasures.

By a bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993) that respects how the trials
came about. Trials of one speaker are alike, so whole speakers are drawn where speakers are known (Bolle,
Ratha and Pankanti, "Error analysis of pattern recognition systems - the subsets bootstrap", CVIU 2004): with
replacement, separately among those with bona fide trials only, with spoofed trials only, and with both, and
each brings all its trials. Otherwise trials are drawn, separately in each class. A resample is a count for
every trial, so each system's scores are sorted once. What is held fixed is not in the interval: the training
of the system, the ASV system's error rates, and the choice of attacks. Where no trial is an error, no
resample has one, and the interval is [0, 0]: that does not mean that errors are impossible.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .costs import DetectionCost, llr_bits
from .det import check_scores, find_equal_error
from .likelihood_ratios import find_min_cllr
from .names import CLLR_PARTS


@dataclass(frozen=True)
class Bootstrap:
    """How to resample."""

    num_resamples: int = 1000
    level: float = 0.95
    seed: int = 0


# In each class: from fewer the spread can't be told, and an interval would look surer than it is.
MIN_TRIALS = MIN_SPEAKERS = 10


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval (percentile method)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Estimate):
    """
    First system's value minus the second's, with the two-sided p-value of no difference: the share of
    resamples whose difference lies at least as far from the one observed as that lies from 0.
    """

    p_value: float


@dataclass(frozen=True)
class _System:
    """
    One system's scores, sorted once; any resample of the trials is counted from there.

    Attributes:
        bonafide_order: (num_bonafide,) indices that sort the bona fide scores.
        spoof_rank: (num_spoof,) for each spoofed trial the number of bona fide scores not above its own.
        bonafide_bits, spoof_bits: (num_bonafide,), (num_spoof,) cost of each score as a log-likelihood ratio.
        costs: detection costs by name; `None` for the EER alone.
    """

    bonafide_order: np.ndarray
    spoof_rank: np.ndarray
    bonafide_bits: np.ndarray
    spoof_bits: np.ndarray
    costs: Mapping[str, DetectionCost] | None

    @classmethod
    def from_scores(cls, bonafide, spoof, costs: Mapping[str, DetectionCost] | None) -> "_System":
        bonafide, spoof = check_scores(bonafide, spoof)
        order = np.argsort(bonafide)
        rank = np.searchsorted(bonafide[order], spoof, side="right")
        return cls(order, rank, *llr_bits(bonafide, spoof), costs)

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of bona fide and of spoofed trials."""
        return len(self.bonafide_order), len(self.spoof_rank)

    def measure(self, bonafide_counts: np.ndarray, spoof_counts: np.ndarray) -> dict[str, float]:
        """The metrics over the trials taken so many times each."""
        rejected_bonafide = np.concatenate([[0], np.cumsum(bonafide_counts[self.bonafide_order])])
        between = np.bincount(self.spoof_rank, spoof_counts, minlength=len(rejected_bonafide))
        rejected_spoof = np.cumsum(between).astype(np.int64)
        rejected = rejected_bonafide, rejected_spoof
        eer, _, _ = find_equal_error(*rejected)
        if self.costs is None:
            return {"eer": eer}
        costs = {name: cost.find_minimum(*rejected)[0] for name, cost in self.costs.items()}
        means = (
            counts @ bits / counts.sum()
            for counts, bits in ((bonafide_counts, self.bonafide_bits), (spoof_counts, self.spoof_bits))
        )
        cllr, cllr_min = sum(means) / 2, find_min_cllr(*rejected)
        parts = zip(CLLR_PARTS, (cllr, cllr_min, cllr - cllr_min), strict=True)
        return {"eer": eer, **costs, **dict(parts)}


def confidence_intervals(
    bonafide_scores,
    spoof_scores,
    *,
    costs: Mapping[str, DetectionCost] | None = None,
    speakers: Sequence[Sequence[str]] | None = None,
    bootstrap: Bootstrap = Bootstrap(),
) -> dict[str, Estimate]:
    """
    Confidence intervals of the EER ("eer"), and with `costs` of the minimum of each, by its name, of Cllr
    ("cllr") and of its parts by discrimination and by calibration ("cllr_min", "calibration_loss").

    Args:
        bonafide_scores, spoof_scores: (num_bonafide,) and (num_spoof,), higher = more bona fide.
        costs: detection costs by name, e.g. `{"min_tdcf_2019": tdcf_cost(asv, "2019")}`;
            without them only the EER is measured, which is quicker.
        speakers: of the bona fide and of the spoofed trials; `None` where they are not known, and trials are
            drawn.
        bootstrap: number of resamples, level and seed.

    Raises:
        ValueError: a class without trials, NaN or infinity, not one speaker per trial, or a class of fewer
            than ten speakers.
    """
    system = _System.from_scores(bonafide_scores, spoof_scores, costs)
    return resample_intervals(system.measure, system.sizes, speakers=speakers, bootstrap=bootstrap)


def paired_test(
    first: tuple,
    second: tuple,
    *,
    costs: Mapping[str, DetectionCost] | None = None,
    speakers: Sequence[Sequence[str]] | None = None,
    bootstrap: Bootstrap = Bootstrap(),
) -> dict[str, Difference]:
    """
    Compare two countermeasures on the same trials, of which both are resampled alike: differences, first
    minus second, of the metrics of [`confidence_intervals`].

    Args as in [`confidence_intervals`], of each system (bona fide scores, spoof scores), trials in one order.

    Raises:
        ValueError: as [`confidence_intervals`]; different numbers of trials, or fewer than ten of a class.
    """
    first, second = (_System.from_scores(*scores, costs) for scores in (first, second))
    if first.sizes != second.sizes:
        raise ValueError(
            "The first system has scores of {} bona fide and {} spoofed trials, the second of {} and {}: "
            "both must be of the same trials.".format(*first.sizes, *second.sizes)
        )
    if min(first.sizes) < MIN_TRIALS:
        raise ValueError(
            "A paired test of {} bona fide and {} spoofed trials would say nothing: at least {} of each are "
            "needed.".format(*first.sizes, MIN_TRIALS)
        )

    def difference(*counts: np.ndarray) -> dict[str, float]:
        others = second.measure(*counts)
        return {name: value - others[name] for name, value in first.measure(*counts).items()}

    names, observed, low, high, resampled = _resample(difference, first.sizes, speakers, bootstrap)
    # Rounding must not decide whether a resample lies as far out as the observed difference.
    further = np.abs(resampled - observed) >= np.abs(observed) - 1e-12
    p_values = (1 + further.sum(0)) / (1 + len(resampled))
    columns = zip(names, observed, low, high, p_values, strict=True)
    return {name: Difference(*map(float, values)) for name, *values in columns}


def resample_intervals(
    measure: Callable[..., Mapping[str, float]],
    sizes: Sequence[int],
    *,
    speakers: Sequence[Sequence[str]] | None = None,
    bootstrap: Bootstrap = Bootstrap(),
) -> dict[str, Estimate]:
    """
    Confidence intervals of what `measure` gives, by name, of how often each trial of each class counts.
    `sizes` are the numbers of trials of the classes; the rest and errors as [`confidence_intervals`].
    """
    names, *columns, _ = _resample(measure, sizes, speakers, bootstrap)
    return {name: Estimate(*map(float, of)) for name, *of in zip(names, *columns, strict=True)}


def _resample(
    measure: Callable[..., Mapping[str, float]],
    sizes: Sequence[int],
    speakers: Sequence[Sequence[str]] | None,
    bootstrap: Bootstrap,
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The names of what `measure` gives, and as columns what it gives of the trials, the bounds of its
    interval, and what it gives of each resample."""
    observed = measure(*(np.ones(size, np.int64) for size in sizes))
    drawn = draw_counts(sizes, speakers, bootstrap)
    resampled = np.array([[*measure(*counts).values()] for counts in drawn])
    quantiles = (1 - bootstrap.level) / 2, (1 + bootstrap.level) / 2
    values = np.array([*observed.values()])
    return [*observed], values, *np.quantile(resampled, quantiles, axis=0), resampled


def draw_counts(
    sizes: Sequence[int], speakers: Sequence[Sequence[str]] | None, bootstrap: Bootstrap
) -> Iterator[tuple[np.ndarray, ...]]:
    """How often each trial of each class counts, for every resample; `sizes` are numbers of trials."""
    generator = np.random.default_rng(bootstrap.seed)
    if speakers is None:
        for _ in range(bootstrap.num_resamples):
            yield tuple(_draw(generator, size) for size in sizes)
        return
    speakers = [*map(np.asarray, speakers)]
    if (given := [*map(len, speakers)]) != [*sizes]:
        given, sizes = (" and ".join(map(str, numbers)) for numbers in (given, sizes))
        raise ValueError(f"There are speakers of {given} trials for scores of {sizes}, by class.")
    if (fewest := min(len(set(of_class)) for of_class in speakers)) < MIN_SPEAKERS:
        raise ValueError(
            f"The trials of a class are of {fewest} speakers; at least {MIN_SPEAKERS} are needed to draw "
            "speakers. Leave the speakers out to draw trials."
        )
    names, codes = np.unique(np.concatenate(speakers), return_inverse=True)
    codes = np.split(codes, np.cumsum(sizes)[:-1])
    # Which classes a speaker has trials of: a bit for each.
    kinds = sum(np.isin(np.arange(len(names)), of_class) << i for i, of_class in enumerate(codes))
    strata = [np.flatnonzero(kinds == kind) for kind in range(1, 2 ** len(codes))]
    for _ in range(bootstrap.num_resamples):
        counts = np.empty(len(names), np.int64)
        for stratum in strata:
            counts[stratum] = _draw(generator, len(stratum))
        yield tuple(counts[of_class] for of_class in codes)


def _draw(generator: np.random.Generator, size: int) -> np.ndarray:
    """How often each of `size` things comes when so many are drawn with replacement."""
    if size == 0:
        return np.zeros(0, np.int64)
    return np.bincount(generator.integers(size, size=size), minlength=size)
