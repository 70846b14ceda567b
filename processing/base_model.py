"""The pretrained encoder that a system starts from: its config and weights, taken once, before training."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, PreTrainedModel
from transformers.utils import logging

from .files import write_text


RECORD_NAME = "training.json"  # in the folder of a run
RANDOM = "none"  # instead of a base model: random initial weights
# What a config says of its file, and not of its model.
FILE_KEYS = {"_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"}
IGNORED_ENCODER_KEYS = FILE_KEYS | {"id2label", "label2id"}  # these are of the base model's own head
# Words in the keys in which it may differ from the base model's: dropout, masking and layerdrop.
TRAINING_ONLY_KEYS = ("drop", "mask")


def follow_base_model(
    stated: dict, extractor_settings: dict, source: str | None, checkpoint: Path | None
) -> tuple[dict, dict]:
    """
    What a recipe leaves to the base model: the encoder's config is the base model's own, with the dropout and
    masking that the recipe states, and so is `do_normalize: base_model` of the feature extractor.

    Args:
        stated: `encoder_config` of the recipe. Sizes that it states must be those of the base model.
        extractor_settings: `feature_extractor` of the recipe.
        source: the base model, an id on the Hub or a folder, or "none".
        checkpoint: of a run that is resumed; takes the place of the base model, which is not needed any more.

    Returns:
        The settings of the encoder and of the feature extractor.

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
    extractor_settings = dict(extractor_settings)
    follows = extractor_settings.get("do_normalize") == "base_model"
    if source == RANDOM:
        if follows:
            raise ValueError("do_normalize: base_model needs a base model. State true or false.")
        return stated, extractor_settings
    place = checkpoint or find_folder(source, "base model") or source
    with _explain_errors(place):
        config = AutoConfig.from_pretrained(place)
        extractor = AutoFeatureExtractor.from_pretrained(place) if follows else None
    base = config if checkpoint is None else getattr(config, "encoder_config", None)
    if base is None:  # a checkpoint of another system, which is found out when the two are compared
        return stated, extractor_settings
    if follows:
        extractor_settings["do_normalize"] = getattr(extractor, "do_normalize", None)
        if extractor_settings["do_normalize"] is None:
            raise ValueError(
                f"{type(extractor).__name__} of {source} does not say whether it normalises. State "
                "do_normalize in the recipe as true or false."
            )
    settings = {key: value for key, value in base.to_dict().items() if key not in IGNORED_ENCODER_KEYS}
    for key, value in stated.items():
        if value and (key == "layerdrop" or (key.startswith("mask_") and key.endswith("_prob"))):
            raise ValueError(f"encoder_config: {key} {value} is not possible, it is always 0. Leave it out.")
        if any(word in key for word in TRAINING_ONLY_KEYS):
            settings[key] = value
        elif json.dumps(value) != json.dumps(settings.get(key)):  # a tuple is a list
            raise ValueError(
                f"The base model {source} has {key} {settings.get(key)!r}, but the recipe's encoder_config "
                f"says {value!r}. Choose the base model that the recipe is for, or write a recipe for this "
                "one."
            )
    return settings, extractor_settings


def load_base_model(encoder: PreTrainedModel, source: str) -> dict:
    """
    Copy the base model's weights into the encoder. The source may hold more, such as the heads of its
    pre-training.

    Args:
        encoder: of the config that [`follow_base_model`] gave.
        source: an id on the Hub, or a folder with safetensors or pickled tensors, which are read as tensors
            only.

    Returns:
        What was loaded: `name`, `num_tensors`, `unused` (names of the tensors of the source that the encoder
        does not have) and the SHA-256 of the encoder's weights.

    Raises:
        FileNotFoundError: the source is not found.
        ValueError: weights that cannot be read, that lack some of the encoder's, or have other shapes.
    """
    folder = find_folder(source, "base model")
    with _explain_errors(folder or source):
        loaded, report = AutoModel.from_pretrained(
            folder or source,
            config=type(encoder.config).from_dict(encoder.config.to_dict()),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # so that check_all_loaded names them
            output_loading_info=True,
        )
    check_all_loaded(report, f"The base model {source}", "It is no checkpoint of this encoder.")
    encoder.load_state_dict(loaded.state_dict())
    return {
        "name": folder.resolve().name if folder else source,
        "num_tensors": len(encoder.state_dict()),
        "unused": sorted(report["unexpected_keys"]),
        "sha256": hash_tensors(encoder.state_dict().items()),
    }


def find_folder(source: str, what: str = "model") -> Path | None:
    """
    The folder that a source names; `None` where it may be an id on the Hub.

    Raises:
        FileNotFoundError: the source can only be a folder, but is not there.
    """
    with suppress(RuntimeError):  # a user without a home folder
        path = Path(source).expanduser()
        if path.is_dir():
            return path
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise FileNotFoundError(f"There is no folder {source} to take the {what} from.")
    return None


def check_all_loaded(report: dict, name: str, remedy: str) -> None:
    """
    Args:
        report: the loading info of `from_pretrained`, with mismatched sizes ignored.
        name: of what was loaded, at the beginning of a sentence.
        remedy: for tensors that are missing.

    Raises:
        ValueError: tensors of other shapes, or missing ones, which would be random.
    """
    if mismatched := sorted(report["mismatched_keys"]):
        tensor, found, expected = mismatched[0]
        raise ValueError(
            f"{name} does not fit its config: {tensor} has the shape {tuple(found)}, but {tuple(expected)} "
            f"is expected ({len(mismatched)} such tensors)."
        )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"{name} lacks {len(missing)} of the needed tensors, among them {missing[0]}: they would be "
            f"random. {remedy}"
        )


def record_base_model(folder: Path, base_model: dict) -> None:
    """Note in a run's folder, when it begins, what [`load_base_model`] says: a resumed run reads it there."""
    write_text(folder / RECORD_NAME, json.dumps({"base_model": base_model}, indent=2) + "\n")


def recorded_base_model(folder: Path) -> dict | None:
    """What a run that is resumed noted of its base model."""
    record = folder / RECORD_NAME
    return json.loads(record.read_bytes()).get("base_model") if record.is_file() else None


def hash_tensors(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """SHA-256 of named tensors in their order: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@contextmanager
def _explain_errors(source: Path | str) -> Iterator[None]:
    """Errors of transformers as ours, with a remedy; its table of keys, which ours replaces, is left out."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except (SafetensorError, UnpicklingError, EOFError, RuntimeError) as error:
        reason = str(error).partition("\n")[0] or "the file is empty"
        raise ValueError(
            f"The weights of the base model {source} cannot be read, or are more than tensors ({reason}). "
            "Download or copy them again."
        ) from error
    except OSError as error:
        problem, remedy = (
            ("complete", "Its folder needs config.json and weights, as save_pretrained writes them.")
            if isinstance(source, Path)
            else (
                "found",
                "A model on the Hub is downloaded where there is a connection; elsewhere, download it before "
                f"(`hf download {source} --local-dir FOLDER`) and pass --base_model FOLDER. "
                f"--base_model {RANDOM} starts from random weights.",
            )
        )
        reason = str(error).partition("\n")[0]
        raise FileNotFoundError(f"The base model {source} is not {problem} ({reason}). {remedy}") from error
    finally:
        logging.set_verbosity(verbosity)
