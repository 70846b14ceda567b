"""The loss that the countermeasures are trained with."""

import torch
from torch.nn import functional as F

from .configuration_countermeasure import CountermeasureConfig


def weighted_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor | None, config: CountermeasureConfig
) -> torch.Tensor | None:
    """
    Cross-entropy of logits (batch, num_labels) and class indices (batch,), weighted by
    `config.class_weights`, which name the labels; `None` where there are no class indices.
    """
    if labels is None:
        return None
    if config.class_weights is None:
        return F.cross_entropy(logits, labels)
    weights = [config.class_weights[config.id2label[index]] for index in range(config.num_labels)]
    return F.cross_entropy(logits, labels, weight=logits.new_tensor(weights))
