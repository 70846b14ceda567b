"""What the configs of all countermeasures on a bank of sinc filters and residual blocks have."""

from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict

from .configuration_countermeasure import CountermeasureConfig


@strict
class SincFrontEndConfig(CountermeasureConfig):
    r"""
    Base of the configs of systems whose front end is a [`SincBank`], band-pass filters on the waveform, and
    whose residual blocks each pool over 3 frames.

    Args:
        sinc_filters: number of filters in the sinc bank.
        sinc_filter_length: taps of each filter; an even length is raised by one.
        sinc_scale: scale on which the band edges are equally spaced: `"linear"`, `"mel"` or `"inverse_mel"`.
        sinc_min_frequency: lowest band edge in Hz.
        sinc_max_frequency: highest band edge in Hz.
        sinc_learnable: whether the band edges are trained.
        block_channels: output channels of each residual block.
        pre_activation: whether every block but the first applies batch normalisation and the activation
            before its first convolution, as RawNet2's ICASSP 2021 code does and AASIST's paper draws. In
            AASIST's and the ASVspoof 2021 baseline's code, and so in their weights, no block does.
        num_samples, sampling_rate, class_weights, loss, …: see `CountermeasureConfig`.
    """

    labels_by_default: ClassVar[tuple[str, ...]] = ("spoof", "bonafide")  # as RawNet2's and AASIST's authors

    sinc_filters: int = 128
    sinc_filter_length: int = 129
    sinc_scale: Literal["linear", "mel", "inverse_mel"] = "linear"
    sinc_min_frequency: float | int = 0.0
    sinc_max_frequency: float | int = 8000.0
    sinc_learnable: bool = False
    block_channels: list[int] | tuple[int, ...] = (128, 128, 512, 512, 512, 512)
    pre_activation: bool = True

    def validate_sinc_bank(self):
        self.check_at_least(1, "sinc_filters", "block_channels")
        self.check_at_least(3, "sinc_filter_length")
        self.check_band("sinc")

    def validate_length(self):
        """At least one frame must be left after the bank and the max-pooling by 3 of bank and blocks."""
        shortest = self.sinc_filter_length - self.sinc_filter_length % 2 + 3 ** (len(self.block_channels) + 1)
        blocks = f"{len(self.block_channels)} blocks after a bank of length {self.sinc_filter_length}"
        self.check_length(shortest, f"{blocks} need")


__all__ = ["SincFrontEndConfig"]
