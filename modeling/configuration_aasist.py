"""AASIST model configuration."""

import math
from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_sinc import SincFrontEndConfig


@strict
class AasistConfig(SincFrontEndConfig):
    r"""
    Configuration of [`AasistForAudioClassification`] (Jung et al., "AASIST: Audio Anti-Spoofing using
    Integrated Spectro-Temporal Graph Attention Networks", ICASSP 2022). The defaults give AASIST, with
    297,354 parameters (the authors count 297,866: with 512 of batch normalisations that their code does not
    use, see `pre_activation`).

    Args:
        sinc_filters: number of filters in the sinc bank. A third of them, rounded down, are the bands of the
            residual encoder and the nodes of the spectral graph.
        graph_size: width of the nodes of the spectral and of the temporal graph, and of the stack nodes at
            first.
        heterogeneous_graph_size: width of the nodes of the heterogeneous graphs.
        pool_ratios: share of the nodes that graph pooling keeps, rounded down but at least one: of the
            spectral, the temporal and the heterogeneous graphs.
        temperatures: what the attention is divided by before the softmax, likewise.
        attention_dropout, pool_dropout, branch_dropout, classifier_dropout: dropout of the nodes that a graph
            attention layer gets, of those that graph pooling weighs, of the outputs of both branches and
            before the last layer.
        block_channels, pre_activation, sinc_filter_length, sinc_scale, …: see `SincFrontEndConfig`.
        num_samples, sampling_rate, class_weights, loss, …: see `CountermeasureConfig`.

    Example:

    ```python
    >>> from modeling import AasistConfig, AasistForAudioClassification

    >>> model = AasistForAudioClassification(AasistConfig())
    >>> model.num_parameters()
    297354
    ```"""

    model_type = "aasist"

    num_samples: int = 64600
    sinc_filters: int = 70
    sinc_scale: Literal["linear", "mel", "inverse_mel"] = "mel"
    block_channels: list[int] | tuple[int, ...] = (32, 32, 64, 64, 64, 64)
    pre_activation: bool = False
    graph_size: int = 64
    heterogeneous_graph_size: int = 32
    pool_ratios: list[float | int] | tuple[float | int, ...] = (0.5, 0.7, 0.5)
    temperatures: list[float | int] | tuple[float | int, ...] = (2.0, 2.0, 100.0)
    attention_dropout: float | int = 0.2
    pool_dropout: float | int = 0.3
    branch_dropout: float | int = 0.2
    classifier_dropout: float | int = 0.5

    def validate_graphs(self):
        self.check_at_least(3, "sinc_filters")  # which make one band
        self.check_at_least(1, "graph_size", "heterogeneous_graph_size")
        limits = (("pool_ratios", 1, "above 0 and at most 1"), ("temperatures", math.inf, "above 0"))
        for name, largest, allowed in limits:
            values = getattr(self, name)
            if len(values) != 3 or not all(0 < value <= largest for value in values):
                raise ValueError(
                    f"{name} {list(values)} must be three numbers {allowed}: of the spectral, the temporal "
                    "and the heterogeneous graphs."
                )


__all__ = ["AasistConfig"]
