"""Recordings that cannot be read are found before training or scoring begins, all of them at once."""

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import datasets
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from .audio import count_samples, decode_audio
from .audio_file import Remarks
from .files import write_text
from .machine import count_cores
from .resuming import hash_rows, read_on_main
from .streamed_rows import is_streamed


VERSION = 2  # to be raised with every change of what is checked
BATCH_SIZE = 64  # recordings that a worker checks at a time
FEW = 2000  # recordings that are checked, in about a second, before workers would have started
# Of these the header tells where the last sample is, and it is found without decoding what precedes it.
SEEKABLE = {".flac", ".wav", ".aif", ".aiff", ".au"}
NUM_SHOWN = 100  # recordings that an error lists


def leave_out_unreadable(
    splits: Mapping[str, Dataset], *, allow_unreadable: bool
) -> tuple[dict[str, Dataset], dict[str, int]]:
    """
    The rows of each split whose recordings can be read, and how many others there were. Read are the header
    and the first sample, or the last where that takes no decoding of the others. Files that can be read are
    remembered in the cache of `datasets`, by path, size and time of the last change of all of a split. All
    processes call it and share the work. What is streamed is not read.

    Raises:
        ValueError: recordings that cannot be read, with all reasons, unless `allow_unreadable`.
    """
    errors = {name: {} if is_streamed(rows) else _find_errors(rows, name) for name, rows in splits.items()}
    reasons = [reason for of_split in errors.values() for reason in of_split.values()]
    if reasons and not allow_unreadable:
        more = [f"… and {len(reasons) - NUM_SHOWN:,} more"] if len(reasons) > NUM_SHOWN else []
        total = sum(map(len, splits.values()))
        noun = "recording" if len(reasons) == 1 else "recordings"
        raise ValueError(
            "\n".join([f"{len(reasons):,} {noun} of {total:,} cannot be read:", *reasons[:NUM_SHOWN], *more])
            + "\nReplace them, or leave them out with --allow_unreadable."
        )
    left = {
        name: rows.select([i for i in range(len(rows)) if i not in errors[name]]) if errors[name] else rows
        for name, rows in splits.items()
    }
    return left, {name: len(of_split) for name, of_split in errors.items()}


def _find_errors(rows: Dataset, name: str) -> dict[int, str]:
    """Why recordings cannot be read, by the numbers of their rows."""
    process, audio = PartialState(), rows.select_columns("audio")
    memory, unreadable = read_on_main(lambda: _recall(rows))
    numbers = range(len(rows)) if unreadable is None else unreadable
    own = numbers[process.process_index :: process.num_processes]
    num_workers = 0 if len(own) < FEW else min(8, count_cores())
    check = partial(_find_unreadable, audio)
    found, is_quiet = [], not process.is_main_process
    with tqdm(total=len(own), desc=f"Checking {name} recordings", disable=is_quiet, delay=1) as bar:
        for batch in DataLoader(own, BATCH_SIZE, num_workers=num_workers, collate_fn=check):
            found += batch
            bar.update(min(BATCH_SIZE, len(own) - bar.n))
    errors = dict(sorted(gather_object(found)))
    if memory is not None and process.is_main_process and unreadable != [*errors]:
        with suppress(OSError):  # of a cache that cannot be written: recordings are checked again
            write_text(memory, json.dumps([*errors]))
    return errors


def _recall(rows: Dataset) -> tuple[Path | None, list[int] | None]:
    """Where what is found of these files is kept, and the numbers of those that could not be read before."""
    if rows[0]["audio"]["bytes"] is not None:
        return None, None
    memory = Path(datasets.config.HF_DATASETS_CACHE, "unreadable", f"{hash_rows(rows)[:32]}-{VERSION}.json")
    return memory, json.loads(memory.read_text(encoding="utf-8")) if memory.is_file() else None


def _find_unreadable(rows: Dataset, numbers: list[int]) -> list[tuple[int, str]]:
    """Which of the rows have a recording that cannot be read, and why."""
    found = []
    for i in numbers:
        audio = rows[i]["audio"]
        try:
            is_seekable = Path(audio["path"] or "").suffix.lower() in SEEKABLE
            start = count_samples(audio) - 1 if is_seekable else 0
            decode_audio(audio, start=start, num_samples=1, remarks=Remarks())  # not logged here
        except (ValueError, OSError) as error:
            found.append((i, str(error)))
    return found
