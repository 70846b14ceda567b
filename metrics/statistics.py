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

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
class Speakers:
    """Speaker of each bona fide and of each spoofed trial, in the order of the scores."""

    bonafide: Sequence[str]
    spoof: Sequence[str]

    def __post_init__(self):
        for name, speakers in (("bona fide", self.bonafide), ("spoofed", self.spoof)):
            if (count := len(set(speakers))) < MIN_SPEAKERS:
                raise ValueError(
                    f"The {name} trials are of {count} speakers; at least {MIN_SPEAKERS} are needed to draw "
                    "speakers. Leave the speakers out to draw trials."
                )

    def __iter__(self) -> Iterator[Sequence[str]]:
        return iter((self.bonafide, self.spoof))


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

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what is measured."""
        return ("eer",) if self.costs is None else ("eer", *self.costs, *CLLR_PARTS)

    def measure(self, bonafide_counts: np.ndarray, spoof_counts: np.ndarray) -> np.ndarray:
        """The metrics over the trials taken so many times each."""
        rejected_bonafide = np.concatenate([[0], np.cumsum(bonafide_counts[self.bonafide_order])])
        between = np.bincount(self.spoof_rank, spoof_counts, minlength=len(rejected_bonafide))
        rejected_spoof = np.cumsum(between).astype(np.int64)
        rejected = rejected_bonafide, rejected_spoof
        eer, _, _ = find_equal_error(*rejected)
        if self.costs is None:
            return np.array([eer])
        costs = (cost.find_minimum(*rejected)[0] for cost in self.costs.values())
        means = (
            counts @ bits / counts.sum()
            for counts, bits in ((bonafide_counts, self.bonafide_bits), (spoof_counts, self.spoof_bits))
        )
        cllr, cllr_min = sum(means) / 2, find_min_cllr(*rejected)
        return np.array([eer, *costs, cllr, cllr_min, cllr - cllr_min])


def confidence_intervals(
    bonafide_scores,
    spoof_scores,
    *,
    costs: Mapping[str, DetectionCost] | None = None,
    speakers: Speakers | None = None,
    bootstrap: Bootstrap = Bootstrap(),
) -> dict[str, Estimate]:
    """
    Confidence intervals of the EER ("eer"), and with `costs` of the minimum of each, by its name, of Cllr
    ("cllr") and of its parts by discrimination and by calibration ("cllr_min", "calibration_loss").

    Args:
        bonafide_scores, spoof_scores: (num_bonafide,) and (num_spoof,), higher = more bona fide.
        costs: detection costs by name, e.g. `{"min_tdcf_2019": tdcf_cost(asv, "2019")}`;
            without them only the EER is measured, which is quicker.
        speakers: of the trials; `None` where they are not known, and trials are drawn.
        bootstrap: number of resamples, level and seed.

    Raises:
        ValueError: a class without trials, NaN or infinity, or not one speaker per trial; of [`Speakers`] a
            class of fewer than ten speakers.
    """
    system = _System.from_scores(bonafide_scores, spoof_scores, costs)
    observed, low, high, _ = _resample(system.measure, system.sizes, speakers, bootstrap)
    columns = zip(system.metrics, observed, low, high, strict=True)
    return {name: Estimate(*map(float, values)) for name, *values in columns}


def paired_test(
    first: tuple,
    second: tuple,
    *,
    costs: Mapping[str, DetectionCost] | None = None,
    speakers: Speakers | None = None,
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

    def difference(*counts: np.ndarray) -> np.ndarray:
        return first.measure(*counts) - second.measure(*counts)

    observed, low, high, resampled = _resample(difference, first.sizes, speakers, bootstrap)
    # Rounding must not decide whether a resample lies as far out as the observed difference.
    further = np.abs(resampled - observed) >= np.abs(observed) - 1e-12
    p_values = (1 + further.sum(0)) / (1 + len(resampled))
    columns = zip(first.metrics, observed, low, high, p_values, strict=True)
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
    `sizes` are the numbers of trials of the classes, `speakers` theirs, if they are known.
    """
    names = [*measure(*(np.ones(size, np.int64) for size in sizes))]
    measured = _resample(lambda *of: np.array([*measure(*of).values()]), sizes, speakers, bootstrap)
    return {name: Estimate(*map(float, of)) for name, *of in zip(names, *measured[:3], strict=True)}


def _resample(
    measure: Callable[..., np.ndarray],
    sizes: Sequence[int],
    speakers: Iterable[Sequence[str]] | None,
    bootstrap: Bootstrap,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What `measure` gives of the trials, the bounds of its interval, and what it gives of each resample."""
    observed = measure(*(np.ones(size, np.int64) for size in sizes))
    resampled = np.array([measure(*counts) for counts in draw_counts(sizes, speakers, bootstrap)])
    quantiles = (1 - bootstrap.level) / 2, (1 + bootstrap.level) / 2
    return observed, *np.quantile(resampled, quantiles, axis=0), resampled


def draw_counts(
    sizes: Sequence[int], speakers: Iterable[Sequence[str]] | None, bootstrap: Bootstrap
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
