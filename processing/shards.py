"""Shards of recordings anywhere that fsspec reaches, and the table of scores of one."""

import functools
import hashlib
import itertools
import math
import posixpath
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import has_magic
from typing import BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from fsspec.core import url_to_fs
from torch.utils.data import DataLoader

from .audio import read_header
from .collation import AudioCollator
from .columns import GUESSES
from .folder_tree import is_recording
from .models import Countermeasure
from .score_folders import SCHEMA
from .scoring import Batches, score_ahead


ARCHIVES, LIST = (".tar", ".tar.gz", ".tgz"), ".txt"
ENDINGS = (".parquet", *ARCHIVES, LIST)
ROWS_AT_ONCE = 32  # of a parquet file, in memory
Columns = Mapping[str, str | None]  # names of columns by "audio" and "id"; what is not given is guessed


@dataclass(frozen=True)
class Shard:
    """Recordings that are scored together: those in a parquet or tar file, or some lines of a list."""

    url: str
    start: int = 0  # the first line, and that after the last
    stop: int | None = None

    @property
    def name(self) -> str:
        """That of the file, without its ending."""
        return posixpath.basename(self.url).split(".")[0]

    def read(self, columns: Columns) -> Iterator[dict]:
        """Rows of utterance_id and audio, a value of `Audio(decode=False)`; paths are relative to the shard.
        ValueError, OSError: no such column, or a file that is damaged."""
        with fsspec.open(self.url, "rb") as stream:
            if self.url.endswith(".parquet"):
                rows = _read_parquet(stream, columns)
            elif self.url.endswith(ARCHIVES):
                rows = _read_archive(stream)
            else:
                lines = (line.decode().strip() for line in itertools.islice(stream, self.start, self.stop))
                rows = ((line, {"path": line, "bytes": None}) for line in lines if line)
            for utterance, audio in rows:
                if audio["bytes"] is None and audio["path"] and "://" not in audio["path"]:
                    audio["path"] = posixpath.join(posixpath.dirname(self.url), audio["path"])
                yield {"utterance_id": utterance, "audio": audio}


def find_shards(inputs: Sequence[str], list_size: int) -> list[Shard]:
    """
    The shards of files, folders, patterns and URLs of these, in the order of the inputs; a list of paths is
    cut into shards of `list_size` lines. FileNotFoundError: an input is not there, or holds none.
    """
    shards = []
    for url in inputs:
        fs, path = url_to_fs(url)
        paths = sorted(fs.glob(path) if has_magic(path) else fs.find(path))
        if not (paths := [path for path in paths if path.endswith(ENDINGS)]):
            raise FileNotFoundError(f"--input {url}: there is no file that ends in {', '.join(ENDINGS)}.")
        for path in paths:
            place = fs.unstrip_protocol(path).removeprefix("file://")
            if not path.endswith(LIST):
                shards.append(Shard(place))
                continue
            with fs.open(path, "rb") as lines:
                count = sum(1 for _ in lines)
            for start in range(0, count, list_size):
                shards.append(Shard(place, start, min(start + list_size, count)))
    return shards


def _read_parquet(stream: BinaryIO, columns: Columns) -> Iterator[tuple[str, dict]]:
    file = pq.ParquetFile(stream, page_checksum_verification=True)  # where it has them
    names = file.schema_arrow.names
    found = {
        role: name or next((of for of in names if of.lower() in GUESSES[role]), None)
        for role, name in columns.items()
    }
    for role, name in found.items():
        if name not in names and (role == "audio" or name is not None):
            raise ValueError(
                f"it has the columns {', '.join(names)}: name that of {role} by --{role}_column."
            )
    for batch in file.iter_batches(ROWS_AT_ONCE, columns=[name for name in found.values() if name]):
        for row in batch.to_pylist():
            audio = row[found["audio"]]
            if not isinstance(audio, dict):
                audio = {"path": audio, "bytes": None} if isinstance(audio, str) else {"bytes": audio}
            audio = {"path": None, "bytes": None, **(audio or {})}
            utterance = audio["path"] if found["id"] is None else row[found["id"]]
            if utterance is None:
                raise ValueError("a recording has no utterance id: name a column of them by --id_column.")
            yield str(utterance), audio


def _read_archive(stream: BinaryIO) -> Iterator[tuple[str, dict]]:
    """The recordings of a tar file in the way of WebDataset: other files of a sample are not looked at."""
    try:
        with tarfile.open(fileobj=stream, mode="r|*") as archive:
            for member in archive:
                if member.isfile() and is_recording(member.name):
                    folder, name = posixpath.split(member.name)
                    audio = {"path": member.name, "bytes": archive.extractfile(member).read()}
                    yield posixpath.join(folder, name.split(".")[0]), audio
    except tarfile.TarError as error:
        raise ValueError(str(error)) from error


def _collate(collator: AudioCollator, rows: list[dict]) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """What is known of each row (see `SCHEMA`), and the inputs of those that can be decoded."""
    results = [_describe(row) for row in rows]
    whole = [(row, known) for row, known in zip(rows, results, strict=True) if known["error"] is None]
    try:
        return results, collator([row for row, _ in whole]) if whole else {}
    except Exception:  # of the system, of any server, whatever a library makes of a damaged file
        inputs = []
        for row, known in whole:
            try:
                inputs.append(collator([row]))
            except Exception as error:
                known["error"] = str(error) or repr(error)
        return results, _join(inputs)


def _describe(row: dict) -> dict:
    """What is known of a recording before it is decoded, or why it cannot be read; `row` gets its bytes."""
    known = dict.fromkeys(SCHEMA.names) | {"utterance_id": row["utterance_id"]}
    try:
        audio = row["audio"]
        if audio["bytes"] is None and audio["path"] is None:
            raise ValueError("The row holds no recording.")
        if audio["bytes"] is None:  # of a URL, or of a local file
            with fsspec.open(audio["path"], "rb") as stream:
                audio["bytes"] = stream.read()
        known["sha256"] = hashlib.sha256(audio["bytes"]).hexdigest()
        known["seconds"] = read_header(audio)["seconds"] or None
    except Exception as error:
        known["error"] = str(error) or repr(error)
    return known


class _Rows:
    """A data set whose indices are its rows, which come from a stream: workers decode what they are sent."""

    def __getitem__(self, row: dict) -> dict:
        return row


def score_shard(countermeasure: Countermeasure, rows: Iterator[dict], batches: Batches) -> pa.Table:
    """
    Score the recordings of [`Shard.read`], a row each of `SCHEMA`, in their order. Those that cannot be
    decoded take no place in a batch, so that the others have the bits that
    [`~processing.scoring.score_rows`] gives them alone. ValueError: there are none.
    """
    device, extractor = PartialState().device, countermeasure.feature_extractor
    model, size = countermeasure.model.to(device).eval(), batches.choose_size(extractor)
    loader = DataLoader(
        _Rows(),
        batch_sampler=iter(lambda: [*itertools.islice(rows, size)], []),
        collate_fn=functools.partial(_collate, AudioCollator(extractor)),
        num_workers=batches.num_workers,
        pin_memory=device.type == "cuda",
    )
    results: list[dict] = []
    computed = score_ahead(model, _fill_batches(loader, size, results))
    scores = [score for of_round in computed for batch in of_round for score in batch]
    for result, score in zip((of for of in results if of["error"] is None), scores, strict=True):
        result["score"] = score if math.isfinite(score) else None
        if result["score"] is None:
            result["error"] = f"Its score is {score}: check the weights of the model."
    if not results:
        raise ValueError("it holds no recordings.")
    return pa.Table.from_pylist(results, schema=SCHEMA)


def _fill_batches(loader: DataLoader, size: int, results: list[dict]) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of `size` recordings that can be decoded, and a last one; adds what is known of all."""
    held: dict[str, torch.Tensor] = {}
    for known, inputs in loader:
        results += known
        held = _join([of for of in (held, inputs) if of])
        while held and len(next(iter(held.values()))) >= size:
            yield {name: of[:size] for name, of in held.items()}
            held = {name: of[size:] for name, of in held.items() if len(of) > size}
    if held:
        yield held


def _join(inputs: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The inputs of batches as one batch, which is not copied where there is one only."""
    if len(inputs) < 2:
        return dict(inputs[0]) if inputs else {}
    together = {name: [of[name] for of in inputs] for name in inputs[0]}
    is_list = isinstance(next(iter(together.values()))[0], list)  # of a model that is not of this package
    return {name: sum(of, []) if is_list else torch.cat(of) for name, of in together.items()}
