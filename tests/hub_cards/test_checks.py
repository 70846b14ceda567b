"""What a card and the files beside it must not hold."""

from pathlib import Path

import pytest

from hub_cards.checks import find_leaks, find_path_values


@pytest.mark.parametrize(
    "path",
    [
        "/home/ann/data/LA",
        "/root",
        "/tmp/run/checkpoint-19",
        "/mnt/corpora",
        "/Users/ann/LA",
        "C:\\Users\\ann\\LA",
        "C:\\\\Users\\\\ann",
        "D:/Users/ann",
        "file:///data/LA",
    ],
)
def test_path_of_a_machine_is_found_with_its_line(path):
    (problem,) = find_leaks("training.json", f'{{\n"folder": "{path}"\n}}')

    assert problem.startswith("training.json, line 2: a path of this machine") and path[:8] in problem


def test_home_of_the_user_is_found_wherever_it_is(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: Path("/farm7/people/ann"))

    assert len(find_leaks("card", "kept in /farm7/people/ann/LA")) == 1
    assert find_leaks("card", "kept in /farm7/people/anna") == []


@pytest.mark.parametrize(
    "token",
    [
        "hf_" + "aB3" * 11,
        "Authorization: Bearer abcdef0123456789",
        "api_key = '0123456789abcdef0123'",
        "token: 0123456789abcdef0123",
        "ghp_" + "a1" * 18,
        "-----BEGIN RSA PRIVATE KEY-----",
    ],
)
def test_token_is_found_and_not_repeated(token):
    (problem,) = find_leaks("notes.txt", f"one\n{token}\n")

    assert "notes.txt, line 2: what looks like a token" in problem and token not in problem


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/home/ann/index.html",
        "results/tmp/x and ./mnt/x",
        "from huggingface_hub import hf_hub_download",
        "pad_token_id = config.pad_token_id",
        "token=os.environ['HF_TOKEN_OF_THE_MACHINE']",
        '"model.safetensors": "da623f0d936ed26d94c7f4ed1313d9007e10db322ce8ef9335983683fab52e8b"',
        "LA_E_2834763 A11 spoof -1.23456789",
    ],
)
def test_harmless_text_passes(text):
    assert find_leaks("file", text) == []


@pytest.mark.parametrize(
    ("value", "is_local"),
    [
        ("/data/anna/run7", True),
        ("/srv/gpfs/LA/", True),
        ("~anna/models/base", True),
        (r"D:\data\base", True),
        (r"\\server\share\base", True),
        ("facebook/wav2vec2-base", False),
        ("adamw_torch", False),
        ("~4 s / 64,000 samples", False),
    ],
)
def test_value_that_is_an_absolute_path_is_found_with_its_field(value, is_local):
    found = list(find_path_values({"training": {"names": [value, 3]}}))

    assert found == ([f"training.names: {value}"] if is_local else [])


def test_folder_of_the_run_and_the_users_token_are_found(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "of-my-own-hub")

    (path,) = find_leaks("notes.txt", "made in\n/gpfs/anna/run7.", Path("/gpfs/anna/run7"))
    (token,) = find_leaks("notes.txt", "by of-my-own-hub")

    assert path.startswith("notes.txt, line 2: a path of this machine, /gpfs/anna/run7")
    assert token == "notes.txt, line 1: the token that you are logged in with"
