"""
Time and memory of the systems on a pretrained encoder, at their real size with random weights: a training
step (forward, backward, gradient clipping, AdamW) and a step of inference. Each is measured in a process of
its own. It needs torch, torchaudio, transformers, accelerate and datasets only.

The floating-point operations are those of matrix products, convolutions and attention as PyTorch counts them,
without what gradient checkpointing computes again; on a CPU, PyTorch does not count fused attention. There
the seconds of CPU time say more than those of the clock where other processes run.

    python tests/benchmarks/encoders.py --device cuda --precision bf16 --batch_size 20 --peak_tflops 989
    python tests/benchmarks/encoders.py --systems whisper-mhfa --batch_size 2 --repeats 1
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import time
from datetime import date

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForAudioClassification, PreTrainedModel

from hub_cards.recipe import find_recipe, list_systems, load_recipe
from modeling import Wav2Vec2AntiSpoofingConfig
from processing.machine import keep_freed_memory


WARM_UP = 2  # steps; the allocator has all it needs after them


class Step:
    """A step on one batch: of training, as train.py does it, or of inference."""

    def __init__(self, model: PreTrainedModel, task: str, args: argparse.Namespace):
        self.model, self.task = model, task
        self.network = torch.compile(model) if args.compile else model
        self.autocast = torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16")
        self.waveforms = 0.1 * torch.randn(args.batch_size, model.config.num_samples).to(args.device)
        self.labels = (torch.arange(args.batch_size) % 2).to(args.device)
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if task == "inference":  # FlopCounterMode hooks what needs gradients, which inference_mode forbids
            model.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-6)

    def __call__(self) -> None:
        if self.task == "inference":
            with torch.inference_mode(), self.autocast:
                self.network(self.waveforms)
            return
        with self.autocast:
            loss = self.network(self.waveforms, labels=self.labels).loss
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def count_operations(self) -> int:
        """Floating-point operations of the step, counted on two utterances."""
        whole = self.network, self.waveforms, self.labels
        self.network, self.waveforms, self.labels = self.model, self.waveforms[:2], self.labels[:2]
        with FlopCounterMode(display=False) as counter:
            self()
        counted = len(self.labels)
        self.network, self.waveforms, self.labels = whole
        return counter.get_total_flops() * len(self.labels) // counted


def build_model(system: str, device: str) -> PreTrainedModel:
    """The system with random weights and the sizes that its YAML states."""
    config = load_recipe(find_recipe(system)[0]).build_config()
    torch.manual_seed(0)
    return AutoModelForAudioClassification.from_config(config).to(device)


def measure(system: str, task: str, args: argparse.Namespace) -> None:
    """Print a line for a task of a system."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.precision == "tf32"
    if args.device == "cpu":
        keep_freed_memory()  # as train.py and eval.py
    model = build_model(system, args.device).train(task == "train")
    step, on_gpu = Step(model, task, args), args.device == "cuda"
    operations = step.count_operations()
    if args.gradient_checkpointing:
        model.activation_checkpointing_enable()
    times, of_cpu = [], []
    for _ in range(WARM_UP + args.repeats):
        start, cpu_start = time.perf_counter(), time.process_time()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        of_cpu.append(time.process_time() - cpu_start)
    seconds = statistics.median(times[WARM_UP:])
    cpu_seconds = "" if on_gpu else f" ({statistics.median(of_cpu[WARM_UP:]):.2f} s of CPU time)"
    of_process = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = torch.cuda.max_memory_allocated() if on_gpu else of_process
    speed = operations / seconds / 1e12
    share = f", {speed / args.peak_tflops:.0%} of {args.peak_tflops:g}" if args.peak_tflops else ""
    details = ", gradient checkpointing" * args.gradient_checkpointing + ", compiled" * args.compile
    print(
        f"{system}, {task}, batch {args.batch_size}, {args.precision}{details}: {seconds:.3f} s per step"
        f"{cpu_seconds}, {1e3 * seconds / args.batch_size:.1f} ms per utterance of "
        f"{model.config.num_samples / model.config.sampling_rate:g} s; peak {peak / 2**30:.1f} GiB; "
        f"{operations / args.batch_size / 1e9:.0f} GFLOP per utterance, {speed:.3g} TFLOP/s{share}; "
        f"{model.num_parameters():,} parameters, {sum(p.numel() for p in step.trained):,} trained",
        flush=True,
    )


def list_encoder_systems() -> list[str]:
    """Systems on a pretrained encoder."""
    model_type = Wav2Vec2AntiSpoofingConfig.model_type
    recipes = (load_recipe(find_recipe(name)[0]) for name in list_systems())
    return [recipe.system for recipe in recipes if recipe.model["model_type"] == model_type]


def main() -> None:
    systems, tasks = list_encoder_systems(), ("train", "inference")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=systems, default=systems)
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=tasks)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("float32", "tf32", "bf16"), default="float32")
    parser.add_argument("--batch_size", type=int, default=2, help="at least 2, for batch normalisation")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true", help="under torch.compile")
    parser.add_argument("--peak_tflops", type=float, help="of the device at this precision, for the share")
    parser.add_argument("--repeats", type=int, default=5, help="measured steps")
    args = parser.parse_args()
    if args.device == "cuda":
        hardware = torch.cuda.get_device_name()
    else:
        from processing.results import describe_environment

        machine = describe_environment()["hardware"]
        hardware = f"{machine['cpu']}, {machine['cores']} cores, {torch.get_num_threads()} threads, load "
        hardware += f"{os.getloadavg()[0]:.1f}"
    print(f"{date.today()}, {hardware}, torch {torch.__version__}", flush=True)
    context = multiprocessing.get_context("spawn")
    for system in args.systems:
        for task in args.tasks:
            process = context.Process(target=measure, args=(system, task, args))
            process.start()
            process.join()
            if process.exitcode:
                print(f"{system}, {task}: failed", flush=True)


if __name__ == "__main__":
    main()
