"""Error rates and costs against the official definitions in plain numpy, and against hand-worked cases."""

import numpy as np
import official
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics import costs
from metrics.det import describe_scores, det_curve, equal_error_range, equal_error_rate, split_by_key


ASV = costs.AsvErrorRates(p_miss=0.0245810, p_fa=0.0246047, p_fa_spoof=0.7606525)
RATES = (ASV.p_miss, ASV.p_fa, ASV.p_fa_spoof)


def normal(num_bonafide, num_spoof, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(1, 1, num_bonafide), generator.normal(-1, 1, num_spoof)


CASES = {
    "random": normal(300, 700),
    "more bona fide": normal(700, 300),
    "tied": tuple(np.round(scores) for scores in normal(200, 300)),
    "constant": (np.zeros(5), np.zeros(7)),
    "two trials": (np.array([0.3]), np.array([0.1])),
    "two trials, wrong way round": (np.array([0.1]), np.array([0.3])),
    "separated": (np.arange(5.0) + 10, np.arange(7.0)),
    "inverted": normal(300, 300)[::-1],
}
lists = st.lists(st.one_of(st.integers(-3, 3).map(float), st.floats(-30, 30)), min_size=1, max_size=30)


@pytest.mark.parametrize("case", CASES)
def test_eer_and_its_threshold_equal_the_official_definition(case):
    eer, threshold = equal_error_rate(*CASES[case])

    assert (eer, threshold) == official.eer(*CASES[case])


@given(bonafide=lists, spoof=lists)
def test_eer_equals_the_official_definition_for_any_scores(bonafide, spoof):
    assert equal_error_rate(bonafide, spoof) == official.eer(bonafide, spoof)


@pytest.mark.parametrize("case", CASES)
def test_det_curve_equals_the_official_one(case):
    for ours, theirs in zip(det_curve(*CASES[case]), official.det(*CASES[case]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@given(bonafide=lists, spoof=lists)
def test_detection_costs_equal_the_official_definitions_for_any_scores(bonafide, spoof):
    assert costs.min_dcf(bonafide, spoof)[0] == pytest.approx(official.min_dcf(bonafide, spoof), abs=1e-12)
    assert costs.act_dcf(bonafide, spoof) == pytest.approx(official.act_dcf(bonafide, spoof), abs=1e-12)
    assert costs.cllr(bonafide, spoof) == pytest.approx(official.cllr(bonafide, spoof), abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_detection_costs_equal_the_official_definitions(case):
    bonafide, spoof = CASES[case]

    ours = costs.min_dcf(bonafide, spoof)[0], costs.act_dcf(bonafide, spoof), costs.cllr(bonafide, spoof)

    theirs = (function(bonafide, spoof) for function in (official.min_dcf, official.act_dcf, official.cllr))
    assert ours == pytest.approx(tuple(theirs), abs=1e-12)


@pytest.mark.parametrize(
    "case", sorted(set(CASES) - {"constant", "two trials", "two trials, wrong way round"})
)
@pytest.mark.parametrize("form", costs.FORMS)
def test_min_tdcf_equals_the_official_definition(case, form):
    reference = {"2019": official.min_tdcf_2019, "2021": official.min_tdcf_2021}[form]

    value, _ = costs.min_tdcf(*CASES[case], ASV, form)

    assert value == pytest.approx(reference(*CASES[case], *RATES), abs=1e-12)


@pytest.mark.parametrize("form", costs.FORMS)
def test_threshold_of_the_minimum_gives_the_minimum(form):
    bonafide, spoof = CASES["random"]
    cost = costs.tdcf_cost(ASV, form)

    value, threshold = costs.min_tdcf(bonafide, spoof, ASV, form)

    at_threshold = cost.constant + cost.miss * np.mean(bonafide <= threshold)
    at_threshold += cost.false_alarm * np.mean(spoof > threshold)
    assert at_threshold / (cost.constant + min(cost.miss, cost.false_alarm)) == pytest.approx(
        value, abs=1e-12
    )


def test_asv_error_rates_equal_the_published_constants(shared_data):
    path = shared_data / "asvspoof2019_la_mini" / "ASVspoof2019_LA_asv_scores"
    lines = (path / "ASVspoof2019.LA.asv.eval.gi.trl.scores.txt").read_text().splitlines()
    scores = {
        key: np.array([float(line.split()[2]) for line in lines if line.split()[1] == key])
        for key in ("target", "nontarget", "spoof")
    }

    asv = costs.AsvErrorRates.from_scores(scores["target"], scores["nontarget"], scores["spoof"])

    assert (asv.p_fa, asv.p_miss, asv.p_fa_spoof) == pytest.approx(
        (0.0246047, 0.0245810, 0.7606525), abs=5e-8
    )
    assert asv.threshold == pytest.approx(-5.680051, abs=5e-7)
    cost = costs.tdcf_cost(asv, "2019")
    assert (cost.miss, cost.false_alarm) == pytest.approx((0.9150441, 0.3803262), abs=5e-8)
    floor = costs.min_tdcf(*CASES["separated"], asv, "2021")[0]
    assert floor == pytest.approx(0.0627329, abs=5e-8)


@pytest.fixture(scope="module")
def published(shared_data):
    path = shared_data / "published_scores" / "RawGAT_ST_cat.asvspoof2019_la_eval.txt"
    return [line.split() for line in path.read_text().splitlines()]


def test_published_score_file_gives_the_published_numbers(published):
    bonafide, spoof = split_by_key([float(line[3]) for line in published], [line[2] for line in published])
    asv = costs.AsvErrorRates(0.02458100558659218, 0.024604674888228765, 0.7606524529601453)

    assert 100 * equal_error_rate(bonafide, spoof)[0] == pytest.approx(1.235388940, abs=5e-10)
    assert costs.min_tdcf(bonafide, spoof, asv, "2019")[0] == pytest.approx(0.038810095, abs=5e-10)
    assert costs.min_tdcf(bonafide, spoof, asv, "2021")[0] == pytest.approx(0.099108305, abs=5e-10)


def test_eer_of_each_attack_of_the_published_file_equals_the_official_definition(published):
    bonafide = [float(line[3]) for line in published if line[2] == "bonafide"]
    attacks = sorted({line[1] for line in published} - {"-"})
    assert len(attacks) == 13

    for attack in attacks:
        spoof = [float(line[3]) for line in published if line[1] == attack]
        assert equal_error_rate(bonafide, spoof) == official.eer(bonafide, spoof)


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
def test_hand_worked_eer(bonafide, spoof, eer):
    assert equal_error_rate(bonafide, spoof)[0] == eer


def test_hand_worked_cllr_and_costs():
    # Scores of log 3 for bona fide and -log 3 for spoof: log2(1 + 1/3) bits each. Both are on their own side
    # of -ln 1.9, the threshold of actDCF.
    assert costs.cllr([np.log(3)], [-np.log(3)]) == pytest.approx(np.log2(4 / 3))
    assert costs.act_dcf([np.log(3)], [-np.log(3)]) == 0
    # One of two bona fide missed costs 0.95 / 2 / 0.5; accepting the one spoof costs 1.
    assert costs.act_dcf([-1.0, 1.0], [-2.0]) == pytest.approx(0.95)
    assert costs.act_dcf([1.0], [0.0]) == 1
    assert costs.ASVSPOOF5_THRESHOLD == pytest.approx(-np.log(1.9))


def test_rates_at_each_threshold_are_those_of_the_decision_rule():
    bonafide, spoof = CASES["random"]

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
@pytest.mark.parametrize(
    "metric",
    [equal_error_rate, det_curve, costs.min_dcf, costs.act_dcf, costs.cllr, describe_scores]
    + [lambda b, s: costs.min_tdcf(b, s, ASV, "2019")],
)
def test_scores_without_error_rates_are_an_error_that_says_why(metric, bonafide, spoof, message):
    with pytest.raises(ValueError, match=message):
        metric(bonafide, spoof)


@pytest.mark.parametrize(("bonafide", "spoof"), [([1.0, 1.0], [0.0, 1.0]), ([1.0], [0.0]), ([2.0], [2.0])])
def test_tdcf_refuses_decisions(bonafide, spoof):
    with pytest.raises(ValueError, match="fewer than three distinct scores"):
        costs.min_tdcf(bonafide, spoof, ASV, "2021")


def test_tdcf_takes_three_distinct_scores():
    assert costs.min_tdcf([2.0, 1.0], [0.0], ASV, "2019")[0] == 0


def test_tdcf_names_its_forms():
    with pytest.raises(ValueError, match="'legacy' is not one of 2019, 2021"):
        costs.min_tdcf([2.0, 1.0], [0.0], ASV, "legacy")


@pytest.mark.parametrize("rates", [(1.1, 0.0, 0.5), (0.0, -0.1, 0.5), (0.0, 0.0, np.nan)])
def test_asv_error_rate_that_is_no_fraction_is_refused(rates):
    with pytest.raises(ValueError, match="an error rate is a fraction of 1"):
        costs.AsvErrorRates(*rates)


@pytest.mark.parametrize("rates", [(1.0, 0.5, 0.5), (0.0, 0.0, 0.0)])
def test_asv_system_for_which_the_tdcf_is_not_defined_is_refused(rates):
    with pytest.raises(ValueError, match="both must be positive"):
        costs.tdcf_cost(costs.AsvErrorRates(*rates), "2019")


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (([], [0.0], [0.0]), "no ASV target trial"),
        (([1.0], [0.0], []), "no ASV spoof trial"),
        (([1.0], [np.nan], [0.0]), "ASV nontarget scores contain nan"),
    ],
)
def test_missing_asv_scores_are_named(scores, message):
    with pytest.raises(ValueError, match=message):
        costs.AsvErrorRates.from_scores(*scores)


def test_constant_scores_are_constant_and_not_inverted():
    description = describe_scores([0.5] * 3, [0.5] * 4)

    assert description == {
        "num_distinct_scores": 1,
        "num_tied_across_classes": 7,
        "constant_scores": True,
        "looks_inverted": False,
    }


def test_ties_across_the_classes_are_counted_and_those_within_one_are_not():
    description = describe_scores([1.0, 1.0, 2.0, 5.0, 5.0], [1.0, 0.0, 0.0, 2.0])

    assert description["num_tied_across_classes"] == 5  # 1, 1, 2 and 1, 2
    assert description["num_distinct_scores"] == 4


@given(bonafide=lists, spoof=lists)
def test_ties_and_distinct_scores_are_those_of_counting(bonafide, spoof):
    description = describe_scores(bonafide, spoof)

    tied = sum(score in spoof for score in bonafide) + sum(score in bonafide for score in spoof)
    assert description["num_tied_across_classes"] == tied
    assert description["num_distinct_scores"] == len(set(bonafide) | set(spoof))


def test_inverted_scores_look_inverted():
    bonafide, spoof = CASES["random"]

    assert describe_scores(spoof, bonafide)["looks_inverted"]
    assert not describe_scores(bonafide, spoof)["looks_inverted"]


def test_error_rate_that_only_ties_raise_above_half_is_not_called_inverted():
    bonafide, spoof = [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, -1.0]
    assert equal_error_rate(bonafide, spoof)[0] > 0.5

    assert not describe_scores(bonafide, spoof)["looks_inverted"]


@pytest.mark.parametrize(
    ("bonafide", "spoof", "expected"),
    [
        ([3.0, 5.0, 4.0], [-1.0, 0.5], (0.5, 3.0)),  # separated: the gap
        ([1.0, 4.0], [2.0, 0.0], (1.0, 2.0)),
        ([2.0, 2.0], [2.0], (2.0, 2.0)),  # nothing is above
    ],
)
def test_thresholds_with_the_eer_end_at_the_next_score(bonafide, spoof, expected):
    start, end = equal_error_range(bonafide, spoof)

    assert (start, end) == expected
    assert start == equal_error_rate(bonafide, spoof)[1]
