"""The last layer of a countermeasure, linear or of cosines, as its loss takes it."""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_countermeasure import CountermeasureConfig


def make_classifier(in_features: int, config: CountermeasureConfig) -> nn.Module:
    """The last layer that `config.loss` takes, (batch, in_features) to logits (batch, num_labels)."""
    if config.loss in config.losses_of_cosines:
        return CosineClassifier(in_features, config)
    return nn.Linear(in_features, config.num_labels)


class CosineClassifier(nn.Module):
    """
    Logits from the cosines between an embedding and trained directions, the rows of `weight`.

    In AM-softmax and P2SGrad each label has a direction, and its logit is the cosine, times the scale in
    AM-softmax. In OC-softmax there is one direction, that of bona fide: the score, logit of bona fide minus
    logit of spoof, is scale * (cos - middle of both margins), of which each logit has half, with opposite
    signs. `bias` is 0 until a decision threshold shifts the logits by it; it is no part of the loss.

    It is not an `nn.Linear`, which libraries replace by what multiplies by `weight` as it is.
    """

    def __init__(self, in_features: int, config: CountermeasureConfig):
        super().__init__()
        self.scale, self.center, num_directions = config.loss_scale or 1.0, 0.0, config.num_labels
        self.has_one_direction = config.loss == "oc_softmax"
        if self.has_one_direction:
            self.scale, self.center, num_directions = self.scale / 2, sum(config.loss_margin.values()) / 2, 1
            self.is_bonafide_first = config.label2id["bonafide"] == 0
        self.weight = nn.Parameter(torch.empty(num_directions, in_features))
        self.register_buffer("bias", torch.zeros(config.num_labels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new directions, as `nn.Linear` draws its rows, and take back what has shifted the logits."""
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        nn.init.zeros_(self.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, in_features) to (batch, num_labels)."""
        cosines = F.linear(F.normalize(hidden), F.normalize(self.weight))  # (batch, directions)
        logits = self.scale * (cosines - self.center)
        if self.has_one_direction:
            both = (logits, -logits) if self.is_bonafide_first else (-logits, logits)
            logits = torch.cat(both, dim=1)
        return logits + self.bias
