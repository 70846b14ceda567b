"""Scores of a stream: those of the windows of the same recording, while it comes."""

import io
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_base_model import ENCODER_SIZES
from tiny_model import save_tiny_model
from transformers import AutoModelForAudioClassification

from modeling import AntiSpoofingFeatureExtractor, LCNNConfig, LFCCGMMConfig, Wav2Vec2AntiSpoofingConfig
from processing.audio import decode_audio, decode_stream
from processing.models import Countermeasure, load_countermeasure
from processing.recordings import score_recordings
from processing.streaming import MAX_WHOLE_SECONDS, StreamingScorer


CROP, RATE = 8000, 16_000  # half a second
CONFIGS = {
    "lcnn": LCNNConfig(num_samples=CROP),
    "lfcc-gmm": LFCCGMMConfig(num_components=8),
    "wav2vec2": Wav2Vec2AntiSpoofingConfig(
        num_samples=CROP, encoder_config={"model_type": "wav2vec2", **ENCODER_SIZES}
    ),
}


@pytest.fixture(scope="module")
def countermeasure(tmp_path_factory) -> Countermeasure:
    return load_countermeasure(str(save_tiny_model(tmp_path_factory.mktemp("model"))))


def make_signal(num_samples: int) -> np.ndarray:
    """Noise that swells and fades, so that every window has a score of its own."""
    swell = 0.2 + 0.2 * np.sin(np.arange(num_samples) / 3000)
    return (swell * np.random.default_rng(num_samples).uniform(-1, 1, num_samples)).astype(np.float32)


def stream(of: Countermeasure, chunks: list[np.ndarray], **settings) -> list:
    scorer = StreamingScorer(of.model, of.feature_extractor, calibration=of.calibration, **settings)
    return [result for chunk in chunks for result in scorer.push(chunk)] + scorer.finish()


def score(of: Countermeasure, samples: np.ndarray) -> float:
    """Logit of bona fide minus logit of spoof."""
    inputs = of.feature_extractor(samples, sampling_rate=RATE, return_tensors="pt")
    with torch.inference_mode():
        logits = of.model(**inputs).logits[0]
    ids = of.model.config.label2id
    return float(logits[ids["bonafide"]] - logits[ids["spoof"]])


# Windows


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_samples=st.integers(1, 3 * CROP),
    hop=st.integers(2000, CROP),
    places=st.lists(st.integers(0, 3 * CROP), max_size=8),
    num_early=st.sampled_from([None, 1600, 3000, 20_000]),
)
def test_any_chunks_give_the_scores_of_the_offline_windows_and_early_ones(
    countermeasure, num_samples, hop, places, num_early
):
    signal = make_signal(num_samples)
    chunks = np.split(signal, sorted(place for place in places if place < num_samples))
    wave = io.BytesIO()
    soundfile.write(wave, signal, RATE, "FLOAT", format="WAV")

    options = {"hop_seconds": hop / RATE, "min_seconds": num_early and num_early / RATE}
    results = stream(countermeasure, chunks, **options)

    source = {"path": None, "bytes": wave.getvalue()}
    (recording,) = score_recordings(countermeasure, [source], hop_seconds=hop / RATE)
    windows = [of.window for of in results if not of.is_early]
    assert [of.start_seconds for of in windows] == recording.starts
    assert windows[-1].end_seconds == recording.seconds == num_samples / RATE
    assert [of.score for of in windows] == pytest.approx(recording.scores, abs=1e-5)
    summary = recording.summarize(None)
    if summary["mean_score"] is not None:
        assert results[-1].mean_score == pytest.approx(summary["mean_score"], abs=1e-5)
        assert results[-1].min_score == pytest.approx(summary["min_score"], abs=1e-5)
    early = {1600: [1600, 3200], 3000: [3000]}.get(num_early, [])
    early = [length for length in early if length <= num_samples]
    assert [of.window.end_seconds for of in results[: len(early)]] == [length / RATE for length in early]
    expected = [score(countermeasure, np.resize(signal[:length], CROP)) for length in early]
    assert [of.window.score for of in results if of.is_early] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_system_scores_a_stream_as_a_recording(name, tmp_path):
    torch.manual_seed(0)
    model = AutoModelForAudioClassification.from_config(CONFIGS[name]).eval()
    extractor = AntiSpoofingFeatureExtractor(num_samples=CONFIGS[name].num_samples)
    calibration = {"a": 2.0, "b": 1.0, "bounds": [-0.1, 0.1]}
    system = Countermeasure(name, tmp_path, None, model, extractor, calibration=calibration)
    signal = make_signal(21_000)
    soundfile.write(tmp_path / "a.wav", signal, RATE, "FLOAT")

    results = stream(system, np.split(signal, range(700, 21_000, 700)), min_seconds=0.2)

    (recording,) = score_recordings(system, [tmp_path / "a.wav"])
    windows = [of.window for of in results if not of.is_early]
    assert len(windows) == (1 if name == "lfcc-gmm" else 5)
    for names in (("score", "scores"), ("llr", "llrs"), ("probability", "probabilities")):
        of_window, of_recording = names
        found = [getattr(window, of_window) for window in windows]
        assert found == pytest.approx(getattr(recording, of_recording), abs=1e-5)
    early = [of.window for of in results if of.is_early]
    assert [of.end_seconds for of in early] == ([0.2, 0.4, 0.8] if name == "lfcc-gmm" else [0.2])
    expected = [score(system, signal[: round(of.end_seconds * RATE)]) for of in early]
    assert [of.score for of in early] == pytest.approx(expected, abs=1e-5)


def test_memory_does_not_grow_with_the_stream(countermeasure):
    scorer = StreamingScorer(countermeasure.model, countermeasure.feature_extractor, hop_seconds=0.5)
    chunk, sizes = make_signal(RATE), []
    tracemalloc.start()
    for seconds in range(1, 41):
        assert len(scorer.push(chunk)) == 2
        if seconds % 20 == 0:
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()

    assert sizes[1] - sizes[0] < 4 * RATE  # less than one of twenty chunks


def test_digital_silence_is_withheld_and_counts_for_nothing(countermeasure):
    results = stream(countermeasure, [np.zeros(CROP, np.float32), make_signal(CROP)], hop_seconds=0.5)

    assert "0.00 s of sound" in results[0].window.doubt and np.isnan(results[0].mean_score)
    assert results[1].mean_score == results[1].min_score == results[1].window.score


def test_chunks_that_are_no_signal_are_refused(countermeasure):
    scorer = StreamingScorer(countermeasure.model, countermeasure.feature_extractor)
    for chunk in (np.zeros(4, np.int16), np.zeros((2, 4), np.float32)):
        with pytest.raises(ValueError, match="floating point in .* divide 16-bit samples by 32768"):
            scorer.push(chunk)
    with pytest.raises(ValueError, match="NaN or infinity"):
        scorer.push(np.full(CROP, np.nan))
    scorer.finish()
    with pytest.raises(ValueError, match="was finished"):
        scorer.push(np.zeros(4))


def test_whole_recordings_are_held_for_an_hour_at_most(tmp_path):
    model = AutoModelForAudioClassification.from_config(CONFIGS["lfcc-gmm"])
    scorer = StreamingScorer(model, AntiSpoofingFeatureExtractor(num_samples=None))

    with pytest.raises(ValueError, match="whole recordings, up to 1:00:00.0"):
        scorer.push(np.broadcast_to(np.float32(0), MAX_WHOLE_SECONDS * RATE + 1))


# Pipes


def open_pipe(content: bytes) -> io.FileIO:
    """The reading end of a pipe into which something else writes this."""
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb", buffering=0) as end:
            for start in range(0, len(content), 5000):
                end.write(content[start : start + 5000])

    threading.Thread(target=write, daemon=True).start()
    return open(reading, "rb", buffering=0)


def encode(kind: str, rate: int = 44_100) -> bytes:
    content, signal = io.BytesIO(), np.stack([make_signal(3 * rate), make_signal(3 * rate)[::-1]], axis=1)
    soundfile.write(content, signal, rate, format=kind)
    return content.getvalue()


@pytest.mark.parametrize(
    ("kind", "num_padded"),  # samples of MP3 frames that their encoder filled up: the end is not known yet
    [("WAV", 0), ("WAV of unknown length", 0), ("FLAC", 0), ("OGG", 0), ("MP3", 83)],
)
def test_pipe_has_the_bits_of_the_file(kind, num_padded):
    content = encode(kind.split()[0])
    piped = content
    if "unknown" in kind:  # what ffmpeg writes into a pipe
        piped = content.replace(content[4:8], b"\xff" * 4, 1)
        place = piped.index(b"data") + 4
        piped = piped[:place] + b"\xff" * 4 + piped[place + 4 :]

    rate, parts = decode_stream(open_pipe(piped))

    found, expected = np.concatenate(list(parts)), decode_audio(content)
    assert rate == 44_100 and len(found) == len(expected) + num_padded
    end = len(expected) - num_padded  # resampling sees a little of what follows
    np.testing.assert_array_equal(found[:end], expected[:end])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "The stream cannot be decoded as audio"),
        (b"no audio" * 1000, "The stream cannot be decoded as audio"),
        (encode("FLAC", 16_000)[:60_000], "The stream was cut off: .* samples are missing"),
    ],
)
def test_pipe_of_something_else_is_an_error(content, message):
    with pytest.raises(ValueError, match=message):
        list(decode_stream(open_pipe(content))[1])


def test_script_prints_windows_while_the_pipe_is_open_and_ends_by_ctrl_c(countermeasure):
    samples, content = make_signal(3 * CROP), io.BytesIO()
    soundfile.write(content, samples, RATE, "FLOAT", format="WAV")
    command = [
        sys.executable,
        "eval.py",
        "--model",
        countermeasure.folder,
        "--stream",
        "--min_seconds",
        "0.2",
    ]
    process = subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    process.stdin.write(content.getvalue()[: -4 * CROP])
    process.stdin.flush()

    lines = iter(process.stdout.readline, b"")
    early = next(line for line in lines if b"early" in line).split()
    first = next(lines).split()
    process.send_signal(signal.SIGINT)  # the pipe stays open
    rest = process.stdout.read().decode().splitlines()

    assert process.wait(60) == 0
    process.stdin.close()
    assert float(early[0]) == pytest.approx(score(countermeasure, np.resize(samples[:3200], CROP)), abs=1e-3)
    assert float(first[0]) == pytest.approx(score(countermeasure, samples), abs=1e-3)
    summary = rest[-1].split()
    assert (summary[0], summary[-1]) == (first[0].decode(), "stream")
    assert int(summary[5]) >= 1
