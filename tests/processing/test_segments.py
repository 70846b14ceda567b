"""Windows of longer recordings: the level of an alarm, the family-wise rate, segments and their files."""

import csv

import numpy as np
import pytest
from scipy.stats import binomtest

from processing.segment_labels import read_segment_labels
from processing.segments import BonafideWindows, find_hourly_level, find_segments, write_segments
from processing.validation_set import ValidationSet


ABOUT = {"a": 1.0, "b": 0.0, "bounds": [-5.0, 5.0]}


def make_validation_set(recordings, speakers=None, is_bonafide=None) -> ValidationSet:
    """Of the window scores of each recording; without `speakers` they are not known."""
    count = len(recordings)
    return ValidationSet(
        scores=np.array([of[0] for of in recordings], float),
        llrs=np.array([of[0] for of in recordings], float),
        is_bonafide=np.ones(count, bool) if is_bonafide is None else np.array(is_bonafide),
        speakers=-1 - np.arange(count) if speakers is None else np.array(speakers),
        examined=np.arange(count),
        embeddings=np.zeros((count, 1)),
        window_scores=np.concatenate(recordings).astype(float),
        window_places=np.repeat(np.arange(count), [len(of) for of in recordings]),
        about=ABOUT,
    )


# The level and the family-wise rate


def test_level_leaves_the_share_of_recordings_asked_for_below_it():
    recordings = np.random.default_rng(0).normal(3, 1, (40, 3))
    windows = BonafideWindows.of(make_validation_set(recordings, speakers=range(40)))

    found = windows.find_level(3, 0.05)

    assert found["level"] == np.sort(recordings.min(axis=1))[2]  # two of 40 recordings have less somewhere
    rate = found["family_wise_rate"]
    assert (rate["rate"], rate["trials"], rate["num_windows"], found["is_supported"]) == (0.05, 40, 120, True)
    exact = binomtest(2, 40).proportion_ci(method="exact")
    assert (rate["low"], rate["high"]) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_windows_of_a_speaker_are_not_taken_as_independent():
    generator = np.random.default_rng(0)
    speakers = np.repeat(np.arange(20), 10)
    recordings = generator.normal(3, 0.1, (200, 2))
    recordings[speakers == 7] -= 10  # one voice of 20 sounds spoofed throughout

    found = BonafideWindows.of(make_validation_set(recordings, speakers)).find_level(20, 0.05)

    assert found["family_wise_rate"]["rate"] == 0.05  # if they were, 1 - 0.95**20 = 64 %
    assert found["level"] > 2


def test_recordings_longer_than_those_of_one_speaker_go_on_with_another():
    recordings = [[float(i), i + 0.5] for i in range(30)]

    lowest = BonafideWindows.of(make_validation_set(recordings)).draw_lowest(60)

    assert set(lowest) == {0.0}  # each drawn recording has all 60 windows
    of_two = BonafideWindows.of(make_validation_set(recordings)).draw_lowest(2)
    np.testing.assert_array_equal(np.unique(of_two, return_counts=True), [np.arange(30), [34] * 30])


def test_of_a_longer_recording_any_stretch_is_drawn():
    windows = BonafideWindows.of(make_validation_set([np.arange(8)]))

    assert set(windows.draw_lowest(3)) == set(range(6))


@pytest.mark.parametrize(("num_windows", "trials"), [(2, 12), (4, 6), (48, 0.5)])
def test_too_few_recordings_do_not_support_the_rate(num_windows, trials):
    recordings = np.random.default_rng(0).normal(3, 1, (12, 2))

    found = BonafideWindows.of(make_validation_set(recordings)).find_level(num_windows, 0.05)

    assert (found["is_supported"], found["level"]) == (False, recordings.min())
    rate = found["family_wise_rate"]
    assert (rate["rate"], rate["low"], rate["trials"]) == (0, 0, trials)
    assert rate["high"] == pytest.approx(1 - 0.05 ** (1 / trials))  # without an error


def test_spoofed_recordings_do_not_count():
    validation = make_validation_set([[2, 3], [-9, -9], [1, 4]], is_bonafide=[True, False, True])

    windows = BonafideWindows.of(validation)

    assert windows.llrs.tolist() == [2, 3, 1, 4]
    assert windows.recordings.tolist() == [0, 0, 1, 1]
    assert windows.speakers.tolist() == [-1, -3]


def test_hourly_level_counts_segments_not_windows():
    # Two hours: an alarm of three windows and one of one window, then bona fide speech at 0.
    llrs = np.zeros(3600)
    llrs[100:103], llrs[2000], llrs[3000] = -5, -4, -3
    recordings = [(np.arange(1800) * 2.0, of, 3602.0) for of in (llrs[:1800], llrs[1800:])]

    assert find_hourly_level(recordings, 1) == -3  # below it lie two segments
    assert find_hourly_level(recordings, 0.5) == -4
    assert find_hourly_level(recordings, 0.1) == -5  # none, since two hours say nothing of one in ten


# Segments


def test_segment_is_the_part_of_the_time_nearest_to_the_middles_of_its_windows():
    starts, llrs = [0, 2, 4, 6, 7], [-3, 1, -2, -4, 1]  # windows of 4 s, the last one ends with the recording

    segments = find_segments(starts, llrs, 11.0, -1.0)

    # Middles lie at 2, 4, 6, 8 and 9 s.
    assert segments == [
        {"start_seconds": 0.0, "end_seconds": 3.0, "llr": -3.0},
        {"start_seconds": 5.0, "end_seconds": 8.5, "llr": -4.0},
    ]


def test_withheld_window_parts_segments_and_the_level_itself_is_no_alarm():
    segments = find_segments([0, 2, 4, 6], [-3, np.nan, -2, -1], 10.0, -1.0)

    assert [(of["start_seconds"], of["end_seconds"]) for of in segments] == [(0, 3), (5, 7)]
    assert find_segments([0, 2], [1, 2], 6.0, 1.0) == []


def test_segment_files_hold_what_was_found(tmp_path):
    segments = [
        {"start_seconds": 0.0, "end_seconds": 3.0, "llr": -3.25},
        {"start_seconds": 5.5, "end_seconds": 8.0, "llr": -4.5},
    ]

    write_segments(tmp_path, [("calls/my call.wav", of) for of in segments])

    with (tmp_path / "segments.csv").open(encoding="utf-8") as file:
        rows = [{**row} for row in csv.DictReader(file)]
    assert rows[1] == {
        "file": "calls/my call.wav",
        "start_seconds": "5.5",
        "end_seconds": "8.0",
        "llr": "-4.5",
    }
    assert (tmp_path / "segments.rttm").read_text().splitlines()[0] == (
        "SPEAKER my_call 1 0.000 3.000 <NA> <NA> spoof <NA> <NA>"
    )
    assert read_segment_labels(tmp_path / "segments.rttm") == {"my_call": [(0.0, 3.0), (5.5, 8.0)]}


# Labels in time


def test_labels_of_partly_spoofed_corpora_are_read(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text(
        "CON_E_0000000 4.25 spoof 0.000-1.250-bonafide 1.250-2.500-spoof 2.500-4.250-bonafide\n\n"
        "LA_E_1000147  2.1 bonafide 0.0-2.1-bonafide\n"
    )

    assert read_segment_labels(file) == {"CON_E_0000000": [(1.25, 2.5)], "LA_E_1000147": []}


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("a.txt", "CON_E_0 4.25 spoof", "line 1: 'CON_E_0 4.25 spoof' is neither"),
        ("a.txt", "CON_E_0 4.25 spoof 0-1-fake", "is neither"),
        ("a.rttm", "SPEAKER CON_E_0 1 0.5 1.5 <NA> <NA> A07 <NA> <NA>", "is neither"),
        ("dev_seglab_0.64.npy", "\x93NUMPY", "may hold pickled objects"),
    ],
)
def test_labels_that_cannot_be_read_for_sure_are_refused(tmp_path, name, line, message):
    (tmp_path / name).write_text(line)

    with pytest.raises(ValueError, match=message):
        read_segment_labels(tmp_path / name)
