"""Recordings scored shard by shard: the bits of the other way, broken files, killed workers, and a merge that
refuses what is not whole."""

import hashlib
import io
import json
import os
import signal
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_model import save_tiny_model

import eval as script
from processing.collation import AudioCollator
from processing.layouts import LAYOUTS
from processing.models import load_countermeasure
from processing.score_folders import SCHEMA, SETTINGS_NAME
from processing.scoring import Batches, score_rows
from processing.shards import Shard, find_shards, score_shard


pytest.importorskip("datatrove", reason="needs the extra [scale]")
from processing import scale, shard_workers


BROKEN = 4  # of the 12 recordings
COLUMNS = {"audio": None, "id": None}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def countermeasure(model):
    return load_countermeasure(str(model))


@pytest.fixture(scope="module")
def rows(la_corpus):
    return LAYOUTS["asvspoof2019-la"].load(la_corpus).splits["eval"]


@pytest.fixture(scope="module")
def expected(countermeasure, rows):
    """Scores of all but the broken recording, by the way that eval.py takes."""
    whole = rows.select([i for i in range(len(rows)) if i != BROKEN])
    scores = score_rows(
        countermeasure.model, AudioCollator(countermeasure.feature_extractor), whole, batches=Batches(5)
    )
    return dict(zip(whole["utterance_id"], scores.tolist(), strict=True))


@pytest.fixture(scope="module")
def contents(rows) -> dict[str, bytes]:
    """The files of the recordings, one of which is no audio."""
    contents = {row["utterance_id"]: Path(row["audio"]["path"]).read_bytes() for row in rows}
    return contents | {rows["utterance_id"][BROKEN]: b"no audio"}


def write_parquet(path, contents) -> None:
    audio = [{"path": None, "bytes": content} for content in contents.values()]
    pq.write_table(pa.table({"utterance_id": [*contents], "audio": audio}), path)


def write_tar(path, contents) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in contents.items():
            for ending, data in ((".flac", content), (".json", b"{}")):
                member = tarfile.TarInfo(name + ending)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def write_list(path, contents) -> None:
    """Paths beside the list, and the last as a URL."""
    places = []
    for name, content in contents.items():
        (path.parent / name).write_bytes(content)
        places.append(name)
    with fsspec.open(f"memory://{name}", "wb") as stream:
        stream.write(content)
    path.write_text("\n".join([*places[:-1], f"memory://{name}"]) + "\n")


@pytest.mark.parametrize(
    ("name", "write", "num_workers"),
    [
        ("a.parquet", write_parquet, 0),
        ("a.parquet", write_parquet, 2),
        ("a.tar", write_tar, 0),
        ("a.txt", write_list, 0),
    ],
)
def test_shard_has_the_bits_of_scored_rows_and_a_row_for_a_broken_file(
    tmp_path, countermeasure, contents, expected, name, write, num_workers
):
    write(tmp_path / name, contents)
    (shard,) = find_shards([str(tmp_path / name)], 100)

    table = score_shard(countermeasure, shard.read(COLUMNS), Batches(5, num_workers))

    assert table.schema == SCHEMA
    found = table.to_pandas()
    found["utterance_id"] = found["utterance_id"].str.removeprefix("memory://")
    assert [*found["utterance_id"]] == [*contents]
    assert [*found["sha256"]] == [hashlib.sha256(content).hexdigest() for content in contents.values()]
    broken = found.iloc[BROKEN]
    assert np.isnan(broken["score"]) and "cannot be decoded as audio" in broken["error"]
    scored = found.drop(index=BROKEN)
    assert scored["error"].isna().all() and scored["seconds"].between(0.3, 1.5).all()
    assert dict(zip(scored["utterance_id"], scored["score"], strict=True)) == expected


def test_score_that_is_not_finite_is_an_error_of_its_row(model, contents, tmp_path):
    countermeasure = load_countermeasure(str(model))
    torch.nn.init.constant_(countermeasure.model.classifier.weight, torch.inf)
    write_parquet(tmp_path / "a.parquet", contents)

    table = score_shard(countermeasure, Shard(str(tmp_path / "a.parquet")).read(COLUMNS), Batches(5))

    assert table["score"].null_count == len(contents)
    assert "check the weights" in table["error"][0].as_py()


def test_inputs_are_files_folders_and_patterns_and_long_lists_are_cut(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/2.parquet", "b/1.tar.gz", "b/notes.md", "c1.tar", "c2.tar"):
        (tmp_path / name).touch()
    (tmp_path / "list.txt").write_text("x.wav\n" * 5)

    found = find_shards([str(tmp_path / name) for name in ("list.txt", "b", "c*.tar")], 2)

    assert [(shard.name, shard.start, shard.stop) for shard in found] == [
        *(("list", 0, 2), ("list", 2, 4), ("list", 4, 5)),
        *((name, 0, None) for name in ("1", "2", "c1", "c2")),
    ]
    with pytest.raises(FileNotFoundError, match="notes.md: there is no file that ends in .parquet"):
        find_shards([str(tmp_path / "b" / "notes.md")], 2)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"sound": [b""], "id": ["a"]}, "columns sound, id: name that of audio by --audio_column"),
        ({"audio": [b"x"], "name": ["a"]}, "no utterance id: name a column of them by --id_column"),
        ({"audio": pa.array([], pa.binary()), "file_id": pa.array([], pa.string())}, "no recordings"),
    ],
)
def test_parquet_files_without_what_is_needed_are_refused(tmp_path, countermeasure, table, message):
    pq.write_table(pa.table(table), tmp_path / "a.parquet")

    with pytest.raises(ValueError, match=message):
        score_shard(countermeasure, Shard(str(tmp_path / "a.parquet")).read(COLUMNS), Batches())


def test_shard_whose_bytes_are_not_those_that_were_written_is_refused(tmp_path, countermeasure, contents):
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"id": [*contents], "audio": [*contents.values()]}), path, write_page_checksum=True
    )
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)

    with pytest.raises(OSError, match="page integrity"):
        score_shard(countermeasure, Shard(str(path)).read({"audio": None, "id": "id"}), Batches())


@pytest.fixture
def shards(tmp_path, contents) -> Path:
    """Four parquet files of three recordings."""
    (tmp_path / "shards").mkdir()
    names = [*contents]
    for i in range(4):
        write_parquet(tmp_path / f"shards/{i}.parquet", {name: contents[name] for name in names[3 * i :][:3]})
    return tmp_path / "shards"


@pytest.fixture
def run(model, shards, tmp_path, capfd, monkeypatch):
    """`python -m processing.scale`, whose workers are forked; what it says, at its end or as an error."""
    monkeypatch.chdir(tmp_path)
    options = {"--model": model, "--input": shards, "--output": "out", "--num_threads": 1, "--use_cpu": True}
    options |= {"--executor_options": json.dumps({"start_method": "fork"})}

    def run(**changes) -> str:
        given = options | {f"--{name}": value for name, value in changes.items()}
        try:
            scale.main([str(word) for pair in given.items() for word in pair])
        except SystemExit as stop:
            return str(stop.code)
        return capfd.readouterr().out

    return run


def read_folder(folder: Path) -> pd.DataFrame:
    files = sorted(folder.glob("*.parquet"))
    return pa.concat_tables([pq.read_table(file) for file in files]).to_pandas()


def test_worker_that_is_killed_is_told_and_the_same_command_does_the_rest(
    run, tmp_path, monkeypatch, countermeasure, shards, contents
):
    def score_or_die(countermeasure, rows, batches):
        rows = [*rows]
        if rows[0]["utterance_id"] == [*contents][6]:
            os.kill(os.getpid(), signal.SIGKILL)
        return score_shard(countermeasure, iter(rows), batches)

    monkeypatch.setattr(shard_workers, "score_shard", score_or_die)
    assert "A worker was killed. The same command does the rest." in run()
    before = {path.name: path.stat().st_mtime_ns for path in Path("out").glob("*.parquet")}
    assert before.keys() == {"00000-0.parquet", "00001-1.parquet"}
    Path("out/logs/completions/00001").unlink()  # as if the worker had been killed when it had written
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)

    output = run()

    assert "Scored: 12 recordings in 4 shards\n1 of 12 recordings in out have no score:" in output
    assert {name: Path("out", name).stat().st_mtime_ns for name in before} == before
    found = read_folder(Path("out"))
    assert [*found["utterance_id"]] == [*contents]
    for i in range(4):
        again = score_shard(countermeasure, Shard(str(shards / f"{i}.parquet")).read(COLUMNS), Batches())
        assert again.to_pandas().equals(found[3 * i :][:3].reset_index(drop=True))


def test_other_settings_are_refused_and_a_damaged_shard_does_not_stop_the_others(run, shards, capfd):
    whole = (shards / "1.parquet").read_bytes()
    (shards / "1.parquet").write_bytes(whole[:-9])

    message = run()

    assert "shards/1.parquet cannot be scored: " in message and "same command does the rest" in message
    assert capfd.readouterr().err.count("Traceback") == 0
    assert len([*Path("out").glob("*.parquet")]) == 3
    assert "batch_size was 32, now 16. Give the same" in run(batch_size=16)
    (shards / "1.parquet").write_bytes(whole)
    Path("out/00003-3.parquet").unlink()  # scored anew, though datatrove has it as completed
    assert [*Path("out/logs/failed").iterdir()]
    assert "12 recordings in 4 shards" in run()
    assert not [*Path("out/logs/failed").iterdir()]
    (shards / "9.parquet").write_bytes(whole)
    assert "num_shards was 4, now 5" in run()
    assert "scale: error: --executor_options: " in run(executor_options='{"sockets": 3}', output="other")


def test_slurm_gets_a_script_that_finds_this_checkout(run, tmp_path, monkeypatch):
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho Submitted batch job 7\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    options = {"partition": "gpu", "time": "1:00:00", "tasks_per_job": 2}

    output = run(executor="slurm", executor_options=json.dumps(options))

    lines = Path("out/logs/launch_script.slurm").read_text().splitlines()
    assert "Scored so far: 0 of 4 shards, in out" in output
    assert "#SBATCH --partition=gpu" in lines and "#SBATCH --array=0-1" in lines
    assert any(line.startswith(f"export PYTHONPATH={scale.ROOT} ") for line in lines)


@pytest.fixture
def scores(tmp_path) -> tuple[Path, Path]:
    """A folder of 60 scores in three shards, and their protocol in another order."""
    folder, generator = tmp_path / "scores", np.random.default_rng(0)
    folder.mkdir()
    (folder / SETTINGS_NAME).write_text(json.dumps({"num_shards": 3, "model": "m"}))
    values = generator.standard_normal(60).astype(np.float32)
    for i in range(3):
        ids = [f"clips/u{n}.wav" for n in range(20 * i, 20 * i + 20)]
        columns = {"utterance_id": ids, "score": values[20 * i :][:20]}
        columns |= {"seconds": [1.0] * 20, "error": pa.nulls(20, pa.string()), "sha256": ids}
        pq.write_table(pa.table(columns, SCHEMA), folder / f"{i:05d}-s.parquet")
    lines = [f"u{n},{'bonafide' if n % 3 else 'spoof'}" for n in generator.permutation(60)]
    (tmp_path / "protocol.csv").write_text("\n".join(["utterance,key", *lines]))
    text = "".join(f"u{n} {score!r}\n" for n, score in enumerate(values.tolist()))
    (tmp_path / "scores.txt").write_text(text)
    return folder, tmp_path / "protocol.csv"


def evaluate(scores: Path, protocol: Path, output: str, *options: str) -> dict:
    given = ["--scores", scores, "--protocol", protocol, "--output_dir", scores.parent / output, *options]
    script.main([*map(str, given), "--num_resamples", "0"])
    return json.loads((scores.parent / output / "results.json").read_text())


def change_shard(folder: Path, column: str, value: object, row: int = 2) -> None:
    path = folder / "00001-s.parquet"
    table = pq.read_table(path).to_pylist()
    table[row] |= {column: value}
    pq.write_table(pa.Table.from_pylist(table, SCHEMA), path)


def test_merged_scores_are_evaluated_as_a_score_file_is(scores):
    folder, protocol = scores

    merged = evaluate(folder, protocol, "a")

    of_file = evaluate(folder.parent / "scores.txt", protocol, "b")
    assert merged.pop("scoring") == {"num_shards": 3, "model": "m"}
    assert merged | {"score_file": "scores.txt"} == of_file
    assert (folder.parent / "a/scores.txt").read_text() == (folder.parent / "b/scores.txt").read_text()


def test_folders_can_be_calibrated_on_and_are_known_by_their_content(scores):
    folder, protocol = scores
    of_file = folder.parent / "scores.txt"

    first = evaluate(folder, protocol, "a", "--calibrate_on", folder)["calibration"]

    by_file = evaluate(of_file, protocol, "b", "--calibrate_on", of_file)["calibration"]
    assert (first["a"], first["b"]) == (by_file["a"], by_file["b"])
    change_shard(folder, "score", 9.0)
    changed = evaluate(folder, protocol, "c", "--calibrate_on", folder)["calibration"]
    assert changed["sha256"] != first["sha256"]


def test_trials_without_a_score_are_named_and_left_out_only_when_that_is_said(scores, capsys):
    folder, protocol = scores
    change_shard(folder, "score", None)
    change_shard(folder, "error", "it is empty")

    with pytest.raises(SystemExit) as stop:
        evaluate(folder, protocol, "a")

    assert "1 of 60 recordings" in stop.value.code and "clips/u22.wav: it is empty" in stop.value.code
    results = evaluate(folder, protocol, "b", "--allow_unreadable")
    assert (results["num_unreadable"], results["num_trials"]) == (1, 59)
    assert "Left out: 1 trials of all, whose recordings could not be read." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("utterance", "message"),
    [
        ("clips/u3.wav", "utterance clips/u3.wav is listed 2 times"),
        ("clips/other.wav", "no score for 1 of the 60 trials .* the first is u22"),
        (None, "holds the scores of 2 of 3 shards. The same command does the rest"),
    ],
)
def test_double_missing_and_unknown_recordings_are_refused(scores, utterance, message):
    folder, protocol = scores
    if utterance is None:
        (folder / "00001-s.parquet").unlink()
    else:
        change_shard(folder, "utterance_id", utterance)

    with pytest.raises(SystemExit, match=message):
        evaluate(folder, protocol, "a")


def test_recordings_that_the_protocol_does_not_list_are_refused(scores):
    folder, protocol = scores
    lines = protocol.read_text().splitlines()
    protocol.write_text("\n".join(lines[:-1]))

    with pytest.raises(SystemExit, match="not in .*: 1 in all, one of them u"):
        evaluate(folder, protocol, "a")
