"""Anybody's files of scores or keys: what their columns are is told by a header, by the user, or by what they
hold, and never guessed."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import pandas as pd
from transformers.utils import logging

from .text_tables import find_delimiter, quote_text, read_fields, read_first_line, refuse_lines, split_line
from .trials import KEY_OF_LABEL, KEYS, read_keys


logger = logging.get_logger(__name__)

# What a column of metadata may be called, in any case, by what it holds; `--<role>_column` names it.
GUESSES = {
    "audio": ("audio",),
    "label": ("key", "label", "labels", "class"),
    "id": ("utterance_id", "utterance", "file_id"),
    "speaker": ("speaker_id", "speaker"),
    "attack": ("attack", "attack_id", "system_id"),
}
# What a header may call a column, in any case, by what it is called here.
NAMES = {
    "utterance_id": {
        *(*GUESSES["id"], "utt", "utt_id", "id", "file", "filename", "file_name", "path", "file_path"),
        *("filepath", "trial", "trial_id"),
    },
    "speaker_id": {*GUESSES["speaker"], "spk"},
    "attack": {*GUESSES["attack"]},
    "key": {*GUESSES["label"], "cm_label", "cm_key"},
    "score": {"score", "scores", "cm_score", "cm_scores", "llr"},
}
# What may stand beside the name of a class where a column is called by it: real_logit, is_spoof.
WORDS_OF_CLASS = {"score", "logit", "prob", "probability", "p", "is"}
REMEDIES = {
    "score": "Name the columns in a first line or by --score_columns (--compare_columns for --compare): "
    "utterance,key,score, or utterance,spoof,bonafide for a score of each class; _ is a column that is not "
    "needed. Say what keys mean that are numbers by --label_map 1=bonafide,0=spoof.",
    "key": "Name the columns in a first line: utterance,key.",
}


def read_columns(
    path: Path,
    needed: str,
    *,
    names: Sequence[str] | None = None,
    keys: Mapping[str, str] = KEY_OF_LABEL,
    layouts: Collection[Sequence[str]] = (),
) -> pd.DataFrame:
    """
    Read a file of a trial on each line, its fields between tabs, semicolons, commas or white space.

    Args:
        path: the file.
        needed: "score" or "key": what the file must hold beside the utterance.
        names: what its columns are, "_" for one that is not needed. Without them its first line may name
            them, or else what they hold tells them apart. The utterance comes first where no name tells it.
        keys: of labels by their spelling in small letters, see [`read_label_map`].
        layouts: the columns of protocols whose whole lines may stand before the score.

    Returns:
        Text, by the numbers of the lines: utterance_id; of speaker_id, attack, key and score those that the
        file has; bonafide and spoof where it has a score of each class instead of one; and the other columns
        of one of `layouts`.

    Raises:
        ValueError: no trial, a line that does not parse, columns that cannot be told apart, or another label.
    """
    first = read_first_line(path)
    sep = find_delimiter(first)
    fields = split_line(first, sep)
    expected = f"a line of {len(fields)} fields, as the first is"
    table = read_fields(path, len(fields), expected, sep=sep)
    is_header = not any(map(is_number, fields)) and (names is not None or is_header_line(first))
    table = table[int(is_header) :]
    if table.empty:
        raise ValueError(f"{path} holds no {needed}.")
    if sep == "," and re.search(r"\s[-+]?\d+,\d", first):
        raise ValueError(
            f"{path}: in the first line, {quote_text(first)}, a comma may stand in a number or between two "
            "fields. Write 0.5 for 0,5, and a field that holds white space in quotes."
        )
    try:
        if names is not None or is_header:
            columns, keys = _name_columns(table, fields if names is None else names, keys)
        else:
            columns = _tell_columns(table, fields, keys, layouts)
        has_needed = needed in columns or (needed == "score" and columns.keys() >= {*KEYS})
        if "utterance_id" not in columns or not has_needed:
            missing = "utterance" if has_needed else needed
            raise ValueError(f"it cannot be told which column is the {missing}")
        unused = [
            name.strip()
            for i, name in enumerate(names or fields)
            if i not in columns.values() and normalize_name(name) not in ("", "_")
        ]
        if names is not None and unused:
            raise ValueError(f"these names of columns are not known: {', '.join(unused)}")
    except ValueError as error:
        shown = quote_text(first)
        raise ValueError(f"{path}: {error}. Its first line is {shown}. {REMEDIES[needed]}") from None
    found = pd.DataFrame({name: table[i] for name, i in columns.items()})
    optional = ["speaker_id", "attack"] if sep != " " else []
    is_short = (found.drop(columns=optional, errors="ignore") == "").any(axis=1)
    refuse_lines(path, is_short | (table[len(fields)] != ""), expected)
    if "key" in found:
        found["key"] = read_keys(found["key"], keys, f"{path}: the labels")
    if is_header and unused:
        logger.warning("%s: these columns are not used: %s", path, ", ".join(map(repr, unused)))
    for name in found.columns.intersection(["utterance_id", *optional] if sep != " " else []):
        words = found[name].str.strip().str.replace(r"\s", lambda space: quote(space[0]), regex=True)
        found[name] = words.replace("", "-")
    return found


def is_header_line(line: str) -> bool:
    """Whether a line names columns."""
    fields = split_line(line, find_delimiter(line))
    known, names = set.union(*NAMES.values()), [*map(normalize_name, fields)]
    return not any(map(is_number, fields)) and any(name in known or "score" in name for name in names)


def is_number(text: str) -> bool:
    """Whether a text is one number; NaN and infinity are."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # Python's own way to write 1000 as 1_000


def normalize_name(name: str) -> str:
    """The name of a column in small letters, with _ between its words."""
    return re.sub(r"\W+", "_", name.strip().casefold())


def _name_columns(
    table: pd.DataFrame, names: Sequence[str], keys: Mapping[str, str]
) -> tuple[dict[str, int], Mapping[str, str]]:
    """Where the named columns are, and the keys of labels: those of 0 and 1 in a column called `is_spoof`."""
    if len(names) != table.shape[1] - 1:
        raise ValueError(f"it has {table.shape[1] - 1} columns, but {len(names)} are named")
    columns: dict[str, int] = {}
    classes: dict[str, int] = {}
    has_id = any(normalize_name(name) in GUESSES["id"] for name in names)
    for i, name in enumerate(map(normalize_name, names)):
        role = next((role for role, known in NAMES.items() if name in known), None)
        if name == "file_name" and has_id:  # a metadata.csv, whose audio files are not the ids
            role = None
        of_class = keys.get("".join(word for word in name.split("_") if word not in WORDS_OF_CLASS))
        for found, what in ((columns, role), (classes, of_class)):
            if what in found:
                raise ValueError(f"{names[found[what]]!r} and {names[i]!r} could both be the {what} column")
            if what is not None:
                found[what] = i
    places = {*columns.values(), *classes.values()}
    others = [i for i, name in enumerate(names) if "score" in normalize_name(name) and i not in places]
    if len(others) == 1 and len(classes) < 2:
        columns.setdefault("score", others[0])
    if 0 not in {*places, *columns.values()} and normalize_name(names[0]) != "_":
        columns.setdefault("utterance_id", 0)
    if len(classes) == 2 and "score" not in columns:
        columns |= classes
    elif len(classes) == 1 and "key" not in columns:
        (key,) = classes
        (other,) = {*KEYS} - {key}
        binary = {"1": key, "true": key, "0": other, "false": other}
        if table[classes[key]].str.casefold().isin(binary).all():
            return {**columns, "key": classes[key]}, binary
    return columns, keys


def _tell_columns(
    table: pd.DataFrame, fields: Sequence[str], keys: Mapping[str, str], layouts: Collection[Sequence[str]]
) -> dict[str, int]:
    """Where the columns of scores without a header are, by what they hold; `fields` are of its first line."""
    for layout in layouts:
        columns = {name: i for i, name in enumerate([*layout, "score"]) if name != "-"}
        is_whole = len(layout) + 1 == len(fields) and fields[columns["key"]].casefold() in keys
        if is_whole and is_number(fields[-1]):
            return columns
    found: dict[str, list[int]] = {"key": [], "score": [], "attack": []}
    for i, field in enumerate(fields[1:], start=1):
        if field.casefold() in keys and all(value.casefold() in keys for value in table[i].unique()):
            found["key"].append(i)
        else:
            found["score" if is_number(field) else "attack"].append(i)
    if len(found["score"]) != 1 or len(found["key"]) > 1 or len(found["attack"]) > len(found["key"]):
        raise ValueError("it cannot be told what its columns are")
    columns = {"utterance_id": 0, **{name: places[0] for name, places in found.items() if places}}
    if "attack" in columns and not table[0].is_unique and table[columns["attack"]].is_unique:
        # ASVspoof 5's `speaker utterance score key`
        columns["speaker_id"], columns["utterance_id"] = 0, columns.pop("attack")
    return columns
