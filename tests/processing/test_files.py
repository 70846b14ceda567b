"""Files that appear whole or not at all, models that are moved, and paths without their folders."""

import os
import stat

import pytest

from processing.files import move_model, strip_folder, strip_folders, write_whole


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/data/anna/run7", "run7"),
        ("/srv/gpfs/LA/", "LA"),
        ("~anna/models/base", "base"),
        (r"D:\data\base", "base"),
        (r"\\server\share\base", "base"),
        ("facebook/wav2vec2-base", "facebook/wav2vec2-base"),
        ("adamw_torch", "adamw_torch"),
        ("~4 s / 64,000 samples", "~4 s / 64,000 samples"),
    ],
)
def test_path_of_a_machine_is_reduced_to_its_last_name(value, shown):
    assert strip_folder(value) == shown


def test_paths_within_lists_and_mappings_are_reduced_as_well():
    value = {"augmentation": [{"noise": {"folder": "/data/anna/musan", "snr": [5, 20]}}], "seed": 3}

    assert strip_folders(value) == {
        "augmentation": [{"noise": {"folder": "musan", "snr": [5, 20]}}],
        "seed": 3,
    }


def test_moved_weights_have_the_permissions_of_any_new_file_and_the_config_comes_last(tmp_path):
    source, folder = tmp_path / "new", tmp_path / "model"
    source.mkdir()
    folder.mkdir()
    before = os.umask(0o027)
    try:
        for name in ("config.json", "model.safetensors"):
            (source / name).write_bytes(b"0")
    finally:
        os.umask(before)
    (source / "model.safetensors").chmod(0o600)  # as safetensors writes it

    move_model(source, folder)

    assert stat.S_IMODE((folder / "model.safetensors").stat().st_mode) == 0o640
    assert not source.exists() and sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]


def test_file_that_could_not_be_written_whole_is_not_there(tmp_path):
    with pytest.raises(RuntimeError), write_whole(tmp_path / "deep" / "scores.txt") as partial:
        partial.write_text("half")
        raise RuntimeError

    assert not any((tmp_path / "deep").iterdir())
