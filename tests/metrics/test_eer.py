"""The EER against the published score file, the definition written as loops, and hand-worked cases."""

from pathlib import Path

import evaluate
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.det import det_curve, equal_error_rate


MODULE = Path(__file__).resolve().parents[2] / "metrics" / "eer.py"


@pytest.fixture(scope="module")
def eer_module():
    return evaluate.load(str(MODULE))


def eer_by_definition(bonafide: list[float], spoof: list[float]) -> tuple[float, float]:
    """
    The official definition trial by trial: sort stably, bona fide first, and move the threshold over each
        trial.
    """
    trials = sorted([(score, 0) for score in bonafide] + [(score, 1) for score in spoof], key=lambda t: t[0])
    rates = [(0.0, 1.0, trials[0][0] - 0.001)]
    rejected, accepted = 0, len(spoof)
    for score, is_spoof in trials:
        rejected, accepted = rejected + 1 - is_spoof, accepted - is_spoof
        rates.append((rejected / len(bonafide), accepted / len(spoof), score))
    nearest = min(abs(frr - far) for frr, far, _ in rates)
    frr, far, threshold = next(rate for rate in rates if abs(rate[0] - rate[1]) == nearest)
    return (frr + far) / 2, threshold


def test_published_score_file_gives_the_published_eer(shared_data, eer_module):
    path = shared_data / "published_scores" / "RawGAT_ST_cat.asvspoof2019_la_eval.txt"
    lines = [line.split() for line in path.read_text().splitlines()]

    result = eer_module.compute(
        predictions=[float(line[3]) for line in lines], references=[line[2] for line in lines]
    )

    assert 100 * result["eer"] == pytest.approx(1.235388940, abs=5e-10)
    assert (result["num_bonafide"], result["num_spoof"]) == (7355, 63882)


scores = st.lists(st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6)), min_size=1, max_size=30)


@given(bonafide=scores, spoof=scores)
def test_eer_equals_the_definition(bonafide, spoof):
    eer, threshold = equal_error_rate(bonafide, spoof)

    assert (eer, threshold) == pytest.approx(eer_by_definition(bonafide, spoof), abs=1e-12)


@pytest.mark.parametrize(
    ("bonafide", "spoof", "eer"),
    [
        ([1.0, 2.0], [-1.0, -2.0], 0.0),
        ([-1.0, -2.0], [1.0, 2.0], 1.0),
        ([0.5, 2.0], [-1.0, 1.0], 0.5),
        ([1.0], [0.0], 0.0),
        ([1.0, 2.0, 3.0, 4.0], [0.0, 0.1, 0.2, 1.5], 0.25),
    ],
)
def test_hand_worked_cases(bonafide, spoof, eer):
    assert equal_error_rate(bonafide, spoof)[0] == eer


def test_rates_at_each_threshold_are_those_of_the_decision_rule():
    generator = np.random.default_rng(0)
    bonafide, spoof = generator.normal(1, 1, 50), generator.normal(-1, 1, 70)

    frr, far, thresholds = det_curve(bonafide, spoof)

    assert [np.mean(bonafide <= t) for t in thresholds] == pytest.approx(frr)
    assert [np.mean(spoof > t) for t in thresholds] == pytest.approx(far)


@pytest.mark.parametrize(
    ("bonafide", "spoof", "message"),
    [
        ([], [1.0], "no bona fide trial"),
        ([1.0], [], "no spoof trial"),
        ([1.0, np.nan], [0.0], r"bona fide scores contain nan \(trial 1"),
        ([1.0], [np.inf], "spoof scores contain inf"),
        ([[1.0]], [0.0], r"shape \(1, 1\)"),
    ],
)
def test_scores_that_have_no_eer_are_an_error_that_says_why(bonafide, spoof, message):
    with pytest.raises(ValueError, match=message):
        equal_error_rate(bonafide, spoof)


def test_module_refuses_a_key_that_is_not_bonafide_or_spoof(eer_module):
    with pytest.raises(ValueError, match="not 'genuine'"):
        eer_module.compute(predictions=[1.0, 0.0], references=["genuine", "spoof"])


def test_module_keeps_float64(eer_module):
    # These scores are equal in float32.
    result = eer_module.compute(predictions=[1.0 + 1e-12, 1.0], references=["bonafide", "spoof"])

    assert result["eer"] == 0.0


def test_example_of_the_documentation_is_true(eer_module):
    result = eer_module.compute(
        predictions=[2.0, 0.5, 1.0, -1.0], references=["bonafide", "bonafide", "spoof", "spoof"]
    )

    assert result == {"eer": 0.5, "threshold": 0.5, "num_bonafide": 2, "num_spoof": 2}
