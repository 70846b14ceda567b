"""The README's Python, run as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile


ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"<!-- run -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_python_of_the_readme_runs(code, tmp_path, monkeypatch, trained, la_corpus):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "rawnet2-demo").symlink_to(trained)
    (tmp_path / "LA").symlink_to(la_corpus)
    (tmp_path / "metrics").symlink_to(ROOT / "metrics")
    soundfile.write(tmp_path / "recording.flac", 0.1 * np.random.default_rng(0).standard_normal(9000), 16000)
    monkeypatch.chdir(tmp_path)

    exec(code, {})


def test_readme_has_python_to_run():
    assert len(BLOCKS) == 2


def test_first_screen_has_the_two_commands_that_do_all():
    first_screen = (ROOT / "README.md").read_text().split("## ")[0]

    commands = re.findall(r"```bash\n(.*?)```", first_screen, re.DOTALL)

    assert [command.strip().splitlines() for command in commands] == [
        [
            "python3 -m venv .venv && . .venv/bin/activate && pip install -e . && accelerate launch train.py "
            "--model rawnet2"
        ],
        ['python3 -m venv .venv && . .venv/bin/activate && pip install -e ".[test]" && pytest'],
    ]
