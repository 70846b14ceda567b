"""
Milliseconds per utterance of RawNet2, AASIST and LCNN on one device, by precision, eager and compiled,
against the plain implementations of `rawnet2.py` and `aasist.py` with the same weights, in one process. On a
GPU it needs torch, torchaudio and transformers only.

    python tests/benchmarks/networks.py --device cuda --precision float32 tf32 bf16 --compile
    python tests/benchmarks/networks.py --precision float32 bf16 --batch_size 2 --train_batch_size 2
"""

import argparse
import statistics
import time
from collections.abc import Callable
from datetime import date

import torch
from aasist import PlainAasist
from rawnet2 import PlainRawNet2
from torch import nn

from modeling import (
    AasistConfig,
    AasistForAudioClassification,
    LCNNConfig,
    LCNNForAudioClassification,
    RawNet2Config,
    RawNet2ForAudioClassification,
)


NETWORKS = {  # the network, the plain one, batch sizes of inference and of a training step
    "rawnet2": (lambda: RawNet2ForAudioClassification(RawNet2Config()), PlainRawNet2, 128, 32),
    "aasist": (lambda: AasistForAudioClassification(AasistConfig()), PlainAasist, 64, 24),
    "lcnn": (lambda: LCNNForAudioClassification(LCNNConfig()), None, 128, 32),
}


class Logits(nn.Module):
    """A network that returns its logits alone."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        return self.model(waveforms).logits


def milliseconds(step: Callable[[], torch.Tensor], waveforms: torch.Tensor, repeats: int) -> float:
    """Median over steps, after two that warm up, per utterance."""
    times = []
    for _ in range(2 + repeats):
        start = time.perf_counter()
        step()
        if waveforms.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[2:]) / len(waveforms)


def measure(name: str, precision: str, task: str, args: argparse.Namespace) -> None:
    """Print a line for the plain network and for ours, eager and, where asked for, compiled."""
    build, plain, inference_size, train_size = NETWORKS[name]
    size = args.batch_size or inference_size if task == "inference" else args.train_batch_size or train_size
    torch.manual_seed(0)
    model = build().train(task == "train")
    waveforms = 0.1 * torch.randn(size, model.config.num_samples).to(args.device)
    labels = (torch.arange(size) % 2).to(args.device)
    kinds = {"plain": plain(model).train(task == "train")} if plain else {}
    kinds["ours"] = Logits(model)
    if args.compile:
        kinds["ours, compiled"] = torch.compile(kinds["ours"])
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    baseline = None
    for kind, network in kinds.items():
        network.to(args.device)
        model.zero_grad()
        if args.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        autocast = torch.autocast(args.device, torch.bfloat16, enabled=precision == "bf16")

        def infer(network=network, autocast=autocast) -> torch.Tensor:
            with torch.inference_mode(), autocast:
                return network(waveforms)

        def train(network=network, optimizer=optimizer, autocast=autocast) -> None:
            optimizer.zero_grad()
            with autocast:
                logits = network(waveforms)
            nn.functional.cross_entropy(logits.float(), labels).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

        found = milliseconds(infer if task == "inference" else train, waveforms, args.repeats)
        baseline = baseline or found
        memory = (
            f", peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if args.device == "cuda" else ""
        )
        print(
            f"{name}, {task}, batch {size}, {precision}, {kind}: {found:.3f} ms per utterance, "
            f"{baseline / found:.2f} times{memory}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument("--tasks", nargs="+", choices=("inference", "train"), default=["inference", "train"])
    parser.add_argument("--device", default="cpu")
    precisions = ("float32", "tf32", "bf16")
    parser.add_argument("--precision", nargs="+", choices=precisions, default=["float32"])
    parser.add_argument("--compile", action="store_true", help="measure ours under torch.compile as well")
    parser.add_argument("--batch_size", type=int, help="of inference; default: the network's own")
    parser.add_argument("--train_batch_size", type=int, help="of a training step; likewise")
    parser.add_argument("--repeats", type=int, default=5, help="measured steps")
    args = parser.parse_args()
    if args.device == "cuda":
        hardware = torch.cuda.get_device_name()
    else:
        from processing.results import describe_environment

        hardware = describe_environment()["hardware"]
    print(f"{date.today()}, {hardware}, torch {torch.__version__}")
    for name in args.networks:
        for task in args.tasks:
            for precision in args.precision:
                measure(name, precision, task, args)


if __name__ == "__main__":
    main()
