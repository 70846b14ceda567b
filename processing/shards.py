"""Shards of recordings anywhere that fsspec reaches, and the table of scores of one."""

import hashlib
import itertools
import math
import posixpath
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
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
from .files import hash_file
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
        """Rows of utterance_id and audio, a value of `Audio(decode=False)`. ValueError, OSError: no such
        column, or a file that is damaged."""
        with fsspec.open(self.url, "rb") as stream:
            if self.url.endswith(".parquet"):
                yield from _read_parquet(stream, columns)
            elif self.url.endswith(ARCHIVES):
                yield from _read_archive(stream)
            else:
                folder = posixpath.dirname(self.url)
                for line in itertools.islice(stream, self.start, self.stop):
                    if path := line.decode("utf-8").strip():
                        place = path if "://" in path else posixpath.join(folder, path)
                        yield {"utterance_id": path, "audio": {"path": place, "bytes": None}}


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


def _read_parquet(stream: BinaryIO, columns: Columns) -> Iterator[dict]:
    file = pq.ParquetFile(stream)
    names = file.schema_arrow.names
    found = {
        role: columns[role] or next((x for x in names if x.lower() in GUESSES[role]), None)
        for role in columns
    }
    audio, utterance = found["audio"], found["id"]
    for role, name in found.items():
        if name not in names and (role == "audio" or name is not None):
            raise ValueError(
                f"it has the columns {', '.join(names)}: name that of {role} by --{role}_column."
            )
    for batch in file.iter_batches(ROWS_AT_ONCE, columns=[name for name in (audio, utterance) if name]):
        for row in batch.to_pylist():
            value = row[audio]
            if not isinstance(value, dict):
                is_path = isinstance(value, str)
                value = {"path": value if is_path else None, "bytes": None if is_path else value}
            name = value.get("path") if utterance is None else row[utterance]
            if name is None:
                raise ValueError("a recording has no utterance id: name a column of them by --id_column.")
            yield {"utterance_id": str(name), "audio": value}


def _read_archive(stream: BinaryIO) -> Iterator[dict]:
    """The recordings of a tar file in the way of WebDataset: other files of a sample are not looked at."""
    try:
        with tarfile.open(fileobj=stream, mode="r|*") as archive:
            for member in archive:
                if member.isfile() and is_recording(member.name):
                    folder, name = posixpath.split(member.name)
                    audio = {"path": member.name, "bytes": archive.extractfile(member).read()}
                    yield {"utterance_id": posixpath.join(folder, name.split(".")[0]), "audio": audio}
    except tarfile.TarError as error:
        raise ValueError(str(error)) from error


class ShardCollator:
    """Collates rows into what is known of each (see `SCHEMA`) and the inputs of those that can be decoded."""

    def __init__(self, collator: AudioCollator):
        self.collator = collator

    def __call__(self, rows: list[dict]) -> tuple[list[dict], dict[str, torch.Tensor]]:
        rows = [*map(_fetch, rows)]
        try:
            inputs = self._collate(rows)
        except Exception:  # whatever a library makes of a damaged file, of which there is one at least
            rows = [self._try_alone(row) for row in rows]
            inputs = self._collate(rows)
        return [{name: row.get(name) for name in SCHEMA.names} for row in rows], inputs

    def _collate(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        whole = [row for row in rows if "error" not in row]
        return self.collator(whole) if whole else {}

    def _try_alone(self, row: dict) -> dict:
        try:
            self._collate([row])
        except Exception as error:
            return row | {"error": str(error) or repr(error)}
        return row


def _fetch(row: dict) -> dict:
    """A row with what is known before it is decoded; the bytes of a URL, or why there are none."""
    audio, path = row["audio"], row["audio"]["path"] or ""
    try:
        if audio["bytes"] is None and "://" in path:
            with fsspec.open(path, "rb") as stream:
                audio = {**audio, "bytes": stream.read()}
        content = audio["bytes"]
        digest = hash_file(Path(path)) if content is None else hashlib.sha256(content).hexdigest()
    except Exception as error:  # of the system, or of any server
        return row | {"error": str(error) or repr(error)}
    return row | {"audio": audio, "sha256": digest, "seconds": read_header(audio)["seconds"] or None}


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
        collate_fn=ShardCollator(AudioCollator(extractor)),
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
