"""What scores are worth as log-likelihood ratios (LLR: natural logarithm, bona fide over spoof), beside Cllr.

The pool-adjacent-violators algorithm (PAV) finds the best LLRs that keep the order of the scores. What these
cost is the system's discrimination, and what its own LLRs cost above that is a loss by calibration (Brümmer
and du Preez, "Application-independent evaluation of speaker detection", 2006). Log odds are natural, too.
"""

import numpy as np
from scipy.optimize import OptimizeResult, isotonic_regression
from scipy.special import entr, expit, logit

from .costs import cllr, llr_bits
from .det import check_scores, count_rejected
from .exact_intervals import measure_error_rate


PRIORS = (0.01, 0.1, 0.5, 0.9, 0.99)  # probabilities of bona fide at which expected costs are told
MISLEADING_FACTORS = (1, 10, 100)  # by which a likelihood ratio points the wrong way
ELUB_STEP = 0.01  # of the log10 thresholds, as in the authors' script


def find_min_cllr(rejected_bonafide: np.ndarray, rejected_spoof: np.ndarray) -> float:
    """
    Cllr_min in bits, of the vectors of [`metrics.det.count_rejected`]: the entropy that the PAV leaves. A
    trial may count several times, as in a bootstrap resample.
    """
    _, pav = _fit_pav(rejected_bonafide, rejected_spoof)
    probabilities = pav.x[pav.blocks[:-1]]
    return float(pav.weights @ (entr(probabilities) + entr(1 - probabilities)) / (2 * np.log(2)))


def _fit_pav(rejected_bonafide: np.ndarray, rejected_spoof: np.ndarray) -> tuple[np.ndarray, OptimizeResult]:
    """The thresholds that tell spoofed trials apart, as indices, and up to each, from the one before, the
    probability of bona fide at prior 0.5."""
    corners = np.flatnonzero(np.diff(rejected_spoof, prepend=0))
    if rejected_bonafide[corners[-1]] < rejected_bonafide[-1]:
        corners = np.append(corners, len(rejected_bonafide) - 1)
    bonafide, spoof = (np.diff(of[corners], prepend=0) / of[-1] for of in (rejected_bonafide, rejected_spoof))
    weights = bonafide + spoof
    return corners, isotonic_regression(bonafide / weights, weights=weights)


def cllr_min(bonafide_scores, spoof_scores) -> float:
    """
    Cllr after the PAV in bits: what the scores could cost with the best calibration. 0 where they separate
    the classes, 1 where they say nothing.

    Args:
        bonafide_scores, spoof_scores: (num_bonafide,) and (num_spoof,), higher = more bona fide.

    Raises:
        ValueError: a class without trials, NaN or infinity.
    """
    return find_min_cllr(*count_rejected(*map(np.sort, check_scores(bonafide_scores, spoof_scores))))


def pav_llrs(bonafide_scores, spoof_scores) -> tuple[np.ndarray, np.ndarray]:
    """
    LLRs of the trials after the PAV, (num_bonafide,) and (num_spoof,), infinite beyond the last trial of the
    other class. Args and errors as [`cllr_min`].
    """
    classes = check_scores(bonafide_scores, spoof_scores)
    bonafide, spoof = map(np.sort, classes)
    corners, pav = _fit_pav(*count_rejected(bonafide, spoof))
    passed = (np.searchsorted(bonafide, of_class, side="right") for of_class in classes)
    return tuple(logit(pav.x[np.searchsorted(corners, of_class)]) for of_class in passed)


def empirical_cross_entropy(bonafide_llrs, spoof_llrs, prior_log_odds) -> np.ndarray:
    """
    Empirical cross-entropy in bits, (num_priors,): what the class of a trial costs on average after its LLR,
    at each prior log odds of bona fide (Ramos, 2007). At 0 it is Cllr. LLRs of 0 have that of the prior.
    """
    values = []
    for log_odds in np.atleast_1d(prior_log_odds):
        bonafide, spoof = llr_bits(np.asarray(bonafide_llrs) + log_odds, np.asarray(spoof_llrs) + log_odds)
        values.append(expit(log_odds) * bonafide.mean() + expit(-log_odds) * spoof.mean())
    return np.array(values)


def bayes_error(bonafide_llrs, spoof_llrs, prior_log_odds) -> np.ndarray:
    """
    Error rate, (num_priors,), of decisions by the posterior at each prior log odds of bona fide, as a
    fraction of all trials. Of [`pav_llrs`] it is the minimum over all thresholds.
    """
    bonafide, spoof, log_odds = np.sort(bonafide_llrs), np.sort(spoof_llrs), np.asarray(prior_log_odds)
    frr = np.searchsorted(bonafide, -log_odds) / len(bonafide)
    far = 1 - np.searchsorted(spoof, -log_odds) / len(spoof)
    return expit(log_odds) * frr + expit(-log_odds) * far


def expected_cost(
    bonafide_llrs, spoof_llrs, *, prior: float, cost_miss: float = 1.0, cost_false_alarm: float = 1.0
) -> tuple[float, float]:
    """
    Expected cost of Bayes decisions, and its minimum over all thresholds, both normalised by the cost of
    deciding by the prior alone: above 1 the LLRs do harm. At the prior and costs of ASVspoof 5 these are
    actDCF and minDCF.

    Args:
        prior: probability of bona fide.
        cost_miss, cost_false_alarm: of a bona fide trial rejected, and a spoofed one accepted.

    Other args and errors as [`cllr_min`].
    """
    classes = check_scores(bonafide_llrs, spoof_llrs)
    log_odds = logit(prior) + np.log(cost_miss / cost_false_alarm)  # a cost counts as so many trials
    actual, minimum = (
        bayes_error(*of, log_odds) / expit(-abs(log_odds)) for of in (classes, pav_llrs(*classes))
    )
    return float(actual), float(minimum)


def find_llr_bounds(bonafide_llrs, spoof_llrs) -> tuple[float, float]:
    """
    The lowest and the highest LLR that so many trials support, the empirical bounds (ELUB) of Vergeer et al.,
    "Numerical likelihood ratios outputted by LR systems are often based on extrapolation: when to stop
    extrapolating?" (Science and Justice, 2016): with one more misleading trial in each class, decisions at
    any threshold between them must still be worth more than none. Both are 0 where no LLR is supported.

    Args and errors as [`cllr_min`].
    """
    bonafide, spoof = (np.sort(of) / np.log(10) for of in check_scores(bonafide_llrs, spoof_llrs))
    lowest = max(min(bonafide[0], spoof[0]), -np.log10(len(bonafide) + 1))
    highest = min(max(bonafide[-1], spoof[-1]), np.log10(len(spoof) + 1))
    steps = np.arange(min(0, lowest // ELUB_STEP), max(0, highest // ELUB_STEP + 1) + 1)
    thresholds = steps * ELUB_STEP
    accepted_bonafide = len(bonafide) - np.searchsorted(bonafide, thresholds, side="right")
    accepted_spoof = len(spoof) - np.searchsorted(spoof, thresholds, side="right")
    ratios = 10**thresholds
    utility = 1 - accepted_bonafide / (len(bonafide) + 1) + ratios * (accepted_spoof + 1) / (len(spoof) + 1)
    useless = thresholds[np.minimum(1, ratios) < utility]
    low = max([thresholds[0], *(useless[useless <= 0] + ELUB_STEP)])
    high = min([thresholds[-1], *(useless[useless >= 0] - ELUB_STEP)])
    return float(np.log(10) * min(low, 0)), float(np.log(10) * max(high, 0))


def measure_llrs(bonafide_llrs, spoof_llrs) -> dict:
    """
    What is told of calibrated LLRs, to be written as JSON: Cllr, Cllr_min and calibration loss in bits; their
    `bounds`; `expected_costs`, actual and minimum, by the probability of bona fide; and, by a factor,
    `misleading_evidence`: the trials of each class whose likelihood ratio points the wrong way by more.

    Args and errors as [`cllr_min`].
    """
    bonafide, spoof = classes = check_scores(bonafide_llrs, spoof_llrs)
    actual, minimum = cllr(*classes), cllr_min(*classes)
    misleading = {}
    for factor in MISLEADING_FACTORS:
        wrong = {"bonafide": bonafide < -np.log(factor), "spoof": spoof > np.log(factor)}
        misleading[str(factor)] = {name: measure_error_rate(of) for name, of in wrong.items()}
    return {
        "cllr": actual,
        "cllr_min": minimum,
        "calibration_loss": actual - minimum,
        "bounds": list(find_llr_bounds(*classes)),
        "expected_costs": {str(prior): list(expected_cost(*classes, prior=prior)) for prior in PRIORS},
        "misleading_evidence": misleading,
    }
