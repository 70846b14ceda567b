"""What the configs of all countermeasures have: the input, the two labels and their weights, the decision."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class CountermeasureConfig(PreTrainedConfig):
    r"""
    Base of the countermeasures' configs.

    Args:
        num_samples: length of the input in samples.
        sampling_rate: sampling rate of the input in Hz.
        class_weights: weight of each class in the cross-entropy, by label name. `None` weighs the classes
            equally.
        decision_threshold: score (logit of bona fide minus logit of spoof) above which a single crop is
            called bona fide; the EER threshold of the development set once the model is trained.
    """

    labels_by_default: ClassVar[tuple[str, ...]] = ("bonafide", "spoof")  # in the order of the logits

    num_samples: int = 64000
    sampling_rate: int = 16000
    class_weights: dict[str, float | int] | None = None
    decision_threshold: float | None = None

    def __post_init__(self, **kwargs):
        if self.id2label is None and self.label2id is not None:
            self.id2label = {int(index): label for label, index in self.label2id.items()}
        if self.id2label is None and "num_labels" not in kwargs:
            self.id2label = dict(enumerate(self.labels_by_default))
        if self.id2label is not None and self.label2id is None:
            self.label2id = {label: index for index, label in self.id2label.items()}
        if self.label2id is not None:
            self.label2id = {label: int(index) for label, index in self.label2id.items()}
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs) -> "CountermeasureConfig":
        """As in [`PreTrainedConfig`]; given labels and class weights replace the file's before the check."""
        given = {
            name: kwargs.pop(name) for name in ("id2label", "label2id", "class_weights") if name in kwargs
        }
        if given.keys() & {"id2label", "label2id"}:
            given = {"id2label": None, "label2id": None, **given}
        return super().from_dict({**config_dict, **given}, **kwargs)

    def check_at_least(self, smallest: float, *fields: str) -> None:
        """Raise a `ValueError` if a field, or one of its numbers, is smaller or NaN, or it has none."""
        for name in fields:
            value = getattr(self, name)
            numbers = value if isinstance(value, (list, tuple)) else [value]
            if not numbers or not all(number >= smallest for number in numbers):
                raise ValueError(f"{name} must be at least {smallest:.3g}, not {value}.")

    def check_length(self, shortest: int, needing: str) -> None:
        """Raise a `ValueError` if the input is shorter than what something, `needing` it, can take."""
        if self.num_samples is not None and self.num_samples < shortest:
            raise ValueError(
                f"num_samples {self.num_samples} is too short: {needing} at least {shortest} samples."
            )

    def check_band(self, front_end: str) -> None:
        """Raise a `ValueError` if a front end's band is empty or not below half the sampling rate."""
        low, high = (getattr(self, f"{front_end}_{end}_frequency") for end in ("min", "max"))
        if not 0 <= low < high <= self.sampling_rate / 2:
            raise ValueError(
                f"{front_end}_min_frequency {low} and {front_end}_max_frequency {high} must rise and lie "
                f"between 0 and half the sampling rate, {self.sampling_rate / 2} Hz."
            )

    def validate_labels(self):
        if self.label2id != {label: index for index, label in self.id2label.items()}:
            raise ValueError(f"id2label {self.id2label} and label2id {self.label2id} contradict each other.")

    def validate_class_weights(self):
        if self.class_weights is not None and set(self.class_weights) != set(self.id2label.values()):
            raise ValueError(
                f"class_weights {self.class_weights} must give a weight to each of the labels "
                f"{', '.join(self.id2label.values())}, by name; None weighs them equally."
            )


__all__ = ["CountermeasureConfig"]
