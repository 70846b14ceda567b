"""Training data that do not fit on the disk: Parquet files, which are read one after the other in each epoch.
Only what stands beside the audio is read beforehand."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from datasets import Dataset, DatasetInfo, Features, load_dataset
from datasets.packaged_modules.parquet.parquet import Parquet
from torch.utils.data import IterableDataset, get_worker_info
from tqdm.auto import tqdm
from transformers import TrainingArguments

from .audio_folder import SPLITS, find_commit, open_builder, to_corpus
from .trials import Corpus


SHARD = "shard"  # column that says where the audio of a row is: <column>/<number of the row>/<Parquet file>


def is_streamed(rows: Dataset) -> bool:
    """Whether the rows lack their audio, which [`StreamedRows`] reads."""
    return SHARD in rows.column_names


def load_streamed(
    dataset_id: str,
    columns: Mapping[str, str | None],
    keys: Mapping[str, str],
    configuration: str | None = None,
) -> Corpus:
    """
    As [`~processing.audio_folder.load_hub`], with the same arguments and errors, of a data set of Parquet
    files. Its split "train" is not downloaded: the rows have a column `SHARD`, and empty audio.
    """
    builder = open_builder(dataset_id, configuration)
    if not isinstance(builder, Parquet):
        raise ValueError(f"--streaming reads Parquet files, but {dataset_id} has others. Leave it out.")
    splits, places, features = {}, None, builder.info.features
    for name, files in builder.config.data_files.items():
        name = str(name)  # a NamedSplit
        if SPLITS.get(name.casefold(), name) == "train":
            splits[name], places = _list_rows(files, features, columns.get("audio"))
        else:
            options = {"data_files": {name: [*files]}, "features": features}
            splits[name] = load_dataset("parquet", split=name, **options)
    corpus = replace(to_corpus(splits, dataset_id, columns, keys), hub=find_commit(builder))
    if places is not None:
        corpus.splits["train"] = corpus.splits["train"].add_column(SHARD, places)
    return corpus


def _list_rows(
    files: Sequence[str], features: Features | None, audio_column: str | None
) -> tuple[Dataset, list[str]]:
    """Rows of Parquet files whose audio has a path, but no samples, and the `SHARD` of each."""
    tables, places = [], []
    for file in tqdm(files, desc="Listing the training data", delay=1):
        with open_parquet(file) as parquet:
            features = features or Features.from_arrow_schema(parquet.schema_arrow)
            fields = {field.name: field.type for field in parquet.schema_arrow}
            audio = [name for name, of in fields.items() if pa.types.is_struct(of) and "bytes" in of.names]
            single = [name for name, of in fields.items() if not pa.types.is_nested(of)]
            table = parquet.read([*single, *(f"{name}.path" for name in audio)])
        empty = pa.repeat(pa.scalar(b"", pa.binary()), len(table))  # not null: that is a file of its own
        for name in audio:
            path = pc.struct_field(table[name], "path").combine_chunks()
            struct = pa.StructArray.from_arrays([empty, path], names=["bytes", "path"])
            table = table.set_column(table.column_names.index(name), name, struct)
        tables.append(table)
        column = audio_column or "".join(audio[:1])
        places += [f"{column}/{number}/{file}" for number in range(len(table))]
    table = pa.concat_tables(tables)
    features = Features({name: features[name] for name in table.column_names})
    return Dataset(table.cast(features.arrow_schema), DatasetInfo(features=features)), places


@contextmanager
def open_parquet(file: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file on the Hub or on the disk, of which no more is read than is asked for."""
    with fsspec.open(file, cache_type="none") as stream:
        yield pq.ParquetFile(stream)


class StreamedRows(IterableDataset):
    """
    The rows of [`load_streamed`] with their audio, in the order of an epoch, for a training's loader.

    An epoch's order is a function of seed and epoch: files in random order, one after the other. Each process
    takes an equal part of it, and each of its workers a part of that; so a file is read once, but for those
    at the edges. The rows of a part are shuffled in a buffer: so many are read, and given in random order,
    before the next ones. Where the number of rows is no multiple of the processes', up to one row less than
    there are processes is seen twice in an epoch.

    The loader takes batch `i` from worker `i` modulo their number. Batches that a resumed run has been
    trained on before, the first `skip`, are given as rows that are `None`, and nothing of them is read.

    Args:
        rows: with the column `SHARD`.
        args: of batch size, seed, processes and workers.
        epoch: (), in shared memory, as `AudioCollator` has it.
        buffer: rows that are shuffled at a time.
    """

    def __init__(self, rows: Dataset, args: TrainingArguments, epoch: torch.Tensor, *, buffer: int = 1000):
        self.rows, self.batch_size, self.seed, self.buffer = rows, args.train_batch_size, args.seed, buffer
        self.epoch, self.skip = epoch, torch.zeros((), dtype=torch.int64).share_memory_()
        self.rank, self.length = args.process_index, math.ceil(len(rows) / args.world_size)
        if args.dataloader_drop_last:
            self.length = len(rows) // (args.world_size * self.batch_size) * self.batch_size
        places = pd.Series(rows[SHARD][:]).str.split("/", n=2, expand=True)
        self.columns, self.numbers = places[0].to_numpy(), places[1].astype(int).to_numpy()
        self.files, self.names = pd.factorize(places[2])

    def __len__(self) -> int:
        """Rows of an epoch in this process."""
        return self.length

    def __iter__(self) -> Iterator[dict | None]:
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        num_batches = math.ceil(self.length / self.batch_size)
        edges = np.cumsum([0, *(len(range(i, num_batches, num_workers)) for i in range(num_workers))])
        start, end = edges[worker : worker + 2] * self.batch_size
        own = self.list_rows()[start:end]
        num_before = len(range(worker, int(self.skip), num_workers)) * self.batch_size
        yield from itertools.repeat(None, min(num_before, len(own)))
        first = num_before // self.buffer * self.buffer
        reading = self._read(own[first:])
        for at in range(first, len(own), self.buffer):
            block = [*itertools.islice(reading, self.buffer)]
            generator = np.random.default_rng([self.seed, int(self.epoch), self.rank, worker, at])
            yield from (block[i] for i in generator.permutation(len(block))[max(0, num_before - at) :])

    def list_rows(self) -> np.ndarray:
        """This process's rows of the epoch, by their numbers (length,), in the order of reading."""
        file_order = np.random.default_rng([self.seed, int(self.epoch)]).permutation(len(self.names))
        order = np.lexsort((self.numbers, file_order[self.files]))
        start = min(self.rank * self.length, len(order) - self.length)
        return order[start : start + self.length]

    def _read(self, places: np.ndarray) -> Iterator[dict]:
        """The rows of these numbers with their audio; a file is opened once, and read from where it must."""
        for code, of_file in itertools.groupby(places, key=lambda place: self.files[place]):
            of_file = np.fromiter(of_file, int)
            with open_parquet(self.names[code]) as parquet:
                sizes = [
                    parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)
                ]
                starts = np.cumsum([0, *sizes])
                groups = np.searchsorted(starts, self.numbers[of_file], side="right") - 1
                for group in np.unique(groups):
                    audio = parquet.read_row_group(group, [self.columns[of_file[0]]])[0]
                    for place in of_file[groups == group]:
                        recording = audio[self.numbers[place] - starts[group]].as_py()
                        yield {**self.rows[int(place)], "audio": recording}
