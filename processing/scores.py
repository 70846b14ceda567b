"""
Logits to scores, and score files as tables: a countermeasure's, ours in the format of the official ASVspoof
tools and anybody's, and those of the organisers' automatic speaker verification (ASV) system for the t-DCF.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from .columns import is_number, read_columns
from .files import hash_file, hash_files, write_whole
from .folder_tree import AUDIO_EXTENSIONS
from .layouts import LAYOUTS
from .score_folders import read_score_folder
from .text_tables import quote_text, read_table, refuse_lines
from .trials import KEY_OF_LABEL, KEYS, SUBSET_OF_NAME, Corpus, check_trials, complete_trials


ASV_KEYS = ("target", "nontarget", "spoof")
ASV_VALUES = {"key": {key: key for key in ASV_KEYS}, "subset": SUBSET_OF_NAME}  # see [`read_table`]
PROTOCOLS = [layout for layout in LAYOUTS.values() if not layout.header]


def compute_scores(logits: np.ndarray, label2id: dict[str, int]) -> np.ndarray:
    """Logits (num_trials, 2) to scores (num_trials,), higher = more bona fide: bona fide minus spoof."""
    return logits[:, int(label2id["bonafide"])] - logits[:, int(label2id["spoof"])]


def write_scores(path: Path, trials: pd.DataFrame, scores: Sequence[float]) -> None:
    """
    Write a score file, `utterance_id attack key score` on each line; 9 significant digits, which a float32
    survives. The file appears whole or not at all.
    """
    columns = zip(trials["utterance_id"], trials["attack"], trials["key"], scores, strict=True)
    with write_whole(path) as partial, partial.open("w", encoding="utf-8") as stream:
        stream.writelines(f"{u} {attack} {key} {score:.9g}\n" for u, attack, key, score in columns)


def read_scores(
    path: Path,
    columns: Sequence[str] | None = None,
    keys: Mapping[str, str] = KEY_OF_LABEL,
    *,
    allow_unreadable: bool = False,
) -> pd.DataFrame:
    """
    Read anybody's score file: see [`~processing.columns.read_columns`] for the arguments and errors. Without
    named columns a line is `utterance score`, `utterance key score` or `utterance attack key score` with the
    columns after the first in any order, `speaker utterance score key`, or a whole line of an ASVspoof
    protocol and the score. A score of each class becomes that of bona fide minus that of spoof. Or a
    folder of [`~processing.score_folders`].

    Returns:
        utterance_id, score (float64) and the other columns that the file has. Of a folder the score is NaN
        where a recording could not be read, if `allow_unreadable` says that this may be.

    Raises:
        ValueError: a score that is not a finite number, or an utterance listed twice.
    """
    if path.is_dir():
        scores = read_score_folder(path, allow_unreadable=allow_unreadable)
        check_trials(scores, str(path))
        return scores
    if not path.is_file():
        raise FileNotFoundError(f"There is no score file {path}.")
    layouts = [layout.columns for layout in PROTOCOLS]
    scores = read_columns(path, "score", names=columns, keys=keys, layouts=layouts)
    of_class = [name for name in KEYS if name in scores]
    for name in of_class or ["score"]:
        scores[name] = read_numbers(path, scores[name])
    if of_class:
        scores["score"] = scores["bonafide"] - scores["spoof"]
    if "subset" in scores:
        refuse_lines(
            path, ~scores["subset"].isin(SUBSET_OF_NAME), f"of the subset {' or '.join(SUBSET_OF_NAME)}"
        )
        scores["subset"] = scores["subset"].map(SUBSET_OF_NAME)
    check_trials(scores, str(path))
    return scores


def hash_scores(path: Path) -> str:
    """SHA-256 of a score file; of a folder, that of the JSON of those of its shards by name."""
    if path.is_file():
        return hash_file(path)
    return hashlib.sha256(json.dumps(hash_files(path.glob("[0-9]*.parquet"))).encode()).hexdigest()


def match_scores(
    scores: pd.DataFrame,
    trials: pd.DataFrame,
    *,
    file: Path | str,
    source: str,
    elsewhere: pd.Series | None = None,
) -> np.ndarray:
    """
    What [`read_scores`] read, in the order of a protocol's trials (num_trials,); scores of `elsewhere`, the
    utterances of its other splits, are left out. Where the utterances are not the same, they are compared
    without folders and endings of audio files. Errors call the score file `file` and the protocol `source`.

    Raises:
        ValueError: trials without a score, scores of utterances that are not listed, or another key than the
            protocol's.
    """
    ids, listed = scores["utterance_id"], trials["utterance_id"]
    known = listed if elsewhere is None else elsewhere
    places = _find_places(ids, listed)
    if (places < 0).any():
        bare = [_strip_path(names) for names in (ids, listed, known)]
        if bare[0].is_unique and bare[1].is_unique:
            ids, listed, known = bare
            places = _find_places(ids, listed)
    if (places < 0).any():
        missing = trials.loc[places < 0, "utterance_id"]
        raise ValueError(
            f"{file} has no score for {len(missing):,} of the {len(trials):,} trials of {source}; the first "
            f"is {missing.iloc[0]}. The first of {file} is {scores['utterance_id'].iloc[0]}."
        )
    # With as many scores as trials, all are of these trials.
    if len(scores) > len(trials) and len(unknown := ids[~(ids.isin(listed) | ids.isin(known))]):
        raise ValueError(
            f"{file} has scores of utterances that are not in {source}: {len(unknown):,} in all, one of them "
            f"{unknown.min()}."
        )
    matched = scores.iloc[places]
    if "key" in scores and (differs := matched["key"].to_numpy() != trials["key"].to_numpy()).any():
        of_file, first = matched["key"][differs].iloc[0], trials[differs].iloc[0]
        raise ValueError(
            f"{file} calls {first['utterance_id']} {of_file}, but {source} calls it {first['key']}. One of "
            "them is of another corpus, or its labels are the wrong way round."
        )
    return matched["score"].to_numpy()


def _find_places(ids: pd.Series, listed: pd.Series) -> np.ndarray:
    """Where each of the listed is among unique ids, -1 for nowhere; in half the memory that pandas takes."""
    places = pc.index_in(pa.array(listed, pa.large_string()), pa.array(ids, pa.large_string()))
    return places.fill_null(-1).to_numpy()


def list_scored_trials(scores: pd.DataFrame, *, file: Path | str, remedy: str = "--protocol") -> pd.DataFrame:
    """The trials of a score file, called `file` in errors, that says itself which class they are of; `remedy`
    is the argument that names their protocol."""
    if "key" not in scores:
        raise ValueError(f"{file} does not say which trials are bona fide. Name the protocol with {remedy}.")
    return complete_trials(scores.drop(columns=["score", *KEYS], errors="ignore"))


def make_scored_corpus(scores: pd.DataFrame, *, file: Path, split: str | None = None) -> Corpus:
    """
    The corpus of a score file that says itself which class its trials are of. They are its split `split`, or
    "all", unless the file names their subsets, which are never mixed.
    """
    trials = list_scored_trials(scores, file=file)
    splits = {split or "all": trials}
    if "subset" in trials:
        splits = {name: of_subset.drop(columns="subset") for name, of_subset in trials.groupby("subset")}
    breakdowns = {name for layout in PROTOCOLS for name in layout.breakdowns if name in trials}
    return Corpus(file.name, splits, breakdowns=tuple(sorted(breakdowns)))


def read_asv_scores(file: Path, metadata: Path | None = None, *, split: str | None = None) -> pd.DataFrame:
    """
    Read the ASV scores of one split, higher = more like the claimed speaker.

    Args:
        file: of ASVspoof 2019, with `attack key score` on each line, all of which count; or `score.txt` of
            ASVspoof 2021 LA, with `speaker utterance score`.
        metadata: `trial_metadata.txt`, line by line beside `score.txt`, with `speaker utterance codec
            transmission attack key trim subset`.
        split: the subset whose trials count, as in the organisers' evaluation script; with metadata only.

    Returns:
        attack, key (one of `ASV_KEYS`) and score (float64), in the order of the file.
    """
    source = str(file)
    if metadata is None:
        trials = read_table(file, ("attack", "key", "score"), values=ASV_VALUES)
    elif split not in SUBSET_OF_NAME:
        raise ValueError(
            f"{metadata} is of the subsets {', '.join(SUBSET_OF_NAME)}, but the split is {split!r}."
        )
    else:
        source = f"{metadata}, subset {split},"
        trials = _read_side_by_side(file, metadata)
        trials = trials[trials["subset"] == SUBSET_OF_NAME[split]]
    if trials.empty:
        raise ValueError(f"{source} lists no ASV trial.")
    if without := [key for key in ASV_KEYS if key not in set(trials["key"])]:
        raise ValueError(
            f"{source} lists no {' and no '.join(without)} trial: the ASV error rates need all three."
        )
    return trials[["attack", "key"]].assign(score=read_numbers(file, trials["score"]))


def read_numbers(path: Path, column: pd.Series) -> pd.Series:
    """Scores as float64, to the last bit what Python makes of their text."""
    scores = column.map(lambda text: float(text) if is_number(text) else math.nan).astype(float)
    if not np.isfinite(scores).all():
        number = (~np.isfinite(scores)).idxmax()
        raise ValueError(
            f"{path}, line {number}: the score {quote_text(column[number])} is not a finite number."
        )
    return scores


def _read_side_by_side(file: Path, metadata: Path) -> pd.DataFrame:
    """The trials of `trial_metadata.txt` with their scores, by the line numbers of `score.txt`."""
    names = ("speaker", "utterance", "codec", "transmission", "attack", "key", "trim", "subset")
    trials = read_table(metadata, names, values=ASV_VALUES)
    scores = read_table(file, ("speaker", "utterance", "score"), values=ASV_VALUES)
    if [*scores["utterance"]] != [*trials["utterance"]]:
        pairs = zip(scores["utterance"].items(), trials["utterance"], strict=False)
        where = next((f"line {i}: {own} and {other}" for (i, own), other in pairs if own != other), "the end")
        raise ValueError(
            f"{file} and {metadata} are read line by line, and must list the same trials in the same order, "
            f"but differ at {where}."
        )
    return trials.set_index(scores.index).assign(score=scores["score"])


def _strip_path(utterances: pd.Series) -> pd.Series:
    """Names of files without their folders and the ending of an audio file."""
    endings = "|".join(ending.removeprefix(".") for ending in AUDIO_EXTENSIONS)
    return utterances.str.replace(rf"^.*[/\\]|\.(?:{endings})$", "", case=False, regex=True)
