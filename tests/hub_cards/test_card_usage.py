"""The Python of a card, run as a user would run it, and the command that writes a card."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import ModelCard
from tiny_model import save_tiny_model

from hub_cards.card import render_card
from hub_cards.run_folder import read_run
from modeling import AntiSpoofingFeatureExtractor, LFCCGMMConfig, LFCCGMMForAudioClassification


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run_folder(trained, tmp_path) -> Path:
    """A copy of a trained run."""
    return shutil.copytree(trained, tmp_path / "my-run", ignore=shutil.ignore_patterns("checkpoint-*"))


def run_snippet(folder: Path) -> str:
    """The Python of the card of a folder, run beside it by an interpreter that lacks this package."""
    (snippet,) = re.findall(r"```python\n(.*?)```", str(render_card(read_run(folder))), re.DOTALL)
    waveform = 0.1 * np.random.default_rng(0).standard_normal((9000, 2))
    soundfile.write(folder.parent / "recording.flac", waveform, 22050)
    process = subprocess.run(
        [sys.executable, "-c", f"import sys\nsys.modules['modeling'] = None\n{snippet}"],
        cwd=folder.parent,
        env={
            **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            "HF_HOME": str(folder.parent / "hf_home"),
            "PATH": "",  # no ffmpeg
        },
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def check_output(output: str, threshold: float) -> None:
    score, verdict = re.match(r"score (\S+), verdict (\w+)\n", output).groups()
    assert verdict == ("bonafide" if float(score) > threshold else "spoof")
    probability = 1 / (1 + np.exp(-float(score)))
    answer = {entry["label"]: entry["score"] for entry in ast.literal_eval(output.splitlines()[1])}
    assert answer["bonafide"] == pytest.approx(probability, abs=1e-3)


def test_usage_of_the_card_gives_score_and_verdict(run_folder):
    threshold = json.loads((run_folder / "config.json").read_text())["decision_threshold"]

    check_output(run_snippet(run_folder), threshold)


def test_usage_of_the_card_of_lfcc_gmm_gives_score_and_verdict(tmp_path):
    torch.manual_seed(0)
    config = LFCCGMMConfig(num_components=4, decision_threshold=-0.25)
    LFCCGMMForAudioClassification(config).save_pretrained(tmp_path / "gmm")
    AntiSpoofingFeatureExtractor(num_samples=None).save_pretrained(tmp_path / "gmm")

    check_output(run_snippet(tmp_path / "gmm"), -0.25)


def test_usage_of_a_model_without_threshold_gives_no_verdict(tmp_path):
    output = run_snippet(save_tiny_model(tmp_path / "tiny"))

    assert re.match(r"score -?\d+\.\d+\n", output) and "verdict" not in output


def test_command_line_writes_the_card_for_the_hub(run_folder):
    process = subprocess.run(
        [sys.executable, "-m", "hub_cards.card", run_folder, "--repo_id", "org/my-model"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert process.returncode == 0, process.stderr
    card = ModelCard.load(run_folder / "README.md")
    assert "\n# my-model\n" in card.text and '"org/my-model"' in card.text
    assert card.data.model_name == "my-model"


@pytest.mark.parametrize("module", ["card", "compare", "learning_curves", "publish"])
def test_commands_start_without_loading_torch(module):
    slow = {"torch", "transformers", "matplotlib", "pandas"}
    code = f"import sys, hub_cards.{module}; print(sys.modules.keys() & {slow})"

    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert process.stdout == "set()\n", process.stderr


def test_command_line_names_what_is_wrong(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "hub_cards.card", tmp_path], cwd=ROOT, capture_output=True, text=True
    )

    assert process.returncode != 0 and process.stderr.startswith("python -m hub_cards.card: error: ")
    assert "config.json" in process.stderr


def test_name_that_the_hub_does_not_take_is_refused(run_folder):
    with pytest.raises(ValueError, match="Repo id"):
        render_card(read_run(run_folder), "org/name/more")
