"""
Make a corpus of matched pairs from bona fide recordings alone: each piece of a recording, and its copies by
vocoders (Wang and Yamagishi, "Spoofed training data for speech spoofing countermeasure can be efficiently
created using neural vocoders", ICASSP 2023).

    python -m processing.copy_synthesis --recordings FOLDER --output_dir CORPUS
"""

import dataclasses
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from datasets import Dataset, concatenate_datasets
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers.hf_argparser import HfArg
from transformers.utils import logging

from .arguments import ArgumentParser, CorpusArguments
from .audio import decode_windows
from .audio_folder import SPLITS
from .collation import RecordingError
from .corpora import load_corpus
from .files import hash_file, read_json, write_text, write_whole
from .machine import count_cores
from .readable import leave_out_unreadable
from .report import describe_left_out
from .resampling import resample_array
from .resuming import describe_difference, hash_rows
from .signal_check import check_signal
from .speech_codecs import CodecAugmentation
from .trials import KEY_OF_LABEL, KEYS, Corpus, list_trials
from .trivial_cues import SAMPLING_RATE, describe_cues, report_cues
from .vocoders import VOCODERS, OnnxVocoder, Vocoder, find_vocoder


logger = logging.get_logger(__name__)

VERSION = 1  # to be raised with every change of the sound
SETTINGS_FILE, CUES_FILE = "copy_synthesis.json", "trivial_cues.json"
COLUMNS = "file_name utterance_id label attack speaker source start codec".split()  # of metadata.csv
CODECS = CodecAugmentation.codecs
MARGIN = 0.1  # s on either side of a piece that vocoders are given and that is cut off
LARGEST_PEAK = 0.9  # of full scale
# Names of LibriSpeech and LibriTTS, 103-1240-0000 and 103_1240_000001_000000, and ls-103
SPEAKER_PATTERN = r"(?:^|/)(?:ls-(\d+)|(\d+)([-_])\d+\3\d+(?:_\d+)?)\.\w+$"


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
    high_pass: float = HfArg(
        default=60.0, help="Hz, below which both classes have nothing: vocoders lose hum and rumble."
    )
    coded_share: float = HfArg(
        default=0.25, help="Share of the pairs that a codec is applied to, the same one to all of a pair."
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
        if not (0 <= self.dev_share and 0 <= self.eval_share and self.dev_share + self.eval_share < 1):
            raise ValueError(
                f"dev_share {self.dev_share} and eval_share {self.eval_share} must leave speakers to train."
            )
        if self.seconds < 0.5 or self.high_pass <= 0:
            raise ValueError(f"seconds {self.seconds}: at least 0.5; high_pass {self.high_pass}: above 0 Hz.")
        if unknown := set(self.leave_out) - set(self.vocoders):
            raise ValueError(f"--leave_out {' '.join(sorted(unknown))}: not one of --vocoders.")


@dataclass(frozen=True)
class PairMaker:
    """
    Makes the pieces of a recording and their copies, and writes them below `folder`.

    Everything but the vocoder is the same for both classes. Pieces are cut with a margin, so that no vocoder
    meets an edge that is kept; they are high-passed, given the level of the bona fide one, resampled, perhaps
    coded, and rounded to 16 bits with a dither, since what was rounded before would be told by it.
    """

    folder: Path
    vocoders: Mapping[str, Vocoder]
    arguments: CopySynthesisArguments

    def make_pairs(self, row: Mapping) -> list[dict]:
        """
        Of a row of [`load_recordings`], the lines of metadata: one for every file, and one without a file for
        a piece that is left out. Pairs that a killed run has left are not made again.
        """
        try:
            return [*self._make_pairs(row)]
        except (ValueError, OSError) as error:
            raise RecordingError(str(error)) from error

    def _make_pairs(self, row: Mapping) -> Iterator[dict]:
        rate = self.arguments.sampling_rate
        margin, length = (round(seconds * rate) for seconds in (MARGIN, self.arguments.seconds))
        windows = decode_windows(
            row["audio"], num_samples=length + 2 * margin, hop=length, sampling_rate=rate
        )
        left_out = self.arguments.leave_out if row["split"] == "train" else []
        for i, (start, window) in enumerate(windows):
            piece = f"{row['utterance_id'].replace('/', '_')}-{i:03d}"
            generator = np.random.default_rng([self.arguments.seed, *piece.encode()])
            codec = generator.choice(CODECS) if generator.random() < self.arguments.coded_share else "-"
            common = {"speaker": row["speaker_id"], "source": row["source"], "start": start / rate + MARGIN}
            common |= {"codec": codec, "split": row["split"]}
            if reason := check_signal(window[margin:-margin], rate):
                yield {**common, "left_out": reason}
                continue
            utterances = {name: f"{piece}-{name}" for name in self.vocoders if name not in left_out}
            utterances["-"] = piece
            files = {name: f"spoof/{name}/{utterance}.flac" for name, utterance in utterances.items()}
            files["-"] = f"bonafide/{piece}.flac"
            folder = self.folder / row["split"]
            if not (folder / files["-"]).is_file():  # it is written last
                for name, waveform in self._make_pair(window.astype(np.float64), utterances, codec).items():
                    with write_whole(folder / files[name]) as partial:
                        soundfile.write(partial, waveform, SAMPLING_RATE, format="FLAC")
            for name, file in files.items():
                label = "bonafide" if name == "-" else "spoof"
                line = {"file_name": file, "utterance_id": utterances[name], "label": label, "attack": name}
                yield line | common

    def _make_pair(self, window: np.ndarray, utterances: Mapping, codec: str) -> dict[str, np.ndarray]:
        """The copies by name and, last, the piece itself, "-", at 16 kHz, (num_samples,) int16."""
        rate, seed = self.arguments.sampling_rate, self.arguments.seed
        margin = round(MARGIN * rate)
        gain = np.clip(2 * np.fft.rfftfreq(len(window), 1 / rate) / self.arguments.high_pass - 2, 0, 1)
        generators = {n: np.random.default_rng([seed, *u.encode()]) for n, u in utterances.items()}
        pair = {}
        for name, generator in generators.items():
            signal = window if name == "-" else self.vocoders[name](window, rate, generator)
            if np.ndim(signal) != 1 or len(signal) < len(window) - margin or not 0 < np.std(signal) < np.inf:
                raise ValueError(
                    f"The vocoder {name} made of {utterances['-']}, {len(window):,} samples, an array of "
                    f"shape {np.shape(signal)}, too short, silent or not finite. Leave it out, or mend it."
                )
            signal = np.pad(signal, (0, max(0, len(window) - len(signal))))[: len(window)]
            signal = np.fft.irfft(gain * np.fft.rfft(signal), len(window))[margin : len(window) - margin]
            pair[name] = resample_array((signal / signal.std()).astype(np.float32), rate, SAMPLING_RATE)
        loudest = max(np.abs(signal).max() for signal in pair.values())
        level = float(min(window[margin:-margin].std(), LARGEST_PEAK / loudest))
        for name, signal in pair.items():
            if codec != "-":
                signal = CodecAugmentation([codec])(level * signal, SAMPLING_RATE, generators[name])
                signal = signal / signal.std()
            dither = generators[name].triangular(-1, 0, 1, len(signal))
            pair[name] = np.rint(2**15 * level * signal + dither).clip(-(2**15), 2**15 - 1).astype(np.int16)
        return pair


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
    parts = []
    for split, rows in leave_out_unreadable(corpus.splits, allow_unreadable=False)[0].items():
        rows = rows.select(np.flatnonzero(np.asarray(rows["label"]) == KEYS.index("bonafide")))
        parts.append(rows.add_column("split", [split] * len(rows)))
    rows = concatenate_datasets(parts)
    root = Path(arguments.recordings).expanduser().resolve()
    sources = [os.path.relpath(audio["path"], root).replace(os.sep, "/") for audio in rows["audio"]]
    speakers = [*rows["speaker_id"]]
    if arguments.speaker_pattern or set(speakers) == {"-"}:
        speakers = read_speakers(sources, arguments.speaker_pattern)
    if "-" in speakers:
        raise ValueError(
            f"{corpus.name}: {speakers.count('-')} recordings have no speaker. Name all, or none."
        )
    splits = divide_speakers(speakers, arguments) if len(parts) == 1 else rows["split"]
    if shared := [s for s, of in pd.Series(splits).groupby(speakers).unique().items() if len(of) > 1]:
        raise ValueError(f"{corpus.name}: speaker {shared[0]} is in several splits. Keep speakers apart.")
    rows = rows.remove_columns(["speaker_id", "split"])
    for name, values in {"speaker_id": speakers, "split": splits, "source": sources}.items():
        rows = rows.add_column(name, [*values])
    names = pd.Series(rows["utterance_id"]).str.replace("/", "_")
    if len(doubled := names[names.duplicated()]):
        raise ValueError(f"{corpus.name}: two recordings would be called {doubled.iloc[0]}. Rename one.")
    return rows, corpus


def read_speakers(sources: Sequence[str], pattern: str | None) -> list[str]:
    """The speaker of each path, see `--speaker_pattern`. A ValueError where it cannot be told."""
    found = [re.search(pattern or SPEAKER_PATTERN, source) for source in sources]
    if all(found):
        return [next((group for group in match.groups() if group), match[0]) for match in found]
    if pattern:
        raise ValueError(f"--speaker_pattern {pattern!r} does not match {sources[found.index(None)]}.")
    folders = [
        [f for f in source.split("/")[:-1] if f.casefold() not in {*SPLITS, *KEY_OF_LABEL}]
        for source in sources
    ]
    for level in range(min(map(len, folders))):
        if len({tuple(above[: level + 1]) for above in folders}) > 1:
            return [above[level] for above in folders]
    raise ValueError(
        f"The speakers are not known, and train and dev must not share one: {sources[0]} is in no folder of "
        "a speaker. Name a column of metadata.csv by --speaker_column, or give a --speaker_pattern."
    )


def divide_speakers(speakers: Sequence[str], arguments: CopySynthesisArguments) -> list[str]:
    """The split of each recording: speakers are drawn for dev, then for eval; the others are for train."""
    names = np.random.default_rng(arguments.seed).permutation(sorted(set(speakers)))
    num_dev, num_eval = (
        max(1, round(share * len(names))) if share else 0
        for share in (arguments.dev_share, arguments.eval_share)
    )
    if num_dev + num_eval >= len(names):
        raise ValueError(
            f"There are {len(names)} speakers: too few for splits without a common one. Give recordings of "
            "more, or another --speaker_pattern."
        )
    of_split = ["dev"] * num_dev + ["eval"] * num_eval + ["train"] * (len(names) - num_dev - num_eval)
    split_of = dict(zip(names, of_split, strict=True))
    return [split_of[speaker] for speaker in speakers]


def describe_settings(
    arguments: CopySynthesisArguments, rows: Dataset, vocoders: Mapping[str, Vocoder]
) -> dict:
    """What must be the same where a run goes on."""
    settings = {"version": VERSION, **dataclasses.asdict(arguments), "recordings": hash_rows(rows)}
    files = {name: hash_file(Path(v.path)) for name, v in vocoders.items() if isinstance(v, OnnxVocoder)}
    return {k: v for k, v in settings.items() if k not in ("output_dir", "num_workers")} | {"files": files}


def check_folder(folder: Path, settings: dict) -> None:
    """Raise a FileExistsError for a folder that is there and not what these settings make."""
    if not folder.exists():
        return
    before = read_json(folder / SETTINGS_FILE)
    if before is None:
        raise FileExistsError(f"{folder} is there and is no corpus of copies. Name another --output_dir.")
    if difference := describe_difference(before, settings):
        raise FileExistsError(
            f"{folder} was made with other settings: {difference}. Name another --output_dir, or remove it."
        )


def make_corpus(folder: Path, rows: Dataset, maker: PairMaker) -> None:
    """Write all pairs and a metadata.csv for each split; `folder` is there when all of it is."""
    num_workers = maker.arguments.num_workers or count_cores()
    loader = DataLoader(rows, None, num_workers=num_workers, collate_fn=maker.make_pairs)
    lines = []
    with tqdm(total=len(rows), desc="Recordings") as bar:  # given the loader it starts the workers twice
        for of_row in loader:
            lines += of_row
            bar.update()
    table = pd.DataFrame(lines, columns=[*COLUMNS, "split", "left_out"])
    for split, of_split in table[table["file_name"].notna()].groupby("split"):
        write_text(maker.folder / split / "metadata.csv", of_split[COLUMNS].to_csv(index=False))
    for _, line in table[table["file_name"].isna()].iterrows():
        logger.warning("Left out: %s from %.2f s: %s.", line["source"], line["start"], line["left_out"])
    maker.folder.rename(folder)


def main(argv: list[str]) -> None:
    """Make the corpus, or the rest of it, and report its trivial cues."""
    (arguments,), _ = ArgumentParser(CopySynthesisArguments, prog="processing.copy_synthesis").parse(argv)
    folder = Path(arguments.output_dir)
    unfinished = folder.with_name(f".{folder.name}.partial")
    try:
        vocoders = dict(map(find_vocoder, arguments.vocoders))
        arguments.leave_out = [find_vocoder(name)[0] for name in arguments.leave_out]
        rows, source = load_recordings(arguments)
        settings = describe_settings(arguments, rows, vocoders)
        check_folder(folder, settings)
        check_folder(unfinished, settings)
        if not folder.exists():
            num_speakers = len(set(rows["speaker_id"]))
            print(f"Recordings: {len(rows):,} bona fide of {num_speakers:,} speakers, {source.name}")
            for line in describe_left_out(source):
                print(line)
            write_text(unfinished / SETTINGS_FILE, json.dumps(settings, indent=2) + "\n")
            make_corpus(folder, rows, PairMaker(unfinished, vocoders, arguments))
        corpus = load_corpus(CorpusArguments(dataset=str(folder)))
        if (report := read_json(folder / CUES_FILE)) is None:
            report = report_cues(concatenate_datasets([*corpus.splits.values()]))
            write_text(folder / CUES_FILE, json.dumps(report, indent=2) + "\n")
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"processing.copy_synthesis: error: {error}")
    trials = pd.concat([list_trials(rows).assign(split=split) for split, rows in corpus.splits.items()])
    attacks = trials["attack"].replace("-", "bonafide")
    print(f"Recordings by split:\n{pd.crosstab(attacks, trials['split'])}")
    print(f"{describe_cues(report)}\nWritten: {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
