"""The pretrained encoder that a system starts from: its config and weights, taken once, before training."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch
from transformers import AutoConfig, AutoFeatureExtractor, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from .arguments import RANDOM
from .resuming import hash_tensors


RECORD_NAME = "training.json"  # in the folder of a run
# What a config says of its file, and not of its model.
FILE_KEYS = {"_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"}
IGNORED_ENCODER_KEYS = FILE_KEYS | {"id2label", "label2id"}  # these are of the base model's own head
# A checkpoint of Whisper has its encoder under these names, and a decoder that is not used.
WHISPER_ENCODER = {r"^(model\.)?encoder\.": ""}
DECODER = re.compile(r"(^|\.)decoder\.|^proj_out\.")
# Words in the keys in which it may differ from the base model's: dropout, masking and layerdrop.
TRAINING_ONLY_KEYS = ("drop", "mask")


def follow_base_model(
    stated: dict, extractor_settings: dict, source: str | None, checkpoint: Path | None
) -> tuple[dict, dict]:
    """
    The settings of the encoder and of the feature extractor, from those that the recipe states and from the
    source: an id on the Hub, a folder, or "none". The encoder's are the base model's own, with the dropout
    and masking of the recipe, whose other values must be those of the base model; `do_normalize: base_model`
    is replaced by the base model's. The checkpoint of a run that is resumed takes the place of the base
    model, which is not needed any more.

    Raises:
        FileNotFoundError: the base model is not found.
        ValueError: none is named; it is of another size or kind than the recipe states, or does not say
            whether it normalises; the recipe turns masking or layerdrop on.
    """
    if source is None:
        raise ValueError(
            "This system starts from a pretrained encoder. Name it by --base_model, an id on the Hub or a "
            f"folder ({RANDOM!r} for random weights), or as base_model under training in the recipe."
        )
    follows = extractor_settings.get("do_normalize") == "base_model"
    if source == RANDOM:
        if follows:
            raise ValueError("do_normalize: base_model needs a base model. State true or false.")
        return stated, extractor_settings
    place = checkpoint or find_folder(source, "base model") or source
    with _explain_base_model_errors(place):
        config = AutoConfig.from_pretrained(place)
        base = config if checkpoint is None else getattr(config, "encoder_config", None)
        if base is None:  # a checkpoint of another system, which is found out when the two are compared
            return stated, extractor_settings
        if follows:
            normalizes = _read_normalization(place, base, source)
            extractor_settings = {**extractor_settings, "do_normalize": normalizes}
    settings = {key: value for key, value in base.to_dict().items() if key not in IGNORED_ENCODER_KEYS}
    for key, value in stated.items():
        if value and (key.endswith("layerdrop") or (key.startswith("mask_") and key.endswith("_prob"))):
            raise ValueError(f"encoder_config: {key} {value} is not possible, it is always 0. Leave it out.")
        if any(word in key for word in TRAINING_ONLY_KEYS):
            settings[key] = value
        elif json.dumps(value) != json.dumps(settings.get(key)):  # a tuple is a list
            raise ValueError(
                f"The base model {source} has {key} {settings.get(key)!r}, but the recipe's encoder_config "
                f"says {value!r}. Choose the base model that the recipe is for, or change the recipe."
            )
    return settings, extractor_settings


def _read_normalization(place: Path | str, base: PreTrainedConfig, source: str) -> bool:
    """Whether the base model's own feature extractor brings waveforms to zero mean and unit variance."""
    if base.model_type == "whisper":  # it computes a log-mel spectrogram of the waveform as it is
        return False
    extractor = AutoFeatureExtractor.from_pretrained(place)
    if (normalizes := getattr(extractor, "do_normalize", None)) is None:
        raise ValueError(
            f"{type(extractor).__name__} of {source} does not say whether it normalises. State "
            "do_normalize in the recipe as true or false."
        )
    return normalizes


def load_base_model(encoder: PreTrainedModel, source: str) -> dict:
    """
    Copy the base model's weights into the encoder, whose config [`follow_base_model`] gave. The source, an id
    on the Hub or a folder, may hold more, such as the heads of its pre-training; pickles are read as tensors
    only. Returns `name`, `num_tensors`, `unused` (names of the tensors of the source that the encoder does
    not have, but for a decoder's) and the SHA-256 of the encoder's weights.

    Raises:
        FileNotFoundError: the source is not found.
        ValueError: weights that cannot be read, that lack some of the encoder's, or have other shapes.
    """
    folder = find_folder(source, "base model")
    config = type(encoder.config).from_dict(encoder.config.to_dict())
    with _explain_base_model_errors(folder or source):
        loaded, unused = load_whole(
            type(encoder),
            folder or source,
            f"The base model {source}",
            config=config,
            dtype=torch.float32,
            key_mapping=WHISPER_ENCODER if config.model_type == "whisper" else None,
        )
    tensors, own = loaded.state_dict(), encoder.state_dict()
    encoder.load_state_dict({name: tensors[name] for name in own})
    unused = sorted({*unused, *tensors.keys() - own.keys()})
    return {
        "name": folder.resolve().name if folder else source,
        "num_tensors": len(own),
        "unused": [name for name in unused if not DECODER.search(name)],
        "sha256": hash_tensors(encoder.state_dict().items()),
    }


def find_folder(source: str, what: str = "model") -> Path | None:
    """
    The folder that a source names; `None` where it may be an id on the Hub.

    Raises:
        FileNotFoundError: the source can only be a folder, but is not there.
    """
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        return path
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise FileNotFoundError(f"There is no folder {source} to take the {what} from.")
    return None


def load_whole(
    model_class: type, source: Path | str, name: str, **settings
) -> tuple[PreTrainedModel, list[str]]:
    """
    `from_pretrained` of a class, and the names of the tensors of the source that the model lacks.

    Raises:
        ValueError: tensors of other shapes, or missing ones, which would be random.
    """
    model, report = model_class.from_pretrained(
        source, ignore_mismatched_sizes=True, output_loading_info=True, **settings
    )
    if mismatched := sorted(report["mismatched_keys"]):
        tensor, found, expected = mismatched[0]
        raise ValueError(
            f"{name} does not fit its config: {tensor} has the shape {tuple(found)}, but {tuple(expected)} "
            f"is expected ({len(mismatched)} such tensors)."
        )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"{name} lacks {len(missing)} of the needed tensors, among them {missing[0]}: they would be "
            "random. It needs all weights of the architecture that its config names."
        )
    return model, sorted(report["unexpected_keys"])


@contextmanager
def explain_errors(name: str, remedy: str) -> Iterator[None]:
    """
    Errors of `from_pretrained` in one line with a remedy; its table of keys, which [`load_whole`] replaces,
    is left out. `name` begins a sentence.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except (ValueError, ImportError):  # which say themselves what is wrong
        raise
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise FileNotFoundError(f"{name} is not found, or not complete ({reason}). {remedy}") from error
    except Exception as error:  # whatever the libraries make of a damaged file, or of a config of wild values
        reason = str(error).split("Error: ", 1)[-1].partition("\n")[0] or "the file is empty"
        raise ValueError(
            f"{name} cannot be read: its weights are damaged or more than tensors, or its config is damaged "
            f"({type(error).__name__}: {reason}). Download or copy them again."
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def _explain_base_model_errors(place: Path | str) -> AbstractContextManager[None]:
    remedy = "Its folder needs config.json and weights, as save_pretrained writes them."
    if not isinstance(place, Path):
        remedy = (
            "A model on the Hub is downloaded where there is a connection; elsewhere, download it before "
            f"(`hf download {place} --local-dir FOLDER`) and pass --base_model FOLDER. "
            f"--base_model {RANDOM} starts from random weights."
        )
    return explain_errors(f"The base model {place}", remedy)


def read_base_model_record(folder: Path) -> dict | None:
    """What a run that is resumed noted of its base model."""
    record = folder / RECORD_NAME
    return json.loads(record.read_bytes()).get("base_model") if record.is_file() else None
