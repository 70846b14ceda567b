"""
Trials as a table, and what every corpus must hold to: its rows.

`trials` is always a table of utterance_id, speaker_id, attack ("-" for bona fide) and key, all of them text,
and of a corpus's own columns.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Audio, ClassLabel, Dataset, Features, Value


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
        left_out: how many files of the corpus folder are not used, by the reason.
        note: a sentence that goes with all results, or "".
        breakdowns: names of the corpus's own string columns by whose values results are broken down.
        asv_score_files: per split, the ASV score files found in the corpus folder, as
            [`~processing.scores.read_asv_scores`] takes them.
        weight: how many times each of its utterances is seen in an epoch of training.
        hub: id and commit of a data set of the Hub, ID@COMMIT, or "".
        parts: the corpora of which this one is made up; see [`~processing.pooling`].
    """

    name: str
    splits: dict[str, Dataset]
    missing: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    note: str = ""
    breakdowns: tuple[str, ...] = ()
    asv_score_files: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    weight: int = 1
    hub: str = ""
    parts: tuple["Corpus", ...] = ()


def read_label_map(text: str | None) -> dict[str, str]:
    """Keys by labels: [`KEY_OF_LABEL`], and the spellings that `--label_map` adds to it or changes in it."""
    return KEY_OF_LABEL | parse_label_map(text)


def parse_label_map(text: str | None) -> dict[str, str]:
    """Keys by labels in small letters, of `deepfake=spoof,0=bonafide`; a ValueError if it is no such list."""
    pairs = [pair.rpartition("=") for pair in (text or "").split(",") if pair.strip()]
    added = {label.strip().casefold(): key.strip() for label, _, key in pairs}
    if "" in added or not set(added.values()) <= set(KEYS) or len(added) < len(pairs):
        raise ValueError(
            f"--label_map {text!r} is not a list of each label once, with bonafide or spoof: "
            "real=bonafide,deepfake=spoof."
        )
    return added


def read_keys(labels: pd.Series, keys: Mapping[str, str], source: str) -> pd.Series:
    """The key of each label, by its spelling in any case; a ValueError that begins with `source`."""
    spelt = {label: keys.get(label.strip().casefold()) for label in labels.unique()}
    if None in spelt.values():
        found = ", ".join(
            f"{label[:50]!r} ({count:,}x)" for label, count in labels.value_counts()[:10].items()
        )
        raise ValueError(
            f"{source} must be spelt {'/'.join(keys)} (in any case), but found were {found}. Say what others "
            "mean with --label_map LABEL=bonafide,OTHER=spoof, or name another column."
        )
    return labels.map(spelt)


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


def as_word(text: str) -> str:
    """A name as a score file needs it, without white space: a space becomes %20, no text becomes "-"."""
    return re.sub(r"[\s%]", lambda match: quote(match[0]), text) or "-"


def make_rows(trials: pd.DataFrame, paths: Iterable[str]) -> Dataset:
    """Rows of `FEATURES` and the corpus's own string columns; the audio stays on disk."""
    paths = pa.array(paths, pa.string())
    audio = pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), paths], names=["bytes", "path"])
    rows = Dataset(pa.table({"audio": audio})).cast_column("audio", Audio(decode=False))
    return add_trials(rows, trials)


def add_trials(rows: Dataset, trials: pd.DataFrame) -> Dataset:
    """Rows whose one column is `audio`, with the others of `FEATURES` and the corpus's own."""
    own = [name for name in trials if name not in FEATURES and name != "key"]
    features = {**FEATURES, **dict.fromkeys(own, Value("string"))}
    columns = trials.assign(label=(trials["key"] == "spoof").astype("int64"))
    for name, feature in features.items():
        if name != "audio":
            rows = rows.add_column(name, pa.array(columns[name], feature.pa_type), feature=feature)
    return rows.select_columns(list(features))


def list_trials(rows: Dataset) -> pd.DataFrame:
    """The trials of rows, as a protocol lists them; audio is not touched."""
    trials = rows.remove_columns("audio").with_format(None).to_pandas()
    trials["label"] = trials["label"].map(dict(enumerate(rows.features["label"].names)))
    return trials.rename(columns={"label": "key"})


def choose_split(corpus: Corpus, split: str | None) -> str:
    """The split that is asked for, else the only one, else "eval"; of several corpora that of each."""
    if corpus.parts and split is None:
        chosen = [choose_split(part, None) for part in corpus.parts]
        return chosen[0] if len({*chosen}) == 1 else ", ".join(chosen)
    return split or (next(iter(corpus.splits)) if len(corpus.splits) == 1 else "eval")


def split_classes(trials: pd.DataFrame, values: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Values (num_trials, …) of the bona fide and of the spoofed trials."""
    values, is_bonafide = np.asarray(values), (trials["key"] == "bonafide").to_numpy()
    return values[is_bonafide], values[~is_bonafide]


def count_classes(trials: pd.DataFrame) -> dict[str, int]:
    """Number of trials by key, "bonafide" first."""
    return {key: int((trials["key"] == key).sum()) for key in KEYS}
