"""
Time and memory of `eval.py --scores FOLDER` for 10 million scores in 1,000 shards and their protocol.

The scores are drawn at random. Both are those of processes of their own: one that merges, that is reads the
folder and the protocol and puts the scores in the order of the trials, and eval.py as a whole.

    PYTHONPATH=. python tests/benchmarks/score_folders.py
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from processing.results import describe_environment
from processing.score_folders import SCHEMA, SETTINGS_NAME


MERGE = """
import sys
from pathlib import Path
from processing.layouts import read_protocol
from processing.scores import match_scores, read_scores

corpus = read_protocol(Path(sys.argv[2]))
scores = read_scores(Path(sys.argv[1]))
match_scores(scores, corpus.splits["all"], file=sys.argv[1], source=sys.argv[2])
"""


def make_scores(folder: Path, protocol: Path, total: int, num_shards: int) -> None:
    """A folder as processing.scale writes it, and its protocol in another order."""
    generator = np.random.default_rng(0)
    is_bonafide = generator.random(total) < 0.1
    folder.mkdir()
    (folder / SETTINGS_NAME).write_text(json.dumps({"num_shards": num_shards}))
    for shard, places in enumerate(np.array_split(np.arange(total), num_shards)):
        scores = generator.standard_normal(len(places)) + 2 * is_bonafide[places]
        columns = {
            "utterance_id": [f"recording_{place:09d}" for place in places],
            "score": scores.astype(np.float32),
            "seconds": generator.uniform(1, 20, len(places)),
            "error": pa.nulls(len(places), pa.string()),
            "sha256": [generator.bytes(32).hex() for _ in places],
        }
        pq.write_table(pa.table(columns, SCHEMA), folder / f"{shard:05d}-part.parquet")
    with protocol.open("w") as lines:
        lines.write("utterance,key\n")
        for place in generator.permutation(total):
            lines.write(f"recording_{place:09d},{'bonafide' if is_bonafide[place] else 'spoof'}\n")


def measure(command: list[str]) -> tuple[float, float, float]:
    """Seconds, CPU seconds, and the largest resident set in GB of a process."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{command} ended with status {status}")
    cpu = usage.ru_utime + usage.ru_stime
    return time.perf_counter() - started, cpu, usage.ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000_000)
    parser.add_argument("--num_shards", type=int, default=1000)
    args = parser.parse_args()
    print(f"{date.today()}, {describe_environment()['hardware']}, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as work:
        folder, protocol = Path(work, "scores"), Path(work, "protocol.csv")
        make_scores(folder, protocol, args.count, args.num_shards)
        evaluate = ["eval.py", "--scores", str(folder), "--protocol", str(protocol), "--output_dir", work]
        for name, command in {
            "merging": ["-c", MERGE, str(folder), str(protocol)],
            "eval.py --num_resamples 0": [*evaluate, "--num_resamples", "0"],
        }.items():
            seconds, cpu, gigabytes = measure(command)
            took = f"{seconds:.1f} s ({cpu:.1f} s of CPU), {gigabytes:.2f} GB"
            print(f"{name}, {args.count:,} scores: {took}", flush=True)


if __name__ == "__main__":
    main()
