"""A bank of sinc band-pass filters applied to the waveform (Ravanelli & Bengio, SLT 2018), with the fixed
banks of the ASVspoof countermeasures: RawNet2 (Tak et al., ICASSP 2021) and AASIST (Jung et al., ICASSP
2022). The bank is one matrix product, whose result has the filters last in memory."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .configuration_sinc import SincFrontEndConfig


SHIFTS = 16  # neighbouring frames that come from one window of the waveform
PIECE_FRAMES = 2400  # that a CPU computes before it pools them, so that they stay in its caches


def hertz_to_mel(frequency: torch.Tensor) -> torch.Tensor:
    """Hz to mel, 2595 log10(1 + f / 700)."""
    return 2595 * torch.log10(1 + frequency / 700)


def mel_to_hertz(mel: torch.Tensor) -> torch.Tensor:
    """Mel to Hz, the inverse of [`hertz_to_mel`]."""
    return 700 * (10 ** (mel / 2595) - 1)


def band_edges(num_filters: int, scale: str, min_frequency: float, max_frequency: float) -> torch.Tensor:
    """
    Edges of `num_filters` neighbouring bands in Hz, float64, shape (num_filters + 1,): equally spaced on the
    scale, "linear", "mel" or "inverse_mel". The inverse-mel edges are the mel edges mirrored, so that the
    bands are narrow at the top.
    """
    limits = torch.tensor([min_frequency, max_frequency], dtype=torch.float64)
    if scale == "linear":
        return torch.linspace(*limits.tolist(), num_filters + 1, dtype=torch.float64)
    mel = torch.linspace(*hertz_to_mel(limits).tolist(), num_filters + 1, dtype=torch.float64)
    edges = mel_to_hertz(mel)
    return min_frequency + max_frequency - edges.flip(0) if scale == "inverse_mel" else edges


def sinc_filters(low: torch.Tensor, high: torch.Tensor, filter_length: int) -> torch.Tensor:
    """
    Taps of band-pass filters, (num_filters, filter_length): w(t) [2 f2 sinc(2 f2 t) - 2 f1 sinc(2 f1 t)] with
    the symmetric Hamming window w, f1 and f2 being `low` and `high`, (num_filters,) in cycles per sample, and
    the length odd.
    """
    half = (filter_length - 1) // 2
    time = torch.arange(-half, half + 1, dtype=low.dtype, device=low.device)
    window = torch.hamming_window(filter_length, periodic=False, dtype=low.dtype, device=low.device)
    low, high = low[:, None], high[:, None]
    return window * (2 * high * torch.sinc(2 * high * time) - 2 * low * torch.sinc(2 * low * time))


class SincBank(nn.Module):
    """
    Sinc filter bank without padding. A fixed bank is computed once, in float64, and kept as a persistent
    buffer; a learnable one has the band edges as parameters and is computed from them in every forward.
    """

    def __init__(self, config: SincFrontEndConfig):
        super().__init__()
        self.config = config
        self.filter_length = config.sinc_filter_length + 1 - config.sinc_filter_length % 2
        low, high = self.initial_edges()
        if config.sinc_learnable:
            self.low = nn.Parameter(low.float())  # (num_filters,), cycles per sample
            self.width = nn.Parameter((high - low).float())
        else:
            self.register_buffer("filters", sinc_filters(low, high, self.filter_length).float()[:, None])

    def initial_edges(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Lower and upper edge of every band in cycles per sample, float64, each (num_filters,)."""
        config = self.config
        limits = config.sinc_min_frequency, config.sinc_max_frequency
        with torch.device("cpu"):
            edges = band_edges(config.sinc_filters, config.sinc_scale, *limits) / config.sampling_rate
        return edges[:-1], edges[1:]

    def init_weights(self) -> None:
        """Set the buffer or the parameters to the initial bank, but where they have been loaded."""
        low, high = self.initial_edges()
        if self.config.sinc_learnable:
            init.copy_(self.low, low)
            init.copy_(self.width, high - low)
        else:
            init.copy_(self.filters, sinc_filters(low, high, self.filter_length)[:, None])

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """(batch, num_samples) to (batch, num_samples - filter_length + 1, num_filters)."""
        return self.filter(waveform, self.make_matrix())

    def max_magnitudes(self, waveform: torch.Tensor, pool_size: int) -> torch.Tensor:
        """Largest magnitude of every `pool_size` frames: (batch, frames // pool_size, num_filters)."""
        matrix = self.make_matrix()
        frames = (waveform.shape[1] - self.filter_length + 1) // pool_size * pool_size
        in_pieces = waveform.device.type == "cpu" and not matrix.requires_grad
        step = SHIFTS * pool_size * max(1, PIECE_FRAMES // (SHIFTS * pool_size)) if in_pieces else frames
        pieces = []
        for start in range(0, frames, step):
            stop = min(start + step, frames)
            hidden = self.filter(waveform[:, start : stop + self.filter_length - 1], matrix)
            hidden = hidden.abs() if hidden.requires_grad else hidden.abs_()  # no copy of the longest tensor
            pieces.append(hidden.unflatten(1, (-1, pool_size)).amax(2))
        return torch.cat(pieces, dim=1)

    def make_matrix(self) -> torch.Tensor:
        """The bank at each of `SHIFTS` shifts: (SHIFTS * num_filters, SHIFTS + filter_length - 1)."""
        if self.config.sinc_learnable:
            low = self.low.abs()  # an edge that training pushes through zero comes back from it
            filters = sinc_filters(low, low + self.width.abs(), self.filter_length)
        else:
            filters = self.filters.squeeze(1)
        return torch.cat([F.pad(filters, (shift, SHIFTS - 1 - shift)) for shift in range(SHIFTS)])

    def filter(self, waveform: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        """(batch, num_samples) to (batch, num_samples - filter_length + 1, num_filters)."""
        frames = waveform.shape[1] - self.filter_length + 1
        windows = F.pad(waveform, (0, -frames % SHIFTS)).unfold(1, matrix.shape[1], SHIFTS)
        hidden = F.linear(windows, matrix.to(waveform.dtype))  # (batch, windows, SHIFTS * num_filters)
        return hidden.view(hidden.shape[0], -1, self.config.sinc_filters)[:, :frames]


__all__ = ["SincBank", "band_edges", "sinc_filters"]
