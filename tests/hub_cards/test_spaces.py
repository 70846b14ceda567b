"""The files of Spaces: a metric is loaded from them, and from nothing beside them."""

import shutil
from pathlib import Path

import evaluate
import pytest

from hub_cards.spaces import METRICS, stage_metric


ROOT = Path(__file__).resolve().parents[2]


def test_every_module_of_evaluate_is_a_metric_that_is_published():
    cards = {path.stem for path in (ROOT / "metrics").glob("*.md") if path.with_suffix(".py").is_file()}

    assert set(METRICS) == cards


@pytest.mark.parametrize("name", METRICS)
def test_metric_loads_from_the_files_of_its_space_alone(name, tmp_path):
    with stage_metric(name, f"org/{name}") as files:
        (tmp_path / "space").mkdir()
        for target, path in files.items():
            shutil.copy(path, tmp_path / "space" / target)

    results = evaluate.load(str(tmp_path / "space" / f"{name}.py")).compute(**METRICS[name])

    assert results == evaluate.load(str(ROOT / "metrics" / f"{name}.py")).compute(**METRICS[name])
    assert f'evaluate.load("org/{name}")' in (tmp_path / "space" / "README.md").read_text()
    compile((tmp_path / "space" / "app.py").read_text(), "app.py", "exec")
