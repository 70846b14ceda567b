"""Recordings that cannot be read, found before anything takes long."""

import os
import shutil

import datasets
import numpy as np
import pytest
import soundfile
from datasets import Audio

from processing.corpora import take_readable_splits
from processing.layouts import LAYOUTS
from processing.readable import leave_out_unreadable


@pytest.fixture
def corpus_dir(tmp_path, la_corpus, monkeypatch):
    """A copy of the made corpus, and a cache of its own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return shutil.copytree(la_corpus, tmp_path / "LA")


def flac(corpus_dir, utterance):
    (path,) = corpus_dir.glob(f"*/flac/{utterance}.flac")
    return path


def write_garbage(path):
    """The same size and time, so that only who opens the file can tell."""
    status = path.stat()
    path.write_bytes(b"?" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def check(corpus_dir, *, allow_unreadable=False):
    corpus = LAYOUTS["asvspoof2019-la"].load(corpus_dir)
    specs = {"train": "train[:50%]", "dev": "dev"}
    return take_readable_splits(corpus, specs, allow_unreadable=allow_unreadable)


@pytest.fixture
def damaged_dir(corpus_dir):
    """With an empty file, a text and two that were cut off; one more is in no split that is taken."""
    flac(corpus_dir, "LA_T_0000001").write_bytes(b"")
    flac(corpus_dir, "LA_T_0000002").write_bytes(b"404")
    path = flac(corpus_dir, "LA_D_0000003")
    path.write_bytes(path.read_bytes()[:-100])
    path = flac(corpus_dir, "LA_D_0000004")
    soundfile.write(path, np.zeros(1000), 8000, format="WAV")
    path.write_bytes(path.read_bytes()[:-100])
    flac(corpus_dir, "LA_T_0000020").write_bytes(b"")
    return corpus_dir


@pytest.mark.parametrize("few", [2000, 1], ids=["in this process", "by workers"])
def test_all_unreadable_recordings_of_the_splits_taken_are_named_at_once(damaged_dir, few, monkeypatch):
    monkeypatch.setattr("processing.readable.FEW", few)

    with pytest.raises(ValueError) as error:
        check(damaged_dir)

    first, *reasons, last = str(error.value).splitlines()
    assert first == "4 recordings of 28 cannot be read:"
    names = ["LA_T_0000001", "LA_T_0000002", "LA_D_0000003", "LA_D_0000004"]
    assert [name in reason for name, reason in zip(names, reasons, strict=True)] == [True] * 4
    assert last.endswith("leave them out with --allow_unreadable.")


def test_unreadable_recordings_are_left_out_and_counted_by_split_or_slice(damaged_dir):
    corpus, splits = check(damaged_dir, allow_unreadable=True)

    assert corpus.unreadable == {"train[:50%]": 2, "dev": 2}
    numbers = [int(name[-7:]) for name in splits["train"]["utterance_id"]]
    assert numbers == [0, *range(3, 12)]
    assert len(splits["dev"]) == 14


def test_recordings_that_were_read_before_are_not_read_again_until_they_change(corpus_dir):
    check(corpus_dir)
    path = flac(corpus_dir, "LA_T_0000001")
    write_garbage(path)

    check(corpus_dir)
    os.utime(path)

    with pytest.raises(ValueError, match="1 recording of 28 cannot be read:\n.*LA_T_0000001"):
        check(corpus_dir)


def test_recordings_that_could_not_be_read_are_read_again_when_they_change(corpus_dir):
    path = flac(corpus_dir, "LA_T_0000001")
    content = path.read_bytes()
    path.write_bytes(b"404")
    with pytest.raises(ValueError, match="LA_T_0000001"):
        check(corpus_dir)
    write_garbage(flac(corpus_dir, "LA_T_0000003"))
    assert check(corpus_dir, allow_unreadable=True)[0].unreadable["train[:50%]"] == 1

    shutil.copy(flac(corpus_dir, "LA_T_0000005"), flac(corpus_dir, "LA_T_0000003"))
    path.write_bytes(content)

    assert check(corpus_dir)[0].unreadable == {"train[:50%]": 0, "dev": 0}


def test_a_cache_that_cannot_be_written_is_no_error(corpus_dir, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")

    assert len(check(corpus_dir)[1]["dev"]) == 16


def test_recordings_within_the_rows_are_checked(corpus_dir):
    rows = LAYOUTS["asvspoof2019-la"].load(corpus_dir).splits["dev"]
    contents = [{"bytes": flac(corpus_dir, name).read_bytes(), "path": None} for name in rows["utterance_id"]]
    contents[3]["bytes"] = b"404"
    rows = (
        rows.remove_columns("audio").add_column("audio", contents).cast_column("audio", Audio(decode=False))
    )

    left, counts = leave_out_unreadable({"dev": rows}, allow_unreadable=True)

    assert counts == {"dev": 1}
    assert left["dev"]["utterance_id"] == [name for i, name in enumerate(rows["utterance_id"]) if i != 3]


def test_a_class_of_which_nothing_can_be_read_is_an_error(corpus_dir):
    for i in range(0, 16, 2):
        flac(corpus_dir, f"LA_D_{i:07d}").write_bytes(b"")

    with pytest.raises(ValueError, match="split dev: bona fide and spoofed trials are needed, .* 0 bonafide"):
        check(corpus_dir, allow_unreadable=True)
