"""What a card and the files beside it must not hold."""

from pathlib import Path

import pytest

from hub_cards.checks import check_card, check_text, local_values, without_folder


HEADER = """license: mit
pipeline_tag: audio-classification
tags:
- anti-spoofing
metrics:
- eer
model-index:
- name: mine
  results:
  - task:
      type: audio-classification
    dataset:
      name: ASVspoof 2019 LA
      type: asvspoof2019
    metrics:
    - type: eer
      value: 1.5
"""
BODY = "# Mine\n\n![DET](results/eval/det.png) and [scores](results/eval/scores.txt)\n"
FILES = {"results/eval/det.png", "results/eval/scores.txt", "a b.png"}


def card(header: str = HEADER, body: str = BODY) -> str:
    return f"---\n{header}---\n{body}"


def test_sound_card_passes():
    check_card(card(), FILES)


@pytest.mark.parametrize(
    "body",
    [
        "[web](https://huggingface.co/docs), [mail](mailto:a@b.org), [below](#results)\n",
        "[file with a blank](a%20b.png) and [part of one](results/eval/scores.txt#L3)\n",
        "`![not](a link.png)`\n\n```python\nx = y[0](nowhere.png)\n```\n",
    ],
)
def test_links_that_lead_somewhere_and_code_pass(body):
    check_card(card(body=body), FILES)


@pytest.mark.parametrize(
    ("body", "target"),
    [
        ("![DET](results/eval/other.png)", "results/eval/other.png"),
        ("[scores](scores.txt 'title')", "scores.txt"),
        ('<img width="9" src="curves.png">', "curves.png"),
        ("<a href='x.json'>x</a>", "x.json"),
        ("[text][1]\n\n[1]: lost.md", "lost.md"),
        ("[up](../results/eval/det.png)", "../results/eval/det.png"),
        ("[nothing]()", "nothing"),
    ],
)
def test_link_to_no_file_is_refused(body, target):
    with pytest.raises(ValueError, match=f"links to {target}"):
        check_card(card(body=body), FILES)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("license: mit", "license: my-own", "license 'my-own' is none of the Hub's"),
        ("license: mit", "license: [mit", "does not parse"),
        ("audio-classification\ntags", "hearing\ntags", "pipeline_tag 'hearing'"),
        ("- anti-spoofing", "- 2019", "tags must be a list of names"),
        ("value: 1.5", "value: .nan", "is nan"),
        ("value: 1.5", "score: 1.5", "model-index is not valid"),
        ("license: mit", "license: mit\nreleased: 2026-11-22", "released is a date"),
    ],
)
def test_wrong_header_is_refused(old, new, message):
    assert old in HEADER

    with pytest.raises(ValueError, match=message):
        check_card(card(HEADER.replace(old, new, 1)), FILES)


def test_card_without_header_is_refused():
    with pytest.raises(ValueError, match="no YAML header"):
        check_card(BODY, FILES)


def test_all_problems_are_listed_at_once():
    text = card(HEADER.replace("mit", "mine"), "[a](b.png)\n\nsee /home/ann/runs\n")

    with pytest.raises(ValueError) as error:
        check_card(text, FILES)

    assert [part in str(error.value) for part in ("'mine'", "b.png", "/home/ann/runs")] == [True] * 3


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
    (problem,) = check_text("training.json", f'{{\n"folder": "{path}"\n}}')

    assert problem.startswith("training.json, line 2: a path of a machine") and path[:8] in problem


def test_home_of_the_user_is_found_wherever_it_is(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: Path("/farm7/people/ann"))

    assert len(check_text("card", "kept in /farm7/people/ann/LA")) == 1
    assert check_text("card", "kept in /farm7/people/anna") == []


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
    (problem,) = check_text("notes.txt", f"one\n{token}\n")

    assert "notes.txt, line 2: what looks like a token or key" in problem and token not in problem


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
    assert check_text("file", text) == []


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
    assert without_folder(value) == shown
    is_local = value != shown
    assert list(local_values({"training": {"names": [value, 3]}})) == (
        [f"training.names: {value}"] if is_local else []
    )
