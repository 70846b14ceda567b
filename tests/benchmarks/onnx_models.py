"""
Milliseconds on one core from a 4 s FLAC to its score, of small systems with random weights, by PyTorch and by
onnxruntime on their export, by turns in one process.

    python tests/benchmarks/onnx_models.py
"""

import argparse
import statistics
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
from processing.audio import decode_audio
from processing.models import Countermeasure, load_countermeasure
from processing.scoring import score_batch


SYSTEMS = ("lcnn", "lcnn-v7-cqt", "aasist-l", "aasist", "rawnet2")


def score_file(countermeasure: Countermeasure, file: Path) -> float:
    extractor = countermeasure.feature_extractor
    rate = extractor.sampling_rate
    samples = decode_audio(file, sampling_rate=rate, num_samples=extractor.num_samples)
    inputs = extractor(samples, sampling_rate=rate, return_tensors="pt")
    return float(score_batch(countermeasure.model, inputs)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--systems", nargs="+", default=SYSTEMS)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as made:
        file = Path(made, "a.flac")
        soundfile.write(file, 0.1 * np.random.default_rng(0).normal(size=70_000), 16_000)
        print(f"{'ms per file, median and fastest':34} {'PyTorch':>16} {'onnxruntime':>16}  file")
        for name in args.systems:
            config = load_recipe(find_recipe(name)[0]).build_config({"bonafide": 1, "spoof": 9})
            torch.manual_seed(0)
            AutoModelForAudioClassification.from_config(config).save_pretrained(Path(made, name))
            AntiSpoofingFeatureExtractor(num_samples=config.num_samples).save_pretrained(Path(made, name))
            ours = load_countermeasure(str(Path(made, name)))
            export_onnx(ours, Path(made, f"{name}-onnx"))
            both = (ours, load_countermeasure(str(Path(made, f"{name}-onnx"))))
            seconds = ([], [])
            for _ in range(args.repeats + 2):
                for times, countermeasure in zip(seconds, both, strict=True):
                    started = time.perf_counter()
                    score_file(countermeasure, file)
                    times.append(time.perf_counter() - started)
            columns = [1000 * np.array(times[2:]) for times in seconds]
            cells = [f"{statistics.median(times):.1f}, {times.min():.1f}" for times in columns]
            size = Path(made, f"{name}-onnx", "model.onnx").stat().st_size / 1e6
            print(f"{name:34} {cells[0]:>16} {cells[1]:>16}  {size:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
