"""Labelled recordings that come without an ASVspoof protocol: in folders that are named for labels, beside a
`metadata.csv`, or in a data set in one of the formats of `datasets`, on the Hub or downloaded."""

import dataclasses
import os
import posixpath
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import (
    Audio,
    ClassLabel,
    Dataset,
    DatasetBuilder,
    DatasetDict,
    Value,
    load_dataset_builder,
    load_from_disk,
)
from datasets.exceptions import DatasetNotFoundError
from datasets.packaged_modules.folder_based_builder.folder_based_builder import FolderBasedBuilder
from huggingface_hub import snapshot_download

from .benchmark import find_official, name_official, spread_notes
from .columns import GUESSES
from .folder_tree import AUDIO_EXTENSIONS, FolderTree, describe_endings, join, open_tree
from .layouts import report_missing
from .trials import KEY_OF_LABEL, Corpus, add_trials, as_word, check_trials, complete_trials, read_keys


SPLITS = {  # ours by what they are called, in any case
    **dict.fromkeys(["train", "training"], "train"),
    **dict.fromkeys(["dev", "development", "val", "valid", "validation"], "dev"),
    **dict.fromkeys(["eval", "evaluation", "test", "testing"], "eval"),
}
METADATA = {
    "metadata.csv": lambda path: pd.read_csv(
        path, dtype="str", keep_default_na=False, encoding="utf-8-sig", index_col=False
    ),
    "metadata.jsonl": lambda path: pd.read_json(path, lines=True, dtype=False, convert_dates=False),
    "metadata.parquet": pd.read_parquet,
}
# Names of columns by the roles in GUESSES; what is not given is guessed. `breakdown …`: kept as they are.
Columns = Mapping[str, str | None]


def load_folder(
    tree: FolderTree,
    columns: Columns,
    keys: Mapping[str, str] = KEY_OF_LABEL,
    *,
    allow_missing: bool = False,
    unlabelled: str | None = None,
) -> Corpus:
    """
    Load a folder of recordings. A folder at any level that is named for a label labels all that is below it,
    and the path from there is the attack; one that is named for a split makes that split. Without any, there
    is one split, "train". A `metadata.csv` lists the recordings below it by `file_name`, and may label them.
    `unlabelled` is the label of what has none.

    Raises:
        FileNotFoundError: recordings that are listed but have no file.
        ValueError: no recordings, or some without a label; else as [`load_hub`].
    """
    table, files, left_out = _list_recordings(tree)
    if table.empty:
        raise ValueError(
            f"{tree.root} holds no recordings, but {describe_endings(tree.list_others())}. "
            "Expected is <split>/<label>/<file>, or a metadata.csv of file_name and a label column."
        )
    audio = columns.get("audio") if columns.get("audio") in files else "audio"
    names = _read_folder_names(table[audio], keys, tree.root)
    if names["split"].any():
        left_out["recordings in no folder that is named for a split"] = int((names["split"] == "").sum())
        names = names[names["split"] != ""]
        table = table.loc[names.index]
    if unlabelled is not None:
        names["label"] = names["label"].fillna(unlabelled)
    for role in ("label", "attack"):
        name = columns.get(role) or next((c for c in table if c.lower() in GUESSES[role]), role)
        if name in table:
            table[name] = table[name].fillna(names[role])
        elif columns.get(role) is None:
            table[name] = names[role]
        if role == "label" and name in table and table[name].isna().any():
            unknown = [column for column in table if column not in (*files, name)]
            raise ValueError(_describe_unlabelled(tree, table.loc[table[name].isna(), audio], keys, unknown))
    recordings = {join(folder, name) for folder, names in tree.recordings.items() for name in names}
    splits, missing = {}, {}
    for split in sorted(names["split"].unique(), key=[*SPLITS, ""].index):
        ours, source = SPLITS.get(split, "train"), f"{tree.root}, split {split or 'train'}"
        if ours in missing:
            raise _double_split(tree.root, split, ours)
        listed = table[names["split"] == split]
        present = listed[audio].map(lambda path: path in recordings or (tree.root / path).is_file())
        where = str(tree.root)
        report_missing(listed[audio], present, source=source, where=where, allow_missing=allow_missing)
        missing[ours], listed = int((~present).sum()), listed[present].copy()
        if len(listed):
            listed[files] = str(tree.root.resolve()) + os.sep + listed[files]
            texts = {name: pa.array(values, pa.string()) for name, values in listed.items()}
            rows = Dataset(pa.table(texts))
            for name in files:
                rows = rows.cast_column(name, Audio(decode=False))
            splits[ours] = _to_rows(rows, source, columns, keys)
    left_out = {reason: number for reason, number in left_out.items() if number}
    return Corpus(str(tree.root), splits, missing, left_out=left_out)


def load_hub(
    dataset_id: str,
    columns: Columns,
    keys: Mapping[str, str] = KEY_OF_LABEL,
    configuration: str | None = None,
) -> Corpus:
    """
    Load a data set of the Hub by its id, and by the name of its configuration where it has several; or one
    that was downloaded or saved to the folder `dataset_id`.

    Raises:
        FileNotFoundError: no such data set, or recordings that are listed but have no file.
        ValueError: no recordings, columns that cannot be guessed, labels spelt otherwise, or an utterance
            listed twice.
    """
    if any(Path(dataset_id, name).is_file() for name in ("dataset_dict.json", "state.json")):
        saved = load_from_disk(dataset_id)
        splits = saved if isinstance(saved, DatasetDict) else {"train": saved}
        return to_corpus(splits, dataset_id, columns, keys)
    builder = open_builder(dataset_id, configuration)
    if isinstance(builder, FolderBasedBuilder):
        below = builder.config.data_dir
        # `datasets` would take splits from the names of files, and drop the others.
        if below or configuration is None:
            is_local = Path(dataset_id).is_dir()
            root = Path(dataset_id if is_local else snapshot_download(dataset_id, repo_type="dataset"))
            corpus = load_folder(open_tree(root / (below or "")), columns, keys)
            return dataclasses.replace(corpus, name=dataset_id)
        builder.BASE_FEATURE = UndecodedAudio
        builder.EXTENSIONS = [*AUDIO_EXTENSIONS]
    builder.download_and_prepare()
    corpus = dataclasses.replace(
        to_corpus(builder.as_dataset(), dataset_id, columns, keys), hub=find_commit(builder)
    )
    used = [file for files in builder.config.data_files.values() for file in files]
    here = [
        path
        for ending in {Path(file).suffix for file in used}
        for path in Path(dataset_id).rglob(f"*{ending}")
    ]
    left_out = {"files of data that `datasets` takes for no split": len(here) - len(used)}
    return dataclasses.replace(corpus, left_out=left_out) if len(here) > len(used) else corpus


def open_builder(dataset_id: str, configuration: str | None) -> DatasetBuilder:
    """What reads a data set of the Hub or a folder; a FileNotFoundError if there is none."""
    try:
        return load_dataset_builder(dataset_id, configuration)
    except DatasetNotFoundError as error:
        raise FileNotFoundError(f"{dataset_id} is neither a folder nor a Hub data set: {error}") from error


def find_commit(builder: DatasetBuilder) -> str:
    """Id and commit of a data set of the Hub, ID@COMMIT, or ""."""
    commit = re.match(r"hf://datasets/([^@]+@[0-9a-f]{40})", builder.base_path or "")
    return commit[1] if commit else ""


class UndecodedAudio(Audio):
    """`Audio` whose paths and bytes are stored as they are: `Audio` asks for torchcodec even for that."""

    def encode_example(self, value: str | dict) -> dict:
        return {"bytes": None, "path": value} if isinstance(value, str) else value


def _list_recordings(tree: FolderTree) -> tuple[pd.DataFrame, list[str], Counter]:
    """What metadata say of all recordings, which columns are paths, and what is left out, by reason."""
    tables, files = [pd.DataFrame({"audio": pd.Series(dtype="str")})], ["audio"]
    paths = [path for name in METADATA for path in tree.find(name)]
    for path in paths:
        table, folder = _read_metadata(tree.root / path), posixpath.dirname(path)
        names = {column: column.removesuffix("file_name").rstrip("_") or "audio" for column in table}
        names = {column: name for column, name in names.items() if column.endswith("file_name")}
        for column in names:
            below = table[column].str.replace("\\", "/")
            table[column] = [posixpath.normpath(posixpath.join(folder, file)) for file in below]
        tables.append(table.rename(columns=names))
        files += names.values()
    listed, unlisted = pd.concat(tables, ignore_index=True), []
    left_out, known = Counter(tree.left_out), set(listed["audio"])
    covered = {PurePosixPath(path).parent for path in paths}
    for folder, names in tree.recordings.items():
        here = [join(folder, name) for name in names]
        if covered.isdisjoint([PurePosixPath(folder), *PurePosixPath(folder).parents]):
            unlisted += here
        else:
            left_out["recordings that no metadata list"] += len(set(here) - known)
    others = [name for name in tree.list_others() if name not in METADATA]
    left_out[f"files without the ending of an audio file ({describe_endings(others)})"] = len(others)
    return (
        pd.concat([listed, pd.DataFrame({"audio": unlisted})], ignore_index=True),
        [*dict.fromkeys(files)],
        left_out,
    )


def _read_metadata(path: Path) -> pd.DataFrame:
    """A table of metadata as text, "" where it has no value."""
    try:
        table = METADATA[path.name](path)
    except (ValueError, pa.ArrowInvalid) as error:
        raise ValueError(f"{path} does not parse: {error}") from error
    if "file_name" not in table:
        raise ValueError(f"{path} has no column file_name; its columns are {', '.join(map(str, table))}.")
    return table.astype("object").where(table.notna(), "").map(str)


def _read_folder_names(paths: pd.Series, keys: Mapping[str, str], root: Path) -> pd.DataFrame:
    """What the folders of each path are named for: split, label (NaN if none is) and attack, "" if none."""
    found = {}
    folders = paths.map(posixpath.dirname)
    for folder in folders.unique():
        parts = [part.strip().casefold() for part in folder.split("/")]
        labels = [i for i, part in enumerate(parts) if part in keys]
        if len({keys[parts[i]] for i in labels}) > 1:
            raise ValueError(
                f"{root / folder} lies below a folder that is named for bona fide and one for spoof. Rename "
                "one, or list the recordings in a metadata.csv of file_name and label."
            )
        split = next((part for part in parts if part in SPLITS), "")
        label, attack = None, ""
        if labels:
            label = folder.split("/")[labels[0]]
            below = zip(parts[labels[0] :], folder.split("/")[labels[0] :], strict=True)
            attack = "/".join(name for part, name in below if part not in keys and part not in SPLITS)
        found[folder] = (split, label, attack)
    return pd.DataFrame([found[f] for f in folders], columns=["split", "label", "attack"], index=paths.index)


def _describe_unlabelled(
    tree: FolderTree, paths: pd.Series, keys: Mapping[str, str], columns: list[str]
) -> str:
    """What was found instead of labels, also `columns` of metadata, and what to do."""
    counts = paths.map(posixpath.dirname).replace("", ".").value_counts()
    folders = ", ".join(f"{name!r} ({count:,}x)" for name, count in counts[:10].items())
    tables = [name for name in tree.list_others() if name.lower().endswith((".csv", ".tsv", ".txt", ".json"))]
    tables = [name for name in tables if name not in METADATA]
    text = (
        f"{tree.root}: {len(paths):,} recordings lie in no folder that is named for their label; the first "
        f"is {paths.iloc[0]}. Labels must be spelt {'/'.join(keys)} (in any case), but found were {folders}. "
        "Say what others mean with --label_map LABEL=bonafide,OTHER=spoof, or list the recordings in a "
        "metadata.csv of file_name and label."
    )
    if columns:
        text += (
            f" The metadata have the columns {', '.join(columns)}: say which is the label by --label_column."
        )
    return f"{text} {tables[0]} is not read." if tables else text


def to_corpus(
    datasets: Mapping[str, Dataset], name: str, columns: Columns, keys: Mapping[str, str]
) -> Corpus:
    splits, official = {}, find_official(name, datasets)
    own = official.breakdowns if official else ()
    for split, rows in datasets.items():
        rows = spread_notes(rows, f"{name}, split {split}")
        columns = {**columns, **{f"breakdown {of}": of for of in own if of in rows.column_names}}
        ours = SPLITS.get(split.casefold(), split)
        if ours in splits:
            raise _double_split(name, split, ours)
        if not len(rows):
            raise ValueError(f"{name} holds no recordings for {split}.")
        splits[ours] = _to_rows(rows, f"{name}, split {split}", columns, keys)
    return name_official(Corpus(name, splits), official) if official else Corpus(name, splits)


def _double_split(name: str | Path, split: str, ours: str) -> ValueError:
    return ValueError(f"{name} has both a {split} and another {ours} split. Rename one of them.")


def _to_rows(rows: Dataset, source: str, columns: Columns, keys: Mapping[str, str]) -> Dataset:
    """The rows of one split with the columns of `trials.FEATURES`; audio bytes are not touched."""
    found = {role: _find_column(rows, source, role, columns.get(role)) for role in GUESSES}
    try:
        rows = rows.cast_column(found["audio"], Audio(decode=False))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError) as error:
        raise _column_error(rows, source, "audio", f"column {found['audio']} holds no audio") from error
    paths = _find_recordings(rows, source, found["audio"])
    texts = {role: _read_column(rows, name) for role, name in found.items() if name and role != "audio"}
    keys = read_keys(texts["label"], keys, f"{source}: the labels in column {found['label']}")
    names = _name_utterances(paths, keys)
    known = {"utterance_id": "id", "speaker_id": "speaker", "attack": "attack"}
    words = {name: texts[role].map(as_word) for name, role in known.items() if role in texts}
    trials = complete_trials(pd.DataFrame({"utterance_id": names, **words, "key": keys}))
    trials["utterance_id"] = trials["utterance_id"].mask(trials["utterance_id"] == "-", names)
    check_trials(trials, f"{source} (utterance ids can be given by --id_column)")
    for role, name in columns.items():
        if role.startswith("breakdown"):
            column = _find_column(rows, source, "breakdown", name)
            trials[name] = _read_column(rows, column).map(as_word).replace("-", "unknown")
    rows = rows.select_columns([found["audio"]]).rename_columns({found["audio"]: "audio"})
    return add_trials(rows, trials)


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
    option = "--breakdown" if role == "breakdown" else f"--{role}_column"
    return ValueError(f"{source}: {what}; the columns are {described}. Name it with {option}.")


def _read_column(rows: Dataset, name: str) -> pd.Series:
    """A column as text, "" where it has no value."""
    feature, values = rows.features[name], rows.with_format(None)[name][:]
    if isinstance(feature, ClassLabel):
        values = [feature.names[value] if value is not None and value >= 0 else None for value in values]
    return pd.Series(["" if value is None else str(value) for value in values], dtype="str")


def _find_recordings(rows: Dataset, source: str, name: str) -> list[str | None]:
    """Path of each recording, which must be a file unless the data set holds the recording itself."""
    audio = rows.with_format("arrow")[:][name]  # in chunks, memory-mapped: never to be combined
    paths = pc.struct_field(audio, "path").to_pylist()
    embedded = pc.struct_field(audio, "bytes").is_valid().to_pylist()
    pairs = zip(paths, embedded, strict=True)
    if absent := [path for path, is_here in pairs if not is_here and not os.path.isfile(path or "")]:
        raise FileNotFoundError(
            f"{source}: {len(absent):,} of the {len(paths):,} recordings in column {name} have no audio "
            f"file; the first is {absent[0]}. Complete the data set, take their lines out of its metadata, "
            "or name another column by --audio_column."
        )
    return paths


def _name_utterances(paths: list[str | None], keys: pd.Series) -> pd.Series:
    """File names, or paths from the folder above all where those repeat; of no folder, with the key."""
    paths = [path or f"row{i}" for i, path in enumerate(paths)]
    names = pd.Series([os.path.splitext(os.path.basename(path))[0] for path in paths])
    if not names.is_unique:
        common = os.path.commonpath([os.path.dirname(path) for path in paths])
        names = pd.Series([path[len(common) :].replace(os.sep, "/").lstrip("/") for path in paths])
        stems = names.map(lambda name: os.path.splitext(name)[0])
        names = next((ids for ids in (stems, names) if ids.is_unique), keys + "-" + stems)
    return names.map(as_word)
