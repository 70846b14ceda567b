"""Windows of a longer recording that raise an alarm: at which level, how often those of bona fide speech do
it, and the segments that they make up. Imports no torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from metrics.exact_intervals import find_interval

from .files import write_text
from .report import format_time
from .validation_set import ValidationSet


if TYPE_CHECKING:
    from .recordings import Recording


NUM_DRAWS = 1000  # recordings made of bona fide windows, at least


@dataclass(frozen=True, eq=False)
class BonafideWindows:
    """
    The windows of bona fide recordings, in order of recording and time.

    Attributes:
        llrs: (num_windows,), not cut to bounds, which would make the lowest of them alike.
        recordings: (num_windows,), a number from 0 on for each recording.
        speakers: (num_recordings,), a number for each speaker; negative where one is not known.
    """

    llrs: np.ndarray
    recordings: np.ndarray
    speakers: np.ndarray

    @classmethod
    def of(cls, validation: ValidationSet) -> "BonafideWindows":
        """Those of a validation set."""
        chosen = validation.is_bonafide[validation.examined][validation.window_places]
        places, recordings = np.unique(validation.window_places[chosen], return_inverse=True)
        llrs = validation.about["a"] * validation.window_scores[chosen] + validation.about["b"]
        return cls(llrs, recordings, validation.speakers[validation.examined][places])

    def draw_lowest(self, num_windows: int, *, seed: int = 0) -> np.ndarray:
        """
        The lowest LLR of each of at least [`NUM_DRAWS`] recordings of `num_windows` windows, sorted.

        Every speaker has the same number of draws. In each the speaker's recordings follow one another, whole
        and in random order, until there are so many windows, and then those of other speakers; where a
        speaker is not known, each recording counts as one. Of a first recording that is longer, a random
        stretch is taken.
        """
        generator = np.random.default_rng(seed)
        _, speakers = np.unique(self.speakers, return_inverse=True)
        num_speakers, lengths = speakers.max() + 1, np.bincount(self.recordings)
        lowest = np.empty(num_speakers * -(-NUM_DRAWS // num_speakers))
        for draw in range(len(lowest)):
            ranks = generator.permutation(num_speakers)  # plus a part of 1, by which recordings are in order
            ranks[draw % num_speakers] = -1
            order = ranks[speakers] + generator.random(len(speakers))
            windows = self.llrs[np.argsort(order[self.recordings], kind="stable")]
            start = generator.integers(max(lengths[order.argmin()] - num_windows, 0) + 1)
            lowest[draw] = windows[start : start + num_windows].min()
        return np.sort(lowest)

    def find_level(self, num_windows: int, family_wise_rate: float) -> dict:
        """
        The highest LLR below which at most a share of `family_wise_rate` of bona fide recordings of
        `num_windows` windows has a window.

        A rate rests on as many independent `trials` as there are speakers, or as such recordings fit into all
        windows, if these are fewer; its interval is the exact one of so many, which holds whatever the
        windows of a speaker have in common. Where they are too few for a single error at the rate asked for,
        the level is the lowest of all LLRs, and `is_supported` is false.

        Returns:
            `level`; `is_supported`; `family_wise_rate` with `rate`, its 95 % interval `low` to `high`,
            `trials`, and the `num_speakers`, `num_recordings` and `num_windows` of the validation set; of
            speakers `None` where one is not known.
        """
        num_speakers = len(np.unique(self.speakers))
        counts = {
            "num_speakers": num_speakers if self.speakers.min() >= 0 else None,
            "num_recordings": len(self.speakers),
            "num_windows": len(self.llrs),
        }
        trials = min(num_speakers, len(self.llrs) / num_windows)
        is_supported = family_wise_rate * trials >= 1
        lowest = self.draw_lowest(num_windows)
        level = lowest[int(family_wise_rate * len(lowest))] if is_supported else self.llrs.min()
        rate = float(np.mean(lowest < level))
        low, high = find_interval(rate * trials, trials)
        of_rate = {"rate": rate, "low": low, "high": high, "trials": trials, **counts}
        return {"level": float(level), "is_supported": bool(is_supported), "family_wise_rate": of_rate}


def find_edges(starts: Sequence[float], seconds: float) -> np.ndarray:
    """
    Where one window's part of the time ends and the next one's begins, (num_windows + 1,): halfway between
    their middles. So each has what is nearer to its middle than to another's.

    Args:
        starts: (num_windows,), of the windows in seconds; the last one ends with the recording.
        seconds: length of the recording.
    """
    middles = np.asarray(starts, float) + (seconds - starts[-1]) / 2
    return np.concatenate([[0.0], (middles[1:] + middles[:-1]) / 2, [seconds]])


def find_segments(starts: Sequence[float], llrs: Sequence[float], seconds: float, level: float) -> list[dict]:
    """
    Windows in a row whose LLR is below the level, as segments: `start_seconds`, `end_seconds`, and the lowest
    `llr`. A segment is the part of the time of its windows ([`find_edges`]); the windows reach further.

    Args:
        starts, seconds: see [`find_edges`].
        llrs: (num_windows,), NaN where a score is withheld.
    """
    edges, llrs = find_edges(starts, seconds), np.asarray(llrs, float)
    turns = np.flatnonzero(np.diff(llrs < level, prepend=False, append=False))
    return [
        {
            "start_seconds": round(float(edges[first]), 6),
            "end_seconds": round(float(edges[stop]), 6),
            "llr": float(llrs[first:stop].min()),
        }
        for first, stop in zip(turns[::2], turns[1::2], strict=True)
    ]


def state_windows(recording: "Recording", validation: ValidationSet, family_wise_rate: float) -> dict | None:
    """
    What the windows of a recording say, by a calibrated model: `num_windows`, those that have a score; what
    [`BonafideWindows.find_level`] returns for so many; and the `segments` of [`find_segments`], with LLRs cut
    to the bounds of the calibration. `None` where there are not two windows, or no bona fide ones to
    compare with.
    """
    llrs = recording.hide_withheld(recording.uncut)
    num_windows = int(np.isfinite(llrs).sum())
    if len(llrs) < 2 or not validation.is_bonafide[validation.examined].any():
        return None
    found = _find_level(validation, num_windows, family_wise_rate)
    segments = find_segments(recording.starts, llrs, recording.seconds, found["level"])
    for segment in segments:
        segment["llr"] = float(np.clip(segment["llr"], *validation.about["bounds"]))
    return {"num_windows": num_windows, **found, "segments": segments}


@lru_cache  # of many recordings some are as long
def _find_level(validation: ValidationSet, num_windows: int, family_wise_rate: float) -> dict:
    return BonafideWindows.of(validation).find_level(num_windows, family_wise_rate)


def describe_windows(windows: Mapping, family_wise_rate: float) -> str:
    """The sentences on a recording's windows, [`state_windows`], that are printed."""
    rate = windows["family_wise_rate"]
    found = ", ".join(
        f"{format_time(of['start_seconds'])} to {format_time(of['end_seconds'])} (LLR {of['llr']:.2f})"
        for of in windows["segments"]
    )
    passages = f"Passages that look spoofed: {found}. They have"
    if not found:
        passages = "No passage looks spoofed: none has"
    share = f"{100 * rate['rate']:.1f} % [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"
    if not rate["rate"]:
        share = f"at most {100 * rate['high']:.1f} %"
    basis = f"by {rate['num_windows']:,} windows of {rate['num_recordings']:,} recordings"
    if rate["num_speakers"] is not None:
        basis += f" of {rate['num_speakers']:,} speakers"
    if not windows["is_supported"]:
        basis += f", too few for {100 * family_wise_rate:g} %"
    return (
        f"{passages} an LLR below {windows['level']:.2f}. Of bona fide recordings of "
        f"{windows['num_windows']:,} windows {share} have such a window ({basis})."
    )


def write_segments(folder: Path, segments: Iterable[tuple[str, Iterable[Mapping]]]) -> None:
    """Write the files of recordings and their segments as `segments.csv` and, with the label spoof, RTTM."""
    rows = [{"file": file, **segment} for file, of_file in segments for segment in of_file]
    table = pd.DataFrame(rows, columns=["file", "start_seconds", "end_seconds", "llr"])
    write_text(folder / "segments.csv", table.to_csv(index=False, lineterminator="\n"))
    lines = []
    for file, start, end, _ in table.itertuples(index=False):
        name = "_".join(Path(file).stem.split())  # fields are parted by white space
        lines.append(f"SPEAKER {name} 1 {start:.3f} {end - start:.3f} <NA> <NA> spoof <NA> <NA>\n")
    write_text(folder / "segments.rttm", "".join(lines))
