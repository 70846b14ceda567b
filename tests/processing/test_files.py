"""Paths without their folders."""

import pytest

from processing.files import strip_folder


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
