"""LCNN model configuration."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_lfcc import SMALLEST_LOG_FLOOR, LFCCFrontEndConfig


@strict
class LCNNConfig(LFCCFrontEndConfig):
    r"""
    Configuration of [`LCNNForAudioClassification`], a light CNN with max-feature-map activations (Wu et al.,
    IEEE TIFS 2018; for anti-spoofing Lavrentyeva et al., Interspeech 2019) on LFCC or on a constant-Q
    transform.

    Args:
        front_end: what the network sees: `"lfcc"` or `"cqt"`.
        cqt_hop_length: samples from one frame of the constant-Q transform to the next.
        cqt_min_frequency: centre frequency of its lowest bin in Hz; nine octaves below 8000 Hz.
        cqt_num_bins: number of its bins.
        cqt_bins_per_octave: its bins per octave.
        cqt_log_floor: what is added to its power before the logarithm.
        channels: channels of each convolution after its max-feature-map, which halves them.
        kernel_sizes: size of each convolution in frequency and time; odd.
        pool_sizes: max-pooling after each convolution, in frequency and time.
        fc_size: width of the fully connected layer after its max-feature-map.
        dropout: dropout before the last layer.
        lfcc_window_length, lfcc_hop_length, lfcc_fft_size, lfcc_num_filters, …: see `LFCCFrontEndConfig`.
        num_samples, sampling_rate, class_weights, loss, …: see `CountermeasureConfig`.

    Example:

    ```python
    >>> from modeling import LCNNConfig, LCNNForAudioClassification

    >>> model = LCNNForAudioClassification(LCNNConfig(front_end="cqt"))
    >>> model.num_parameters()
    872322
    ```"""

    model_type = "lcnn"

    front_end: Literal["lfcc", "cqt"] = "lfcc"
    cqt_hop_length: int = 160
    cqt_min_frequency: float | int = 15.625
    cqt_num_bins: int = 108
    cqt_bins_per_octave: int = 12
    cqt_log_floor: float = 1e-10
    channels: list[int] | tuple[int, ...] = (32, 48, 64, 128)
    kernel_sizes: list[int] | tuple[int, ...] = (5, 5, 3, 3)
    pool_sizes: list[int] | tuple[int, ...] = (2, 2, 2, 4)
    fc_size: int = 64
    dropout: float | int = 0.3

    def validate_cqt(self):
        self.check_at_least(1, "cqt_hop_length", "cqt_num_bins", "cqt_bins_per_octave")
        if self.cqt_min_frequency <= 0:
            raise ValueError(f"cqt_min_frequency must be above 0 Hz, not {self.cqt_min_frequency}.")
        self.check_at_least(SMALLEST_LOG_FLOOR, "cqt_log_floor")

    def validate_convolutions(self):
        if not len(self.channels) == len(self.kernel_sizes) == len(self.pool_sizes):
            raise ValueError(
                f"channels, kernel_sizes and pool_sizes must be of one length, not {len(self.channels)}, "
                f"{len(self.kernel_sizes)} and {len(self.pool_sizes)}."
            )
        self.check_at_least(1, "channels", "kernel_sizes", "pool_sizes", "fc_size")
        if any(size % 2 == 0 for size in self.kernel_sizes):  # which would change the size of what they see
            raise ValueError(f"kernel_sizes {list(self.kernel_sizes)} must be odd.")


__all__ = ["LCNNConfig"]
