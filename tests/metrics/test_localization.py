"""Range and frame EER: against time sampled in small steps, cases worked by hand, and the EER of trials."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics.det import equal_error_rate
from metrics.localization import measure_localization


@st.composite
def made_recordings(draw):
    """Two recordings whose times lie on a grid of a millisecond, in whole milliseconds."""
    recordings = []
    for _ in range(2):
        edges = [0, *np.cumsum(draw(st.lists(st.integers(1, 60), min_size=1, max_size=6)))]
        scores = draw(
            st.lists(
                st.sampled_from([-1.5, 0, 0.5, np.nan]), min_size=len(edges) - 1, max_size=len(edges) - 1
            )
        )
        times = st.integers(0, 400).map(int)
        segments = [sorted(pair) for pair in draw(st.lists(st.tuples(times, times), max_size=3))]
        recordings.append((np.array(edges), np.array(scores), np.array(segments).reshape(-1, 2)))
    return recordings


def sample(recordings, step):
    """Score and class of every millisecond, then the lowest score and the class of every `step` of them."""
    samples = []
    for edges, scores, segments in recordings:
        times = np.arange(edges[-1]) + 0.5
        score = np.array([scores[np.flatnonzero(edges <= time)[-1]] for time in times])
        is_spoof = np.array([any(start < time < end for start, end in segments) for time in times])
        for at in range(0, len(times), step):
            samples.append((score[at : at + step].min(), is_spoof[at : at + step].any()))
    return [(score, is_spoof) for score, is_spoof in samples if not np.isnan(score)]


def plain_eer(samples):
    """Over all thresholds between distinct scores, and below and above all of them."""
    bonafide, spoof = (np.array([score for score, of in samples if of == wanted]) for wanted in (False, True))
    distinct = np.unique(np.concatenate([bonafide, spoof]))
    rates = [((bonafide <= t).mean(), (spoof > t).mean()) for t in [distinct[0] - 1, *distinct]]
    return sum(min(rates, key=lambda pair: abs(pair[0] - pair[1]))) / 2


@settings(max_examples=60, deadline=None)
@given(made_recordings())
def test_durations_are_exact_as_time_sampled_by_the_millisecond(recordings):
    in_seconds = [(edges / 1000, scores, segments / 1000) for edges, scores, segments in recordings]
    samples, frames = sample(recordings, 1), sample(recordings, 20)
    if any(len({is_spoof for _, is_spoof in of}) < 2 for of in (samples, frames)):
        with pytest.raises(ValueError, match="needs both classes"):
            measure_localization(in_seconds)
        return
    results = measure_localization(in_seconds)

    for of, expected, unit in ((results["range"], samples, 1000), (results["frame"], frames, 1)):
        assert of["eer"] == pytest.approx(plain_eer(expected), abs=1e-12)
        num_spoof = sum(is_spoof for _, is_spoof in expected)
        assert of["spoof"] == pytest.approx(num_spoof / unit, abs=1e-12)
        assert of["bonafide"] == pytest.approx((len(expected) - num_spoof) / unit, abs=1e-12)


def test_range_eer_worked_by_hand():
    # 2 s are spoofed, 8 s bona fide.
    edges, scores = [0, 3, 5, 10], [1.0, -1.0, 2.0]

    of = measure_localization([(edges, scores, [[2, 4]])])["range"]

    # Rejected at the thresholds -1.001, -1, 1, 2: bona fide 0, 1/8, 3/8, 1; spoofed accepted 1, 1/2, 0, 0.
    assert (of["eer"], of["threshold"]) == ((1 / 8 + 1 / 2) / 2, -1.0)
    assert (of["bonafide"], of["spoof"], of["without_score"]) == (8, 2, 0)


def test_segment_that_ends_before_it_starts_is_refused():
    with pytest.raises(ValueError, match="ends before it starts"):
        measure_localization([([0, 4], [1.0], [[2, 3], [2, 1]])])


def test_of_one_score_a_recording_each_class_whole_it_is_the_eer_of_trials():
    generator = np.random.default_rng(0)
    bonafide, spoof = generator.normal(1, 1, 40), generator.normal(0, 1, 60)
    recordings = [([0, 1], [score], np.empty((0, 2))) for score in bonafide]
    recordings += [([0, 1], [score], [[0, 1]]) for score in spoof]

    results = measure_localization(recordings)

    for name in ("range", "frame"):
        assert (results[name]["eer"], results[name]["threshold"]) == pytest.approx(
            equal_error_rate(bonafide, spoof)
        )
