"""Multi-head factorized attentive pooling (Peng et al., "An Attention-Based Backend Allowing Efficient
Fine-Tuning of Transformer Models for Speaker Verification", SLT 2022), a back end of all layers."""

import torch
from torch import nn

from .attentive_pooling import softmax_over_frames
from .configuration_wav2vec2_antispoofing import Wav2Vec2AntiSpoofingConfig


class MultiHeadFactorizedAttentivePooling(nn.Module):
    """
    One weighted sum of the layers gives keys, another one values. Each head h averages the values v over the
    frames t by an attention of the keys k alone, sum_t softmax_t(w_h^T k_t + b_h) v_t; a linear layer makes
    one vector of all heads'.
    """

    def __init__(self, config: Wav2Vec2AntiSpoofingConfig):
        super().__init__()
        encoder, size = config.encoder_config, config.attention_size
        self.output_size = config.classifier_proj_size
        self.key_layer_weights = nn.Parameter(torch.empty(encoder.num_hidden_layers + 1))
        self.value_layer_weights = nn.Parameter(torch.empty(encoder.num_hidden_layers + 1))
        self.key = nn.Linear(encoder.hidden_size, size)
        self.value = nn.Linear(encoder.hidden_size, size)
        self.attention = nn.Linear(size, config.attention_heads)
        self.projector = nn.Linear(config.attention_heads * size, self.output_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All layers count alike at first."""
        nn.init.zeros_(self.key_layer_weights)
        nn.init.zeros_(self.value_layer_weights)

    def forward(self, states: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """All states (batch, states, frames, hidden_size) and a mask (batch, frames), true where there is
        speech, to (batch, output_size)."""
        keys = self.key(torch.einsum("s,bsth->bth", self.key_layer_weights.softmax(0), states))
        values = self.value(torch.einsum("s,bsth->bth", self.value_layer_weights.softmax(0), states))
        weights = softmax_over_frames(self.attention(keys), frame_mask)  # (batch, frames, heads)
        heads = torch.einsum("bth,btv->bhv", weights, values)  # (batch, heads, attention_size)
        return self.projector(heads.flatten(1))


__all__ = ["MultiHeadFactorizedAttentivePooling"]
