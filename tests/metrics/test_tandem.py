"""a-DCF and t-EER: against the organisers' scripts, restated in `official.py`, and what they stand for."""

import numpy as np
import official
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics.costs import ADcfCosts, min_a_dcf
from metrics.det import SortedTrials
from metrics.statistics import Bootstrap, resample_intervals
from metrics.tandem import Tandem
from metrics.tandem import t_eer as find_t_eer


# Few different scores, so that ties within and across classes are the rule.
of_class = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=12)


def gaussian(sizes, *, seed=0, means=((1.5, 1.5, 0.0), (2.0, 0.0, 1.0))):
    """CM and ASV scores of targets, nontargets and spoofs."""
    generator = np.random.default_rng(seed)
    return [[generator.normal(mean, 1, n) for mean, n in zip(of, sizes, strict=True)] for of in means]


def a_dcf(classes, costs=ADcfCosts()):
    return min_a_dcf(SortedTrials.from_classes(classes), costs)


def t_eer(cm, asv):
    return find_t_eer(*map(SortedTrials.from_classes, (cm, asv)))


@settings(deadline=None, max_examples=150)
@given(of_class, of_class, of_class)
def test_a_dcf_is_the_lowest_cost_over_all_thresholds_of_the_official_script(target, nontarget, spoof):
    value, threshold = a_dcf((target, nontarget, spoof))

    assert value == pytest.approx(official.min_a_dcf(target, nontarget, spoof), abs=1e-12)
    rejected = [np.mean(np.array(of) <= threshold) for of in (target, nontarget, spoof)]
    cost = 0.9405 * rejected[0] + 0.095 * (1 - rejected[1]) + 0.5 * (1 - rejected[2])
    assert cost / 0.595 == pytest.approx(value, abs=1e-12)


def test_a_dcf_takes_other_priors_and_costs():
    scores = [1.0, 0.2, 3.0], [0.5, -1.0], [0.1, 2.0, -3.0]

    value, _ = a_dcf(scores, ADcfCosts(0.9, 0.05, 0.05, 1, 10, 20))

    assert value == pytest.approx(official.min_a_dcf(*scores, (0.9, 0.05, 0.05), (1, 10, 20)), abs=1e-12)


@pytest.mark.parametrize("costs", [{"p_spoof": 0.5}, {"c_fa_cm": -1.0}, {"c_miss": 0.0}])
def test_priors_and_costs_without_a_meaning_are_refused(costs):
    with pytest.raises(ValueError, match="must"):
        ADcfCosts(**costs)


@settings(deadline=None, max_examples=200)
@given(st.tuples(of_class, of_class, of_class), st.tuples(of_class, of_class, of_class))
def test_t_eer_has_the_bits_of_the_official_scan(cm, asv):
    point = t_eer(cm, asv)

    assert (point.fa_spoof, point.cm_threshold, point.asv_threshold) == official.t_eer(cm, asv)


def test_three_error_rates_meet_in_the_t_eer_as_near_as_at_any_pair_of_thresholds():
    cm, asv = gaussian((300, 250, 350))

    point = t_eer(cm, asv)

    tandem = Tandem.from_trials(*map(SortedTrials.from_classes, (cm, asv)))
    passed = 1 - tandem.cm_miss[:, None]
    miss = 1 - passed * (1 - tandem.asv_miss)
    accepted = passed * tandem.asv_fa_nontarget, tandem.cm_fa[:, None] * tandem.asv_fa_spoof
    spread = np.ptp([miss, *accepted], axis=0)
    best = np.unravel_index(np.argmin(spread), spread.shape)
    assert np.ptp([point.miss, point.fa_nontarget, point.fa_spoof]) < spread[best] + 2 / 250
    assert point.fa_spoof == pytest.approx(miss[best], abs=2 / 250)


def test_path_evens_out_misses_and_false_alarms():
    tandem = Tandem.from_trials(*(SortedTrials.from_classes(of) for of in gaussian((40, 50, 60))))

    path = tandem.find_path()

    for asv, cm in enumerate(path):
        miss = tandem.cm_miss + (1 - tandem.cm_miss) * tandem.asv_miss[asv]
        nontarget = (1 - tandem.cm_miss) * tandem.asv_fa_nontarget[asv]
        distance = np.abs(miss - nontarget / 2 - tandem.cm_fa * tandem.asv_fa_spoof[asv] / 2)
        assert distance[cm] == pytest.approx(distance.min(), abs=1e-15)


def test_t_eer_does_not_depend_on_the_scale_of_the_scores():
    cm, asv = gaussian((30, 30, 30))

    assert t_eer(cm, asv).fa_spoof == t_eer([np.exp(of) for of in cm], [of**3 for of in asv]).fa_spoof


def test_trials_that_count_several_times_are_as_if_they_were_listed_so_often():
    _, classes = gaussian((5, 6, 7))
    classes = [np.round(of) for of in classes]
    counts = np.random.default_rng(1).integers(3, size=18)
    parts = np.split(counts, [5, 11])

    drawn = SortedTrials.from_classes(classes).repeat(counts)

    listed = SortedTrials.from_classes([np.repeat(of, n) for of, n in zip(classes, parts, strict=True)])
    assert (drawn.scores == listed.scores).all() and (drawn.kinds == listed.kinds).all()


@pytest.mark.parametrize("with_speakers", [False, True])
def test_intervals_are_around_the_value_and_as_wide_as_the_number_of_trials_allows(with_speakers):
    def find(sizes):
        cm, asv = (SortedTrials.from_classes(of) for of in gaussian(sizes))
        speakers = [np.arange(n) % 20 for n in sizes] if with_speakers else None

        def measure(*counts):
            of_cm, of_asv = (trials.repeat(np.concatenate(counts)) for trials in (cm, asv))
            return {"a-DCF": min_a_dcf(of_cm)[0], "t-EER": find_t_eer(of_cm, of_asv).miss}

        return resample_intervals(measure, sizes, speakers=speakers, bootstrap=Bootstrap(100))

    few, many = find((100, 110, 120)), find((1000, 1100, 1200))

    cm, asv = gaussian((100, 110, 120))
    assert (few["a-DCF"].value, few["t-EER"].value) == (a_dcf(cm)[0], t_eer(cm, asv).miss)
    for name, narrow in many.items():
        assert few[name].low < few[name].value < few[name].high
        assert 1.8 < (few[name].high - few[name].low) / (narrow.high - narrow.low) < 6  # about sqrt(10)
