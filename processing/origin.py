"""Where a model's weights come from: the `origin` that `training.json` and `conversion.json` state. It is
written once, when the weights are made, and read by all that tells of them. Imports nothing that
takes long."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from .files import find_weights, hash_files, read_json


# Of weights without a record.
UNKNOWN = {"kind": "unknown", "published": False, "license_from_recipe": False, "before": None}


def describe_conversion(record: Mapping, card: Mapping, changed_settings: Sequence[str] = ()) -> dict:
    """
    The origin of converted weights: of their `conversion.json`, of the recipe's `card`, whose
    `checkpoint_sha256` is that of the file that the system's authors publish, and of the names of the
    settings that differ from the authors'.
    """
    published = card.get("checkpoint_sha256") == record["sha256"]
    return {
        "kind": "converted",
        "checkpoint": record["checkpoint"],
        "sha256": record["sha256"],
        "published": published,
        "changed_settings": list(changed_settings),
        "license_from_recipe": published,  # of any other file it is not known who made it
        "before": None,
    }


def describe_training(corpus: str | None, before: Mapping | None) -> dict:
    """
    The origin of weights that were trained here, on a corpus, and `before` from those of [`describe_start`];
    `None` where training began with new ones. `published` and `license_from_recipe` are those of the weights
    that all began with.
    """
    return {
        "kind": "trained",
        "corpus": corpus,
        "published": before is not None and before["published"],
        "license_from_recipe": before is None or before["license_from_recipe"],
        "before": before,
    }


def describe_start(folder: Path) -> dict:
    """
    The model that a training goes on from: its name, the SHA-256 of its weights, and their origin.
    ValueError: a record that is not JSON; the message names it.
    """
    records = (read_json(folder / name) for name in ("conversion.json", "training.json"))
    about = {"model": folder.resolve().name, "weights_sha256": hash_files(find_weights(folder))}
    return {**about, **find_origin(next(filter(None, records), None))}


def find_origin(record: Mapping | None) -> dict:
    """The origin that a model's `conversion.json` or `training.json` states, if it has one of them."""
    return (record or {}).get("origin", UNKNOWN)
