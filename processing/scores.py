"""Logits to scores, and score files: ours, in the format of the official ASVspoof tools, and anybody's."""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .files import write_text
from .trials import KEY_OF_LABEL, ProtocolColumns


def compute_scores(logits: np.ndarray, label2id: dict[str, int]) -> np.ndarray:
    """
    Countermeasure scores, higher = more bona fide: the logit of bona fide minus the logit of spoof.

    Args:
        logits: (num_trials, 2).
        label2id: the model's class index by name.

    Returns:
        (num_trials,), in the dtype of `logits`.
    """
    return logits[:, int(label2id["bonafide"])] - logits[:, int(label2id["spoof"])]


def write_scores(path: Path, trials: ProtocolColumns, scores: Sequence[float]) -> None:
    """
    Write a score file, `utterance_id attack key score` on each line; 9 significant digits, which a float32
    survives. The file appears whole or not at all.

    Raises:
        ValueError: not one score per trial.
    """
    columns = zip(trials.utterance_id, trials.attack, trials.key, scores, strict=True)
    write_text(path, "".join(f"{u} {attack} {key} {score:.9g}\n" for u, attack, key, score in columns))


@dataclass(frozen=True)
class ScoreFile:
    """
    What a score file says, in its order.

    Attributes:
        path: the file.
        utterance_id: (num_trials,).
        score: (num_trials,), float64.
        key: "bonafide" or "spoof" of each trial; `None` where the file has no such column.
        attack: of each trial; `None` where the file has no such column.
    """

    path: Path
    utterance_id: list[str]
    score: np.ndarray
    key: list[str] | None = None
    attack: list[str] | None = None


def read_scores(path: Path) -> ScoreFile:
    """
    Read a score file of two, three or four columns between white space: the utterance first, then in any
    order the score and, where there are, a key (bonafide, bona-fide, genuine, real; spoof, fake) and an
    attack. A first line that names the columns, among them a score, is passed over.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an empty file, a line that does not parse, columns that can't be told apart, a score that
            is not a finite number, an utterance listed twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no score file {path}.")
    with open(path, encoding="utf-8-sig", errors="backslashreplace") as stream:
        lines = [(number, line.split()) for number, line in enumerate(stream, start=1) if not line.isspace()]
    if (
        lines
        and any("score" in field.casefold() for field in lines[0][1])
        and not any(_is_number(field) for field in lines[0][1])
    ):
        del lines[0]
    if not lines:
        raise ValueError(f"{path} holds no score.")
    width = len(lines[0][1])
    expected = "`utterance score`, `utterance key score` or `utterance attack key score`, between white space"
    for number, fields in lines:
        if len(fields) != width or not 2 <= width <= 4:
            raise ValueError(f"{path}, line {number}: {' '.join(fields)!r} is not {expected}.")
    columns = list(zip(*(fields for _, fields in lines), strict=True))
    keys = [i for i in range(1, width) if all(value.casefold() in KEY_OF_LABEL for value in set(columns[i]))]
    numbers = [i for i in range(1, width) if i not in keys and _is_number(columns[i][0])]
    if len(numbers) != 1 or len(keys) != (width > 2):
        raise ValueError(
            f"{path} is not {expected}: its first line is {' '.join(lines[0][1])!r}. Exactly one column must "
            "hold numbers, and in a file of more than two columns one must hold keys, bonafide or spoof (a "
            "label written as a number can't be told from a score)."
        )
    scores = []
    for number, fields in lines:
        value = fields[numbers[0]]
        scores.append(float(value) if _is_number(value) else math.nan)
        if not math.isfinite(scores[-1]):
            raise ValueError(f"{path}, line {number}: the score {value!r} is not a finite number.")
    ids = list(columns[0])
    if len(set(ids)) < len(ids):
        name, times = Counter(ids).most_common(1)[0]
        raise ValueError(f"{path}: utterance {name} is listed {times} times. Every trial has one score.")
    attacks = [i for i in range(1, width) if i not in (*keys, *numbers)]
    return ScoreFile(
        path,
        ids,
        np.array(scores),
        key=[KEY_OF_LABEL[value.casefold()] for value in columns[keys[0]]] if keys else None,
        attack=list(columns[attacks[0]]) if attacks else None,
    )


def scores_of_trials(
    file: ScoreFile, trials: ProtocolColumns, *, source: str, elsewhere: Collection[str] = ()
) -> np.ndarray:
    """
    The scores of a protocol's trials, in its order.

    Args:
        file: the score file.
        trials: of the protocol.
        source: what errors call the protocol.
        elsewhere: utterances of other splits of the protocol, whose scores are left out.

    Raises:
        ValueError: trials without a score, scores of utterances that are not listed, or another key than the
            protocol's; the message names the first.
    """
    position = {utterance: i for i, utterance in enumerate(file.utterance_id)}
    missing = [utterance for utterance in trials.utterance_id if utterance not in position]
    if missing:
        with_ending = any(Path(utterance).stem == missing[0] for utterance in position)
        hint = " Write utterances without the ending of their files." if with_ending else ""
        raise ValueError(
            f"{file.path} has no score for {len(missing):,} of the {len(trials.utterance_id):,} trials of "
            f"{source}; the first is {missing[0]}.{hint}"
        )
    unknown = set(file.utterance_id).difference(trials.utterance_id, elsewhere)
    if unknown:
        raise ValueError(
            f"{file.path} has scores of {len(unknown):,} utterances that are not in {source}; one is "
            f"{min(unknown)}."
        )
    chosen = [position[utterance] for utterance in trials.utterance_id]
    if file.key is not None:
        for utterance, at, key in zip(trials.utterance_id, chosen, trials.key, strict=True):
            if file.key[at] != key:
                raise ValueError(
                    f"{file.path} calls {utterance} {file.key[at]}, but {source} calls it {key}. One of them "
                    "is of another corpus, or its labels are the wrong way round."
                )
    return file.score[chosen]


def trials_of_scores(file: ScoreFile) -> ProtocolColumns:
    """
    The trials of a score file that says itself which class they are of.

    Raises:
        ValueError: it has no column of keys.
    """
    if file.key is None:
        raise ValueError(
            f"{file.path} does not say which trials are bona fide. Name the protocol with --protocol."
        )
    attacks = file.attack or ["unknown"] * len(file.key)
    attacks = ["-" if key == "bonafide" else attack for attack, key in zip(attacks, file.key, strict=True)]
    return ProtocolColumns(file.utterance_id, ["-"] * len(file.utterance_id), attacks, file.key)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # Python's own way to write 1000 as 1_000
