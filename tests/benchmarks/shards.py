"""
Speed of scoring parquet shards as a worker of `processing.scale` does, against `score_rows`, which eval.py
runs, on the same recordings, model, batch size and threads, by turns in one process.

    PYTHONPATH=. python tests/benchmarks/shards.py --model runs/lcnn --data_dir LA
"""

import argparse
import os
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import modeling  # noqa: F401  registers the architectures
from processing.arguments import CorpusArguments
from processing.collation import AudioCollator
from processing.corpora import load_corpus
from processing.evaluation_arguments import ScoringArguments
from processing.results import describe_environment
from processing.scoring import score_rows
from processing.shard_workers import ScoreShard, load_worker
from processing.shards import find_shards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--shard_size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num_threads", type=int)
    args = parser.parse_args()

    scoring = ScoringArguments(model=args.model, num_threads=args.num_threads)
    countermeasure, batches = load_worker(scoring, None)
    rows = load_corpus(CorpusArguments(data_dir=args.data_dir)).splits[args.split]
    collator = AudioCollator(countermeasure.feature_extractor)
    print(f"{date.today()}, {describe_environment()['hardware']}, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as work:
        for start in range(0, len(rows), args.shard_size):
            of_shard = rows.select(range(start, min(start + args.shard_size, len(rows))))
            audio = [{"path": None, "bytes": Path(of["path"]).read_bytes()} for of in of_shard["audio"]]
            table = pa.table({"utterance_id": of_shard["utterance_id"][:], "audio": audio})
            pq.write_table(table, Path(work, f"{start:06d}.parquet"))
        shards = find_shards([work], 1)

        def score_shards(output: str) -> np.ndarray:
            Path(output).mkdir()
            step = ScoreShard(scoring, None, shards, {"audio": None, "id": None}, output)
            for rank in range(len(shards)):
                step(None, rank, len(shards))
            return pq.read_table(sorted(Path(output).glob("*.parquet")))["score"].to_numpy()

        def score_corpus(_: str) -> np.ndarray:
            return score_rows(countermeasure.model, collator, rows, batches=batches).numpy()

        ways = {"score_rows": score_corpus, "shards": score_shards}
        seconds, scores = {name: [] for name in ways}, {}
        for turn in range(args.rounds + 1):
            for name, score in ways.items():
                started, before = time.perf_counter(), time.process_time()
                scores[name] = score(str(Path(work, f"{name}{turn}")))
                if turn:  # the first warms up
                    seconds[name].append((time.perf_counter() - started, time.process_time() - before))
    for name, of_way in seconds.items():
        wall, cpu = np.median(of_way, axis=0)
        each = 1000 * cpu / len(rows)
        print(f"{name}: {len(rows) / wall:.1f} recordings per second, {each:.2f} ms of CPU each")
    ratios = np.median(seconds["score_rows"], axis=0) / np.median(seconds["shards"], axis=0)
    same = (scores["shards"] == scores["score_rows"]).sum()
    print(
        f"shards at {100 * ratios[0]:.1f} % of the throughput, {100 * ratios[1]:.1f} % by CPU; "
        f"{same} of {len(rows)} scores have the same bits"
    )


if __name__ == "__main__":
    main()
