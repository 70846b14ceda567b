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
