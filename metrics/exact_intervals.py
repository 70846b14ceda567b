"""Exact intervals of an error rate that was counted: those of Clopper and Pearson (Biometrika, 1934)."""

from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv


@dataclass(frozen=True)
class ErrorRate:
    """
    How many of the trials are errors, with the interval of the error rate, as fractions. The trials count as
    independent, which those of one speaker are not.

    With no error (or nothing else) only one end is open, and has all of 1 - level: with 149 trials and no
    error the rate is at most 2.0 %.
    """

    errors: int
    trials: int
    rate: float
    low: float
    high: float
    level: float

    @classmethod
    def of(cls, is_error: np.ndarray, level: float = 0.95) -> "ErrorRate":
        """The rate of a vector of truth values, (num_trials,)."""
        errors, trials = int(np.sum(is_error)), len(is_error)
        tail = (1 - level) / (2 if 0 < errors < trials else 1)
        low = float(betaincinv(errors, trials - errors + 1, tail)) if errors else 0.0
        high = float(betaincinv(errors + 1, trials - errors, 1 - tail)) if errors < trials else 1.0
        return cls(errors, trials, errors / trials, low, high, level)
