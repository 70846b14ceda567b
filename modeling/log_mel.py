"""Log-mel spectrogram of Whisper (Radford et al., "Robust Speech Recognition via Large-Scale Weak
Supervision", ICML 2023), as transformers' `WhisperFeatureExtractor` computes it."""

import torch
from torch.nn import functional as F
from transformers import WhisperConfig
from transformers import initialization as init
from transformers.audio_utils import mel_filter_bank

from .configuration_wav2vec2_antispoofing import WHISPER_HOP_LENGTH, WHISPER_WINDOW_LENGTH
from .float32 import Float32Module
from .power_spectrum import power_spectrum


class LogMelSpectrogram(Float32Module):
    """
    Hann-windowed frames of 25 ms every 10 ms, power spectrum, mel filters up to 8 kHz, log10, of which the
    lowest values are raised to 8 below the utterance's highest, and (x + 4) / 4. Computed in float32 under
    autocast, too, and for a waveform or a model in bfloat16. The window and the filters are persistent
    buffers.
    """

    def __init__(self, config: WhisperConfig):
        super().__init__()
        self.num_mel_bins = config.num_mel_bins
        for name, tensor in self.fixed_tensors().items():
            self.register_buffer(name, tensor.float())

    def fixed_tensors(self) -> dict[str, torch.Tensor]:
        """The buffers' values by name: window (window_length,) and filters (num_mel_bins, bins)."""
        filters = mel_filter_bank(
            num_frequency_bins=WHISPER_WINDOW_LENGTH // 2 + 1,
            num_mel_filters=self.num_mel_bins,
            min_frequency=0.0,
            max_frequency=8000.0,
            sampling_rate=16000,
            norm="slaney",
            mel_scale="slaney",
        )
        with torch.device("cpu"):
            return {
                "window": torch.hann_window(WHISPER_WINDOW_LENGTH, dtype=torch.float64),
                "filters": torch.from_numpy(filters.T),
            }

    def init_weights(self) -> None:
        """Set the buffers to their values, but where they have been loaded."""
        for name, tensor in self.fixed_tensors().items():
            init.copy_(getattr(self, name), tensor)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """(batch, samples) at 16 kHz to (batch, num_mel_bins, samples // 160), float32."""
        with torch.autocast(waveform.device.type, enabled=False):
            half = WHISPER_WINDOW_LENGTH // 2
            padded = F.pad(waveform.float()[:, None], (half, half), mode="reflect")[:, 0]
            frames = padded.unfold(1, WHISPER_WINDOW_LENGTH, WHISPER_HOP_LENGTH)[:, :-1]
            power = power_spectrum(frames, self.window, WHISPER_WINDOW_LENGTH).transpose(1, 2)
            bands = (self.filters @ power).clamp(min=1e-10).log10()  # (batch, num_mel_bins, frames)
            loudest = bands.amax(dim=(1, 2), keepdim=True)
            return (torch.maximum(bands, loudest - 8.0) + 4.0) / 4.0


__all__ = ["LogMelSpectrogram"]
