"""RawNet2 model configuration."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from .configuration_countermeasure import CountermeasureConfig


@strict
class RawNet2Config(CountermeasureConfig):
    r"""
    Configuration of [`RawNet2ForAudioClassification`], RawNet2 for anti-spoofing (Tak et al., "End-to-End
    Anti-Spoofing with RawNet2", ICASSP 2021). The defaults give the system of that paper in its linear-scale
    variant, with 25,433,602 parameters.

    Args:
        num_samples (`int`, *optional*, defaults to 64000):
            Length of the input in samples.
        sampling_rate (`int`, *optional*, defaults to 16000):
            Sampling rate of the input in Hz.
        sinc_filters (`int`, *optional*, defaults to 128):
            Number of filters in the sinc bank.
        sinc_filter_length (`int`, *optional*, defaults to 129):
            Taps of each filter; an even length is raised by one.
        sinc_scale (`str`, *optional*, defaults to `"linear"`):
            Scale on which the band edges are equally spaced: `"linear"`, `"mel"` or `"inverse_mel"`.
        sinc_min_frequency (`float`, *optional*, defaults to 0.0):
            Lowest band edge in Hz.
        sinc_max_frequency (`float`, *optional*, defaults to 7876.923076923077):
            Highest band edge in Hz. The default, 8000 * 128 / 130, is where the authors' code ends: it takes
            the first 129 of 131 points from 0 to 8000 Hz.
        sinc_learnable (`bool`, *optional*, defaults to `False`):
            Whether the band edges are trained.
        block_channels (`list[int]`, *optional*, defaults to `[128, 128, 512, 512, 512, 512]`):
            Output channels of each residual block.
        pre_activation (`bool`, *optional*, defaults to `True`):
            Whether every block but the first applies batch normalisation and LeakyReLU before its first
            convolution, as in the ICASSP 2021 code. In AASIST's and the ASVspoof 2021 baseline's code no
            block does.
        leaky_relu_slope (`float`, *optional*, defaults to 0.3):
            Negative slope of the LeakyReLU.
        gru_hidden_size (`int`, *optional*, defaults to 1024):
            Width of the GRU.
        num_gru_layers (`int`, *optional*, defaults to 3):
            Layers of the GRU.
        embedding_size (`int`, *optional*, defaults to 1024):
            Width of the fully connected layer between GRU and classifier.
        class_weights (`dict[str, float]`, *optional*):
            Weight of each class in the cross-entropy, by label name. `None` weighs the classes equally.
        decision_threshold (`float`, *optional*):
            Score (logit of bona fide minus logit of spoof) above which a single crop is called bona fide;
            the EER threshold of the development set once the model is trained.

    Example:

    ```python
    >>> from modeling import RawNet2Config, RawNet2ForAudioClassification

    >>> configuration = RawNet2Config()
    >>> model = RawNet2ForAudioClassification(configuration)
    >>> model.num_parameters()
    25433602
    ```"""

    model_type = "rawnet2"
    labels_by_default: ClassVar[tuple[str, ...]] = ("spoof", "bonafide")

    sinc_filters: int = 128
    sinc_filter_length: int = 129
    sinc_scale: str = "linear"
    sinc_min_frequency: float | int = 0.0
    sinc_max_frequency: float | int = 8000 * 128 / 130
    sinc_learnable: bool = False
    block_channels: list[int] | tuple[int, ...] = (128, 128, 512, 512, 512, 512)
    pre_activation: bool = True
    leaky_relu_slope: float = 0.3
    gru_hidden_size: int = 1024
    num_gru_layers: int = 3
    embedding_size: int = 1024

    def validate_sinc_bank(self):
        """The band edges must rise and stay below half the sampling rate."""
        if self.sinc_scale not in ("linear", "mel", "inverse_mel"):
            raise ValueError(f"sinc_scale {self.sinc_scale!r} is not one of linear, mel, inverse_mel.")
        if not 0 <= self.sinc_min_frequency < self.sinc_max_frequency <= self.sampling_rate / 2:
            raise ValueError(
                f"sinc_min_frequency {self.sinc_min_frequency} and sinc_max_frequency "
                f"{self.sinc_max_frequency} must rise and lie between 0 and half the sampling rate, "
                f"{self.sampling_rate / 2} Hz."
            )

    def validate_length(self):
        """At least one frame must be left after the bank and the max-pooling by 3 of bank and blocks."""
        shortest = self.sinc_filter_length - self.sinc_filter_length % 2 + 3 ** (len(self.block_channels) + 1)
        if self.num_samples < shortest:
            raise ValueError(
                f"num_samples {self.num_samples} is too short: {len(self.block_channels)} blocks after a "
                f"bank of length {self.sinc_filter_length} need at least {shortest} samples."
            )


__all__ = ["RawNet2Config"]
