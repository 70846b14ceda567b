"""PyTorch RawNet2 model for anti-spoofing (Tak et al., "End-to-End Anti-Spoofing with RawNet2", ICASSP
2021).

Activations are (batch, channels, 1, frames) with the channels last in memory, in which convolutions are
fastest on GPUs, and on CPUs but for training in float32.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_rawnet2 import RawNet2Config
from .float32 import apply_unrounded
from .micro_batch import run_in_micro_batches
from .modeling_countermeasure import CountermeasureForAudioClassification, CountermeasurePreTrainedModel
from .sinc import SincBank


POOL_SIZE = 3  # of the max-pooling after the bank and in every block
SINGLE_BLOCKS = 2  # that a CPU takes one utterance at a time through, before the frames have become few
CPU_MICRO_BATCH = 4  # utterances that it takes through the other blocks at a time


def convolve(conv: nn.Conv1d, hidden: torch.Tensor, norm: nn.BatchNorm2d | None = None) -> torch.Tensor:
    """Convolution over frames and the batch normalisation after it, in eval mode as part of the kernel."""
    weight, bias = conv.weight, conv.bias
    if norm is not None and not norm.training:
        gain = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight, bias = weight * gain[:, None, None], (bias - norm.running_mean) * gain + norm.bias
    hidden = F.conv2d(hidden, weight.unsqueeze(2), bias, padding=(0, *conv.padding))
    return norm(hidden) if norm is not None and norm.training else hidden


def pool_frames(hidden: torch.Tensor) -> torch.Tensor:
    """Max-pooling by 3 of the frames of (batch, channels, 1, frames)."""
    return F.max_pool2d(hidden, (1, POOL_SIZE))


class RawNet2FeatureMapScaling(nn.Module):
    """Feature map scaling x * s + s, s = sigmoid(Linear(mean over time)) (Jung et al., Interspeech 2020)."""

    def __init__(self, channels: int):
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, channels, 1, frames) to the same."""
        scale = torch.sigmoid(self.linear(hidden.mean(dim=(2, 3))))[:, :, None, None]
        return torch.addcmul(scale, hidden, scale)


class RawNet2Block(nn.Module):
    """Residual block, max-pooling by 3 and feature map scaling."""

    def __init__(self, in_channels: int, out_channels: int, *, pre_activation: bool, leaky_relu_slope: float):
        super().__init__()
        self.slope = leaky_relu_slope
        self.norm1 = nn.BatchNorm2d(in_channels) if pre_activation else None
        self.conv1 = nn.Conv1d(in_channels, out_channels, kernel_size=3, padding=1)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv1d(out_channels, out_channels, kernel_size=3, padding=1)
        self.shortcut = (
            nn.Conv1d(in_channels, out_channels, kernel_size=1) if in_channels != out_channels else None
        )
        self.scaling = RawNet2FeatureMapScaling(out_channels)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, 1, frames) to (batch, out_channels, 1, frames // 3)."""
        residual = hidden if self.shortcut is None else convolve(self.shortcut, hidden)
        if self.norm1 is not None:
            hidden = F.leaky_relu(self.norm1(hidden), self.slope, inplace=True)
        hidden = F.leaky_relu(convolve(self.conv1, hidden, self.norm2), self.slope, inplace=True)
        hidden = convolve(self.conv2, hidden).add_(residual)
        return self.scaling(pool_frames(hidden))


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


class RawNet2Model(RawNet2PreTrainedModel):
    """RawNet2 up to its last layer: sinc bank, residual blocks with feature map scaling, GRU, linear."""

    def __init__(self, config: RawNet2Config):
        super().__init__(config)
        self.sinc = SincBank(config)
        self.sinc_norm = nn.BatchNorm2d(config.sinc_filters)
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
        self.norm = nn.BatchNorm2d(channels[-1])
        self.gru = nn.GRU(channels[-1], config.gru_hidden_size, config.num_gru_layers)
        self.embedding = nn.Linear(config.gru_hidden_size, config.embedding_size)
        self.add_classifier(config.embedding_size)
        self.post_init()

    def embed(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None, output_hidden_states: bool
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
        """Waveforms (batch, num_samples) to the output of the GRU (batch, frames, gru_hidden_size),
        embeddings (batch, embedding_size) and, as hidden states, if asked for, the output of the front end
        (batch, sinc_filters, frames) and of each block (batch, channels, frames)."""
        self.refuse_padding(attention_mask)
        if self.training or output_hidden_states or input_values.device.type != "cpu":
            hidden_states = [self.front_end(input_values)]
            for block in self.blocks:
                hidden_states.append(block(hidden_states[-1]))
            hidden = hidden_states[-1]
        else:
            hidden = run_in_micro_batches(self.begin, input_values, size=1)
            for block in self.blocks[SINGLE_BLOCKS:]:
                hidden = run_in_micro_batches(block, hidden, CPU_MICRO_BATCH)
        hidden = F.selu(self.norm(hidden)).squeeze(2).permute(2, 0, 1)  # (frames, batch, channels)
        if isinstance(self.gru, nn.GRU):  # and not what a library quantised
            self.gru.flatten_parameters()
        hidden = self.gru(hidden.contiguous())[0]  # (frames, batch, gru_hidden_size)
        embeddings = apply_unrounded(self.embedding, hidden[-1])
        states = tuple(h.squeeze(2) for h in hidden_states) if output_hidden_states else ()
        return hidden.transpose(0, 1), embeddings, states

    def front_end(self, input_values: torch.Tensor) -> torch.Tensor:
        """(batch, num_samples) to (batch, sinc_filters, 1, frames)."""
        hidden = self.sinc.max_magnitudes(input_values, POOL_SIZE).transpose(1, 2).unsqueeze(2)
        if self.training and hidden.device.type == "cpu" and hidden.dtype == torch.float32:
            # A kernel's gradient takes a third of the time with the channels first. One utterance at a time:
            # torch transposes matrices in blocks, and larger tensors element by element.
            hidden = torch.stack([utterance.squeeze(1).contiguous() for utterance in hidden]).unsqueeze(2)
        return F.selu(self.sinc_norm(hidden), inplace=True)

    def begin(self, input_values: torch.Tensor) -> torch.Tensor:
        """The front end and the first blocks."""
        hidden = self.front_end(input_values)
        for block in self.blocks[:SINGLE_BLOCKS]:
            hidden = block(hidden)
        return hidden


class RawNet2ForAudioClassification(CountermeasureForAudioClassification, RawNet2Model):
    """RawNet2 and its last layer."""


__all__ = ["RawNet2ForAudioClassification", "RawNet2Model", "RawNet2PreTrainedModel"]
