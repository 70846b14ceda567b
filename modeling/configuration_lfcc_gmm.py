"""LFCC-GMM model configuration."""

from huggingface_hub.dataclasses import strict

from .configuration_lfcc import LFCCFrontEndConfig


@strict
class LFCCGMMConfig(LFCCFrontEndConfig):
    r"""
    Configuration of [`LFCCGMMForAudioClassification`], the baseline of the ASVspoof challenges: one Gaussian
    mixture model with diagonal covariances per class on linear-frequency cepstral coefficients. The defaults
    give the system of ASVspoof 2019 (Todisco et al., Interspeech 2019).

    Args:
        num_components: Gaussians in the mixture of each class.
        num_samples: length of the input in samples. `None` stands for whole utterances, as the baseline
            scores them.
        lfcc_window_length, lfcc_hop_length, lfcc_fft_size, lfcc_num_filters, …: see `LFCCFrontEndConfig`.
        sampling_rate, class_weights, decision_threshold: see `CountermeasureConfig`.

    Example:

    ```python
    >>> from modeling import LFCCGMMConfig, LFCCGMMForAudioClassification

    >>> model = LFCCGMMForAudioClassification(LFCCGMMConfig())
    >>> model.gmms["bonafide"].means.shape
    torch.Size([512, 60])
    ```"""

    model_type = "lfcc-gmm"

    num_components: int = 512
    num_samples: int | None = None

    def validate_components(self):
        self.check_at_least(1, "num_components")

    def validate_method(self):
        if self.loss != "weighted_cross_entropy":
            raise ValueError(f"loss {self.loss}: lfcc-gmm is fitted by EM, not by the gradient of a loss.")


__all__ = ["LFCCGMMConfig"]
