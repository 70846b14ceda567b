"""
Speed of scoring a corpus by `score_rows`, which eval.py runs, against a plain loop, in one run.

The plain loop does what published evaluation scripts do, one utterance at a time: read the file whole, crop
or tile it, run the network of `rawnet2.py` here (filters built in `forward`), take the difference of logits;
the allocator is as it is found. Both use the same weights and all cores, and their scores are compared. Each
is measured in processes of its own, by turns. Of ours, the share of time inside the network is printed, too.

    python tests/benchmarks/scoring.py --data_dir ../shared/data/asvspoof2019_la_mini
"""

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import date

import numpy as np
import soundfile
import torch
from rawnet2 import PlainRawNet2

from modeling import AntiSpoofingFeatureExtractor, RawNet2Config, RawNet2ForAudioClassification
from processing.collation import AudioCollator
from processing.corpora import CorpusArguments, load_corpus
from processing.machine import keep_freed_memory
from processing.results import describe_environment
from processing.scoring import score_rows


def plain_scores(model: RawNet2ForAudioClassification, rows) -> list[float]:
    network, num_samples, scores = PlainRawNet2(model), model.config.num_samples, []
    bonafide, spoof = (model.config.label2id[name] for name in ("bonafide", "spoof"))
    for row in rows:
        waveform, _ = soundfile.read(row["audio"]["path"], dtype="float32")
        repeats = -(-num_samples // len(waveform))
        crop = np.tile(waveform, repeats)[:num_samples]
        with torch.no_grad():
            logits = network(torch.from_numpy(crop)[None])[0]
        scores.append(float(logits[bonafide] - logits[spoof]))
    return scores


def measure(kind: str, data_dir: str, split: str, count: int) -> dict:
    """Utterances per second of one way, in this process, after four utterances to warm up."""
    if kind == "ours":
        keep_freed_memory()
    torch.manual_seed(0)
    model = RawNet2ForAudioClassification(RawNet2Config()).eval()
    rows = load_corpus(CorpusArguments(data_dir=data_dir)).splits[split]
    rows = rows.select(range(min(count, len(rows))))
    in_network = []

    def begin(*_):
        in_network.append(-time.perf_counter())

    def end(*_):
        in_network[-1] += time.perf_counter()

    model.register_forward_pre_hook(begin)
    model.register_forward_hook(end)
    collator = AudioCollator(AntiSpoofingFeatureExtractor())

    def score(part):
        return plain_scores(model, part) if kind == "plain" else score_rows(model, collator, part).tolist()

    score(rows.select(range(min(4, len(rows)))))
    in_network.clear()
    start = time.perf_counter()
    scores = score(rows)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "network": sum(in_network), "scores": scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--count", type=int, default=100, help="utterances")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each kind, by turns")
    parser.add_argument("--worker", choices=["plain", "ours"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(measure(args.worker, args.data_dir, args.split, args.count)))
        return

    environment = describe_environment()
    print(f"{date.today()}, {environment['hardware']}, torch {environment['versions']['torch']}")
    found = {"plain": [], "ours": []}
    for _ in range(args.rounds):
        for kind, runs in found.items():
            command = [sys.executable, *sys.argv, "--worker", kind]
            path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
            output = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
            ).stdout
            runs.append(json.loads(output.splitlines()[-1]))
    count = len(found["ours"][0]["scores"])
    speed = {kind: count / np.median([run["seconds"] for run in runs]) for kind, runs in found.items()}
    share = np.median([run["network"] / run["seconds"] for run in found["ours"]])
    difference = np.abs(np.subtract(found["plain"][0]["scores"], found["ours"][0]["scores"])).max()
    print(f"RawNet2, {count} utterances of {args.data_dir}, {args.split}, {args.rounds} rounds")
    for kind in found:
        print(f"{kind}: {speed[kind]:.2f} utterances per second")
    ratio = speed["ours"] / speed["plain"]
    print(f"{ratio:.2f} times the throughput; scores differ by at most {difference:.1e}")
    print(f"share of ours inside the network: {100 * share:.1f} %")


if __name__ == "__main__":
    main()
