"""Folders as people have them: official corpora however they were unpacked, and recordings of their own."""

import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from datasets import Audio, Dataset, DatasetDict, Features, Value

from processing.audio_folder import load_hub
from processing.corpora import CorpusArguments, load_corpus, take_split
from processing.folder_tree import AUDIO_EXTENSIONS, read_tree
from processing.results import evaluate_corpus
from processing.trials import Corpus, choose_split, count_classes, list_trials


LA = "LA_1 LA_E_1 - A07 spoof\nLA_2 LA_E_2 - - bonafide\n"
LA_PROTOCOL = "ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.eval.trl.txt"
LA_AUDIO = "ASVspoof2019_LA_eval/flac"
DF = (
    "LA_0023 DF_E_1 nocodec asvspoof A14 spoof notrim eval traditional_vocoder - - - -\n"
    "LA_0024 DF_E_2 nocodec asvspoof bonafide bonafide notrim eval bonafide - - - -\n"
)
WILD = "file,speaker,label\n0.wav,A,spoof\n1.wav,B,bona-fide\n"


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path_factory, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets_cache"))


def make(root: Path, *names: str) -> Path:
    """A folder of empty recordings, which loading does not open."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def load(folder: Path, **arguments) -> Corpus:
    return load_corpus(CorpusArguments(data_dir=str(folder), **arguments))


def list_files(corpus: Corpus, root: Path) -> list[str]:
    """The recordings of all splits, relative to the folder that was given."""
    paths = [row["audio"]["path"] for rows in corpus.splits.values() for row in rows]
    return sorted(Path(path).relative_to(root).as_posix() for path in paths)


def describe(corpus: Corpus) -> dict[str, list[tuple[str, str, str]]]:
    """Utterance, attack and key of each trial, by split."""
    return {
        split: sorted(list_trials(rows)[["utterance_id", "attack", "key"]].itertuples(index=False, name=None))
        for split, rows in corpus.splits.items()
    }


# Splits


def test_no_name_of_a_file_makes_a_split(tmp_path):
    names = [f"{label}/{name}.wav" for label in ("real", "fake") for name in ("a", "b", "train_1", "dev-2")]
    root = make(tmp_path, *names, "real/mic_test_1.wav", "fake/mic_test_2.wav")
    corpus = load(root)
    assert list_files(corpus, root) == sorted([*names, "real/mic_test_1.wav", "fake/mic_test_2.wav"])
    assert (list(corpus.splits), corpus.left_out) == (["train"], {})


@pytest.mark.parametrize("names", [("training", "validation", "testing"), ("Train", "DEV", "Eval")])
@pytest.mark.parametrize("layout", ["for-norm/{}/{}/x.wav", "{1}/speaker/{0}/x.wav"])
def test_folders_at_any_level_that_are_named_for_a_split_make_it(tmp_path, names, layout):
    root = make(tmp_path, *(layout.format(name, label) for name in names for label in ("real", "fake")))
    counts = {split: count_classes(list_trials(rows)) for split, rows in load(root).splits.items()}
    assert counts == dict.fromkeys(("train", "dev", "eval"), {"bonafide": 1, "spoof": 1})


def test_recordings_in_no_split_are_counted_where_there_are_splits(tmp_path):
    corpus = load(make(tmp_path, "train/real/a.wav", "train/fake/b.wav", "more/real/c.wav", "d.wav"))
    assert [len(rows) for rows in corpus.splits.values()] == [2]
    assert corpus.left_out == {"recordings in no folder that is named for a split": 2}


def test_two_folders_for_one_split_are_refused(tmp_path):
    root = make(
        tmp_path, *(f"{split}/{label}/a.wav" for split in ("test", "eval") for label in ("real", "fake"))
    )
    with pytest.raises(ValueError, match="has both a test and another eval split"):
        load(root)


@pytest.mark.parametrize(
    ("names", "asked", "split"),
    [
        (["real/a.wav", "fake/b.wav"], None, "train"),
        (["val/real/a.wav", "val/fake/b.wav"], None, "dev"),
        (["train/real/a.wav", "train/fake/b.wav", "test/real/a.wav", "test/fake/b.wav"], None, "eval"),
        (["real/a.wav", "fake/b.wav"], "train[:1]", "train[:1]"),
    ],
)
def test_the_split_to_evaluate_is_the_only_one_or_eval(tmp_path, names, asked, split):
    assert choose_split(load(make(tmp_path, *names)), asked) == split


# Every recording is used or counted


@pytest.mark.parametrize(
    "ending",
    [
        *(
            ".oga",
            ".aif",
            ".aifc",
            ".m4a",
            ".m4b",
            ".M4R",
            ".mp2",
            ".MP3",
            ".mpga",
            ".ts",
            ".aac",
            ".amr",
            ".spx",
        ),
        *(".opus", ".weba", ".webm", ".wma", ".wave", ".mov", ".mp4", ".3gp", ".au", ".snd", ".sph", ".caf"),
    ],
)
def test_a_recording_is_used_whatever_its_ending(tmp_path, ending):
    assert len(load(make(tmp_path, f"real/a{ending}", "fake/b.wav")).splits["train"]) == 2


def test_endings_that_datasets_knows_are_those_of_recordings():
    from datasets.packaged_modules.audiofolder.audiofolder import AudioFolder

    assert set(AudioFolder.EXTENSIONS) <= AUDIO_EXTENSIONS


def test_files_that_are_not_used_are_counted_with_the_reason(tmp_path):
    root = make(tmp_path, "real/a.wav", "fake/b.wav", "real/a.txt", "fake/b.txt", "LICENSE", "real/._a.wav")
    make(tmp_path, "__MACOSX/real/._a.wav", ".cache/c.wav")
    (root / "real" / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    corpus = load(root)
    assert list_files(corpus, root) == ["fake/b.wav", "real/a.wav"]
    assert corpus.left_out == {
        "hidden files": 1,
        "links to a file that is gone": 1,
        "files without the ending of an audio file (2 .txt, 1 without an ending)": 3,
    }


def test_linked_folders_are_followed_but_not_in_a_circle(tmp_path):
    root = make(tmp_path / "corpus", "real/a.wav")
    make(tmp_path / "elsewhere", "b.wav")
    (root / "fake").symlink_to(tmp_path / "elsewhere")
    (root / "real" / "again").symlink_to(root)
    assert read_tree(root).recordings == {"fake": ["b.wav"], "real": ["a.wav"]}


# Labels, attacks and utterances by folders


def test_a_label_is_taken_from_any_level_and_the_attack_from_below_it(tmp_path):
    root = make(
        tmp_path, "set/fake/en/vits/a.wav", "set/fake/de/xtts v2/b.wav", "set/fake/c.wav", "set/Real/en/d.wav"
    )
    assert describe(load(root)) == {
        "train": [
            ("a", "en/vits", "spoof"),
            ("b", "de/xtts%20v2", "spoof"),
            ("c", "unknown", "spoof"),
            ("d", "-", "bonafide"),
        ]
    }


def test_folders_of_splits_are_no_attack(tmp_path):
    root = make(tmp_path, "fake/vits/test/a.wav", "real/test/b.wav")
    assert describe(load(root)) == {"eval": [("a", "vits", "spoof"), ("b", "-", "bonafide")]}


def test_the_path_is_the_utterance_where_a_name_is_in_several_folders(tmp_path):
    root = make(tmp_path, "test/fake/x/a.wav", "test/fake/y/a.wav", "test/real/b 1.wav", "train/real/b 1.wav")
    make(tmp_path, "train/fake/c.wav")
    corpus = load(root)
    assert sorted(corpus.splits["eval"]["utterance_id"]) == ["fake/x/a", "fake/y/a", "real/b%201"]
    assert sorted(corpus.splits["train"]["utterance_id"]) == ["b%201", "c"]


def test_the_ending_tells_apart_what_nothing_else_does(tmp_path):
    root = make(tmp_path, "real/a.wav", "real/a.flac", "fake/b.wav")
    assert sorted(load(root).splits["train"]["utterance_id"]) == ["fake/b.wav", "real/a.flac", "real/a.wav"]


def test_a_recording_below_both_labels_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match="real/fake lies below a folder that is named for bona fide and one for"
    ):
        load(make(tmp_path, "real/fake/a.wav", "fake/b.wav"))


def test_one_metadata_file_above_folders_of_splits_lists_all(tmp_path):
    root = make(tmp_path, "train/001.wav", "train/b.wav", "test/c.wav", "test/d.wav", "test/e.wav")
    write(
        root / "metadata.csv",
        "file_name,label,file_id\ntrain/001.wav,real,001\ntrain\\b.wav,fake,002\ntest/c.wav,real,003\ntest/d.wav,fake,\n",
    )
    corpus = load(root)
    assert describe(corpus) == {
        "train": [("001", "-", "bonafide"), ("002", "unknown", "spoof")],
        "eval": [("003", "-", "bonafide"), ("d", "unknown", "spoof")],
    }
    assert corpus.left_out == {"recordings that no metadata list": 1}


def test_folders_label_what_metadata_do_not(tmp_path):
    root = make(tmp_path, "real/a.wav", "fake/vits/b.wav", "fake/c.wav")
    write(root / "fake" / "metadata.csv", "file_name,speaker\nvits/b.wav,S1\nc.wav,S2\n")
    trials = list_trials(load(root).splits["train"]).sort_values("utterance_id")
    assert trials["key"].tolist() == ["bonafide", "spoof", "spoof"]
    assert trials["speaker_id"].tolist() == ["-", "S1", "S2"]
    assert trials["attack"].tolist() == ["-", "vits", "unknown"]


@pytest.mark.parametrize("text", ["path,label\na.wav,real\n", "file_name;label\na.wav;real\n"])
def test_metadata_without_file_names_are_refused_with_their_columns(tmp_path, text):
    write(make(tmp_path, "a.wav") / "metadata.csv", text)
    with pytest.raises(
        ValueError, match=rf"no column file_name; its columns are {text.split()[0].replace(',', ', ')}"
    ):
        load(tmp_path)


# What cannot be recognised


def test_columns_of_metadata_are_told_where_none_is_the_label(tmp_path):
    root = make(tmp_path, "a.wav", "b.wav")
    write(root / "metadata.csv", "file_name,verdict\na.wav,real\nb.wav,fake\n")
    with pytest.raises(ValueError, match="metadata have the columns verdict.* by --label_column.$"):
        load(root)
    assert len(load(root, label_column="verdict").splits["train"]) == 2


def test_other_folders_and_tables_are_named_with_what_can_be_done(tmp_path):
    root = make(tmp_path, "train/human/a.wav", "train/robot/b.wav", "train/robot/c.wav")
    write(root / "labels.csv", "path,label\n")
    with pytest.raises(ValueError) as error:
        load(root)
    assert (
        "3 recordings lie in no folder that is named for their label; the first is train/human/a.wav"
        in str(error.value)
    )
    assert "found were 'train/robot' (2x), 'train/human' (1x)" in str(error.value)
    assert "--label_map LABEL=bonafide,OTHER=spoof" in str(error.value)
    assert "labels.csv is not read" in str(error.value)


@pytest.mark.parametrize(
    ("name", "title", "key"),
    [
        ("ASVspoof2019_LA_dev/flac/LA_D_1.flac", "ASVspoof 2019 LA", "ASVspoof2019.LA.cm.dev.trl.txt"),
        ("ASVspoof2021_DF_eval_part00/flac/DF_E_1.flac", "ASVspoof 2021 DF", "DF-keys-full.tar.gz"),
        ("x/flac_E_eval/E_1.flac", "ASVspoof 5", "ASVspoof5_protocols.tar.gz"),
    ],
)
def test_recordings_of_a_named_corpus_without_its_protocol_are_told_which(tmp_path, name, title, key):
    with pytest.raises(FileNotFoundError, match=f"is not an {title} folder: there is no .*{key}"):
        load(make(tmp_path, name))


# ASVspoof and In-the-Wild as they are found on disks


@pytest.mark.parametrize("given", [".", "a", "a/LA"])
def test_a_folder_that_is_doubled_or_deep_is_the_corpus(tmp_path, given):
    root = make(tmp_path, *(f"a/LA/LA/LA/{LA_AUDIO}/LA_E_{i}.flac" for i in (1, 2)))
    write(root / "a/LA/LA/LA" / LA_PROTOCOL, LA)
    corpus = load(root / given)
    assert (corpus.name, describe(corpus)["eval"]) == (
        "ASVspoof 2019 LA",
        [("LA_E_1", "A07", "spoof"), ("LA_E_2", "-", "bonafide")],
    )


@pytest.mark.parametrize("folder", [LA_AUDIO, "ASVspoof2019_LA_eval/wav", "wavs"])
def test_a_corpus_that_was_converted_is_found_and_says_so(tmp_path, folder):
    root = make(tmp_path, *(f"{folder}/LA_E_{i}.wav" for i in (1, 2)))
    write(root / LA_PROTOCOL, LA)
    corpus = load(root)
    assert list_files(corpus, root) == [f"{folder}/LA_E_1.wav", f"{folder}/LA_E_2.wav"]
    assert corpus.note.startswith("2 recordings listed in ASVspoof2019.LA.cm.eval.trl.txt were converted")


def test_the_official_recordings_are_taken_before_versions_of_them(tmp_path):
    folders = (LA_AUDIO, "ASVspoof2019_LA_eval/wav", "ASVspoof2019_LA_eval/denoised", f"mini/{LA_AUDIO}")
    root = make(tmp_path, *(f"{folder}/LA_E_{i}.flac" for folder in folders for i in (1, 2)))
    make(tmp_path, f"{LA_AUDIO}/LA_E_1.wav")
    write(root / LA_PROTOCOL, LA)
    corpus = load(root)
    assert list_files(corpus, root) == [f"{LA_AUDIO}/LA_E_1.flac", f"{LA_AUDIO}/LA_E_2.flac"]
    assert corpus.left_out == {"recordings that no protocol lists": 7}


def test_versions_among_which_nothing_decides_are_refused(tmp_path):
    root = make(tmp_path, *(f"ASVspoof2019_LA_eval/{kind}/LA_E_{i}.wav" for kind in "ab" for i in (1, 2)))
    write(root / LA_PROTOCOL, LA)
    with pytest.raises(ValueError, match=r"utterance LA_E_\d several times: .*/a/LA_E_\d\.wav and .*/b/LA_E"):
        load(root)


def test_two_copies_of_a_corpus_are_refused(tmp_path):
    for copy in ("old", "new"):
        write(tmp_path / copy / LA_PROTOCOL, LA)
    with pytest.raises(ValueError, match="holds ASVspoof 2019 LA several times: new/.* and old/"):
        load(tmp_path)


def test_an_utterance_is_not_taken_from_another_corpus(tmp_path):
    root = make(tmp_path, f"{LA_AUDIO}/LA_E_1.flac", "ASVspoof2021_LA_eval/flac/LA_E_2.flac")
    write(root / LA_PROTOCOL, LA)
    with pytest.raises(FileNotFoundError, match=r"1 of the 2 utterances .*first is LA_E_2\.flac"):
        load(root)
    shutil.rmtree(root / LA_AUDIO)
    with pytest.raises(FileNotFoundError, match="2 of the 2 utterances"):
        load(root)


@pytest.mark.parametrize(
    "part",
    [
        "ASVspoof2021_DF_eval_part0{0}/ASVspoof2021_DF_eval/flac",
        "ASVspoof2021_DF_eval_part0{0}/flac",
        "ASVspoof2021_DF_eval/part0{0}",
        "part0{0}",
    ],
)
@pytest.mark.parametrize("keys", ["keys/DF", "DF-keys-full/keys/DF", "part01/keys/DF"])
def test_the_parts_of_2021_df_are_one_corpus(tmp_path, part, keys):
    names = [f"{part.format(i)}/DF_E_{i}.flac" for i in (1, 2)]
    write(make(tmp_path, *names) / keys / "CM" / "trial_metadata.txt", DF)
    assert list_files(load(tmp_path), tmp_path) == names


@pytest.mark.parametrize("keys", ["keys/DF", "flac/keys/DF"])
def test_keys_inside_the_folder_of_audio_are_found(tmp_path, keys):
    root = make(tmp_path, *(f"ASVspoof2021_DF_eval/flac/DF_E_{i}.flac" for i in (1, 2)))
    write(root / "ASVspoof2021_DF_eval" / keys / "CM" / "trial_metadata.txt", DF)
    write(root / "ASVspoof2021_DF_eval" / keys / "ASV" / "trial_metadata.txt", "a b c d e target g eval\n")
    for folder in (root, root / "ASVspoof2021_DF_eval"):
        assert len(load(folder).splits["eval"]) == 2


@pytest.mark.parametrize("track", ["LA", "DF"])
def test_the_keys_of_stage_1_are_refused_with_those_to_download(tmp_path, track):
    root = make(tmp_path, f"ASVspoof2021_{track}_eval/flac/{track}_E_1.flac")
    write(root / "keys/CM/trial_metadata.txt", f"- {track}_E_1 - - - spoof - eval\n")
    with pytest.raises(FileNotFoundError, match=rf"no keys/{track}/CM/.*{track}-keys-full\.tar\.gz"):
        load(root)


def test_full_keys_are_taken_before_those_of_stage_1(tmp_path):
    root = make(tmp_path, *(f"ASVspoof2021_DF_eval/flac/DF_E_{i}.flac" for i in (1, 2)))
    write(
        root / "keys/CM/trial_metadata.txt", "- DF_E_1 - - - spoof - eval\n- DF_E_2 - - - bonafide - eval\n"
    )
    write(root / "DF-keys-full/keys/DF/CM/trial_metadata.txt", DF)
    assert describe(load(root))["eval"] == [("DF_E_1", "A14", "spoof"), ("DF_E_2", "-", "bonafide")]


@pytest.mark.parametrize(
    ("meta", "folders"),
    [
        ("meta.csv", ("release_in_the_wild/fake", "release_in_the_wild/real")),
        (
            "release_in_the_wild/release_in_the_wild/meta.csv",
            ("release_in_the_wild/release_in_the_wild",) * 2,
        ),
        ("release_in_the_wild/meta.csv", ("wavs", "wavs")),
    ],
)
def test_in_the_wild_is_found_however_it_was_sorted(tmp_path, meta, folders):
    write(make(tmp_path, f"{folders[0]}/0.wav", f"{folders[1]}/1.wav") / meta, WILD)
    corpus = load(tmp_path)
    assert corpus.name == "In-the-Wild"
    assert list_files(corpus, tmp_path) == sorted([f"{folders[0]}/0.wav", f"{folders[1]}/1.wav"])


# Data sets of the Hub in a folder, and archives


@pytest.fixture
def data_set(tmp_path) -> Dataset:
    features = Features({"audio": Audio(), "label": Value("string")})
    recordings = [{"bytes": b"", "path": f"{name}.wav"} for name in "ab"]
    table = pa.table({"audio": recordings, "label": ["real", "fake"]}, schema=features.arrow_schema)
    return Dataset(table).cast(features)


def save_parquet(data_set: Dataset, folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    data_set.to_parquet(folder / "data" / "test-00000-of-00001.parquet")


@pytest.mark.parametrize(
    ("save", "split"),
    [
        (save_parquet, "eval"),
        (lambda data_set, folder: data_set.save_to_disk(folder), "train"),
        (lambda data_set, folder: DatasetDict(test=data_set).save_to_disk(folder), "eval"),
    ],
    ids=["parquet", "save_to_disk", "save_to_disk of splits"],
)
@pytest.mark.parametrize("argument", ["dataset", "data_dir"])
def test_a_data_set_that_was_downloaded_or_saved_is_read(tmp_path, data_set, save, split, argument):
    save(data_set, tmp_path / "saved")
    corpus = load_corpus(CorpusArguments(**{argument: str(tmp_path / "saved")}))
    assert describe(corpus) == {split: [("a", "-", "bonafide"), ("b", "unknown", "spoof")]}
    assert len(take_split(corpus, split)) == 2
    assert corpus.name == "saved"


def test_files_of_data_for_which_there_is_no_split_are_counted(tmp_path, data_set):
    for name in ("test-00000-of-00001", "mic"):
        data_set.to_parquet(tmp_path / f"{name}.parquet")
    corpus = load(tmp_path)
    assert list(corpus.splits) == ["eval"]
    assert corpus.left_out == {"files of data that `datasets` takes for no split": 1}


def test_a_configuration_is_chosen_from_those_of_a_data_set(tmp_path):
    root = make(
        tmp_path, *(f"{name}/{file}" for name in ("one", "two") for file in ("real/a.wav", "fake/b.oga"))
    )
    configs = "".join(f"- config_name: {name}\n  data_dir: {name}\n" for name in ("one", "two"))
    write(root / "README.md", f"---\nconfigs:\n{configs}---\n")
    corpus = load_hub(str(root), {}, configuration="two")
    assert list_files(corpus, root) == ["two/fake/b.oga", "two/real/a.wav"]


def test_archives_in_place_of_recordings_are_unpacked_once(tmp_path):
    source = make(tmp_path / "source", "real/a.wav", "real/._a.wav", "fake/vits/b.wav")
    (tmp_path / "zips").mkdir()
    shutil.make_archive(str(tmp_path / "zips" / "real"), "zip", source / "real")
    with tarfile.open(tmp_path / "zips" / "fake.tar.gz", "w:gz") as archive:
        archive.add(source / "fake" / "vits", "vits")
    first = load(tmp_path / "zips")
    assert describe(first) == {"train": [("a", "-", "bonafide"), ("b", "vits", "spoof")]}
    assert first.name == "zips"  # not where it was unpacked, nor a path of this machine
    again = load(tmp_path / "zips")
    assert [row["audio"]["path"] for row in again.splits["train"]] == [
        row["audio"]["path"] for row in first.splits["train"]
    ]


def test_an_archive_may_be_given_itself_and_its_new_content_counts(tmp_path):
    source = make(tmp_path / "source", *(f"LA/{LA_AUDIO}/LA_E_{i}.flac" for i in (1, 2)))
    write(source / "LA" / LA_PROTOCOL, LA)
    for number in (2, 1):
        archive = Path(shutil.make_archive(str(tmp_path / "LA"), "zip", source))
        os.utime(archive, (number, number))
        assert len(load(archive, allow_missing=True).splits["eval"]) == number
        (source / "LA" / LA_AUDIO / "LA_E_1.flac").unlink(missing_ok=True)


def test_an_archive_beside_recordings_is_not_unpacked(tmp_path):
    root = make(tmp_path, "real/a.wav", "fake/b.wav")
    shutil.make_archive(str(root / "corpus"), "zip", root / "real")
    corpus = load(root)
    assert len(corpus.splits["train"]) == 2
    assert corpus.left_out == {"files without the ending of an audio file (1 .zip)": 1}


def test_an_archive_that_is_broken_is_named(tmp_path):
    (tmp_path / "corpus.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"corpus\.zip cannot be unpacked"):
        load(tmp_path)


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_an_archive_that_would_fill_the_disk_is_not_unpacked(tmp_path, ending):
    path, zeros = tmp_path / f"corpus{ending}", tmp_path / "zeros.wav"
    with zeros.open("wb") as stream:
        stream.truncate(300 * 2**20)
    if ending == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.write(zeros, "real/a.wav")
    else:
        with tarfile.open(path, "w:gz", compresslevel=1) as archive:
            archive.add(zeros, "real/a.wav")

    with pytest.raises(ValueError, match=rf"corpus\{ending} cannot be .* more than 100 times its size"):
        load(path)
    assert not list((Path(datasets.config.HF_DATASETS_CACHE) / "unpacked").glob(f".{path.name}-*"))


@pytest.mark.parametrize("name", ["../a.wav", "/a.wav", "a..wav"])  # of which shutil would say nothing
def test_no_file_of_an_archive_is_passed_over(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "corpus.zip", "w") as archive:
        archive.writestr(name, b"")

    with pytest.raises(ValueError, match="corpus.zip cannot be unpacked: .* would not be written"):
        load(tmp_path)


def test_columns_of_ones_own_break_results_down(tmp_path):
    make(tmp_path, *(f"{label}/{name}.wav" for label in ("real", "fake") for name in "ab"))
    lines = ["real/a.wav,F,A", "real/b.wav,M,B", "fake/a.wav,F,A", "fake/b.wav,,A"]
    write(tmp_path / "metadata.csv", "\n".join(["file_name,gender,speaker", *lines, ""]))

    corpus = load(tmp_path, breakdown=["gender", "speaker_id"])
    results = evaluate_corpus(corpus, "train", list_trials(corpus.splits["train"]), [2.0, 1.0, 0.0, 3.0])

    assert results["per_gender"] == {
        "F": {"num_bonafide": 1, "num_spoof": 1, "eer": 0.0},
        "M": {"num_bonafide": 1, "num_spoof": 0, "eer": None},
        "unknown": {"num_bonafide": 0, "num_spoof": 1, "eer": None},
    }
    assert results["per_speaker_id"]["A"]["num_spoof"] == 2
    assert "gender" not in load(tmp_path).splits["train"].column_names
    with pytest.raises(
        ValueError, match="no column sex; the columns are .*gender.* Name it with --breakdown"
    ):
        load(tmp_path, breakdown=["sex"])


def test_breakdown_by_a_column_that_the_protocol_lacks_is_refused_with_those_that_it_has(tmp_path):
    make(tmp_path, *(f"{LA_AUDIO}/LA_E_{i}.flac" for i in (1, 2)))
    write(tmp_path / LA_PROTOCOL, LA)

    with pytest.raises(
        ValueError, match="--breakdown gender: .* eval has no such column, only speaker_id, att"
    ):
        load(tmp_path, breakdown=["gender"])
    assert load(tmp_path, breakdown=["speaker_id"]).breakdowns == ("speaker_id",)
