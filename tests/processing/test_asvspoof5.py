import shutil
from pathlib import Path

import pytest
from datasets import Features, Value

from processing.corpora import CorpusArguments, load_corpus
from processing.layouts import LAYOUTS
from processing.trials import FEATURES, Corpus


LINES = {
    "train": (
        "T_4850 T_0000000000 F - - - AC3 A05 spoof -\nT_3734 T_0000000011 F - - - - bonafide bonafide -\n"
    ),
    "dev": (
        "D_4461 D_0000000169 F - - - AC1 A14 spoof -\nD_0461 D_0000000190 M - - - - bonafide bonafide -\n"
    ),
    "eval": (
        "E_1607 E_0009538969 M C05 2 E_0009486171 AC1 A26 spoof -\n"
        "E_2040 E_0000000034 M - 0 - AC1 A31 spoof -\n"
        "E_5427 E_0000000150 F C10 5 E_0008183006 - bonafide bonafide -\n"
    ),
}
PROTOCOLS = {
    "train": "ASVspoof5.train.tsv",
    "dev": "ASVspoof5.dev.track_1.tsv",
    "eval": "ASVspoof5.eval.track_1.tsv",
}
FLAC = {"train": "flac_T", "dev": "flac_D", "eval": "flac_E_eval"}
NESTED = {split: f"ASVspoof5_{split}/{name}" for split, name in FLAC.items()}


def make(root: Path, *, protocols: str = ".", flac: dict[str, str] = FLAC, **lines: str) -> Path:
    """An ASVspoof 5 folder with these protocols and an empty file for each listed utterance."""
    for split, text in (lines or LINES).items():
        path = root / protocols / PROTOCOLS[split]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for line in text.splitlines():
            if len(line.split()) > 1:
                audio = root / flac[split] / f"{line.split()[1]}.flac"
                audio.parent.mkdir(parents=True, exist_ok=True)
                audio.touch()
    return root


def load(data_dir: Path, dataset: str | None = None, **arguments) -> Corpus:
    return load_corpus(CorpusArguments(dataset=dataset, data_dir=str(data_dir), **arguments))


def test_splits_have_the_trials_of_their_protocols(tmp_path):
    corpus = load(make(tmp_path))
    trials = {
        split: list(zip(rows["utterance_id"], rows["speaker_id"], rows["attack"], rows["label"], strict=True))
        for split, rows in corpus.splits.items()
    }
    assert corpus.name == "ASVspoof 5"
    assert trials == {
        "train": [("T_0000000000", "T_4850", "A05", 1), ("T_0000000011", "T_3734", "-", 0)],
        "dev": [("D_0000000169", "D_4461", "A14", 1), ("D_0000000190", "D_0461", "-", 0)],
        "eval": [
            ("E_0009538969", "E_1607", "A26", 1),
            ("E_0000000034", "E_2040", "A31", 1),
            ("E_0000000150", "E_5427", "-", 0),
        ],
    }


def test_rows_have_gender_codec_and_attack_tag(tmp_path):
    corpus = load(make(tmp_path))
    names = ("gender", "codec", "codec_quality", "codec_seed", "attack_tag")
    rows = corpus.splits["eval"]
    assert rows.features == Features({**FEATURES, **{name: Value("string") for name in names}})
    assert [rows[0][name] for name in names] == ["M", "C05", "2", "E_0009486171", "AC1"]
    assert corpus.breakdowns == ("codec",)


@pytest.mark.parametrize("flac", [FLAC, NESTED], ids=["flat", "nested"])
@pytest.mark.parametrize("protocols", [".", "ASVspoof5_protocols"])
@pytest.mark.parametrize("below", [".", "ASVspoof5"])
def test_the_folder_is_recognised_however_the_archives_were_unpacked(tmp_path, below, protocols, flac):
    root = make(tmp_path / "given" / below, protocols=protocols, flac=flac)
    corpus = load(tmp_path / "given")
    assert {split: Path(rows[0]["audio"]["path"]).parent for split, rows in corpus.splits.items()} == {
        split: root / folder for split, folder in flac.items()
    }


def test_a_folder_without_protocols_says_what_was_expected_and_where_to_get_it(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no ASVspoof5\.train\.tsv.*https://zenodo\.org/records/14498691"
    ):
        load(tmp_path, "asvspoof5")


def test_a_missing_file_is_an_error(tmp_path):
    (make(tmp_path) / "flac_E_eval" / "E_0000000034.flac").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of the 3 utterances .*E_0000000034\.flac.*--allow_missing"
    ):
        load(tmp_path)


def test_a_split_without_any_audio_is_left_out_only_with_allow_missing(tmp_path):
    shutil.rmtree(make(tmp_path) / "flac_E_eval")
    with pytest.raises(FileNotFoundError, match="3 of the 3 utterances"):
        load(tmp_path)
    corpus = load(tmp_path, allow_missing=True)
    assert list(corpus.splits) == ["train", "dev"]
    assert corpus.missing == {"train": 0, "dev": 0, "eval": 3}


def test_a_corpus_without_any_audio_is_an_error_even_with_allow_missing(tmp_path):
    (tmp_path / PROTOCOLS["train"]).write_text(LINES["train"])
    with pytest.raises(FileNotFoundError, match="none of the audio files"):
        load(tmp_path, allow_missing=True)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("T_4850 T_0000000001 F - - - AC3 A05 spoof", id="too short"),
        pytest.param("T_4850 T_0000000001 F - - - AC3 A05 spoof - -", id="too long"),
        pytest.param("T_4850 T_0000000001 F - - - AC3 A05 fake -", id="unknown key"),
        pytest.param("T_4850 T_0000000001 F - - - AC3 A05 bonafide -", id="bona fide with an attack"),
        pytest.param("T_4850 T_0000000001 F - - - AC3 - spoof -", id="spoof without an attack"),
    ],
)
def test_a_malformed_line_is_named_with_its_file_and_number(tmp_path, line):
    make(tmp_path, train=LINES["train"] + line + "\n")
    with pytest.raises(ValueError, match=rf"ASVspoof5\.train\.tsv, line 3: '{line}' is not "):
        LAYOUTS["asvspoof5"].load(tmp_path)
