"""What likelihood ratios are worth: against `lir`, formulas written out here, and cases worked by hand."""

import lir.metrics
import numpy as np
import official
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lir.algorithms.bayeserror import elub
from lir.algorithms.isotonic_regression import IsotonicCalibrator
from lir.data.models import LLRData
from lir.plotting.expected_calibration_error import calculate_ece
from scipy.stats import binomtest

from metrics.exact_intervals import measure_error_rate
from metrics.likelihood_ratios import (
    bayes_error,
    cllr_min,
    empirical_cross_entropy,
    expected_cost,
    find_llr_bounds,
    measure_llrs,
    pav_llrs,
)
from metrics.names import format_error_rate


LOG_ODDS = np.linspace(-7, 7, 29)
# Few values in a small range, so that many are tied within and across the classes.
CLASS = st.lists(st.integers(-6, 6).map(lambda i: i / 2), min_size=1, max_size=30).map(np.array)


def normal(num_bonafide, num_spoof, *, scale=1.0, seed=0):
    """Normal LLRs, with `scale` 1 calibrated: their variance, 4, is then the distance of the means."""
    generator = np.random.default_rng(seed)
    classes = generator.normal(2, 2, num_bonafide), generator.normal(-2, 2, num_spoof)
    return tuple(scale * llrs for llrs in classes)


def for_lir(classes):
    """LLRs to base 10 and labels, 1 of bona fide."""
    return np.concatenate(classes) / np.log(10), np.repeat([1, 0], [len(of) for of in classes])


@settings(max_examples=60, deadline=None)
@given(CLASS, CLASS)
def test_pav_and_what_it_costs_are_those_of_lir_with_any_ties(bonafide, spoof):
    classes = bonafide, spoof
    llrs, labels = for_lir(classes)

    ours = np.concatenate(pav_llrs(*classes)) / np.log(10)

    np.testing.assert_allclose(ours, IsotonicCalibrator().fit_transform(llrs, labels), atol=1e-9)
    expected = lir.metrics.cllr_min(LLRData(features=llrs, labels=labels))
    assert cllr_min(*classes) == pytest.approx(expected, abs=1e-9)


def test_parts_of_cllr_are_those_of_lir():
    classes = normal(70, 500, scale=2.5)
    data = LLRData(**dict(zip(("features", "labels"), for_lir(classes), strict=True)))

    measured = measure_llrs(*classes)

    assert measured["cllr"] == pytest.approx(lir.metrics.cllr(data), abs=1e-9)
    assert measured["cllr_min"] == pytest.approx(lir.metrics.cllr_min(data), abs=1e-9)
    assert measured["calibration_loss"] == pytest.approx(lir.metrics.cllr_cal(data), abs=1e-9)


def test_cllr_min_by_hand():
    assert cllr_min([1.0, 2.0], [-1.0, 0.0]) == 0  # separated
    assert cllr_min([3.0], [3.0]) == pytest.approx(1)  # says nothing
    assert cllr_min([-1.0], [1.0]) == pytest.approx(
        1
    )  # inverted: the best map that keeps the order is constant
    # In the middle one of two bona fide and one of four spoofed trials: weights 1/2 and 1/4, probability 2/3.
    entropy = -(2 / 3 * np.log2(2 / 3) + 1 / 3 * np.log2(1 / 3))
    assert cllr_min([0.0, 1.0], [0.0, -1.0, -2.0, -3.0]) == pytest.approx(0.75 * entropy / 2)


@settings(max_examples=30, deadline=None)
@given(CLASS, CLASS)
def test_cllr_min_asks_only_for_the_order_and_is_at_most_cllr(bonafide, spoof):
    value = cllr_min(bonafide, spoof)

    assert value <= min(1, official.cllr(bonafide, spoof)) + 1e-12
    assert cllr_min(np.exp(bonafide), np.exp(spoof)) == pytest.approx(value, abs=1e-12)


def test_empirical_cross_entropy_is_that_of_lir_and_cllr_at_even_odds():
    classes = normal(40, 90, scale=1.7)
    llrs, labels = for_lir(classes)
    for own, theirs in (
        (classes, llrs),
        (pav_llrs(*classes), IsotonicCalibrator().fit_transform(llrs, labels)),
    ):
        ours = empirical_cross_entropy(*own, LOG_ODDS)
        expected = calculate_ece(10**theirs, labels, 1 / (1 + np.exp(-LOG_ODDS)))
        np.testing.assert_allclose(ours, expected, atol=1e-9)

    assert empirical_cross_entropy(*classes, 0) == pytest.approx(official.cllr(*classes))


@pytest.mark.parametrize("decimals", [0, 9])
def test_bayes_error_is_the_share_of_wrong_decisions_and_its_minimum_that_over_all_thresholds(decimals):
    bonafide, spoof = classes = tuple(np.round(of, decimals) for of in normal(30, 50, scale=2))
    frr, far, _ = official.det(*classes)
    for log_odds in LOG_ODDS + 0.1:  # of which no trial is at the threshold
        prior = 1 / (1 + np.exp(-log_odds))
        wrong = prior * np.mean(bonafide + log_odds < 0) + (1 - prior) * np.mean(spoof + log_odds >= 0)

        assert bayes_error(*classes, log_odds) == pytest.approx(wrong)
        best = np.min(prior * frr + (1 - prior) * far)
        assert bayes_error(*pav_llrs(*classes), log_odds) == pytest.approx(best)
        normalised = (wrong / min(prior, 1 - prior), best / min(prior, 1 - prior))
        assert expected_cost(*classes, prior=prior) == pytest.approx(normalised)


def test_expected_cost_at_the_prior_and_costs_of_asvspoof5_is_its_dcf():
    classes = normal(40, 60, scale=0.8)

    actual, minimum = expected_cost(*classes, prior=0.95, cost_miss=1, cost_false_alarm=10)

    assert actual == pytest.approx(official.act_dcf(*classes))
    assert minimum == pytest.approx(official.min_dcf(*classes))


def test_expected_cost_by_hand():
    # At the prior 0.9 the threshold is -ln 9 = -2.2, which one of two spoofed trials passes.
    assert expected_cost([1.0, 5.0], [-3.0, 0.0], prior=0.9) == pytest.approx((0.5, 0))
    assert expected_cost([-5.0], [5.0], prior=0.5) == pytest.approx((2, 1))  # worse than not looking


@pytest.mark.parametrize("scale", [0.5, 1, 3])
@pytest.mark.parametrize("sizes", [(30, 40), (149, 700)])
def test_bounds_are_those_of_lir(sizes, scale):
    classes = normal(*sizes, scale=scale)

    low, high = find_llr_bounds(*classes)

    assert low < 0 < high
    assert np.divide((low, high), np.log(10)) == pytest.approx(elub(*for_lir(classes)), abs=1e-9)


def test_bounds_grow_with_the_trials_and_are_0_without_support():
    # Separated by far, N trials and a misleading one in each class: 1 - N/(N+1) + t/(N+1) < 1 up to t = N.
    for num in (9, 99):
        low, high = find_llr_bounds(np.full(num, 20.0), np.full(num, -20.0))
        expected = np.log10([1 / num, num])
        assert np.divide((low, high), np.log(10)) == pytest.approx(expected, abs=0.01)
    assert find_llr_bounds([-1.0, -2.0], [1.0, 2.0]) == (0, 0)


def test_misleading_evidence_is_counted_by_class_and_factor():
    bonafide, spoof = [5.0, -0.1, -2.4, -5.0], [-5.0, 3.0]

    misleading = measure_llrs(bonafide, spoof)["misleading_evidence"]

    errors = {
        factor: (rates["bonafide"]["errors"], rates["spoof"]["errors"])
        for factor, rates in misleading.items()
    }
    assert errors == {"1": (3, 1), "10": (2, 1), "100": (1, 0)}
    assert misleading["10"]["bonafide"]["rate"] == 0.5


@pytest.mark.parametrize(("errors", "trials"), [(1, 1000), (3, 149), (70, 149), (148, 149)])
def test_interval_of_an_error_rate_is_that_of_clopper_and_pearson(errors, trials):
    found = measure_error_rate(np.arange(trials) < errors)

    expected = binomtest(errors, trials).proportion_ci(method="exact")
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_no_error_bounds_the_rate_from_above_only():
    none, only = (measure_error_rate(np.full(149, is_error)) for is_error in (False, True))

    assert (none["low"], none["high"]) == pytest.approx((0, 1 - 0.05 ** (1 / 149)), abs=1e-12)
    assert (only["low"], only["high"]) == pytest.approx((0.05 ** (1 / 149), 1), abs=1e-12)


def test_error_rate_is_written_with_its_count():
    def write(errors, trials):
        return format_error_rate(measure_error_rate(np.arange(trials) < errors))

    assert write(0, 149) == "at most 2.0 %, 0 of 149"
    assert write(0, 7355) == "at most 0.041 %, 0 of 7,355"
    assert write(0, 3) == "at most 63 %, 0 of 3"
    assert write(3, 149) == "2.013 % [0.417, 5.771], 3 of 149"
