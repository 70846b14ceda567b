"""Training data that stay where they are: the same rows as from disk, each once in an epoch, and resumed
runs."""

import math
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Audio, ClassLabel, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainerCallback, TrainingArguments

import train
from modeling import AntiSpoofingFeatureExtractor, RawNet2Config, RawNet2ForAudioClassification
from processing.arguments import CorpusArguments, GradientArguments
from processing.collation import AudioCollator
from processing.corpora import load_corpus, take_readable_splits
from processing.layouts import LAYOUTS
from processing.streamed_rows import StreamedRows
from processing.training import build_trainer
from processing.trials import count_classes, list_trials


NAMES = ["spoof", "bonafide"]
SIZES = {"sinc_filters": 4, "block_channels": [4], "gru_hidden_size": 4, "embedding_size": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, la_corpus) -> Path:
    """The made corpus as `push_to_hub` writes it: train in 3 files of 5, 12 and 7 rows in groups of 4."""
    features = Features({"audio": Audio(), "key": ClassLabel(names=NAMES), "speaker_id": Value("string")})
    folder, corpus = tmp_path_factory.mktemp("parquet"), LAYOUTS["asvspoof2019-la"].load(la_corpus)
    for split, edges in {"train": [0, 5, 17, 24], "dev": [0, 16]}.items():
        rows = corpus.splits[split]
        labels = list_trials(rows)["key"].map(NAMES.index)
        paths = [Path(audio["path"]) for audio in rows["audio"]]
        columns = {
            "audio": [{"bytes": path.read_bytes(), "path": path.name} for path in paths],
            "key": labels.tolist(),
            "speaker_id": rows["speaker_id"][:],
        }
        table = pa.table(columns, schema=features.arrow_schema)
        for number, (start, end) in enumerate(zip(edges, edges[1:], strict=False)):
            path = folder / f"{split}-{number:05}-of-{len(edges) - 1:05}.parquet"
            pq.write_table(table.slice(start, end - start), path, row_group_size=4)
    return folder


def load(folder, streaming=True, **arguments):
    return load_corpus(CorpusArguments(dataset=[str(folder)], **arguments), streaming=streaming)


@pytest.fixture(scope="module")
def rows(folder):
    return load(folder).splits["train"]


@pytest.fixture(scope="module")
def contents(la_corpus) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in la_corpus.rglob("*.flac")}


def make_args(world_size=1, rank=0, batch_size=4, drop_last=False) -> SimpleNamespace:
    """What of `TrainingArguments` matters, without the processes."""
    of_batches = {"train_batch_size": batch_size, "dataloader_drop_last": drop_last}
    return SimpleNamespace(seed=1, process_index=rank, world_size=world_size, **of_batches)


def test_rows_are_those_of_the_downloaded_data_set_without_their_audio(folder):
    downloaded, corpus = load(folder, streaming=False), load(folder)

    assert corpus.splits.keys() == downloaded.splits.keys() == {"train", "dev"}
    for split, rows in downloaded.splits.items():
        expected, found = list_trials(rows), list_trials(corpus.splits[split])
        assert found[expected.columns].equals(expected)
    assert {audio["bytes"] for audio in corpus.splits["train"]["audio"]} == {b""}
    assert all(audio["bytes"] for audio in corpus.splits["dev"]["audio"])
    _, splits = take_readable_splits(corpus, {"train": "train[:50%]"}, allow_unreadable=False)
    assert count_classes(list_trials(splits["train"])) == {"bonafide": 6, "spoof": 6}


def iterate(rows, world_size=1, num_workers=1, *, epoch=0, skip=0, buffer=8, **batches) -> list[list[list]]:
    """Utterance and audio of each row of each batch of each process, in the order of the loader, in which
    workers take turns."""
    processes = []
    for rank in range(world_size):
        args, workers = make_args(world_size, rank, **batches), []
        size = args.train_batch_size
        for worker in range(num_workers):
            streamed = StreamedRows(rows, args, torch.tensor(epoch), buffer=buffer)
            streamed.skip.fill_(skip)
            info = SimpleNamespace(id=worker, num_workers=num_workers)
            with mock.patch("processing.streamed_rows.get_worker_info", lambda info=info: info):
                read = [row and (row["utterance_id"], row["audio"]["bytes"]) for row in streamed]
            workers.append([read[i : i + size] for i in range(0, len(read), size)])
        processes.append([of[i] for i in range(len(workers[0])) for of in workers if i < len(of)])
        assert len(processes[-1]) == math.ceil(len(streamed) / size)  # the length of the loader
    return processes


def list_utterances(processes) -> list[str]:
    return [utterance for batches in processes for batch in batches for utterance, _ in batch]


@settings(max_examples=20, deadline=None)
@given(
    world_size=st.sampled_from([1, 2, 3]),
    num_workers=st.integers(1, 4),
    batch_size=st.integers(1, 7),
    buffer=st.integers(1, 30),
    skip=st.integers(0, 6),
)
def test_each_utterance_comes_once_in_an_epoch_over_processes_workers_and_a_resume(
    rows, contents, world_size, num_workers, batch_size, buffer, skip
):
    options = {"batch_size": batch_size, "buffer": buffer}

    whole = iterate(rows, world_size, num_workers, **options)
    resumed = iterate(rows, world_size, num_workers, skip=skip, **options)

    assert sorted(list_utterances(whole)) == sorted(rows["utterance_id"])
    assert all(audio == contents[utterance] for of in whole for batch in of for utterance, audio in batch)
    assert len({len(batches) for batches in whole}) == 1  # as many in each process
    for before, after in zip(whole, resumed, strict=True):
        assert all(row is None for batch in after[:skip] for row in batch)
        assert after[skip:] == before[skip:]


def test_rows_that_cannot_be_shared_out_equally_are_seen_twice_or_dropped(rows):
    filled, dropped = (
        Counter(list_utterances(iterate(rows, 5, batch_size=2, drop_last=drop))) for drop in (False, True)
    )

    assert len(filled) == 24 and filled.total() == 25
    assert len(dropped) == dropped.total() == 20


def test_order_is_that_of_seed_and_epoch_and_the_buffer_shuffles(rows):
    first, again, next_epoch, unshuffled = (
        list_utterances(iterate(rows, epoch=epoch, buffer=buffer))
        for epoch, buffer in ((0, 24), (0, 24), (1, 24), (0, 1))
    )

    assert first == again != next_epoch
    num_neighbours = [sum(np.diff([int(name[-7:]) for name in order]) == 1) for order in (first, unshuffled)]
    assert num_neighbours[0] < 10 and num_neighbours[1] >= 21  # of 3 files, one after the other


def make_trainer(output_dir: Path, rows, **changes):
    arguments = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    arguments |= {"remove_unused_columns": False, "use_cpu": True, "eval_strategy": "no"}
    arguments |= {"save_strategy": "steps"}
    args = TrainingArguments(str(output_dir), report_to=[], disable_tqdm=True, **arguments | changes)
    torch.manual_seed(0)
    model = RawNet2ForAudioClassification(RawNet2Config(num_samples=1000, **SIZES))
    collator = AudioCollator(AntiSpoofingFeatureExtractor(num_samples=1000), [1, 0])
    method = GradientArguments(crop="random", streaming=True, shuffle_buffer=5)
    return build_trainer(model, collator, {"train": rows, "dev": rows}, args, method)


class Killed(Exception):
    pass


class KillingCallback(TrainerCallback):
    """Ends a run as a kill does, behind the checkpoint of a step."""

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Killed


@pytest.mark.parametrize(("num_workers", "step"), [(0, 2), (2, 5)])
def test_resumed_run_has_the_bits_of_one_that_was_not_killed(rows, tmp_path, num_workers, step):
    settings = {"dataloader_num_workers": num_workers, "max_steps": 6, "save_steps": step}
    whole, killed, resumed = (
        make_trainer(tmp_path / name, rows, **settings) for name in ("whole", "killed", "killed")
    )
    callback = KillingCallback()
    callback.step = step
    killed.add_callback(callback)

    whole.train()
    with pytest.raises(Killed):
        killed.train()
    read = []
    original = resumed.train_dataset._read
    resumed.train_dataset._read = lambda places: read.append(len(places)) or original(places)
    resumed.train(resume_from_checkpoint=str(tmp_path / "killed" / f"checkpoint-{step}"))

    assert whole.state.global_step == resumed.state.global_step == 6
    assert resumed.state.epoch == 2.0  # 24 utterances in batches of 4, two of them a step
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name
    of_two_processes = StreamedRows(rows, make_args(2), torch.tensor(0))
    assert (len(of_two_processes), whole.num_examples(SimpleNamespace(dataset=of_two_processes))) == (12, 24)
    if not num_workers:  # of 24 utterances 16 were seen before, of which a buffer of 5 began with the 16th
        assert read == [9, 24]


def test_what_cannot_be_streamed_is_refused(folder, la_corpus, tmp_path, capsys):
    for dataset in ([str(la_corpus)], [str(folder)] * 2):
        with pytest.raises(ValueError, match="the split train of one data set of Parquet files. Name that"):
            load_corpus(CorpusArguments(dataset=dataset), streaming=True)
    common = ["--model", "rawnet2", "--dataset", str(folder), "--streaming"]
    for more, message in (
        (["--dev_split", "train[:50%]"], "dev cannot be train[:50%]"),
        (["--train_split", "dev", "--dev_split", "dev"], "train cannot be dev"),
    ):
        with pytest.raises(SystemExit, match=re.escape(message)):
            train.main([*common, *more, "--output_dir", str(tmp_path / "run"), "--use_cpu"])
    for more, message in (
        (
            ["wav2vec2-v2-unfrozen", "--streaming", "--cache_frozen_trunk"],
            "keeps on disk what --streaming does not",
        ),
        (["lfcc-gmm", "--streaming"], "--streaming has no effect on lfcc-gmm"),
        (["rawnet2", "--shuffle_buffer", "5"], "--shuffle_buffer is of --streaming"),
    ):
        with pytest.raises(SystemExit):
            train.parse_arguments(["--output_dir", str(tmp_path / "run"), "--model", *more])
        assert message in capsys.readouterr().err
