"""An installed copy cannot break another project, nor be broken by one."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]


def test_nothing_is_installed_at_top_level():
    try:
        installed = importlib.metadata.distribution("speech-antispoofing")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the tests run from a checkout that was not installed")

    assert not (installed.read_text("top_level.txt") or "").split()


@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_script_runs_by_its_path_in_a_folder_with_modules_of_the_same_names(script, tmp_path):
    for name in ("train", "eval", "metrics", "processing", "modeling", "hub_cards"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('the module of the other project')")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    process = subprocess.run(
        [sys.executable, ROOT / script, "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )

    assert process.returncode == 0, process.stderr
    assert "--output_dir" in process.stdout


def test_help_and_score_files_need_no_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('torch takes seconds to import')")
    keys = ["bonafide", "spoof"] * 10
    (tmp_path / "scores.txt").write_text("".join(f"u{i} {key} {i}\n" for i, key in enumerate(keys)))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    scored = ["eval.py", "--score_file", "scores.txt"]
    for script, *arguments in (["train.py", "--help"], ["eval.py", "--help"], scored):
        command = [sys.executable, ROOT / script, *arguments]
        process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr

    assert (tmp_path / "evaluation" / "scores" / "results.json").is_file()
