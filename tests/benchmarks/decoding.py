"""Decoding in utterances per second of one core: the first 4 s of a longer file, against the whole of it.

    python tests/benchmarks/decoding.py
    python tests/benchmarks/decoding.py --data_dir LA/ASVspoof2019_LA_eval/flac --num_files 200

Without a folder, FLAC files of 10 s are made of speech-like noise. The ways alternate within each repeat, so
that what else the machine does falls on all of them; a row gives the best and the median repeat. Time is the
process's own CPU time, with the files in the page cache: what the disk costs is not in it.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import av
import numpy as np
import soundfile as sf
import torch
import torchaudio


sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from processing.audio import _read_by_ffmpeg, decode_audio  # noqa: E402
from processing.audio_file import open_audio_file  # noqa: E402


CLIP = 64_000  # samples: 4 s at 16 kHz


def speech_like(rate: int, seconds: float, seed: int) -> np.ndarray:
    """Noise with a falling spectrum that swells twice a second: work for FLAC's predictor, as speech is."""
    generator = np.random.default_rng(seed)
    samples = int(rate * seconds)
    spectrum = np.fft.rfft(generator.standard_normal(samples))
    frequencies = np.fft.rfftfreq(samples, 1 / rate)
    noise = np.fft.irfft(spectrum / (1 + (frequencies / 500) ** 2), samples)
    syllables = 0.05 + np.abs(np.sin(2 * np.pi * 2 * np.arange(samples) / rate))
    signal = noise * syllables
    return (0.5 * signal / np.abs(signal).max()).astype(np.float32)


def write_files(folder: Path, count: int, rate: int, seconds: float) -> list[Path]:
    paths = [folder / f"{rate}_{index}.flac" for index in range(count)]
    for index, path in enumerate(paths):
        sf.write(path, speech_like(rate, seconds, index), rate)
    return paths


def whole_by_soundfile(path: Path) -> np.ndarray:
    return sf.read(path, dtype="float32")[0]


def clip_by_pyav(path: Path) -> np.ndarray:
    """What a file takes that libsndfile refuses, on files that it would read."""
    with open_audio_file(path) as file:
        blocks = _read_by_ffmpeg(file, lambda rate: (0, CLIP))
        return np.concatenate([mono for mono, _ in blocks])


def middle_by_seek(path: Path) -> np.ndarray:
    return decode_audio(path, start=sf.info(path).frames // 2, num_samples=CLIP)


def measure(ways: dict[str, tuple[Callable, list[Path]]], repeats: int) -> dict[str, list[float]]:
    """Utterances per CPU second of every way in every repeat, after one that does not count."""
    speeds = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, (decode, paths) in ways.items():
            begin = time.process_time()
            for path in paths:
                decode(path)
            if repeat:
                speeds[name].append(len(paths) / (time.process_time() - begin))
    return speeds


def cpu_name() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    if sys.platform == "darwin":
        return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data_dir", type=Path, help="folder of 16 kHz FLAC files to decode instead of made ones"
    )
    parser.add_argument("--num_files", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as folder:
        if arguments.data_dir:
            paths = sorted(arguments.data_dir.rglob("*.flac"))[: arguments.num_files]
        else:
            paths = write_files(Path(folder), arguments.num_files, 16_000, 10.0)
        if not paths:
            parser.error(f"there is no FLAC file in {arguments.data_dir}")
        resampled = write_files(Path(folder), max(1, arguments.num_files // 4), 44_100, 10.0)
        first_clip = partial(decode_audio, num_samples=CLIP)
        ways = {
            "first 4 s, decode_audio": (first_clip, paths),
            "whole file, decode_audio": (decode_audio, paths),
            "whole file, soundfile.read": (whole_by_soundfile, paths),
            "4 s from the middle, decode_audio": (middle_by_seek, paths),
            "first 4 s, as if libsndfile refused": (clip_by_pyav, paths),
            "first 4 s of 44.1 kHz, resampled": (first_clip, resampled),
        }
        speeds = measure(ways, arguments.repeats)
        seconds = statistics.mean(sf.info(path).duration for path in paths)

    print(f"{'utterances per CPU second, one core':<38}{'best':>8}{'median':>8}")
    for name, values in speeds.items():
        print(f"{name:<38}{max(values):>8.0f}{statistics.median(values):>8.0f}")
    print(f"\n{len(paths)} FLAC files of {seconds:.1f} s on average, {arguments.repeats} alternating repeats")
    print(
        f"{cpu_name()}, {os.cpu_count()} cores; Python {platform.python_version()}, "
        f"soundfile {sf.__version__} with libsndfile {sf.__libsndfile_version__}, PyAV {av.__version__}, "
        f"torch {torch.__version__}, torchaudio {torchaudio.__version__}; {date.today()}"
    )


if __name__ == "__main__":
    main()
