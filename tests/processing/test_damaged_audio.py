"""Damaged files: what decodes is what the ffmpeg program decodes, at its time; what was skipped is said."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile as sf

from processing.audio import count_samples, decode_audio
from processing.audio_file import Remarks


RATE = 16_000
SECONDS = 4.0
ENCODERS = {
    "a.mp3": ["-b:a", "64k"],
    "vbr.mp3": ["-q:a", "5"],
    "stream.mp3": ["-b:a", "64k", "-write_xing", "0"],
    "a.aac": [],
    "a.m4a": [],
    "a.ogg": ["-c:a", "libvorbis"],
    "a.opus": [],
    "a.webm": ["-c:a", "libopus"],
    "a.mka": ["-c:a", "aac"],
    "a.wma": [],
    "a.ts": ["-c:a", "aac"],
    "a.ac3": [],
    "a.mp2": [],
    "a.flac": [],
}


def run_ffmpeg(*arguments) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "quiet", "-y", *map(str, arguments)]
    return subprocess.run(command, capture_output=True).stdout


def ffmpeg_pcm(path: Path) -> np.ndarray:
    """At 16 kHz, as the ffmpeg program decodes the file, damaged or not."""
    return np.frombuffer(run_ffmpeg("-i", path, "-ar", RATE, "-f", "f32le", "-"), "<f4")


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> dict[str, bytes]:
    """Content of a file in each format: noise that swells, so that every second is unlike the others."""
    folder = tmp_path_factory.mktemp("sound")
    time = np.arange(int(RATE * SECONDS)) / RATE
    noise = np.random.default_rng(0).standard_normal(len(time)) * (0.02 + 0.05 * time)
    sf.write(folder / "original.wav", noise, RATE)
    for name, options in ENCODERS.items():
        run_ffmpeg("-i", folder / "original.wav", *options, folder / name)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def overwrite(content: bytes, at: float, num_bytes: int) -> bytes:
    """Noise over so many bytes, from a place on that is a part of the whole."""
    begin = int(len(content) * at)
    noise = np.random.default_rng(1).integers(0, 256, num_bytes, dtype=np.uint8).tobytes()
    return content[:begin] + noise + content[begin + num_bytes :]


def decode(path: Path) -> tuple[np.ndarray, Remarks]:
    remarks = Remarks()
    samples = decode_audio(path, remarks=remarks)
    assert count_samples(path) == len(samples)
    return samples, remarks


# What is appended


@pytest.mark.parametrize("junk", [b"{}", b"\n", bytes(100)])
@pytest.mark.parametrize("name", ["a.mp3", "vbr.mp3", "stream.mp3", "a.mp2", "a.aac"])
def test_what_follows_the_last_packet_costs_nothing_but_a_remark(sound, tmp_path, name, junk):
    path = tmp_path / name
    path.write_bytes(sound[name])
    whole, _ = decode(path)
    path.write_bytes(sound[name] + junk)

    samples, remarks = decode(path)

    np.testing.assert_array_equal(samples, whole)
    assert remarks.skipped_seconds == 0
    assert "1 packet that cannot be decoded" in remarks.describe() or "left unread" in remarks.describe()
