"""
Speed of the metrics against the official formulation written plainly in numpy (`tests/official.py`), in one
run: EER, both forms of the min t-DCF, the EER of each of 13 attacks, and the t-EER; and the bootstrap's time.

    python tests/benchmarks/error_rates.py
"""

import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np

from metrics.costs import FORMS, AsvErrorRates, min_tdcf, tdcf_cost
from metrics.det import SortedTrials, equal_error_rate
from metrics.statistics import confidence_intervals, paired_test
from metrics.tandem import t_eer
from processing.results import describe_environment


sys.path.insert(0, str(Path(__file__).parents[1]))
import official  # noqa: E402


ATTACKS = [f"A{i:02}" for i in range(7, 20)]
RATES = (0.0245810, 0.0246047, 0.7606525)  # ASVspoof 2019 LA eval
ASV = AsvErrorRates(*RATES)
COSTS = {f"min_tdcf_{form}": tdcf_cost(ASV, form) for form in FORMS}


def make_trials(num_bonafide: int, num_spoof: int):
    """Scores, keys and attacks of trials in random order, as a score file has them."""
    generator = np.random.default_rng(0)
    order = generator.permutation(num_bonafide + num_spoof)
    scores = np.concatenate([generator.normal(4.5, 2, num_bonafide), generator.normal(0, 1, num_spoof)])
    keys = np.array(["bonafide"] * num_bonafide + ["spoof"] * num_spoof)
    attacks = np.array(["-"] * num_bonafide + [ATTACKS[i % len(ATTACKS)] for i in range(num_spoof)])
    return scores[order], keys[order], attacks[order]


def metrics_of(scores, keys, attacks, eer: Callable, tdcf: Callable) -> list[float]:
    """EER, both t-DCF forms, and each attack's EER."""
    bonafide, spoof = scores[keys == "bonafide"], scores[keys == "spoof"]
    pooled = [eer(bonafide, spoof)[0], *(tdcf(bonafide, spoof, form) for form in FORMS)]
    return [*pooled, *(eer(bonafide, scores[attacks == attack])[0] for attack in ATTACKS)]


def plain_tdcf(bonafide, spoof, form: str) -> float:
    function = {"2019": official.min_tdcf_2019, "2021": official.min_tdcf_2021}[form]
    return function(bonafide, spoof, *RATES)


def our_tdcf(bonafide, spoof, form: str) -> float:
    return min_tdcf(bonafide, spoof, ASV, form)[0]


def seconds(function: Callable, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> None:
    environment = describe_environment()
    print(f"{date.today()}, {environment['hardware']}, numpy {environment['versions']['numpy']}")
    for num_bonafide, num_spoof in ((7_355, 63_882), (60_000, 540_000)):
        trials = make_trials(num_bonafide, num_spoof)
        print(f"{num_bonafide + num_spoof:,} trials, {num_bonafide:,} bona fide")
        plain = metrics_of(*trials, official.eer, plain_tdcf)
        ours = metrics_of(*trials, equal_error_rate, our_tdcf)
        difference = np.abs(np.subtract(plain, ours)).max()
        times = [
            seconds(lambda: metrics_of(*trials, official.eer, plain_tdcf), 7),  # noqa: B023
            seconds(lambda: metrics_of(*trials, equal_error_rate, our_tdcf), 7),  # noqa: B023
        ]
        print(f"  EER, both t-DCF, EER of 13 attacks: plain {times[0]:.4f} s, ours {times[1]:.4f} s")
        print(f"  {times[0] / times[1]:.2f} times as fast; values differ by at most {difference:.1e}")
        scores, keys, _ = trials
        bonafide, spoof = scores[keys == "bonafide"], scores[keys == "spoof"]
        names = np.arange(len(scores)) % 67
        speakers = names[: len(bonafide)], names[len(bonafide) :]
        for name, of in (("trials", None), ("67 speakers", speakers)):
            start = time.perf_counter()
            confidence_intervals(bonafide, spoof, costs=COSTS, speakers=of)
            taken = time.perf_counter() - start
            print(f"  intervals of EER and both t-DCF, 1,000 resamples of {name}: {taken:.2f} s")
        start = time.perf_counter()
        paired_test((bonafide, spoof), (bonafide * 0.9, spoof), costs=COSTS)
        print(f"  paired test of the three, 1,000 resamples of trials: {time.perf_counter() - start:.2f} s")

    for num_trials in (3_000, 30_000, 300_000, 3_000_000):
        generator = np.random.default_rng(0)
        cm, asv = generator.normal(0, 1, (2, 3, num_trials // 3)) + np.array(
            [[[1.5], [1.5], [0]], [[2], [0], [1]]]
        )
        trials = [SortedTrials.from_classes(of) for of in (cm, asv)]
        print(f"t-EER of {num_trials:,} trials: {seconds(lambda: t_eer(*trials), 3):.4f} s", end="")  # noqa: B023
        print(f", plain {seconds(lambda: official.t_eer(cm, asv), 1):.2f} s" if num_trials < 100_000 else "")  # noqa: B023


if __name__ == "__main__":
    main()
