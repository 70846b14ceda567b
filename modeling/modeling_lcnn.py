"""PyTorch LCNN model for anti-spoofing: a light CNN with max-feature-map activations (Lavrentyeva et al.,
"STC Antispoofing Systems for the ASVspoof2019 Challenge", Interspeech 2019), in the study's short form."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import can_return_tuple

from .configuration_lcnn import LCNNConfig
from .cosine_classifier import make_classifier
from .cqt import CQT
from .lfcc import LFCC
from .modeling_countermeasure import CountermeasurePreTrainedModel, refuse_padding


def max_feature_map(hidden: torch.Tensor) -> torch.Tensor:
    """The larger of the two halves of the channels: (batch, 2 * channels, …) to (batch, channels, …)."""
    return torch.maximum(*hidden.chunk(2, dim=1))


class LCNNBlock(nn.Module):
    """Convolution, max-feature-map, max-pooling and batch normalisation."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int, pool_size: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 2 * out_channels, kernel_size, padding=kernel_size // 2)
        self.pool_size = pool_size
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, bins, frames) to (batch, out_channels, bins // pool, frames // pool)."""
        return self.norm(F.max_pool2d(max_feature_map(self.conv(hidden)), self.pool_size))


class LCNNPreTrainedModel(CountermeasurePreTrainedModel):
    """Weight initialisation and loading of LCNN."""

    config_class = LCNNConfig
    base_model_prefix = "lcnn"
    _keep_in_fp32_modules_strict = ["front_end"]

    def _init_weights(self, module: nn.Module) -> None:
        # PyTorch's own initialisation, and not the library's normal(0, 0.02).
        if isinstance(module, (LFCC, CQT)):
            module.init_weights()
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            module.reset_parameters()
        else:
            super()._init_weights(module)


class LCNNForAudioClassification(LCNNPreTrainedModel):
    """
    LFCC or constant-Q transform, four convolutions with max-feature-map and pooling, a fully connected layer
    with max-feature-map, dropout, a linear layer.

    The score of an utterance is the logit of bona fide minus the logit of spoof; `config.id2label` says which
    is which.
    """

    def __init__(self, config: LCNNConfig):
        super().__init__(config)
        if config.front_end == "cqt":
            self.front_end = CQT(config)
            bins, frames = config.cqt_num_bins, 1 + config.num_samples // config.cqt_hop_length
        else:
            self.front_end = LFCC(config)
            bins = (1 + config.lfcc_num_deltas) * config.lfcc_num_coefficients
            frames = self.front_end.num_frames(config.num_samples)
        channels = [1, *config.channels]
        self.blocks = nn.ModuleList(
            LCNNBlock(channels[i], channels[i + 1], kernel_size=kernel_size, pool_size=pool_size)
            for i, (kernel_size, pool_size) in enumerate(
                zip(config.kernel_sizes, config.pool_sizes, strict=True)
            )
        )
        for size in config.pool_sizes:
            bins, frames = bins // size, frames // size
        if not bins * frames:
            raise ValueError(
                f"num_samples {config.num_samples} or the front end is too small for pool_sizes "
                f"{list(config.pool_sizes)}: nothing is left."
            )
        self.fc = nn.Linear(channels[-1] * bins * frames, 2 * config.fc_size)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = make_classifier(config.fc_size, config)
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
            output_hidden_states: whether to return the front end's output (batch, 1, bins, frames) and each
                block's (batch, channels, bins, frames).
            attention_mask: accepted where it marks no padding.
            num_items_in_batch: utterances of the whole optimizer step; see `loss_function`.

        Returns:
            `logits` (batch, num_labels) and, where labels are given, `config.loss` of them as `loss`.
        """
        refuse_padding(attention_mask)
        if input_values.shape[-1] != self.config.num_samples:
            raise ValueError(
                f"The waveforms have {input_values.shape[-1]} samples, but this network takes "
                f"{self.config.num_samples}: crop or pad them by its feature extractor."
            )
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden = self.front_end(input_values).unsqueeze(1)  # (batch, 1, bins, frames), float32
        hidden_states = (hidden,)
        hidden = hidden.to(self.classifier.weight.dtype)
        for block in self.blocks:
            hidden = block(hidden)
            hidden_states += (hidden,)
        with torch.autocast(hidden.device.type, enabled=False):  # scores rounded to bfloat16 would tie
            hidden = self.fc(hidden.flatten(1).to(self.classifier.weight.dtype))
            logits = self.classifier(self.dropout(max_feature_map(hidden)))

        return SequenceClassifierOutput(
            loss=self.loss_function(logits, labels, num_items_in_batch),
            logits=self.calibrate(logits),
            hidden_states=hidden_states if output_hidden_states else None,
        )


__all__ = ["LCNNForAudioClassification", "LCNNPreTrainedModel"]
