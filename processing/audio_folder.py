"""Labelled recordings that come without an ASVspoof protocol: a folder in the `datasets` audiofolder layout,
or a data set on the Hub with an audio column and a label column."""

import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Audio, ClassLabel, Dataset, DatasetBuilder, Value, load_dataset_builder
from datasets.exceptions import DatasetNotFoundError
from datasets.packaged_modules.audiofolder.audiofolder import AudioFolder
from datasets.packaged_modules.folder_based_builder.folder_based_builder import FolderBasedBuilder

from .trials import FEATURES, KEY_OF_LABEL, KEYS, Corpus, as_word, check_trials


# What PyAV decodes besides the endings that `datasets` takes for audio, and would skip without a word.
MORE_EXTENSIONS = [".m4a", ".aac", ".mp4", ".mka", ".webm", ".wma", ".amr", ".3gp"]
AUDIO_EXTENSIONS = frozenset([*AudioFolder.EXTENSIONS, *MORE_EXTENSIONS])
SPLIT_NAMES = {"validation": "dev", "test": "eval"}  # `datasets` name: ours


# What a column may be called, in any case, by what it holds; `--<role>_column` names it.
GUESSES = {
    "audio": ("audio",),
    "label": ("key", "label", "labels", "class"),
    "id": ("utterance_id", "utterance", "file_id"),
    "speaker": ("speaker_id", "speaker"),
    "attack": ("attack", "attack_id", "system_id"),
}
Columns = Mapping[str, str | None]  # names of columns by the roles in GUESSES; what is not given is guessed


def load_folder(data_dir: Path, columns: Columns, keys: Mapping[str, str] = KEY_OF_LABEL) -> Corpus:
    """
    Load a folder in the audiofolder layout: `<split>/<label>/<file>`, `<label>/<file>`, or any tree with a
    `metadata.csv` of `file_name` and a label column. Errors: see [`load_hub`].
    """
    builder = load_dataset_builder("audiofolder", data_dir=str(data_dir))
    return _to_corpus(builder, str(data_dir), columns, keys)


def load_hub(
    dataset_id: str,
    columns: Columns,
    keys: Mapping[str, str] = KEY_OF_LABEL,
    configuration: str | None = None,
) -> Corpus:
    """
    Load a data set of the Hub by its id, and by the name of its configuration where it has several.

    Raises:
        FileNotFoundError: no such data set, or recordings that are listed but have no file.
        ValueError: no recordings, columns that cannot be guessed, labels spelt otherwise, or an utterance
            listed twice.
    """
    try:
        builder = load_dataset_builder(dataset_id, configuration)
    except DatasetNotFoundError as error:
        raise FileNotFoundError(f"{dataset_id} is neither a folder nor a Hub data set: {error}") from error
    return _to_corpus(builder, dataset_id, columns, keys)


class UndecodedAudio(Audio):
    """`Audio` whose paths and bytes are stored as they are: `Audio` asks for torchcodec even for that."""

    def encode_example(self, value: str | dict) -> dict:
        return {"bytes": None, "path": value} if isinstance(value, str) else value


def _to_corpus(builder: DatasetBuilder, name: str, columns: Columns, keys: Mapping[str, str]) -> Corpus:
    if isinstance(builder, FolderBasedBuilder):
        builder.BASE_FEATURE = UndecodedAudio
        builder.EXTENSIONS = [*builder.EXTENSIONS, *MORE_EXTENSIONS]
    builder.download_and_prepare()
    if empty := [split for split, info in builder.info.splits.items() if not info.num_examples]:
        raise ValueError(
            f"{name} holds no recordings for {' and '.join(empty)}. Expected is <split>/<label>/<file>, or a "
            "metadata.csv of file_name and a label column."
        )
    splits = {}
    for split, rows in builder.as_dataset().items():
        ours = SPLIT_NAMES.get(split, split)
        if ours in splits:
            raise ValueError(f"{name} has both a {split} and a {ours} split. Rename one of them.")
        splits[ours] = _to_rows(rows, f"{name}, split {split}", columns, keys)
    return Corpus(name, splits)


def _to_rows(rows: Dataset, source: str, columns: Columns, keys: Mapping[str, str]) -> Dataset:
    """The rows of one split with the columns of `trials.FEATURES`; audio bytes are not touched."""
    found = {role: _find_column(rows, source, role, columns.get(role)) for role in GUESSES}
    try:
        rows = rows.cast_column(found["audio"], Audio(decode=False))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError) as error:
        raise _column_error(rows, source, "audio", f"column {found['audio']} holds no audio") from error
    paths = _find_recordings(rows, source, found["audio"])
    texts = {role: _read_column(rows, name) for role, name in found.items() if name and role != "audio"}
    words = {role: text.map(as_word) for role, text in texts.items()}
    trials = pd.DataFrame({"key": _read_keys(texts["label"], source, found["label"], keys)})
    trials["speaker_id"] = words.get("speaker", "-")
    trials["attack"] = words.get("attack", pd.Series("-", trials.index)).replace("-", "unknown")
    trials["attack"] = trials["attack"].mask(trials["key"] == "bonafide", "-")
    trials["utterance_id"] = words["id"] if "id" in words else _name_utterances(paths, trials["key"])
    check_trials(trials, f"{source} (utterance ids can be given by --id_column)")
    trials["label"] = trials["key"].map(KEYS.index)

    rows = rows.select_columns([found["audio"]])
    if found["audio"] != "audio":
        rows = rows.rename_column(found["audio"], "audio")
    for name, feature in FEATURES.items():
        if name != "audio":
            rows = rows.add_column(name, pa.array(trials[name], feature.pa_type), feature=feature)
    return rows.select_columns(list(FEATURES))


def _find_column(rows: Dataset, source: str, role: str, name: str | None) -> str | None:
    if name is not None:
        if name not in rows.column_names:
            raise _column_error(rows, source, role, f"there is no column {name}")
        return name
    lower = {column.lower(): column for column in rows.column_names}
    found = [lower[guess] for guess in GUESSES[role] if guess in lower]
    if role == "audio":
        found = [column for column, feature in rows.features.items() if isinstance(feature, Audio)] or found
    if role in ("audio", "label") and len(found) != 1:
        raise _column_error(rows, source, role, f"{len(found)} columns could be the {role}")
    return found[0] if found else None


def _column_error(rows: Dataset, source: str, role: str, what: str) -> ValueError:
    kinds = {
        name: feature.dtype if isinstance(feature, Value) else getattr(feature, "_type", "struct")
        for name, feature in rows.features.items()
    }
    described = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    return ValueError(f"{source}: {what}; the columns are {described}. Name it with --{role}_column.")


def _read_column(rows: Dataset, name: str) -> pd.Series:
    """A column as text, "" where it has no value."""
    feature, values = rows.features[name], rows.with_format(None)[name][:]
    if isinstance(feature, ClassLabel):
        values = [feature.names[value] if value is not None and value >= 0 else None for value in values]
    return pd.Series(["" if value is None else str(value) for value in values], dtype="str")


def _read_keys(labels: pd.Series, source: str, name: str, keys: Mapping[str, str]) -> pd.Series:
    """Key of each row; the label's spelling decides, its index or order never does."""
    found = labels.str.strip().str.casefold().map(keys)
    if found.isna().any():
        counts = labels.value_counts()[:10].items()
        raise ValueError(
            f"{source}: the labels in column {name} must be spelt {'/'.join(keys)} (in any case), "
            f"but found were {', '.join(f'{label!r} ({count:,}x)' for label, count in counts)}. Say what "
            f"they mean with --label_map {labels.value_counts().index[0]}=bonafide,…=spoof, or name another "
            "column with --label_column."
        )
    return found


def _find_recordings(rows: Dataset, source: str, name: str) -> list[str | None]:
    """Path of each recording, which must be a file unless the data set holds the recording itself."""
    audio = rows.with_format("arrow")[:][name]  # in chunks, memory-mapped: never to be combined
    paths = pc.struct_field(audio, "path").to_pylist()
    embedded = pc.struct_field(audio, "bytes").is_valid().to_pylist()
    absent = [
        path
        for path, here in zip(paths, embedded, strict=True)
        if not here and not os.path.isfile(path or "")
    ]
    if absent:
        raise FileNotFoundError(
            f"{source}: {len(absent):,} of the {len(paths):,} recordings have no audio file; the first is "
            f"{absent[0]}. Complete the data set, or take their lines out of its metadata."
        )
    return paths


def _name_utterances(paths: list[str | None], keys: pd.Series) -> pd.Series:
    """File names without ending; qualified by the key where the same name stands under both labels."""
    names = pd.Series([as_word(Path(path).stem) if path else f"row{i}" for i, path in enumerate(paths)])
    return names if names.is_unique else keys + "-" + names
