"""Scores of recordings: of the first crop, over windows, and of files that cannot be read."""

import csv
import json
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
import soundfile
import torch
from tiny_model import save_tiny_model
from tqdm.auto import tqdm
from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification, pipeline

import processing.recordings
from modeling import AntiSpoofingFeatureExtractor
from processing.audio import decode_audio
from processing.models import Countermeasure, load_countermeasure
from processing.recordings import (
    COLUMNS,
    Recording,
    describe_recording,
    find_recordings,
    score_recordings,
    write_recordings,
    write_timelines,
)


CROP = 8000  # half a second


@pytest.fixture(scope="module")
def countermeasure(tmp_path_factory) -> Countermeasure:
    return load_countermeasure(str(save_tiny_model(tmp_path_factory.mktemp("model"))))


def noise(num_samples: int, seed: int = 0, channels: int = 1) -> np.ndarray:
    """(samples, channels) of another level and colour for every seed, so that scores differ."""
    generator = np.random.default_rng(seed)
    white = generator.standard_normal((num_samples + seed % 5, channels))
    coloured = sum(white[i : num_samples + i] for i in range(seed % 5 + 1))
    return 0.02 * (1 + seed % 3) * coloured


def write(path: Path, num_samples: int, seed: int = 0, rate: int = 16_000, channels: int = 1) -> Path:
    """Noise in the format of the ending: by soundfile where it knows it, by ffmpeg elsewhere."""
    if path.suffix != ".m4a":
        soundfile.write(path, noise(num_samples, seed, channels), rate)
        return path
    original = write(path.with_suffix(".wav"), num_samples, seed, rate, channels)
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", original, path], check=True)
    original.unlink()
    return path


def score(
    countermeasure: Countermeasure, files: list[Path], hop_seconds: float = 0.25, batch_size: int = 32
) -> list[Recording]:
    return list(score_recordings(countermeasure, files, hop_seconds=hop_seconds, batch_size=batch_size))


def model_scores(countermeasure: Countermeasure, waveforms: list[np.ndarray]) -> list[float]:
    """Logit of bona fide minus logit of spoof of each, one at a time."""
    model, ids = countermeasure.model, countermeasure.model.config.label2id
    scores = []
    for waveform in waveforms:
        features = countermeasure.feature_extractor(waveform, sampling_rate=16_000, return_tensors="pt")
        with torch.inference_mode():
            logits = model(**features).logits[0]
        scores.append(float(logits[ids["bonafide"]] - logits[ids["spoof"]]))
    return scores


# The score of the first crop


@pytest.mark.parametrize("num_samples", [CROP // 3, CROP, 3 * CROP])
def test_score_is_that_of_the_model_and_of_the_pipeline(countermeasure, tmp_path, num_samples):
    file = write(tmp_path / "a.wav", num_samples)
    waveform = decode_audio(file)
    classify = pipeline(
        "audio-classification",
        model=countermeasure.model,
        feature_extractor=countermeasure.feature_extractor,
    )

    (recording,) = score(countermeasure, [file])

    answer = {entry["label"]: entry["score"] for entry in classify(waveform)}
    summary = recording.summarize(None)
    assert summary["score"] == pytest.approx(model_scores(countermeasure, [waveform])[0], abs=1e-5)
    assert summary["probability_bonafide"] == pytest.approx(answer["bonafide"], abs=1e-6)
    assert 0.01 < answer["bonafide"] < 0.99  # or any two would be equal


@pytest.mark.parametrize(
    ("name", "rate", "channels"),
    [
        ("a.wav", 16_000, 1),
        ("a.wav", 44_100, 2),
        ("a.flac", 8000, 1),
        ("a.mp3", 44_100, 1),
        ("a.ogg", 22_050, 2),
        ("a.m4a", 48_000, 2),
    ],
)
def test_file_of_any_format_rate_and_channels_is_scored_as_it_decodes(
    countermeasure, tmp_path, name, rate, channels
):
    file = write(tmp_path / name, 2 * rate, rate=rate, channels=channels)
    whole = decode_audio(file)

    (recording,) = score(countermeasure, [file])

    assert recording.error == ""
    assert recording.seconds == len(whole) / 16_000
    parts = [whole[round(16_000 * start) :] for start in recording.starts]
    assert len(parts) >= 7
    assert recording.scores == pytest.approx(model_scores(countermeasure, parts), abs=1e-5)


def test_short_file_is_scored_tiled(countermeasure, tmp_path):
    file = write(tmp_path / "short.wav", 3000)
    tiled = np.tile(decode_audio(file), 3)[:CROP]

    (recording,) = score(countermeasure, [file])

    assert recording.scores == pytest.approx(model_scores(countermeasure, [tiled]), abs=1e-5)
    assert (recording.starts, recording.seconds) == ([0], 3000 / 16_000)


def test_verdict_is_that_of_the_first_crop_not_of_the_lowest_window():
    recording = Recording(Path("a.wav"), 6.0, [0, 2], [1.0, -3.0], [0.7, 0.05])

    assert [recording.summarize(threshold)["verdict"] for threshold in (0.9, 1.0, None)] == [
        "bonafide",
        "spoof",  # bona fide is what lies above the threshold
        None,
    ]


def test_summary_tells_mean_and_lowest_window():
    recording = Recording(Path("a.wav"), 9.5, [0, 2, 4, 5.5], [1, -3, -2, 2], [0.7, 0.05, 0.1, 0.9])

    summary = recording.summarize(0.0)

    assert list(summary) == list(COLUMNS)
    assert [summary[name] for name in ("num_windows", "mean_score", "min_score", "min_start_seconds")] == [
        4,
        -0.5,
        -3,
        2,
    ]


# What cannot be a recording of speech


def silence(num_samples: int) -> np.ndarray:
    return np.zeros((num_samples, 1))


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (silence(CROP), "there are 0.00 s of sound in the "),
        (noise(1), "there are 0.00 s of sound in the "),
        (noise(CROP) * 2**15, "its samples reach"),
        (noise(CROP) * [[1, -1]], "its channels cancel each other when they are mixed: export one of them"),
    ],
    ids=["digital silence", "one sample", "float samples of the size of 16-bit ones", "opposite channels"],
)
def test_score_of_what_cannot_be_speech_is_withheld_with_the_reason(
    countermeasure, tmp_path, samples, reason
):
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")

    recordings = score(countermeasure, [tmp_path / "a.wav"])
    write_recordings(tmp_path / "out", recordings, {"decision_threshold": 0.0})

    summary = recordings[0].summarize(0.0)
    (line,) = csv.DictReader((tmp_path / "out" / "recordings.csv").open(encoding="utf-8", newline=""))
    (written,) = json.loads((tmp_path / "out" / "recordings.json").read_text())["recordings"]
    for found in (summary, line, written):
        assert found["withheld"].startswith(reason)
        assert all(
            found[name] in (None, "")
            for name in ("score", "probability_bonafide", "verdict", "mean_score", "min_score", "error")
        )
    assert written["windows"] == [{"start_seconds": 0, "score": None, "withheld": summary["withheld"]}]
    assert f"a.wav: No score, because {reason}" in describe_recording(summary)


def test_silent_windows_of_a_recording_count_neither_for_the_mean_nor_for_the_lowest(
    countermeasure, tmp_path
):
    speech = noise(CROP)
    soundfile.write(tmp_path / "a.wav", np.concatenate([speech, silence(2 * CROP)]), 16_000)

    (recording,) = score(countermeasure, [tmp_path / "a.wav"])
    summary = recording.summarize(None)

    assert (summary["num_windows"], summary["num_withheld"]) == (5, 3)
    assert summary["mean_score"] == pytest.approx(np.mean(recording.scores[:2]))
    assert summary["min_score"] == min(recording.scores[:2])
    assert summary["withheld"] is None


def test_track_that_was_taken_of_several_is_named(countermeasure, tmp_path):
    for number in (1, 2):
        write(tmp_path / f"{number}.wav", CROP, seed=number)
    subprocess.run(
        [
            imageio_ffmpeg.get_ffmpeg_exe(),
            "-v",
            "error",
            "-i",
            tmp_path / "1.wav",
            "-i",
            tmp_path / "2.wav",
            "-map",
            "0",
            "-map",
            "1",
            "-c:a",
            "flac",
            "-disposition:a:0",
            "0",
            "-disposition:a:1",
            "default",
            "-metadata:s:a:1",
            "language=deu",
            tmp_path / "two.mka",
        ],
        check=True,
    )

    two, second = score(countermeasure, [tmp_path / "two.mka", tmp_path / "2.wav"])

    assert two.summarize(None)["remark"] == "Of its 2 audio tracks one was taken: number 2, flac, deu."
    assert two.scores == pytest.approx(second.scores, abs=1e-5)


# Windows


@pytest.mark.parametrize(
    ("num_samples", "starts"),
    [
        (1, [0]),
        (CROP, [0]),
        (CROP + 1, [0, 1]),
        (CROP + 4000, [0, 4000]),
        (2 * CROP, [0, 4000, 8000]),
        (2 * CROP + 1000, [0, 4000, 8000, 9000]),
    ],
)
def test_windows_start_every_hop_and_the_last_ends_with_the_file(
    countermeasure, tmp_path, num_samples, starts
):
    (recording,) = score(countermeasure, [write(tmp_path / "a.wav", num_samples)])

    assert [start * 16_000 for start in recording.starts] == pytest.approx(starts)
    assert recording.seconds == num_samples / 16_000
    assert len(recording.scores) == len(recording.probabilities) == len(starts)


def test_hop_as_long_as_the_crop_gives_windows_side_by_side(countermeasure, tmp_path):
    (recording,) = score(countermeasure, [write(tmp_path / "a.wav", 3 * CROP)], 0.5)

    assert recording.starts == [0, 0.5, 1]


@pytest.mark.parametrize("hop", [0, -1, 0.51, 1e-6, float("nan"), float("inf")])
def test_hop_that_leaves_gaps_or_does_not_move_on_is_refused(countermeasure, tmp_path, hop):
    with pytest.raises(ValueError, match="Choose a distance above 0 and up to 0.5 s"):
        score(countermeasure, [write(tmp_path / "a.wav", CROP)], hop)


def test_stretch_of_another_signal_in_a_long_file_has_the_lowest_window(countermeasure, tmp_path):
    hum = 0.3 * np.sin(2 * np.pi * 300 * np.arange(CROP) / 16_000)
    hiss = noise(CROP, seed=1)[:, 0]
    of_hum, of_hiss = model_scores(countermeasure, [hum, hiss])
    usual, other = (hum, hiss) if of_hum > of_hiss else (hiss, hum)
    soundfile.write(tmp_path / "a.wav", np.concatenate([usual] * 50 + [other] * 4 + [usual] * 30), 16_000)

    (recording,) = score(countermeasure, [tmp_path / "a.wav"])

    summary = recording.summarize(None)
    assert abs(of_hum - of_hiss) > 1
    assert 24.5 < summary["min_start_seconds"] < 27  # the windows that reach into the stretch
    assert summary["score"] > summary["mean_score"] > summary["min_score"]
    lowest_quarter = np.argsort(recording.scores)[:5]
    assert all(24.5 < recording.starts[i] < 27 for i in lowest_quarter)


# Several files


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_files_in_shared_batches_have_the_scores_that_they_have_alone(countermeasure, tmp_path, batch_size):
    lengths = [3000, 30_000, CROP, 50_000, 500, 20_001]
    files = [write(tmp_path / f"{i}.wav", length, seed=i) for i, length in enumerate(lengths)]

    together = score(countermeasure, files, 0.25, batch_size)

    assert [recording.file for recording in together] == files
    for recording in together:
        (alone,) = score(countermeasure, [recording.file], 0.25, 1)
        assert recording.starts == alone.starts
        assert recording.scores == pytest.approx(alone.scores, abs=1e-6)
        assert recording.probabilities == pytest.approx(alone.probabilities, abs=1e-6)
    assert np.ptp([recording.scores[0] for recording in together]) > 0.1


def test_recording_is_handed_out_as_soon_as_it_is_scored(countermeasure, tmp_path):
    files = [write(tmp_path / f"{i}.wav", 2 * CROP, seed=i) for i in range(3)]

    def asked_for():
        yield files[0]
        yield files[1]
        raise AssertionError("the third file was asked for before the first was handed out")

    first = next(score_recordings(countermeasure, asked_for(), hop_seconds=0.25, batch_size=4))

    assert first.file == files[0] and len(first.scores) == 3


def test_batch_of_no_windows_is_refused(countermeasure, tmp_path):
    with pytest.raises(ValueError, match="batch_size 0 must be positive"):
        score(countermeasure, [write(tmp_path / "a.wav", CROP)], batch_size=0)


def test_nothing_to_score_gives_nothing(countermeasure):
    assert score(countermeasure, []) == []


@pytest.fixture(scope="module")
def whole_utterance_model(tmp_path_factory) -> Path:
    """A model of another author: it takes whole utterances, and its config has no decision threshold."""
    folder = tmp_path_factory.mktemp("whole")
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_kernel=(10, 8),
        conv_stride=(10, 8),
        feat_extract_norm="layer",
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        classifier_proj_size=8,
        id2label={0: "bonafide", 1: "spoof"},
        label2id={"bonafide": 0, "spoof": 1},
    )
    Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)
    AntiSpoofingFeatureExtractor(num_samples=None).save_pretrained(folder)
    return folder


def test_whole_utterances_are_one_window_each(whole_utterance_model, tmp_path):
    countermeasure = load_countermeasure(str(whole_utterance_model))
    files = [write(tmp_path / f"{i}.wav", length, seed=i) for i, length in enumerate([3000, 50_000])]

    recordings = score(countermeasure, files, 2.0, batch_size=1)

    assert [(recording.starts, recording.seconds) for recording in recordings] == [
        ([0], 3000 / 16_000),
        ([0], 50_000 / 16_000),
    ]
    expected = model_scores(countermeasure, [decode_audio(file) for file in files])
    assert [recording.scores[0] for recording in recordings] == pytest.approx(expected, abs=1e-5)


# One pass


class CountingContainer:
    """A container of PyAV that adds the size of each packet that is read to `read`."""

    def __init__(self, container, read: list[int]):
        self.container, self.read = container, read

    def __getattr__(self, name):
        return getattr(self.container, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.container.close()

    def demux(self, track):
        for packet in self.container.demux(track):
            self.read.append(packet.size)
            yield packet


@pytest.mark.parametrize("name", ["a.mp3", "a.ogg", "a.m4a"])
def test_recording_is_decoded_once_and_the_bar_counts_its_seconds(
    countermeasure, tmp_path, monkeypatch, name
):
    file = write(tmp_path / name, 4 * 44_100, rate=44_100, channels=2)
    with av.open(file) as container:
        sizes = [packet.size for packet in container.demux(audio=0)]
    open_container, read, bars = av.open, [], []
    monkeypatch.setattr(
        av, "open", lambda *args, **options: CountingContainer(open_container(*args, **options), read)
    )
    monkeypatch.setattr(
        processing.recordings, "tqdm", lambda **options: bars.append(tqdm(**options)) or bars[0]
    )

    (recording,) = score(countermeasure, [file])

    assert recording.error == "" and read == sizes
    (bar,) = bars
    assert bar.n == pytest.approx(recording.seconds) and bar.total == pytest.approx(
        recording.seconds, abs=0.1
    )


def test_bar_goes_on_over_files_that_can_not_be_read(countermeasure, tmp_path, monkeypatch):
    files = [
        write(tmp_path / "a.wav", 2 * CROP),
        tmp_path / "missing.wav",
        write(tmp_path / "b.wav", 3 * CROP),
    ]
    bars = []
    monkeypatch.setattr(
        processing.recordings, "tqdm", lambda **options: bars.append(tqdm(**options)) or bars[0]
    )

    score(countermeasure, files)

    assert (bars[0].n, bars[0].total) == (2.5, 2.5)


# Files that cannot be scored


def unreadable(folder: Path, kind: str) -> tuple[Path, str]:
    """A file that cannot be scored, and what its error must say."""
    file = folder / f"{kind}.wav"
    if kind == "text":
        file.write_text("This is a text about audio, not audio.\n" * 100)
        return file, "cannot be decoded"
    if kind == "empty":
        file.write_bytes(b"")
        return file, "is empty"
    if kind == "truncated":
        write(file, 10 * CROP)
        os.truncate(file, 100_000)
        return file, "was cut off"
    if kind == "infinite":  # near its end, when windows of it have been scored
        soundfile.write(file, np.append(noise(10 * CROP), np.inf), 16_000, subtype="FLOAT")
        return file, "NaN or infinite"
    if kind == "no samples":
        soundfile.write(file, np.zeros(0), 16_000)
        return file, "no"
    assert kind == "missing"
    return file, "There is no audio file"


KINDS = ["text", "empty", "truncated", "infinite", "no samples", "missing"]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_file_that_can_not_be_read_is_listed_with_the_reason_and_the_rest_is_scored(
    countermeasure, tmp_path, kind, batch_size
):
    first, last = (write(tmp_path / f"good{i}.wav", 2 * CROP, seed=i) for i in (1, 2))
    file, reason = unreadable(tmp_path, kind)

    recordings = score(countermeasure, [first, file, last], 0.25, batch_size)

    assert [recording.file for recording in recordings] == [first, file, last]
    assert recordings[0].error == recordings[2].error == ""
    assert reason in recordings[1].error and file.name in recordings[1].error
    for recording in (recordings[0], recordings[2]):
        (alone,) = score(countermeasure, [recording.file])
        assert recording.scores == pytest.approx(alone.scores, abs=1e-6)
    summary = recordings[1].summarize(0.0)
    assert {name for name, value in summary.items() if value is not None} == {"file", "error"}


def cut_off_mp3(folder: Path) -> Path:
    """It decodes for many windows before it turns out to be cut off."""
    file = write(folder / "cut.mp3", 300 * CROP)
    os.truncate(file, file.stat().st_size // 2)
    return file


@pytest.mark.parametrize("batch_size", [2, 7, 64])
def test_windows_of_a_file_that_breaks_off_late_do_not_mix_with_those_of_others(
    countermeasure, tmp_path, batch_size
):
    first, last = (write(tmp_path / f"good{i}.wav", 2 * CROP, seed=i) for i in (1, 2))
    file = cut_off_mp3(tmp_path)

    recordings = score(countermeasure, [first, file, last], 0.5, batch_size)

    assert [recording.file for recording in recordings] == [first, file, last]
    assert "was cut off" in recordings[1].error and len(recordings[1].starts) > 100
    for recording in (recordings[0], recordings[2]):
        (alone,) = score(countermeasure, [recording.file], 0.5)
        assert recording.scores == pytest.approx(alone.scores, abs=1e-6)


def test_windows_of_a_file_that_breaks_off_are_not_written(countermeasure, tmp_path):
    recordings = score(countermeasure, [cut_off_mp3(tmp_path)], 0.5, 7)

    write_recordings(tmp_path / "out", recordings, {"decision_threshold": 0.0})

    (content,) = json.loads((tmp_path / "out" / "recordings.json").read_text())["recordings"]
    assert content["windows"] == [] and content["score"] is None and "was cut off" in content["error"]


def test_score_that_is_no_number_is_an_error_of_its_file_and_no_nan_is_written(tmp_path):
    countermeasure = load_countermeasure(str(save_tiny_model(tmp_path / "model")))
    with torch.no_grad():
        countermeasure.model.classifier.bias[0] = torch.nan
    file = write(tmp_path / "a.wav", 3 * CROP)

    recordings = score(countermeasure, [file])
    write_recordings(tmp_path / "out", recordings, {"decision_threshold": 0.0})

    assert f"The score of {file} is nan" in recordings[0].error
    assert "NaN" not in (tmp_path / "out" / "recordings.json").read_text()


# Files of which a part is skipped


def test_what_is_skipped_stands_beside_the_score(countermeasure, tmp_path):
    file, whole = tmp_path / "a.m4a", write(tmp_path / "whole.m4a", 8 * CROP)
    content = bytearray(whole.read_bytes())
    at = content.index(b"mdat") + 8000
    content[at : at + 600] = np.random.default_rng(0).bytes(600)
    file.write_bytes(content)

    damaged, undamaged = recordings = score(countermeasure, [file, whole])
    write_recordings(tmp_path / "out", recordings, {"decision_threshold": 0.0})

    assert damaged.starts == undamaged.starts and damaged.scores[-1] == pytest.approx(undamaged.scores[-1])
    summary = damaged.summarize(0.0)
    assert 0.05 < summary["skipped_seconds"] < 0.4
    assert re.match(r"Skipped: [1-5] packets? that cannot be decoded, ", summary["remark"])
    assert describe_recording(summary).endswith(f"{file}: {summary['remark']}")
    with open(tmp_path / "out" / "recordings.csv", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["remark"] for line in lines] == [summary["remark"], ""]
    assert [float(line["skipped_seconds"]) for line in lines] == [summary["skipped_seconds"], 0]
    assert [int(line["skipped_packets"]) for line in lines] == [damaged.remarks.skipped_packets, 0]
    first, _ = json.loads((tmp_path / "out" / "recordings.json").read_text())["recordings"]
    assert (first["skipped_seconds"], first["remark"]) == (summary["skipped_seconds"], summary["remark"])


# Finding files


def test_folders_are_searched_to_the_bottom_in_sorted_order_and_other_files_are_counted(tmp_path):
    names = ["b.MP3", "a.wav", "deep/er/c.flac", "deep/d.m4a", "notes.txt", "deep/cover.jpg"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()

    found, num_others = find_recordings([tmp_path])

    assert [str(file.relative_to(tmp_path)) for file in found] == [
        "a.wav",
        "b.MP3",
        "deep/d.m4a",
        "deep/er/c.flac",
    ]
    assert num_others == 2


def test_files_named_are_taken_in_their_order_whatever_their_ending(tmp_path):
    files = [tmp_path / name for name in ("z.wav", "a.wav", "voice.message", "missing.wav")]

    assert find_recordings(files) == (files, 0)


def test_file_named_twice_and_found_in_its_folder_is_scored_once(tmp_path):
    a, b = tmp_path / "a.wav", tmp_path / "b.wav"
    a.touch(), b.touch()

    assert find_recordings([b, tmp_path, b]) == ([b, a], 0)


def test_file_named_by_another_path_is_scored_once(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.wav").touch()
    monkeypatch.chdir(tmp_path)
    paths = [Path("a.wav"), tmp_path / "a.wav", Path("folder/../a.wav")]

    assert find_recordings(paths) == ([Path("a.wav")], 0)


def test_folder_without_recordings_stands_for_itself_and_is_listed_as_unreadable(tmp_path):
    (tmp_path / "notes.txt").touch()

    assert find_recordings([tmp_path]) == ([tmp_path], 1)


# What is written


AWKWARD = ['comma, "quoted".wav', "голос 声 é.wav", "new\nline.wav", "cash$in$hand.wav", "a;b'c.wav"]


def test_csv_has_a_line_for_each_recording_with_the_values_of_its_summary(countermeasure, tmp_path):
    files = [write(tmp_path / name, 2 * CROP, seed=i) for i, name in enumerate(AWKWARD)]
    files.append(tmp_path / "missing.wav")
    recordings = score(countermeasure, files)

    write_recordings(tmp_path / "out", recordings, {"decision_threshold": 0.5})

    with open(tmp_path / "out" / "recordings.csv", encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        lines = list(reader)
    assert tuple(reader.fieldnames) == COLUMNS
    assert [line["file"] for line in lines] == list(map(str, files))
    numbers = ("score", "probability_bonafide", "seconds", "mean_score", "min_score", "min_start_seconds")
    for line, recording in zip(lines[:-1], recordings, strict=False):
        summary = recording.summarize(0.5)
        assert {name: float(line[name]) for name in numbers} == {name: summary[name] for name in numbers}
        assert (line["verdict"], line["num_windows"], line["error"]) == (summary["verdict"], "3", "")
    assert "There is no audio file" in lines[-1]["error"] and lines[-1]["score"] == ""


def test_json_has_every_window_after_what_the_scores_are_of(countermeasure, tmp_path):
    files = [write(tmp_path / name, 2 * CROP, seed=i) for i, name in enumerate(AWKWARD)]
    recordings = score(countermeasure, files)

    write_recordings(tmp_path / "out", recordings, {"decision_threshold": None, "model": "tiny"})

    content = json.loads((tmp_path / "out" / "recordings.json").read_text())
    assert content["model"] == "tiny"
    assert [written["file"] for written in content["recordings"]] == list(map(str, files))
    for written, recording in zip(content["recordings"], recordings, strict=True):
        windows = [(window["start_seconds"], window["score"]) for window in written["windows"]]
        assert windows == list(zip(recording.starts, recording.scores, strict=True))
        assert written["verdict"] is None and written["score"] == recording.scores[0]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "recordings.csv",
        "recordings.json",
    ]


@pytest.mark.parametrize("damaged", [False, True])
def test_name_that_is_not_utf8_does_not_lose_the_results(countermeasure, tmp_path, damaged):
    file = write(tmp_path / "a.wav", CROP).rename(tmp_path / os.fsdecode(b"caf\xe9.wav"))
    if damaged:
        file.write_text("no audio")
    recordings = score(countermeasure, [file])

    write_recordings(tmp_path / "out", recordings, {"decision_threshold": 0.5})

    with open(tmp_path / "out" / "recordings.csv", encoding="utf-8", newline="") as stream:
        (line,) = csv.DictReader(stream)
    assert line["file"].endswith("caf\\xe9.wav") and bool(line["error"]) == damaged


# Timelines


def test_every_longer_recording_gets_a_timeline_under_any_name(tmp_path):
    names = [*AWKWARD, os.fsdecode(b"caf\xe9.wav")]
    recordings = [Recording(Path(name), 1.0, [0, 0.5], [1, -1], [0.7, 0.3]) for name in names]
    recordings += [Recording(Path("short.wav"), 0.5, [0], [1], [0.7])]
    recordings += [Recording(Path("cut.mp3"), 1.0, [0, 0.5], [1, -1], [0.7, 0.3], error="was cut off")]

    write_timelines(tmp_path, recordings, 0.5, 0.0)

    expected = {f"timeline-{i:03}-{Path(name).stem}.png" for i, name in enumerate(names, start=1)}
    assert {path.name for path in tmp_path.iterdir()} == expected


# The script


@pytest.mark.slow  # test_eval.py does much of it within its own process
def test_script_prints_a_line_for_each_file_and_fails_if_one_is_unreadable(whole_utterance_model, tmp_path):
    file = write(tmp_path / "a.wav", CROP)
    command = [sys.executable, "eval.py", "--model", whole_utterance_model, "--output_dir", tmp_path / "out"]

    process = subprocess.run(
        [*command, "--files", file, tmp_path / "missing.wav"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )

    assert process.returncode == 1, process.stderr
    assert "Verdict: none" in process.stdout
    scored, missing = process.stdout.splitlines()[-3:-1]
    (recording,) = score(load_countermeasure(str(whole_utterance_model)), [file])
    assert float(scored.split()[0]) == pytest.approx(recording.scores[0], abs=1e-3)
    assert scored.endswith("a.wav") and "not scored" in missing and "missing.wav" in missing
    assert "1 of 2 recordings could not be scored" in process.stderr


# Memory


def test_memory_does_not_grow_with_the_length(countermeasure, tmp_path):
    def peak(minutes: int) -> int:
        file = tmp_path / f"{minutes}.flac"
        with soundfile.SoundFile(file, "w", 16_000, 1) as sound:
            for i in range(minutes):
                sound.write(noise(60 * 16_000, seed=i))
        tracemalloc.start()
        (recording,) = score(countermeasure, [file], 0.5)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(recording.scores) == 120 * minutes
        return peak

    peak(1)  # what is made once stays out of the measurement

    assert peak(3) - peak(1) < 2_000_000  # the two minutes more are 7.7 MB


def test_files_of_results_that_are_replaced_do_not_stay(tmp_path):
    for name in ("segments.rttm", "timeline-002-a.png", "report-002-a.html", "report-mine.html"):
        (tmp_path / name).touch()

    write_recordings(tmp_path, [], {"decision_threshold": None})
    assert (tmp_path / "report-002-a.html").is_file()  # of whom is not known

    write_recordings(tmp_path, [], {"decision_threshold": None})
    assert {path.name for path in tmp_path.iterdir()} == {
        *("recordings.csv", "recordings.json", "report-mine.html")
    }
