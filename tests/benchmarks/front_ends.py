"""
Milliseconds of CPU per utterance of 4 s of the front ends on one thread, in batches of 1 and of 32, forward
and forward with backward: the constant-Q transform against `librosa.cqt` of the same bins, LFCC (without
deltas) against `torchaudio.transforms.LFCC` of the same sizes, on the same core in the same run.

    python tests/benchmarks/front_ends.py
"""

import time
from collections.abc import Callable
from datetime import date

import librosa
import torch
import torchaudio
from torch import nn

from modeling import LCNNConfig
from modeling.configuration_lfcc import LFCCFrontEndConfig
from modeling.cqt import CQT
from modeling.lfcc import LFCC
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


def by_librosa(cqt: CQT, waveform: torch.Tensor) -> None:
    librosa.cqt(
        waveform.numpy(),
        sr=cqt.config.sampling_rate,
        hop_length=cqt.config.cqt_hop_length,
        fmin=cqt.config.cqt_min_frequency,
        n_bins=cqt.config.cqt_num_bins,
        bins_per_octave=cqt.config.cqt_bins_per_octave,
        tuning=0,
        pad_mode="constant",
    )


def by_torchaudio(config: LFCCFrontEndConfig) -> nn.Module:
    return torchaudio.transforms.LFCC(
        sample_rate=config.sampling_rate,
        n_filter=config.lfcc_num_filters,
        f_min=config.lfcc_min_frequency,
        f_max=config.lfcc_max_frequency,
        n_lfcc=config.lfcc_num_coefficients,
        log_lf=True,
        speckwargs={
            "n_fft": config.lfcc_fft_size,
            "win_length": config.lfcc_window_length,
            "hop_length": config.lfcc_hop_length,
            "window_fn": torch.hamming_window,
            "center": False,
        },
    )


def compare(name: str, front_end: nn.Module, library: str, plain: Callable, batch: int) -> None:
    waveform = 0.1 * torch.randn(batch, SAMPLES)

    def forward():
        with torch.no_grad():
            front_end(waveform)

    def forward_and_backward():
        front_end(waveform.clone().requires_grad_()).sum().backward()

    def of_library():
        with torch.no_grad():
            plain(waveform)

    times = milliseconds({"forward": forward, "backward": forward_and_backward, "library": of_library})
    times = {key: value / batch for key, value in times.items()}
    print(
        f"{name}, batch {batch}, ms per utterance of {SAMPLES} samples: {library} {times['library']:.2f}, "
        f"forward {times['forward']:.2f} ({times['library'] / times['forward']:.1f} times as fast), "
        f"forward and backward {times['backward']:.2f}"
    )


def main() -> None:
    torch.set_num_threads(1)
    print(f"{date.today()}, {describe_environment()['hardware']}, one thread")
    config = LFCCFrontEndConfig(lfcc_num_deltas=0)
    cqt, lfcc, torchaudio_lfcc = CQT(LCNNConfig(front_end="cqt")), LFCC(config), by_torchaudio(config)
    for batch in (1, 32):
        compare("CQT", cqt, "librosa.cqt", lambda waveform: by_librosa(cqt, waveform), batch)
        compare("LFCC", lfcc, "torchaudio", torchaudio_lfcc, batch)


if __name__ == "__main__":
    main()
