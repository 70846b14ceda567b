"""Feature extractor of the countermeasures: crops or pads a waveform to the length that the model takes."""

from collections.abc import Sequence

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import PaddingStrategy, TensorType, logging


logger = logging.get_logger(__name__)

PADDINGS = ("repeat", "zero")
LARGEST = {"sampling_rate": 10**6, "num_samples": 10**8}  # what is more is no audio, but fills the memory


class AntiSpoofingFeatureExtractor(SequenceFeatureExtractor):
    r"""
    Crops or pads mono waveforms to a fixed number of samples. It does not filter or resample.

    Longer input is cropped to its beginning, shorter input is padded.

    Args:
        num_samples (`int`, *optional*, defaults to 64000):
            Length of the output in samples. `None` keeps whole utterances, zero-pads them to the longest of
            the batch and adds an `attention_mask`.
        sampling_rate (`int`, *optional*, defaults to 16000):
            The one sampling rate that is accepted, in Hz.
        padding (`str`, *optional*, defaults to `"repeat"`):
            How shorter input is filled up: `"repeat"` tiles it, as the ASVspoof baselines do, `"zero"`
                appends zeros.
        do_normalize (`bool`, *optional*, defaults to `False`):
            Whether the crop is brought to zero mean and unit variance before it is padded, as
            `Wav2Vec2FeatureExtractor` does.
        return_attention_mask (`bool`, *optional*):
            Whether an `attention_mask` is added; by default with `num_samples=None` only. With a number of
            samples nothing of the input counts as padding, so that the mask is 1 everywhere.
    """

    model_input_names = ["input_values"]

    def __init__(
        self,
        num_samples: int | None = 64000,
        sampling_rate: int = 16000,
        padding: str = "repeat",
        do_normalize: bool = False,
        feature_size: int = 1,
        padding_value: float = 0.0,
        return_attention_mask: bool | None = None,
        **kwargs,
    ):
        if return_attention_mask is None:
            return_attention_mask = num_samples is None
        super().__init__(
            feature_size=feature_size,
            sampling_rate=sampling_rate,
            padding_value=padding_value,
            return_attention_mask=return_attention_mask,
            **kwargs,
        )
        for name, value in (("sampling_rate", sampling_rate), ("num_samples", num_samples)):
            is_whole = isinstance(value, int) and 1 <= value <= LARGEST[name]
            if not is_whole and (name != "num_samples" or value is not None):
                raise ValueError(f"{name} must be a whole number from 1 to {LARGEST[name]:,}, not {value!r}.")
        if padding not in PADDINGS:
            raise ValueError(f"padding {padding!r} is not one of {', '.join(PADDINGS)}.")
        if not isinstance(do_normalize, bool):
            raise ValueError(f"do_normalize must be true or false, not {do_normalize!r}.")
        self.num_samples = num_samples
        self.padding = padding
        self.do_normalize = do_normalize

    def __call__(
        self,
        raw_speech: np.ndarray | Sequence[float] | Sequence[np.ndarray] | Sequence[Sequence[float]],
        sampling_rate: int | None = None,
        return_tensors: str | TensorType | None = None,
        *,
        padding: bool | str | PaddingStrategy = True,
        max_length: int | None = None,
        truncation: bool | None = None,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        device: str | None = None,
    ) -> BatchFeature:
        """
        Args:
            raw_speech: one mono waveform (samples,) or a list of them; floating point, amplitude in [-1, 1].
            sampling_rate: of `raw_speech`, in Hz; checked, never converted.
            return_tensors: `"pt"` or `"np"`, the default.
            padding, max_length, pad_to_multiple_of: with `num_samples=None` as in
                [`SequenceFeatureExtractor.pad`]; otherwise any that leave `num_samples` as they are.
            truncation: `True` cuts waveforms to their first `max_length` samples; what is then shorter than
                `num_samples` is filled up. `False` refuses waveforms that would be cropped.
            return_attention_mask: instead of the extractor's own setting.
            device: where tensors are put.

        Returns:
            `input_values`, float32, (batch, num_samples); with `num_samples=None` (batch, longest) and
            `attention_mask` of the same shape, 1 where there is signal.

        Raises:
            ValueError: another sampling rate, several channels, integer samples, no samples, NaN or infinity;
                arguments that ask for another length than `num_samples`.
        """
        if device is not None and return_tensors != "pt":
            raise ValueError(f"device {device} is for tensors: pass return_tensors='pt', too.")
        if sampling_rate is None:
            logger.warning_once(
                f"Pass sampling_rate to {type(self).__name__}: without it, audio that was not sampled at "
                f"{self.sampling_rate} Hz goes unnoticed and gets a meaningless score."
            )
        elif sampling_rate != self.sampling_rate:
            raise ValueError(
                f"The waveform was sampled at {sampling_rate} Hz, but this model takes {self.sampling_rate} "
                f"Hz. Resample it first, e.g. by torchaudio.functional.resample(waveform, {sampling_rate}, "
                f"{self.sampling_rate})."
            )
        waveforms = self._list_waveforms(raw_speech)
        waveforms = [self._check_waveform(waveform, index) for index, waveform in enumerate(waveforms)]
        if truncation:
            waveforms = [waveform[:max_length] for waveform in waveforms]
        features = self.pad(
            {"input_values": [self._crop_or_pad(waveform) for waveform in waveforms]},
            padding=padding,
            max_length=max_length,
            pad_to_multiple_of=pad_to_multiple_of,
            return_attention_mask=return_attention_mask,
            return_tensors=return_tensors,
        )
        if self.num_samples is not None:
            is_cut, is_filled = truncation is not False, padding not in (False, "do_not_pad")
            asked = [n for n in map(len, waveforms) if not (is_cut if n > self.num_samples else is_filled)]
            for length in (*asked, len(features["input_values"][0])):
                if length != self.num_samples:
                    raise ValueError(
                        f"padding, truncation, max_length or pad_to_multiple_of ask for {length} samples; "
                        f"this model takes {self.num_samples}. Leave them out."
                    )
        return features if device is None else features.to(device)

    def _list_waveforms(self, raw_speech) -> list:
        if len(raw_speech) == 0:
            raise ValueError("Empty audio: there is no sample, or no waveform in the list.")
        if isinstance(raw_speech, (list, tuple)):
            return [raw_speech] if np.ndim(raw_speech[0]) == 0 else list(raw_speech)
        # One channel and a batch of one have the same shape, and mean the same.
        return list(raw_speech) if np.ndim(raw_speech) == 2 and len(raw_speech) == 1 else [raw_speech]

    def _check_waveform(self, waveform, index: int) -> np.ndarray:
        waveform = np.asarray(waveform)
        if waveform.ndim != 1:
            raise ValueError(
                f"Waveform {index} has shape {waveform.shape}, but one channel of shape (samples,) is "
                "expected. Average the channels first; give a batch as a list of 1-D arrays."
            )
        if waveform.size == 0:
            raise ValueError(f"Waveform {index} is empty: there is nothing to score.")
        if not np.issubdtype(waveform.dtype, np.floating):
            raise ValueError(
                f"Waveform {index} has dtype {waveform.dtype}, but floating point in [-1, 1] is expected: "
                "divide 16-bit samples by 32768."
            )
        waveform = waveform.astype(np.float32, copy=False)
        if not np.isfinite(waveform).all():
            raise ValueError(
                f"Waveform {index} contains NaN or infinity at sample {np.argmin(np.isfinite(waveform))}."
            )
        return waveform

    def _crop_or_pad(self, waveform: np.ndarray) -> np.ndarray:
        waveform = waveform[: self.num_samples]
        if self.do_normalize:
            waveform = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
        if self.num_samples is None:
            return waveform
        if self.padding == "repeat":
            return np.resize(waveform, self.num_samples)
        return np.pad(waveform, (0, self.num_samples - len(waveform)))


__all__ = ["AntiSpoofingFeatureExtractor"]
