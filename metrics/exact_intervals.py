"""Exact intervals of an error rate that was counted: those of Clopper and Pearson (Biometrika, 1934)."""

import numpy as np
from scipy.special import betaincinv


def measure_error_rate(is_error: np.ndarray, level: float = 0.95) -> dict:
    """
    Count the errors in a vector of truth values, (num_trials,): `errors`, `trials`, `rate`, and the ends of
    its interval, `low` and `high`, as fractions, with the `level`. The trials count as independent, which
    those of one speaker are not.

    With no error, or nothing else, only one end is open, and has all of 1 - level: without an error in 149
    trials the rate is at most 2.0 %.
    """
    errors, trials = int(np.sum(is_error)), len(is_error)
    low, high = find_interval(errors, trials, level)
    counts = {"errors": errors, "trials": trials, "rate": errors / trials}
    return {**counts, "low": low, "high": high, "level": level}


def find_interval(errors: float, trials: float, level: float = 0.95) -> tuple[float, float]:
    """The ends of the interval of [`measure_error_rate`], of counts that need not be whole."""
    tail = (1 - level) / (2 if 0 < errors < trials else 1)
    low = float(betaincinv(errors, trials - errors + 1, tail)) if errors else 0.0
    high = float(betaincinv(errors + 1, trials - errors, 1 - tail)) if errors < trials else 1.0
    return low, high
