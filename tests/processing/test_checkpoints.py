"""Which checkpoints a run goes on from."""

import json

import pytest
import torch
from safetensors.torch import save_file

from processing.checkpoints import find_checkpoint, find_last_checkpoint, find_problem


@pytest.fixture
def run(tmp_path):
    """A folder with two checkpoints, of steps 9 and 10."""
    for step in (9, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        save_file({"weight": torch.zeros(100)}, folder / "model.safetensors")
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.save({"state": torch.zeros(100)}, folder / name)
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": [0] * 50}))
    return tmp_path


def test_newest_checkpoint_is_taken_by_its_number(run):
    assert find_last_checkpoint(run).name == "checkpoint-10"


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
)
def test_checkpoint_that_lacks_a_file_is_skipped(run, name):
    (run / "checkpoint-10" / name).unlink()

    assert "is missing" in find_problem(run / "checkpoint-10")
    assert find_last_checkpoint(run).name == "checkpoint-9"


@pytest.mark.parametrize("kept", [0, 1, 20, 0.5, -1])
def test_checkpoint_of_which_the_last_file_is_half_written_is_skipped(run, kept):
    path = run / "checkpoint-10" / "trainer_state.json"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])

    assert "is cut off" in find_problem(run / "checkpoint-10")
    assert find_last_checkpoint(run).name == "checkpoint-9"


def test_last_starts_anew_where_there_is_no_checkpoint(tmp_path):
    assert find_checkpoint(tmp_path, "last") is None


def test_finished_model_without_checkpoints_is_not_trained_over(tmp_path):
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(FileExistsError, match="holds a finished model"):
        find_checkpoint(tmp_path, "last")


def test_last_does_not_start_anew_where_there_are_only_weights(run):
    for path in run.glob("checkpoint-*/optimizer.pt"):  # as of `--save_only_model`
        path.unlink()

    with pytest.raises(FileExistsError, match="optimizer.pt is missing; --save_only_model"):
        find_checkpoint(run, "last")


def test_last_starts_anew_where_the_first_checkpoint_is_half_written(run):
    for path in run.glob("checkpoint-*/trainer_state.json"):
        path.unlink()

    assert find_checkpoint(run, "last") is None


def test_named_checkpoint_of_another_run_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="is not a checkpoint of --output_dir"):
        find_checkpoint(tmp_path / "other", str(run / "checkpoint-10"))


def test_named_checkpoint_with_a_newer_one_beside_it_is_refused(run):
    with pytest.raises(FileExistsError, match="checkpoint-10 is newer than"):
        find_checkpoint(run, str(run / "checkpoint-9"))


def test_existing_run_is_refused_without_resume(run):
    with pytest.raises(FileExistsError, match="already holds a run"):
        find_checkpoint(run, None)


def test_named_checkpoint_is_taken_if_it_is_complete(run):
    (run / "checkpoint-9" / "optimizer.pt").unlink()

    assert find_checkpoint(run, str(run / "checkpoint-10")) == run / "checkpoint-10"
    with pytest.raises(ValueError, match="optimizer.pt is missing"):
        find_checkpoint(run, str(run / "checkpoint-9"))
