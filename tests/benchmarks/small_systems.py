"""
What the systems for a laptop cost: seconds per epoch of `train.py`, with and without the evaluation of dev
after it (an iteration of EM for each class, of lfcc-gmm), from the times of its TensorBoard log, and
milliseconds per file of `score_rows`, which eval.py runs, from files to scores, many files and one at a time.

    python tests/benchmarks/small_systems.py --data_dir ../shared/data/asvspoof2019_la_mini
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from datetime import date
from pathlib import Path

import numpy as np
from datasets import Dataset
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import modeling  # noqa: F401  (registers the architectures)
from processing.collation import AudioCollator
from processing.corpora import CorpusArguments, load_corpus
from processing.machine import keep_freed_memory
from processing.models import load_countermeasure
from processing.results import describe_environment
from processing.scoring import score_rows


SYSTEMS = ("lcnn", "lcnn-v7-cqt", "lfcc-gmm")
EPOCHS = 4


def train(system: str, data_dir: str, folder: Path) -> str:
    """Train for a few epochs; seconds of one."""
    command = ["-m", "accelerate.commands.accelerate_cli", "launch", "train.py", "--model", system]
    command += ["--data_dir", data_dir, "--output_dir", folder, "--num_train_epochs", str(EPOCHS)]
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    events = EventAccumulator(str(next(folder.rglob("events.out.tfevents.*")).parent)).Reload()
    tags = events.Tags()["scalars"]
    if "eval/eer" not in tags:
        parts = [
            f"{tag.rpartition('_')[2]} {np.median(np.diff([e.wall_time for e in events.Scalars(tag)])):.1f} s"
            for tag in tags
            if "log_likelihood" in tag
        ]
        return "one EM iteration: " + ", ".join(parts)
    whole = np.median(np.diff([event.wall_time for event in events.Scalars("eval/eer")]))
    evaluation = np.median([event.value for event in events.Scalars("eval/runtime")])
    return f"one epoch with dev evaluation {whole:.1f} s, of which the evaluation {evaluation:.1f} s"


def score(folder: str, data_dir: str) -> str:
    """Milliseconds per file, after a few files to warm up."""
    keep_freed_memory()
    cm = load_countermeasure(folder)
    rows = load_corpus(CorpusArguments(data_dir=data_dir)).splits["dev"]
    collator = AudioCollator(cm.feature_extractor)

    def seconds(part: Dataset) -> float:
        begin = time.perf_counter()
        with redirect_stdout(sys.stderr):  # what score_rows says of each call
            score_rows(cm.model, collator, part)
        return time.perf_counter() - begin

    seconds(rows.select(range(64)))
    many = seconds(rows) / len(rows)
    single = np.median([seconds(rows.select([index])) for index in range(50)])
    return f"{1000 * many:.1f} ms per file of {len(rows)}; {1000 * single:.1f} ms for a single one"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS))
    args = parser.parse_args()
    environment = describe_environment()
    print(f"{date.today()}, {environment['hardware']}, torch {environment['versions']['torch']}")
    for system in args.systems:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary, system)
            training = train(system, args.data_dir, folder)
            record = json.loads((folder / "training.json").read_text())
            size = (folder / "model.safetensors").stat().st_size
            print(f"{system}, {record['num_parameters']:,} parameters, {size / 1e6:.1f} MB")
            print(f"  {training}\n  {score(str(folder), args.data_dir)}", flush=True)


if __name__ == "__main__":
    main()
