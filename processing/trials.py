"""
Trials as a table, and what every corpus must hold to: its rows and the layout of its folders.

`trials` is always a table of utterance_id, speaker_id, attack ("-" for bona fide) and key, all of them text,
and of a corpus's own columns.
"""

import csv
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pyarrow as pa
from datasets import Audio, ClassLabel, Dataset, DatasetInfo, Features, Value
from transformers.utils import logging

from .corpus_names import CorpusName
from .text_tables import read_first_line, read_table


logger = logging.get_logger(__name__)

KEYS = ("bonafide", "spoof")
# How the classes are spelt where a corpus or a score file is not an official one, in any case.
KEY_OF_LABEL = {
    "bonafide": "bonafide",
    "bona-fide": "bonafide",
    "genuine": "bonafide",
    "real": "bonafide",
    "spoof": "spoof",
    "fake": "spoof",
}
# Subsets of ASVspoof 2021 by the names in its files: the organisers' first evaluation scripts say
# "hidden_track" where the full keys say "hidden".
SUBSET_OF_NAME = {"eval": "eval", "progress": "progress", "hidden": "hidden", "hidden_track": "hidden"}
FEATURES = Features(
    {
        "utterance_id": Value("string"),
        "speaker_id": Value("string"),
        "audio": Audio(decode=False),
        "attack": Value("string"),
        "label": ClassLabel(names=list(KEYS)),
    }
)


@dataclass(frozen=True)
class Corpus:
    """
    A corpus and what must be said with every number that comes from it.

    Attributes:
        name: under which results are reported.
        splits: rows (see `FEATURES`) by split: "train", "dev" and "eval" where the corpus has them.
        missing: per split, how many listed utterances were left out because their audio is absent.
        unreadable: per split or slice that was taken, how many recordings were left out that cannot be read.
        note: a sentence that goes with all results, or "".
        breakdowns: names of the corpus's own string columns by whose values results are broken down.
        asv_score_files: per split, the ASV score files found in the corpus folder, as
            [`~processing.scores.read_asv_scores`] takes them.
    """

    name: str
    splits: dict[str, Dataset]
    missing: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, int] = field(default_factory=dict)
    note: str = ""
    breakdowns: tuple[str, ...] = ()
    asv_score_files: dict[str, tuple[Path, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """
    A named corpus as its makers lay it out: protocols, and folders of recordings. A new corpus is one of
    these, a [`~processing.corpus_names.CorpusName`], and a line in [`~processing.corpora.LAYOUTS`].

    Attributes:
        name: of the corpus.
        columns: what the fields of a protocol line are, in order; see [`read_table`]. One called `subset`
            tells the split of each trial.
        protocols: official file name of the protocol by split.
        folders: where the corpus may lie, below the folder that is given.
        protocol_folders: where its protocols may lie, below the corpus.
        audio_folders: where the recordings of each split may lie, below the corpus.
        breakdowns: see [`Corpus`].
        asv_scores: patterns of the ASV score files of a `{split}`, below the folder above the protocol's.
        is_csv: protocols are CSV, with the columns as header.
    """

    name: CorpusName
    columns: tuple[str, ...]
    protocols: Mapping[str, str]
    folders: tuple[str, ...]
    protocol_folders: tuple[str, ...]
    audio_folders: Mapping[str, tuple[str, ...]]
    breakdowns: tuple[str, ...] = ()
    asv_scores: tuple[str, ...] = ()
    is_csv: bool = False

    def find_root(self, data_dir: Path) -> Path | None:
        """The folder of the corpus, `data_dir` or one in it, if there is one; rather one with recordings."""
        roots = [
            root
            for root in (data_dir / folder for folder in self.folders)
            if self.find_protocols(root)
            or any((root / folder).is_dir() for folder in self.protocol_folders if folder)
        ]
        return max(roots, key=self.has_audio, default=None)

    def has_audio(self, root: Path) -> bool:
        """Whether the folder of a corpus holds one of recordings."""
        return any(self.find_audio(root, split).is_dir() for split in self.protocols)

    def find_audio(self, root: Path, split: str) -> Path:
        """The folder of a split's recordings, or where it is expected."""
        folders = [root / folder for folder in self.audio_folders[split]]
        return next((folder for folder in folders if folder.is_dir()), folders[-1])

    def find_protocols(self, root: Path) -> dict[str, Path]:
        """The protocols that there are, by split. Names of CSVs are common: those have the header, too."""
        found = {}
        for split, name in self.protocols.items():
            paths = [root / folder / name for folder in self.protocol_folders]
            paths = [path for path in paths if path.is_file()]
            if paths and (not self.is_csv or self.matches(read_first_line(paths[0]))):
                found[split] = paths[0]
        return found

    def find_asv_scores(self, protocol: Path, split: str) -> tuple[Path, ...]:
        """The ASV score files of a split, where all of them are there."""
        patterns = [pattern.format(split=split) for pattern in self.asv_scores]
        found = [next(protocol.parents[1].glob(pattern), None) for pattern in patterns]
        return tuple(found) if all(found) else ()

    def matches(self, first_line: str) -> bool:
        """Whether a file that begins so is one of the corpus's protocols, by header or number of fields."""
        if self.is_csv:
            return tuple(next(csv.reader([first_line]), ())) == self.columns
        return len(first_line.split()) == len(self.columns)

    def read_protocol(self, path: Path) -> pd.DataFrame:
        """The trials of a protocol. A column `file` names their recordings, if not `<utterance_id>.flac`."""
        has_subsets = "subset" in self.columns
        values = {"key": KEYS, "subset": SUBSET_OF_NAME} if has_subsets else {"key": KEYS}
        trials = read_table(path, self.columns, values=values)
        if has_subsets:
            trials["subset"] = trials["subset"].map(SUBSET_OF_NAME)
        check_trials(trials, str(path))
        return trials

    def split_trials(self, trials: pd.DataFrame, path: Path) -> dict[str, pd.DataFrame]:
        """The trials of a protocol by split: "all" if neither a column nor an official name tells it."""
        if "subset" in trials:
            found = dict(tuple(trials.groupby("subset")))
            return {name: found[name].drop(columns="subset") for name in self.protocols if name in found}
        return {next((split for split, name in self.protocols.items() if name == path.name), "all"): trials}

    def load(self, data_dir: Path, *, allow_missing: bool = False) -> Corpus:
        """
        Load the splits whose protocols are there; recordings that these do not list are skipped.

        Args:
            data_dir: the folder of the unpacked corpus, or the one above it.
            allow_missing: leave listed utterances without audio out, and count them, instead of raising.
        """
        root = self.find_root(data_dir) or data_dir
        protocols = self.find_protocols(root)
        if not protocols:
            names = dict.fromkeys(str(Path(self.protocol_folders[0], n)) for n in self.protocols.values())
            header = f" with the header {','.join(self.columns)}" if self.is_csv else ""
            raise FileNotFoundError(
                f"{root} is not an {self.name.title} folder: there is no {', '.join(names)}{header} in "
                f"it. Give the folder in which it is unpacked. Download it from {self.name.source}."
            )
        # One file may list several splits.
        folders = {path: self.find_audio(root, split) for split, path in protocols.items()}
        splits, missing = {}, {}
        for path, folder in folders.items():
            listed = self.read_protocol(path)
            listed["file"] = listed.get("file", listed["utterance_id"] + ".flac")
            present = find_present(listed["file"], folder, source=str(path), allow_missing=allow_missing)
            for split, trials in self.split_trials(listed, path).items():
                here = trials[present[trials.index]]
                missing[split] = len(trials) - len(here)
                if len(here):
                    paths = str(folder.resolve()) + os.sep + here["file"]
                    splits[split] = make_rows(here.drop(columns="file"), paths)
        if not splits:
            places = ", ".join(map(str, folders.values()))
            raise FileNotFoundError(f"{places} holds none of the audio files that the protocols list.")
        asv = {split: files for split in splits if (files := self.find_asv_scores(protocols[split], split))}
        return Corpus(self.name.title, splits, missing, breakdowns=self.breakdowns, asv_score_files=asv)


def read_label_map(text: str | None) -> dict[str, str]:
    """
    Keys by labels: [`KEY_OF_LABEL`], and the spellings that `--label_map` adds to it or changes in it, as in
    `deepfake=spoof,0=bonafide`. A ValueError if the text is not such a list.
    """
    pairs = [pair.rpartition("=") for pair in (text or "").split(",") if pair.strip()]
    added = {label.strip().casefold(): key.strip() for label, _, key in pairs}
    if "" in added or not set(added.values()) <= set(KEYS) or len(added) < len(pairs):
        raise ValueError(
            f"--label_map {text!r} is not a list of each label once, with bonafide or spoof: "
            "real=bonafide,deepfake=spoof."
        )
    return KEY_OF_LABEL | added


def check_trials(trials: pd.DataFrame, source: str) -> None:
    """Raise a ValueError, in which `source` is named, for no trial or an utterance that is listed twice."""
    ids = trials["utterance_id"]
    if ids.empty:
        raise ValueError(f"{source} lists no trial.")
    if (repeated := ids[ids.duplicated()]).size:
        times = (ids == repeated.iloc[0]).sum()
        raise ValueError(
            f"{source}: utterance {repeated.iloc[0]} is listed {times} times (lines too many in all: "
            f"{len(repeated):,}). Every trial must be listed once."
        )


def complete_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials of which perhaps only the utterance and the key are known, with speaker and attack."""
    unnamed = trials.get("attack", pd.Series("-", trials.index)).replace("-", "unknown")
    attack = unnamed.mask(trials["key"] == "bonafide", "-")
    return trials.assign(speaker_id=trials.get("speaker_id", "-"), attack=attack)


def find_present(files: pd.Series, folder: Path, *, source: str, allow_missing: bool) -> pd.Series:
    """Whether each listed file is in `folder`; a FileNotFoundError for one that is not, or a warning."""
    entries = os.scandir(folder) if folder.is_dir() else ()
    present = files.map({entry.name for entry in entries if entry.is_file()}.__contains__)  # isin takes long
    if not present.all():
        message = (
            f"{(~present).sum():,} of the {len(files):,} utterances listed in {source} have no audio file in "
            f"{folder}; the first is {files[~present].iloc[0]}."
        )
        if not allow_missing:
            raise FileNotFoundError(f"{message} Complete the corpus, or leave them out with --allow_missing.")
        logger.warning("%s They are left out, and the count goes into the results.", message)
    return present


def as_word(text: str) -> str:
    """A name as a score file needs it, without white space: a space becomes %20, no text becomes "-"."""
    return "".join(quote(c) if c.isspace() or c == "%" else c for c in text) or "-"


def make_rows(trials: pd.DataFrame, paths: Iterable[str]) -> Dataset:
    """Rows of `FEATURES` and the corpus's own string columns; the audio stays on disk."""
    own = [name for name in trials if name not in FEATURES and name != "key"]
    features = Features({**FEATURES, **{name: Value("string") for name in own}})
    paths = pa.array(paths, pa.string())
    columns = {name: pa.array(trials[name], pa.string()) for name in trials}
    columns["audio"] = pa.StructArray.from_arrays(
        [pa.nulls(len(paths), pa.binary()), paths], names=["bytes", "path"]
    )
    columns["label"] = pa.array((trials["key"] == "spoof").astype("int64"))
    table = pa.table({name: columns[name] for name in features}, schema=features.arrow_schema)
    return Dataset(table, info=DatasetInfo(features=features))


def list_trials(rows: Dataset) -> pd.DataFrame:
    """The trials of rows, as a protocol lists them; audio is not touched."""
    trials = rows.remove_columns("audio").with_format(None).to_pandas()
    trials["label"] = trials["label"].map(dict(enumerate(rows.features["label"].names)))
    return trials.rename(columns={"label": "key"})


def count_classes(trials: pd.DataFrame) -> dict[str, int]:
    """Number of trials by key, "bonafide" first."""
    return {key: int((trials["key"] == key).sum()) for key in KEYS}
