"""Back ends that average the frames of an encoder's last state, or of the weighted sum of all: every frame
alike or by a trained attention (Okabe et al., Interspeech 2018)."""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_wav2vec2_antispoofing import Wav2Vec2AntiSpoofingConfig
from .float32 import apply_unrounded


class MeanPooling(nn.Module):
    """Mean over frames, linear layer and GELU."""

    def __init__(self, config: Wav2Vec2AntiSpoofingConfig):
        super().__init__()
        self.output_size = config.classifier_proj_size
        self.projector = nn.Linear(config.encoder_config.hidden_size, self.output_size)

    def forward(self, states: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """One state (batch, 1, frames, hidden_size) and a mask (batch, frames), true where there is speech,
        to (batch, output_size)."""
        return F.gelu(apply_unrounded(self.projector, self.pool(states.squeeze(1), frame_mask)))

    def pool(self, hidden: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
        """(batch, frames, hidden_size) to (batch, hidden_size)."""
        return average_frames(hidden, frame_mask)


class AttentivePooling(MeanPooling):
    """The same with a mean weighted by softmax(v^T tanh(W h + b) + k)."""

    def __init__(self, config: Wav2Vec2AntiSpoofingConfig):
        super().__init__(config)
        self.attention = nn.Linear(config.encoder_config.hidden_size, config.attention_size)
        self.energy = nn.Linear(config.attention_size, 1)

    def pool(self, hidden: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
        energies = self.energy(torch.tanh(self.attention(hidden)))
        return (softmax_over_frames(energies, frame_mask) * hidden).sum(dim=1)


def average_frames(hidden: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
    """Mean of (batch, frames, size) over the frames that the mask (batch, frames) leaves."""
    if frame_mask is None:
        return hidden.mean(dim=1)
    frame_mask = frame_mask.unsqueeze(2)
    return hidden.masked_fill(~frame_mask, 0).sum(dim=1) / frame_mask.sum(dim=1)


def softmax_over_frames(energies: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
    """Softmax of (batch, frames, heads) over the frames that the mask (batch, frames) leaves."""
    if frame_mask is not None:
        energies = energies.masked_fill(~frame_mask.unsqueeze(2), float("-inf"))
    return energies.softmax(dim=1)


__all__ = ["AttentivePooling", "MeanPooling", "average_frames", "softmax_over_frames"]
