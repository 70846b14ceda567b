"""PyTorch AASIST model (Jung et al., "AASIST: Audio Anti-Spoofing using Integrated Spectro-Temporal Graph
Attention Networks", ICASSP 2022)."""

import torch
from torch import nn
from transformers import initialization as init

from .aasist_block import POOL_SIZE, AasistBlock, selu_
from .configuration_aasist import AasistConfig
from .graph_attention import SpectroTemporalGraphs
from .micro_batch import run_in_micro_batches
from .modeling_countermeasure import CountermeasureForAudioClassification, CountermeasurePreTrainedModel
from .sinc import SincBank


BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class AasistPreTrainedModel(CountermeasurePreTrainedModel):
    """Weight initialisation and loading of AASIST."""

    config_class = AasistConfig
    base_model_prefix = "aasist"

    def _init_weights(self, module: nn.Module) -> None:
        # As the authors: PyTorch's own initialisation, Xavier's for the energies, normal for other nodes.
        if isinstance(module, SincBank):
            module.init_weights()
        elif isinstance(module, AasistModel):
            init.normal_(module.band_positions)
        elif hasattr(module, "reset_parameters") and not isinstance(module, BATCH_NORMS):
            module.reset_parameters()
        else:
            super()._init_weights(module)


class AasistModel(AasistPreTrainedModel, SpectroTemporalGraphs):
    """
    AASIST up to its last layer: sinc bank, residual encoder, a spectral and a temporal graph with attention
    and pooling, the max graph operation on two branches of heterogeneous stacking graph attention, readout.
    """

    def __init__(self, config: AasistConfig):
        super().__init__(config)
        self.sinc = SincBank(config)
        self.sinc_norm = nn.BatchNorm2d(1)
        channels = [1, *config.block_channels]
        self.blocks = nn.ModuleList(
            AasistBlock(channels[i], channels[i + 1], pre_activation=config.pre_activation and i > 0)
            for i in range(len(config.block_channels))
        )
        self.band_positions = nn.Parameter(torch.empty(1, config.sinc_filters // POOL_SIZE, channels[-1]))
        self.add_graphs(channels[-1], config)
        self.add_classifier(5 * config.heterogeneous_graph_size, config.classifier_dropout)
        self.post_init()

    def embed(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None, output_hidden_states: bool
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
        """Waveforms (batch, num_samples) to the output of the last block, embeddings (batch, 5 *
        heterogeneous_graph_size), and, as hidden states, what `convolve` returns, if asked for."""
        self.refuse_padding(attention_mask)
        if self.training or output_hidden_states or input_values.device.type != "cpu":
            hidden_states = self.convolve(input_values)
        else:
            hidden_states = (run_in_micro_batches(self.convolve_in_pieces, input_values, size=1),)
        return hidden_states[-1], self.read_out(hidden_states[-1]), hidden_states

    def convolve(self, input_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Output of front end (batch, 1, bands, frames) and each block (batch, channels, bands, frames)."""
        hidden = self.front_end(input_values)
        hidden_states = (hidden,)
        for block in self.blocks:
            hidden = block(hidden)
            hidden_states += (hidden,)
        return hidden_states

    def convolve_in_pieces(self, input_values: torch.Tensor) -> torch.Tensor:
        """Output of the last block, on a CPU without autograd."""
        hidden = self.front_end(input_values)
        for block in self.blocks:
            hidden = block.forward_in_pieces(hidden)
        return hidden

    def front_end(self, input_values: torch.Tensor) -> torch.Tensor:
        """(batch, num_samples) to (batch, 1, bands, frames)."""
        hidden = self.sinc.max_magnitudes(input_values, POOL_SIZE).transpose(1, 2)
        bands = hidden.shape[1] // POOL_SIZE
        hidden = hidden[:, : bands * POOL_SIZE].unflatten(1, (bands, POOL_SIZE)).amax(2).unsqueeze(1)
        return selu_(self.sinc_norm(hidden))

    def read_out(self, hidden: torch.Tensor) -> torch.Tensor:
        """Output of the encoder (batch, channels, bands, frames) to (batch, 5 * heterogeneous_graph_size)."""
        hidden = hidden.abs()
        spectral = hidden.amax(dim=3).transpose(1, 2) + self.band_positions  # (batch, bands, channels)
        temporal = hidden.amax(dim=2).transpose(1, 2)  # (batch, frames, channels)
        return self.read_out_graphs(spectral, temporal)


class AasistForAudioClassification(CountermeasureForAudioClassification, AasistModel):
    """AASIST and its last layer."""


__all__ = ["AasistForAudioClassification", "AasistModel", "AasistPreTrainedModel"]
