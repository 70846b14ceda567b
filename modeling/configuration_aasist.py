"""AASIST model configuration."""

from typing import ClassVar

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
        num_samples (`int`, *optional*, defaults to 64600):
            Length of the input in samples.
        sinc_filters (`int`, *optional*, defaults to 70):
            Number of filters in the sinc bank. A third of them, rounded down, are the bands of the residual
            encoder and the nodes of the spectral graph.
        sinc_scale (`str`, *optional*, defaults to `"mel"`):
            Scale on which the band edges are equally spaced.
        block_channels (`list[int]`, *optional*, defaults to `[32, 32, 64, 64, 64, 64]`):
            Output channels of each residual block.
        pre_activation (`bool`, *optional*, defaults to `False`):
            Whether every block but the first applies batch normalisation and SELU before its first
            convolution, as the paper draws it. In the authors' code, and so in their weights, none does.
        graph_size (`int`, *optional*, defaults to 64):
            Width of the nodes of the spectral and of the temporal graph, and of the stack nodes at first.
        heterogeneous_graph_size (`int`, *optional*, defaults to 32):
            Width of the nodes of the heterogeneous graphs.
        pool_ratios (`list[float]`, *optional*, defaults to `[0.5, 0.7, 0.5]`):
            Share of the nodes that graph pooling keeps, rounded down but at least one: of the spectral, the
            temporal and the heterogeneous graphs.
        temperatures (`list[float]`, *optional*, defaults to `[2.0, 2.0, 100.0]`):
            What the attention is divided by before the softmax, likewise.
        attention_dropout, pool_dropout, branch_dropout, classifier_dropout (`float`, *optional*):
            Dropout of the nodes that a graph attention layer gets (defaults to 0.2), of those that graph
            pooling weighs (0.3), of the outputs of both branches (0.2) and before the last layer (0.5).
        sinc_filter_length, sinc_min_frequency, sinc_max_frequency, sinc_learnable:
            See `SincFrontEndConfig`.
        sampling_rate, class_weights, decision_threshold:
            See `CountermeasureConfig`.

    Example:

    ```python
    >>> from modeling import AasistConfig, AasistForAudioClassification

    >>> model = AasistForAudioClassification(AasistConfig())
    >>> model.num_parameters()
    297354
    ```"""

    model_type = "aasist"
    labels_by_default: ClassVar[tuple[str, ...]] = ("spoof", "bonafide")

    num_samples: int = 64600
    sinc_filters: int = 70
    sinc_scale: str = "mel"
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
        """Every graph has nodes of some width, a ratio that keeps a part of them, and a temperature."""
        self.check_at_least(3, "sinc_filters")  # which make one band
        self.check_at_least(1, "graph_size", "heterogeneous_graph_size")
        for name in ("pool_ratios", "temperatures"):
            values = list(getattr(self, name))
            if len(values) != 3:
                raise ValueError(
                    f"{name} {values} must be three numbers: of the spectral, the temporal and the "
                    "heterogeneous graphs."
                )
            if min(values) <= 0 or (name == "pool_ratios" and max(values) > 1):
                allowed = "above 0 and at most 1" if name == "pool_ratios" else "above 0"
                raise ValueError(f"{name} {values} must be {allowed}.")


__all__ = ["AasistConfig"]
