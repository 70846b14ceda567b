import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from datasets import Audio, ClassLabel, Dataset, Features, Value
from hub_server import Hub, serve
from hypothesis import given, settings
from hypothesis import strategies as st

from processing.audio import decode_audio
from processing.audio_folder import load_hub
from processing.corpora import CorpusArguments, load_corpus, take_split
from processing.layouts import LAYOUTS
from processing.trials import Corpus, count_classes, list_trials, make_rows


REPOSITORY = Path(__file__).parents[2]
ROW = Features(
    {
        "utterance_id": Value("string"),
        "speaker_id": Value("string"),
        "audio": Audio(decode=False),
        "attack": Value("string"),
        "label": ClassLabel(names=["bonafide", "spoof"]),
    }
)
PROTOCOL_FOLDER = "ASVspoof2019_LA_cm_protocols"
PROTOCOL_NAMES = {
    "train": "ASVspoof2019.LA.cm.train.trn.txt",
    "dev": "ASVspoof2019.LA.cm.dev.trl.txt",
    "eval": "ASVspoof2019.LA.cm.eval.trl.txt",
}
TRAIN = "LA_0079 LA_T_1138215 - - bonafide\nLA_0080 LA_T_2041021 - A01 spoof\n"
DEV = "LA_0069 LA_D_1047731 - - bonafide\nLA_0069 LA_D_1105538 - A02 spoof\nLA_0070 LA_D_7 - - bonafide\n"
EVAL = (
    "LA_0039 LA_E_2834763 - A11 spoof\nLA_0014 LA_E_1665632 - A07 spoof\nLA_0004 LA_E_5007220 - - bonafide\n"
)


def write_audio(path: Path) -> None:
    """50 ms of noise, another in each file name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(list(path.name.encode()))
    soundfile.write(path, generator.uniform(-0.5, 0.5, 800), 16_000, subtype="PCM_16")


def make_la(root: Path, **protocols: str) -> Path:
    """An ASVspoof 2019 LA folder with these protocols and a FLAC file of every utterance."""
    (root / PROTOCOL_FOLDER).mkdir(parents=True)
    for split, text in protocols.items():
        (root / PROTOCOL_FOLDER / PROTOCOL_NAMES[split]).write_text(text)
        for line in text.splitlines():
            if len(line.split()) > 1:
                write_audio(la_file(root, split, line.split()[1]))
    return root


def la_file(root: Path, split: str, utterance: str) -> Path:
    return root / f"ASVspoof2019_LA_{split}" / "flac" / f"{utterance}.flac"


def make_in_the_wild(root: Path, *lines: str, header: str = "file,speaker,label") -> Path:
    """An In-the-Wild folder with these lines in its `meta.csv` and a WAV file for each."""
    for line in lines:
        write_audio(root / line.split(",")[0])
    (root / "meta.csv").write_text("\n".join([header, *lines]) + "\n")
    return root


def make_folder(root: Path, *names: str, **metadata: str) -> Path:
    """An audiofolder with these files, and a `metadata.csv` in the folder of each split that is named."""
    for name in names:
        write_audio(root / name)
    for split, text in metadata.items():
        (root / split / "metadata.csv").write_text(text)
    return root


def load(dataset: str | Path | None = None, **arguments) -> Corpus:
    return load_corpus(CorpusArguments(dataset=dataset and str(dataset), **arguments))


def describe(corpus: Corpus) -> dict[str, list]:
    """All that a corpus says, by split; the recordings as their samples."""
    keys = ROW["label"].names
    return {
        split: [
            [row["utterance_id"], row["speaker_id"], row["attack"], keys[row["label"]]]
            + [decode_audio(row["audio"]).tolist()]
            for row in rows
        ]
        for split, rows in corpus.splits.items()
    }


def run_script(script: str, environment: Mapping[str, str], *arguments: str) -> str:
    """What a script prints in a process of its own."""
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def trials(rows: Dataset) -> list[tuple[str, ...]]:
    """Utterance, speaker, attack and key of each row."""
    keys = rows.features["label"].int2str(rows["label"][:])
    columns = [rows[column][:] for column in ("utterance_id", "speaker_id", "attack")]
    return list(zip(*columns, keys, strict=True))


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path, monkeypatch) -> Path:
    """Data sets that are built from folders go here instead of into the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets_cache")
    return tmp_path / "datasets_cache"


@pytest.fixture
def la(tmp_path) -> Path:
    return make_la(tmp_path / "LA", train=TRAIN, dev=DEV, eval=EVAL)


@pytest.fixture
def wild(tmp_path) -> Path:
    return make_in_the_wild(
        tmp_path / "wild",
        "0.wav,Alec Guinness,spoof",
        "1.wav,Alec Guinness,spoof",
        "2.wav,Barack Obama,bona-fide",
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    return make_folder(tmp_path / "folder", "train/bonafide/a.wav", "train/spoof/b.wav")


# The row


@pytest.mark.parametrize(("source", "split"), [("la", "eval"), ("wild", "eval"), ("folder", "train")])
def test_every_source_gives_the_row_of_the_contract(request, source, split):
    rows = load(data_dir=str(request.getfixturevalue(source))).splits[split]
    assert rows.features == ROW
    assert rows.column_names == list(ROW)


@pytest.mark.parametrize(
    ("source", "split", "first"),
    [
        ("la", "dev", "ASVspoof2019_LA_dev/flac/LA_D_1047731.flac"),
        ("wild", "eval", "0.wav"),
        ("folder", "train", "train/bonafide/a.wav"),
    ],
)
def test_audio_stays_on_disk(request, source, split, first):
    root = request.getfixturevalue(source)
    rows = load(data_dir=str(root)).splits[split]
    assert rows[0]["audio"] == {"path": str(root / first), "bytes": None}


@pytest.mark.parametrize("source", ["la", "wild", "folder"])
def test_audio_of_a_relative_folder_is_found_from_anywhere(request, source, monkeypatch):
    root = request.getfixturevalue(source)
    monkeypatch.chdir(root.parent)
    splits = load(data_dir=root.name).splits
    monkeypatch.chdir("/")
    assert {len(decode_audio(row["audio"])) for rows in splits.values() for row in rows} == {800}


def test_columns_of_a_corpus_of_its_own_follow_the_row():
    trial = {"utterance_id": "b", "speaker_id": "S2", "attack": "A07", "key": "spoof", "codec": "opus"}
    rows = make_rows(pd.DataFrame([trial]), ["b.wav"])
    assert rows.features == Features({**ROW, "codec": Value("string")})
    assert (trials(rows), rows["codec"][:]) == ([("b", "S2", "A07", "spoof")], ["opus"])


# ASVspoof 2019 LA


@pytest.mark.parametrize("below", [".", "LA", "LA/LA"])
def test_la_is_recognised_from_its_folder_and_from_those_above(tmp_path, below):
    make_la(tmp_path / "given" / below, train=TRAIN)
    corpus = load(data_dir=str(tmp_path / "given"))
    assert (corpus.name, list(corpus.splits)) == ("ASVspoof 2019 LA", ["train"])


@pytest.mark.parametrize("arguments", [{"dataset": "asvspoof2019-la"}, {}], ids=["named", "not named"])
def test_la_is_the_same_whether_named_or_recognised(la, arguments):
    assert describe(load(data_dir=str(la), **arguments)) == describe(load(la))


def test_la_rows_have_the_protocols_speakers_attacks_and_keys(la):
    corpus = load(data_dir=str(la))
    assert corpus.missing == {"train": 0, "dev": 0, "eval": 0}
    assert {split: trials(rows) for split, rows in corpus.splits.items()} == {
        "train": [("LA_T_1138215", "LA_0079", "-", "bonafide"), ("LA_T_2041021", "LA_0080", "A01", "spoof")],
        "dev": [
            ("LA_D_1047731", "LA_0069", "-", "bonafide"),
            ("LA_D_1105538", "LA_0069", "A02", "spoof"),
            ("LA_D_7", "LA_0070", "-", "bonafide"),
        ],
        "eval": [
            ("LA_E_2834763", "LA_0039", "A11", "spoof"),
            ("LA_E_1665632", "LA_0014", "A07", "spoof"),
            ("LA_E_5007220", "LA_0004", "-", "bonafide"),
        ],
    }


def test_flac_files_that_no_protocol_lists_are_skipped(la):
    write_audio(la_file(la, "eval", "LA_E_A_enrolment"))
    corpus = load(data_dir=str(la))
    assert len(corpus.splits["eval"]) == 3
    assert corpus.missing["eval"] == 0


def test_listed_files_that_are_missing_are_counted_and_the_first_named(la):
    la_file(la, "eval", "LA_E_1665632").unlink()
    la_file(la, "eval", "LA_E_5007220").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"2 of the 3 utterances .*first is LA_E_1665632\.flac.*--allow_missing"
    ):
        load(data_dir=str(la))


def test_allow_missing_leaves_missing_files_out_and_records_their_count(la):
    la_file(la, "eval", "LA_E_1665632").unlink()
    corpus = load(data_dir=str(la), allow_missing=True)
    assert corpus.missing == {"train": 0, "dev": 0, "eval": 1}
    assert trials(corpus.splits["eval"]) == [
        ("LA_E_2834763", "LA_0039", "A11", "spoof"),
        ("LA_E_5007220", "LA_0004", "-", "bonafide"),
    ]
    assert [Path(row["audio"]["path"]).stem for row in corpus.splits["eval"]] == [
        "LA_E_2834763",
        "LA_E_5007220",
    ]


@pytest.mark.parametrize("kept", ["flac", "."], ids=["empty folder", "no folder"])
def test_a_split_without_any_file_is_left_out_only_with_allow_missing(la, kept):
    shutil.rmtree(la / "ASVspoof2019_LA_dev")
    (la / "ASVspoof2019_LA_dev" / kept).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"3 of the 3 utterances .*--allow_missing"):
        load(data_dir=str(la))
    corpus = load(data_dir=str(la), allow_missing=True)
    assert sorted(corpus.splits) == ["eval", "train"]
    assert corpus.missing == {"train": 0, "dev": 3, "eval": 0}


def test_a_corpus_without_any_audio_is_an_error_even_with_allow_missing(la):
    for split in ("train", "dev", "eval"):
        shutil.rmtree(la / f"ASVspoof2019_LA_{split}")
    with pytest.raises(FileNotFoundError, match="none of the audio files"):
        load(data_dir=str(la), allow_missing=True)


def test_a_link_to_a_file_that_is_gone_counts_as_missing(la):
    la_file(la, "eval", "LA_E_1665632").unlink()
    la_file(la, "eval", "LA_E_1665632").symlink_to(la / "gone.flac")
    with pytest.raises(FileNotFoundError, match="1 of the 3 utterances"):
        load(data_dir=str(la))


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("LA_0080 LA_T_2041021 - A01", id="too short"),
        pytest.param("LA_0080 LA_T_2041021 - A01 spoof -", id="too long"),
        pytest.param("LA_0080 LA_T_2041021 - A01 fake", id="unknown key"),
        pytest.param("LA_0080 LA_T_2041021 - - Bonafide", id="key in capitals"),
        pytest.param("LA_0080 LA_T_2041021 - A01 bonafide", id="bona fide with an attack"),
        pytest.param("LA_0080 LA_T_2041021 - - spoof", id="spoof without an attack"),
    ],
)
def test_a_malformed_protocol_line_is_named_with_its_file_and_number(tmp_path, line):
    make_la(tmp_path / "LA", train=TRAIN.splitlines()[0] + "\n\n" + line + "\n")
    with pytest.raises(ValueError, match=rf"{PROTOCOL_NAMES['train']}, line 3: '{line}'"):
        load(data_dir=str(tmp_path))


def test_an_utterance_listed_twice_is_refused(tmp_path):
    make_la(tmp_path / "LA", train=TRAIN + "LA_0081 LA_T_2041021 - A02 spoof\n")
    with pytest.raises(
        ValueError, match=rf"{PROTOCOL_NAMES['train']}: utterance LA_T_2041021 is listed 2 times"
    ):
        load(data_dir=str(tmp_path))


def test_an_empty_protocol_is_refused(tmp_path):
    make_la(tmp_path / "LA", train="\n")
    with pytest.raises(ValueError, match=rf"{PROTOCOL_NAMES['train']} lists no trial"):
        load(data_dir=str(tmp_path))


def test_a_protocol_folder_without_the_official_names_is_refused(tmp_path):
    make_la(tmp_path / "LA")
    (tmp_path / "LA" / PROTOCOL_FOLDER / "train.txt").write_text(TRAIN)
    with pytest.raises(FileNotFoundError, match=r"there is no .*ASVspoof2019\.LA\.cm\.train\.trn\.txt"):
        load(data_dir=str(tmp_path))


WORD = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: text.split() == [text]
)
ATTACK = WORD.filter(lambda text: text != "bonafide")  # which stands for none


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(WORD, WORD, ATTACK), min_size=1, unique_by=lambda trial: trial[1]))
def test_a_protocol_reads_back_whatever_its_names_are(tmp_path_factory, listed):
    path = tmp_path_factory.mktemp("protocols") / "protocol.txt"
    keys = ["bonafide" if attack == "-" else "spoof" for _, _, attack in listed]
    lines = [f"{s} {u} - {a} {key}\n" for (s, u, a), key in zip(listed, keys, strict=True)]
    path.write_text("".join(lines), encoding="utf-8", newline="")
    columns = LAYOUTS["asvspoof2019-la"].read_protocol(path)
    assert list(zip(columns.speaker_id, columns.utterance_id, columns.attack, strict=True)) == listed
    assert columns.key.tolist() == keys


@pytest.mark.parametrize(
    ("split", "bonafide", "spoof"), [("train", 146, 151), ("dev", 149, 151), ("eval", 15, 16)]
)
def test_real_corpus_has_the_published_counts(shared_data, split, bonafide, spoof):
    corpus = load(data_dir=str(shared_data / "asvspoof2019_la_mini"))
    assert count_classes(list_trials(corpus.splits[split])) == {"bonafide": bonafide, "spoof": spoof}
    assert corpus.missing[split] == 0


@pytest.mark.parametrize(
    ("split", "bonafide", "spoof"),
    [("train", 2_580, 22_800), ("dev", 2_548, 22_296), ("eval", 7_355, 63_882)],
)
def test_whole_protocol_has_the_published_counts(shared_data, split, bonafide, spoof):
    path = shared_data / "asvspoof2019_la_protocols" / PROTOCOL_NAMES[split]
    trials = LAYOUTS["asvspoof2019-la"].read_protocol(path)
    assert Counter(trials.key) == {"bonafide": bonafide, "spoof": spoof}


def test_whole_eval_protocol_has_4914_trials_of_each_of_13_attacks(shared_data):
    path = shared_data / "asvspoof2019_la_protocols" / PROTOCOL_NAMES["eval"]
    attacks = Counter(LAYOUTS["asvspoof2019-la"].read_protocol(path).attack)
    assert attacks == {"-": 7_355} | {f"A{number:02d}": 4_914 for number in range(7, 20)}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc; getrusage counts the parent's memory too")
def test_memory_of_a_whole_eval_split_stays_below_300_mb(tmp_path):
    path = tmp_path / "protocol.txt"
    lines = (f"LA_{i % 67:04d} LA_E_{i:07d} - A{7 + i % 13:02d} spoof\n" for i in range(71_237))
    path.write_text("".join(lines))
    script = f"""
import re
from pathlib import Path
from processing.layouts import LAYOUTS
from processing.trials import make_rows
def kibibytes(name):
    return int(re.search(rf"{{name}}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = kibibytes("VmRSS")
trials = LAYOUTS["asvspoof2019-la"].read_protocol(Path({str(path)!r}))
rows = make_rows(trials, "/corpora/LA/flac/" + trials["utterance_id"] + ".flac")
print(len(rows), kibibytes("VmHWM") - before)
"""
    number, growth = map(int, run_script(script, os.environ).split())
    assert number == 71_237
    assert 0 < growth < 300 * 1024


# In-the-Wild


@pytest.mark.parametrize("below", [".", "release_in_the_wild"])
def test_in_the_wild_is_recognised_from_its_folder_and_from_that_above(tmp_path, below):
    make_in_the_wild(tmp_path / "given" / below, "0.wav,Alec Guinness,spoof")
    corpus = load(data_dir=str(tmp_path / "given"))
    assert (corpus.name, list(corpus.splits)) == ("In-the-Wild", ["eval"])


def test_in_the_wild_rows_have_an_unknown_attack(wild):
    corpus = load("in-the-wild", data_dir=str(wild))
    assert corpus.missing == {"eval": 0}
    assert trials(corpus.splits["eval"]) == [
        ("0", "Alec Guinness", "unknown", "spoof"),
        ("1", "Alec Guinness", "unknown", "spoof"),
        ("2", "Barack Obama", "-", "bonafide"),
    ]


def test_in_the_wild_file_names_lose_only_their_last_ending(tmp_path):
    root = make_in_the_wild(tmp_path, "1.5.wav,A,spoof", "1.wav,A,spoof", "é.v2.wav,A,bona-fide")
    assert load(data_dir=str(root)).splits["eval"]["utterance_id"][:] == ["1.5", "1", "é.v2"]


def test_in_the_wild_meta_may_come_from_windows(tmp_path):
    root = make_in_the_wild(tmp_path, "0.wav,A,spoof")
    (root / "meta.csv").write_bytes(b'\xef\xbb\xbffile,speaker,label\r\n0.wav,"Guinness, Alec",spoof\r\n')
    assert trials(load(data_dir=str(root)).splits["eval"]) == [("0", "Guinness, Alec", "unknown", "spoof")]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("3.wav,Alec Guinness,human", id="bad label"),
        pytest.param("3.wav,spoof", id="too short"),
        pytest.param("3.wav,Alec Guinness,spoof,-", id="too long"),
        pytest.param(",Alec Guinness,spoof", id="no file"),
    ],
)
def test_a_malformed_line_of_in_the_wild_is_named_with_its_file_and_number(wild, line):
    with open(wild / "meta.csv", "a") as meta:
        meta.write(f"{line}\n")
    with pytest.raises(ValueError, match=r"meta\.csv, line 5: .*bona-fide or spoof"):
        load(data_dir=str(wild))


def test_in_the_wild_file_listed_twice_is_refused(wild):
    with open(wild / "meta.csv", "a") as meta:
        meta.write("1.wav,Someone Else,bona-fide\n")
    with pytest.raises(ValueError, match="utterance 1 is listed 2 times"):
        load(data_dir=str(wild))


def test_missing_files_of_in_the_wild_are_an_error(wild):
    (wild / "1.wav").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 3 utterances .*first is 1\.wav"):
        load(data_dir=str(wild))


def test_missing_files_of_in_the_wild_are_left_out_on_request(wild):
    (wild / "1.wav").unlink()
    corpus = load("in-the-wild", data_dir=str(wild), allow_missing=True)
    assert corpus.missing == {"eval": 1}
    assert corpus.splits["eval"]["utterance_id"][:] == ["0", "2"]


def test_another_header_is_not_in_the_wild(tmp_path):
    root = make_in_the_wild(tmp_path, "0.wav,A,spoof", header="path,speaker,label")
    with pytest.raises(FileNotFoundError, match="no meta.csv with the header file,speaker,label"):
        load("in-the-wild", data_dir=str(root))


# Names and folders


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("asvspoof2019-la", "datashare.ed.ac.uk"),
        ("asvspoof2021-la", "zenodo.org/records/4837263"),
        ("asvspoof2021-df", "zenodo.org/records/4835108"),
        ("asvspoof5", "zenodo.org/records/14498691"),
        ("in-the-wild", "deepfake-total.com"),
    ],
)
def test_a_named_corpus_without_its_folder_says_where_to_get_it(name, address):
    with pytest.raises(ValueError, match=f"needs --data_dir.*{address}"):
        load(name)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_named_corpus_in_another_layout_says_what_was_expected_and_where_to_get_it(folder, name):
    with pytest.raises(FileNotFoundError, match=r"is not an .* folder: there is no .*https://"):
        load(name, data_dir=str(folder))


@pytest.mark.parametrize(
    "arguments",
    [
        {"data_dir": "nowhere"},
        {"dataset": "asvspoof2019-la", "data_dir": "nowhere"},
        {"dataset": "/nowhere"},
        {"dataset": "./nowhere"},
        {"dataset": "~/nowhere"},
        {"dataset": "corpora/LA/nowhere"},
    ],
    ids=str,
)
def test_a_folder_that_does_not_exist_is_named(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="There is no folder .*nowhere"):
        load(**arguments)


@pytest.mark.parametrize("argument", ["dataset", "data_dir"])
def test_a_folder_may_be_given_from_the_home_directory(la, monkeypatch, argument):
    monkeypatch.setenv("HOME", str(la.parent))
    assert load(**{argument: "~/LA"}).name == "ASVspoof 2019 LA"


def test_a_folder_for_the_demo_corpus_is_refused(la):
    with pytest.raises(ValueError, match="leave --data_dir out"):
        load("demo", data_dir=str(la))


def test_an_unknown_name_with_a_folder_lists_the_names(la):
    with pytest.raises(
        ValueError,
        match="asvspoof2021 is not one of .* asvspoof2019-la, asvspoof2021-la, asvspoof2021-df, asvspoof5, "
        "in-the-wild, demo;",
    ):
        load("asvspoof2021", data_dir=str(la))


@pytest.mark.parametrize("argument", ["dataset", "data_dir"])
def test_an_empty_argument_means_neither_the_demo_nor_the_current_folder(argument):
    with pytest.raises(ValueError, match="--dataset or --data_dir is empty"):
        load(**{argument: ""})


# Splits


def test_a_split_is_taken_whole(la):
    assert trials(take_split(load(la), "dev")) == trials(load(la).splits["dev"])


@pytest.mark.parametrize(
    ("spec", "rows"),
    [("train[:50%]", [0, 1]), ("train[50%:]", [2, 3]), ("train[1:3]", [1, 2]), ("train[-2:]", [2, 3])],
)
def test_a_slice_of_a_split_holds_its_rows_in_order(tmp_path, spec, rows):
    lines = [f"LA_0001 LA_T_{i} - {'A01 spoof' if i % 2 else '- bonafide'}\n" for i in range(4)]
    corpus = load(make_la(tmp_path, train="".join(lines)))
    assert take_split(corpus, spec)["utterance_id"][:] == [f"LA_T_{i}" for i in rows]


@pytest.mark.parametrize("spec", ["test", "train+dev", "train[", ""])
def test_a_split_that_there_is_not_is_answered_with_those_there_are(la, spec):
    with pytest.raises(ValueError) as error:
        take_split(load(la), spec)
    assert f"has no split {spec!r}, only train (2), dev (3), eval (3). Name a split" in str(error.value)
    assert "--train_split" not in str(error.value)  # an option of train.py alone


@pytest.mark.parametrize(
    ("spec", "counts"),
    [
        ("train[:1]", "1 bonafide, 0 spoof"),
        ("eval[:2]", "0 bonafide, 2 spoof"),
        ("dev[:0]", "0 bonafide, 0 spoof"),
        ("dev[100%:]", "0 bonafide, 0 spoof"),
        ("dev[2:1]", "0 bonafide, 0 spoof"),
    ],
)
def test_a_split_without_both_classes_is_refused(la, spec, counts):
    with pytest.raises(ValueError) as error:
        take_split(load(la), spec)
    assert f"split {spec}: bona fide and spoofed trials are needed, but there are {counts}" in str(
        error.value
    )


# Folders of labelled recordings


@pytest.mark.parametrize(
    ("bonafide", "spoof"),
    [("bonafide", "spoof"), ("Bona-Fide", "SPOOF"), ("Real", "fake"), ("GENUINE", "Fake")],
)
def test_label_folders_are_understood_in_any_case(tmp_path, bonafide, spoof):
    root = make_folder(tmp_path / "corpus", f"train/{bonafide}/b.wav", f"train/{spoof}/a.wav")
    assert sorted(trials(load(root).splits["train"])) == [
        ("a", "-", "unknown", "spoof"),
        ("b", "-", "-", "bonafide"),
    ]


@pytest.mark.parametrize("names", [("train", "validation", "test"), ("train", "dev", "eval")], ids=" ".join)
def test_split_folders_become_train_dev_and_eval(tmp_path, names):
    files = [f"{split}/{label}/{split} {label}.wav" for split in names for label in ("bonafide", "spoof")]
    corpus = load(make_folder(tmp_path / "corpus", *files))
    assert {split: rows["utterance_id"][:] for split, rows in corpus.splits.items()} == {
        split: [f"{name}%20bonafide", f"{name}%20spoof"]
        for split, name in zip(("train", "dev", "eval"), names, strict=True)
    }


def test_a_folder_without_splits_is_train_wherever_it_lies(tmp_path):
    root = make_folder(tmp_path / "test" / "dev", "bonafide/a.wav", "spoof/b.wav")
    assert {split: trials(rows) for split, rows in load(root).splits.items()} == {
        "train": [("a", "-", "-", "bonafide"), ("b", "-", "unknown", "spoof")]
    }


def test_spaces_in_file_names_do_not_break_the_columns_of_a_score_file(tmp_path):
    root = make_folder(tmp_path / "corpus", "bonafide/one two.wav", "spoof/100%20.wav", "spoof/a\u3000b.wav")
    assert sorted(load(root).splits["train"]["utterance_id"]) == ["100%2520", "a%E3%80%80b", "one%20two"]


def test_a_recording_listed_twice_is_refused_with_the_way_out(tmp_path):
    metadata = "file_name,key\na.wav,bonafide\na.wav,bonafide\n"
    root = make_folder(tmp_path / "corpus", "train/a.wav", train=metadata)
    with pytest.raises(ValueError, match="--id_column.*utterance .*a is listed 2 times"):
        load(root)


def test_other_labels_are_refused_with_a_list_of_those_found(tmp_path):
    root = make_folder(tmp_path / "corpus", "human/a.wav", "robot/b.wav", "robot/c.wav")
    with pytest.raises(
        ValueError, match=r"must be spelt bonafide/.*found were 'robot' \(2x\), 'human' \(1x\)"
    ):
        load(root)


@pytest.mark.parametrize(
    "names",
    [("human", "Robot"), ("0", "1"), ("spoof", "real")],
    ids=["words", "numbers", "against the names"],
)
def test_a_label_map_says_what_labels_mean_that_are_spelt_otherwise(tmp_path, names):
    root = make_folder(tmp_path / "corpus", f"train/{names[0]}/a.wav", f"train/{names[1]}/b.wav")
    rows = load(root, label_map=f"{names[0]}=bonafide, {names[1].lower()}=spoof").splits["train"]
    assert sorted(trials(rows)) == [("a", "-", "-", "bonafide"), ("b", "-", "unknown", "spoof")]


def test_a_label_map_adds_to_the_spellings_that_are_known(tmp_path):
    root = make_folder(tmp_path / "corpus", "train/real/a.wav", "train/deepfake/b.wav", "train/fake/c.wav")
    rows = load(root, label_map="deepfake=spoof").splits["train"]
    assert sorted(key for *_, key in trials(rows)) == ["bonafide", "spoof", "spoof"]


@pytest.mark.parametrize(
    "label_map", ["human", "human=real", "=spoof", "a=spoof,A=bonafide"], ids=lambda text: text
)
def test_a_label_map_that_does_not_parse_is_refused(folder, label_map):
    with pytest.raises(ValueError, match="--label_map .* is not a list of each label once"):
        load(folder, label_map=label_map)


def test_metadata_names_key_speaker_attack_and_utterance(tmp_path):
    root = make_folder(
        tmp_path / "corpus",
        *(f"train/{name}.wav" for name in "abc"),
        train="file_name,key,speaker_id,attack,utterance_id\n"
        "b.wav,spoof,S 1,A07,one\na.wav,Bona-Fide,S2,-,two\nc.wav,fake,S2,A 8,three\n",
    )
    assert trials(load(root).splits["train"]) == [
        ("one", "S%201", "A07", "spoof"),
        ("two", "S2", "-", "bonafide"),
        ("three", "S2", "A%208", "spoof"),
    ]


def test_speakers_and_attacks_that_metadata_leave_open_are_not_named_none(tmp_path):
    root = make_folder(
        tmp_path / "corpus",
        *(f"train/{name}.wav" for name in "abc"),
        train="file_name,key,speaker,attack\na.wav,bonafide,S1,\nb.wav,spoof,,\nc.wav,spoof,S1,A07\n",
    )
    assert trials(load(root).splits["train"]) == [
        ("a", "S1", "-", "bonafide"),
        ("b", "-", "unknown", "spoof"),
        ("c", "S1", "A07", "spoof"),
    ]


def test_metadata_decide_which_files_belong(tmp_path):
    root = make_folder(
        tmp_path / "corpus",
        *(f"train/{name}.wav" for name in "abc"),
        train="file_name,key\na.wav,bonafide\nc.wav,spoof\n",
    )
    assert load(root).splits["train"]["utterance_id"][:] == ["a", "c"]


def test_files_that_metadata_list_but_are_not_there_are_an_error(tmp_path):
    root = make_folder(
        tmp_path / "corpus", "train/a.wav", train="file_name,key\na.wav,bonafide\nb.wav,spoof\nc.wav,spoof\n"
    )
    with pytest.raises(FileNotFoundError, match=r"2 of the 3 utterances .*first is train/b\.wav"):
        load(root)
    corpus = load(root, allow_missing=True)
    assert (corpus.missing, corpus.splits["train"]["utterance_id"][:]) == ({"train": 2}, ["a"])


OWN_COLUMNS = (
    "file_name,reference_file_name,Urteil,label,Kennung,Sprecher,Verfahren\n"
    "a.wav,b.wav,bonafide,0,u 1,Anna,-\n"
    "b.wav,a.wav,spoof,1,u 2,Otto,WaveNet\n"
)
OWN_NAMES = {
    "audio_column": "reference",
    "label_column": "Urteil",
    "id_column": "Kennung",
    "speaker_column": "Sprecher",
    "attack_column": "Verfahren",
}


@pytest.fixture
def own_columns(tmp_path) -> Path:
    return make_folder(tmp_path / "corpus", "train/a.wav", "train/b.wav", train=OWN_COLUMNS)


def test_columns_are_taken_by_the_names_given(own_columns):
    rows = load(own_columns, **OWN_NAMES).splits["train"]
    assert rows.features == ROW
    assert trials(rows) == [("u%201", "Anna", "-", "bonafide"), ("u%202", "Otto", "WaveNet", "spoof")]
    assert [Path(row["audio"]["path"]).name for row in rows] == ["b.wav", "a.wav"]


@pytest.mark.parametrize("option", OWN_NAMES)
def test_a_named_column_that_there_is_not_is_answered_with_those_there_are(own_columns, option):
    with pytest.raises(ValueError, match=r"nothing.* columns .*audio \(Audio\).* Urteil \(.*string\)"):
        load(own_columns, **OWN_NAMES | {option: "nothing"})


def test_two_audio_columns_must_be_chosen_from(own_columns):
    with pytest.raises(
        ValueError, match=r"audio \(Audio\), reference \(Audio\).*Name it with --audio_column"
    ):
        load(own_columns, label_column="Urteil")


@pytest.mark.parametrize("column", ["label", "Urteil"], ids=["numbers", "text"])
def test_an_audio_column_that_holds_no_audio_is_refused(own_columns, column):
    with pytest.raises(FileNotFoundError, match=f"column {column} have no audio file.*--audio_column"):
        load(own_columns, **OWN_NAMES | {"audio_column": column})


def test_two_possible_label_columns_must_be_chosen_from(tmp_path):
    metadata = "file_name,key,label\na.wav,bonafide,spoof\nb.wav,spoof,bonafide\n"
    root = make_folder(tmp_path / "corpus", "train/a.wav", "train/b.wav", train=metadata)
    with pytest.raises(ValueError, match="2 columns could be the label.*--label_column"):
        load(root)
    assert [key for *_, key in trials(load(root, label_column="label").splits["train"])] == [
        "spoof",
        "bonafide",
    ]


def test_labels_without_names_mean_what_the_label_map_says(own_columns):
    options = OWN_NAMES | {"label_column": "label", "label_map": "0=bonafide,1=spoof"}
    assert [key for *_, key in trials(load(own_columns, **options).splits["train"])] == ["bonafide", "spoof"]


def test_labels_without_names_are_refused(own_columns):
    with pytest.raises(ValueError, match=r"column label must be spelt .* found were '0' \(1x\), '1' \(1x\)"):
        load(own_columns, **OWN_NAMES | {"label_column": "label"})


def test_recordings_without_labels_are_refused(tmp_path):
    root = make_folder(tmp_path / "corpus", "a.wav", "b.wav")
    with pytest.raises(ValueError, match="2 recordings lie in no folder that is named for their label"):
        load(root)


def test_a_folder_without_recordings_says_what_was_expected(tmp_path):
    (tmp_path / "notes.txt").write_text("bonafide\n")
    with pytest.raises(ValueError, match=r"holds no recordings, but 1 \.txt.*<split>/<label>/<file>"):
        load(tmp_path)


# The Hub


HUB_SCRIPT = """
import json, sys, torch
from types import SimpleNamespace
from processing.corpora import CorpusArguments, load_corpus
from processing.streamed_rows import StreamedRows
from test_corpora import describe
found = {}
for name in sys.argv[1:]:
    try:
        corpus = load_corpus(CorpusArguments(name))
        found[name] = describe(corpus)
        found[f"{name}, called"] = [corpus.name, corpus.hub]
    except Exception as error:
        found[name] = f"{type(error).__name__}: {error}"
corpus = load_corpus(CorpusArguments("lab/parquet"), streaming=True)
args = SimpleNamespace(
    seed=0, process_index=0, world_size=1, train_batch_size=2, dataloader_drop_last=False
)
rows = StreamedRows(corpus.splits["train"], args, torch.tensor(0))
corpus.splits["train"] = sorted(rows, key=lambda row: row["utterance_id"])
found["streamed"] = describe(corpus)
print(json.dumps(found))
"""
HUB_SPLITS = {"train": "train", "dev": "validation", "eval": "test"}


def publish_parquet(corpus: Corpus, folder: Path) -> None:
    """As `push_to_hub` does: the recordings inside, and the attack of bona fide speech left open."""
    names = ["spoof", "bonafide"]
    features = Features(
        {
            "audio": Audio(sampling_rate=16_000),
            "key": ClassLabel(names=names),
            "speaker_id": Value("string"),
            "attack": Value("string"),
        }
    )
    folder.mkdir(parents=True)
    for split, rows in corpus.splits.items():
        columns = {
            "audio": [
                {"bytes": path.read_bytes(), "path": path.name}
                for path in (Path(row["audio"]["path"]) for row in rows)
            ],
            "key": [names.index(key) for *_, key in trials(rows)],
            "speaker_id": rows["speaker_id"][:],
            "attack": [None if attack == "-" else attack for attack in rows["attack"]],
        }
        table = pa.table(columns, schema=features.arrow_schema)
        pq.write_table(table, folder / f"{HUB_SPLITS[split]}-00000-of-00001.parquet")


def publish_benchmark(rows: Dataset, folder: Path) -> None:
    """In the format of the Speech anti-spoofing benchmark."""
    folder.mkdir(parents=True)
    names = "utterance_id", "speaker_id", "attack_id"
    notes = [(u, s, a.replace("-", "bonafide")) for u, s, a, _ in trials(rows)]
    columns = {
        "path": [f"{i}.flac" for i in range(len(rows))],
        "audio": [{"bytes": Path(row["audio"]["path"]).read_bytes(), "path": "a.flac"} for row in rows],
        "label": [int(key == "spoof") for *_, key in trials(rows)],
        "notes": [json.dumps(dict(zip(names, of, strict=True))) for of in notes],
    }
    features = Features(path=Value("string"), audio=Audio(16_000), notes=Value("string"))
    features["label"] = ClassLabel(names=["bonafide", "spoof"])
    schema = Features({name: features[name] for name in columns}).arrow_schema
    pq.write_table(pa.table(columns, schema=schema), folder / "test-00000-of-00001.parquet")


def publish_files(corpus: Corpus, folder: Path, *, metadata: bool) -> None:
    """Loose recordings, beside a `metadata.csv` or in a folder for each label."""
    for split, rows in corpus.splits.items():
        below, lines = folder / HUB_SPLITS[split], ["file_name,key,speaker_id,attack"]
        for row, (_, speaker, attack, key) in zip(rows, trials(rows), strict=True):
            source = Path(row["audio"]["path"])
            target = below / source.name if metadata else below / key / source.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
            lines.append(f"{source.name},{key},{speaker},{attack}")
        if metadata:
            (below / "metadata.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """The repositories of a Hub, and beside them the corpus `LA` that all of them hold."""
    root = tmp_path_factory.mktemp("published")
    corpus = LAYOUTS["asvspoof2019-la"].load(make_la(root / "LA", train=TRAIN, dev=DEV, eval=EVAL))
    repositories = root / "hub" / "datasets" / "lab"
    publish_parquet(corpus, repositories / "parquet" / "data")
    publish_benchmark(corpus.splits["eval"], repositories / "ASVspoof2019_LA" / "data")
    publish_files(corpus, repositories / "metadata", metadata=True)
    publish_files(corpus, repositories / "folders", metadata=False)
    return root


@pytest.fixture(scope="module")
def hub(published) -> Iterator[Hub]:
    with serve(published / "hub") as hub:
        yield hub


@pytest.fixture(scope="module")
def from_hub(hub, tmp_path_factory) -> dict[str, dict[str, list] | str]:
    """
    What each data set says, by its id, or the error that it raises. In a process of its own: the libraries
    read the address of the Hub when they are imported.
    """
    paths = os.pathsep.join([str(REPOSITORY / "tests"), str(Path(__file__).parent)])
    environment = hub.environment(tmp_path_factory.mktemp("home")) | {"PYTHONPATH": paths}
    names = ["lab/parquet", "lab/metadata", "lab/folders", "lab/ASVspoof2019_LA", "lab/nothing"]
    return json.loads(run_script(HUB_SCRIPT, environment, *names))


@pytest.mark.parametrize("name", ["lab/parquet", "lab/metadata", "streamed"])
def test_a_data_set_of_the_hub_gives_the_rows_of_the_corpus_on_disk(published, from_hub, name):
    assert from_hub[name] == describe(load(data_dir=str(published / "LA")))


def test_data_set_of_the_benchmark_gives_the_official_trials_under_their_name_and_its_commit(
    published, hub, from_hub
):
    official = load(data_dir=str(published / "LA"))

    assert from_hub["lab/ASVspoof2019_LA"] == {"eval": describe(official)["eval"]}
    commit, _ = hub.files("datasets", "lab/ASVspoof2019_LA", None)
    called = ["ASVspoof 2019 LA", f"lab/ASVspoof2019_LA@{commit}"]
    assert from_hub["lab/ASVspoof2019_LA, called"] == called


def test_downloaded_data_set_of_the_benchmark_has_the_asv_scores_that_lie_in_it(published, tmp_path):
    folder = shutil.copytree(
        published / "hub" / "datasets" / "lab" / "ASVspoof2019_LA", tmp_path / "ASVspoof2019_LA"
    )
    scores = folder / "ASVspoof2019_LA_asv_scores" / "ASVspoof2019.LA.asv.eval.gi.trl.scores.txt"
    scores.parent.mkdir()
    scores.touch()

    corpus = load(folder)

    assert (corpus.name, corpus.hub) == ("ASVspoof 2019 LA", "")
    assert corpus.asv_score_files == {"eval": (scores,)}
    assert load(folder.rename(tmp_path / "own")).name == "own"


def test_notes_that_are_not_json_are_refused(tmp_path):
    columns = {"path": ["a"], "audio": [{"bytes": b"", "path": "a"}], "label": ["spoof"], "notes": ["none"]}
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "data" / "test-0.parquet")

    with pytest.raises(ValueError, match="split test: the column notes does not hold JSON objects"):
        load(tmp_path)


def test_label_folders_on_the_hub_give_the_rows_of_the_same_folders_on_disk(published, from_hub):
    assert from_hub["lab/folders"] == describe(load(published / "hub" / "datasets" / "lab" / "folders"))


def test_recordings_come_from_the_hub_and_only_once(hub, from_hub):
    fetched = Counter(
        request for request in hub.requests if request.startswith("GET /datasets/lab/metadata/resolve")
    )
    assert len([request for request in fetched if request.endswith(".flac")]) == 8
    assert set(fetched.values()) == {1}


def test_an_id_that_the_hub_does_not_have_is_named(from_hub):
    assert from_hub["lab/nothing"].startswith(
        "FileNotFoundError: lab/nothing is neither a folder nor a Hub data set"
    )


def test_embedded_recordings_are_not_read_into_memory(tmp_path, datasets_cache):
    size = 2**22
    columns = {"audio": [{"bytes": bytes(size), "path": None}] * 4, "key": ["bonafide", "spoof"] * 2}
    (tmp_path / "corpus").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "corpus" / "train.parquet", row_group_size=1)
    load_hub(str(tmp_path / "corpus"), {})  # builds the file that is memory-mapped from then on
    script = f"""
import pyarrow
from processing.audio_folder import load_hub
rows = load_hub({str(tmp_path / "corpus")!r}, {{}}).splits["train"]
print(len(rows), pyarrow.default_memory_pool().max_memory())
"""
    environment = os.environ | {"HF_DATASETS_CACHE": str(datasets_cache)}
    number, allocated = map(int, run_script(script, environment).split())
    assert number == 4
    assert allocated < size


@pytest.mark.parametrize("option", [{"label_column": "key"}, {"label_map": "fake=spoof"}])
def test_columns_and_labels_have_no_effect_on_a_corpus_with_a_layout(la, option):
    with pytest.raises(ValueError, match=f"--{[*option][0]} has no effect on ASVspoof 2019 LA"):
        load(la, **option)
