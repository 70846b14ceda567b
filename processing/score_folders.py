"""What `processing.scale` writes: a folder of parquet files of scores, one for each shard of recordings."""

import json
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs


SETTINGS_NAME = "settings.json"
FAILED = "logs/failed"  # a note on each shard that could not be scored
SCHEMA = pa.schema(
    {
        "utterance_id": pa.string(),
        "score": pa.float32(),  # higher = more bona fide; null where there is an error
        "seconds": pa.float64(),  # length of the recording, as its header says
        "error": pa.string(),  # why there is no score
        "sha256": pa.string(),  # of the recording's file
    }
)
NUM_SHOWN = 10  # recordings without a score, or shards, that are listed


@contextmanager
def write_whole(fs: AbstractFileSystem, path: str) -> Iterator[BinaryIO]:
    """A stream to a hidden file of its own, which takes its name when the block ends without an error."""
    folder, name = posixpath.split(path)
    partial = posixpath.join(folder, f".{name}.{uuid4().hex}.partial")
    with fs.open(partial, "wb") as stream:
        yield stream
    fs.mv(partial, path)


def read_settings(fs: AbstractFileSystem, folder: str) -> dict | None:
    """What the scores in a folder are of; `None` where there are none yet."""
    path = posixpath.join(folder, SETTINGS_NAME)
    return json.loads(fs.read_text(path, encoding="utf-8")) if fs.isfile(path) else None


def list_finished(fs: AbstractFileSystem, folder: str) -> list[str]:
    """The files of the shards that have been scored, by whatever process."""
    fs.invalidate_cache()
    return sorted(fs.glob(posixpath.join(folder, "[0-9]*.parquet")))


def read_failures(fs: AbstractFileSystem, folder: str) -> list[str]:
    """Why shards could not be scored when that was last tried."""
    notes = sorted(fs.glob(posixpath.join(folder, FAILED, "*.txt")))
    return [fs.read_text(note, encoding="utf-8").split("\n\n")[0] for note in notes]


def cut_list(lines: Sequence[str]) -> list[str]:
    """The first of the lines, and how many more there are."""
    more = len(lines) - NUM_SHOWN
    return [*lines[:NUM_SHOWN], *([f"… and {more:,} more"] if more > 0 else [])]


def open_scores(url: str) -> tuple[pads.Dataset, list[str]]:
    """
    All shards of a finished folder as one table of `SCHEMA` that is not read yet, and lines that name those
    that have no score. ValueError: no such folder, or shards are missing.
    """
    fs, folder = url_to_fs(url)
    settings, files = read_settings(fs, folder), list_finished(fs, folder)
    if settings is None:
        raise ValueError(f"{url} holds no {SETTINGS_NAME}: it is not a folder that processing.scale wrote.")
    if len(files) != settings["num_shards"]:
        raise ValueError(
            f"{url} holds the scores of {len(files):,} of {settings['num_shards']:,} shards. The same "
            "command does the rest: python -m processing.scale …"
        )
    scores = pads.dataset(files, SCHEMA, filesystem=fs, format="parquet")
    failed = scores.to_table(["utterance_id", "error"], filter=pc.field("score").is_null())
    head = f"{len(failed):,} of {scores.count_rows():,} recordings in {url} have no score:"
    lines = cut_list([f"{row['utterance_id']}: {row['error']}" for row in failed.to_pylist()])
    return scores, [head, *lines] if lines else []


def read_score_folder(folder: Path, *, allow_unreadable: bool = False) -> pd.DataFrame:
    """
    The utterance_id and score (float64) of all recordings; NaN where one has none, if that is allowed.
    Errors: see [`open_scores`]; a ValueError for recordings without a score.
    """
    scores, failed = open_scores(str(folder))
    if failed and not allow_unreadable:
        remedy = (
            f"Replace them, delete the files of their shards in {folder}, and score these again; of "
            "--scores, --allow_unreadable leaves their trials out."
        )
        raise ValueError("\n".join([*failed, remedy]))
    table = scores.to_table(["utterance_id", "score"])
    return table.cast(pa.schema({"utterance_id": pa.string(), "score": pa.float64()})).to_pandas()
