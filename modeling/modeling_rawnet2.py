"""PyTorch RawNet2 model for anti-spoofing (Tak et al., "End-to-End Anti-Spoofing with RawNet2", ICASSP
2021)."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import can_return_tuple

from .configuration_rawnet2 import RawNet2Config
from .loss import weighted_cross_entropy
from .micro_batch import run_in_micro_batches
from .modeling_countermeasure import CountermeasurePreTrainedModel, refuse_padding
from .sinc import SincBank


POOL_SIZE = 3  # of the max-pooling after the bank and in every block


class RawNet2FeatureMapScaling(nn.Module):
    """Feature map scaling x * s + s, s = sigmoid(Linear(mean over time)) (Jung et al., Interspeech 2020)."""

    def __init__(self, channels: int):
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, channels, frames) to the same."""
        scale = torch.sigmoid(self.linear(hidden.mean(dim=-1))).unsqueeze(-1)  # (batch, channels, 1)
        return torch.addcmul(scale, hidden, scale)


class RawNet2Block(nn.Module):
    """Residual block, max-pooling by 3 and feature map scaling."""

    def __init__(self, in_channels: int, out_channels: int, *, pre_activation: bool, leaky_relu_slope: float):
        super().__init__()
        self.slope = leaky_relu_slope
        self.norm1 = nn.BatchNorm1d(in_channels) if pre_activation else None
        self.conv1 = nn.Conv1d(in_channels, out_channels, kernel_size=3, padding=1)
        self.norm2 = nn.BatchNorm1d(out_channels)
        self.conv2 = nn.Conv1d(out_channels, out_channels, kernel_size=3, padding=1)
        self.shortcut = (
            nn.Conv1d(in_channels, out_channels, kernel_size=1) if in_channels != out_channels else None
        )
        self.scaling = RawNet2FeatureMapScaling(out_channels)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, frames) to (batch, out_channels, frames // 3)."""
        residual = hidden if self.shortcut is None else self.shortcut(hidden)
        if self.norm1 is not None:
            hidden = F.leaky_relu(self.norm1(hidden), self.slope, inplace=True)
        hidden = self.conv1(hidden)
        hidden = F.leaky_relu(self.norm2(hidden), self.slope, inplace=True)
        hidden = self.conv2(hidden).add_(residual)
        return self.scaling(F.max_pool1d(hidden, POOL_SIZE))


class RawNet2PreTrainedModel(CountermeasurePreTrainedModel):
    """Weight initialisation and loading of RawNet2."""

    config_class = RawNet2Config
    base_model_prefix = "rawnet2"

    def _init_weights(self, module: nn.Module) -> None:
        # PyTorch's own initialisation, which the authors trained from, and not the library's normal(0, 0.02).
        if isinstance(module, SincBank):
            module.init_weights()
        elif isinstance(module, (nn.Conv1d, nn.Linear, nn.GRU)):
            module.reset_parameters()
        else:
            super()._init_weights(module)


class RawNet2ForAudioClassification(RawNet2PreTrainedModel):
    """
    RawNet2: sinc bank, residual blocks with feature map scaling, GRU, two linear layers.

    The score of an utterance is the logit of bona fide minus the logit of spoof; `config.id2label` says which
    is which.
    """

    def __init__(self, config: RawNet2Config):
        super().__init__(config)
        self.sinc = SincBank(config)
        self.sinc_norm = nn.BatchNorm1d(config.sinc_filters)
        channels = [config.sinc_filters, *config.block_channels]
        self.blocks = nn.ModuleList(
            RawNet2Block(
                channels[i],
                channels[i + 1],
                pre_activation=config.pre_activation and i > 0,
                leaky_relu_slope=config.leaky_relu_slope,
            )
            for i in range(len(config.block_channels))
        )
        self.norm = nn.BatchNorm1d(channels[-1])
        self.gru = nn.GRU(channels[-1], config.gru_hidden_size, config.num_gru_layers, batch_first=True)
        self.embedding = nn.Linear(config.gru_hidden_size, config.embedding_size)
        self.classifier = nn.Linear(config.embedding_size, config.num_labels)
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
            num_items_in_batch: utterances of the whole optimizer step; see `weighted_cross_entropy`.

        Returns:
            `logits` (batch, num_labels) and, where labels are given, the weighted cross-entropy as `loss`.
        """
        refuse_padding(attention_mask)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if self.training or output_hidden_states or input_values.device.type != "cpu":
            hidden_states = self.convolve(input_values)
        else:
            hidden_states = [run_in_micro_batches(lambda part: self.convolve(part)[-1], input_values)]
        hidden = F.selu(self.norm(hidden_states[-1])).transpose(1, 2)  # (batch, frames, channels)
        self.gru.flatten_parameters()
        hidden = self.gru(hidden)[0][:, -1]  # (batch, gru_hidden_size), last step
        with torch.autocast(hidden.device.type, enabled=False):  # scores rounded to bfloat16 would tie
            logits = self.classifier(self.embedding(hidden.to(self.embedding.weight.dtype)))

        return SequenceClassifierOutput(
            loss=weighted_cross_entropy(logits, labels, self.config, num_items_in_batch),
            logits=logits,
            hidden_states=hidden_states if output_hidden_states else None,
        )

    def convolve(self, input_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Output of front end (batch, sinc_filters, frames) and of each block (batch, channels, frames)."""
        hidden = self.sinc(input_values)
        hidden = hidden.abs() if hidden.requires_grad else hidden.abs_()  # no copy of the longest tensor
        hidden = F.max_pool1d(hidden, POOL_SIZE)
        hidden = F.selu(self.sinc_norm(hidden), inplace=True)
        hidden_states = (hidden,)
        for block in self.blocks:
            hidden = block(hidden)
            hidden_states += (hidden,)
        return hidden_states


__all__ = ["RawNet2ForAudioClassification", "RawNet2PreTrainedModel"]
