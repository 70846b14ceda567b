"""Audio-classification models that are not of this package: what their labels mean, and recordings as they go
through the feature extractor that comes with them, without anything of ours."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from transformers import (
    ASTFeatureExtractor,
    PreTrainedConfig,
    SequenceFeatureExtractor,
    WhisperFeatureExtractor,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from .near_names import suggest
from .trials import KEYS


SHORTEST_SECONDS = 0.1  # what is shorter is filled up: convolutions of these models need some frames


class ForeignFeatureExtractor:
    """
    The feature extractor of another model where ours is expected. Every recording goes through it alone, by
    its own defaults, as in transformers' pipeline: other recordings of a batch, to whose length it would be
    padded, cannot change a score.

    Args:
        extractor: as `AutoFeatureExtractor` gives it.
        seconds: of the beginning that is scored; `None`: what the extractor takes, the whole recording unless
            it crops.

    Attributes:
        name: class of the model's own extractor.
        num_samples: of a crop; `None` for whole recordings. Shorter recordings stay as long as they are.
    """

    def __init__(self, extractor: SequenceFeatureExtractor, seconds: float | None = None):
        self.extractor, self.sampling_rate = extractor, extractor.sampling_rate
        self.name = type(extractor).__name__
        self.num_samples = longest = count_own_samples(extractor)
        if seconds is not None:
            self.num_samples = round(seconds * self.sampling_rate)
            limit = (longest or np.inf) / self.sampling_rate
            if not SHORTEST_SECONDS <= seconds <= limit:
                raise ValueError(
                    f"--seconds {seconds:g}: the {self.name} of this model takes {SHORTEST_SECONDS:g} s to "
                    f"{limit:g} s."
                )

    def describe(self) -> dict:
        """What is done to recordings, for records; `seconds` are those of a crop."""
        seconds = self.num_samples and self.num_samples / self.sampling_rate
        return {"feature_extractor": self.name, "sampling_rate": self.sampling_rate, "seconds": seconds}

    def __call__(
        self, waveforms: Sequence[np.ndarray], sampling_rate: int, return_tensors: str = "pt"
    ) -> dict[str, list[torch.Tensor]]:
        """Of mono waveforms (num_samples,), float32, the model's inputs by name: of each waveform a tensor
        whose first dimension is 1."""
        shortest = round(SHORTEST_SECONDS * self.sampling_rate)
        features = []
        for waveform in waveforms:
            waveform = np.pad(waveform[: self.num_samples], (0, max(0, shortest - len(waveform))))
            features.append(
                self.extractor(waveform, sampling_rate=sampling_rate, return_tensors=return_tensors)
            )
        return {name: [of[name] for of in features] for name in features[0]}


def count_own_samples(extractor: SequenceFeatureExtractor) -> int | None:
    """Samples to which an extractor itself crops and fills up every recording; `None`: it takes all."""
    if isinstance(extractor, WhisperFeatureExtractor):
        return extractor.n_samples
    if isinstance(extractor, ASTFeatureExtractor):  # so many frames of 25 ms, one every 10 ms
        return (extractor.max_length - 1) * extractor.sampling_rate // 100 + extractor.sampling_rate // 40
    return None


def compute_by_shape(forward: Callable) -> Callable[..., SequenceClassifierOutput]:
    """A model's `forward` for what [`ForeignFeatureExtractor`] gives: inputs of equal shapes are computed
    together, and nothing is padded."""

    def run(**inputs: list[torch.Tensor]) -> SequenceClassifierOutput:
        groups = defaultdict(list)  # of places in the batch
        for place, tensors in enumerate(zip(*inputs.values(), strict=True)):
            groups[tuple(tensor.shape for tensor in tensors)].append(place)
        logits = {}
        for places in groups.values():
            group = {name: torch.cat([of[place] for place in places]) for name, of in inputs.items()}
            logits |= zip(places, forward(**group).logits, strict=True)
        return SequenceClassifierOutput(logits=torch.stack([logits[place] for place in sorted(logits)]))

    return run


def name_classes(config: PreTrainedConfig, keys: Mapping[str, str], model: str) -> dict[str, str]:
    """
    The key that each of a model's two labels means by `keys` (see [`~processing.trials.read_label_map`]), by
    which the config calls its classes from then on.

    Raises:
        ValueError: not two labels that exclude each other; a label whose meaning is not known, or two of the
            same one.
    """
    labels = [config.id2label[index] for index in sorted(config.id2label)]
    if len(labels) != 2 or config.problem_type not in (None, "single_label_classification"):
        raise ValueError(
            f"{model} cannot be evaluated: it has the labels {', '.join(labels)} (problem type: "
            f"{config.problem_type or 'not stated'}). A countermeasure has two that exclude each other, bona "
            "fide and spoof."
        )
    means = {label: keys.get(label.strip().casefold()) for label in labels}
    if set(means.values()) != set(KEYS):
        found = " and ".join(
            f"{label!r}" + (f", which means {key}," if key else suggest(label.casefold(), keys))
            for label, key in means.items()
        )
        first, second = labels
        raise ValueError(
            f"{model} has the labels {found}; one must mean bona fide, the other spoof. Say which: "
            f"--label_map {first}=bonafide,{second}=spoof or --label_map {first}=spoof,{second}=bonafide."
        )
    if any(label != key for label, key in means.items()):
        config.id2label = {index: means[label] for index, label in config.id2label.items()}
        config.label2id = {key: index for index, key in config.id2label.items()}
    return means
