"""Rows to a batch: decode what the crop needs of each utterance, augment, crop or pad it, attach labels."""

import hashlib

import numpy as np
import torch

from .audio import count_samples, decode_audio
from .augmentation import Augmentation
from .feature_extraction_antispoofing import AntiSpoofingFeatureExtractor


class RecordingError(ValueError):
    """Audio that cannot be decoded. A loader's worker adds a traceback, of which the last line is kept."""

    def __init__(self, message: str):
        super().__init__(message.strip().splitlines()[-1].removeprefix(f"{__name__}.RecordingError: "))


class AudioCollator:
    """
    Collates rows (see `trials.FEATURES`) into `input_values` (batch, num_samples) and `labels` (batch,).

    Augmentation and the start of a random crop are functions of (seed, epoch, utterance), and the epoch
    stands in shared memory: so they are the same in every loader worker, over any number of processes and in
    a resumed run.

    Args:
        feature_extractor: crops and pads.
        label_ids: the model's class index of each index of the rows' `ClassLabel`; `None` leaves labels out.
        crop: "start", or "random" for training.
        augmentation: for training; of the whole utterance, before the crop.
        seed: of the augmentation and the random crop.
    """

    def __init__(
        self,
        feature_extractor: AntiSpoofingFeatureExtractor,
        label_ids: list[int] | None = None,
        *,
        crop: str = "start",
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ):
        if crop not in ("start", "random"):
            raise ValueError(f"crop {crop!r} is not one of start, random.")
        self.feature_extractor = feature_extractor
        self.label_ids = label_ids
        self.crop = crop
        self.augmentation = augmentation
        self.seed = seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __call__(self, rows: list[dict | None]) -> dict[str, torch.Tensor]:
        if rows[0] is None:  # of a batch that a resumed run skips
            return {}
        rate = self.feature_extractor.sampling_rate
        waveforms = [self._decode(row, rate) for row in rows]
        batch = dict(self.feature_extractor(waveforms, sampling_rate=rate, return_tensors="pt"))
        if self.label_ids is not None:
            batch["labels"] = torch.tensor([self.label_ids[row["label"]] for row in rows])
        return batch

    def _decode(self, row: dict, rate: int) -> np.ndarray:
        """The crop of a row; a `RecordingError` names what cannot be decoded."""
        audio, num_samples = row["audio"], self.feature_extractor.num_samples
        is_random = self.crop == "random" and num_samples is not None
        try:
            if self.augmentation is None and not is_random:
                return decode_audio(audio, sampling_rate=rate, num_samples=num_samples)
            utterance = int.from_bytes(hashlib.sha256(row["utterance_id"].encode()).digest()[:8], "little")
            generator = np.random.default_rng([self.seed, int(self.epoch), utterance])
            if self.augmentation is None:
                start = _draw_start(generator, count_samples(audio, sampling_rate=rate), num_samples)
                return decode_audio(audio, sampling_rate=rate, start=start, num_samples=num_samples)
            waveform = self.augmentation(decode_audio(audio, sampling_rate=rate), rate, generator)
        except (ValueError, OSError) as error:
            raise RecordingError(str(error)) from error
        start = _draw_start(generator, len(waveform), num_samples) if is_random else 0
        return waveform[start:][:num_samples]


def _draw_start(generator: np.random.Generator, length: int, num_samples: int) -> int:
    """First sample of a random crop of `num_samples`."""
    return int(generator.integers(max(0, length - num_samples) + 1))


def label_ids(rows_names: list[str], label2id: dict[str, int]) -> list[int]:
    """The model's class index of each of the rows' class names: the one place where the two orders meet."""
    if missing := set(rows_names) - set(label2id):
        raise ValueError(
            f"The model has the labels {', '.join(label2id)}, but the rows need "
            f"{', '.join(sorted(missing))}. Set id2label in its config to bonafide and spoof."
        )
    return [int(label2id[name]) for name in rows_names]
