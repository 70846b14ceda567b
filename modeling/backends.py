"""The back ends of the model on an encoder, by the names that `backend` has in its config. Each makes one
vector, of `output_size`, of the encoder's states: of all of them where `config.needs_all_layers`, else of
one."""

from torch import nn

from .attentive_pooling import AttentivePooling, MeanPooling
from .configuration_wav2vec2_antispoofing import Wav2Vec2AntiSpoofingConfig
from .mhfa import MultiHeadFactorizedAttentivePooling


BACKENDS = {
    "attentive": AttentivePooling,
    "mean": MeanPooling,
    "mhfa": MultiHeadFactorizedAttentivePooling,
}


def make_backend(config: Wav2Vec2AntiSpoofingConfig) -> nn.Module:
    """The back end `config.backend`: states (batch, states, frames, hidden_size) to (batch, output_size)."""
    return BACKENDS[config.backend](config)


__all__ = ["BACKENDS", "make_backend"]
