"""A countermeasure and its feature extractor: a new one from a recipe, one that a checkpoint or a trained
model's folder holds and that is trained on, and a trained one from a folder or the Hub."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    PreTrainedConfig,
    PreTrainedModel,
    SequenceFeatureExtractor,
)
from transformers.utils import logging

from .arguments import RANDOM
from .base_model import (
    FILE_KEYS,
    explain_errors,
    find_folder,
    follow_base_model,
    load_base_model,
    load_whole,
    read_base_model_record,
)
from .evaluation_arguments import ScoringArguments
from .feature_extraction_antispoofing import AntiSpoofingFeatureExtractor
from .files import ONNX_NAME, find_weights, hash_files, is_exported, write_json
from .foreign_model import ForeignFeatureExtractor, compute_by_shape, name_classes
from .onnx_model import OnnxModel
from .precision import Precision
from .trials import KEYS, parse_label_map, read_label_map
from .validation_set import VALIDATION_NAME, ValidationSet


logger = logging.get_logger(__name__)
SAVE_REMEDY = "Save model and feature extractor by save_pretrained; pickled weights are not read."
IGNORED_CONFIG_KEYS = FILE_KEYS | {"decision_threshold", "calibration"}  # only known at the end of a run


@dataclass(frozen=True)
class Countermeasure:
    """A trained model and its feature extractor, as the Auto classes give them."""

    name: str  # the folder's name, or the id on the Hub
    folder: Path  # where its files are
    revision: str | None  # commit on the Hub; `None` for a folder
    model: PreTrainedModel
    feature_extractor: SequenceFeatureExtractor
    precision: Precision = Precision()  # of its scores
    preprocessing: dict = field(default_factory=dict)  # and labels, of a model that has its own
    calibration: dict | None = None  # of its config, which is taken out of `model`, so that it gives scores
    validation: ValidationSet | None = None  # the trials of the calibration, where they are kept

    @property
    def decision_threshold(self) -> float | None:
        """Of its config, if that has one."""
        return getattr(self.model.config, "decision_threshold", None)

    def describe_preprocessing(self) -> list[str]:
        """Lines that say what it does in its own way."""
        own, lines = self.preprocessing, []
        if "labels" in own:
            lines.append(
                f"Labels: {', '.join(f'{label} means {key}' for label, key in own['labels'].items())}"
            )
        if "feature_extractor" in own:
            scored = "whole recordings, since what it was trained on is not stated (--seconds takes a crop)"
            if own["seconds"] is not None:
                scored = f"the first {own['seconds']:g} s of each recording"
            extractor = f"the model's own {own['feature_extractor']} at {own['sampling_rate']:,} Hz"
            lines.append(f"Preprocessing: {extractor}, {scored}")
        return lines

    def find_unused_labels(self, label_map: str | None) -> list[str]:
        """What `--label_map` explains that is no label of the model."""
        own = {label.strip().casefold() for label in self.preprocessing.get("labels", KEYS)}
        return [label for label in parse_label_map(label_map) if label not in own]


def build_model(
    recipe: Any,  # a hub_cards.recipe.Recipe; that room imports this one
    train_counts: Mapping[str, int],
    *,
    weights: Path | None = None,
    checkpoint: Path | None = None,
    base_model: str | None = None,
    attn_implementation: str | None = None,
    lora_rank: int | None = None,
) -> tuple[PreTrainedModel, SequenceFeatureExtractor, dict | None]:
    """
    The model that a run trains, its feature extractor, and what was loaded of a base model, where one was.

    Args:
        train_counts: utterances of each class in the training split, for balanced class weights.
        weights: the folder of a trained model that is trained on; `None` starts a new one.
        checkpoint: of a run that is resumed, in that run's folder.
        base_model: see [`~base_model.follow_base_model`].
        lora_rank: rank of the adapters that are put into the encoder. With them the weights of a checkpoint
            are left to the Trainer, which loads them when it resumes.

    Raises:
        ValueError: a bad key or value; a base model or a checkpoint that does not fit.
        FileNotFoundError: a base model that is not found.
    """
    if weights is not None:
        config = recipe.build_config(train_counts, weights=weights)
        extractor = AutoFeatureExtractor.from_pretrained(weights)
    else:
        changes, extractor_settings = {}, recipe.feature_extractor
        if "encoder_config" in recipe.model:
            changes["encoder_config"], extractor_settings = follow_base_model(
                recipe.model["encoder_config"], extractor_settings, base_model, checkpoint
            )
        config = recipe.build_config(train_counts, **changes)
        extractor = AntiSpoofingFeatureExtractor(
            num_samples=config.num_samples, sampling_rate=config.sampling_rate, **extractor_settings
        )
    attention = {"attn_implementation": attn_implementation} if attn_implementation else {}
    try:
        folder = checkpoint or weights
        if folder is None or (checkpoint and lora_rank):
            model = AutoModelForAudioClassification.from_config(config, **attention)
        else:
            model = _load_model(folder, str(folder), config=config, **attention)
    except ImportError as error:
        raise ValueError(f"--attn_implementation: {str(error).splitlines()[0]} Leave it out.") from error
    if folder is not None:
        loaded = read_base_model_record(weights or checkpoint.parent)
    elif base_model in (None, RANDOM):
        loaded = base_model and {"name": RANDOM}
    else:
        loaded = load_base_model(model.encoder, base_model)
    if lora_rank:
        from .lora import add_lora  # an optional extra

        add_lora(model.encoder, lora_rank)
    return model, extractor, loaded


def describe_parameters(model: PreTrainedModel, base_model: dict | None) -> str:
    """Say how large a model is, how much of it is trained, and what [`load_base_model`] loaded into it."""
    trained, total = model.num_parameters(only_trainable=True), model.num_parameters()
    in_adapters = sum(p.numel() for name, p in model.named_parameters() if ".lora_" in name)
    adapters = f" and {in_adapters:,} of adapters" if in_adapters else ""
    frozen = "" if trained == total else f", {trained:,} of them trained"
    text = f"Model: {model.config.model_type}, {total - in_adapters:,} parameters{adapters}{frozen}"
    if base_model is None:
        return text
    if base_model["name"] == RANDOM:
        return f"{text}\nEncoder: random weights, not pretrained ones"
    rest = f"; not used of it: {', '.join(base_model['unused'])}" if base_model["unused"] else ""
    return f"{text}\nEncoder: all {base_model['num_tensors']} tensors from {base_model['name']}{rest}"


def list_settings(config: PreTrainedConfig | SequenceFeatureExtractor) -> dict:
    """What a config, and an encoder's in it, says of the model or the features, as JSON has it."""

    def leave_out(entries: dict) -> dict:
        return {key: value for key, value in entries.items() if key not in IGNORED_CONFIG_KEYS}

    return json.loads(config.to_json_string(), object_hook=leave_out)


def load_countermeasure(
    model: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    label_map: str | None = None,
    seconds: float | None = None,
) -> Countermeasure:
    """
    Load a trained model and its feature extractor. The architectures of transformers are known, and those of
    this package once `modeling` has been imported; of others the code must come with the model.

    Args:
        model: a folder that train.py, `save_pretrained` or an export to ONNX wrote, or an id on the Hub, of
            an audio-classification model of two labels.
        revision: branch, tag or commit on the Hub.
        trust_remote_code: run the code that comes with a model of an architecture that is not known.
        label_map: what labels mean that are not spelt as usual; see [`~processing.trials.read_label_map`].
        seconds: the crop, for a model whose feature extractor is not of this package.

    Raises:
        FileNotFoundError: neither a folder nor on the Hub, or no trained model.
        ValueError: weights that are damaged, lack parameters or do not fit the config, labels other than
            bonafide and spoof or of unknown meaning, `seconds` for a model that has a crop of its own.
    """
    name, commit, folder = model, None, find_folder(model.removesuffix(f"/{ONNX_NAME}"))
    if folder is not None:
        name = folder.resolve().name
    else:
        try:
            patterns = ["*.json", "*.py", "*.safetensors", ONNX_NAME]  # no pickles
            folder = Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
        except (HFValidationError, OSError) as error:
            raise FileNotFoundError(f"{model} is neither a folder nor found on the Hub: {error}") from error
        commit = folder.name  # in the cache
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{model} holds no config.json, so it is no trained model. Give the folder that train.py named "
            "at its end."
        )
    with explain_errors(f"The model {model}", SAVE_REMEDY):
        find_weights(folder)
        if is_exported(folder):
            network = OnnxModel.load(folder)
        else:
            network = align_weights(_load_model(folder, model, trust_remote_code=trust_remote_code))
        extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=trust_remote_code)
        labels = name_classes(network.config, read_label_map(label_map), model)
        preprocessing = {} if labels == {key: key for key in KEYS} else {"labels": labels}
        if not hasattr(extractor, "num_samples"):
            extractor = ForeignFeatureExtractor(extractor, seconds)
            network.forward = compute_by_shape(network.forward)
            preprocessing |= extractor.describe()
        elif seconds is not None:
            raise ValueError(
                f"--seconds {seconds:g} has no effect: {model} says itself what it crops. Leave it out."
            )
    calibration = _take_calibration(network, folder, preprocessing)
    validation = _load_validation_set(folder, calibration)
    return Countermeasure(
        name,
        folder,
        commit,
        network,
        extractor,
        preprocessing=preprocessing,
        calibration=calibration,
        validation=validation,
    )


def load_model(args: ScoringArguments, label_map: str | None) -> Countermeasure:
    """The trained model that the arguments name, at the precision that they name."""
    options = {"revision": args.revision, "trust_remote_code": args.trust_remote_code}
    options |= {"label_map": label_map, "seconds": args.seconds}
    countermeasure = load_countermeasure(args.model, **options)
    extractor = countermeasure.feature_extractor
    if args.torch_compile and (
        extractor.num_samples is None or isinstance(extractor, ForeignFeatureExtractor)
    ):
        raise ValueError(
            f"{args.model} scores recordings of any length, and would be compiled for each: leave "
            "--torch_compile out."
        )
    precision = Precision(bf16=args.bf16, tf32=args.tf32, torch_compile=args.torch_compile)
    precision.apply(countermeasure.model, PartialState().device)
    return replace(countermeasure, precision=precision)


def _take_calibration(model: PreTrainedModel, folder: Path, preprocessing: dict) -> dict | None:
    """The calibration of the config, which no longer has it; `None`, with a warning, if of other scores."""
    if (calibration := getattr(model.config, "calibration", None)) is None:
        return None
    model.config.calibration = None
    differs = "weights than those beside it"
    if calibration.get("weights_sha256") == hash_files(find_weights(folder)):
        if calibration.get("preprocessing", {}) == preprocessing:
            return calibration
        differs = "labels or another crop than those asked for"
    logger.warning(
        f"The calibration in {folder / 'config.json'} is of other {differs}, and is not used. Calibrate the "
        "model again by --calibrate."
    )
    return None


def _load_validation_set(folder: Path, calibration: Mapping | None) -> ValidationSet | None:
    """The trials of the calibration; `None`, with a warning, where the file is of another one."""
    validation = None if calibration is None else ValidationSet.load(folder)
    if validation is None or validation.about == calibration:
        return validation
    logger.warning(
        f"{folder / VALIDATION_NAME} is of another calibration than that in config.json, and is not used. "
        "Calibrate the model again by --calibrate."
    )
    return None


def _load_model(folder: Path, name: str, **settings) -> PreTrainedModel:
    """The model in float32, in which it is trained and scores, whatever its weights were saved in."""
    name, settings = f"The model {name}", {"use_safetensors": True, "dtype": torch.float32, **settings}
    with explain_errors(name, SAVE_REMEDY):
        return load_whole(AutoModelForAudioClassification, folder, name, **settings)[0]


def align_weights(model: PreTrainedModel) -> PreTrainedModel:
    """
    Move weights that lie in a memory-mapped file at any address into memory of their own, which PyTorch
    aligns: the last bits of a product by MKL depend on the alignment, and so would those of a score.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


def write_into_config(folder: Path, **values) -> None:
    """Write values into the `config.json` of a model; all else in it stays as it is."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**config, **values})
