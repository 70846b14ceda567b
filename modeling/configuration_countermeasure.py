"""What the configs of all countermeasures have: the input, the two labels and their weights, the decision."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class CountermeasureConfig(PreTrainedConfig):
    r"""
    Base of the countermeasures' configs.

    Args:
        num_samples (`int`, *optional*, defaults to 64000):
            Length of the input in samples.
        sampling_rate (`int`, *optional*, defaults to 16000):
            Sampling rate of the input in Hz.
        class_weights (`dict[str, float]`, *optional*):
            Weight of each class in the cross-entropy, by label name. `None` weighs the classes equally.
        decision_threshold (`float`, *optional*):
            Score (logit of bona fide minus logit of spoof) above which a single crop is called bona fide;
            the EER threshold of the development set once the model is trained.
    """

    labels_by_default: ClassVar[tuple[str, ...]] = ("bonafide", "spoof")  # in the order of the logits

    num_samples: int = 64000
    sampling_rate: int = 16000
    class_weights: dict[str, float | int] | None = None
    decision_threshold: float | None = None

    def __post_init__(self, **kwargs):
        if self.id2label is None and "num_labels" not in kwargs:
            self.id2label = dict(enumerate(self.labels_by_default))
        if self.id2label is not None and self.label2id is None:
            self.label2id = {label: int(index) for index, label in self.id2label.items()}
        super().__post_init__(**kwargs)

    def check_at_least(self, smallest: int, *fields: str) -> None:
        """
        Raises:
            ValueError: a field, or one of its numbers, is smaller, or it has none.
        """
        for name in fields:
            value = getattr(self, name)
            numbers = value if isinstance(value, (list, tuple)) else [value]
            if not numbers or min(numbers) < smallest:
                raise ValueError(f"{name} must be at least {smallest}, not {value}.")

    def validate_class_weights(self):
        """Class weights name labels, all of them."""
        if self.class_weights is not None and set(self.class_weights) != set(self.id2label.values()):
            raise ValueError(
                f"class_weights {self.class_weights} must give a weight to each of the labels "
                f"{', '.join(self.id2label.values())}, by name."
            )


__all__ = ["CountermeasureConfig"]
