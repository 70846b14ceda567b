"""The row that every corpus gives: utterance_id, speaker_id, audio, attack, label, and what each corpus must
hold to."""

import os
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
from datasets import Audio, ClassLabel, Dataset, DatasetInfo, Features, Value
from transformers.utils import logging


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
BONAFIDE_ATTACKS = ("-", "bonafide")  # what protocols write where a bona fide trial has no attack
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
        name: the name under which results are reported.
        splits: rows (see `FEATURES`) by split name: "train", "dev" and "eval" where the corpus has them.
        missing: per split, how many listed utterances were left out because their audio is absent.
        note: a sentence that goes with all results, or "".
        breakdowns: names of the corpus's own string columns by whose values results are broken down.
        asv_score_files: per split, the ASV score files found in the corpus folder, as
            [`~processing.asv_scores.read_asv_scores`] takes them.
    """

    name: str
    splits: dict[str, Dataset]
    missing: dict[str, int] = field(default_factory=dict)
    note: str = ""
    breakdowns: tuple[str, ...] = ()
    asv_score_files: dict[str, tuple[Path, ...]] = field(default_factory=dict)


@dataclass
class ProtocolColumns:
    """The columns of one protocol while its lines are read; `extra` holds a corpus's own string columns."""

    utterance_id: list[str] = field(default_factory=list)
    speaker_id: list[str] = field(default_factory=list)
    attack: list[str] = field(default_factory=list)
    key: list[str] = field(default_factory=list)
    extra: dict[str, list[str]] = field(default_factory=dict)

    def select(self, indices: Sequence[int]) -> "ProtocolColumns":
        """The trials at these places."""
        columns = (self.utterance_id, self.speaker_id, self.attack, self.key)
        return ProtocolColumns(
            *([column[i] for i in indices] for column in columns),
            extra={name: [column[i] for i in indices] for name, column in self.extra.items()},
        )


def read_columns(
    path: Path, names: Sequence[str], *, values: Mapping[str, Collection[str]] | None = None
) -> ProtocolColumns:
    """
    Read a protocol whose lines hold fields between white space and no header. The attack of bona fide lines,
    "-" or "bonafide" in the file, becomes "-".

    Args:
        path: the protocol.
        names: what the fields of a line are, in order: "speaker_id", "utterance_id", "attack", "key", a name
            in `extra`, or "-" for one that is not kept.
        values: the values allowed in a column, by its name.

    Raises:
        ValueError: a line that does not parse, an utterance listed twice, no trial at all.
    """
    attack, key, utterance = (names.index(name) for name in ("attack", "key", "utterance_id"))
    allowed = [(names.index(name), of_column) for name, of_column in {"key": KEYS, **(values or {})}.items()]
    kept = [i for i, name in enumerate(names) if name != "-"]
    columns: list[list[str]] = [[] for _ in names]
    with open(path, encoding="utf-8-sig", errors="backslashreplace") as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.split()
            if not fields:
                continue
            if (
                len(fields) != len(names)
                or any(fields[i] not in of_column for i, of_column in allowed)
                or (fields[attack] in BONAFIDE_ATTACKS) != (fields[key] == "bonafide")
            ):
                others = "".join(
                    f", the {name} one of {', '.join(of)}" for name, of in (values or {}).items()
                )
                raise ValueError(
                    f"{path}, line {number}: {line.strip()!r} is not `{' '.join(names)}` with the key "
                    f"bonafide (attack - or bonafide) or spoof (attack named){others}."
                )
            for i in kept:
                # One string for all equal ones: ASVspoof 2021 DF has 611,829 lines of 13 fields.
                columns[i].append(fields[i] if i == utterance else sys.intern(fields[i]))
    by_name = {names[i]: columns[i] for i in kept}
    of_row = (by_name.pop(name) for name in ("utterance_id", "speaker_id", "attack", "key"))
    read = ProtocolColumns(*of_row, extra=by_name)
    read.attack = ["-" if of == "bonafide" else name for name, of in zip(read.attack, read.key, strict=True)]
    check_columns(read, str(path))
    return read


def as_word(text: str) -> str:
    """A name as a score file needs it, without white space: a space becomes %20, no text becomes "-"."""
    return "".join(quote(c) if c.isspace() or c == "%" else c for c in text) or "-"


def check_columns(columns: ProtocolColumns, source: str) -> None:
    """
    Raises:
        ValueError: no trial, or an utterance listed twice; the message names `source`.
    """
    ids = columns.utterance_id
    if not ids:
        raise ValueError(f"{source} lists no trial.")
    if len(set(ids)) < len(ids):
        name, times = Counter(ids).most_common(1)[0]
        raise ValueError(
            f"{source}: utterance {name} is listed {times} times ({len(ids) - len(set(ids))} lines too many "
            "in all). Every trial must be listed once."
        )


def keep_present(
    columns: ProtocolColumns, file_names: list[str], folder: Path, *, source: str, allow_missing: bool
) -> tuple[ProtocolColumns, list[str], int]:
    """
    Check that every listed utterance has its file in `folder`; files that are not listed do not matter.

    Returns:
        The columns and paths of the utterances that are there, and the number of those that are missing.

    Raises:
        FileNotFoundError: files are missing and `allow_missing` is not set.
    """
    present = {entry.name for entry in os.scandir(folder) if entry.is_file()} if folder.is_dir() else set()
    kept = [i for i, name in enumerate(file_names) if name in present]
    num_missing = len(file_names) - len(kept)
    paths = [f"{folder}{os.sep}{file_names[i]}" for i in kept]
    if not num_missing:
        return columns, paths, 0
    first = next(name for name in file_names if name not in present)
    message = (
        f"{num_missing:,} of the {len(file_names):,} utterances listed in {source} have no audio file in "
        f"{folder}; the first is {first}."
    )
    if not allow_missing:
        raise FileNotFoundError(f"{message} Complete the corpus, or leave them out with --allow_missing.")
    logger.warning("%s They are left out, and the count goes into the results.", message)
    return columns.select(kept), paths, num_missing


def load_splits(
    files: Mapping[str, tuple[Path, Path]], names: Sequence[str], *, allow_missing: bool
) -> tuple[dict[str, Dataset], dict[str, int]]:
    """
    Rows of a corpus with a protocol and a folder of `<utterance_id>.flac` for each split.

    Args:
        files: protocol and audio folder by split.
        names: what the fields of a protocol line are; see [`read_columns`].
        allow_missing: leave listed utterances without audio out, and count them, instead of raising.

    Returns:
        Rows by split, without the splits that have no audio at all, and the number of missing files by split.

    Raises:
        FileNotFoundError: listed files that are missing.
        ValueError: a protocol that does not parse.
    """
    splits, missing = {}, {}
    for split, (protocol, folder) in files.items():
        columns = read_columns(protocol, names)
        file_names = [f"{utterance}.flac" for utterance in columns.utterance_id]
        columns, paths, missing[split] = keep_present(
            columns, file_names, folder.resolve(), source=str(protocol), allow_missing=allow_missing
        )
        if paths:
            splits[split] = make_rows(columns, paths)
    return splits, missing


def make_rows(columns: ProtocolColumns, paths: list[str]) -> Dataset:
    """Rows of `FEATURES` and the corpus's own string columns; the audio stays on disk."""
    features = Features({**FEATURES, **{name: Value("string") for name in columns.extra}})
    audio = pa.StructArray.from_arrays(
        [pa.nulls(len(paths), pa.binary()), pa.array(paths, pa.string())], names=["bytes", "path"]
    )
    table = pa.table(
        {
            "utterance_id": columns.utterance_id,
            "speaker_id": columns.speaker_id,
            "audio": audio,
            "attack": columns.attack,
            "label": pa.array([KEYS.index(key) for key in columns.key], pa.int64()),
            **columns.extra,
        },
        schema=features.arrow_schema,
    )
    return Dataset(table, info=DatasetInfo(features=features))


def columns_of(rows: Dataset) -> ProtocolColumns:
    """The columns of rows, as a protocol has them; audio is not touched."""
    names = rows.features["label"].names
    columns = rows.select_columns([name for name in rows.column_names if name != "audio"])[:]
    own = [name for name in columns if name not in FEATURES]
    return ProtocolColumns(
        columns["utterance_id"],
        columns["speaker_id"],
        columns["attack"],
        [names[label] for label in columns["label"]],
        extra={name: columns[name] for name in own},
    )


def check_one_class(rows: Dataset, source: str) -> None:
    """
    Raises:
        ValueError: `rows` hold no trial of one of the classes.
    """
    counts = class_counts(rows)
    if not all(counts.values()):
        found = ", ".join(f"{count:,} {key}" for key, count in counts.items())
        raise ValueError(f"{source}: bona fide and spoofed trials are needed, but there are {found}.")


def class_counts(rows: Dataset) -> dict[str, int]:
    """Number of trials by key, "bonafide" first."""
    names = rows.features["label"].names
    counts = Counter(rows.with_format("numpy", columns=["label"])["label"][:].tolist())
    return {name: counts[index] for index, name in enumerate(names)}
