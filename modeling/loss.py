"""The losses that the countermeasures are trained with, by the formulas of their papers: of logits (batch,
num_labels) without a shift by a decision threshold, and class indices (batch,), that of each utterance."""

import torch
from torch.nn import functional as F

from .configuration_countermeasure import CountermeasureConfig


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, config: CountermeasureConfig) -> torch.Tensor:
    """
    -log p, where p is the softmax's probability of the own label; with a scale s and a margin m:

    AM-softmax (Wang et al., "Additive Margin Softmax for Face Verification", IEEE SPL 2018): of the logits
    s (cos_j - m [j is the own label]).

    OC-softmax (Zhang, Jiang, Duan, "One-Class Learning Towards Synthetic Voice Spoofing Detection", IEEE SPL
    2021): log(1 + exp(s (m_0 - cos))) of bona fide, log(1 + exp(s (cos - m_1))) of spoof. That is the same of
    the logits +-s/2 (cos - (m_0 + m_1)/2), which [`CosineClassifier`] gives, with s m = s/2 (m_0 - m_1).
    """
    margin = config.loss_margin
    if isinstance(margin, dict):
        margin = (margin["bonafide"] - margin["spoof"]) / 2
    if margin is not None:
        logits = logits - config.loss_scale * margin * F.one_hot(labels, logits.shape[1])
    return F.cross_entropy(logits, labels, reduction="none")


def focal(logits: torch.Tensor, labels: torch.Tensor, config: CountermeasureConfig) -> torch.Tensor:
    """
    -(1 - p)^gamma log p (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, eq. 4). The alpha of
    its eq. 5 is the weight of the class.
    """
    log_probabilities = logits.log_softmax(dim=1)
    is_own = F.one_hot(labels, logits.shape[1]).bool()
    log_of_others = log_probabilities.masked_fill(is_own, -torch.inf).logsumexp(dim=1)  # log(1 - p)
    return (config.focal_gamma * log_of_others).exp() * -log_probabilities[is_own]


def p2sgrad(logits: torch.Tensor, labels: torch.Tensor, config: CountermeasureConfig) -> torch.Tensor:
    """
    Sum over the labels j of (cos_j - [j is the own label])^2, whose gradients are those of P2SGrad (Wang and
    Yamagishi, "A Comparative Study on Recent Neural Spoofing Countermeasures for Synthetic Speech Detection",
    Interspeech 2021). The authors' code takes the mean over the labels, half of it.
    """
    return (logits - F.one_hot(labels, logits.shape[1])).square().sum(dim=1)


LOSSES = {
    "weighted_cross_entropy": cross_entropy,
    "focal": focal,
    "am_softmax": cross_entropy,
    "oc_softmax": cross_entropy,
    "p2sgrad": p2sgrad,
}
