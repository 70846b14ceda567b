"""
What tells the classes of a corpus apart without listening: length, level, pauses and the like, which a
detector learns before anything else (Müller et al., "Speech is silver, silence is golden", ASVspoof 2021
workshop).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm import tqdm

from metrics.det import check_scores
from metrics.statistics import Estimate

from .audio import decode_audio
from .machine import count_cores
from .measurements import PAUSE_BELOW
from .trials import list_trials


SAMPLING_RATE = 16_000  # Hz, at which recordings are measured
FRAME = 320  # samples, 20 ms
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
TOLERATED = (0.4, 0.6)  # AUCs: a cue whose interval lies outside is warned of


def measure_auc(bonafide: Sequence[float], spoof: Sequence[float]) -> Estimate:
    """
    The area under the ROC curve: how often a number is higher for bona fide, of all pairs of a bona fide and
    a spoofed recording, ties counted half; 0.5 tells nothing. The 95 % interval takes recordings to be
    independent (DeLong et al., 1988). A ValueError for no or not finite values.
    """
    bonafide, spoof = map(pd.Series, check_scores(bonafide, spoof))
    ranks = pd.concat([bonafide, spoof]).rank()
    of_bonafide = (ranks[: len(bonafide)] - bonafide.rank()) / len(spoof)  # share of spoofed ones below each
    of_spoof = (ranks[len(bonafide) :] - spoof.rank()) / len(bonafide)  # share of bona fide ones below each
    auc = of_bonafide.mean()
    margin = 1.96 * np.sqrt(np.nansum([of_bonafide.sem() ** 2, of_spoof.sem() ** 2]))  # NaN of a single one
    return Estimate(*map(float, (auc, max(0, auc - margin), min(1, auc + margin))))


def measure_cues(waveform: np.ndarray) -> dict[str, float]:
    """The value of every one of [`CUES`] of a waveform (num_samples,) at 16 kHz."""
    signal = np.asarray(waveform, np.float64)
    power = np.mean(signal**2) + 1e-10  # -100 dB: digital silence has a level, too
    frames = np.pad(signal, (0, -len(signal) % FRAME)).reshape(-1, FRAME)
    spectrum = 2 * np.abs(np.fft.rfft(signal) / len(signal)) ** 2  # adds up to the power
    frequencies = np.fft.rfftfreq(len(signal), 1 / SAMPLING_RATE)

    def to_level(value: float | np.ndarray) -> float | np.ndarray:
        return 10 * np.log10((value + 1e-10) / power)

    levels = to_level(np.mean(frames**2, axis=1))
    is_sounding = levels > -PAUSE_BELOW  # the loudest frame at least
    return {
        "duration": len(signal) / SAMPLING_RATE,
        "level": 10 * np.log10(power),
        "peak": to_level(np.max(signal**2)),
        "dc": to_level(np.mean(signal) ** 2),
        "below_60_hz": to_level(spectrum[frequencies < 60].sum()),
        "above_7_khz": to_level(spectrum[frequencies > 7000].sum()),
        "pauses": np.mean(~is_sounding),
        "leading_silence": np.argmax(is_sounding) * FRAME / SAMPLING_RATE,
        "trailing_silence": np.argmax(is_sounding[::-1]) * FRAME / SAMPLING_RATE,
        "noise_floor": np.quantile(levels, 0.1),
    }


def compare_cues(rows: Dataset) -> pd.DataFrame:
    """
    Measure every cue of the recordings of rows, and how well each alone tells bona fide recordings from all
    spoofed ones, and from those of each attack.

    Returns:
        A row for each cue and attack, "all" first: `cue`, `attack`, `bonafide` and `spoof`, medians, and
        `auc`, `low`, `high`, see [`measure_auc`].
    """
    loader = DataLoader(
        rows.select_columns("audio"), None, num_workers=count_cores(), collate_fn=_measure_recording
    )
    values = pd.DataFrame([*tqdm(loader, desc="Measuring trivial cues", delay=1)])
    trials = list_trials(rows)
    bonafide, spoof = (values[trials["key"] == key] for key in ("bonafide", "spoof"))
    lines = []
    for attack, group in [("all", spoof), *spoof.groupby(trials["attack"])]:
        for cue in CUES:
            medians = {"bonafide": bonafide[cue].median(), "spoof": group[cue].median()}
            auc = vars(measure_auc(bonafide[cue], group[cue]))
            lines.append({"cue": cue, "attack": attack, **medians, **auc})
    return pd.DataFrame(lines).rename(columns={"value": "auc"})


def _measure_recording(row: dict) -> dict[str, float]:
    return measure_cues(decode_audio(row["audio"], sampling_rate=SAMPLING_RATE))


def describe_cues(cues: pd.DataFrame) -> str:
    """
    What [`compare_cues`] gives, as a table of all attacks, and a line of warning for every cue that tells the
    classes apart, with the attack that it tells best.
    """
    table = cues[cues["attack"] == "all"].drop(columns="attack")
    lines = [
        "Trivial cues: medians of bona fide and of spoofed recordings, and the AUC of each cue alone",
        "(0.5 tells nothing) with its 95 % interval",
        table.to_string(index=False, float_format="{:.4g}".format),
    ]
    telling = cues[(cues["high"] < TOLERATED[0]) | (cues["low"] > TOLERATED[1])]
    best = (telling["auc"] - 0.5).abs().groupby(telling["cue"], sort=False).idxmax()
    lines += [
        f"Warning: {line.cue} alone ({CUES[line.cue]}) tells bona fide from spoofed recordings, attack: "
        f"{line.attack}, AUC {line.auc:.3f}."
        for line in telling.loc[best].itertuples()
    ]
    return "\n".join(lines)
