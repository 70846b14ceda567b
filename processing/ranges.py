"""A parameter of an augmentation that is a range [low, high], of which every utterance gets a value."""

from collections.abc import Sequence

import numpy as np


def check_range(name: str, value: Sequence[float], lowest: float, highest: float = np.inf) -> None:
    """ValueError: not two numbers from `lowest` to `highest`, the lower one first."""
    try:
        low, high = map(float, value)
        is_valid = lowest <= low <= high <= highest
    except (TypeError, ValueError):
        is_valid = False
    if not is_valid:
        limits = f" of at least {lowest:g}" if np.isfinite(lowest) else ""
        limits += f" and at most {highest:g}" if np.isfinite(highest) else ""
        raise ValueError(f"{name} {value!r} is not a range: two numbers{limits}, [low, high], are expected.")


def draw(generator: np.random.Generator, value: Sequence[float]) -> float:
    """A number drawn uniformly from the range."""
    low, high = value
    return low + (high - low) * generator.random()
