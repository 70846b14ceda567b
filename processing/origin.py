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


def describe_start(folder: Path, card: Mapping) -> dict:
    """
    The model that a training goes on from: its name, the SHA-256 of its weights, and their origin.
    ValueError: a damaged record; the message names it.
    """
    conversion, training = (read_json(folder / name) for name in ("conversion.json", "training.json"))
    try:
        origin = find_origin(conversion, training, card)
    except KeyError as error:
        raise ValueError(f"{folder / 'conversion.json'} has no {error}: convert again.") from None
    about = {"model": folder.resolve().name, "weights_sha256": hash_files(find_weights(folder))}
    return {**about, **origin}


def find_origin(
    conversion: Mapping | None, training: Mapping | None, card: Mapping, changed_settings: Sequence[str] = ()
) -> dict:
    """
    The origin that one of a model's records states, if there is one. That of an older version does not, and
    what it tells is described by `card` and `changed_settings`, as in [`describe_conversion`].
    """
    if not (record := conversion or training):
        return UNKNOWN
    if "origin" in record:
        return record["origin"]
    if conversion:
        return describe_conversion(conversion, card, changed_settings)
    start = training.get("started_from")
    return describe_training(training.get("corpus"), start and _describe_older_start(start, card))


def _describe_older_start(start: Mapping, card: Mapping) -> dict:
    """What `started_from` of an older training.json tells: `converted_from` a checkpoint, or `trained_on` a
    corpus and perhaps `started_from` others."""
    training = {**start, "corpus": start["trained_on"]} if "trained_on" in start else None
    about = {name: start[name] for name in ("model", "weights_sha256") if name in start}
    return {**about, **find_origin(start.get("converted_from"), training, card)}
