"""
Make a corpus of matched pairs from bona fide recordings alone: each piece of a recording, and its copies by
vocoders (Wang and Yamagishi, "Spoofed training data for speech spoofing countermeasure can be efficiently
created using neural vocoders", ICASSP 2023).

    python -m processing.copy_synthesis --recordings FOLDER --output_dir CORPUS
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from datasets import Dataset, concatenate_datasets
from torch.utils.data import DataLoader
from tqdm import tqdm  # tqdm.auto would start the workers of a loader twice
from transformers.hf_argparser import HfArg
from transformers.utils import logging

from .arguments import ArgumentParser, CorpusArguments
from .audio import decode_windows
from .audio_folder import SPLITS
from .collation import RecordingError
from .corpora import load_corpus
from .files import hash_file, read_json, write_json, write_text, write_whole
from .machine import count_cores
from .readable import leave_out_unreadable
from .report import describe_left_out
from .resampling import resample_array
from .resuming import describe_difference, hash_rows
from .signal_check import check_signal
from .speech_codecs import CodecAugmentation
from .trials import KEY_OF_LABEL, KEYS, Corpus, list_trials
from .trivial_cues import SAMPLING_RATE, compare_cues, describe_cues
from .vocoders import VOCODERS, Vocoder, find_vocoder


logger = logging.get_logger(__name__)

VERSION = 2  # to be raised with every change of the sound
SETTINGS_FILE = "copy_synthesis.json"
COLUMNS = "file_name utterance_id label attack speaker source start codec".split()  # of metadata.csv
CODECS = CodecAugmentation.codecs
HIGH_PASS = 60  # Hz, below which both classes have nothing: vocoders lose hum and rumble
CODED_SHARE = 0.25  # of the pairs: coded, all of a pair by the same codec
MARGIN = 0.1  # s on either side of a piece that vocoders are given and that is cut off
LARGEST_PEAK = 0.9  # of full scale
# Names of LibriSpeech and LibriTTS, 103-1240-0000 and 103_1240_000001_000000, and ls-103
SPEAKER_PATTERN = r"(?:^|/)(?:ls-(\d+)|(\d+)(?:[-_]\d+){2,3})\.\w+$"


@dataclass
class CopySynthesisArguments:
    """Which recordings, which vocoders, and how the corpus is divided."""

    recordings: str = HfArg(
        help="Folder of bona fide recordings; of a labelled one the bona fide recordings are taken."
    )
    output_dir: str = HfArg(help="Folder of the corpus. A run that was killed goes on.")
    vocoders: list[str] = HfArg(
        default_factory=lambda: [*VOCODERS],
        help=f"Vocoders: {', '.join(VOCODERS)}, a Python function module:function, or FILE.onnx.",
    )
    leave_out: list[str] = HfArg(
        default_factory=list, help="Vocoders whose copies are in dev and eval alone, not in train."
    )
    seconds: float = HfArg(default=4.04, help="Length of the pieces that recordings are cut into.")
    sampling_rate: int = HfArg(
        default=SAMPLING_RATE,
        help="Rate at which vocoders work, in Hz. Both classes are brought to it and back to 16 kHz.",
    )
    dev_share: float = HfArg(default=0.15, help="Share of the speakers that go to dev.")
    eval_share: float = HfArg(default=0.15, help="Share of the speakers that go to eval.")
    speaker_column: str | None = HfArg(default=None, help="Column of the speaker in a metadata.csv.")
    speaker_pattern: str | None = HfArg(
        default=None,
        help="Regular expression for the paths of the recordings, whose first group is the speaker; default: "
        "LibriSpeech's and LibriTTS's names, else the first folders of which there are several.",
    )
    seed: int = HfArg(default=0, help="Of the division of speakers and of all random numbers.")
    num_workers: int | None = HfArg(default=None, help="Processes; default: one for each core.")

    def __post_init__(self):
        if unknown := set(self.leave_out) - set(self.vocoders):
            raise ValueError(f"--leave_out {' '.join(sorted(unknown))}: not one of --vocoders.")
        names = [*map(name_copies, self.vocoders)]
        if len(set(names)) < len(names):
            raise ValueError(f"--vocoders {' '.join(names)}: two would have copies of one name. Rename one.")


def name_copies(vocoder: str) -> str:
    """What the copies by a vocoder are called: its name, that of the function, or that of the file."""
    return Path(vocoder).stem if vocoder.endswith(".onnx") else vocoder.rpartition(":")[2]


@dataclass(frozen=True)
class PairMaker:
    """
    Makes the pieces of a recording and their copies, and writes them below `folder`.

    Everything but the vocoder is the same for both classes; the one of the piece itself, "-", returns what it
    is given. Pieces are cut with a margin, so that no vocoder meets an edge that is kept; they are
    high-passed, resampled, given the level of the bona fide one, perhaps coded, and rounded to 16 bits with a
    dither, since what was rounded before would be told by it.
    """

    folder: Path
    vocoders: Mapping[str, Vocoder]  # by what their copies are called; "-" is the last
    arguments: CopySynthesisArguments

    def make_pairs(self, row: Mapping) -> list[dict]:
        """
        Of a row of [`load_recordings`], the lines of metadata: one for every file, and one without a file for
        a piece that is left out. Pairs that a killed run has left are not made again.
        """
        rate = self.arguments.sampling_rate
        margin, length = (round(seconds * rate) for seconds in (MARGIN, self.arguments.seconds))
        lines = []
        try:
            windows = decode_windows(
                row["audio"], num_samples=length + 2 * margin, hop=length, sampling_rate=rate
            )
            for number, (start, window) in enumerate(windows):
                common = {"speaker": row["speaker_id"], "split": row["split"], "source": row["source"]}
                common["start"] = round(start / rate + MARGIN, 4)
                if reason := check_signal(window[margin:-margin], rate):
                    lines.append({"left_out": reason} | common)
                else:
                    piece = f"{row['utterance_id'].replace('/', '_')}-{number:03d}"
                    lines += [line | common for line in self._write_pair(piece, window, row["split"])]
        except (ValueError, OSError) as error:
            raise RecordingError(f"{row['source']}: {error}") from error
        return lines

    def _write_pair(self, piece: str, window: np.ndarray, split: str) -> list[dict]:
        generator = np.random.default_rng([self.arguments.seed, *piece.encode()])
        codec = generator.choice(CODECS) if generator.random() < CODED_SHARE else "-"
        left_out = [*map(name_copies, self.arguments.leave_out)] if split == "train" else []
        names = [name for name in self.vocoders if name not in left_out]
        utterances = {name: piece if name == "-" else f"{piece}-{name}" for name in names}
        labels = {name: "bonafide" if name == "-" else "spoof" for name in names}
        files = {name: f"{labels[name]}/{utterances[name]}.flac" for name in names}
        if not (self.folder / split / files["-"]).is_file():  # the last that is written
            for name, signal in self._make_pair(window, names, codec, generator).items():
                with write_whole(self.folder / split / files[name]) as partial:
                    soundfile.write(partial, signal, SAMPLING_RATE, format="FLAC")
        return [
            {"file_name": files[name], "utterance_id": utterances[name], "label": labels[name]}
            | {"attack": name, "codec": codec}
            for name in names
        ]

    def _make_pair(
        self, window: np.ndarray, names: Sequence[str], codec: str, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """What the vocoders of these names make of a window, at 16 kHz, (num_samples,) int16."""
        rate, length = self.arguments.sampling_rate, len(window)
        margin = round(MARGIN * rate)
        gain = np.clip(2 * np.fft.rfftfreq(length, 1 / rate) / HIGH_PASS - 2, 0, 1)
        pair = {}
        for name in names:
            signal = self.vocoders[name](window.astype(np.float64), rate, generator)
            if np.ndim(signal) != 1 or len(signal) < length - margin or not 0 < np.std(signal) < np.inf:
                raise ValueError(
                    f"The vocoder {name} made of {length:,} samples an array of shape {np.shape(signal)}, "
                    "too short, silent or not finite. Leave it out, or mend it."
                )
            signal = np.fft.rfft(np.pad(signal, (0, margin))[:length])
            signal = np.fft.irfft(gain * signal, length)[margin : length - margin]
            signal = resample_array(signal.astype(np.float32), rate, SAMPLING_RATE)
            pair[name] = signal / signal.std()
        loudest = max(np.abs(signal).max() for signal in pair.values())
        level = min(window[margin:-margin].std(), LARGEST_PEAK / loudest)
        for name, signal in pair.items():
            if codec != "-":
                signal = CodecAugmentation([codec])(level * signal, SAMPLING_RATE, generator)
                signal = signal / signal.std()
            dithered = 2**15 * level * signal + generator.triangular(-1, 0, 1, len(signal))
            pair[name] = np.rint(dithered).clip(-(2**15), 2**15 - 1).astype(np.int16)
        return pair


def keep_waveform(waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
    """The vocoder of bona fide pieces."""
    return waveform


def load_recordings(arguments: CopySynthesisArguments) -> tuple[Dataset, Corpus]:
    """
    The bona fide recordings as rows of `FEATURES` with the columns `split` and `source`, the path below the
    folder; and the corpus that they are of. Splits are its own where it has several; else its speakers are
    divided.

    Raises:
        ValueError: speakers that are not known, too few or in two splits; else as [`load_corpus`].
    """
    corpus = load_corpus(
        CorpusArguments(dataset=arguments.recordings, speaker_column=arguments.speaker_column),
        unlabelled="bonafide",
    )
    parts = leave_out_unreadable(corpus.splits, allow_unreadable=False)[0]
    splits = np.repeat([*parts], [*map(len, parts.values())])
    rows = concatenate_datasets([*parts.values()])
    kept = np.flatnonzero(np.asarray(rows["label"]) == KEYS.index("bonafide"))
    rows, splits = rows.select(kept), splits[kept]
    root = Path(arguments.recordings).expanduser().resolve()
    sources = [os.path.relpath(audio["path"], root).replace(os.sep, "/") for audio in rows["audio"]]
    speakers = [*rows["speaker_id"]]
    if arguments.speaker_pattern or "-" in speakers:
        speakers = read_speakers(sources, arguments.speaker_pattern)
    if len(parts) == 1:
        splits = divide_speakers(speakers, arguments)
    if shared := [s for s, of in pd.Series(splits).groupby(speakers).unique().items() if len(of) > 1]:
        raise ValueError(f"{corpus.name}: speaker {shared[0]} is in several splits. Keep speakers apart.")
    rows = rows.select_columns(["utterance_id", "audio"])
    for name, values in {"speaker_id": speakers, "split": splits, "source": sources}.items():
        rows = rows.add_column(name, [*values])
    return rows, corpus


def read_speakers(sources: Sequence[str], pattern: str | None) -> list[str]:
    """The speaker of each path, see `--speaker_pattern`. A ValueError where it cannot be told."""
    found = [re.search(pattern or SPEAKER_PATTERN, source) for source in sources]
    if all(found):
        return [next((group for group in match.groups() if group), match[0]) for match in found]
    if pattern:
        raise ValueError(f"--speaker_pattern {pattern!r} does not match {sources[found.index(None)]}.")
    others = {*SPLITS, *KEY_OF_LABEL}
    folders = [[f for f in source.split("/")[:-1] if f.casefold() not in others] for source in sources]
    for level in zip(*folders, strict=False):  # as deep as the least deep one
        if len(set(level)) > 1:
            return [*level]
    raise ValueError(
        f"The speakers are not known, and train and dev must not share one: {sources[0]} is in no folder of "
        "a speaker. Name a column of metadata.csv by --speaker_column, or give a --speaker_pattern."
    )


def divide_speakers(speakers: Sequence[str], arguments: CopySynthesisArguments) -> list[str]:
    """The split of each recording: speakers are drawn for dev, then for eval; the others are for train."""
    names = np.random.default_rng(arguments.seed).permutation(sorted(set(speakers)))
    shares = {"dev": arguments.dev_share, "eval": arguments.eval_share}
    of_split = [s for s, share in shares.items() if share for _ in range(max(1, round(share * len(names))))]
    if len(of_split) >= len(names):
        raise ValueError(
            f"The recordings have too few speakers, {len(names)}, for splits that share none. Give more, or "
            "another --speaker_pattern."
        )
    split_of = dict(zip(names, of_split, strict=False))
    return [split_of.get(speaker, "train") for speaker in speakers]


def make_corpus(rows: Dataset, maker: PairMaker) -> None:
    """Write all pairs, and then a metadata.csv for each split."""
    num_workers = maker.arguments.num_workers or count_cores()
    loader = DataLoader(rows, None, num_workers=num_workers, collate_fn=maker.make_pairs)
    lines = [line for of_row in tqdm(loader, desc="Recordings") for line in of_row]
    table = pd.DataFrame(lines, columns=[*COLUMNS, "split", "left_out"])
    for split, of_split in table[table["left_out"].isna()].groupby("split"):
        write_text(maker.folder / split / "metadata.csv", of_split[COLUMNS].to_csv(index=False))
    for _, line in table[table["left_out"].notna()].iterrows():
        logger.warning("Left out: %s from %.2f s: %s.", line["source"], line["start"], line["left_out"])


def main(argv: list[str]) -> None:
    """Make the corpus, or the rest of it, and report its trivial cues."""
    (arguments,), _ = ArgumentParser(CopySynthesisArguments, prog="processing.copy_synthesis").parse(argv)
    folder = Path(arguments.output_dir)
    unfinished = folder.with_name(f".{folder.name}.partial")
    try:
        vocoders = {name_copies(name): find_vocoder(name) for name in arguments.vocoders}
        vocoders["-"] = keep_waveform
        rows, source = load_recordings(arguments)
        networks = [name for name in arguments.vocoders if name.endswith(".onnx")]
        settings = {"version": VERSION, **vars(arguments), "recordings": hash_rows(rows)}
        settings["networks"] = {name: hash_file(Path(name)) for name in networks}
        del settings["output_dir"], settings["num_workers"]
        for path in (folder, unfinished):
            before = read_json(path / SETTINGS_FILE)
            difference = describe_difference(before, settings) if before else f"it has no {SETTINGS_FILE}"
            if path.exists() and difference:
                raise FileExistsError(
                    f"{path} is there, not made with these settings: {difference}. Remove it, or name "
                    "another --output_dir."
                )
        if not folder.exists():
            num_speakers = len(set(rows["speaker_id"]))
            print(f"Recordings: {len(rows):,} bona fide of {num_speakers:,} speakers, {source.name}")
            for line in describe_left_out(source):
                print(line)
            write_json(unfinished / SETTINGS_FILE, settings)
            make_corpus(rows, PairMaker(unfinished, vocoders, arguments))
            unfinished.rename(folder)
        corpus = load_corpus(CorpusArguments(dataset=str(folder)))
        cues = compare_cues(concatenate_datasets([*corpus.splits.values()]))
        write_text(folder / "trivial_cues.csv", cues.to_csv(index=False))
    except (ImportError, OSError, ValueError, re.error) as error:  # the last, of --speaker_pattern
        sys.exit(f"processing.copy_synthesis: error: {error}")
    trials = pd.concat([list_trials(rows).assign(split=split) for split, rows in corpus.splits.items()])
    counts = trials.replace({"attack": {"-": "bonafide"}}).groupby(["attack", "split"]).size()
    print(f"Recordings by split:\n{counts.unstack(fill_value=0)}")
    print(f"{describe_cues(cues)}\nWritten: {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
