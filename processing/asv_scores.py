"""Scores of the organisers' automatic speaker verification (ASV) system, which t-DCF needs: the files of
ASVspoof 2019 LA and of ASVspoof 2021 LA."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from .asvspoof2021 import SUBSET_OF_NAME
from .trials import BONAFIDE_ATTACKS


KEYS = ("target", "nontarget", "spoof")
SIDE_BY_SIDE = (
    "they are read line by line beside each other, and must list the same trials in the same order."
)


@dataclass(frozen=True)
class AsvScores:
    """
    ASV scores by the kind of trial, higher = more like the claimed speaker.

    Attributes:
        target, nontarget, spoof: float64, (num_trials,) each, in the order of the file.
        attacks: the attacks of the spoof trials.
    """

    target: np.ndarray
    nontarget: np.ndarray
    spoof: np.ndarray
    attacks: frozenset[str]


def read_asv_scores(files: Sequence[Path], *, split: str | None = None) -> AsvScores:
    """
    Read the ASV scores of one split.

    Args:
        files: one file, of ASVspoof 2019, with `source key score` on each line, all of which count; or two,
            of ASVspoof 2021 LA: `score.txt`, with `speaker utterance score`, and line by line beside it
            `trial_metadata.txt`, with `speaker utterance codec transmission source key trim subset`. The
            source is `bonafide` or the attack.
        split: the subset whose trials count, as in the organisers' evaluation script; for two files only.

    Raises:
        ValueError: a line that does not parse, a score that is not finite, two files that do not match, no
            trial of the subset or of one of the keys, neither one file nor two.
    """
    if len(files) == 1:
        trials, source = _read_2019(*files), str(files[0])
    elif len(files) == 2 and split in SUBSET_OF_NAME:
        trials, source = _read_2021(*files, SUBSET_OF_NAME[split]), f"{files[1]}, subset {split},"
    elif len(files) == 2:
        raise ValueError(
            f"{files[1]} is of the subsets {', '.join(SUBSET_OF_NAME)}, but the split is {split!r}. Name "
            "one of them."
        )
    else:
        raise ValueError(
            "ASV scores are one file (ASVspoof 2019) or two (score.txt and trial_metadata.txt of ASVspoof "
            f"2021 LA), not {len(files)}: {', '.join(map(str, files)) or 'none'}."
        )
    scores: dict[str, list[float]] = {key: [] for key in KEYS}
    attacks = set()
    for attack, key, score in trials:
        scores[key].append(score)
        if key == "spoof":
            attacks.add(attack)
    without = [key for key, of_key in scores.items() if not of_key]
    if len(without) == len(KEYS):
        raise ValueError(f"{source} lists no ASV trial.")
    if without:
        raise ValueError(
            f"{source} lists no {' and no '.join(without)} trial: the ASV error rates need all three."
        )
    return AsvScores(*(np.array(scores[key]) for key in KEYS), frozenset(attacks))


def _read_2019(path: Path) -> Iterator[tuple[str, str, float]]:
    """Attack, key and score of each line."""
    for number, fields in _lines(path):
        if len(fields) != 3 or not _are_attack_and_key(*fields[:2]):
            raise _line_error(path, number, fields, "`source key score`")
        yield fields[0], fields[1], _score(path, number, fields)


def _read_2021(path: Path, metadata: Path, subset: str) -> Iterator[tuple[str, str, float]]:
    """Attack, key and score of each line of the subset."""
    for scored, described in zip_longest(_lines(path), _lines(metadata)):
        if scored is None or described is None:
            shorter, longer = (path, metadata) if scored is None else (metadata, path)
            number, _ = described or scored
            raise ValueError(f"{shorter} ends before line {number} of {longer}: {SIDE_BY_SIDE}")
        (number, fields), (metadata_number, about) = scored, described
        if len(about) != 8 or about[7] not in SUBSET_OF_NAME or not _are_attack_and_key(about[4], about[5]):
            raise _line_error(
                metadata,
                metadata_number,
                about,
                f"`speaker utterance codec transmission source key trim subset`, the subset one of "
                f"{', '.join(SUBSET_OF_NAME)}",
            )
        if len(fields) != 3:
            raise _line_error(path, number, fields, "`speaker utterance score`")
        if fields[1] != about[1]:
            raise ValueError(
                f"{path}, line {number}, is of {fields[1]}, but {metadata}, line {metadata_number}, of "
                f"{about[1]}: {SIDE_BY_SIDE}"
            )
        if SUBSET_OF_NAME[about[7]] == subset:
            yield about[4], about[5], _score(path, number, fields)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and fields of each line that is not empty."""
    with open(path, encoding="utf-8-sig", errors="backslashreplace") as lines:
        for number, line in enumerate(lines, start=1):
            if fields := line.split():
                yield number, fields


def _are_attack_and_key(attack: str, key: str) -> bool:
    return key in KEYS and (attack in BONAFIDE_ATTACKS) == (key != "spoof")


def _score(path: Path, number: int, fields: list[str]) -> float:
    try:
        score = float(fields[2])
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(
            f"{path}, line {number}: the score {fields[2]!r} of {' '.join(fields)!r} is not a finite number."
        )
    return score


def _line_error(path: Path, number: int, fields: list[str], expected: str) -> ValueError:
    return ValueError(
        f"{path}, line {number}: {' '.join(fields)!r} is not {expected}, with the key target or nontarget "
        "(source bonafide) or spoof (source the attack)."
    )
