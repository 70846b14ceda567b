"""Where a model's weights come from: the `origin` that `training.json` and `conversion.json` state. It is
written once, when the weights are made, and read by all that tells of them. Imports nothing that
takes long."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from .files import hash_files


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


def describe_training(record: Mapping, card: Mapping) -> dict:
    """
    The origin of weights that were trained here, of their `training.json` (also an older one): the corpus
    and, under `before`, the origin of those that training went on from, `None` where it began with new ones.
    `published` and `license_from_recipe` are those of the weights that all began with.
    """
    start = record.get("started_from")
    before = _describe_before(start, card) if start else None
    return {
        "kind": "trained",
        "corpus": record.get("corpus"),
        "published": before is not None and before["published"],
        "license_from_recipe": before is None or before["license_from_recipe"],
        "before": before,
    }


def _describe_before(start: Mapping, card: Mapping) -> dict:
    about = UNKNOWN
    if "converted_from" in start:
        about = describe_conversion(start["converted_from"], card)
    elif "trained_on" in start:
        about = describe_training({**start, "corpus": start["trained_on"]}, card)
    return {"model": start["model"], **about}


def describe_start(folder: Path) -> dict:
    """
    The model that a training goes on from: its name, its weights and what is recorded of where these come
    from, `converted_from` a checkpoint, or `trained_on` a corpus and perhaps `started_from` others.
    """
    about = {"model": folder.resolve().name, "weights_sha256": hash_files(folder, ["*.safetensors"])}
    if (path := folder / "conversion.json").is_file():
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            return {**about, "converted_from": {name: record[name] for name in ("checkpoint", "sha256")}}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} does not say what was converted ({error!r}): convert again.") from None
    if (path := folder / "training.json").is_file():
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            before = {"started_from": record["started_from"]} if record.get("started_from") else {}
            return {**about, "trained_on": record.get("corpus") or "a corpus that is not recorded", **before}
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error!r}): train again.") from None
    return about
