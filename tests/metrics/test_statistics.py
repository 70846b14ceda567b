"""Bootstrap intervals and the paired test: against resampling done literally, and against known answers."""

from statistics import NormalDist

import numpy as np
import official
import pytest

from metrics.costs import ASVSPOOF5_COST, AsvErrorRates, tdcf_cost
from metrics.likelihood_ratios import cllr_min
from metrics.statistics import Bootstrap, _System, confidence_intervals, draw_counts, paired_test


ASV = AsvErrorRates(p_miss=0.02, p_fa=0.03, p_fa_spoof=0.7)
COSTS = {"min_tdcf_2019": tdcf_cost(ASV, "2019"), "min_tdcf_2021": tdcf_cost(ASV, "2021")}


def normal(num_bonafide, num_spoof, *, distance=2.0, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(distance, 1, num_bonafide), generator.normal(0, 1, num_spoof)


@pytest.mark.parametrize("decimals", [0, 1, 9])
@pytest.mark.parametrize("with_speakers", [False, True])
def test_metrics_of_a_resample_are_the_official_ones_of_the_repeated_trials(decimals, with_speakers):
    bonafide, spoof = (np.round(scores, decimals) for scores in normal(80, 130))
    names = [f"speaker {i % 12}" for i in range(210)]
    speakers = (names[:80], names[80:]) if with_speakers else None
    system = _System.from_scores(bonafide, spoof, {**COSTS, "min_dcf": ASVSPOOF5_COST})

    for counts in draw_counts((80, 130), speakers, Bootstrap(num_resamples=30)):
        resample = np.repeat(bonafide, counts[0]), np.repeat(spoof, counts[1])
        expected = [
            official.eer(*resample)[0],
            official.min_tdcf_2019(*resample, ASV.p_miss, ASV.p_fa, ASV.p_fa_spoof),
            official.min_tdcf_2021(*resample, ASV.p_miss, ASV.p_fa, ASV.p_fa_spoof),
            official.min_dcf(*resample),
            official.cllr(*resample),
            cllr_min(*resample),
            official.cllr(*resample) - cllr_min(*resample),
        ]
        assert [*system.measure(*counts).values()] == pytest.approx(expected, abs=1e-12)


def test_value_is_that_of_the_trials_themselves():
    scores = normal(80, 130)

    intervals = confidence_intervals(*scores, costs=COSTS, bootstrap=Bootstrap(num_resamples=5))

    assert intervals["eer"].value == pytest.approx(official.eer(*scores)[0], abs=1e-12)
    expected = official.min_tdcf_2019(*scores, ASV.p_miss, ASV.p_fa, ASV.p_fa_spoof)
    assert intervals["min_tdcf_2019"].value == pytest.approx(expected, abs=1e-12)
    assert intervals["cllr"].value == pytest.approx(official.cllr(*scores), abs=1e-12)
    costs = ["min_tdcf_2019", "min_tdcf_2021"]
    assert list(intervals) == ["eer", *costs, "cllr", "cllr_min", "calibration_loss"]


def test_intervals_hold_the_true_eer_about_95_times_in_100():
    true_eer = NormalDist().cdf(-1)  # two normal distributions of variance 1, 2 apart

    held = 0
    for seed in range(300):
        interval = confidence_intervals(
            *normal(150, 300, seed=seed), bootstrap=Bootstrap(num_resamples=200, seed=seed)
        )["eer"]
        held += interval.low <= true_eer <= interval.high

    # Of 300 intervals with a coverage of 95 %, 273 or fewer would hold it 1 time in 1,000.
    assert 273 < held < 299


def test_trials_that_are_alike_within_speakers_widen_the_interval():
    generator = np.random.default_rng(0)
    names = np.repeat([f"s{i}" for i in range(30)], 20)
    own = np.repeat(generator.normal(0, 1, 30), 20)
    bonafide, spoof = own + 2 + 0.1 * generator.normal(size=600), own + 0.1 * generator.normal(size=600)
    bonafide, spoof = bonafide[:300], spoof[300:]  # 15 speakers in each class
    speakers = names[:300], names[300:]

    by_trial = confidence_intervals(bonafide, spoof)["eer"]
    by_speaker = confidence_intervals(bonafide, spoof, speakers=speakers)["eer"]

    assert by_speaker.high - by_speaker.low > 2 * (by_trial.high - by_trial.low)


def test_speakers_are_drawn_whole_and_within_their_kind():
    bonafide_names = [f"both {i % 10}" for i in range(40)] + [f"bona fide {i % 5}" for i in range(10)]
    spoof_names = [f"both {i % 10}" for i in range(30)] + [f"spoof {i % 3}" for i in range(9)]
    speakers = bonafide_names, spoof_names

    for bonafide, spoof in draw_counts((50, 39), speakers, Bootstrap(num_resamples=20)):
        counts = {}
        for name, count in zip(bonafide_names + spoof_names, [*bonafide, *spoof], strict=True):
            counts.setdefault(name, set()).add(int(count))
        assert all(len(values) == 1 for values in counts.values())
        for kind, size in (("both", 10), ("bona fide", 5), ("spoof", 3)):
            assert sum(min(counts[name]) for name in counts if name.startswith(kind)) == size


def test_resamples_without_speakers_keep_the_size_of_each_class():
    for bonafide, spoof in draw_counts((7, 50), None, Bootstrap(num_resamples=10)):
        assert (bonafide.sum(), spoof.sum()) == (7, 50)


def test_same_seed_gives_the_same_interval_and_another_another():
    scores = normal(50, 60)

    first, again, other = (
        confidence_intervals(*scores, bootstrap=Bootstrap(num_resamples=50, seed=seed))["eer"]
        for seed in (1, 1, 2)
    )

    assert first == again
    assert first != other


def test_system_does_not_differ_from_itself():
    scores = normal(50, 60)

    difference = paired_test(scores, scores, costs=COSTS, bootstrap=Bootstrap(num_resamples=50))["eer"]

    assert (difference.value, difference.low, difference.high, difference.p_value) == (0, 0, 0, 1)


def test_paired_test_does_not_depend_on_the_scale_of_the_scores():
    first, second = normal(80, 90), normal(80, 90, seed=1)
    scaled = tuple(np.exp(scores) for scores in second)

    assert paired_test(first, second)["eer"] == paired_test(first, scaled)["eer"]


def test_better_system_is_found_better_where_the_trials_are_shared():
    generator = np.random.default_rng(0)
    worse = normal(1000, 1000)
    better = worse[0] + 0.5 + 0.1 * generator.normal(size=1000), worse[1] + 0.1 * generator.normal(size=1000)

    difference = paired_test(better, worse)["eer"]

    assert difference.value < 0 and difference.high < 0
    assert difference.p_value < 0.01


def test_equal_systems_are_called_different_about_5_times_in_100():
    rejected = 0
    for seed in range(300):
        generator = np.random.default_rng([seed, 1])
        common = normal(100, 200, seed=seed)
        first, second = (tuple(s + generator.normal(size=s.size) for s in common) for _ in range(2))
        result = paired_test(first, second, bootstrap=Bootstrap(num_resamples=200, seed=seed))
        rejected += result["eer"].p_value < 0.05

    # Of 300 tests with a level of 5 %, 28 or more, or 3 or fewer, would reject 1 time in 1,000.
    assert 3 < rejected < 28


def test_differing_trials_cannot_be_paired():
    with pytest.raises(ValueError, match="50 bona fide and 60 spoofed trials, the second of 50 and 61"):
        paired_test(normal(50, 60), normal(50, 61))


def test_few_trials_cannot_be_compared():
    with pytest.raises(ValueError, match="1 bona fide and 1 spoofed trials would say nothing"):
        paired_test(([1.0], [0.0]), ([0.0], [1.0]))


def test_few_speakers_are_refused():
    speakers = [str(i) for i in range(20)], [str(i % 9) for i in range(20)]

    with pytest.raises(ValueError, match="of a class are of 9 speakers; at least 10"):
        confidence_intervals(*normal(20, 20), speakers=speakers)


def test_speakers_that_do_not_fit_the_scores_are_refused():
    speakers = [[str(i) for i in range(20)]] * 2

    with pytest.raises(ValueError, match="speakers of 20 and 20 trials for scores of 20 and 21"):
        confidence_intervals(*normal(20, 21), speakers=speakers)
