"""LCNN model configuration."""

from huggingface_hub.dataclasses import strict

from .configuration_lfcc import SMALLEST_LOG_FLOOR, LFCCFrontEndConfig


FRONT_ENDS = ("lfcc", "cqt")


@strict
class LCNNConfig(LFCCFrontEndConfig):
    r"""
    Configuration of [`LCNNForAudioClassification`], a light CNN with max-feature-map activations (Wu et al.,
    IEEE TIFS 2018; for anti-spoofing Lavrentyeva et al., Interspeech 2019) on LFCC or on a constant-Q
    transform.

    Args:
        front_end (`str`, *optional*, defaults to `"lfcc"`):
            What the network sees: `"lfcc"` or `"cqt"`.
        cqt_hop_length (`int`, *optional*, defaults to 160):
            Samples from one frame of the constant-Q transform to the next.
        cqt_min_frequency (`float`, *optional*, defaults to 15.625):
            Centre frequency of its lowest bin in Hz; nine octaves below 8000 Hz.
        cqt_num_bins (`int`, *optional*, defaults to 108):
            Number of its bins.
        cqt_bins_per_octave (`int`, *optional*, defaults to 12):
            Its bins per octave.
        cqt_log_floor (`float`, *optional*, defaults to 1e-10):
            What is added to its power before the logarithm.
        channels (`list[int]`, *optional*, defaults to `[32, 48, 64, 128]`):
            Channels of each convolution after its max-feature-map, which halves them.
        kernel_sizes (`list[int]`, *optional*, defaults to `[5, 5, 3, 3]`):
            Size of each convolution in frequency and time; odd.
        pool_sizes (`list[int]`, *optional*, defaults to `[2, 2, 2, 4]`):
            Max-pooling after each convolution, in frequency and time.
        fc_size (`int`, *optional*, defaults to 64):
            Width of the fully connected layer after its max-feature-map.
        dropout (`float`, *optional*, defaults to 0.3):
            Dropout before the last layer.
        lfcc_window_length, lfcc_hop_length, lfcc_fft_size, lfcc_num_filters, …:
            See `LFCCFrontEndConfig`.
        num_samples, sampling_rate, class_weights, decision_threshold:
            See `CountermeasureConfig`.

    Example:

    ```python
    >>> from modeling import LCNNConfig, LCNNForAudioClassification

    >>> model = LCNNForAudioClassification(LCNNConfig(front_end="cqt"))
    >>> model.num_parameters()
    872322
    ```"""

    model_type = "lcnn"

    front_end: str = "lfcc"
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

    def validate_front_end(self):
        """The front end is known, and the constant-Q transform has bins and a floor that float32 adds."""
        if self.front_end not in FRONT_ENDS:
            raise ValueError(f"front_end {self.front_end!r} is not one of {', '.join(FRONT_ENDS)}.")
        self.check_at_least(1, "cqt_hop_length", "cqt_num_bins", "cqt_bins_per_octave")
        if self.cqt_min_frequency <= 0:
            raise ValueError(f"cqt_min_frequency must be above 0 Hz, not {self.cqt_min_frequency}.")
        if not SMALLEST_LOG_FLOOR <= self.cqt_log_floor < float("inf"):
            raise ValueError(
                f"cqt_log_floor must be a number of at least {SMALLEST_LOG_FLOOR:.3g}, the smallest that "
                f"float32 adds, not {self.cqt_log_floor}."
            )

    def validate_convolutions(self):
        """As many kernels and poolings as convolutions, all of a size, and kernels that keep that."""
        sizes = [len(self.channels), len(self.kernel_sizes), len(self.pool_sizes)]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"channels, kernel_sizes and pool_sizes must be of one length, not {sizes[0]}, {sizes[1]} "
                f"and {sizes[2]}."
            )
        self.check_at_least(1, "channels", "kernel_sizes", "pool_sizes", "fc_size")
        if any(size % 2 == 0 for size in self.kernel_sizes):
            raise ValueError(f"kernel_sizes {list(self.kernel_sizes)} must be odd.")


__all__ = ["LCNNConfig"]
