"""Labelled recordings that come without an ASVspoof protocol: a folder in the `datasets` audiofolder layout,
or a data set on the Hub with an audio column and a label column."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Audio, ClassLabel, Dataset, DatasetBuilder, Value, load_dataset_builder
from datasets.exceptions import DatasetNotFoundError
from datasets.packaged_modules.audiofolder.audiofolder import AudioFolder
from datasets.packaged_modules.folder_based_builder.folder_based_builder import FolderBasedBuilder

from .trials import FEATURES, KEY_OF_LABEL, KEYS, Corpus, ProtocolColumns, as_word, check_columns


# What PyAV decodes besides the endings that `datasets` takes for audio, and would pass over without a word.
MORE_EXTENSIONS = [".m4a", ".aac", ".mp4", ".mka", ".webm", ".wma", ".amr", ".3gp"]
AUDIO_EXTENSIONS = frozenset([*AudioFolder.EXTENSIONS, *MORE_EXTENSIONS])
SPLIT_NAMES = {"validation": "dev", "test": "eval"}  # `datasets` name: ours


@dataclass(frozen=True)
class ColumnNames:
    """Names of the columns of a data set; what is `None` is guessed."""

    audio: str | None = None
    label: str | None = None
    utterance_id: str | None = None
    speaker_id: str | None = None
    attack: str | None = None


GUESSES = {
    "label": ("key", "label", "labels", "class"),
    "utterance_id": ("utterance_id", "utterance", "file_id"),
    "speaker_id": ("speaker_id", "speaker"),
    "attack": ("attack", "attack_id", "system_id"),
}


def load_folder(data_dir: Path, columns: ColumnNames = ColumnNames()) -> Corpus:
    """
    Load a folder in the audiofolder layout: `<split>/<label>/<file>`, `<label>/<file>`, or any tree with a
    `metadata.csv` of `file_name` and a label column.

    Errors: see [`load_hub`].
    """
    return _to_corpus(load_dataset_builder("audiofolder", data_dir=str(data_dir)), str(data_dir), columns)


def load_hub(
    dataset_id: str, columns: ColumnNames = ColumnNames(), configuration: str | None = None
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
    return _to_corpus(builder, dataset_id, columns)


class UndecodedAudio(Audio):
    """
    `Audio` of paths and bytes that are stored as they are: `Audio` itself asks for torchcodec even for that.
    """

    def encode_example(self, value: str | dict) -> dict:
        return {"bytes": None, "path": value} if isinstance(value, str) else value


def _to_corpus(builder: DatasetBuilder, name: str, columns: ColumnNames) -> Corpus:
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
        splits[ours] = _to_rows(rows, f"{name}, split {split}", columns)
    return Corpus(name, splits)


def _to_rows(rows: Dataset, source: str, names: ColumnNames) -> Dataset:
    """The rows of one split with the columns of `trials.FEATURES`; audio bytes are not touched."""
    audio_name = _find_audio(rows, source, names.audio)
    try:
        rows = rows.cast_column(audio_name, Audio(decode=False))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError) as error:
        raise ValueError(
            f"{source}: column {audio_name} holds no audio; the columns are {_describe(rows)}. Name another "
            "with --audio_column."
        ) from error
    paths = _audio_paths(rows, source, audio_name)
    found = {role: _find(rows, source, role, getattr(names, role)) for role in GUESSES}
    columns = ProtocolColumns(key=_keys(rows, source, found["label"]))
    columns.speaker_id = _texts(rows, found["speaker_id"]) or ["-"] * len(rows)
    columns.attack = ["-" if key == "bonafide" else "unknown" for key in columns.key]
    if attacks := _texts(rows, found["attack"]):
        columns.attack = [
            "-" if key == "bonafide" else attack if attack != "-" else "unknown"
            for key, attack in zip(columns.key, attacks, strict=True)
        ]
    columns.utterance_id = _texts(rows, found["utterance_id"]) or _ids_from_paths(paths, columns.key)
    check_columns(columns, f"{source} (utterance ids can be given by --id_column)")

    audio = rows.select_columns([audio_name])
    if audio_name != "audio":
        audio = audio.rename_column(audio_name, "audio")
    described = pa.table(
        {
            "utterance_id": columns.utterance_id,
            "speaker_id": columns.speaker_id,
            "attack": columns.attack,
            "label": pa.array([KEYS.index(key) for key in columns.key], pa.int64()),
        }
    )
    for column in described.column_names:
        audio = audio.add_column(column, described[column], feature=FEATURES[column])
    return audio.select_columns(list(FEATURES))


def _find_audio(rows: Dataset, source: str, name: str | None) -> str:
    candidates = [name] if name else [c for c, feature in rows.features.items() if isinstance(feature, Audio)]
    if not candidates and "audio" in rows.column_names:
        candidates = ["audio"]
    if len(candidates) != 1 or candidates[0] not in rows.column_names:
        raise ValueError(
            f"{source}: {name or 'one audio column'} was not found among the columns {_describe(rows)}. Name "
            "it with --audio_column."
        )
    return candidates[0]


def _find(rows: Dataset, source: str, role: str, name: str | None) -> str | None:
    if name is not None and name not in rows.column_names:
        raise ValueError(f"{source}: there is no column {name}; the columns are {_describe(rows)}.")
    if name is not None:
        return name
    lower = {column.lower(): column for column in rows.column_names}
    candidates = [lower[guess] for guess in GUESSES[role] if guess in lower]
    if role == "label" and len(candidates) != 1:
        raise ValueError(
            f"{source}: {len(candidates)} columns could be the label, of the columns {_describe(rows)}. Name "
            "it with --label_column."
        )
    return candidates[0] if candidates else None


def _keys(rows: Dataset, source: str, column: str) -> list[str]:
    """Key of each row; the label's spelling decides, its index or order never does."""
    feature, values = rows.features[column], rows.with_format(None)[column][:]
    if isinstance(feature, ClassLabel):
        values = [feature.names[value] if value is not None and value >= 0 else None for value in values]
    keys = [KEY_OF_LABEL.get(value.strip().lower()) if isinstance(value, str) else None for value in values]
    if None in keys:
        counts = Counter(map(str, values)).most_common(10)
        raise ValueError(
            f"{source}: the labels in column {column} must be spelt {'/'.join(k for k in KEY_OF_LABEL)} (in "
            f"any case), but found were {', '.join(f'{value!r} ({count:,}x)' for value, count in counts)}. "
            "Rename them in the data set, or name another column with --label_column."
        )
    return keys


def _texts(rows: Dataset, column: str | None) -> list[str] | None:
    """A column as words without white space, as a score file needs them: a space is %20, no value "-"."""
    if column is None:
        return None
    feature, values = rows.features[column], rows.with_format(None)[column][:]
    if isinstance(feature, ClassLabel):
        values = [feature.names[value] if value is not None and value >= 0 else None for value in values]
    return [as_word("" if value is None else str(value)) for value in values]


def _audio_paths(rows: Dataset, source: str, audio_name: str) -> list[str | None]:
    """Path of each recording, which must be a file unless the data set holds the recording itself."""
    audio = rows.with_format("arrow")[:][audio_name]  # in chunks, memory-mapped: never to be combined
    paths, embedded = (pc.struct_field(audio, name) for name in ("path", "bytes"))
    paths, embedded = paths.to_pylist(), embedded.is_valid().to_pylist()
    absent = [
        path
        for path, here in zip(paths, embedded, strict=True)
        if not here and not (path and os.path.isfile(path))
    ]
    if absent:
        raise FileNotFoundError(
            f"{source}: {len(absent):,} of the {len(paths):,} recordings have no audio file; the first is "
            f"{absent[0]}. Complete the data set, or take their lines out of its metadata."
        )
    return paths


def _ids_from_paths(paths: list[str | None], keys: list[str]) -> list[str]:
    """File names without ending; qualified by the key where the same name stands under both labels."""
    stems = [as_word(Path(path).stem) if path else f"row{i}" for i, path in enumerate(paths)]
    if len(set(stems)) == len(stems):
        return stems
    return [f"{key}-{stem}" for key, stem in zip(keys, stems, strict=True)]


def _describe(rows: Dataset) -> str:
    kinds = {
        c: f.dtype if isinstance(f, Value) else getattr(f, "_type", "struct")
        for c, f in rows.features.items()
    }
    return ", ".join(f"{column} ({kind})" for column, kind in kinds.items())
