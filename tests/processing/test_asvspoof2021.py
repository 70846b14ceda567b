import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import Features, Value

from processing.audio import decode_audio
from processing.corpora import CorpusArguments, load_corpus
from processing.layouts import LAYOUTS
from processing.trials import FEATURES, Corpus, count_classes, list_trials


LA_LINES = """\
LA_0009 LA_E_9332881 alaw ita_tx A07 spoof notrim eval
LA_0020 LA_E_7294490 g722 loc_tx bonafide bonafide notrim eval
LA_0010 LA_E_1000001 none loc_tx A10 spoof notrim progress
LA_0011 LA_E_1000002 opus sin_tx bonafide bonafide notrim progress
LA_0012 LA_E_1000003 pstn mad_tx A19 spoof trim hidden
LA_0013 LA_E_1000004 gsm ita_tx bonafide bonafide trim hidden
"""
DF_LINES = """\
LA_0023 DF_E_2000011 nocodec asvspoof A14 spoof notrim progress traditional_vocoder - - - -
TEF2 DF_E_2000013 low_m4a vcc2020 Task1-team20 spoof notrim eval neural_vocoder_nonautoregressive Task1 team20 FF E
TGF1 DF_E_2000024 mp3m4a vcc2020 Task2-team12 spoof notrim eval traditional_vocoder Task2 team12 FF G
LA_0047 DF_E_2000060 high_ogg asvspoof - bonafide notrim eval bonafide - - - -
LA_0048 DF_E_2000061 oggm4a asvspoof bonafide bonafide notrim progress bonafide - - - -
"""  # noqa: E501
LINES = {"LA": LA_LINES, "DF": DF_LINES}
LA, DF = LAYOUTS["asvspoof2021-la"], LAYOUTS["asvspoof2021-df"]


def write_keys(folder: Path, text: str) -> Path:
    """`trial_metadata.txt` below the folder of one track's keys."""
    path = folder / "CM" / "trial_metadata.txt"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def write_audio(root: Path, track: str, text: str) -> Path:
    """An empty file for each listed utterance: loading does not open them."""
    flac = root / f"ASVspoof2021_{track}_eval" / "flac"
    flac.mkdir(parents=True)
    for line in text.splitlines():
        (flac / f"{line.split()[1]}.flac").touch()
    return flac


def make(root: Path, track: str, text: str | None = None) -> Path:
    """A folder with the keys and the audio of one track."""
    write_keys(root / "keys" / track, text or LINES[track])
    write_audio(root, track, text or LINES[track])
    return root


def load(data_dir: Path, dataset: str | None = None, **arguments) -> Corpus:
    return load_corpus(CorpusArguments(dataset=dataset, data_dir=str(data_dir), **arguments))


def utterances(corpus: Corpus) -> dict[str, list[str]]:
    return {split: rows["utterance_id"][:] for split, rows in corpus.splits.items()}


# Subsets and columns


def test_each_subset_of_la_is_a_split_of_its_own(tmp_path):
    corpus = load(make(tmp_path, "LA"))
    assert corpus.name == "ASVspoof 2021 LA"
    assert utterances(corpus) == {
        "eval": ["LA_E_9332881", "LA_E_7294490"],
        "progress": ["LA_E_1000001", "LA_E_1000002"],
        "hidden": ["LA_E_1000003", "LA_E_1000004"],
    }
    assert corpus.missing == {"eval": 0, "progress": 0, "hidden": 0}


def test_a_subset_without_trials_is_no_split(tmp_path):
    corpus = load(make(tmp_path, "DF"))
    assert utterances(corpus) == {
        "eval": ["DF_E_2000013", "DF_E_2000024", "DF_E_2000060"],
        "progress": ["DF_E_2000011", "DF_E_2000061"],
    }


def test_hidden_track_is_the_hidden_subset(tmp_path):
    text = LA_LINES.replace("trim hidden", "trim hidden_track")
    assert utterances(load(make(tmp_path, "LA", text)))["hidden"] == ["LA_E_1000003", "LA_E_1000004"]


def test_la_rows_have_codec_transmission_and_trim(tmp_path):
    corpus = load(make(tmp_path, "LA"))
    rows = corpus.splits["hidden"]
    columns = {name: Value("string") for name in ("codec", "transmission", "trim")}
    assert rows.features == Features({**FEATURES, **columns})
    assert [{name: row[name] for name in columns} for row in rows] == [
        {"codec": "pstn", "transmission": "mad_tx", "trim": "trim"},
        {"codec": "gsm", "transmission": "ita_tx", "trim": "trim"},
    ]
    assert corpus.breakdowns == ("codec", "transmission")


def test_df_rows_have_what_the_keys_say_of_compression_source_and_system(tmp_path):
    corpus = load(make(tmp_path, "DF"))
    row = corpus.splits["eval"][0]
    label, audio = row.pop("label"), row.pop("audio")
    assert row == {
        "utterance_id": "DF_E_2000013",
        "speaker_id": "TEF2",
        "attack": "Task1-team20",
        "compression": "low_m4a",
        "source": "vcc2020",
        "trim": "notrim",
        "vocoder_type": "neural_vocoder_nonautoregressive",
        "vcc_task": "Task1",
        "team": "team20",
        "gender_pair": "FF",
        "language": "E",
    }
    assert (label, Path(audio["path"]).name) == (1, "DF_E_2000013.flac")
    assert corpus.breakdowns == ("compression", "source", "vocoder_type")


@pytest.mark.parametrize("track", ["LA", "DF"])
def test_bona_fide_trials_have_no_attack_whatever_the_keys_write_there(tmp_path, track):
    attacks = {
        (row["label"], row["attack"] == "-")
        for rows in load(make(tmp_path, track)).splits.values()
        for row in rows
    }
    assert attacks == {(0, True), (1, False)}


# Folders


@pytest.mark.parametrize("below", [".", "ASVspoof2021", "ASVspoof2021_LA", "LA"])
def test_la_is_recognised_from_its_folder_and_from_that_above(tmp_path, below):
    make(tmp_path / "given" / below, "LA")
    assert load(tmp_path / "given").name == "ASVspoof 2021 LA"


@pytest.mark.parametrize("keys", ["keys/DF", "DF", "DF-keys-full/keys/DF"])
def test_keys_are_found_however_their_archive_was_unpacked(tmp_path, keys):
    write_keys(tmp_path / keys, DF_LINES)
    write_audio(tmp_path, "DF", DF_LINES)
    assert load(tmp_path).name == "ASVspoof 2021 DF"


def test_a_folder_with_both_tracks_asks_for_the_name(tmp_path):
    make(make(tmp_path, "LA"), "DF")
    with pytest.raises(ValueError, match="several corpora: asvspoof2021-la, asvspoof2021-df.*--dataset NAME"):
        load(tmp_path)


@pytest.mark.parametrize(("name", "expected"), [("asvspoof2021-la", LA), ("asvspoof2021-df", DF)])
def test_a_name_chooses_between_both_tracks_in_one_folder(tmp_path, name, expected):
    make(make(tmp_path, "LA"), "DF")
    assert load(tmp_path, name).name == expected.name.title


def test_keys_of_both_tracks_with_the_audio_of_one_are_that_one(tmp_path):
    write_keys(tmp_path / "keys" / "LA", LA_LINES)
    assert load(make(tmp_path, "DF")).name == "ASVspoof 2021 DF"


def test_keys_without_audio_are_an_error_about_the_audio(tmp_path):
    write_keys(tmp_path / "keys" / "LA", LA_LINES)
    with pytest.raises(
        FileNotFoundError, match=r"6 of the 6 utterances .*ASVspoof2021_LA_eval/flac; .*LA_E_9332881\.flac"
    ):
        load(tmp_path, "asvspoof2021-la")


def test_keys_without_any_audio_are_an_error_even_with_allow_missing(tmp_path):
    write_keys(tmp_path / "keys" / "LA", LA_LINES)
    with pytest.raises(FileNotFoundError, match="ASVspoof2021_LA_eval/flac holds none of the audio files"):
        load(tmp_path, "asvspoof2021-la", allow_missing=True)


@pytest.mark.parametrize(("track", "layout"), [("LA", LA), ("DF", DF)])
def test_audio_without_keys_is_an_error_that_says_where_to_download_the_keys(tmp_path, track, layout):
    write_audio(tmp_path, track, LINES[track])
    with pytest.raises(
        FileNotFoundError,
        match=rf"there is no keys/{track}/CM/trial_metadata\.txt in it.*asvspoof\.org/index2021\.html",
    ):
        layout.load(tmp_path)


# Missing files


def test_a_missing_file_is_an_error(tmp_path):
    (make(tmp_path, "LA") / "ASVspoof2021_LA_eval" / "flac" / "LA_E_1000002.flac").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of the 6 utterances .*LA_E_1000002\.flac.*--allow_missing"
    ):
        load(tmp_path)


def test_allow_missing_counts_missing_files_by_subset(tmp_path):
    flac = make(tmp_path, "LA") / "ASVspoof2021_LA_eval" / "flac"
    for utterance in ("LA_E_9332881", "LA_E_1000003", "LA_E_1000004"):
        (flac / f"{utterance}.flac").unlink()
    corpus = load(tmp_path, allow_missing=True)
    assert corpus.missing == {"eval": 1, "progress": 0, "hidden": 2}
    assert utterances(corpus) == {"eval": ["LA_E_7294490"], "progress": ["LA_E_1000001", "LA_E_1000002"]}


# Keys that do not parse


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("LA_0009 LA_E_1 alaw ita_tx A07 spoof notrim", id="too short"),
        pytest.param("LA_0009 LA_E_1 alaw ita_tx A07 spoof notrim eval -", id="too long"),
        pytest.param("LA_0009 LA_E_1 alaw ita_tx A07 spoof notrim dev", id="unknown subset"),
        pytest.param("LA_0009 LA_E_1 alaw ita_tx A07 target notrim eval", id="key of ASV"),
        pytest.param("LA_0009 LA_E_1 alaw ita_tx A07 bonafide notrim eval", id="bona fide with an attack"),
        pytest.param("LA_0009 LA_E_1 alaw ita_tx bonafide spoof notrim eval", id="spoof without an attack"),
        pytest.param(DF_LINES.splitlines()[0], id="line of DF"),
    ],
)
def test_a_malformed_line_is_named_with_its_file_and_number(tmp_path, line):
    path = write_keys(tmp_path, f"{LA_LINES}\n{line}\n")
    with pytest.raises(ValueError, match=rf"CM/trial_metadata\.txt, line 8: '{line}' is not .*hidden_track"):
        LA.read_protocol(path)


def test_an_utterance_in_two_subsets_is_refused(tmp_path):
    text = LA_LINES + LA_LINES.splitlines()[0].replace("eval", "progress") + "\n"
    with pytest.raises(ValueError, match="utterance LA_E_9332881 is listed 2 times"):
        LA.read_protocol(write_keys(tmp_path, text))


# ASV scores


def write_asv(keys: Path, folder: str) -> tuple[Path, Path]:
    scores, metadata = keys / "ASV" / folder / "score.txt", keys / "ASV" / "trial_metadata.txt"
    scores.parent.mkdir(parents=True)
    scores.touch()
    metadata.touch()
    return scores, metadata


@pytest.mark.parametrize("folder", ["ASVTorch_Kaldi", "ASVtorch_kaldi"])
def test_every_subset_of_la_goes_with_the_asv_scores_in_its_keys(tmp_path, folder):
    files = write_asv(make(tmp_path, "LA") / "keys" / "LA", folder)
    assert load(tmp_path).asv_score_files == {"eval": files, "progress": files, "hidden": files}


@pytest.mark.parametrize("absent", [0, 1], ids=["scores", "metadata"])
def test_half_of_the_asv_files_is_none(tmp_path, absent):
    write_asv(make(tmp_path, "LA") / "keys" / "LA", "ASVTorch_Kaldi")[absent].unlink()
    assert load(tmp_path).asv_score_files == {}


# Real recordings


def test_real_df_recordings_are_loaded_and_decoded(tmp_path, shared_data):
    names = sorted(path.stem for path in (shared_data / "asvspoof2021_df_flac").glob("*.flac"))
    lines = [
        f"S{i} {name} nocodec asvspoof {'A07 spoof' if i % 2 else '- bonafide'} notrim eval unknown - - - -\n"
        for i, name in enumerate(names)
    ]
    write_keys(tmp_path / "keys" / "DF", "".join(lines))
    shutil.copytree(shared_data / "asvspoof2021_df_flac", tmp_path / "ASVspoof2021_DF_eval" / "flac")
    rows = load(tmp_path).splits["eval"]
    waveforms = [decode_audio(row["audio"]) for row in rows]
    assert (rows["utterance_id"][:], count_classes(list_trials(rows))) == (names, {"bonafide": 4, "spoof": 4})
    assert all(len(waveform) > 8_000 and 0.001 < np.std(waveform) < 1 for waveform in waveforms)
