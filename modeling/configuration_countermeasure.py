"""What the configs of all countermeasures have: the input, the two labels and their weights, the loss, the
decision."""

import copy
import math
from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


# Parameters of the losses that have some, as their papers set them; `loss.py` has the formulas.
LOSS_PARAMETERS = {
    "focal": {"focal_gamma": 2.0},
    "am_softmax": {"loss_scale": 30.0, "loss_margin": 0.35},
    "oc_softmax": {"loss_scale": 20.0, "loss_margin": {"bonafide": 0.9, "spoof": 0.2}},
}


@strict
class CountermeasureConfig(PreTrainedConfig):
    r"""
    Base of the countermeasures' configs.

    Args:
        num_samples: length of the input in samples.
        sampling_rate: sampling rate of the input in Hz.
        class_weights: weight of each class in the loss, by label name. `None` weighs the classes equally.
        loss: what the model is trained with: `"weighted_cross_entropy"`, `"focal"`, or a loss on the cosines
            of a last layer that is made for it, `"am_softmax"`, `"oc_softmax"` or `"p2sgrad"`. See `loss.py`.
        loss_scale: factor of the cosines in AM-softmax and OC-softmax. This and the following parameters are
            by default those of the loss's paper, and `None` where the loss does not have them.
        loss_margin: of AM-softmax, by how much the cosine with the own label has to be the larger one; of
            OC-softmax, by label, which cosine bona fide has to be above and spoof below.
        focal_gamma: exponent of the focal loss.
        decision_threshold: score (logit of bona fide minus logit of spoof) above which a single crop is
            called bona fide; the EER threshold of the development set once the model is trained.
        calibration: the "a" and "b" by which the score becomes a log-likelihood ratio, a score + b, and on
            what they were fitted, as `eval.py --calibrate` writes it. While there is one, the logits are
            those of the ratio, and the score, which `decision_threshold` is of, is computed from them: see
            `CountermeasurePreTrainedModel.calibrate`.
    """

    keys_to_ignore_at_inference: ClassVar[list[str]] = ["embeddings"]  # which the Trainer does not gather
    labels_by_default: ClassVar[tuple[str, ...]] = ("bonafide", "spoof")  # in the order of the logits
    losses_of_cosines: ClassVar[tuple[str, ...]] = ("am_softmax", "oc_softmax", "p2sgrad")  # not linear
    loss_fields: ClassVar[tuple[str, ...]] = ("loss", "loss_scale", "loss_margin", "focal_gamma")
    # Which may be others when a trained model is trained on.
    training_fields: ClassVar[tuple[str, ...]] = ("class_weights", *loss_fields)

    num_samples: int = 64000
    sampling_rate: int = 16000
    class_weights: dict[str, float | int] | None = None
    loss: Literal["weighted_cross_entropy", "focal", "am_softmax", "oc_softmax", "p2sgrad"] = (
        "weighted_cross_entropy"
    )
    loss_scale: float | int | None = None
    loss_margin: float | int | dict[str, float | int] | None = None
    focal_gamma: float | int | None = None
    decision_threshold: float | None = None
    calibration: dict | None = None

    def __post_init__(self, **kwargs):
        if self.id2label is None and self.label2id is not None:
            self.id2label = {int(index): label for label, index in self.label2id.items()}
        if self.id2label is None and "num_labels" not in kwargs:
            self.id2label = dict(enumerate(self.labels_by_default))
        if self.id2label is not None and self.label2id is None:
            self.label2id = {label: index for index, label in self.id2label.items()}
        if self.label2id is not None:
            self.label2id = {label: int(index) for label, index in self.label2id.items()}
        for name, value in LOSS_PARAMETERS.get(self.loss, {}).items():
            if getattr(self, name) is None:
                setattr(self, name, copy.copy(value))
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs) -> "CountermeasureConfig":
        """As in [`PreTrainedConfig`]; given labels and fields of training replace the file's before the
        check, all that belongs together at once."""
        names = ("id2label", "label2id", *cls.training_fields)
        given = {name: kwargs.pop(name) for name in names if name in kwargs}
        if given.keys() & {"id2label", "label2id"}:
            given = {"id2label": None, "label2id": None, **given}
        if "loss" in given:
            given = {**dict.fromkeys(cls.loss_fields), **given}
        return super().from_dict({**config_dict, **given}, **kwargs)

    @property
    def normalized_class_weights(self) -> list[float]:
        """Weight of each class over the mean of the weights, in the order of the logits."""
        names = [self.id2label[index] for index in range(self.num_labels)]
        weights = [1.0 if self.class_weights is None else self.class_weights[name] for name in names]
        return [weight * len(weights) / sum(weights) for weight in weights]

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

    def validate_loss(self):
        of_paper = LOSS_PARAMETERS.get(self.loss, {})
        for name in self.loss_fields[1:]:
            value, usual = getattr(self, name), of_paper.get(name)
            given, needed = (set(each) if isinstance(each, dict) else each is None for each in (value, usual))
            if given != needed:
                parameters = ", ".join(f"{name} {usual}" for name, usual in of_paper.items()) or "none"
                raise ValueError(
                    f"{name} {value} does not fit the loss {self.loss}. Its parameters, as its paper sets "
                    f"them, are: {parameters}."
                )
        margin = self.loss_margin
        if isinstance(margin, dict):
            margin = margin["bonafide"] - margin["spoof"]
        numbers = [number for number in (self.loss_scale, margin, self.focal_gamma) if number is not None]
        if not all(0 <= number < math.inf for number in numbers) or self.loss_scale == 0:
            raise ValueError(
                f"loss_scale {self.loss_scale} must be above 0, loss_margin {self.loss_margin} and "
                f"focal_gamma {self.focal_gamma} at least 0, and no margin of spoof above bona fide's."
            )
        if self.loss == "oc_softmax" and set(self.label2id) != {"bonafide", "spoof"}:
            raise ValueError(
                f"The loss oc_softmax is of the labels bonafide and spoof, not of {', '.join(self.label2id)}."
            )


__all__ = ["CountermeasureConfig"]
