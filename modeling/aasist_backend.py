"""AASIST on an encoder, a back end of one state (Tak et al., "Automatic Speaker Verification Spoofing and
Deepfake Detection Using wav2vec 2.0 and Data Augmentation", Odyssey 2022; TakHemlata/SSL_Anti-spoofing)."""

import torch
from torch import nn
from torch.nn import functional as F

from .aasist_block import POOL_SIZE, AasistBlock, selu_
from .configuration_wav2vec2_antispoofing import Wav2Vec2AntiSpoofingConfig
from .graph_attention import GraphSettings, SpectroTemporalGraphs


PROJECTED_SIZE = 128  # of the encoder's frames; a third of it, rounded down, are the bands
BLOCK_CHANNELS = (32, 32, 64, 64, 64, 64)


class AasistBackend(nn.Module, SpectroTemporalGraphs):
    """
    The encoder's frames, narrowed by a linear layer, are an image of bands and frames, which goes through
    residual blocks. A sum over frames, weighted by a trained attention, makes the nodes of the spectral
    graph, one over bands those of the temporal graph; AASIST's graph attention reads them out.
    """

    def __init__(self, config: Wav2Vec2AntiSpoofingConfig):
        super().__init__()
        settings, channels = GraphSettings(), (1, *BLOCK_CHANNELS)
        self.output_size = 5 * settings.heterogeneous_graph_size
        self.projector = nn.Linear(config.encoder_config.hidden_size, PROJECTED_SIZE)
        self.first_norm = nn.BatchNorm2d(1)
        self.blocks = nn.ModuleList(
            AasistBlock(channels[i], channels[i + 1], pre_activation=False, pool=False)
            for i in range(len(BLOCK_CHANNELS))
        )
        self.last_norm = nn.BatchNorm2d(channels[-1])
        self.attention = nn.Sequential(
            nn.Conv2d(channels[-1], 2 * channels[-1], kernel_size=1),
            nn.SELU(inplace=True),
            nn.BatchNorm2d(2 * channels[-1]),
            nn.Conv2d(2 * channels[-1], channels[-1], kernel_size=1),
        )
        self.band_positions = nn.Parameter(torch.empty(1, PROJECTED_SIZE // POOL_SIZE, channels[-1]))
        self.add_graphs(channels[-1], settings)

    def reset_parameters(self) -> None:
        """As the authors: positions from a normal distribution."""
        nn.init.normal_(self.band_positions)

    def forward(self, states: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """One state (batch, 1, frames, hidden_size) to (batch, output_size)."""
        hidden = self.projector(states.squeeze(1)).unsqueeze(1).transpose(2, 3)  # (batch, 1, 128, frames)
        hidden = selu_(self.first_norm(F.max_pool2d(hidden, POOL_SIZE)))  # (batch, 1, bands, frames // 3)
        for block in self.blocks:
            hidden = block(hidden)  # (batch, channels, bands, frames // 3)
        hidden = selu_(self.last_norm(hidden))
        energies = self.attention(hidden)
        spectral = (hidden * energies.softmax(dim=3)).sum(dim=3).transpose(1, 2)  # (batch, bands, channels)
        temporal = (hidden * energies.softmax(dim=2)).sum(dim=2).transpose(1, 2)
        return self.read_out_graphs(spectral + self.band_positions, temporal)


__all__ = ["AasistBackend"]
