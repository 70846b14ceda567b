"""
kill -9 of a worker or the coordinator of `processing.scale` at random points, until the same command has done
the rest: no row lost, none double, and every score with the bits of eval.py.

Of the recordings in some folders, 2,000 (the rest are pieces of the longer ones) are put into 20 shards, and
three of them are damaged. eval.py scores the shards as 20 corpora, whose batches are those of the shards.
Takes about ten minutes on two cores.

    PYTHONPATH=. python tests/campaigns/kill_scoring.py --model runs/lcnn --recordings ../shared/data
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from processing.arguments import CorpusArguments
from processing.audio import decode_audio
from processing.corpora import load_corpus
from processing.recordings import find_recordings
from processing.score_folders import SCHEMA
from processing.scores import read_scores


NUM_SHARDS, SHARD_SIZE, RATE = 20, 100, 16_000
DAMAGE = {  # by the number of the recording
    3: lambda content: b"",
    907: lambda content: content[:200],
    1803: lambda content: bytes(len(content)),
}


def make_corpora(recordings: list[Path], folder: Path) -> list[Path]:
    """Write 20 folders of 100 recordings, whose labels mean nothing."""
    files, _ = find_recordings(recordings)
    total, pieces = NUM_SHARDS * SHARD_SIZE, {}
    for file in files:
        if len(files) + len(pieces) >= total:
            break
        if len(waveform := decode_audio(file)) >= 8 * RATE:
            pieces[len(files) + len(pieces)] = waveform[4 * RATE :]
    corpora = [folder / f"shard{shard:02d}" for shard in range(NUM_SHARDS)]
    for number in range(total):
        shard = corpora[number % NUM_SHARDS]
        label = ("real", "fake")[number // NUM_SHARDS % 2]
        (shard / label).mkdir(parents=True, exist_ok=True)
        if number in pieces:
            assert number not in DAMAGE
            soundfile.write(shard / label / f"r{number:04d}.flac", pieces[number], RATE)
        else:
            content = files[number].read_bytes()
            content = DAMAGE.get(number, lambda content: content)(content)
            (shard / label / f"r{number:04d}{files[number].suffix}").write_bytes(content)
    return corpora


def write_shards(corpora: list[Path], folder: Path) -> None:
    """Write the recordings of each corpus into a parquet file, in the order in which eval.py takes them."""
    folder.mkdir(parents=True, exist_ok=True)
    for corpus in corpora:
        rows = load_corpus(CorpusArguments(dataset=[str(corpus)])).splits["train"]
        audio = [{"path": None, "bytes": Path(of["path"]).read_bytes()} for of in rows["audio"]]
        names = [f"{corpus.name}/{utterance}" for utterance in rows["utterance_id"]]
        pq.write_table(pa.table({"utterance_id": names, "audio": audio}), folder / f"{corpus.name}.parquet")


def find_processes(coordinator: psutil.Process) -> list[psutil.Process]:
    """The workers: what the server forked that the coordinator has started."""
    children = coordinator.children()
    return [worker for child in children for worker in child.children()]


def kill_once(command: list[str], output: Path, whom: str, wait: float) -> str:
    """Start scoring, kill it at a random point after its first task has begun, and wait until all its
    processes are gone."""
    shutil.rmtree(output / "logs" / "logs", ignore_errors=True)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    coordinator = psutil.Process(process.pid)
    while process.poll() is None and not [*output.glob("logs/logs/*")]:
        time.sleep(0.05)
    time.sleep(random.uniform(0, wait))
    if process.poll() is not None:
        return "was finished before"
    workers = find_processes(coordinator)
    victim = coordinator if whom == "coordinator" else random.choice(workers)
    victim.kill()
    _, errors = process.communicate(timeout=120)
    _, alive = psutil.wait_procs(workers, timeout=120)
    if alive or process.returncode == 0:
        raise AssertionError(f"killed {whom}: {len(alive)} workers live on, status {process.returncode}")
    if whom == "worker" and "A worker was killed" not in errors:
        raise AssertionError(f"killed worker, but it says: {errors}")
    return "killed"


def check_scores(output: Path, expected: pd.Series) -> None:
    """Every recording has one row, each damaged one an error, and all others have the bits of eval.py."""
    found = pq.read_table([*output.glob("[0-9]*.parquet")], schema=SCHEMA).to_pandas()
    errors = found[found["score"].isna()]
    scores = found.dropna(subset="score").set_index("utterance_id")["score"]
    assert len(found) == found["utterance_id"].nunique() == NUM_SHARDS * SHARD_SIZE
    assert len(errors) == len(DAMAGE) and errors["error"].notna().all()
    assert set(scores.index) == set(expected.index)
    same = scores.to_numpy(np.float32) == expected[scores.index].to_numpy(np.float32)
    print(errors[["utterance_id", "error"]].to_string())
    print(
        f"{len(found):,} rows, {len(errors)} with an error; {same.sum():,} of {len(same):,} scores have the "
        f"bits of eval.py; {scores.nunique():,} distinct scores",
        flush=True,
    )
    assert same.all()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--recordings", required=True, nargs="+", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=30, help="in which a kill comes, once tasks run")
    parser.add_argument("--batch_size", default="32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder that keeps the shards and the scores of eval.py")
    args = parser.parse_args()
    random.seed(args.seed)

    with tempfile.TemporaryDirectory() as work:
        work = args.work or Path(work)
        corpora, output = make_corpora(args.recordings, work / "corpora"), work / "scores"
        write_shards(corpora, work / "shards")
        options = ["--model", args.model, "--batch_size", args.batch_size, "--num_threads", "1", "--use_cpu"]
        official = [sys.executable, "eval.py", *options, "--dataset", *map(str, corpora), "--split", "train"]
        official += ["--allow_unreadable", "--num_resamples", "0", "--output_dir", str(work / "official")]
        if not (work / "official").is_dir():
            subprocess.run(official, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        expected = read_scores(work / "official" / "scores.txt").set_index("utterance_id")["score"]

        scale = [sys.executable, "-m", "processing.scale", *options, "--workers", "2"]
        scale += ["--input", str(work / "shards"), "--output", str(output)]
        kills = 0
        while kills < args.kills:
            whom = ("worker", "coordinator")[kills % 2]
            outcome = kill_once(scale, output, whom, args.seconds)
            finished = len(list(output.glob("[0-9]*.parquet")))
            print(f"{kills + 1}: {whom} {outcome}, {finished} of {NUM_SHARDS} shards finished", flush=True)
            kills += outcome == "killed"
            if finished == NUM_SHARDS:
                check_scores(output, expected)
                shutil.rmtree(output)
        subprocess.run(scale, check=True, stderr=subprocess.DEVNULL)
        check_scores(output, expected)


if __name__ == "__main__":
    main()
