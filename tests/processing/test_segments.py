"""Windows of longer recordings: the level of an alarm, the family-wise rate, segments and their files."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from benchmarks.splices import find_hourly_level, make_spliced
from scipy.stats import binomtest

from modeling.convert_aasist_checkpoint import main as convert
from processing.models import load_countermeasure
from processing.recordings import Recording, score_recordings, write_timelines
from processing.segment_labels import measure_windows, read_segment_labels
from processing.segments import (
    BonafideWindows,
    describe_windows,
    find_segments,
    state_windows,
    write_segments,
)
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
    assert (rate["rate"], rate["low"], rate["trials"], rate["num_speakers"]) == (0, 0, trials, None)
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
    recordings = llrs[:1800], llrs[1800:]

    assert find_hourly_level(recordings, 7200, 1) == -3  # below it lie two segments
    assert find_hourly_level(recordings, 7200, 0.5) == -4
    assert find_hourly_level(recordings, 7200, 0.1) == -5  # none, since two hours say nothing of one in ten


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

    write_segments(tmp_path, [("a.wav", []), ("calls/my call.wav", segments)])

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


def test_windows_of_a_recording_are_stated_described_and_written(tmp_path):
    generator = np.random.default_rng(0)
    validation = make_validation_set(generator.normal(3, 0.5, (40, 5)), speakers=range(40))
    scores = [3.0, 2.5, -7.0, -4.0, 3.5, -9.0]  # LLRs, as `ABOUT` has it
    recording = Recording(Path("call.wav"), 14.0, [0, 2, 4, 6, 8, 10], scores, [0.5] * 6)
    recording.llrs, recording.uncut, recording.doubts = (
        np.clip(scores, -5, 5).tolist(),
        scores,
        {5: "silence"},
    )

    windows = state_windows(recording, validation, 0.05)

    expected = BonafideWindows.of(validation).find_level(5, 0.05)  # one of the six is withheld
    assert windows == {
        **{"num_windows": 5, **expected},
        "segments": [{"start_seconds": 5.0, "end_seconds": 9.0, "llr": -5.0}],  # cut to the bounds
    }
    text = describe_windows(windows, 0.05)
    assert "Passages that look spoofed: 0:05.0 to 0:09.0 (LLR -5.00). They have an LLR below" in text
    assert "Of bona fide recordings of 5 windows 5.0 % [0.6, 16.9] have such a window" in text
    recording.statement = {"windows": windows}
    write_timelines(tmp_path, [recording], 4.0, None)
    assert [path.suffix for path in tmp_path.iterdir()] == [".png"]
    short = Recording(Path("a.wav"), 4.0, [0], [-7.0], [0.5], llrs=[-5.0], uncut=[-7.0])
    assert state_windows(short, validation, 0.05) is None
    spoofed = replace(validation, is_bonafide=np.zeros(40, bool))  # no bona fide one was examined
    assert state_windows(recording, spoofed, 0.05) is None


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
        ("a.txt", "CON_E_0 4.25 spoof 0-1.2.3-spoof", "is neither"),
        ("a.rttm", "SPEAKER CON_E_0 1 0.5 1.5 <NA> <NA> A07 <NA> <NA>", "is neither"),
        ("dev_seglab_0.64.npy", "\x93NUMPY", "may hold pickled objects"),
    ],
)
def test_labels_that_cannot_be_read_for_sure_are_refused(tmp_path, name, line, message):
    (tmp_path / name).write_text(line)

    with pytest.raises(ValueError, match=message):
        read_segment_labels(tmp_path / name)


# Real recordings


def test_passages_are_spliced_in_at_their_level_and_change_nothing_else(shared_data):
    whole, _ = soundfile.read(shared_data / "open_speech" / "librispeech_251" / "ls-332.flac")

    passages = [*make_spliced(shared_data / "open_speech", "ls-332")]

    expected = [(kind, seconds) for seconds in (1, 2, 4) for kind in ("spoof", "bonafide")]
    assert [(about["kind"], about["seconds"]) for about, _ in passages] == expected
    for about, samples in passages:
        place = slice(about["first"], about["first"] + int(16000 * about["seconds"]))
        assert np.abs(np.delete(samples - whole, np.r_[place])).max() < 1e-6
        level, before = (np.sqrt(np.mean(of[place] ** 2)) for of in (samples, whole))
        assert level == pytest.approx(before, rel=0.02)  # less in the fades
        similarity = np.corrcoef(samples[place], whole[place])[0, 1]
        assert similarity > 0.99 if about["kind"] == "bonafide" else similarity < 0.5


@pytest.mark.slow  # AASIST takes a second for two windows
def test_passage_by_a_vocoder_lowers_the_windows_over_it_in_real_recordings(tmp_path, shared_data):
    open_speech, weights = shared_data / "open_speech", shared_data / "checkpoints"
    convert(["--checkpoint", str(weights / "ASVspoof5_AASIST_best.pth"), "--output_dir", str(tmp_path / "m")])
    countermeasure = load_countermeasure(str(tmp_path / "m"))
    files, labels = [], {}
    for speaker in ("ls-332", "ls-103", "ls-1116"):
        for about, samples in make_spliced(open_speech, speaker):
            if about["seconds"] == 4:
                file = tmp_path / f"{speaker}-{about['kind']}.wav"
                soundfile.write(file, samples, 16000)
                start = about["first"] / 16000
                files.append(file)
                labels[file] = [(start, start + 4)]

    recordings = [*score_recordings(countermeasure, files)]

    spoofed, controls = recordings[::2], recordings[1::2]
    for of, control in zip(spoofed, controls, strict=True):
        [(start, end)] = labels[of.file]
        is_over = (np.array(of.starts) < end) & (np.array(of.starts) + 4.0375 > start)
        lowered = np.array(control.scores) - np.array(of.scores)
        assert np.abs(lowered[~is_over]).max() < 0.01
        assert lowered[is_over].max() > 1
    spoofed_eer, control_eer = (measure_windows(of, labels)["range"]["eer"] for of in (spoofed, controls))
    assert spoofed_eer < control_eer
