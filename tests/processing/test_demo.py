"""The demo corpus: official layout, whole or absent, the same each time, no trivial cue to the class."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
import torch

from processing.demo import SPLITS, demo_corpus


REPOSITORY = Path(__file__).parents[2]
SMALL = {
    "train": ("trn", range(1, 5), 32, ("D01", "D02")),
    "dev": ("trl", range(5, 7), 16, ("D01", "D02")),
    "eval": ("trl", range(7, 10), 18, ("D01", "D02", "D03")),
}
TINY = {"dev": ("trl", range(5, 6), 4, ("D01", "D02"))}


class Trial(NamedTuple):
    split: str
    speaker: str
    utterance: str
    attack: str
    key: str
    path: Path


def read_trials(root: Path) -> list[Trial]:
    trials = []
    for protocol in sorted((root / "ASVspoof2019_LA_cm_protocols").iterdir()):
        split = protocol.name.split(".")[3]
        for line in protocol.read_text().splitlines():
            speaker, utterance, _, attack, key = line.split()
            path = root / f"ASVspoof2019_LA_{split}" / "flac" / f"{utterance}.flac"
            trials.append(Trial(split, speaker, utterance, attack, key, path))
    return trials


def flac_bytes(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.rglob("*.flac")}


def start_maker(statement: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", f"from processing.demo import demo_corpus\n{statement}"],
        cwd=REPOSITORY,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return demo_corpus(tmp_path_factory.mktemp("cache"), splits=SMALL)


@pytest.fixture(scope="module")
def trials(corpus) -> list[Trial]:
    return read_trials(corpus)


@pytest.fixture(scope="module")
def waveforms(trials) -> list[np.ndarray]:
    return [soundfile.read(trial.path)[0] for trial in trials]


def test_layout_is_the_official_one(corpus, trials):
    files = {path.relative_to(corpus).as_posix() for path in corpus.rglob("*") if path.is_file()}
    protocols = {
        f"ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.{name}.txt"
        for name in ("train.trn", "dev.trl", "eval.trl")
    }
    assert files == protocols | {trial.path.relative_to(corpus).as_posix() for trial in trials}


def test_protocol_lines_have_the_official_columns(corpus):
    protocol = corpus / "ASVspoof2019_LA_cm_protocols" / "ASVspoof2019.LA.cm.train.trn.txt"
    assert protocol.read_text().splitlines()[:4] == [
        "DEMO_0001 DEMO_T_0000001 - - bonafide",
        "DEMO_0001 DEMO_T_0000002 - D01 spoof",
        "DEMO_0001 DEMO_T_0000003 - - bonafide",
        "DEMO_0001 DEMO_T_0000004 - D02 spoof",
    ]


def test_audio_is_16_khz_mono_16_bit_flac(trials):
    infos = [soundfile.info(trial.path) for trial in trials]
    formats = {(info.samplerate, info.channels, info.format, info.subtype) for info in infos}
    assert formats == {(16_000, 1, "FLAC", "PCM_16")}


def test_default_sizes_are_small_enough_to_train_on_in_minutes():
    assert {name: size for name, (_, _, size, _) in SPLITS.items()} == {"train": 128, "dev": 48, "eval": 60}


@pytest.mark.parametrize(("split", "each_attack"), [("train", 8), ("dev", 4), ("eval", 3)])
def test_half_of_a_split_is_bonafide_and_attacks_share_the_rest(trials, split, each_attack):
    attacks = [trial.attack for trial in trials if trial.split == split]
    counts = {attack: attacks.count(attack) for attack in SMALL[split][3]}
    assert counts == dict.fromkeys(SMALL[split][3], each_attack)
    assert attacks.count("-") == len(attacks) // 2


def test_every_speaker_has_as_many_bonafide_as_spoof(trials):
    keys = {}
    for trial in trials:
        keys.setdefault(trial.speaker, []).append(trial.key)
    assert all(spoken.count("bonafide") == spoken.count("spoof") for spoken in keys.values())


@pytest.mark.parametrize("splits", [SMALL, SPLITS], ids=["small", "default"])
def test_speakers_do_not_cross_splits(splits):
    speakers = [speaker for _, speakers, _, _ in splits.values() for speaker in speakers]
    assert len(speakers) == len(set(speakers))


def test_one_attack_is_in_eval_alone(trials):
    attacks = {
        split: {trial.attack for trial in trials if trial.split == split}
        for split in ("train", "dev", "eval")
    }
    assert attacks["train"] == attacks["dev"] == {"-", "D01", "D02"}
    assert attacks["eval"] == {"-", "D01", "D02", "D03"}


def test_lengths_lie_on_both_sides_of_the_crop(waveforms):
    lengths = np.array([len(waveform) for waveform in waveforms])
    assert 32_000 <= lengths.min() and lengths.max() <= 96_000
    assert 0.25 < np.mean(lengths < 64_000) < 0.75


def test_no_utterance_is_silent_or_clipped(waveforms):
    assert min(waveform.std() for waveform in waveforms) > 0.02
    assert max(abs(waveform).max() for waveform in waveforms) < 0.99


def leading_silence(waveform: np.ndarray) -> int:
    """Frames of 10 ms before the level first comes within 20 dB of its highest."""
    envelope = waveform[: len(waveform) // 160 * 160].reshape(-1, 160).std(axis=1)
    return np.argmax(envelope > 0.1 * envelope.max())


@pytest.mark.parametrize(
    "cue",
    [
        np.std,
        len,
        leading_silence,
        np.mean,
        lambda waveform: abs(np.mean(waveform)),
        lambda waveform: np.mean(waveform == 0),
    ],
    ids=["level", "length", "leading silence", "dc", "size of dc", "share of zeros"],
)
def test_a_trivial_cue_does_not_give_the_class_away(trials, waveforms, cue):
    values = np.array([cue(waveform) for waveform in waveforms])
    bonafide = np.array([trial.key == "bonafide" for trial in trials])
    difference = values[bonafide][:, None] - values[~bonafide]
    area_under_curve = np.mean(difference > 0) + np.mean(difference == 0) / 2
    assert 0.3 < area_under_curve < 0.7


def test_a_second_making_gives_the_same_bytes_whatever_else_is_made(corpus, tmp_path):
    torch.manual_seed(0)
    again = demo_corpus(tmp_path, splits={"dev": SMALL["dev"]})
    made = flac_bytes(again)
    assert made == {name: content for name, content in flac_bytes(corpus).items() if name in made}


def test_making_leaves_the_global_generators_alone(tmp_path):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    demo_corpus(tmp_path, splits=TINY)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_the_number_of_threads_does_not_matter(corpus, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made = flac_bytes(demo_corpus(tmp_path, splits=TINY))
    finally:
        torch.set_num_threads(threads)
    assert made == {name: content for name, content in flac_bytes(corpus).items() if name in made}


def test_a_made_corpus_is_used_again(corpus):
    made = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    assert demo_corpus(corpus.parent, splits=SMALL) == corpus
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == made


def test_other_parameters_are_another_corpus(corpus):
    assert demo_corpus(corpus.parent, splits=TINY) != corpus


def test_a_killed_making_leaves_nothing_that_is_taken_for_the_corpus(tmp_path):
    splits = {"dev": SMALL["dev"]}
    with start_maker(f"demo_corpus({str(tmp_path)!r}, splits={splits!r})") as maker:
        progress = b""
        while not re.search(rb" [1-9]\d*/16 ", progress):  # until some utterances are written
            progress += os.read(maker.stderr.fileno(), 4096) or pytest.fail(progress.decode())
        maker.kill()
    assert 0 < len(list(tmp_path.rglob("*.flac"))) < 16
    root = demo_corpus(tmp_path, splits=splits)
    assert sum(trial.path.is_file() for trial in read_trials(root)) == 16


def test_two_makers_at_once_end_with_one_whole_corpus(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        roots = set(pool.map(lambda _: demo_corpus(tmp_path, splits=TINY), range(2)))
    assert roots == set(tmp_path.iterdir())
    assert sum(trial.path.is_file() for trial in read_trials(roots.pop())) == 4


def test_a_folder_that_cannot_take_the_corpus_raises(tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(OSError, match="cache"):
        demo_corpus(tmp_path / "cache", splits=TINY)


def test_default_place_is_the_hugging_face_cache(tmp_path):
    with start_maker(f"print(demo_corpus(splits={TINY!r}))", HF_HOME=str(tmp_path)) as maker:
        output, _ = maker.communicate()
    assert Path(output.decode().strip()).parent == tmp_path / "antispoofing"
