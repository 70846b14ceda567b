"""PyTorch anti-spoofing model on a pretrained speech encoder, of which the lower part, or all, may be frozen:
of the wav2vec 2.0 family (Baevski et al., NeurIPS 2020; Tak et al., "Automatic Speaker Verification Spoofing
and Deepfake Detection Using wav2vec 2.0 and Data Augmentation", Odyssey 2022) or of Whisper (Kawa et al.,
"Improved DeepFake Detection Using Whisper Features", Interspeech 2023)."""

from contextlib import nullcontext

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import XVectorOutput
from transformers.utils import can_return_tuple

from .backends import BACKENDS, make_last_layer
from .configuration_wav2vec2_antispoofing import Wav2Vec2AntiSpoofingConfig
from .encoder_stages import EncoderStages, find_stages, make_encoder, make_front_end
from .log_mel import LogMelSpectrogram
from .micro_batch import run_in_micro_batches
from .modeling_countermeasure import CountermeasureForAudioClassification, CountermeasurePreTrainedModel


BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class Wav2Vec2AntiSpoofingPreTrainedModel(CountermeasurePreTrainedModel):
    """Weight initialisation and loading of the anti-spoofing model on wav2vec 2.0."""

    config_class = Wav2Vec2AntiSpoofingConfig
    base_model_prefix = "wav2vec2_antispoofing"
    supports_gradient_checkpointing = True
    _keep_in_fp32_modules_strict = ["front_end"]
    _supports_sdpa = True
    _supports_flash_attn = True

    def _init_weights(self, module: nn.Module) -> None:
        # The encoder initialises itself; the head as PyTorch does, and not by the library's normal(0, 0.02).
        if isinstance(module, LogMelSpectrogram):
            module.init_weights()
        elif isinstance(module, Wav2Vec2AntiSpoofingModel):
            if module.layer_weights is not None:
                init.zeros_(module.layer_weights)
        elif hasattr(module, "reset_parameters") and not isinstance(module, BATCH_NORMS):
            module.reset_parameters()
        else:
            super()._init_weights(module)


class Wav2Vec2AntiSpoofingModel(Wav2Vec2AntiSpoofingPreTrainedModel):
    """
    A pretrained speech encoder, and a back end that makes one vector of its states (see `backends.py`).
    `config.num_trainable_layers` of its topmost blocks are trained; what lies below, the trunk, is frozen
    when the model is made or loaded. After that `requires_grad` of the parameters decides, as a user or an
    adapter sets it: a part of the trunk that needs no gradients stays in eval mode, and a trunk that needs
    none is run without autograd.
    """

    def __init__(self, config: Wav2Vec2AntiSpoofingConfig):
        super().__init__(config)
        self.front_end = make_front_end(config.encoder_config)
        self.encoder = make_encoder(config.encoder_config)
        # (num_hidden_layers + 1,), of the first block's input and of all blocks' outputs
        self.layer_weights = (
            nn.Parameter(torch.zeros(config.encoder_config.num_hidden_layers + 1))
            if config.use_weighted_layer_sum
            else None
        )
        self.backend = BACKENDS[config.backend](config)
        self.add_classifier(self.backend.output_size, config.classifier_dropout)
        self.post_init()
        self.freeze()

    @property
    def stages(self) -> EncoderStages:
        """The stages of the encoder, under the same names for every kind of encoder."""
        return find_stages(self.encoder, has_last_norm=self.config.has_last_norm)

    def train(self, mode: bool = True) -> "Wav2Vec2AntiSpoofingModel":
        """As in `nn.Module`, but parts of the trunk that need no gradients stay in eval mode."""
        super().train(mode)
        for module in self.frozen_modules():
            module.train(mode and _needs_gradients(module))
        return self

    def freeze(self) -> None:
        """Take gradients from the modules that the config says are frozen."""
        for module in self.frozen_modules():
            module.eval().requires_grad_(False)

    def freeze_feature_encoder(self) -> None:
        """Take gradients from the convolutional feature encoder, as transformers' models of the family do."""
        self.stages.freeze_feature_encoder()

    def frozen_modules(self) -> list[nn.Module]:
        """Modules of the encoder that the config says are not trained, in the order in which data flows."""
        return self.stages.list_frozen(self.config)

    def count_layers_above(self) -> dict[nn.Parameter, int]:
        """
        How many layers there are from a parameter up to the head: 0 in the head, 1 in the last of n blocks, n
        in the first, n + 1 in what lies below. A layer norm above the last block counts as the head.
        """
        layers, norm = self.stages.layers, self.stages.last_norm
        counts = dict.fromkeys(self.parameters(), 0)
        counts |= dict.fromkeys(self.encoder.parameters(), len(layers) + 1)
        for index, layer in enumerate(layers):
            counts |= dict.fromkeys(layer.parameters(), len(layers) - index)
        return counts | dict.fromkeys(() if norm is None else norm.parameters(), 0)

    def embed(
        self,
        input_values: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        output_hidden_states: bool,
        trunk_states: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
        """
        The last state (batch, frames, hidden_size), embeddings (batch, size), and, as hidden states, the
        first block's input and all blocks' outputs; the last one after the final layer norm, but with SLS.
        Unless all are asked for, which needs `input_values`, the state of a frozen encoder of which the back
        end takes the mean over time is that mean, as one frame.

        Args:
            input_values: (batch, num_samples) waveform.
            attention_mask: (batch, num_samples), 0 where there is padding at the end, which then neither the
                encoder's attention nor the back end sees. Padding needs `config.takes_padding`.
            output_hidden_states: whether they are asked for.
            trunk_states: instead of `input_values`, what `run_trunk` gave for them, in any float type.
        """
        if trunk_states is not None or not self.config.takes_padding:
            self.refuse_padding(attention_mask)
        if (input_values is None) == (trunk_states is None):
            raise ValueError("Give either input_values or trunk_states.")
        frame_mask = self.make_frame_mask(attention_mask)
        if trunk_states is None:
            trunk_states = self.run_trunk(
                input_values, every_state=output_hidden_states, frame_mask=frame_mask
            )
        elif output_hidden_states:
            raise ValueError("output_hidden_states needs input_values: trunk_states are not all of them.")
        states = list(trunk_states.to(self.encoder.dtype).unbind(1))
        stages = self.stages
        states = stages.run_blocks(states, self.config.num_frozen_layers, len(stages.layers), frame_mask)
        # (batch, states, frames, hidden_size)
        seen = torch.stack(states if self.config.needs_all_layers else states[-1:], dim=1)
        if seen.requires_grad and (factor := self.config.encoder_gradient_factor) != 1:
            seen.register_hook(lambda gradient: factor * gradient)
        if self.layer_weights is not None:
            seen = torch.einsum("s,bsth->bth", self.layer_weights.softmax(0), seen).unsqueeze(1)
        return states[-1], self.backend(seen, frame_mask), tuple(states)

    def make_frame_mask(self, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
        """The mask of samples (batch, num_samples) as one of frames, (batch, frames), true where there is
        speech; `None` where there is no padding."""
        if attention_mask is None or attention_mask.all():
            return None
        lengths = self.config.count_frames(attention_mask.sum(dim=1, keepdim=True))
        if (lengths < 1).any():
            raise ValueError("An utterance is too short for the encoder: it makes no frame of it.")
        frames = self.config.count_frames(attention_mask.shape[1])
        return torch.arange(frames, device=attention_mask.device) < lengths

    def run_trunk(
        self,
        input_values: torch.Tensor,
        *,
        every_state: bool = False,
        frame_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        What the trained part takes from the part below it. Where that is frozen, it never changes for an
        utterance, so that it can be computed once and kept.

        Args:
            input_values: (batch, num_samples) waveform.
            every_state: give all states in all frames, also those that the trained part does not need.
            frame_mask: (batch, frames), false where there is padding.

        Returns:
            (batch, states, frames, hidden_size): the output of the last frozen block, or the first block's
            input where no block is frozen; where the head needs all layers, the states below it as well. If
            nothing but their mean over time matters, that mean as the only frame.
        """
        is_trained = not self.config.has_frozen_trunk or any(map(_needs_gradients, self.frozen_modules()))
        with nullcontext() if is_trained else torch.no_grad():
            if input_values.device.type == "cpu" and not torch.is_grad_enabled():
                features = run_in_micro_batches(self._convolve, input_values, size=1)
            else:
                features = self._convolve(input_values)
            stages = self.stages
            first = stages.embed(features, frame_mask)
            states = stages.run_blocks([first], 0, self.config.num_frozen_layers, frame_mask)
            if not (every_state or self.config.needs_all_layers):
                states = states[-1:]
            stacked = torch.stack(states, dim=1)
            everything_is_frozen = self.config.num_frozen_layers == len(stages.layers)
            is_averaged = self.config.backend == "mean" and not every_state and frame_mask is None
            if everything_is_frozen and is_averaged:
                stacked = stacked.mean(dim=2, keepdim=True)
            return stacked

    def _convolve(self, input_values: torch.Tensor) -> torch.Tensor:
        """Waveforms to the features of the encoder's convolutions, (batch, channels, frames)."""
        return self.stages.convolve(self.front_end(input_values).to(self.encoder.dtype))


class Wav2Vec2AntiSpoofingForAudioClassification(
    CountermeasureForAudioClassification, Wav2Vec2AntiSpoofingModel
):
    """The encoder, its back end, dropout and a last layer."""

    make_classifier = staticmethod(make_last_layer)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        trunk_states: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        attention_mask: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> XVectorOutput:
        """As in [`CountermeasureForAudioClassification`]; what `embed` takes is described there."""
        usual = (input_values, labels, output_hidden_states, attention_mask, num_items_in_batch)
        return super().forward(*usual, trunk_states=trunk_states)


def _needs_gradients(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


__all__ = [
    "Wav2Vec2AntiSpoofingForAudioClassification",
    "Wav2Vec2AntiSpoofingModel",
    "Wav2Vec2AntiSpoofingPreTrainedModel",
]
