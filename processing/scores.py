"""
Logits to scores, and score files as tables: a countermeasure's, ours in the format of the official ASVspoof
tools and anybody's, and those of the organisers' automatic speaker verification (ASV) system for the t-DCF.
"""

import itertools
import math
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from .files import write_text
from .text_tables import read_fields, read_table, refuse_lines
from .trials import KEY_OF_LABEL, SUBSET_OF_NAME, check_trials


ASV_KEYS = ("target", "nontarget", "spoof")
SCORE_LINES = "`utterance score`, `utterance key score` or `utterance attack key score`, between white space"


def compute_scores(logits: np.ndarray, label2id: dict[str, int]) -> np.ndarray:
    """Logits (num_trials, 2) to scores (num_trials,), higher = more bona fide: bona fide minus spoof."""
    return logits[:, int(label2id["bonafide"])] - logits[:, int(label2id["spoof"])]


def write_scores(path: Path, trials: pd.DataFrame, scores: Sequence[float]) -> None:
    """
    Write a score file, `utterance_id attack key score` on each line; 9 significant digits, which a float32
    survives. The file appears whole or not at all.
    """
    columns = zip(trials["utterance_id"], trials["attack"], trials["key"], scores, strict=True)
    write_text(path, "".join(f"{u} {attack} {key} {score:.9g}\n" for u, attack, key, score in columns))


def read_scores(path: Path) -> pd.DataFrame:
    """
    Read a score file of two, three or four columns between white space: the utterance first, then in any
    order the score and, where there are, a key (bonafide, bona-fide, genuine, real; spoof, fake) and an
    attack. A first line that names the columns, among them a score, is skipped.

    Returns:
        utterance_id, score (float64) and, where the file has them, key ("bonafide" or "spoof") and attack.

    Raises:
        ValueError: a line that does not parse, columns that cannot be told apart, a score that is not a
            finite number, an utterance listed twice, no score at all.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no score file {path}.")
    table = read_fields(path, 4, SCORE_LINES)
    header = [] if table.empty else [*table.iloc[0]]
    if any("score" in name.casefold() for name in header) and not any(map(_is_number, header)):
        table = table[1:]
    if table.empty:
        raise ValueError(f"{path} holds no score.")
    first = [field for field in table.iloc[0] if field]
    width = len(first)
    refuse_lines(path, (table != "").sum(axis=1).ne(width) | (width not in (2, 3, 4)), SCORE_LINES)
    keys = [i for i in range(1, width) if all(v.casefold() in KEY_OF_LABEL for v in table[i].unique())]
    numbers = [i for i in range(1, width) if i not in keys and _is_number(first[i])]
    if len(numbers) != 1 or len(keys) != (width > 2):
        raise ValueError(
            f"{path} is not {SCORE_LINES}: its first line is {' '.join(first)!r}. Exactly one column must "
            "hold numbers, and in a file of more than two columns one must hold keys, bonafide or spoof (a "
            "label written as a number cannot be told from a score)."
        )
    scores = pd.DataFrame({"utterance_id": table[0], "score": _read_numbers(path, table[numbers[0]])})
    for i in range(1, width):
        if i in keys:
            scores["key"] = table[i].str.casefold().map(KEY_OF_LABEL)
        elif i not in numbers:
            scores["attack"] = table[i]
    check_trials(scores, str(path))
    return scores


def match_scores(
    scores: pd.DataFrame,
    trials: pd.DataFrame,
    *,
    file: Path | str,
    source: str,
    elsewhere: Collection[str] = (),
) -> np.ndarray:
    """
    What [`read_scores`] read, in the order of a protocol's trials (num_trials,); scores of `elsewhere`, the
    utterances of its other splits, are left out. Errors call the score file `file` and the protocol `source`.

    Raises:
        ValueError: trials without a score, scores of utterances that are not listed, or another key than the
            protocol's.
    """
    matched = trials.merge(scores, how="left", on="utterance_id", suffixes=("", "_of_file"))
    missing = matched.loc[matched["score"].isna(), "utterance_id"]
    if len(missing):
        first = missing.iloc[0]
        with_ending = any(Path(utterance).stem == first for utterance in scores["utterance_id"])
        raise ValueError(
            f"{file} has no score for {len(missing):,} of the {len(trials):,} trials of {source}; the first "
            f"is {first}.{' Write utterances without the ending of their files.' if with_ending else ''}"
        )
    # With as many scores as trials, all are of these trials.
    names = scores["utterance_id"] if len(scores) > len(trials) else ()
    if unknown := set(names).difference(trials["utterance_id"], elsewhere):
        raise ValueError(
            f"{file} has scores of utterances that are not in {source}: {len(unknown):,} in all, one of them "
            f"{min(unknown)}."
        )
    if "key" in scores and (other := matched[matched["key"] != matched["key_of_file"]]).size:
        first = other.iloc[0]
        raise ValueError(
            f"{file} calls {first['utterance_id']} {first['key_of_file']}, but {source} calls it "
            f"{first['key']}. One of them is of another corpus, or its labels are the wrong way round."
        )
    return matched["score"].to_numpy()


def list_scored_trials(scores: pd.DataFrame, *, file: Path | str) -> pd.DataFrame:
    """The trials of a score file, called `file` in errors, that says itself which class they are of."""
    if "key" not in scores:
        raise ValueError(
            f"{file} does not say which trials are bona fide. Name the protocol with --protocol."
        )
    trials = scores[["utterance_id"]].assign(
        speaker_id="-", attack=scores.get("attack", "unknown"), key=scores["key"]
    )
    trials["attack"] = trials["attack"].mask(trials["key"] == "bonafide", "-")
    return trials


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
        trials = read_table(file, ("attack", "key", "score"), values={"key": ASV_KEYS})
    elif split not in SUBSET_OF_NAME:
        raise ValueError(
            f"{metadata} is of the subsets {', '.join(SUBSET_OF_NAME)}, but the split is {split!r}."
        )
    else:
        source = f"{metadata}, subset {split},"
        trials = _read_side_by_side(file, metadata)
        trials = trials[trials["subset"].map(SUBSET_OF_NAME) == SUBSET_OF_NAME[split]]
    if trials.empty:
        raise ValueError(f"{source} lists no ASV trial.")
    if without := [key for key in ASV_KEYS if key not in set(trials["key"])]:
        raise ValueError(
            f"{source} lists no {' and no '.join(without)} trial: the ASV error rates need all three."
        )
    return trials[["attack", "key"]].assign(score=_read_numbers(file, trials["score"]))


def _read_side_by_side(file: Path, metadata: Path) -> pd.DataFrame:
    """The trials of `trial_metadata.txt` with their scores, by the line numbers of `score.txt`."""
    names = ("speaker", "utterance", "codec", "transmission", "attack", "key", "trim", "subset")
    trials = read_table(metadata, names, values={"key": ASV_KEYS, "subset": SUBSET_OF_NAME})
    scores = read_table(file, ("speaker", "utterance", "score"), values={})
    pairs = itertools.zip_longest(
        scores["utterance"].items(), trials["utterance"].items(), fillvalue=("after the last", "no trial")
    )
    for (line, utterance), (other_line, other) in pairs:
        if utterance != other:
            raise ValueError(
                f"{file}, line {line}, is of {utterance}, but {metadata}, line {other_line}, of {other}. "
                "They are read line by line, and must list the same trials in the same order."
            )
    return trials.set_index(scores.index).assign(score=scores["score"])


def _read_numbers(path: Path, column: pd.Series) -> pd.Series:
    """Scores as float64, to the last bit what Python makes of their text."""
    scores = column.map(lambda text: float(text) if _is_number(text) else math.nan).astype(float)
    if not np.isfinite(scores).all():
        number = (~np.isfinite(scores)).idxmax()
        raise ValueError(f"{path}, line {number}: the score {column[number]!r} is not a finite number.")
    return scores


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # Python's own way to write 1000 as 1_000
