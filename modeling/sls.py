"""SLS, sensitive layer selection (Zhang et al., "Audio Deepfake Detection with Self-Supervised XLS-R and SLS
Classifier", ACM Multimedia 2024), a back end of the outputs of all blocks."""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_wav2vec2_antispoofing import Wav2Vec2AntiSpoofingConfig


POOL_SIZE = 3  # of the max-pooling over frames and channels


class SensitiveLayerSelection(nn.Module):
    """
    The sum over blocks l of sigmoid(w^T mean_t(h_l) + b) h_l, with batch normalisation as one channel, SELU
    and max-pooling; a linear layer takes all that is left, so that the number of frames is fixed.
    """

    def __init__(self, config: Wav2Vec2AntiSpoofingConfig):
        super().__init__()
        hidden_size, self.output_size = config.encoder_config.hidden_size, config.classifier_proj_size
        self.layer_gate = nn.Linear(hidden_size, 1)
        self.norm = nn.BatchNorm2d(1)
        pooled_size = (config.count_frames(config.num_samples) // POOL_SIZE) * (hidden_size // POOL_SIZE)
        self.projector = nn.Linear(pooled_size, self.output_size)

    def forward(self, states: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """All states (batch, states, frames, hidden_size) to (batch, output_size)."""
        outputs = states[:, 1:]  # without the first block's input
        gates = self.layer_gate(outputs.mean(dim=2)).sigmoid().squeeze(2)  # (batch, blocks)
        hidden = torch.einsum("bs,bsth->bth", gates, outputs).unsqueeze(1)
        # (batch, 1, frames // 3, hidden_size // 3)
        hidden = F.max_pool2d(F.selu(self.norm(hidden)), POOL_SIZE)
        return F.selu(self.projector(hidden.flatten(1)))


class SeluClassifier(nn.Module):
    """
    Logits that are the SELU of a linear layer, as SLS has them. `bias` is 0 until a decision threshold shifts
    the logits by it, after the SELU.
    """

    def __init__(self, in_features: int, num_labels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_labels, in_features))
        self.inner_bias = nn.Parameter(torch.empty(num_labels))
        self.register_buffer("bias", torch.zeros(num_labels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights, as `nn.Linear` does, and take back what has shifted the logits."""
        bound = self.weight.shape[1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.inner_bias, -bound, bound)
        nn.init.zeros_(self.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, in_features) to (batch, num_labels)."""
        return F.selu(F.linear(hidden, self.weight, self.inner_bias)) + self.bias


__all__ = ["SeluClassifier", "SensitiveLayerSelection"]
