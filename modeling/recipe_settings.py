"""From a recipe to the settings of a config and a feature extractor."""

import dataclasses
import inspect
from collections.abc import Mapping

from transformers import CONFIG_MAPPING

from hub_cards.recipe import Recipe, check_keys

from . import ARCHITECTURES, AntiSpoofingFeatureExtractor
from .configuration_wav2vec2_antispoofing import ENCODERS


def checked_settings(
    recipe: Recipe, train_counts: Mapping[str, int] | None = None
) -> tuple[type, dict, dict]:
    """
    The class of the model's config, and the settings of config and feature extractor that the recipe states.

    Args:
        recipe: of the model.
        train_counts: utterances of each class in the training split, for balanced class weights; `None` where
            nothing is trained, and such weights are none.

    Raises:
        ValueError: an architecture or a key that is not known.
    """
    settings, system = dict(recipe.model), recipe.system
    model_type = settings.pop("model_type", None)
    config_classes = {config_class.model_type: config_class for config_class in ARCHITECTURES}
    if model_type not in config_classes:
        raise ValueError(f"{system}: model_type {model_type!r} is not one of {', '.join(config_classes)}.")
    config_class = config_classes[model_type]
    check_keys(settings, [f.name for f in dataclasses.fields(config_class)], f"{system}, model")
    if "encoder_config" in config_class.sub_configs:
        encoder = settings.get("encoder_config")
        encoder_type = encoder.get("model_type") if isinstance(encoder, dict) else None
        if encoder_type not in ENCODERS:
            raise ValueError(
                f"{system}, encoder_config: its model_type must be stated, one of {', '.join(ENCODERS)}."
            )
        valid = ["model_type", *(f.name for f in dataclasses.fields(CONFIG_MAPPING[encoder_type]))]
        check_keys(encoder, valid, f"{system}, encoder_config")
    valid = set(inspect.signature(AntiSpoofingFeatureExtractor.__init__).parameters)
    check_keys(
        recipe.feature_extractor,
        valid - {"self", "kwargs", "num_samples"},
        f"{system}, feature_extractor",
    )
    if settings.get("class_weights") == "balanced":
        total = sum((train_counts or {}).values())
        balanced = {name: total / (2 * count) for name, count in (train_counts or {}).items()}
        settings["class_weights"] = balanced or None
    return config_class, settings, dict(recipe.feature_extractor)
