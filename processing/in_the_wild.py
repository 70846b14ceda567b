"""In-the-Wild (Müller et al., "Does Audio Deepfake Detection Generalize?", Interspeech 2022): for evaluation
only."""

import csv
from pathlib import Path

from .rows import Corpus, ProtocolColumns, as_word, check_columns, keep_present, make_rows


NAME = "In-the-Wild"
SOURCE = "https://deepfake-total.com/in_the_wild (release_in_the_wild.zip)"
HEADER = ["file", "speaker", "label"]
KEY_OF_LABEL = {"bona-fide": "bonafide", "spoof": "spoof"}


def find_root(data_dir: Path) -> Path | None:
    """The folder that holds `meta.csv` with the header `file,speaker,label`; `None` if there is none."""
    for folder in (data_dir, data_dir / "release_in_the_wild"):
        path = folder / "meta.csv"
        if path.is_file():
            with open(path, encoding="utf-8-sig", newline="") as lines:
                if next(csv.reader(lines), None) == HEADER:
                    return folder
    return None


def load(data_dir: Path, *, allow_missing: bool = False) -> Corpus:
    """
    Load In-the-Wild as one split, "eval". The utterance is named by its file without `.wav`. The corpus does
    not say
    which system made a spoofed recording: its attack is "unknown".

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
    meta, columns, file_names = root / "meta.csv", ProtocolColumns(), []
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
    columns, paths, num_missing = keep_present(
        columns, file_names, root.resolve(), source=str(meta), allow_missing=allow_missing
    )
    if not paths:
        raise FileNotFoundError(f"{root} holds none of the recordings that {meta.name} lists.")
    return Corpus(NAME, {"eval": make_rows(columns, paths)}, {"eval": num_missing})
