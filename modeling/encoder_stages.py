"""The stages of a pretrained speech encoder under one set of names, whichever kind it is: the front end, the
convolutions, what embeds their output for the first transformer block, the blocks, the norm above them."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from .configuration_wav2vec2_antispoofing import Wav2Vec2AntiSpoofingConfig
from .log_mel import LogMelSpectrogram


def make_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """Make an encoder with random weights; of Whisper without its decoder."""
    if config.model_type == "whisper":
        return WhisperEncoder(config)
    encoder = AutoModel.from_config(config)
    if hasattr(encoder, "masked_spec_embed"):  # UniSpeech-SAT's has it with masking turned off, too
        del encoder.masked_spec_embed
    return encoder


def make_front_end(config: PreTrainedConfig) -> nn.Module:
    """Make the module that turns waveforms (batch, samples) into what the encoder's convolutions take."""
    return LogMelSpectrogram(config) if config.model_type == "whisper" else nn.Identity()


class EncoderStages:
    """
    The stages of an encoder of the wav2vec 2.0 family. All modules are the encoder's own.

    Attributes:
        layers: the transformer blocks.
        last_norm: the norm after the last block; `None` where there is none.
        has_last_norm: whether it is applied.
    """

    def __init__(self, encoder: PreTrainedModel, *, has_last_norm: bool = True):
        self.encoder = encoder
        self.has_last_norm = has_last_norm
        self.layers = self.body.layers
        self.last_norm = self.body.layer_norm if self.norm_is_last else None

    @property
    def body(self) -> nn.Module:
        """The module that has the blocks and a layer norm."""
        return self.encoder.encoder

    @property
    def norm_is_last(self) -> bool:
        """Whether that norm comes after the last block instead of before the first."""
        return getattr(self.encoder.config, "do_stable_layer_norm", False)  # data2vec has no such variant

    def convolve(self, inputs: torch.Tensor) -> torch.Tensor:
        """The front end's output to (batch, channels, frames)."""
        return self.encoder.feature_extractor(inputs)

    def embed(self, features: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, channels, frames), and a mask (batch, frames) that is false where there is padding, to the
        first block's input, (batch, frames, hidden_size)."""
        hidden = self.encoder.feature_projection(features.transpose(1, 2))
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden  # HuBERT's gives nothing else
        if frame_mask is not None:  # as beyond the end of a batch
            hidden = hidden.masked_fill(~frame_mask.unsqueeze(2), 0)
        hidden = hidden + self.body.pos_conv_embed(hidden)
        return self.body.dropout(hidden if self.norm_is_last else self.body.layer_norm(hidden))

    def run_blocks(
        self, states: list[torch.Tensor], first: int, stop: int, frame_mask: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Append the outputs of the blocks `first` to `stop` - 1 to the states, (batch, frames, hidden_size);
        that of the last block after the norm above it. No frame attends to those that a mask (batch, frames)
        leaves out."""
        states = [*states, *self._run_layers(states[-1], first, stop, frame_mask)]
        if first < stop == len(self.layers) and self.last_norm is not None and self.has_last_norm:
            states[-1] = self.last_norm(states[-1])
        return states

    def _run_layers(
        self, hidden: torch.Tensor, first: int, stop: int, frame_mask: torch.Tensor | None
    ) -> list[torch.Tensor]:
        outputs = []
        attention_mask = frame_mask
        if frame_mask is not None:
            attention_mask = create_bidirectional_mask(self.encoder.config, hidden, frame_mask)
        for layer in self.layers[first:stop]:
            hidden = layer(hidden, attention_mask=attention_mask)
            outputs.append(hidden)
        return outputs

    def freeze_feature_encoder(self) -> None:
        """Take gradients from the convolutions."""
        self.encoder.feature_extractor._freeze_parameters()

    def list_frozen(self, config: Wav2Vec2AntiSpoofingConfig) -> list[nn.Module]:
        """Modules that the config says are not trained, in the order in which data flows."""
        modules = [*self._list_frozen_below(config), *self.layers[: config.num_frozen_layers]]
        is_unused = not self.has_last_norm or config.num_frozen_layers == len(self.layers)
        if self.last_norm is not None and is_unused:
            modules.append(self.last_norm)
        return modules

    def _list_frozen_below(self, config: Wav2Vec2AntiSpoofingConfig) -> list[nn.Module]:
        """Those below the blocks."""
        modules = []
        if not config.train_feature_encoder:
            modules.append(self.encoder.feature_extractor)
        if not config.train_feature_projection:
            modules.append(self.encoder.feature_projection)
        if not config.train_positional_convolution:
            modules += [self.body.pos_conv_embed, self.body.dropout]
            if not self.norm_is_last:
                modules.append(self.body.layer_norm)
        return modules


class WavLMStages(EncoderStages):
    """Its first block makes a position bias, (batch * heads, frames, frames), and hands it on."""

    def _run_layers(
        self, hidden: torch.Tensor, first: int, stop: int, frame_mask: torch.Tensor | None
    ) -> list[torch.Tensor]:
        batch, frames = hidden.shape[:2]
        bias, outputs = None, []
        if first:
            bias = self.layers[0].attention.compute_bias(frames, frames).repeat(batch, 1, 1)
        for layer in self.layers[first:stop]:
            hidden, bias = layer(hidden, attention_mask=frame_mask, position_bias=bias)
            outputs.append(hidden)
        return outputs


class WhisperStages(EncoderStages):
    """Below the blocks there are two convolutions and fixed sinusoidal positions, which are never trained."""

    norm_is_last = True

    @property
    def body(self) -> nn.Module:
        return self.encoder

    def convolve(self, inputs: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.encoder.conv2(F.gelu(self.encoder.conv1(inputs))))

    def embed(self, features: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        hidden = features.transpose(1, 2)
        hidden = hidden + self.encoder.embed_positions.weight[: hidden.shape[1]]
        return F.dropout(hidden, p=self.encoder.dropout, training=self.encoder.conv1.training)

    def freeze_feature_encoder(self) -> None:
        for module in (self.encoder.conv1, self.encoder.conv2):
            module.requires_grad_(False)

    def _list_frozen_below(self, config: Wav2Vec2AntiSpoofingConfig) -> list[nn.Module]:
        convolutions = [] if config.train_feature_encoder else [self.encoder.conv1, self.encoder.conv2]
        return [*convolutions, self.encoder.embed_positions]


def find_stages(encoder: PreTrainedModel, *, has_last_norm: bool = True) -> EncoderStages:
    """The stages of an encoder of any kind."""
    stages = {"wavlm": WavLMStages, "whisper": WhisperStages}
    return stages.get(encoder.config.model_type, EncoderStages)(encoder, has_last_norm=has_last_norm)


__all__ = ["EncoderStages", "find_stages", "make_encoder", "make_front_end"]
