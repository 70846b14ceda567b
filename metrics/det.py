"""Detection error trade-off and equal error rate as the ASVspoof organisers define them (`eval_metrics.py` of
the ASVspoof 2019 evaluation package): no interpolation, no convex hull.

Most metrics need far less than the whole curve. Costs and the crossing of the two error rates can be found
from what thresholds just below each bona fide score reject: a few thousand numbers, and one sort per class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


KINDS = ("target", "nontarget", "spoof")  # of trials of speaker verification


def check_class(name: str, scores) -> np.ndarray:
    """The scores of a class as float64. ValueError: no vector, no trials, NaN or infinity."""
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1:
        raise ValueError(f"The {name} scores have shape {scores.shape}; one score per trial is expected.")
    if scores.size == 0:
        raise ValueError(f"There is no {name} trial: error rates need trials of every class.")
    if not np.isfinite(scores).all():
        index = int(np.argmin(np.isfinite(scores)))
        raise ValueError(f"The {name} scores contain {scores[index]} (trial {index} of that class).")
    return scores


def check_scores(bonafide_scores, spoof_scores) -> tuple[np.ndarray, np.ndarray]:
    """Scores of both classes as float64 vectors; errors as [`check_class`]."""
    return check_class("bona fide", bonafide_scores), check_class("spoof", spoof_scores)


def split_by_key(
    predictions, references, id2label=None, kinds: Sequence[str] = ("bonafide", "spoof")
) -> tuple[np.ndarray, ...]:
    """
    Scores of the trials of each of `kinds`, from the score and the key of each: one of these, or an integer,
    of which `id2label`, a mapping or a list, says what it means. ValueError: another key, integers without
    `id2label` or the reverse, or not one key per score.
    """
    scores, keys = np.asarray(predictions, dtype=np.float64), np.asarray(references)
    if np.issubdtype(keys.dtype, np.integer) != (id2label is not None):
        raise ValueError(
            "Integer references and id2label go together: say by id2label={0: 'bonafide', 1: 'spoof'} or "
            "otherwise what the integers mean, as a model's config does; without them leave it out."
        )
    if id2label is not None:
        names = id2label if hasattr(id2label, "items") else dict(enumerate(id2label))
        names = {int(index): name for index, name in names.items()}
        keys = np.array([names.get(int(key), int(key)) for key in keys], dtype=object)
    if scores.shape != keys.shape:
        raise ValueError(f"There are {scores.size} scores, but {keys.size} keys; one per trial is expected.")
    if not (is_known := np.isin(keys, kinds)).all():
        expected = " or ".join(map(repr, kinds))
        raise ValueError(f"The key of a trial must be {expected}, not {str(keys[~is_known][0])!r}.")
    return tuple(scores[keys == kind] for kind in kinds)


def det_curve(bonafide_scores, spoof_scores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    False rejection and false acceptance rate of a countermeasure at every threshold.

    Args:
        bonafide_scores, spoof_scores: (num_bonafide,) and (num_spoof,), higher = more bona fide.

    Returns:
        `frr`, `far` and `thresholds`, float64, each (num_bonafide + num_spoof + 1,). A trial is accepted as
        bona fide if its score is above the threshold. The first threshold, 0.001 below the lowest score,
        accepts all.

    Raises:
        ValueError: see [`check_scores`].
    """
    bonafide, spoof = (np.sort(scores) for scores in check_scores(bonafide_scores, spoof_scores))
    # In the official script's stable sort bona fide comes before spoof among equal scores.
    positions = np.arange(bonafide.size) + np.searchsorted(spoof, bonafide, side="left")
    is_bonafide = np.zeros(bonafide.size + spoof.size, dtype=bool)
    is_bonafide[positions] = True
    scores = np.empty(is_bonafide.size)
    scores[is_bonafide], scores[~is_bonafide] = bonafide, spoof
    rejected_bonafide = np.cumsum(is_bonafide)
    accepted_spoof = spoof.size - (np.arange(1, scores.size + 1) - rejected_bonafide)
    frr = np.concatenate([[0.0], rejected_bonafide / bonafide.size])
    far = np.concatenate([[1.0], accepted_spoof / spoof.size])
    return frr, far, np.concatenate([[scores[0] - 0.001], scores])


def count_rejected(bonafide_sorted: np.ndarray, spoof_sorted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    How many bona fide and how many spoofed trials a threshold just below each bona fide score rejects, and
    one that rejects all: two integer vectors (num_bonafide + 1,). Both arguments are sorted ascending.
    """
    below = np.searchsorted(spoof_sorted, bonafide_sorted, side="left")
    return np.arange(bonafide_sorted.size + 1), np.append(below, spoof_sorted.size)


def find_equal_error(rejected_bonafide: np.ndarray, rejected_spoof: np.ndarray) -> tuple[float, int, int]:
    """
    EER as a fraction, and how many bona fide and how many spoofed trials its threshold rejects: the first one
    where FRR and FAR are nearest.

    Its arguments are of [`count_rejected`]. A trial may count several times, as in a bootstrap resample.
    """
    num_bonafide, num_spoof = int(rejected_bonafide[-1]), int(rejected_spoof[-1])
    # The threshold passes one trial after the other. When it has passed b of B bona fide and s of S spoofed
    # trials, FRR >= FAR says b / B >= 1 - s / S, or b S + s B >= B S. The left side only rises, so the rates
    # are nearest at the first point that reaches B S, or at the one before it. The first point has
    # b = ceil(B (S - s) / S) if the trial just passed is bona fide, s = ceil(S (B - b) / B) if it is spoofed.
    balance, target = rejected_bonafide * num_spoof + rejected_spoof * num_bonafide, num_bonafide * num_spoof
    at = int(np.searchsorted(balance, target))
    # From `at - 1` to `at`, bona fide trials of one score are passed first, then the spoofed ones above them.
    bonafide, spoof = int(rejected_bonafide[at]), int(rejected_spoof[at - 1]) if at else 0
    if bonafide * num_spoof + spoof * num_bonafide >= target:
        bonafide = -(-num_bonafide * (num_spoof - spoof) // num_spoof)
        candidates = [(bonafide - 1, spoof), (bonafide, spoof)]
    else:
        spoof = -(-num_spoof * (num_bonafide - bonafide) // num_bonafide)
        candidates = [(bonafide, spoof - 1), (bonafide, spoof)]
    rates = [(b / num_bonafide, (num_spoof - s) / num_spoof) for b, s in candidates]
    nearest = min((0, 1), key=lambda i: abs(rates[i][0] - rates[i][1]))
    return sum(rates[nearest]) / 2, *candidates[nearest]


def equal_error_rate(bonafide_scores, spoof_scores) -> tuple[float, float]:
    """
    EER as a fraction, and its threshold: the mean of FRR and FAR at the first threshold where they are
    nearest.

    Args and errors as [`det_curve`].
    """
    bonafide, spoof = (np.sort(scores) for scores in check_scores(bonafide_scores, spoof_scores))
    eer, *rejected = find_equal_error(*count_rejected(bonafide, spoof))
    return eer, find_threshold(bonafide, spoof, *rejected)


def equal_error_range(bonafide_scores, spoof_scores) -> tuple[float, float]:
    """
    The EER threshold, and the lowest score above it: any threshold from the one up to the other decides
    alike. Where the scores separate the classes, this is the gap between them. Without a score above it, both
    are the threshold.

    Args and errors as [`det_curve`].
    """
    scores = np.concatenate(check_scores(bonafide_scores, spoof_scores))
    _, threshold = equal_error_rate(bonafide_scores, spoof_scores)
    return threshold, float(min(scores[scores > threshold], default=threshold))


def interpolated_equal_error_rate(bonafide_scores, spoof_scores) -> float:
    """
    EER as a fraction, where FRR and FAR cross when they are drawn as straight lines from each score to the
    next higher one: `compute_eer` of speech-spoof-bench 0.3.0, which the Speech Anti-Spoofing Arena ranks by.
    At a threshold, scores of at least that are accepted.

    Args and errors as [`det_curve`].
    """
    bonafide, spoof = (np.sort(scores) for scores in check_scores(bonafide_scores, spoof_scores))
    thresholds = np.unique(np.concatenate([bonafide, spoof]))
    frr = np.searchsorted(bonafide, thresholds) / bonafide.size
    far = (spoof.size - np.searchsorted(spoof, thresholds)) / spoof.size
    difference = far - frr
    crossings = np.flatnonzero(np.diff(np.sign(difference)))
    if crossings.size == 0:
        nearest = np.argmin(np.abs(difference))
        return float((far[nearest] + frr[nearest]) / 2)
    before, after = crossings[0], crossings[0] + 1
    share = difference[before] / (difference[before] - difference[after])
    return float(sum(rate[before] + share * (rate[after] - rate[before]) for rate in (far, frr)) / 2)


def find_threshold(
    bonafide_sorted: np.ndarray, spoof_sorted: np.ndarray, rejected_bonafide: int, rejected_spoof: int
) -> float:
    """The threshold, in the official list, that rejects so many of the sorted scores of each class."""
    if rejected_bonafide == rejected_spoof == 0:
        return float(min(bonafide_sorted[0], spoof_sorted[0]) - 0.001)
    highest = [bonafide_sorted[rejected_bonafide - 1]] if rejected_bonafide else []
    highest += [spoof_sorted[rejected_spoof - 1]] if rejected_spoof else []
    return float(max(highest))


def describe_scores(bonafide_scores, spoof_scores) -> dict:
    """
    What to know of scores before their error rates are believed.

    Returns:
        num_distinct_scores (int): over both classes.
        num_tied_across_classes (int): trials whose score a trial of the other class has, too. The official
            order has bona fide before spoof there, so that ties raise the error rates.
        constant_scores (bool): all trials have one score.
        looks_inverted (bool): the EER is above 50 %, and below for the negated scores.

    Args and errors as [`det_curve`].
    """
    bonafide, spoof = check_scores(bonafide_scores, spoof_scores)
    num_distinct = np.unique(np.concatenate([bonafide, spoof])).size
    num_tied = np.isin(bonafide, spoof).sum() + np.isin(spoof, bonafide).sum()
    inverted = equal_error_rate(bonafide, spoof)[0] > 0.5 > equal_error_rate(-bonafide, -spoof)[0]
    return {
        "num_distinct_scores": int(num_distinct),
        "num_tied_across_classes": int(num_tied),
        "constant_scores": bool(num_distinct == 1),
        "looks_inverted": bool(inverted),
    }


@dataclass(frozen=True)
class SortedTrials:
    """
    Trials of speaker verification by ascending score, among equal scores in the order of [`KINDS`], as the
    official scripts have them.

    Attributes:
        scores: (num_trials,), higher = rather accepted.
        kinds: (num_trials,) index in [`KINDS`].
        order: (num_trials,) place of each among the targets, nontargets and spoofs one after the other.
    """

    scores: np.ndarray
    kinds: np.ndarray
    order: np.ndarray

    @classmethod
    def from_classes(cls, classes: Sequence[Sequence[float]]) -> "SortedTrials":
        """Of the scores of targets, nontargets and spoofs; errors as [`check_class`]."""
        classes = [check_class(kind, scores) for kind, scores in zip(KINDS, classes, strict=True)]
        scores, kinds = np.concatenate(classes), np.repeat(np.arange(len(KINDS)), [*map(len, classes)])
        order = np.argsort(scores, kind="stable")
        return cls(scores[order], kinds[order], order)

    def repeat(self, counts: np.ndarray) -> "SortedTrials":
        """The trials so many times each, `counts` in the order before sorting."""
        times = counts[self.order]
        return SortedTrials(*(np.repeat(of, times) for of in (self.scores, self.kinds, self.order)))

    def count_rejected(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How many of each class every threshold rejects, (num_trials + 1,) each; the first rejects none."""
        return tuple(np.append(0, np.cumsum(self.kinds == kind)) for kind in range(len(KINDS)))

    def get_threshold(self, num_rejected: int) -> float:
        """The threshold, above which a trial is accepted, that rejects so many trials."""
        return float(self.scores[num_rejected - 1] if num_rejected else self.scores[0] - 0.001)
