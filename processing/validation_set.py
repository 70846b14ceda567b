"""What a statement about a recording rests on: the trials on which a model was calibrated, kept beside its
weights. Imports no torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from .files import write_whole


VALIDATION_NAME = "validation.safetensors"
MEASUREMENT = "measurements."  # before the name of a measurement, among the tensors


@dataclass(frozen=True, eq=False)
class ValidationSet:
    """
    The trials of a calibration. Of some of them, drawn at random, the recordings were examined as a case is,
    in their whole length.

    Attributes:
        scores: (num_trials,), of the first crop, higher = more bona fide.
        llrs: (num_trials,), natural logarithms, each by a calibration that did not see the trial's speaker,
            or, without `has_speakers`, the trial; cut to the bounds that those of a case are cut to.
        is_bonafide: (num_trials,), truth values.
        speakers: (num_trials,), a number for each speaker; negative, and all different, where none is known.
        examined: (num_examined,), which trials were examined.
        embeddings: (num_examined, size), of the first crop.
        measurements: (num_examined,) by name, NaN where a recording has none.
        window_scores: (num_windows,), of all windows of the examined trials, in order of trial and time.
        window_places: (num_windows,), to which of `examined` each belongs.
        about: what is recorded of the calibration; see [`~processing.calibration.calibrate_trials`].
    """

    scores: np.ndarray
    llrs: np.ndarray
    is_bonafide: np.ndarray
    speakers: np.ndarray
    examined: np.ndarray
    embeddings: np.ndarray
    window_scores: np.ndarray
    window_places: np.ndarray
    measurements: Mapping[str, np.ndarray] = field(default_factory=dict)
    about: Mapping = field(default_factory=dict)

    @property
    def has_speakers(self) -> bool:
        """Whether all speakers are known, and several of each class: then they are what is held out."""
        classes = self.speakers[self.is_bonafide], self.speakers[~self.is_bonafide]
        return bool(self.speakers.min() >= 0 and min(len(set(of)) for of in classes) > 1)

    def save(self, folder: Path) -> None:
        """Write `validation.safetensors` into the folder of the model."""
        tensors = {of.name: np.ascontiguousarray(getattr(self, of.name)) for of in _list_arrays()}
        tensors |= {MEASUREMENT + name: np.asarray(of, np.float32) for name, of in self.measurements.items()}
        with write_whole(folder / VALIDATION_NAME) as partial:
            partial.write_bytes(save(tensors, metadata={"about": json.dumps(dict(self.about))}))

    @classmethod
    def load(cls, folder: Path) -> "ValidationSet | None":
        """What [`save`] wrote, `None` where there is none. ValueError: a file that cannot be read."""
        path = folder / VALIDATION_NAME
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                about = json.loads(file.metadata()["about"])
            arrays = {of.name: tensors.pop(of.name) for of in _list_arrays()}
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} cannot be read: {error}. Calibrate the model again by --calibrate."
            ) from error
        measurements = {name.removeprefix(MEASUREMENT): of for name, of in tensors.items()}
        return cls(**arrays, measurements=measurements, about=about)


def _list_arrays() -> list:
    return [of for of in fields(ValidationSet) if of.type is np.ndarray]
