"""A trained countermeasure from a folder or the Hub, with what it needs to be used and to be named."""

import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    PreTrainedModel,
    SequenceFeatureExtractor,
)

from .files import write_text
from .trials import KEYS


@dataclass(frozen=True)
class Countermeasure:
    """
    Attributes:
        name: the folder's name, or the id on the Hub.
        folder: where its files are.
        revision: commit on the Hub; `None` for a folder.
        model, feature_extractor: as the Auto classes give them.
    """

    name: str
    folder: Path
    revision: str | None
    model: PreTrainedModel
    feature_extractor: SequenceFeatureExtractor


def set_decision_threshold(folder: Path, threshold: float) -> None:
    """Write the decision threshold into the `config.json` of a model; all else in it stays as it is."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    write_text(path, json.dumps({**config, "decision_threshold": threshold}, indent=2) + "\n")


def load_countermeasure(
    model: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> Countermeasure:
    """
    Load a trained model and its feature extractor. The architectures of this package are known once
    `modeling` has been imported; of others the code must come with the model, see `trust_remote_code`.

    Args:
        model: a folder that train.py or `save_pretrained` wrote, or an id on the Hub.
        revision: branch, tag or commit on the Hub.
        trust_remote_code: run the code that comes with a model of an architecture that this package lacks.

    Raises:
        FileNotFoundError: neither a folder nor to be had on the Hub, or no trained model.
        ValueError: weights that are damaged, lack parameters or do not fit the config, labels other than
            bonafide and spoof, a feature extractor that does not crop.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        name, folder = path.resolve().name, path
    else:
        name, folder = model, _download(model, revision)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{model} holds no config.json, so it is no trained model. Give the folder that train.py named "
            "at its end."
        )
    try:
        network, loading = AutoModelForAudioClassification.from_pretrained(
            folder,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that they are named below
            output_loading_info=True,
        )
        extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except SafetensorError as error:
        raise ValueError(f"The weights of {model} can't be read ({error}). Fetch them again.") from error
    except OSError as error:
        raise FileNotFoundError(
            f"{model} is not whole: {error} Save model and feature extractor by save_pretrained; pickled "
            "weights are not read."
        ) from error
    if mismatched := sorted(loading["mismatched_keys"]):
        parameter, found, expected = mismatched[0]
        raise ValueError(
            f"The weights of {model} do not fit its config: {parameter} has the shape {tuple(found)}, but "
            f"{tuple(expected)} is expected."
        )
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(
            f"The weights of {model} lack {len(missing)} parameters, among them {missing[0]}: its scores "
            "would be random. Save the whole model."
        )
    if set(network.config.label2id) != set(KEYS):
        raise ValueError(
            f"{model} has the labels {', '.join(network.config.label2id)}; a countermeasure has "
            f"{' and '.join(KEYS)}. Set id2label in its config."
        )
    if not hasattr(extractor, "num_samples"):
        raise ValueError(
            f"The feature extractor of {model} is {type(extractor).__name__}, which does not crop to a "
            "number of samples; AntiSpoofingFeatureExtractor does."
        )
    return Countermeasure(
        name, folder, None if path.is_dir() else folder.name, align_weights(network), extractor
    )


def align_weights(model: PreTrainedModel) -> PreTrainedModel:
    """
    Move weights that lie in a memory-mapped file at any address into memory of their own, which PyTorch
    aligns: the last bits of a product by MKL depend on the alignment, and so would those of a score.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


def _download(model: str, revision: str | None) -> Path:
    """The model's files, without pickles, in the cache; its last folder is named by the commit."""
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise FileNotFoundError(f"There is no folder {model}.")
    try:
        return Path(
            snapshot_download(model, revision=revision, allow_patterns=["*.json", "*.py", "*.safetensors"])
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(f"{model} is neither a folder nor to be had on the Hub: {error}") from error
