"""
Speed of training and scoring wav2vec 2.0 base with a frozen part, in one run, on real recordings.

A training step (forward, backward, gradient clipping, AdamW) is measured three ways:

- autograd: a plain implementation. transformers' encoder and a head, the frozen parameters without
  `requires_grad`. The encoder then asks for the gradient of its own input, so that everything is recorded and
  gone through backwards.
- frozen: this package's model, whose frozen part is run without autograd.
- cached: the same from `cache_trunk`, with reading from files that the system keeps in memory, without
  making them.

Scoring is measured for the first two. Weights and audio are the same, and the outputs are compared. Each way
runs in processes of its own, by turns, all with the allocator's setting of train.py.

    python tests/benchmarks/wav2vec2.py --data_dir ../shared/data/asvspoof2019_la_mini
    python tests/benchmarks/wav2vec2.py --data_dir ... --device cuda --bf16 --batch_size 64
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date

import datasets
import numpy as np
import torch
from torch import nn

from modeling import (
    AntiSpoofingFeatureExtractor,
    Wav2Vec2AntiSpoofingConfig,
    Wav2Vec2AntiSpoofingForAudioClassification,
)
from processing.collation import AudioCollator, label_ids
from processing.corpora import CorpusArguments, load_corpus
from processing.machine import keep_freed_memory
from processing.results import describe_environment
from processing.scoring import Batches
from processing.trunk_cache import TrunkCollator, cache_trunk


WARM_UP = 2  # steps; the allocator has all it needs after them
TASKS = {
    "train, top 4 blocks": (4, ("autograd", "frozen", "cached")),
    "train, all frozen": (0, ("autograd", "frozen", "cached")),
    "score": (0, ("autograd", "frozen")),
}


class Plain(nn.Module):
    """The same weights under the encoder's own forward; what is frozen only lacks `requires_grad`."""

    def __init__(self, model: Wav2Vec2AntiSpoofingForAudioClassification):
        super().__init__()
        self.encoder = type(model.encoder)(model.config.encoder_config)
        self.encoder.load_state_dict(model.encoder.state_dict())
        trained = {name for name, parameter in model.encoder.named_parameters() if parameter.requires_grad}
        for name, parameter in self.encoder.named_parameters():
            parameter.requires_grad_(name in trained)
        self.head = nn.Sequential(model.backend.projector, nn.GELU(), model.dropout, model.classifier)

    def forward(self, input_values):
        return self.head(self.encoder(input_values).last_hidden_state.mean(dim=1))


def measure(kind: str, task: str, args: argparse.Namespace) -> dict:
    """Seconds per utterance of one way of doing a task, in this process."""
    keep_freed_memory()
    torch.manual_seed(0)
    config = Wav2Vec2AntiSpoofingConfig(num_trainable_layers=TASKS[task][0])
    model = Wav2Vec2AntiSpoofingForAudioClassification(config).to(args.device)
    rows = load_corpus(CorpusArguments(data_dir=args.data_dir)).splits["train"]
    step = max(1, len(rows) // args.batch_size)
    rows = rows.select([index * step % len(rows) for index in range(args.batch_size)])
    ids = label_ids(rows.features["label"].names, config.label2id)
    collator = AudioCollator(AntiSpoofingFeatureExtractor(), ids)
    network = Plain(model).to(args.device) if kind == "autograd" else model
    autocast = torch.autocast(args.device, torch.bfloat16, enabled=args.bf16)

    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = folder
        if kind == "cached":
            kept = cache_trunk(model, collator, rows, batches=Batches(8))
            make_batch, collator = lambda: [*kept], TrunkCollator(ids)
        else:
            decoded = collator([*rows])
            make_batch, collator = lambda: decoded, dict

        def logits() -> tuple[torch.Tensor, torch.Tensor]:
            batch = {name: tensor.to(args.device) for name, tensor in collator(make_batch()).items()}
            labels = batch.pop("labels")
            with autocast:
                output = network(**batch)
            return output if kind == "autograd" else output.logits, labels

        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-5)

        def train() -> None:
            loss = nn.functional.cross_entropy(*logits())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()

        def score() -> None:
            with torch.no_grad():
                logits()

        network.eval()
        with torch.no_grad():
            first = logits()[0].float().flatten().tolist()
        network.train(task != "score")
        run = score if task == "score" else train
        times = []
        for _ in range(WARM_UP + args.repeats):
            start = time.perf_counter()
            run()
            if args.device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if args.device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    return {
        "seconds": float(np.median(times[WARM_UP:])) / len(rows),
        "outputs": first,
        "peak_gib": peak / 2**30,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="a corpus")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16; else float32")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each way, by turns")
    parser.add_argument("--repeats", type=int, default=5, help="measured steps in each process")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(measure(*args.worker, args)))
        return

    environment = describe_environment()
    precision = "bfloat16 autocast" if args.bf16 else "float32"
    print(
        f"{date.today()}, {environment['hardware']}, torch {environment['versions']['torch']}, "
        f"{args.device}, {precision}, batch {args.batch_size}"
    )
    for task, (_, kinds) in TASKS.items():
        found = {kind: [] for kind in kinds}
        for _ in range(args.rounds):
            for kind in kinds:
                command = [sys.executable, __file__, *sys.argv[1:], "--worker", kind, task]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found[kind].append(json.loads(done.stdout.splitlines()[-1]))
        seconds = {kind: np.median([run["seconds"] for run in runs]) for kind, runs in found.items()}
        for kind, runs in found.items():
            difference = np.abs(np.subtract(found["autograd"][0]["outputs"], runs[0]["outputs"])).max()
            print(
                f"{task}, {kind}: {1000 * seconds[kind]:.2f} ms per 4 s utterance, {1 / seconds[kind]:.1f} "
                f"per second, {seconds['autograd'] / seconds[kind]:.2f} times autograd; peak "
                f"{max(run['peak_gib'] for run in runs):.1f} GiB; logits differ by at most {difference:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
