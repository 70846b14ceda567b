"""The model of a run: a new one, one that goes on from a checkpoint, or a trained one that is trained on."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    PreTrainedModel,
)

from .base_model import RANDOM, follow_base_model, load_base_model, recorded_base_model
from .feature_extraction_antispoofing import AntiSpoofingFeatureExtractor
from .training import check_same_system


@dataclass(frozen=True)
class Origin:
    """
    Where the weights of a run's model come from.

    Attributes:
        weights: the folder of a trained model that is trained on.
        checkpoint: of a run that is resumed, in that run's folder.
        base_model: what the encoder of a new model is taken from; see [`~base_model.follow_base_model`].
        attn_implementation: of the encoder; `None` for the library's choice.
    """

    weights: Path | None = None
    checkpoint: Path | None = None
    base_model: str | None = None
    attn_implementation: str | None = None

    @property
    def is_new(self) -> bool:
        """Whether the model starts from initial weights, or from a base model."""
        return self.weights is None and self.checkpoint is None


def build_model(
    config_class: type, settings: dict, extractor_settings: dict, origin: Origin
) -> tuple[PreTrainedModel, AntiSpoofingFeatureExtractor, dict | None]:
    """
    The model and its feature extractor, and what was loaded of a base model, where one was.

    Args:
        config_class: of the model.
        settings: of the config, as the recipe states them.
        extractor_settings: of the feature extractor, likewise.
        origin: of the weights.

    Raises:
        ValueError: a bad value; a base model that does not fit; a checkpoint of another system.
        FileNotFoundError: a base model that can't be had.
    """
    if origin.weights is not None:
        config = AutoConfig.from_pretrained(origin.weights)
        config.class_weights, config.decision_threshold = settings.get("class_weights"), None
        extractor = AutoFeatureExtractor.from_pretrained(origin.weights)
    else:
        if "encoder_config" in settings:
            settings["encoder_config"], extractor_settings = follow_base_model(
                settings["encoder_config"], extractor_settings, origin.base_model, origin.checkpoint
            )
        elif origin.base_model is not None:
            raise ValueError(
                f"--base_model {origin.base_model}: {config_class.model_type} does not start from a base "
                "model."
            )
        try:
            config = config_class(**settings)
        except StrictDataclassError as error:
            raise ValueError(f"model of the recipe: {str(error).split('Error: ', 1)[-1]}") from error
        extractor = AntiSpoofingFeatureExtractor(
            num_samples=config.num_samples, sampling_rate=config.sampling_rate, **extractor_settings
        )
    if origin.checkpoint is not None:
        check_same_system(origin.checkpoint, config, extractor)
    attention = {"attn_implementation": origin.attn_implementation} if origin.attn_implementation else {}
    try:
        if not origin.is_new:
            weights = origin.checkpoint or origin.weights
            model = AutoModelForAudioClassification.from_pretrained(weights, config=config, **attention)
            return model, extractor, recorded_base_model(origin.weights or origin.checkpoint.parent)
        model = AutoModelForAudioClassification.from_config(config, **attention)
    except ImportError as error:
        raise ValueError(f"--attn_implementation: {str(error).splitlines()[0]} Leave it out.") from error
    if origin.base_model in (None, RANDOM):
        return model, extractor, origin.base_model and {"name": RANDOM}
    return model, extractor, load_base_model(model.encoder, origin.base_model)


def describe_parameters(model: PreTrainedModel, base_model: dict | None) -> str:
    """
    How large a model is, how much of it is trained, and what [`~processing.base_model.load_base_model`] says
    of its base model, where it has one.
    """
    trained, total = model.num_parameters(only_trainable=True), model.num_parameters()
    frozen = "" if trained == total else f", {trained:,} of them trained"
    text = f"Model: {model.config.model_type}, {total:,} parameters{frozen}"
    if base_model is None:
        return text
    if base_model["name"] == RANDOM:
        return f"{text}\nEncoder: random weights, not pretrained ones"
    rest = f"; not used of it: {', '.join(base_model['unused'])}" if base_model["unused"] else ""
    return f"{text}\nEncoder: all {base_model['num_tensors']} tensors from {base_model['name']}{rest}"
