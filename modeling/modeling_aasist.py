"""PyTorch AASIST model (Jung et al., "AASIST: Audio Anti-Spoofing using Integrated Spectro-Temporal Graph
Attention Networks", ICASSP 2022)."""

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import can_return_tuple

from .aasist_block import POOL_SIZE, AasistBlock, selu_
from .configuration_aasist import AasistConfig
from .cosine_classifier import make_classifier
from .graph_attention import SpectroTemporalGraphs
from .micro_batch import run_in_micro_batches
from .modeling_countermeasure import CountermeasurePreTrainedModel, refuse_padding
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
        elif isinstance(module, AasistForAudioClassification):
            init.normal_(module.band_positions)
        elif hasattr(module, "reset_parameters") and not isinstance(module, BATCH_NORMS):
            module.reset_parameters()
        else:
            super()._init_weights(module)


class AasistForAudioClassification(AasistPreTrainedModel, SpectroTemporalGraphs):
    """
    AASIST: sinc bank, residual encoder, a spectral and a temporal graph with attention and pooling, the max
    graph operation on two branches of heterogeneous stacking graph attention, a linear layer on the readout.

    The score of an utterance is the logit of bona fide minus the logit of spoof; `config.id2label` says which
    is which.
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
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = make_classifier(5 * config.heterogeneous_graph_size, config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        attention_mask: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> SequenceClassifierOutput:
        """
        Args:
            input_values: (batch, num_samples) waveform at `config.sampling_rate`, amplitude in [-1, 1].
            labels: (batch,) class indices in the order of `config.id2label`.
            output_hidden_states: whether to return what `convolve` returns.
            attention_mask: accepted where it marks no padding.
            num_items_in_batch: utterances of the whole optimizer step; see `loss_function`.

        Returns:
            `logits` (batch, num_labels) and, where labels are given, `config.loss` of them as `loss`.
        """
        refuse_padding(attention_mask)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if self.training or output_hidden_states or input_values.device.type != "cpu":
            hidden_states = self.convolve(input_values)
        else:
            hidden_states = [run_in_micro_batches(self.convolve_in_pieces, input_values, size=1)]
        readout = self.dropout(self.read_out(hidden_states[-1]))
        with torch.autocast(readout.device.type, enabled=False):  # scores rounded to bfloat16 would tie
            logits = self.classifier(readout.to(self.classifier.weight.dtype))

        return SequenceClassifierOutput(
            loss=self.loss_function(logits, labels, num_items_in_batch),
            logits=self.calibrate(logits),
            hidden_states=hidden_states if output_hidden_states else None,
        )

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


__all__ = ["AasistForAudioClassification", "AasistPreTrainedModel"]
