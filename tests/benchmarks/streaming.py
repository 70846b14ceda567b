"""
What streaming costs on one core, of small systems with random weights: CPU seconds for a second of the stream
(real-time factor; goal for `lcnn`: 0.05), in chunks of 20 ms and windows half a crop apart; and the time from
the first byte that `eval.py --stream` is given to its first score, where the stream comes as fast as it is
read.

    OMP_NUM_THREADS=1 python tests/benchmarks/streaming.py
"""

import argparse
import io
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
import torch
from transformers import AutoModelForAudioClassification

from hub_cards.recipe import find_recipe, load_recipe
from modeling import AntiSpoofingFeatureExtractor
from modeling.export_onnx import export_onnx
from processing.audio import decode_stream
from processing.models import Countermeasure, load_countermeasure
from processing.streaming import StreamingScorer


SECONDS, RATE, CHUNK = 60, 16_000, 320


def measure_scorer(countermeasure: Countermeasure, signal: np.ndarray) -> tuple[float, float]:
    """CPU seconds for a second of the stream, and those of its most expensive chunk, after a warm-up."""
    for part in (signal[: 5 * RATE], signal):
        scorer = StreamingScorer(countermeasure.model, countermeasure.feature_extractor)
        seconds = []
        for start in range(0, len(part), CHUNK):
            started = time.process_time()
            scorer.push(part[start : start + CHUNK])
            seconds.append(time.process_time() - started)
    return sum(seconds) * RATE / len(signal), max(seconds)


def measure_script(model: Path, content: bytes) -> tuple[float, float]:
    """Seconds that the process takes to start, and from the first byte that it is then given to its score."""
    command = [sys.executable, "eval.py", "--model", model, "--stream", "--num_threads", "1"]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    started = time.perf_counter()
    with subprocess.Popen(command, **options) as process:
        next(line for line in process.stdout if line.split()[:1] == [b"score"])  # the titles
        ready = time.perf_counter()
        process.stdin.write(content)
        process.stdin.flush()
        process.stdout.readline()
        scored = time.perf_counter()
        process.stdin.close()
    return ready - started, scored - ready


def count_first_bytes(content: bytes) -> int:
    """How many bytes of a stream FFmpeg reads before it gives the first samples."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def read(self, size: int) -> bytes:
            return super().read(min(size, 512))

    pipe = Pipe(content)
    _, parts = decode_stream(pipe, sampling_rate=RATE)
    next(iter(parts))
    return pipe.tell()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--systems", nargs="+", default=["lcnn", "lcnn-v7-cqt", "aasist-l"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    signal = (0.1 * np.random.default_rng(0).standard_normal(SECONDS * RATE)).astype(np.float32)
    streams = {}
    for kind, subtype in (("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")):
        content = io.BytesIO()
        soundfile.write(content, signal, RATE, subtype, format=kind)
        streams[f"{kind}, {subtype}"] = content.getvalue()
    for name, content in streams.items():
        share = count_first_bytes(content) / len(content)
        print(f"{name}: the first samples come after {share * SECONDS:.2f} s of the stream")
    beginning = streams["WAV, FLOAT"][: 4 * 5 * RATE]  # a little more than a crop
    with TemporaryDirectory() as made:
        for name in args.systems:
            config = load_recipe(find_recipe(name)[0]).build_config({"bonafide": 1, "spoof": 9})
            torch.manual_seed(0)
            folder, exported = Path(made, name), Path(made, f"{name}-onnx")
            AutoModelForAudioClassification.from_config(config).save_pretrained(folder)
            AntiSpoofingFeatureExtractor(num_samples=config.num_samples).save_pretrained(folder)
            export_onnx(load_countermeasure(str(folder)), exported)
            for each in (folder, exported):
                factor, longest = measure_scorer(load_countermeasure(str(each)), signal)
                start, first = measure_script(each, beginning)
                window, first = (
                    f"{1000 * longest:.0f} ms at most",
                    f"{1000 * first:.0f} ms to the first score",
                )
                print(
                    f"{each.name:20} {factor:.4f}; a window {window}; {start:.1f} s to start, {first}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
