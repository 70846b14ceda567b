"""PyTorch LCNN model for anti-spoofing: a light CNN with max-feature-map activations (Lavrentyeva et al.,
"STC Antispoofing Systems for the ASVspoof2019 Challenge", Interspeech 2019), in the study's short form."""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_lcnn import LCNNConfig
from .cqt import CQT
from .float32 import apply_unrounded
from .lfcc import LFCC
from .modeling_countermeasure import CountermeasureForAudioClassification, CountermeasurePreTrainedModel


def max_feature_map(hidden: torch.Tensor) -> torch.Tensor:
    """The larger of the two halves of the channels: (batch, 2 * channels, …) to (batch, channels, …)."""
    half = hidden.shape[1] // 2
    return torch.maximum(hidden[:, :half], hidden[:, half:])


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


class LCNNModel(LCNNPreTrainedModel):
    """
    LCNN up to its last layer: LFCC or constant-Q transform, four convolutions with max-feature-map and
    pooling, a fully connected layer with max-feature-map.
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
        self.add_classifier(config.fc_size, config.dropout)
        self.post_init()

    def embed(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None, output_hidden_states: bool
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
        """Waveforms (batch, num_samples) to the output of the last block, embeddings (batch, fc_size) and, as
        hidden states, the output of the front end (batch, 1, bins, frames) and of each block (batch,
        channels, bins, frames)."""
        self.refuse_padding(attention_mask)
        if input_values.shape[-1] != self.config.num_samples:
            raise ValueError(
                f"The waveforms have {input_values.shape[-1]} samples, but this network takes "
                f"{self.config.num_samples}: crop or pad them by its feature extractor."
            )
        hidden = self.front_end(input_values).unsqueeze(1)  # (batch, 1, bins, frames), float32
        hidden_states = (hidden,)
        hidden = hidden.to(self.dtype)
        for block in self.blocks:
            hidden = block(hidden)
            hidden_states += (hidden,)
        embeddings = max_feature_map(apply_unrounded(self.fc, hidden.flatten(1)))
        return hidden, embeddings, hidden_states


class LCNNForAudioClassification(CountermeasureForAudioClassification, LCNNModel):
    """LCNN, dropout and its last layer."""


__all__ = ["LCNNForAudioClassification", "LCNNModel", "LCNNPreTrainedModel"]
