"""The loss that the countermeasures are trained with."""

import torch
from torch.nn import functional as F

from .configuration_countermeasure import CountermeasureConfig


def weighted_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor | None,
    config: CountermeasureConfig,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor | None:
    """
    Cross-entropy of logits (batch, num_labels) and class indices (batch,), weighted by
    `config.class_weights`, which name the labels; `None` where there are no class indices.

    By itself it is the weighted mean over the batch. Of a part of an optimizer step it is a sum, divided by
    `num_items_in_batch`, the number of utterances in the whole step: the parts add up to one loss, however
    the step is divided. An utterance may count there as its class's weight over the mean of the weights, as
    `AntiSpoofingTrainer` counts, whose loss is the weighted mean of the step; the library's `Trainer` counts
    it as 1.
    """
    if labels is None:
        return None
    weights = None
    if config.class_weights is not None:
        weights = [config.class_weights[config.id2label[index]] for index in range(config.num_labels)]
        weights = logits.new_tensor(weights)
        weights = weights / weights.mean()
    if num_items_in_batch is None:
        return F.cross_entropy(logits, labels, weight=weights)
    return F.cross_entropy(logits, labels, weight=weights, reduction="sum") / num_items_in_batch
