"""
Augmentation of training utterances, on the waveform before the crop: which there are by name, and a chain of
them as a recipe states it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Protocol

import numpy as np

from .near_names import check_keys
from .noise import AdditiveNoise
from .perturbations import BandLimiting, Gain, SilenceTrimming, SpeedPerturbation
from .rawboost import RawBoost
from .reverberation import Reverberation
from .speech_codecs import CodecAugmentation


class Augmentation(Protocol):
    """Changes a waveform. Its parameters, fields of a frozen dataclass, are checked when it is made."""

    def __call__(self, waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
        """
        Of a waveform (num_samples,), float32 mono, at `rate` in Hz, another one. Every random number comes
        from the generator, so that the result is a function of what the generator was made from.
        """


# By the name that it has in a recipe.
AUGMENTATIONS: dict[str, type[Augmentation]] = {
    "rawboost": RawBoost,
    "codec": CodecAugmentation,
    "noise": AdditiveNoise,
    "reverb": Reverberation,
    "speed": SpeedPerturbation,
    "resample": BandLimiting,
    "gain": Gain,
    "trim_silence": SilenceTrimming,
}


@dataclass(frozen=True)
class AugmentationChain:
    """Augmentations that are applied one after the other, each to an utterance with its probability."""

    steps: tuple[tuple[Augmentation, float], ...]

    def __call__(self, waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
        for augment, probability in self.steps:
            if generator.random() < probability:
                waveform = augment(waveform, rate, generator)
        return waveform

    @property
    def stated(self) -> list[dict]:
        """As a recipe states it, in full: with every probability and parameter, the defaults too."""
        names = {kind: name for name, kind in AUGMENTATIONS.items()}
        stated = [{names[type(step)]: asdict(step), "probability": p} for step, p in self.steps]
        return json.loads(json.dumps(stated))  # lists, as files have them, and no tuples


def build_augmentation(stated: Sequence[Mapping] | None) -> AugmentationChain | None:
    """
    The chain that a recipe states, [{"rawboost": {"algorithm": 5}, "probability": 0.5}, …], in the order of
    the list; `probability` is 1 where it is not stated. `None`: none is stated.

    Raises:
        ValueError: a name or a parameter that is not known, with the nearest one; an entry of another form; a
            value that the augmentation refuses.
        FileNotFoundError: a folder that an augmentation needs and that is not there.
    """
    if not stated:
        return None
    if not isinstance(stated, Sequence) or isinstance(stated, str):
        raise ValueError(
            f"augmentation {stated!r} is not a list of entries like {{rawboost: {{algorithm: 5}}, "
            "probability: 0.5}."
        )
    return AugmentationChain(tuple(_build_step(entry) for entry in stated))


def _build_step(entry: Mapping) -> tuple[Augmentation, float]:
    """An augmentation of the chain and its probability."""
    names = [name for name in entry if name != "probability"] if isinstance(entry, Mapping) else []
    check_keys(names, [*AUGMENTATIONS, "probability"], "augmentation")
    if len(names) != 1 or not isinstance(entry[names[0]] or {}, Mapping):
        raise ValueError(
            f"augmentation: {entry!r} is not one augmentation with its parameters. Write {{NAME: "
            f"{{PARAMETER: VALUE}}, probability: 0.5}}; NAME is one of {', '.join(AUGMENTATIONS)}."
        )
    [name] = names
    where, kind, parameters = f"augmentation {name}", AUGMENTATIONS[name], entry[name] or {}
    check_keys(parameters, [field.name for field in fields(kind)], where)
    probability = entry.get("probability", 1.0)
    try:
        if not 0 < probability <= 1:
            raise ValueError(f"probability {probability!r} is not above 0 and at most 1.")
        return kind(**parameters), probability
    except TypeError as error:  # such as a text where a number is compared, or no folder
        raise ValueError(f"{where}: a parameter is missing or of the wrong type: {error}.") from error
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from error
