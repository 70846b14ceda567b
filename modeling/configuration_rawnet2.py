"""RawNet2 model configuration."""

from huggingface_hub.dataclasses import strict

from .configuration_sinc import SincFrontEndConfig


@strict
class RawNet2Config(SincFrontEndConfig):
    r"""
    Configuration of [`RawNet2ForAudioClassification`], RawNet2 for anti-spoofing (Tak et al., "End-to-End
    Anti-Spoofing with RawNet2", ICASSP 2021). The defaults give the system of that paper in its linear-scale
    variant, with 25,433,602 parameters.

    Args:
        sinc_max_frequency: highest band edge in Hz. The default, 8000 * 128 / 130, is where the authors' code
            ends: it takes the first 129 of 131 points from 0 to 8000 Hz.
        leaky_relu_slope: negative slope of the LeakyReLU.
        gru_hidden_size: width of the GRU.
        num_gru_layers: layers of the GRU.
        embedding_size: width of the fully connected layer between GRU and classifier.
        block_channels, pre_activation, sinc_filters, sinc_scale, …: see `SincFrontEndConfig`.
        num_samples, sampling_rate, class_weights, loss, …: see `CountermeasureConfig`.

    Example:

    ```python
    >>> from modeling import RawNet2Config, RawNet2ForAudioClassification

    >>> configuration = RawNet2Config()
    >>> model = RawNet2ForAudioClassification(configuration)
    >>> model.num_parameters()
    25433602
    ```"""

    model_type = "rawnet2"

    sinc_max_frequency: float | int = 8000 * 128 / 130
    leaky_relu_slope: float = 0.3
    gru_hidden_size: int = 1024
    num_gru_layers: int = 3
    embedding_size: int = 1024


__all__ = ["RawNet2Config"]
