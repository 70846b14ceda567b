"""
Milliseconds of CPU per utterance of 4 s of the constant-Q transform on one thread, forward and forward with
backward, in batches of 1 and of 32, against `librosa.cqt` of the same bins on the same core in the same run.

    python tests/benchmarks/cqt.py
"""

import time
from collections.abc import Callable
from datetime import date

import librosa
import torch

from modeling.cqt import CQT
from processing.results import describe_environment


SAMPLES = 64_000
REPEATS = 10


def milliseconds(functions: dict[str, Callable]) -> dict[str, float]:
    """Shortest CPU time of each, taken in turns, so that another load on the machine falls on all."""
    times = {name: [] for name in functions}
    for repeat in range(REPEATS + 1):
        for name, function in functions.items():
            start = time.process_time()
            function()
            if repeat:  # the first is a warm-up
                times[name].append(1000 * (time.process_time() - start))
    return {name: min(values) for name, values in times.items()}


def main() -> None:
    torch.set_num_threads(1)
    print(f"{date.today()}, {describe_environment()['hardware']}, one thread")
    cqt = CQT()
    for batch in (1, 32):
        waveform = 0.1 * torch.randn(batch, SAMPLES)
        array = waveform.numpy()

        def forward(waveform=waveform):
            with torch.no_grad():
                cqt(waveform)

        def forward_and_backward(waveform=waveform):
            cqt(waveform.clone().requires_grad_()).sum().backward()

        def by_librosa(array=array):
            librosa.cqt(
                array,
                sr=cqt.sampling_rate,
                hop_length=cqt.hop_length,
                fmin=cqt.min_frequency,
                n_bins=cqt.num_bins,
                bins_per_octave=cqt.bins_per_octave,
                tuning=0,
                pad_mode="constant",
            )

        times = milliseconds({"forward": forward, "backward": forward_and_backward, "librosa": by_librosa})
        times = {name: value / batch for name, value in times.items()}
        print(
            f"batch {batch}, ms per utterance of {SAMPLES} samples: librosa.cqt {times['librosa']:.1f}, "
            f"forward {times['forward']:.1f} ({times['librosa'] / times['forward']:.0f} times as fast), "
            f"forward and backward {times['backward']:.1f}"
        )


if __name__ == "__main__":
    main()
