"""
Speed of a network's training and inference against a plain implementation of it with the same weights, in one
run: what the benchmarks of single networks have in common. Each is measured in processes of its own, by
turns, since the allocator's setting belongs to the process; outputs are compared.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from processing.machine import keep_freed_memory
from processing.results import describe_environment


def seconds_per_utterance(step, batch_size: int, repeats: int) -> float:
    step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) / batch_size


def measure(networks: tuple[Callable, Callable], kind: str, task: str, batch_size: int, repeats: int) -> dict:
    """Seconds per utterance of one implementation, in this process."""
    build, plain = networks
    if kind == "ours":
        keep_freed_memory()
    torch.manual_seed(0)
    model = build()
    ours = lambda x: model(x).logits  # noqa: E731
    network = ours if kind == "ours" else plain(model)
    waveforms = 0.1 * torch.randn(16 if task == "inference" else batch_size, model.config.num_samples)
    labels = torch.arange(len(waveforms)) % 2

    if task == "inference":
        model.eval()

        def step():
            with torch.inference_mode():
                return torch.cat([network(batch) for batch in waveforms.split(batch_size)])
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

        def step():
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(waveforms), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            return loss.detach()

    first = step().flatten().tolist()
    seconds = seconds_per_utterance(step, len(waveforms), repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": seconds, "outputs": first, "peak_gib": peak}


def main(
    script: str,
    description: str,
    build: Callable[[], PreTrainedModel],
    plain: Callable[[PreTrainedModel], nn.Module],
    train_batch_size: int,
) -> None:
    """Measure what the arguments ask for; `plain` makes the plain implementation of a model of `build`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind, by turns")
    parser.add_argument("--repeats", type=int, default=3, help="measured steps in each process")
    parser.add_argument("--train_batch_size", type=int, default=train_batch_size)
    parser.add_argument("--tasks", nargs="+", default=["inference", "train"])
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        kind, task, batch_size = args.worker
        print(json.dumps(measure((build, plain), kind, task, int(batch_size), args.repeats)))
        return

    environment = describe_environment()
    print(f"{date.today()}, {environment['hardware']}, torch {environment['versions']['torch']}")
    sizes_of_task = {
        "inference": {"plain": 8, "ours": 8},
        "train": {"plain": args.train_batch_size, "ours": args.train_batch_size},
    }
    for task in args.tasks:
        sizes = sizes_of_task[task]
        found = {"plain": [], "ours": []}
        for _ in range(args.rounds):
            for kind, size in sizes.items():
                command = [
                    sys.executable,
                    script,
                    "--repeats",
                    str(args.repeats),
                    "--worker",
                    kind,
                    task,
                    str(size),
                ]
                found[kind].append(
                    json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                )
        seconds = {kind: np.median([run["seconds"] for run in runs]) for kind, runs in found.items()}
        difference = np.abs(np.subtract(found["plain"][0]["outputs"], found["ours"][0]["outputs"])).max()
        for kind, size in sizes.items():
            peak = max(run["peak_gib"] for run in found[kind])
            print(
                f"{task} {kind}, batch {size}: {seconds[kind]:.3f} s per 4 s utterance, peak {peak:.1f} GiB"
            )
        ratio = seconds["plain"] / seconds["ours"]
        print(f"{task}: {ratio:.2f} times the throughput; outputs differ by at most {difference:.1e}")
