"""
CPU seconds that `decode_windows` takes for a recording of 10 minutes, in windows of 4 s every 2 s, on one
core, against decoding it alone (blocks of soundfile for FLAC, frames of PyAV for MP3).

    python tests/benchmarks/windows.py
"""

import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import av
import numpy as np
import soundfile
import torch

from processing.audio import decode_windows
from processing.results import describe_environment


MINUTES = 10


def write(path: Path, rate: int, channels: int) -> Path:
    generator = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", rate, channels) as sound:
        for _ in range(MINUTES):
            noise = np.cumsum(generator.standard_normal((60 * rate, channels)), axis=0)
            sound.write((0.1 * np.diff(noise, 2, axis=0, prepend=0)[1:] / 2).astype(np.float32))
    return path


def by_soundfile(path: Path) -> None:
    for _ in soundfile.blocks(path, 2**16, dtype="float32"):
        pass


def by_pyav(path: Path) -> None:
    with av.open(str(path)) as container:
        for _ in container.decode(audio=0):
            pass


def windows(path: Path) -> None:
    for _ in decode_windows(path, num_samples=64_000, hop=32_000):
        pass


def cpu_seconds(function: Callable, path: Path) -> float:
    times = []
    for _ in range(3):
        start = time.process_time()
        function(path)
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    torch.set_num_threads(1)
    print(f"{date.today()}, {describe_environment()['hardware']}")
    with tempfile.TemporaryDirectory() as folder:
        for name, rate, channels, decode in (
            ("a.flac", 16_000, 1, by_soundfile),
            ("a.mp3", 44_100, 2, by_pyav),
        ):
            path = write(Path(folder) / name, rate, channels)
            alone, ours = cpu_seconds(decode, path), cpu_seconds(windows, path)
            print(
                f"{MINUTES} minutes of {path.suffix} at {rate} Hz, {channels} channels: decoding alone "
                f"{alone:.2f} s, windows {ours:.2f} s, {ours / alone:.1f} times"
            )


if __name__ == "__main__":
    main()
