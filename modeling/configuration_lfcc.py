"""What the configs of all countermeasures on linear-frequency cepstral coefficients have."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_countermeasure import CountermeasureConfig


SMALLEST_LOG_FLOOR = 2.0**-126  # smallest normal float32: below it GPUs round to zero, whose log is -inf


@strict
class LFCCFrontEndConfig(CountermeasureConfig):
    r"""
    Base of the configs of systems whose front end is [`LFCC`], linear-frequency cepstral coefficients. The
    defaults give 20 coefficients with delta and double delta of 20 ms windows every 10 ms over the whole
    band, the front end of the ASVspoof 2019 baseline LFCC-GMM.

    Args:
        lfcc_window_length: length of the symmetric Hamming window in samples.
        lfcc_hop_length: samples from one window to the next.
        lfcc_fft_size: samples to which a window is padded with zeros for the Fourier transform.
        lfcc_num_filters: number of triangular filters, equally spaced in Hz.
        lfcc_min_frequency: lower edge of the lowest filter in Hz.
        lfcc_max_frequency: upper edge of the highest filter in Hz.
        lfcc_num_coefficients: number of cepstral coefficients, counted from the zeroth.
        lfcc_num_deltas: differences over time after the coefficients: 0 none, 1 delta, 2 delta and double
            delta.
        lfcc_use_energy: whether the zeroth coefficient is replaced by log10(energy + `lfcc_log_floor`), where
            the energy is the sum of the power spectrum from 0 Hz to half the sampling rate.
        lfcc_pre_emphasis: a in x[t] - a x[t - 1], which is applied to the waveform; the first sample stays as
            it is.
        lfcc_log_floor: what is added to energies before the logarithm.
        lfcc_snap_to_bins: whether the edges of the filters are moved to bins of the Fourier transform,
            floor((fft_size + 1) f / sampling_rate), as in the ASVspoof 2021 Python baseline (spafe 0.1.2);
            otherwise they are at their exact frequencies, as in torchaudio.
        lfcc_pad_last_window: whether samples behind the last whole window make one more window with zeros, as
            in the ASVspoof 2019 baseline (MATLAB's `buffer(…, "nodelay")`); otherwise they are left out, as
            in spafe 0.1.2.
        num_samples, sampling_rate, class_weights, loss, …: see `CountermeasureConfig`.
    """

    lfcc_window_length: int = 320
    lfcc_hop_length: int = 160
    lfcc_fft_size: int = 512
    lfcc_num_filters: int = 20
    lfcc_min_frequency: float | int = 0.0
    lfcc_max_frequency: float | int = 8000.0
    lfcc_num_coefficients: int = 20
    lfcc_num_deltas: Literal[0, 1, 2] = 2
    lfcc_use_energy: bool = False
    lfcc_pre_emphasis: float | int = 0.0
    lfcc_log_floor: float = 2.2204e-16
    lfcc_snap_to_bins: bool = False
    lfcc_pad_last_window: bool = False

    def validate_lfcc_frames(self):
        self.check_at_least(1, "lfcc_window_length", "lfcc_hop_length")
        if self.lfcc_fft_size < self.lfcc_window_length:
            raise ValueError(
                f"lfcc_fft_size {self.lfcc_fft_size} must be at least lfcc_window_length "
                f"{self.lfcc_window_length}."
            )
        self.check_length(self.lfcc_window_length, "lfcc_window_length, one window, needs")

    def validate_lfcc_filters(self):
        self.check_band("lfcc")
        self.check_at_least(1, "lfcc_num_filters")
        bins = (self.lfcc_max_frequency - self.lfcc_min_frequency) * self.lfcc_fft_size / self.sampling_rate
        if self.lfcc_num_filters + 1 > bins:
            raise ValueError(
                f"lfcc_num_filters {self.lfcc_num_filters} is too many: with lfcc_fft_size "
                f"{self.lfcc_fft_size} the band from {self.lfcc_min_frequency} to {self.lfcc_max_frequency} "
                f"Hz is {bins:g} bins wide, enough for {max(int(bins) - 1, 0)} filters."
            )
        if not 1 <= self.lfcc_num_coefficients <= self.lfcc_num_filters:
            raise ValueError(
                f"lfcc_num_coefficients {self.lfcc_num_coefficients} must be from 1 to lfcc_num_filters "
                f"{self.lfcc_num_filters}."
            )

    def validate_lfcc_features(self):
        if not 0 <= self.lfcc_pre_emphasis <= 1:
            raise ValueError(f"lfcc_pre_emphasis must be from 0 to 1, not {self.lfcc_pre_emphasis}.")
        self.check_at_least(SMALLEST_LOG_FLOOR, "lfcc_log_floor")


__all__ = ["LFCCFrontEndConfig"]
