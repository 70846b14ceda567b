"""The back ends of the model on an encoder, by the names that `backend` has in its config. Each makes one
vector, (batch, output_size), of the encoder's states, (batch, states, frames, hidden_size): of all of them
where `config.needs_all_layers`, else of one."""

from torch import nn

from .aasist_backend import AasistBackend
from .attentive_pooling import AttentivePooling, MeanPooling
from .configuration_wav2vec2_antispoofing import Wav2Vec2AntiSpoofingConfig
from .cosine_classifier import make_classifier
from .mhfa import MultiHeadFactorizedAttentivePooling
from .nes2net import Nes2Net
from .sls import SeluClassifier, SensitiveLayerSelection


BACKENDS = {
    "aasist": AasistBackend,
    "attentive": AttentivePooling,
    "mean": MeanPooling,
    "mhfa": MultiHeadFactorizedAttentivePooling,
    "nes2net": Nes2Net,
    "sls": SensitiveLayerSelection,
}


def make_last_layer(in_features: int, config: Wav2Vec2AntiSpoofingConfig) -> nn.Module:
    """The layer after the back end, (batch, in_features) to logits (batch, num_labels)."""
    if config.backend == "sls" and config.loss not in config.losses_of_cosines:
        return SeluClassifier(in_features, config.num_labels)
    return make_classifier(in_features, config)


__all__ = ["BACKENDS", "make_last_layer"]
