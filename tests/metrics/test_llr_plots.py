"""What plots of log-likelihood ratios show, read from their axes."""

import warnings

import numpy as np
import official
import pytest

from metrics import llr_plots
from metrics.likelihood_ratios import bayes_error, empirical_cross_entropy, pav_llrs
from metrics.plots import make_axes
from processing.report import LLR_PLOTS, plot_llrs


LN10 = np.log(10)


def normal(num_bonafide=40, num_spoof=60, distance=2.0):
    generator = np.random.default_rng(0)
    return generator.normal(distance, 2, num_bonafide), generator.normal(-distance, 2, num_spoof)


def draw(plot, classes, case=None):
    """The lines by name, each as (x, y); a warning is an error."""
    figure, axes = make_axes(6.4, 4.4, "")
    getattr(llr_plots, f"plot_{plot}")(axes, *classes, case)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.canvas.draw()
    return {line.get_label(): line.get_data() for line in axes.lines}


def test_tippett_lines_are_the_shares_of_trials_with_at_least_each_ratio():
    classes = normal()

    lines = draw("tippett", classes)

    for name, llrs in zip(("bona fide (40)", "spoof (60)"), classes, strict=True):
        x, y = lines[name]
        np.testing.assert_array_equal(x[:-1], np.sort(llrs / LN10))
        np.testing.assert_allclose(y, [1 - i / len(llrs) for i in range(len(llrs) + 1)], atol=1e-12)


def test_pav_line_passes_through_the_trials_and_ends_at_the_edge_where_it_is_infinite():
    classes = normal()

    lines = draw("pav", classes)

    best = np.concatenate(pav_llrs(*classes)) / LN10
    order = np.argsort(np.concatenate(classes))
    finite = np.isfinite(best[order])
    x, y = lines[f"after PAV (infinite for {(~finite).sum()} of 100)"]
    np.testing.assert_allclose(x, np.concatenate(classes)[order] / LN10)
    np.testing.assert_allclose(y[finite], best[order][finite])
    assert set(np.abs(y[~finite])) == {max(y)} and max(y) > max(np.abs(y[finite]))


@pytest.mark.parametrize(
    ("plot", "function", "scale"), [("ece", empirical_cross_entropy, 1), ("bayes_error", bayes_error, 100)]
)
def test_curves_over_the_prior_are_of_the_ratios_the_pav_and_the_prior_alone(plot, function, scale):
    classes = normal()

    lines = draw(plot, classes)

    x, own = lines["with these ratios"]
    prior = 1 / (1 + 10**-x)
    np.testing.assert_allclose(own, scale * function(*classes, x * LN10))
    np.testing.assert_allclose(
        lines["best possible (PAV)"][1], scale * function(*pav_llrs(*classes), x * LN10)
    )
    alone = -prior * np.log2(prior) - (1 - prior) * np.log2(1 - prior)
    expected = alone if plot == "ece" else 100 * np.minimum(prior, 1 - prior)
    np.testing.assert_allclose(lines["by the prior alone"][1], expected)
    if plot == "ece":
        assert own[np.abs(x) < 1e-9] == pytest.approx(official.cllr(*classes))


@pytest.mark.parametrize("plot", ["tippett", "pav", "llr_histogram"])
def test_case_is_marked_at_its_log10_ratio(plot):
    assert draw(plot, normal(), 2 * LN10)["case (2.00)"][0] == [2, 2]


def test_case_is_marked_where_its_decision_turns_over_the_prior():
    assert draw("bayes_error", normal(), 2 * LN10)["case: decision turns (-2.00)"][0] == [-2, -2]


@pytest.mark.parametrize("classes", [normal(distance=50), ([0.0], [0.0])], ids=["separated", "constant"])
def test_any_ratios_are_drawn_and_written(classes, tmp_path):
    for plot in LLR_PLOTS:
        draw(plot, classes)

    plot_llrs(tmp_path, *map(np.asarray, classes), case=1.0)

    assert {path.stem for path in tmp_path.iterdir()} == set(LLR_PLOTS)
