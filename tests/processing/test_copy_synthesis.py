import os

import numpy as np
import pandas as pd
import pytest
import soundfile
from datasets import load_dataset_builder

from processing import copy_synthesis, demo
from processing.arguments import CorpusArguments
from processing.audio_folder import UndecodedAudio
from processing.corpora import load_corpus
from processing.trials import list_trials


RATE = 16_000


def synthesize(seed: int, seconds: float) -> np.ndarray:
    signal = demo.synthesise(np.random.default_rng(seed), np.random.default_rng(seed + 1))
    signal = np.tile(signal, 2)[: int(seconds * RATE)]
    return 0.1 * signal / np.abs(signal).max() + 0.002  # DC


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Two recordings of each of three speakers, in LibriSpeech's folders, and a silent one."""
    root = tmp_path_factory.mktemp("recordings")
    for speaker in range(11, 14):
        for i in range(2):
            path = root / str(speaker) / "7" / f"{speaker}-7-{i:04d}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, synthesize(100 * speaker + i, 1.6 + 0.3 * i), RATE)
    soundfile.write(root / "11" / "7" / "11-7-0002.flac", np.zeros(RATE), RATE)
    return root


def whisper(waveform, rate, generator):
    """A vocoder that is handed in."""
    if limit := os.environ.get("FAIL_AT"):
        os.environ["FAIL_AT"] = str(int(limit) - 1)
        if limit == "1":
            raise RuntimeError("killed")
    return generator.standard_normal(len(waveform) - 1000) * 0.05


HANDED_IN = "tests.processing.test_copy_synthesis:whisper"


def run(recordings, corpus, *options: str) -> None:
    arguments = [
        "--recordings",
        str(recordings),
        "--output_dir",
        str(corpus),
        "--seconds",
        "0.8",
        "--sampling_rate",
        "22050",
    ]
    copy_synthesis.main([*arguments, "--num_workers", "1", "--vocoders", "lpc", "phase", HANDED_IN, *options])


@pytest.fixture(scope="module")
def corpus(recordings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "corpus"
    run(recordings, folder, "--leave_out", HANDED_IN)
    return folder


def read_files(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_speakers_are_kept_apart_and_a_vocoder_is_left_out_of_train(corpus):
    splits = {
        name: list_trials(rows) for name, rows in load_corpus(CorpusArguments(str(corpus))).splits.items()
    }

    speakers = [set(trials["speaker_id"]) for trials in splits.values()]
    assert sorted(speaker for of in speakers for speaker in of) == ["11", "12", "13"]
    attacks = {name: set(trials["attack"]) - {"-"} for name, trials in splits.items()}
    assert attacks["train"] == {"lpc", "phase"}
    assert attacks["dev"] == attacks["eval"] == {"lpc", "phase", "whisper"}


def test_copies_match_their_piece_in_length_level_and_format(corpus):
    table = pd.concat(
        [pd.read_csv(p).assign(folder=p.parent) for p in corpus.glob("*/metadata.csv")], ignore_index=True
    )

    assert (table["label"] == np.where(table["attack"] == "-", "bonafide", "spoof")).all()
    # 1.6 and 1.9 s with margins of 0.1 s: two pieces of 0.8 s, the second of which ends 0.1 s before the end.
    pairs = table.groupby(["source", "start"])
    assert len(pairs) == 3 * (2 + 3)
    for (source, _), pair in pairs:
        files = [folder / name for folder, name in zip(pair["folder"], pair["file_name"], strict=True)]
        signals = [soundfile.read(file)[0] for file in files]
        assert {(soundfile.info(f).samplerate, soundfile.info(f).subtype) for f in files} == {
            (RATE, "PCM_16")
        }
        assert {len(signal) for signal in signals} == {int(0.8 * RATE)}
        assert np.std([20 * np.log10(signal.std()) for signal in signals]) < 0.02
        assert max(abs(signal.mean()) for signal in signals) < 5e-4  # 2e-3 before
        assert set(pair["speaker"].astype(str)) == {source.split("/")[0]}


def test_bona_fide_piece_is_the_recording(corpus, recordings):
    table = pd.read_csv(corpus / "train" / "metadata.csv")
    line = table[table["attack"] == "-"].iloc[1]

    piece, _ = soundfile.read(corpus / "train" / line["file_name"])
    recording, _ = soundfile.read(recordings / line["source"])
    start = round(line["start"] * RATE)
    expected = recording[start : start + len(piece)]
    assert np.corrcoef(piece, expected)[0, 1] > 0.999
    assert piece.std() == pytest.approx(expected.std(), rel=1e-3)


def test_corpus_is_an_audiofolder_of_datasets(corpus, tmp_path):
    builder = load_dataset_builder("audiofolder", data_dir=str(corpus), cache_dir=str(tmp_path))
    builder.BASE_FEATURE = UndecodedAudio
    builder.download_and_prepare()
    loaded = builder.as_dataset().cast_column("audio", UndecodedAudio(decode=False))

    assert set(loaded) == {"train", "validation", "test"}
    row = loaded["train"][0]
    assert row["label"] == "spoof" and row["attack"] == "lpc" and row["audio"]["path"].endswith("-lpc.flac")


def test_killed_run_goes_on_and_gives_the_files_of_one_that_was_not(
    corpus, recordings, tmp_path, monkeypatch
):
    folder = tmp_path / "corpus"
    monkeypatch.setenv("FAIL_AT", "6")
    with pytest.raises(RuntimeError, match="killed"):
        run(recordings, folder, "--leave_out", HANDED_IN)
    assert not folder.exists()
    unfinished = tmp_path / ".corpus.partial"
    kept = {path: path.stat().st_mtime_ns for path in unfinished.rglob("bonafide/*.flac")}
    assert kept

    monkeypatch.delenv("FAIL_AT")
    run(recordings, folder, "--leave_out", HANDED_IN)

    assert read_files(folder) == read_files(corpus)
    assert {path: (folder / path.relative_to(unfinished)).stat().st_mtime_ns for path in kept} == kept


def test_corpus_of_other_settings_is_not_overwritten(corpus, recordings, capsys):
    before = read_files(corpus)

    with pytest.raises(SystemExit, match="these settings: leave_out was .*, now .*; seed was 0, now 1"):
        run(recordings, corpus, "--seed", "1")
    run(recordings, corpus, "--leave_out", HANDED_IN)
    with pytest.raises(SystemExit, match="these settings: it has no copy_synthesis.json"):
        run(recordings, recordings)

    assert read_files(corpus) == before
    assert "AUC" in capsys.readouterr().out


def test_trivial_cues_are_reported(corpus):
    auc = pd.read_csv(corpus / "trivial_cues.csv").set_index(["cue", "attack"])["auc"]

    assert auc["duration", "all"] == 0.5
    assert auc["noise_floor", "whisper"] < 0.1  # it has no pauses


@pytest.mark.parametrize(
    ("files", "options", "expected"),
    [
        (["wav48/p225/p225_001.wav", "wav48/p226/p226_001.wav"], {}, ["p225", "p226"]),
        (["LibriTTS/103/1/103_1_000001_000000.wav", "ls-104.flac"], {}, ["103", "104"]),
        (["a_x.wav", "b_x.wav"], {"speaker_pattern": r"([a-z])_x"}, ["a", "b"]),
        (["real/train/ann/1.wav", "real/train/bob/1.wav"], {}, ["ann", "bob"]),
    ],
)
def test_speakers_are_told_by_names_pattern_or_folders(files, options, expected):
    assert copy_synthesis.read_speakers(files, options.get("speaker_pattern")) == expected


@pytest.mark.parametrize(
    ("vocoders", "left_out", "message"),
    [
        (["lpc", "phase"], ["world"], "--leave_out world: not one of --vocoders"),
        (["a/hifigan.onnx", "b/hifigan.onnx"], [], "two would have copies of one name"),
    ],
)
def test_vocoders_that_would_leave_out_or_overwrite_unsaid_are_refused(vocoders, left_out, message):
    with pytest.raises(ValueError, match=message):
        copy_synthesis.CopySynthesisArguments("in", "out", vocoders=vocoders, leave_out=left_out)


def test_unknown_speakers_are_refused(tmp_path):
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.wav", synthesize(i, 1), RATE)

    with pytest.raises(SystemExit, match="speakers are not known.*--speaker_column.*--speaker_pattern"):
        run(tmp_path, tmp_path / "corpus")


def test_of_a_labelled_corpus_the_bona_fide_recordings_and_its_splits_are_taken(la_corpus):
    with pytest.raises(ValueError, match="speaker LA_0000 is in several splits"):
        arguments = copy_synthesis.CopySynthesisArguments(str(la_corpus), "corpus")
        copy_synthesis.load_recordings(arguments)
