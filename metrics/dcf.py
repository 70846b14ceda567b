"""Detection costs and calibration of ASVspoof 5 track 1 (evaluation plan and `calculate_metrics.py` of its
evaluation package)."""

import numpy as np

from .det import DetectionCost, check_scores, minimum_cost


P_SPOOF, C_MISS, C_FA = 0.05, 1.0, 10.0
ASVSPOOF5_COST = DetectionCost(0.0, C_MISS * (1 - P_SPOOF), C_FA * P_SPOOF)
# Bayes threshold of a log-likelihood ratio (bona fide over spoof) for these costs: -ln 1.9.
ASVSPOOF5_THRESHOLD = -float(np.log(ASVSPOOF5_COST.miss / ASVSPOOF5_COST.false_alarm))


def min_dcf(bonafide_scores, spoof_scores) -> tuple[float, float]:
    """
    Minimum normalised DCF, P_spoof 0.05, C_miss 1, C_fa 10, and its threshold.

    Args:
        bonafide_scores, spoof_scores: (num_bonafide,) and (num_spoof,), higher = more bona fide.

    Raises:
        ValueError: a class without trials, NaN or infinity.
    """
    return minimum_cost(bonafide_scores, spoof_scores, ASVSPOOF5_COST)


def act_dcf(bonafide_scores, spoof_scores) -> float:
    """
    Actual normalised DCF of scores that are log-likelihood ratios: the same cost at their Bayes threshold.

    Args and errors as [`min_dcf`].
    """
    bonafide, spoof = check_scores(bonafide_scores, spoof_scores)
    cost = ASVSPOOF5_COST.miss * np.mean(bonafide < ASVSPOOF5_THRESHOLD)
    cost += ASVSPOOF5_COST.false_alarm * np.mean(spoof >= ASVSPOOF5_THRESHOLD)
    return float(cost / min(ASVSPOOF5_COST.miss, ASVSPOOF5_COST.false_alarm))


def cllr(bonafide_scores, spoof_scores) -> float:
    """
    Cost of log-likelihood ratios in bits: 0 is perfect, 1 is as good as no score (Brümmer and du Preez,
    2006).

    Args and errors as [`min_dcf`].
    """
    bonafide, spoof = check_scores(bonafide_scores, spoof_scores)
    nats = np.mean(np.logaddexp(0, -bonafide)) + np.mean(np.logaddexp(0, spoof))
    return float(nats / 2 / np.log(2))
