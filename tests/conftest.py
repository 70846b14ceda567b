"""Fixtures: real recordings where they are at hand, a small made corpus, and the scripts as real
processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml


ROOT = Path(__file__).resolve().parents[1]
# Each of pytest-xdist's workers, and what it starts, has a core to itself: more threads than cores only wait
# for each other.
if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
# A process of the tests neither reaches the Hub nor leaves anything in the user's cache.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real recordings, protocols and published scores that are not part of the project."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"needs the real recordings and published scores of {path}")
    return path


@pytest.fixture(scope="session")
def la_corpus(tmp_path_factory) -> Path:
    """
    ASVspoof 2019 LA layout with 24, 16 and 12 utterances of noise, 0.3 to 1.5 s: the spoofed ones are
    low-passed, so that a small network learns to tell them apart in a few steps.
    """
    root = tmp_path_factory.mktemp("corpus") / "LA"
    (root / "ASVspoof2019_LA_cm_protocols").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for split, ending, letter, count in (
        ("train", "train.trn", "T", 24),
        ("dev", "dev.trl", "D", 16),
        ("eval", "eval.trl", "E", 12),
    ):
        audio = root / f"ASVspoof2019_LA_{split}" / "flac"
        audio.mkdir(parents=True)
        lines = []
        for i in range(count):
            waveform = 0.1 * generator.standard_normal(int(generator.integers(4800, 24000)))
            if i % 2:
                waveform = np.convolve(waveform, np.ones(6) / 6, mode="same")
            soundfile.write(audio / f"LA_{letter}_{i:07d}.flac", waveform, 16000)
            lines.append(f"LA_{i % 4:04d} LA_{letter}_{i:07d} - {'A01 spoof' if i % 2 else '- bonafide'}\n")
        protocol = root / "ASVspoof2019_LA_cm_protocols" / f"ASVspoof2019.LA.cm.{ending}.txt"
        protocol.write_text("".join(lines))
    return root


TINY_RECIPE = {
    "system": "tiny",
    "description": "A RawNet2 small enough for the tests.",
    "corpus": "asvspoof2019-la",
    "model": {
        "model_type": "rawnet2",
        "num_samples": 8000,
        "sinc_filters": 8,
        "block_channels": [8, 16],
        "gru_hidden_size": 16,
        "num_gru_layers": 1,
        "embedding_size": 8,
        "class_weights": {"spoof": 2.0, "bonafide": 1.0},
    },
    "training": {
        "num_train_epochs": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "early_stopping_patience": 10,
        "crop": "random",
    },
}


@pytest.fixture
def tiny_recipe(tmp_path) -> Path:
    """A YAML of a small RawNet2."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY_RECIPE))
    return path


class Script:
    """`accelerate launch <name> …` as a real process, on one thread."""

    def __init__(self, name: str, cache: Path):
        self.name = name
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "OMP_"))},
            "HF_HOME": str(cache),
            "CUDA_VISIBLE_DEVICES": "",
        }

    def start(self, *arguments, launch: tuple[str, ...] = ()) -> subprocess.Popen:
        """Start it in a process group of its own, so that a kill takes the launcher's children along."""
        command = [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            *launch,
            self.name,
            *map(str, arguments),
        ]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments, launch: tuple[str, ...] = (), status: int = 0) -> str:
        """Run it to its end and return what it printed."""
        process = self.start(*arguments, launch=launch)
        output, _ = process.communicate(timeout=540)
        assert (process.returncode == 0) == (status == 0), output
        return output

    @staticmethod
    def kill(process: subprocess.Popen) -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="session")
def train_script(tmp_path_factory) -> Script:
    """Runs `accelerate launch train.py`."""
    return Script("train.py", tmp_path_factory.mktemp("hf_home"))


@pytest.fixture(scope="session")
def eval_script(tmp_path_factory) -> Script:
    """Runs `accelerate launch eval.py`."""
    return Script("eval.py", tmp_path_factory.mktemp("hf_home"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory, la_corpus, train_script) -> Path:
    """The folder of a small RawNet2 that `train.py` trained on `la_corpus`."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = folder / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(TINY_RECIPE))
    train_script.run("--model", recipe, "--data_dir", la_corpus, "--output_dir", folder / "run")
    return folder / "run"


@pytest.fixture
def refused(capsys):
    """Runs `train.py` with arguments that it refuses and returns what it says."""

    import train  # only where it is needed: it takes seconds

    def run(*arguments) -> str:
        with pytest.raises(SystemExit) as stop:
            train.main([str(argument) for argument in arguments])
        assert stop.value.code != 0
        return str(stop.value.code) + capsys.readouterr().err

    return run
