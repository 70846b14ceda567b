"""
What tells the classes of a corpus apart without listening: length, level, pauses and the like, which a
detector learns before anything else (Müller et al., "Speech is silver, silence is golden", ASVspoof 2021
workshop).

    python -m processing.trivial_cues --dataset CORPUS [--split SPLIT]
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, concatenate_datasets
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers.hf_argparser import HfArg

from metrics.det import check_scores

from .arguments import ArgumentParser, CorpusArguments
from .audio import decode_audio
from .corpora import load_corpus, take_split
from .files import write_text
from .machine import count_cores
from .trials import list_trials


SAMPLING_RATE = 16_000  # Hz, at which recordings are measured
FRAME = 320  # samples, 20 ms
PAUSE_BELOW = 30  # dB below the recording's level: a frame without speech
CUES = {  # by name, what a value is
    "duration": "s",
    "level": "dB of full scale, root mean square",
    "peak": "dB to the level",
    "dc": "mean, dB to the level",
    "below_60_hz": "dB to the level",
    "above_7_khz": "dB to the level; a narrow bandwidth has little",
    "pauses": f"share of frames {PAUSE_BELOW} dB below the level",
    "leading_silence": "s of such frames at the beginning",
    "trailing_silence": "s of such frames at the end",
    "noise_floor": "dB to the level, of the quietest tenth of the frames",
}
TOLERATED = (0.4, 0.6)  # AUCs between which a cue is not warned of


@dataclass(frozen=True)
class Separation:
    """
    How well one number tells bona fide from spoofed recordings.

    Attributes:
        auc: how often it is higher for bona fide, of all pairs of a bona fide and a spoofed recording, ties
            counted half: 0.5 tells nothing.
        low, high: the 95 % interval of that, recordings taken to be independent (DeLong et al., 1988).
    """

    auc: float
    low: float
    high: float

    @property
    def is_telling(self) -> bool:
        """Whether the whole interval lies outside [`TOLERATED`]."""
        return self.high < TOLERATED[0] or self.low > TOLERATED[1]


def measure_separation(bonafide: Sequence[float], spoof: Sequence[float]) -> Separation:
    """The area under the ROC curve, see [`Separation`]. A ValueError for no or not finite values."""
    bonafide, spoof = check_scores(bonafide, spoof)
    of_bonafide = _count_below(spoof, bonafide) / len(spoof)  # share of spoofed ones below each bona fide one
    of_spoof = 1 - _count_below(bonafide, spoof) / len(bonafide)
    auc = float(of_bonafide.mean())
    parts = [values.var(ddof=1) / len(values) for values in (of_bonafide, of_spoof) if len(values) > 1]
    margin = 1.96 * float(np.sqrt(sum(parts)))
    return Separation(auc, max(0.0, auc - margin), min(1.0, auc + margin))


def _count_below(values: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """How many values are below each limit, of those that equal it half."""
    values = np.sort(values)
    return (np.searchsorted(values, limits, "left") + np.searchsorted(values, limits, "right")) / 2


def measure_cues(waveform: np.ndarray) -> dict[str, float]:
    """The value of every one of [`CUES`] of a waveform (num_samples,) at 16 kHz."""
    signal = np.asarray(waveform, np.float64)
    quietest = 1e-10  # power, -100 dB: digital silence has a level, too
    power = np.mean(signal**2) + quietest
    frames = np.pad(signal, (0, -len(signal) % FRAME)).reshape(-1, FRAME)
    levels = 10 * np.log10((np.mean(frames**2, axis=1) + quietest) / power)
    sounding = np.flatnonzero(levels > -PAUSE_BELOW)
    first, last = (sounding[0], sounding[-1]) if len(sounding) else (len(levels), -1)
    spectrum = 2 * np.abs(np.fft.rfft(signal) / len(signal)) ** 2  # adds up to the power
    frequencies = np.fft.rfftfreq(len(signal), 1 / SAMPLING_RATE)
    return {
        "duration": len(signal) / SAMPLING_RATE,
        "level": 10 * np.log10(power),
        "peak": 10 * np.log10((np.max(signal**2) + quietest) / power),
        "dc": 10 * np.log10((np.mean(signal) ** 2 + quietest) / power),
        "below_60_hz": 10 * np.log10((spectrum[frequencies < 60].sum() + quietest) / power),
        "above_7_khz": 10 * np.log10((spectrum[frequencies > 7000].sum() + quietest) / power),
        "pauses": np.mean(levels <= -PAUSE_BELOW),
        "leading_silence": first * FRAME / SAMPLING_RATE,
        "trailing_silence": (len(levels) - 1 - last) * FRAME / SAMPLING_RATE,
        "noise_floor": np.quantile(levels, 0.1),
    }


def report_cues(rows: Dataset) -> dict:
    """
    Measure every cue of the recordings of rows, and how well each alone tells the classes apart.

    Returns:
        The counts of recordings, and for every cue what its values are, their median in each class, and a
        [`Separation`] as a dictionary, of all spoofed recordings (`all`) and of those of each attack.
    """
    trials = list_trials(rows)
    loader = DataLoader(
        range(len(rows)), num_workers=count_cores() - 1, collate_fn=partial(_measure_row, rows)
    )
    values = []
    with tqdm(total=len(rows), desc="Measuring trivial cues", delay=1) as bar:
        for of_row in loader:
            values.append(of_row)
            bar.update()
    values = pd.DataFrame(values)
    is_bonafide = (trials["key"] == "bonafide").to_numpy()
    attacks = trials["attack"].to_numpy()
    cues = {}
    for cue, what in CUES.items():
        bonafide, spoof = values.loc[is_bonafide, cue], values.loc[~is_bonafide, cue]
        groups = {"all": spoof} | {
            attack: values.loc[~is_bonafide & (attacks == attack), cue]
            for attack in sorted(set(attacks[~is_bonafide]))
        }
        cues[cue] = {
            "values": what,
            "median_bonafide": float(bonafide.median()),
            "median_spoof": float(spoof.median()),
            "auc": {name: vars(measure_separation(bonafide, group)) for name, group in groups.items()},
        }
    counts = {"bonafide": int(is_bonafide.sum()), "spoof": int((~is_bonafide).sum())}
    counts["per_attack"] = pd.Series(attacks[~is_bonafide]).value_counts().to_dict()
    return {"counts": counts, "cues": cues}


def _measure_row(rows: Dataset, numbers: list[int]) -> dict[str, float]:
    return measure_cues(decode_audio(rows[numbers[0]]["audio"], sampling_rate=SAMPLING_RATE))


def describe_cues(report: dict) -> str:
    """The report as a table, and a line of warning for every cue that tells the classes apart."""
    counts, warnings = report["counts"], []
    lines = [
        f"Trivial cues of {counts['bonafide']:,} bona fide and {counts['spoof']:,} spoofed recordings: the "
        "AUC of each alone (0.5 tells nothing), the medians, and the attack that it tells best",
        f"{'cue':<17}{'AUC':>6}  {'95 % interval':<16}{'bona fide':>10}{'spoofed':>10}  {'AUC':>5}  attack",
    ]
    for cue, found in report["cues"].items():
        of_all, *others = (Separation(**auc) for auc in found["auc"].values())
        attack, best = max(
            zip([*found["auc"]][1:], others, strict=True), key=lambda pair: abs(pair[1].auc - 0.5)
        )
        medians = f"{found['median_bonafide']:10.4g}{found['median_spoof']:10.4g}"
        interval = f"[{of_all.low:.3f}, {of_all.high:.3f}]"
        lines.append(f"{cue:<17}{of_all.auc:6.3f}  {interval:<16}{medians}  {best.auc:5.3f}  {attack}")
        if of_all.is_telling or best.is_telling:
            whose = "the classes" if of_all.is_telling else f"{attack} from bona fide"
            auc = of_all.auc if of_all.is_telling else best.auc
            warnings.append(f"Warning: {cue} alone ({found['values']}) tells {whose} apart, AUC {auc:.3f}.")
    return "\n".join(lines + warnings)


@dataclass
class CueArguments:
    """Which recordings, and where the report goes."""

    split: str | None = HfArg(default=None, help="Split of the corpus, or a slice of one; default: all.")
    output_file: str = HfArg(default="trivial_cues.json", help="Where the report is written as JSON.")


def main(argv: list[str]) -> None:
    """Measure the trivial cues of a corpus, print and write them."""
    parser = ArgumentParser((CueArguments, CorpusArguments), prog="processing.trivial_cues")
    (arguments, corpus_arguments), _ = parser.parse(argv)
    try:
        corpus = load_corpus(corpus_arguments)
        names = [arguments.split] if arguments.split else [*corpus.splits]
        report = report_cues(concatenate_datasets([take_split(corpus, name) for name in names]))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"processing.trivial_cues: error: {error}")
    print(f"Corpus: {corpus.name}, {', '.join(names)}\n{describe_cues(report)}")
    write_text(Path(arguments.output_file), json.dumps(report, indent=2) + "\n")
    print(f"Written: {arguments.output_file}")


if __name__ == "__main__":
    main(sys.argv[1:])
