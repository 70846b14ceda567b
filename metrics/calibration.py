"""
Scores to log-likelihood ratios, and the scores of several systems to one: an affine map that is fitted by
prior-weighted logistic regression (Brümmer et al., "Fusion of heterogeneous speaker recognition systems in
the STBU submission for the NIST speaker recognition evaluation 2006", IEEE TASLP 2007).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from .det import check_scores
from .statistics import Bootstrap, draw_counts


NUM_FOLDS = 5


@dataclass(frozen=True)
class Calibration:
    """
    The map LLR = sum(a_i score_i) + b from the scores of one system, or of several, to the natural logarithm
    of the likelihood ratio of bona fide to spoof.

    Attributes:
        a: (num_systems,), what each score is multiplied by.
        b: what is added.
        prior: of bona fide, at which the map was fitted.
        is_regularized: whether the scores separate the classes, so that only regularisation keeps `a` finite.
    """

    a: np.ndarray
    b: float
    prior: float
    is_regularized: bool

    def apply(self, scores) -> np.ndarray:
        """Scores (num_trials,) of one system or (num_trials, num_systems) to LLRs (num_trials,), float64."""
        return _as_columns(scores) @ self.a + self.b


def fit_calibration(bonafide_scores, spoof_scores, *, prior: float = 0.5) -> Calibration:
    """
    Fit the map that has the lowest prior-weighted logistic loss, where a trial's log-odds are LLR +
    logit(prior), and the bona fide trials weigh as much as the prior, all together. At the prior 0.5 that is
    the lowest Cllr.

    Where the LLRs separate the classes, the loss falls as `a` grows without end. Then a bona fide trial of N
    counts as bona fide by (N + 1/2) / (N + 1) only, and a spoofed one likewise: Jeffreys' estimate of a share
    of which no exception was seen. An LLR is then about log(2 N + 1).

    Args:
        bonafide_scores, spoof_scores: (num_bonafide,) and (num_spoof,), or (…, num_systems).
        prior: effective prior of bona fide, above 0 and below 1: of a prior P and costs of a bona fide trial
            that is rejected and a spoofed one that is accepted, P C_miss / (P C_miss + (1 - P) C_fa).

    Raises:
        ValueError: a class without trials, NaN or infinity; a system whose scores are all the same; a prior
            that is none.
    """
    if not 0 < prior < 1:
        raise ValueError(f"The prior of bona fide is {prior}, but must be above 0 and below 1.")
    classes = _check_columns(bonafide_scores, spoof_scores)
    scores = np.concatenate(classes)
    if (constant := np.ptp(scores, axis=0) == 0).any():
        of_system = f" of system {constant.argmax() + 1}" if len(constant) > 1 else ""
        raise ValueError(f"All scores{of_system} are the same: there is nothing to calibrate.")
    return _fit(*classes, *(np.ones(len(of)) for of in classes), prior)


def cross_validate_calibration(
    bonafide_scores,
    spoof_scores,
    *,
    groups: tuple[Sequence, Sequence] | None = None,
    prior: float = 0.5,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """
    LLRs of trials that a calibration is fitted on, each by one that is fitted without the trial's group, in
    up to five folds of groups drawn at random: of these trials Cllr is then no better than of others.

    Args:
        bonafide_scores, spoof_scores, prior: as in [`fit_calibration`].
        groups: of each bona fide and of each spoofed trial, its speaker; `None` takes each trial by itself.
        seed: of the draw.

    Returns:
        (num_bonafide,) and (num_spoof,).

    Raises:
        ValueError: as [`fit_calibration`]; a class of fewer than two groups.
    """
    classes = _check_columns(bonafide_scores, spoof_scores)
    sizes = [len(scores) for scores in classes]
    if groups is None:
        names = np.arange(sum(sizes))
    else:
        names = np.unique(np.concatenate([*groups]), return_inverse=True)[1]
    of_class = names[: sizes[0]], names[sizes[0] :]
    if min(len(set(of)) for of in of_class) < 2:
        raise ValueError("Cross-validation needs trials of two speakers, or two trials, of each class.")
    # Dealt in turn: those with bona fide trials follow each other, as do those with spoofed ones, so that
    # two groups of a class are never in one fold alone.
    order = np.random.default_rng(seed).permutation(names.max() + 1)
    kinds = np.isin(order, of_class[0]) - 1 * np.isin(order, of_class[1])  # 1: bona fide only, 0: both
    folds = np.empty(len(order), int)
    folds[order[np.argsort(-kinds, kind="stable")]] = np.arange(len(order)) % NUM_FOLDS
    llrs = [np.empty(size) for size in sizes]
    for fold in range(folds.max() + 1):
        held_out = [folds[of] == fold for of in of_class]
        kept = [scores[~held] for scores, held in zip(classes, held_out, strict=True)]
        calibration = fit_calibration(*kept, prior=prior)
        for of, scores, held in zip(llrs, classes, held_out, strict=True):
            of[held] = calibration.apply(scores[held])
    return llrs[0], llrs[1]


def resample_calibration(
    bonafide_scores,
    spoof_scores,
    *,
    prior: float = 0.5,
    speakers: Sequence[Sequence[str]] | None = None,
    bootstrap: Bootstrap = Bootstrap(400),
) -> list[Calibration]:
    """
    The calibration fitted anew on resamples of the trials of one system, or of their speakers: how far its
    LLRs may lie from those by other trials of the same kind. A resample has trials of both classes. Where
    they are separated the fit is regularised, as any other; where all scores are the same, all LLRs are 0.

    Args:
        bonafide_scores, spoof_scores: (num_bonafide,) and (num_spoof,).
        prior: as in [`fit_calibration`].
        speakers, bootstrap: as in [`~metrics.statistics.confidence_intervals`].
    """
    classes = _check_columns(bonafide_scores, spoof_scores)
    of_all, fits = fit_calibration(*classes, prior=prior), []
    for counts in draw_counts([*map(len, classes)], speakers, bootstrap):
        drawn = [of > 0 for of in counts]
        kept = [scores[of] for scores, of in zip(classes, drawn, strict=True)]
        if np.ptp(np.concatenate(kept)) == 0:
            fits.append(Calibration(np.zeros(1), 0.0, prior, False))
        else:
            fits.append(_fit(*kept, *(of[of > 0] for of in counts), prior, start=of_all))
    return fits


def _fit(
    bonafide: np.ndarray,
    spoof: np.ndarray,
    bonafide_counts: np.ndarray,
    spoof_counts: np.ndarray,
    prior: float,
    start: Calibration | None = None,
) -> Calibration:
    """[`fit_calibration`] of trials that count so many times each, from another calibration on."""
    is_bonafide = np.arange(len(bonafide) + len(spoof)) < len(bonafide)
    scores, counts = np.concatenate([bonafide, spoof]), np.concatenate([bonafide_counts, spoof_counts])
    sizes = np.where(is_bonafide, bonafide_counts.sum(), spoof_counts.sum())
    weights = np.where(is_bonafide, prior, 1 - prior) * counts / sizes
    mean, scale = scores.mean(axis=0), scores.std(axis=0)
    inputs = np.column_stack([(scores - mean) / scale, np.ones(len(scores))])
    shift = np.log(prior / (1 - prior))
    if start is None:
        solution = np.zeros(inputs.shape[1])
    else:
        solution = np.append(start.a * scale, start.b + start.a @ mean)
    is_above = bonafide.min(axis=0) >= spoof.max(axis=0)
    is_separated = bool(np.any(is_above | (bonafide.max(axis=0) <= spoof.min(axis=0))))
    if not is_separated:
        solution = _minimize(inputs, weights, is_bonafide.astype(float), shift, solution)
        llrs = inputs @ solution
        is_separated = bool(llrs[is_bonafide].min() >= llrs[~is_bonafide].max())
    if is_separated:
        errors = 0.5 / (sizes + 1)
        targets = np.where(is_bonafide, 1 - errors, errors)
        solution = _minimize(inputs, weights, targets, shift, solution)
    a = solution[:-1] / scale
    return Calibration(a, float(solution[-1] - a @ mean), prior, is_separated)


def _as_columns(scores) -> np.ndarray:
    """Scores as float64, (num_trials, num_systems)."""
    scores = np.asarray(scores, dtype=np.float64)
    return scores[:, None] if scores.ndim == 1 else scores


def _check_columns(bonafide_scores, spoof_scores) -> tuple[np.ndarray, np.ndarray]:
    """Both classes as [`_as_columns`], each column checked as [`metrics.det.check_scores`] does."""
    columns = zip(_as_columns(bonafide_scores).T, _as_columns(spoof_scores).T, strict=True)
    checked = [check_scores(*classes) for classes in columns]
    return tuple(np.column_stack(scores) for scores in zip(*checked, strict=True))


def _minimize(
    inputs: np.ndarray, weights: np.ndarray, targets: np.ndarray, shift: float, start: np.ndarray
) -> np.ndarray:
    """The coefficients of `inputs` of the lowest weighted cross-entropy; `targets` are how far each trial
    counts as bona fide."""

    def find_loss(solution: np.ndarray) -> tuple[float, np.ndarray]:
        logits = inputs @ solution + shift
        loss = weights @ (np.logaddexp(0, logits) - targets * logits)
        return loss, inputs.T @ (weights * (expit(logits) - targets))

    def find_curvature(solution: np.ndarray) -> np.ndarray:
        logits = inputs @ solution + shift
        return (inputs.T * (weights * expit(logits) * expit(-logits))) @ inputs

    options = {"gtol": 1e-11}
    return minimize(find_loss, start, method="trust-exact", jac=True, hess=find_curvature, options=options).x
