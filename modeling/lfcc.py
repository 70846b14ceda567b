"""Linear-frequency cepstral coefficients (LFCC) as the ASVspoof baselines compute them (Sahidullah et al.,
Interspeech 2015; organisers' code for ASVspoof 2019 and 2021)."""

import math

import torch
from torch.nn import functional as F
from transformers import initialization as init

from .configuration_lfcc import LFCCFrontEndConfig
from .float32 import Float32Module
from .power_spectrum import power_spectrum


CHUNK = 16384  # frames whose spectra are held at a time: 35 MB for 512 points


def linear_filter_bank(
    num_filters: int,
    fft_size: int,
    *,
    min_frequency: float = 0.0,
    max_frequency: float = 8000.0,
    sampling_rate: int = 16000,
    snap_to_bins: bool = False,
) -> torch.Tensor:
    """
    Weights of triangular filters of height 1, equally spaced in Hz: filter j rises from edge j to edge j + 1
    and falls to edge j + 2. Neighbouring edges must be at least one bin apart, as a valid config has them.
    With `snap_to_bins` they are moved to bins, floor((fft_size + 1) f / sampling_rate).

    Returns:
        (fft_size // 2 + 1, num_filters), float64.
    """
    # (num_filters + 2,), in Hz. Rounded as by numpy.linspace: torch.linspace snaps some edges to another bin.
    step = (max_frequency - min_frequency) / (num_filters + 1)
    edges = torch.arange(num_filters + 2, dtype=torch.float64) * step + min_frequency
    edges[-1] = max_frequency
    if snap_to_bins:
        edges = ((fft_size + 1) * edges / sampling_rate).floor()
    else:
        edges = fft_size * edges / sampling_rate
    bins = torch.arange(fft_size // 2 + 1, dtype=torch.float64)[:, None]
    low, peak, high = edges[:-2], edges[1:-1], edges[2:]
    return torch.minimum((bins - low) / (peak - low), (high - bins) / (high - peak)).clamp(min=0)


def cosine_transform(num_coefficients: int, num_filters: int) -> torch.Tensor:
    """
    First columns of the orthonormal DCT-II, (num_filters, num_coefficients), float64. (That of torchaudio has
    the default dtype, which is bfloat16 where a model is made in bfloat16.)
    """
    coefficient = torch.arange(num_coefficients, dtype=torch.float64)
    position = torch.arange(num_filters, dtype=torch.float64)[:, None] + 0.5
    matrix = math.sqrt(2 / num_filters) * torch.cos(math.pi / num_filters * position * coefficient)
    matrix[:, 0] /= math.sqrt(2)
    return matrix


def delta(features: torch.Tensor, is_last: torch.Tensor | None = None) -> torch.Tensor:
    """
    x[t + 1] - x[t - 1] of (batch, coefficients, frames), where the first and the last frame are repeated at
    the edges. `is_last`, (batch, 1, frames), marks the last frame of each utterance, beyond which the result
    has no meaning; `None` where that is the tensor's.
    """
    previous = torch.cat([features[..., :1], features[..., :-1]], dim=-1)
    following = torch.cat([features[..., 1:], features[..., -1:]], dim=-1)
    if is_last is not None:
        following = torch.where(is_last, features, following)
    return following - previous


class LFCC(Float32Module):
    """
    LFCC front end: pre-emphasis, Hamming-windowed frames, power spectrum, linear filter bank, log10,
    orthonormal DCT-II, deltas. Computed in float32 under autocast, too, and for a waveform or a model in
    bfloat16. The window, the filters and the DCT are persistent buffers.

    `lfcc_pad_last_window` says whether the samples behind the last whole window are left out or make one more
    with zeros. An utterance that is shorter than one window has one frame in either case.
    """

    def __init__(self, config: LFCCFrontEndConfig):
        super().__init__()
        self.config = config
        for name, tensor in self.fixed_tensors().items():
            self.register_buffer(name, tensor.float())

    def fixed_tensors(self) -> dict[str, torch.Tensor]:
        """The buffers' values by name: window (window_length,), filters (bins, filters) and dct (filters,
        coefficients)."""
        config = self.config
        with torch.device("cpu"):
            return {
                "window": torch.hamming_window(
                    config.lfcc_window_length, periodic=False, dtype=torch.float64
                ),
                "filters": linear_filter_bank(
                    config.lfcc_num_filters,
                    config.lfcc_fft_size,
                    min_frequency=config.lfcc_min_frequency,
                    max_frequency=config.lfcc_max_frequency,
                    sampling_rate=config.sampling_rate,
                    snap_to_bins=config.lfcc_snap_to_bins,
                ),
                "dct": cosine_transform(config.lfcc_num_coefficients, config.lfcc_num_filters),
            }

    def init_weights(self) -> None:
        """Set the buffers to their values, but where they have been loaded."""
        for name, tensor in self.fixed_tensors().items():
            init.copy_(getattr(self, name), tensor)

    def num_frames(self, num_samples: int | torch.Tensor) -> int | torch.Tensor:
        """Frames of so many samples, at least one."""
        behind_first = num_samples - self.config.lfcc_window_length
        if self.config.lfcc_pad_last_window:
            behind_first = behind_first + self.config.lfcc_hop_length - 1
        frames = 1 + behind_first // self.config.lfcc_hop_length
        return frames.clamp(min=1) if isinstance(frames, torch.Tensor) else max(frames, 1)

    def forward(self, waveform: torch.Tensor, num_samples: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            waveform: (batch, samples) at `config.sampling_rate`, amplitude in [-1, 1].
            num_samples: (batch,) real lengths of padded waveforms; `None` where nothing is padded.

        Returns:
            (batch, (1 + num_deltas) * num_coefficients, frames), float32: the coefficients, their deltas,
            their double deltas. Frames beyond the last one of an utterance are zero; those before do not
            depend on the padding.

        Raises:
            ValueError: an utterance has no samples; `num_samples` does not fit the waveform.
        """
        self.check_lengths(waveform, num_samples)
        with torch.autocast(waveform.device.type, enabled=False):
            features = self.cepstrum(self.pad(waveform.float(), num_samples)).float()
            is_real = is_last = None
            if num_samples is not None:
                frame = torch.arange(features.shape[-1], device=features.device)
                num_frames = self.num_frames(num_samples.to(features.device))[:, None, None]
                is_real, is_last = frame < num_frames, frame == num_frames - 1  # (batch, 1, frames)
            blocks = [features]
            for _ in range(self.config.lfcc_num_deltas):
                blocks.append(delta(blocks[-1], is_last))
            features = torch.cat(blocks, dim=1)
            return features if is_real is None else torch.where(is_real, features, 0.0)

    def check_lengths(self, waveform: torch.Tensor, num_samples: torch.Tensor | None) -> None:
        """A `ValueError` where an utterance has no samples or is longer than its waveform."""
        batch, samples = waveform.shape
        if num_samples is not None and num_samples.shape != (batch,):
            raise ValueError(
                f"num_samples has the shape {tuple(num_samples.shape)}; a batch of {batch} needs ({batch},)."
            )
        shortest = longest = samples
        if num_samples is not None:
            shortest, longest = torch.stack(torch.aminmax(num_samples)).tolist()
        if longest > samples:
            raise ValueError(f"num_samples {longest} is more than the waveforms' {samples} samples.")
        if shortest < 1:
            raise ValueError("An utterance has no samples.")

    def pad(self, waveform: torch.Tensor, num_samples: torch.Tensor | None) -> torch.Tensor:
        """Pre-emphasise (batch, samples), zero behind each utterance and up to the last frame's end."""
        config, samples = self.config, waveform.shape[1]
        if config.lfcc_pre_emphasis:
            waveform = torch.cat(
                [waveform[:, :1], waveform[:, 1:] - config.lfcc_pre_emphasis * waveform[:, :-1]], dim=1
            )
        if num_samples is not None:
            is_own = torch.arange(samples, device=waveform.device) < num_samples.to(waveform.device)[:, None]
            waveform = torch.where(is_own, waveform, 0.0)
        end = (self.num_frames(samples) - 1) * config.lfcc_hop_length + config.lfcc_window_length
        return F.pad(waveform, (0, max(end - samples, 0)))

    def cepstrum(self, waveform: torch.Tensor) -> torch.Tensor:
        """(batch, samples), float32, to the coefficients without deltas, (batch, coefficients, frames)."""
        config = self.config
        frames = waveform.unfold(1, config.lfcc_window_length, config.lfcc_hop_length)
        if torch.compiler.is_compiling():  # a graph must not depend on the size of the example's batch
            coefficients = self.coefficients(frames)
        else:  # whatever the length, memory is bounded
            parts = frames.split(max(CHUNK // len(frames), 1), dim=1)
            coefficients = torch.cat([self.coefficients(part) for part in parts], dim=1)
        return coefficients.transpose(1, 2).contiguous()

    def coefficients(self, frames: torch.Tensor) -> torch.Tensor:
        """(batch, frames, window_length) to (batch, frames, coefficients)."""
        config = self.config
        power = power_spectrum(frames, self.window, config.lfcc_fft_size)  # (batch, frames, bins)
        bands = (power @ self.filters + config.lfcc_log_floor).log10()  # (batch, frames, filters)
        coefficients = bands @ self.dct
        if config.lfcc_use_energy:
            energy = (power.sum(dim=-1, keepdim=True) + config.lfcc_log_floor).log10()
            coefficients = torch.cat([energy, coefficients[..., 1:]], dim=-1)
        return coefficients


__all__ = ["LFCC", "cosine_transform", "delta", "linear_filter_bank"]
