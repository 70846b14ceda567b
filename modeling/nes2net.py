"""Nes2Net-X (Liu et al., "Nes2Net: A Lightweight Nested Architecture for Foundation Model Driven Speech
Anti-Spoofing", IEEE TIFS 2025), a back end of convolutions over the frames of one state."""

import torch
from torch import nn

from .attentive_pooling import average_frames
from .configuration_wav2vec2_antispoofing import Wav2Vec2AntiSpoofingConfig


SCALE = 8  # groups of channels, outside and in every block
DILATION = 2


class WeightedSum(nn.Module):
    """Sum over the last axis, of a given size, with trained weights."""

    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The sum begins as the mean."""
        nn.init.constant_(self.weight, 1 / len(self.weight))

    def forward(self, stacked: torch.Tensor) -> torch.Tensor:
        return (stacked * self.weight).sum(dim=-1)


class Nes2NetBlock(nn.Module):
    """
    A Res2Net block with weighted sums. It starts from the last of eight groups x_0 … x_7 of its channels; the
    others join one by one, and all that are there go through a convolution again:

        S_i = BN(ReLU(conv_i([S_(i-1), x_i]))),  S_(-1) = [x_7],  y_i = sum_j w_ij S_ij

    [] keeps tensors apart, so that S_i has i + 2 of them. Squeeze and excitation by the mean over frames and
    a skip connection follow.
    """

    def __init__(self, channels: int):
        super().__init__()
        width = channels // SCALE
        self.conv1 = nn.Conv1d(channels, channels, kernel_size=1)
        self.norm1 = nn.BatchNorm1d(channels)
        convolution = {"kernel_size": (3, 1), "dilation": (DILATION, 1), "padding": (DILATION, 0)}
        self.convs = nn.ModuleList(nn.Conv2d(width, width, **convolution) for _ in range(SCALE - 1))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(SCALE - 1))
        self.sums = nn.ModuleList(WeightedSum(i + 2) for i in range(SCALE - 1))
        self.conv2 = nn.Conv1d(channels, channels, kernel_size=1)
        self.norm2 = nn.BatchNorm1d(channels)
        self.squeeze = nn.Linear(channels, channels)
        self.excite = nn.Linear(channels, channels)

    def forward(self, hidden: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
        """(batch, channels, frames) to the same shape."""
        inputs = hidden
        *groups, last = self.norm1(self.conv1(hidden).relu()).unsqueeze(3).chunk(SCALE, dim=1)
        stacked, outputs = last, []
        for i, group in enumerate(groups):
            stacked = torch.cat([stacked, group], dim=3)  # (batch, width, frames, i + 2)
            if frame_mask is not None:  # what convolutions see beyond the end is zero
                stacked = stacked.masked_fill(~frame_mask[:, None, :, None], 0)
            stacked = self.norms[i](self.convs[i](stacked).relu())
            outputs.append(self.sums[i](stacked))
        hidden = torch.cat([*outputs, last.squeeze(3)], dim=1)
        hidden = self.norm2(self.conv2(hidden).relu())
        pooled = average_frames(hidden.transpose(1, 2), frame_mask)  # (batch, channels)
        gates = self.excite(self.squeeze(pooled).relu()).sigmoid()
        return inputs + gates.unsqueeze(2) * hidden


class Nes2Net(nn.Module):
    """
    Of eight groups of the encoder's channels, each but the last goes through a block of its own, together
    with what the block before gave. All outputs and the last group are averaged over frames.
    """

    def __init__(self, config: Wav2Vec2AntiSpoofingConfig):
        super().__init__()
        self.output_size = config.encoder_config.hidden_size
        channels = self.output_size // SCALE
        self.blocks = nn.ModuleList(Nes2NetBlock(channels) for _ in range(SCALE - 1))
        self.norms = nn.ModuleList(nn.BatchNorm1d(channels) for _ in range(SCALE - 1))
        self.last_norm = nn.BatchNorm1d(self.output_size)

    def forward(self, states: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """One state (batch, 1, frames, hidden_size) and a mask (batch, frames), true where there is speech,
        to (batch, output_size)."""
        *groups, last = states.squeeze(1).transpose(1, 2).chunk(SCALE, dim=1)
        outputs = []
        for group, block, norm in zip(groups, self.blocks, self.norms, strict=True):
            hidden = group + outputs[-1] if outputs else group
            outputs.append(norm(block(hidden, frame_mask).relu()))
        hidden = self.last_norm(torch.cat([*outputs, last], dim=1)).relu()
        return average_frames(hidden.transpose(1, 2), frame_mask)


__all__ = ["Nes2Net"]
