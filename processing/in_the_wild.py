"""In-the-Wild (Müller et al., "Does Audio Deepfake Detection Generalize?", Interspeech 2022): for evaluation
only."""

import csv
from pathlib import Path

from .trials import Corpus, ProtocolColumns, as_word, check_columns, keep_present, make_rows


NAME = "In-the-Wild"
SOURCE = "https://deepfake-total.com/in_the_wild (release_in_the_wild.zip)"
HEADER = ["file", "speaker", "label"]
PROTOCOLS = {"eval": "meta.csv"}
BREAKDOWNS = ()
KEY_OF_LABEL = {"bona-fide": "bonafide", "spoof": "spoof"}


def find_root(data_dir: Path) -> Path | None:
    """The folder that holds `meta.csv` with the header `file,speaker,label`; `None` if there is none."""
    for folder in (data_dir, data_dir / "release_in_the_wild"):
        if (folder / "meta.csv").is_file() and has_header(folder / "meta.csv"):
            return folder
    return None


def has_header(path: Path) -> bool:
    """Whether the first line of a file is that of `meta.csv`."""
    with open(path, encoding="utf-8-sig", errors="backslashreplace", newline="") as lines:
        return next(csv.reader(lines), None) == HEADER


def read_protocol(path: Path) -> ProtocolColumns:
    """
    Read `meta.csv`. The utterance is named by its file without `.wav`. The corpus does not say which system
    made a spoofed recording: its attack is "unknown".

    Raises:
        ValueError: a line that does not parse, a file listed twice, no trial at all.
    """
    return _read(path)[0]


def load(data_dir: Path, *, allow_missing: bool = False) -> Corpus:
    """
    Load In-the-Wild as one split, "eval".

    Args:
        data_dir: the unpacked folder, with `meta.csv` and the WAV files.
        allow_missing: leave listed recordings without audio out, and count them, instead of raising.

    Raises:
        FileNotFoundError: no such layout, or listed files that are missing.
        ValueError: a line of `meta.csv` that does not parse, a file listed twice.
    """
    root = find_root(data_dir)
    if root is None:
        raise FileNotFoundError(
            f"{data_dir} is not an In-the-Wild folder: there is no meta.csv with the header "
            f"{','.join(HEADER)} in it. The corpus is to be had at {SOURCE}."
        )
    meta = root / "meta.csv"
    columns, file_names = _read(meta)
    columns, paths, num_missing = keep_present(
        columns, file_names, root.resolve(), source=str(meta), allow_missing=allow_missing
    )
    if not paths:
        raise FileNotFoundError(f"{root} holds none of the recordings that {meta.name} lists.")
    return Corpus(NAME, {"eval": make_rows(columns, paths)}, {"eval": num_missing})


def _read(meta: Path) -> tuple[ProtocolColumns, list[str]]:
    """The columns, and beside them the file names, which the utterances' names do not give back."""
    columns, file_names = ProtocolColumns(), []
    with open(meta, encoding="utf-8-sig", newline="") as lines:
        for number, row in enumerate(csv.DictReader(lines), start=2):
            key = KEY_OF_LABEL.get(row["label"])
            if key is None or not row["file"] or None in row:
                raise ValueError(
                    f"{meta}, line {number}: {row} is not `file,speaker,label` with the label bona-fide or "
                    "spoof."
                )
            file_names.append(row["file"])
            columns.utterance_id.append(as_word(Path(row["file"]).stem))
            columns.speaker_id.append(row["speaker"])
            columns.attack.append("-" if key == "bonafide" else "unknown")
            columns.key.append(key)
    check_columns(columns, str(meta))
    return columns, file_names
