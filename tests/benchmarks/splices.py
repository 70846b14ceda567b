"""
Which share of spoofed passages of 1, 2 and 4 s in real recordings is found, by the distance from window to
window: at one alarm per hour of bona fide speech, and at an alarm in 5 % of bona fide recordings.

The recordings are those of `open_speech/librispeech_251`, one of each speaker, whole. In each a passage is
replaced, with its level and cross-fades of 10 ms, by what a HiFi-GAN vocoder makes of the same speech
(`hifigan_pairs`). As a control it is replaced by the bona fide half of the pair, which only went to 22.05 kHz
and back. Levels are set on the bona fide recordings of all speakers but the one that is tested, and on those
of `librispeech_clips`.

    python tests/benchmarks/splices.py --model models/aasist --data_dir data --scores scores.json
"""

import argparse
import json
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
from scipy.signal import fftconvolve

import modeling  # noqa: F401  registers the architectures
from metrics.exact_intervals import measure_error_rate
from metrics.localization import measure_localization
from processing.models import Countermeasure, load_countermeasure
from processing.results import describe_environment
from processing.scoring import score_batch
from processing.segments import BonafideWindows, find_edges, find_segments


RATE = 16_000
FADE = 160  # samples
PASSAGES = (1.0, 2.0, 4.0)  # seconds
KINDS = {"spoof": "HiFi-GAN", "bonafide": "control"}


def find_offset(whole: np.ndarray, crop: np.ndarray) -> int:
    """Where in a recording the crop was taken, in samples."""
    return int(fftconvolve(whole, crop[::-1]).argmax()) - len(crop) + 1


def splice(whole: np.ndarray, copy: np.ndarray, offset: int, place: slice) -> np.ndarray:
    """The recording with a place in its crop, which begins at `offset`, as it is in the crop's copy."""
    changed = slice(offset + place.start, offset + place.stop)
    original, passage = whole[changed], copy[place]
    passage = passage * np.sqrt(np.mean(original**2) / np.mean(passage**2))
    from_start = np.arange(len(passage))
    weight = np.minimum(1, np.minimum(from_start, from_start[::-1]) / FADE)
    spliced = whole.copy()
    spliced[changed] = weight * passage + (1 - weight) * original
    return spliced


def make_spliced(data_dir: Path, speaker: str) -> Iterator[tuple[dict, np.ndarray]]:
    """Each passage of a speaker, what it is, and the samples of the recording with it."""
    whole = read(data_dir / "librispeech_251" / f"{speaker}.flac")
    copies = {kind: read(*(data_dir / "hifigan_pairs" / kind).glob(f"{speaker}_*.flac")) for kind in KINDS}
    offset, available = find_offset(whole, copies["bonafide"]), min(map(len, copies.values()))
    if offset < 0 or offset + available > len(whole):  # it was tiled for the crop
        return
    generator = np.random.default_rng(zlib.crc32(speaker.encode()))
    for seconds in PASSAGES:
        length = round(seconds * RATE)
        if length <= available:
            start = int(generator.integers(available - length + 1))
            for kind, copy in copies.items():
                about = {"kind": kind, "seconds": seconds, "first": offset + start}
                yield about, splice(whole, copy, offset, slice(start, start + length))


def read(file: Path) -> np.ndarray:
    return soundfile.read(file, dtype="float32")[0]


def list_starts(num_samples: int, window: int, hop: float) -> list[int]:
    """First samples of the windows, as `decode_windows` places them."""
    starts = [*range(0, max(num_samples - window, 0) + 1, round(hop * RATE))]
    return starts if starts[-1] + window >= num_samples else [*starts, num_samples - window]


class Scorer:
    """Scores windows by their first samples, at all distances at once."""

    def __init__(self, countermeasure: Countermeasure, hops: Sequence[float]):
        self.countermeasure, self.hops = countermeasure, hops
        self.window = countermeasure.feature_extractor.num_samples

    def score(self, samples: np.ndarray, starts: Sequence[int]) -> dict[int, float]:
        extractor, scores = self.countermeasure.feature_extractor, []
        for i in range(0, len(starts), 16):
            batch = [samples[start : start + self.window] for start in starts[i : i + 16]]
            inputs = extractor(batch, sampling_rate=RATE, return_tensors="pt")
            scores += score_batch(self.countermeasure.model, inputs)[0].tolist()
        return dict(zip(starts, scores, strict=True))

    def score_recording(self, samples: np.ndarray, speaker: str) -> dict:
        lists = (list_starts(len(samples), self.window, hop) for hop in self.hops)
        scores = self.score(samples, sorted(set().union(*lists)))
        return {"speaker": speaker, "num_samples": len(samples), "window": self.window, "scores": scores}

    def score_passages(self, of_whole: Mapping, data_dir: Path, speaker: str) -> list[dict]:
        """Each with the scores of all windows; only those that hold some of it are others than before."""
        passages = []
        for about, spliced in make_spliced(data_dir, speaker):
            end = about["first"] + about["seconds"] * RATE
            changed = [at for at in of_whole if at < end and at + self.window > about["first"]]
            passages.append({**about, "scores": of_whole | self.score(spliced, changed)})
        return passages


class Recording:
    """The windows of a recording at one distance from window to window."""

    def __init__(self, results: Mapping, hop: float):
        self.speaker, self.passages = results["speaker"], results.get("passages", [])
        self.samples = list_starts(results["num_samples"], results["window"], hop)
        self.starts = [sample / RATE for sample in self.samples]
        self.seconds = results["num_samples"] / RATE
        self.scores = self.take(results["scores"])

    def take(self, scores: Mapping[str, float]) -> np.ndarray:
        return np.array([scores[str(sample)] for sample in self.samples])

    def list_segments(self, scores: np.ndarray, level: float) -> list[tuple[float, float]]:
        found = find_segments(self.starts, scores, self.seconds, level)
        return [(of["start_seconds"], of["end_seconds"]) for of in found]


def find_hourly_level(recordings: Sequence[Sequence[float]], seconds: float, alarms_per_hour: float) -> float:
    """
    The highest LLR below which bona fide recordings have at most so many segments ([`find_segments`]) per
    hour; where they last less than an hour for each alarm, the lowest of their LLRs.

    Args:
        recordings: LLRs of the windows of each.
        seconds: how long they are, together.
    """
    allowed = alarms_per_hour * seconds / 3600
    llrs = np.concatenate([[np.nan, *llrs] for llrs in recordings])  # between recordings none
    levels = np.unique(llrs[np.isfinite(llrs)])
    for at, level in enumerate(levels):
        is_alarm = llrs < level
        if np.count_nonzero(is_alarm[1:] & ~is_alarm[:-1]) > allowed:
            return float(levels[at - 1])
    return float(levels[-1])


def set_levels(others: Sequence[Recording], num_windows: int) -> Iterator[tuple[str, float]]:
    """Levels, as scores, by what they are set for, from recordings of other speakers."""
    for per_hour in (1, 10):
        scores, seconds = [of.scores for of in others], sum(of.seconds for of in others)
        yield f"{per_hour} alarms per hour", find_hourly_level(scores, seconds, per_hour)
    places = np.repeat(np.arange(len(others)), [len(of.scores) for of in others])
    _, speakers = np.unique([of.speaker for of in others], return_inverse=True)
    windows = BonafideWindows(np.concatenate([of.scores for of in others]), places, speakers)
    yield "5 % of recordings", windows.find_level(num_windows, 0.05)["level"]


def measure(recordings: Sequence[Recording]) -> None:
    """Print what is found of the passages, and what raises an alarm in bona fide recordings."""
    tested = [of for of in recordings if of.passages]
    hours = [sum(of.seconds for of in some) / 3600 for some in (tested, recordings)]
    alarms, found = defaultdict(list), defaultdict(lambda: defaultdict(list))
    for recording in tested:
        others = [of for of in recordings if of.speaker != recording.speaker]
        for name, level in set_levels(others, len(recording.scores)):
            alarms[name].append(len(recording.list_segments(recording.scores, level)))
            for passage in recording.passages:
                start, seconds = passage["first"] / RATE, passage["seconds"]
                segments = recording.list_segments(recording.take(passage["scores"]), level)
                is_found = any(first < start + seconds and last > start for first, last in segments)
                found[name][f"{KINDS[passage['kind']]} {seconds:g} s"].append(is_found)
    print(f"  {len(tested)} tested speakers; levels from {hours[1]:.2f} h, {len(recordings)} recordings")
    for name, numbers in alarms.items():
        raised = describe_rate(np.array(numbers) > 0)
        print(f"  {name}: {sum(numbers)} alarms in {hours[0]:.2f} h as they are, {raised} recordings")
        for passages, are_found in found[name].items():
            print(f"    {passages}: found {describe_rate(are_found)}")
    for seconds in PASSAGES:
        steps = []
        for recording in tested:
            for passage in recording.passages:
                if (passage["kind"], passage["seconds"]) == ("spoof", seconds):
                    start, edges = passage["first"] / RATE, find_edges(recording.starts, recording.seconds)
                    steps.append((edges, recording.take(passage["scores"]), [[start, start + seconds]]))
        of = measure_localization(steps)
        print(
            f"  with {seconds:g} s spoofed: range EER {100 * of['range']['eer']:.1f} %, frame EER "
            f"{100 * of['frame']['eer']:.1f} % (20 ms), of {of['range']['bonafide']:.0f} s bona fide and "
            f"{of['range']['spoof']:.0f} s spoofed"
        )


def describe_rate(are_found: Sequence[bool]) -> str:
    of = measure_error_rate(are_found)
    interval = f"[{100 * of['low']:.0f}, {100 * of['high']:.0f}]"
    return f"{of['errors']} of {of['trials']}, {100 * of['rate']:.0f} % {interval}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--scores", type=Path, required=True, help="kept here, and taken from here")
    parser.add_argument("--leave_out", type=Path, help="metadata.csv of speakers that were trained on")
    parser.add_argument("--hops", type=float, nargs="+", default=[2.0, 1.0, 0.5])
    parser.add_argument("--num_spliced", type=int, help="speakers of passages, drawn at random; default: all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    countermeasure = load_countermeasure(args.model)
    countermeasure.model.eval()
    scorer, open_speech = Scorer(countermeasure, args.hops), args.data_dir / "open_speech"
    names = sorted(path.stem for path in (open_speech / "librispeech_251").glob("*.flac"))
    if args.leave_out:
        known = set(pd.read_csv(args.leave_out, dtype=str)["speaker"])
        names = [name for name in names if name.removeprefix("ls-") not in known]
    names = np.random.default_rng(0).permutation(names).tolist()
    files = {name: open_speech / "librispeech_251" / f"{name}.flac" for name in names}
    clips = sorted((args.data_dir / "librispeech_clips").rglob("*.flac"))
    speakers = {name: name for name in names} | {path.stem: path.parent.name for path in clips}
    results = json.loads(args.scores.read_text()) if args.scores.is_file() else {}
    with torch.inference_mode():
        for name, file in (files | {path.stem: path for path in clips}).items():
            if name not in results:
                results[name] = scorer.score_recording(read(file), speakers[name])
                if name in names[: args.num_spliced]:
                    passages = scorer.score_passages(results[name]["scores"], open_speech, name)
                    results[name]["passages"] = passages
                args.scores.write_text(json.dumps(results))
    results = json.loads(args.scores.read_text())  # samples as text, whether they were scored now or before
    print(f"{date.today()}, {args.model}, {describe_environment()['hardware']}")
    for hop in args.hops:
        print(f"Windows every {hop:g} s:")
        measure([Recording(of, hop) for of in results.values()])


if __name__ == "__main__":
    main()
