"""Data sets of the Speech anti-spoofing benchmark (organisation SpeechAntiSpoofingBenchmarks of the Hub): one
split, test, of parquet, in which a column of JSON, `notes`, says what is known of a recording."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path, PurePath

import pandas as pd
import pyarrow as pa
from datasets import Dataset

from .columns import GUESSES
from .layouts import LAYOUTS, Layout
from .trials import Corpus


COLUMNS = {"path", "audio", "label", "notes"}
# By the last part of its id, the corpus whose official eval trials a data set holds. Those of ASVspoof 2021
# mix the trials of all subsets, and keep their own name.
OFFICIAL = {"ASVspoof2019_LA": "asvspoof2019-la", "ASVspoof5": "asvspoof5", "InTheWild": "in-the-wild"}


def spread_notes(rows: Dataset, source: str) -> Dataset:
    """Rows in the benchmark's format with a column of text for each field of `notes`; others as they are."""
    if {*rows.column_names} != COLUMNS:
        return rows
    try:
        notes = [json.loads(text) for text in rows.with_format(None)["notes"][:]]
        notes = pd.DataFrame.from_records(notes)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{source}: the column notes does not hold JSON objects: {error}") from error
    for name in notes.columns.difference([*COLUMNS, *GUESSES["label"]]):
        values = notes[name].where(notes[name].notna(), "").map(str)
        rows = rows.add_column(name, pa.array(values, pa.string()))
    return rows


def find_official(name: str, splits: Mapping[str, Dataset]) -> Layout | None:
    """The layout of the corpus whose eval trials a data set of this id or folder holds, if it is one."""
    is_ours = [*splits] == ["test"] and {*splits["test"].column_names} == COLUMNS
    return LAYOUTS.get(OFFICIAL.get(PurePath(name).name)) if is_ours else None


def name_official(corpus: Corpus, layout: Layout) -> Corpus:
    """The corpus under its official name, with the ASV scores that lie in its folder, if it is a folder."""
    patterns = [pattern.format(split="eval") for pattern in layout.asv_scores]
    files = [next(Path(corpus.name).rglob(pattern), None) for pattern in patterns]
    scores = {"eval": tuple(files)} if files and all(files) else {}
    breakdowns = tuple(name for name in layout.breakdowns if name in corpus.splits["eval"].column_names)
    return dataclasses.replace(corpus, name=layout.name.title, breakdowns=breakdowns, asv_score_files=scores)
