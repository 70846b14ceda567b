"""Calibration and fusion: against scikit-learn's logistic regression, worked by hand, and what must hold."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from test_statistics import normal

from metrics.calibration import cross_validate_calibration, fit_calibration, resample_calibration
from metrics.costs import cllr
from metrics.statistics import Bootstrap


@pytest.mark.parametrize("prior", [0.5, 0.05, 0.9])
@pytest.mark.parametrize("num_systems", [1, 3])
def test_map_is_that_of_weighted_logistic_regression(num_systems, prior):
    generator = np.random.default_rng(num_systems)
    bonafide, spoof = (generator.normal(mean, 2, (n, num_systems)) for mean, n in ((5, 300), (3, 700)))

    calibration = fit_calibration(bonafide, spoof, prior=prior)

    regression = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000, solver="newton-cholesky").fit(
        np.concatenate([bonafide, spoof]),
        [1] * 300 + [0] * 700,
        sample_weight=[prior / 300 * 1000] * 300 + [(1 - prior) / 700 * 1000] * 700,
    )
    assert calibration.a == pytest.approx(regression.coef_[0], abs=1e-7)
    assert calibration.b == pytest.approx(regression.intercept_[0] - math.log(prior / (1 - prior)), abs=1e-7)
    assert not calibration.is_regularized
    llrs = calibration.apply(spoof)
    assert llrs == pytest.approx(spoof @ calibration.a + calibration.b)


def test_scores_of_two_values_get_the_ratio_of_their_frequencies():
    # The score 1 is of 3 in 4 bona fide and of 1 in 5 spoofed trials: LLRs ln(0.75 / 0.2) and ln(0.25 / 0.8).
    calibration = fit_calibration([1, 1, 1, 0], [1, 0, 0, 0, 0])

    assert calibration.apply([1, 0]) == pytest.approx([math.log(3.75), math.log(0.3125)], abs=1e-9)


@pytest.mark.parametrize("sign", [1, -1])
def test_separated_classes_get_llrs_as_large_as_their_counts_allow(sign):
    # Two clusters: (N + 1/2) / (N + 1) bona fide at the one, 1/2 / (N + 1) at the other: odds of 2 N + 1.
    calibration = fit_calibration([3 * sign] * 9, [-3 * sign] * 99)

    assert calibration.is_regularized
    assert calibration.apply([3 * sign, -3 * sign]) == pytest.approx([math.log(19), -math.log(199)])


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.floats(-8, 8), st.sampled_from([1e-6, 1.0, 1e6]), st.integers(1, 2))
def test_scale_and_shift_of_the_scores_do_not_matter(seed, distance, scale, num_systems):
    generator = np.random.default_rng(seed)
    bonafide = generator.normal(distance, 1, (20, num_systems))
    spoof = generator.normal(0, 1, (30, num_systems))

    plain = fit_calibration(bonafide, spoof)
    moved = fit_calibration(scale * (bonafide + 3), scale * (spoof + 3))

    assert np.isfinite(plain.a).all() and math.isfinite(plain.b)
    assert moved.apply(scale * (spoof + 3)) == pytest.approx(plain.apply(spoof), abs=1e-6, rel=1e-5)
    assert moved.is_regularized == plain.is_regularized


def test_no_trial_is_calibrated_by_trials_of_its_speaker():
    bonafide, spoof = normal(60, 90)
    groups = [f"speaker {i % 7}" for i in range(60)], [f"speaker {i % 9}" for i in range(90)]
    before = cross_validate_calibration(bonafide, spoof, groups=groups)

    changed = np.where(np.array(groups[0]) == "speaker 3", bonafide - 5, bonafide)
    after = cross_validate_calibration(changed, spoof, groups=groups)

    own = [np.array(of) == "speaker 3" for of in groups]
    assert after[1][own[1]] == pytest.approx(before[1][own[1]], abs=1e-12)
    assert np.abs(after[1][~own[1]] - before[1][~own[1]]).max() > 0.1


def test_cross_validated_llrs_are_honest_where_fitted_ones_are_not():
    fitted, validated, of_others = [], [], []
    others = normal(2000, 2000, seed=99)
    for seed in range(25):
        bonafide, spoof = normal(12, 12, seed=seed)
        calibration = fit_calibration(bonafide, spoof)
        fitted.append(cllr(calibration.apply(bonafide), calibration.apply(spoof)))
        validated.append(cllr(*cross_validate_calibration(bonafide, spoof)))
        of_others.append(cllr(*map(calibration.apply, others)))

    assert np.median(fitted) < np.median(of_others) < np.median(validated) + 0.1


def test_two_speakers_of_a_class_are_enough_and_one_is_not():
    llrs = cross_validate_calibration(*normal(4, 6), groups=(["a", "a", "b", "b"], ["c", "d"] * 3))

    assert all(np.isfinite(of).all() for of in llrs)
    with pytest.raises(ValueError, match="two speakers"):
        cross_validate_calibration(*normal(4, 6), groups=(["a"] * 4, ["c", "d"] * 3))


@pytest.mark.parametrize(
    ("classes", "options", "message"),
    [
        (([1.0, 2.0], [0.0, math.nan]), {}, "nan"),
        (([1.0, 2.0], []), {}, "no spoof trial"),
        (([1.0, 1.0], [1.0]), {}, "All scores are the same"),
        (([[1.0, 2.0], [2.0, 2.0]], [[0.0, 2.0]]), {}, "system 2 are the same"),
        (([1.0, 2.0], [0.0]), {"prior": 1.0}, "above 0 and below 1"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(classes, options, message):
    with pytest.raises(ValueError, match=message):
        fit_calibration(*classes, **options)


def test_calibrations_of_resamples_are_finite_where_classes_are_separated_or_all_scores_are_the_same():
    separated = resample_calibration([2.0, 3.0, 4.0], [-1.0, 0.0], bootstrap=Bootstrap(50))
    same = resample_calibration([1.0, 2.0], [1.0, 2.0], bootstrap=Bootstrap(50))

    assert all(fit.is_regularized and 0 < fit.a[0] < 10 for fit in separated)
    assert any((fit.a[0], fit.b) == (0, 0) for fit in same)  # all of a resample are 1, or all are 2
