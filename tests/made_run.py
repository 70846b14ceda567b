"""Folders of runs as train.py and eval.py leave them, made without training: small files, real metrics."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from safetensors.numpy import save_file

from hub_cards.recipe import find_recipe, load_recipe
from metrics.costs import AsvErrorRates
from processing.files import hash_file
from processing.origin import describe_training
from processing.results import evaluate_trials
from processing.scores import write_scores


COUNTS = {"bonafide": 24, "spoof": 36}
HARDWARE = {"cpu": "Test CPU", "cores": 2, "threads": 1}


def make_run(folder: Path, *, system: str = "tiny", seed: int = 0, **training) -> Path:
    """A run without a log and without evaluations; `training` replaces values of its training.json."""
    folder.mkdir(parents=True)
    weights = np.random.default_rng(seed).standard_normal((10, 50)).astype(np.float32)
    save_file({"weight": weights}, folder / "model.safetensors")
    model = load_recipe(find_recipe("rawnet2")[0]).model
    write_json(folder / "config.json", {**model, "dtype": "float32"})
    write_json(
        folder / "preprocessor_config.json",
        {"sampling_rate": 16000, "num_samples": 64000, "padding": "repeat"},
    )
    recipe = {"system": system, "description": "Made.", "corpus": "asvspoof2019-la", "model": {}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "training": {}}))
    record = {
        "system": system,
        "corpus": "ASVspoof 2019 LA",
        "splits": {"train": "train", "dev": "dev", "eval": "eval"},
        "counts": {"train": {"bonafide": 30, "spoof": 40}, "dev": COUNTS, "eval": COUNTS},
        "missing": {},
        "unreadable": {},
        "num_parameters": 498,
        "num_processes": 1,
        "seed": 42,
        "date": "2026-11-25",
        "hardware": HARDWARE,
    }
    record |= training
    origin = describe_training(record["corpus"], None)
    write_json(folder / "training.json", {"origin": origin, **record})
    return folder


def write_json(path: Path, content) -> None:
    path.write_text(json.dumps(content))


def write_log(folder: Path, log_history: list[dict], best_global_step: int | None) -> None:
    """The Trainer's log, of a training that was not stopped early."""
    last = log_history[-1] if log_history else {"epoch": 0, "step": 0}
    steps = {"epoch": last["epoch"], "global_step": last["step"], "max_steps": last["step"]}
    state = {**steps, "best_global_step": best_global_step, "log_history": log_history}
    write_json(folder / "trainer_state.json", state)


def gradient_log(epochs: list[float], eers: list[float]) -> list[dict]:
    """A training loss and an evaluation at each of these epochs, of ten steps each."""
    log = []
    for epoch, eer in zip(epochs, eers, strict=True):
        at = {"epoch": epoch, "step": round(10 * epoch)}
        log.append({**at, "loss": 1 / (1 + epoch)})
        log.append({**at, "eval_eer": eer, "eval_loss": 2 / (1 + epoch)})
    return log


def em_log(iterations: int) -> list[dict]:
    """Log-likelihoods as lfcc-gmm logs them, one class after the other."""
    return [
        {"epoch": i, "step": 0, f"log_likelihood_{name}": start - 1 / i}
        for name, start in (("bonafide", -30.0), ("spoof", -22.0))
        for i in range(1, iterations + 1)
    ]


def made_trials(num_bonafide: int = 24, num_spoof: int = 36, prefix: str = "LA_E") -> pd.DataFrame:
    """Trials of two speakers."""
    count = num_bonafide + num_spoof
    keys = ["bonafide"] * num_bonafide + ["spoof"] * num_spoof
    return pd.DataFrame(
        {
            "utterance_id": [f"{prefix}_{i:04d}" for i in range(count)],
            "speaker_id": [f"speaker{i % 2}" for i in range(count)],
            "attack": ["-" if key == "bonafide" else "A07" for key in keys],
            "key": keys,
        }
    )


def made_scores(trials: pd.DataFrame, *, seed: int, distance: float = 1.5) -> np.ndarray:
    """Normal scores, of the classes so far apart, as a score file keeps them."""
    is_bonafide = np.array(trials.key) == "bonafide"
    noise = np.random.default_rng(seed).standard_normal(len(is_bonafide))
    return (noise + distance * is_bonafide).astype(np.float32).astype(float)


def made_asv() -> AsvErrorRates:
    generator = np.random.default_rng(5)
    target, nontarget, spoof = (generator.normal(mean, 1, 300) for mean in (3.0, -3.0, 2.0))
    return AsvErrorRates.from_scores(target, nontarget, spoof)


def add_evaluation(
    folder: Path, trials: pd.DataFrame, scores: np.ndarray, *, name: str = "eval", asv=None, **about
) -> dict:
    """Results of the run's weights under `results/<name>`; `about` adds to results.json or replaces."""
    results = {
        "corpus": "ASVspoof 2019 LA",
        "split": name,
        **evaluate_trials(trials, scores, asv=asv),
        "weights_sha256": {"model.safetensors": hash_file(folder / "model.safetensors")},
        "seconds": 3.0,
        "hardware": HARDWARE,
        **about,
    }
    write_scores(folder / "results" / name / "scores.txt", trials, scores)
    write_json(folder / "results" / name / "results.json", results)
    return results
