"""Log-power constant-Q transform of the waveform (Brown, JASA 1991) as a module, computed octave by octave on
decimated signals (Schoerkhuber & Klapuri, SMC 2010), with the kernels and the scaling of `librosa.cqt`."""

import math

import torch
from torch.nn import functional as F
from transformers import initialization as init

from .configuration_lcnn import LCNNConfig
from .float32 import Float32Module


HALF_BAND_REACH = 21  # taps on either side of the middle one; odd, so that the outermost are not zero
HALF_BAND_BETA = 12.0  # of the Kaiser window: the stop-band, above 0.35 of the sampling rate, is at -117 dB
HALF_BAND_BLOCK = 32  # samples of the decimated signal that one row of the matrix product yields
# A decimated signal has its Nyquist frequency at least this many times above the bins computed from it. What
# the windows' side lobes would have taken up above it is then 5e-6 of the largest magnitude; with 2, 7e-5.
HEADROOM = 4.0


def quality_factor(bins_per_octave: int) -> float:
    """
    Q = f / bandwidth with librosa's bandwidth, (r^2 - 1) / (r^2 + 1) of f with r = 2^(1 / bins_per_octave):
    17.34 for 12 bins per octave, where Brown's 1 / (r - 1) is 16.82.
    """
    ratio = 4 ** (1 / bins_per_octave)
    return (ratio + 1) / (ratio - 1)


def decimation_matrix() -> torch.Tensor:
    """
    A half-band filter, low-pass at a quarter of the sampling rate, and the dropping of every second sample as
    a matrix that takes overlapping blocks of the signal to blocks of the decimated one, float64,
    (2 (HALF_BAND_BLOCK - 1) + taps, HALF_BAND_BLOCK).
    """
    time = torch.arange(-HALF_BAND_REACH, HALF_BAND_REACH + 1, dtype=torch.float64)
    window = torch.kaiser_window(len(time), periodic=False, beta=HALF_BAND_BETA, dtype=torch.float64)
    taps = window * torch.sinc(time / 2)
    matrix = torch.zeros(2 * (HALF_BAND_BLOCK - 1) + len(taps), HALF_BAND_BLOCK, dtype=torch.float64)
    for column in range(HALF_BAND_BLOCK):
        matrix[2 * column : 2 * column + len(taps), column] = taps / taps.sum()
    return matrix


def cqt_kernels(frequency: torch.Tensor, quality: float, sampling_rate: int, step: int) -> torch.Tensor:
    """
    Kernels of some bins for a signal of which every `step`-th sample is kept: with N = Q sampling_rate / f,
    the Hann window (1 + cos(2 pi n / N)) / 2, |n| < N / 2, divided by its sum over all n and multiplied by
    sqrt(N), times exp(-2 pi i f n / sampling_rate).

    Args:
        frequency: (bins,), f in Hz, float64.

    Returns:
        (taps, 2 bins), float64: the real parts, then the imaginary parts; the middle row is n = 0.
    """
    length = quality * sampling_rate / frequency  # (bins,), N in samples before decimation

    def hann(time: torch.Tensor) -> torch.Tensor:
        window = (1 + torch.cos(2 * math.pi * time / length)) / 2
        return torch.where(time.abs() < length / 2, window, 0)

    reach = math.ceil(float(length.max()) / 2)
    scale = length.sqrt() / hann(torch.arange(-reach, reach + 1, dtype=torch.float64)[:, None]).sum(0)
    reach = math.ceil(float(length.max()) / (2 * step)) - 1
    time = step * torch.arange(-reach, reach + 1, dtype=torch.float64)[:, None]  # (taps, 1)
    window = step * scale * hann(time)  # (taps, bins)
    phase = 2 * math.pi * frequency / sampling_rate * time
    return torch.cat([window * phase.cos(), -window * phase.sin()], dim=1)


class CQT(Float32Module):
    """
    Log-power constant-Q transform. Bin k lies at f_k = cqt_min_frequency 2^(k / cqt_bins_per_octave), and

        X_k(t) = sqrt(N_k) / sum_n w_k(n)
                 * sum_n x(t cqt_hop_length + n) w_k(n) exp(-2 pi i f_k n / sampling_rate)

    with the Hann window w_k of length N_k = Q sampling_rate / f_k samples centred on the frame and x zero
    outside the utterance. White noise of variance s gives a power near 1.5 s in every bin. This is
    `librosa.cqt(..., pad_mode="constant")`, but that its windows are the same to the sample at every rate.

    The lower octaves are computed on signals that a half-band filter has decimated, as often as the hop
    length can be halved: one with few factors of two costs time. The kernels are computed in float64 and kept
    as persistent float32 buffers, also where the model is cast to half precision; for loading in half
    precision, the model names this module in `_keep_in_fp32_modules_strict`.

    Raises:
        ValueError: a top bin that reaches above half the sampling rate.
    """

    def __init__(self, config: LCNNConfig):
        super().__init__()
        self.config = config
        # The Hann window's power spectrum is 1.5 bandwidths wide at half its height.
        top = self._frequency(config.cqt_num_bins - 1)
        edge = top * (1 + 0.75 / quality_factor(config.cqt_bins_per_octave))
        if edge > config.sampling_rate / 2:
            raise ValueError(
                f"cqt_num_bins={config.cqt_num_bins} with cqt_bins_per_octave={config.cqt_bins_per_octave} "
                f"from cqt_min_frequency={config.cqt_min_frequency} Hz ends at {top:.1f} Hz, whose band "
                f"reaches to {edge:.1f} Hz, above half the sampling rate of {config.sampling_rate} Hz: take "
                "fewer bins or a lower cqt_min_frequency."
            )
        self.octaves = self._split_octaves()
        for name, value in self._filters().items():
            self.register_buffer(name, value.float())

    def _frequency(self, k: int | torch.Tensor) -> float | torch.Tensor:
        """Of bin k in Hz."""
        return self.config.cqt_min_frequency * 2 ** (k / self.config.cqt_bins_per_octave)

    def _split_octaves(self) -> list[tuple[int, int, int]]:
        """First bin, bin after the last, and step from one sample that is kept to the next, a power of two:
        octave by octave from the top."""
        config, octaves = self.config, []
        for end in range(config.cqt_num_bins, 0, -config.cqt_bins_per_octave):
            step, highest = 1, config.sampling_rate / 2 / HEADROOM
            while config.cqt_hop_length % (2 * step) == 0 and 2 * step * self._frequency(end - 1) <= highest:
                step *= 2
            octaves.append((max(0, end - config.cqt_bins_per_octave), end, step))
        return octaves

    def _filters(self) -> dict[str, torch.Tensor]:
        """The buffers by name, in float64."""
        config = self.config
        quality = quality_factor(config.cqt_bins_per_octave)
        with torch.device("cpu"):
            frequency = self._frequency(torch.arange(config.cqt_num_bins, dtype=torch.float64))
            filters = {
                f"kernels_{i}": cqt_kernels(frequency[first:end], quality, config.sampling_rate, step)
                for i, (first, end, step) in enumerate(self.octaves)
            }
            if self.octaves[-1][2] > 1:  # of the lowest octave, the largest
                filters["decimation"] = decimation_matrix()
        return filters

    def init_weights(self) -> None:
        """Set the buffers, but where they have been loaded."""
        for name, value in self._filters().items():
            init.copy_(getattr(self, name), value)

    def _decimate(self, signal: torch.Tensor, origin: int) -> tuple[torch.Tensor, int]:
        """
        Half the rate of (batch, samples) whose sample `origin` is time zero, with the filter's transients
        before and after it; the new signal and its origin.
        """
        left = 2 * HALF_BAND_REACH + (origin + HALF_BAND_REACH) % 2
        blocks = math.ceil((left + signal.shape[1] + 1) / (2 * HALF_BAND_BLOCK))
        span, stride = self.decimation.shape[0], 2 * HALF_BAND_BLOCK
        signal = F.pad(signal, (left, (blocks - 1) * stride + span - left - signal.shape[1]))
        signal = signal.unfold(1, span, stride) @ self.decimation.to(signal.dtype)
        return signal.flatten(1), (origin + left - HALF_BAND_REACH) // 2

    def _responses(self, waveform: torch.Tensor) -> list[torch.Tensor]:
        """Real and imaginary parts, octave by octave from the bottom, each (batch, frames, 2, bins)."""
        if waveform.ndim != 2 or waveform.shape[1] == 0:
            raise ValueError(
                f"waveform has the shape {tuple(waveform.shape)}; (batch, samples) with at least one sample "
                "is expected."
            )
        signal = waveform.to(torch.promote_types(waveform.dtype, torch.float32))
        num_frames = 1 + signal.shape[1] // self.config.cqt_hop_length
        origin, decimation, responses = 0, 1, []
        for i, (first, end, step) in enumerate(self.octaves):
            while decimation < step:
                signal, origin = self._decimate(signal, origin)
                decimation *= 2
            kernels = getattr(self, f"kernels_{i}").to(signal.dtype)  # (taps, 2 bins)
            hop = self.config.cqt_hop_length // step
            start = origin - kernels.shape[0] // 2
            stop = start + (num_frames - 1) * hop + kernels.shape[0]
            frames = F.pad(signal, (-start, stop - signal.shape[1])).unfold(1, kernels.shape[0], hop)
            responses.append((frames @ kernels).unflatten(2, (2, end - first)))
        return responses[::-1]

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """
        Waveform (batch, samples) to log10(|X|^2 + cqt_log_floor), (batch, cqt_num_bins, 1 + samples //
        cqt_hop_length), float32 (float64 for float64), also under autocast.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            powers = [parts.square().sum(2).transpose(1, 2) for parts in self._responses(waveform)]
            return torch.log10(torch.cat(powers, dim=1) + self.config.cqt_log_floor)


__all__ = ["CQT"]
