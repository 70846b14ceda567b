"""
Speed of RawNet2 training and inference against a plain implementation, in one run.

The plain one is written here as public implementations are: it builds its filters in every `forward`, works
out of place, runs with the allocator as it finds it, and scores batches of 8. Both get the same weights and
audio, and their outputs are compared. Each is measured in processes of its own, by turns, since the
allocator's setting belongs to the process.

    python tests/benchmarks/rawnet2.py
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from datetime import date

import numpy as np
import torch
from torch import nn

from modeling import RawNet2Config, RawNet2ForAudioClassification
from processing.command_line import keep_freed_memory
from processing.results import describe_environment


class PlainBlock(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.norm1, self.conv1, self.norm2, self.conv2 = block.norm1, block.conv1, block.norm2, block.conv2
        self.shortcut, self.linear = block.shortcut, block.scaling.linear
        self.activation, self.pool, self.mean = nn.LeakyReLU(0.3), nn.MaxPool1d(3), nn.AdaptiveAvgPool1d(1)

    def forward(self, x):
        out = x if self.norm1 is None else self.activation(self.norm1(x))
        out = self.conv2(self.activation(self.norm2(self.conv1(out))))
        out = out + (x if self.shortcut is None else self.shortcut(x))
        out = self.pool(out)
        scale = torch.sigmoid(self.linear(self.mean(out).view(out.size(0), -1)))
        scale = scale.view(scale.size(0), scale.size(1), -1)
        return out * scale + scale


class PlainRawNet2(nn.Module):
    """The same network and weights, with the sinc bank rebuilt filter by filter in `forward`."""

    def __init__(self, model: RawNet2ForAudioClassification):
        super().__init__()
        self.length = model.config.sinc_filter_length
        edges = np.linspace(0, model.config.sinc_max_frequency, model.config.sinc_filters + 1)
        self.edges = edges / model.config.sampling_rate
        self.first_norm, self.norm, self.gru = model.sinc_norm, model.norm, model.gru
        self.embedding, self.classifier = model.embedding, model.classifier
        self.blocks = nn.ModuleList(PlainBlock(block) for block in model.blocks)
        self.selu = nn.SELU()

    def forward(self, x):
        time_axis = np.arange(-(self.length - 1) / 2, (self.length - 1) / 2 + 1)
        bank = torch.zeros(len(self.edges) - 1, self.length)
        for k in range(len(self.edges) - 1):
            low, high = self.edges[k], self.edges[k + 1]
            taps = 2 * high * np.sinc(2 * high * time_axis) - 2 * low * np.sinc(2 * low * time_axis)
            bank[k] = torch.tensor(np.hamming(self.length) * taps)
        x = nn.functional.conv1d(x.unsqueeze(1), bank.unsqueeze(1))
        x = self.selu(self.first_norm(nn.functional.max_pool1d(torch.abs(x), 3)))
        for block in self.blocks:
            x = block(x)
        x, _ = self.gru(self.selu(self.norm(x)).permute(0, 2, 1))
        return self.classifier(self.embedding(x[:, -1]))


def seconds_per_utterance(step, batch_size: int, repeats: int) -> float:
    step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) / batch_size


def measure(kind: str, task: str, batch_size: int, repeats: int) -> dict:
    """Seconds per utterance of one implementation, in this process."""
    if kind == "ours":
        keep_freed_memory()
    torch.manual_seed(0)
    model = RawNet2ForAudioClassification(RawNet2Config())
    ours = lambda x: model(x).logits  # noqa: E731
    network = ours if kind == "ours" else PlainRawNet2(model)
    waveforms = 0.1 * torch.randn(16 if task == "inference" else batch_size, 64_000)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind, by turns")
    parser.add_argument("--repeats", type=int, default=3, help="measured steps in each process")
    parser.add_argument("--train_batch_size", type=int, default=32)
    parser.add_argument("--tasks", nargs="+", default=["inference", "train"])
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        kind, task, batch_size = args.worker
        print(json.dumps(measure(kind, task, int(batch_size), args.repeats)))
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
                    __file__,
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


if __name__ == "__main__":
    main()
