"""
Which share of spoofed passages of 1, 2 and 4 s in real recordings is found, by the distance from window to
window: at one alarm per hour of bona fide speech, and at an alarm in 5 % of bona fide recordings.

The recordings are those of `librispeech_251`, one of each speaker, whole. In each a passage is replaced, with
its level and cross-fades of 10 ms, by what a HiFi-GAN vocoder makes of the same speech (`hifigan_pairs`). As
a control it is replaced by the bona fide half of the pair, which only went to 22.05 kHz and back. Levels are
set on the bona fide recordings of all speakers but the one that is tested.

    python tests/benchmarks/splices.py --model models/aasist --data_dir open_speech --scores scores.json
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
from processing.segments import BonafideWindows, find_edges, find_hourly_level, find_segments


RATE = 16_000
FADE = 160  # samples
PASSAGES = (1.0, 2.0, 4.0)  # seconds
KINDS = {"spoof": "HiFi-GAN", "bonafide": "control"}


def find_offset(whole: np.ndarray, crop: np.ndarray) -> int:
    """Where in a recording the crop was taken, in samples."""
    return int(fftconvolve(whole, crop[::-1]).argmax()) - len(crop) + 1


def splice(whole: np.ndarray, copy: np.ndarray, offset: int, start: int, length: int) -> np.ndarray:
    """The recording with samples `start` to `start + length` of its crop's copy, which begins at `offset`."""
    place = slice(offset + start, offset + start + length)
    original, passage = whole[place], copy[start : start + length]
    passage = passage * np.sqrt(np.mean(original**2) / np.mean(passage**2))
    weight = np.minimum(1, np.minimum(np.arange(length), np.arange(length)[::-1]) / FADE)
    spliced = whole.copy()
    spliced[place] = weight * passage + (1 - weight) * original
    return spliced


def list_starts(num_samples: int, window: int, hop: float) -> list[int]:
    """First samples of the windows, as `decode_windows` places them."""
    step = round(hop * RATE)
    starts = [*range(0, max(num_samples - window, 0) + 1, step)]
    return starts if starts[-1] + window >= num_samples else [*starts, num_samples - window]


def score_windows(
    countermeasure: Countermeasure, samples: np.ndarray, starts: Sequence[int]
) -> dict[int, float]:
    extractor, scores = countermeasure.feature_extractor, []
    for i in range(0, len(starts), 16):
        batch = [samples[start : start + extractor.num_samples] for start in starts[i : i + 16]]
        inputs = extractor(batch, sampling_rate=RATE, return_tensors="pt")
        scores += score_batch(countermeasure.model, inputs)[0].tolist()
    return dict(zip(starts, scores, strict=True))


def score_speaker(
    countermeasure: Countermeasure, data_dir: Path, speaker: str, hops: Sequence[float], *, is_spliced: bool
) -> dict:
    """The scores of one speaker's recording, and with each passage replaced, by the window's first sample."""
    whole, _ = soundfile.read(data_dir / "librispeech_251" / f"{speaker}.flac", dtype="float32")
    window = countermeasure.feature_extractor.num_samples
    starts = sorted({start for hop in hops for start in list_starts(len(whole), window, hop)})
    scores = score_windows(countermeasure, whole, starts)
    results = {"num_samples": len(whole), "window": window, "scores": scores, "passages": []}
    [crop_file] = (data_dir / "hifigan_pairs" / "bonafide").glob(f"{speaker}_*.flac")
    [copy_file] = (data_dir / "hifigan_pairs" / "spoof").glob(f"{speaker}_*.flac")
    copies = {"bonafide": soundfile.read(crop_file)[0], "spoof": soundfile.read(copy_file)[0]}
    offset, generator = (
        find_offset(whole, copies["bonafide"]),
        np.random.default_rng(zlib.crc32(speaker.encode())),
    )
    available = min(map(len, copies.values()))
    if (
        not is_spliced or offset < 0 or offset + available > len(whole)
    ):  # of a recording shorter than the crop
        return results
    for seconds in PASSAGES:
        length = round(seconds * RATE)
        if length > available:
            continue
        start = int(generator.integers(available - length + 1))
        first = offset + start
        changed = [at for at in starts if at < first + length and at + window > first]
        for kind, copy in copies.items():
            spliced = splice(whole, copy, offset, start, length).astype(np.float32)
            own = scores | score_windows(countermeasure, spliced, changed)
            results["passages"].append({"kind": kind, "seconds": seconds, "first": first, "scores": own})
    return results


class Speaker:
    """The windows of one speaker's recording at one distance from window to window."""

    def __init__(self, name: str, results: Mapping, hop: float):
        self.name, self.passages = name, results["passages"]
        self.samples = list_starts(results["num_samples"], results["window"], hop)
        self.starts = [sample / RATE for sample in self.samples]
        self.seconds = results["num_samples"] / RATE
        self.scores = self.take(results["scores"])

    def take(self, scores: Mapping[str, float]) -> np.ndarray:
        return np.array([scores[str(sample)] for sample in self.samples])

    def list_segments(self, scores: np.ndarray, level: float) -> list[tuple[float, float]]:
        found = find_segments(self.starts, scores, self.seconds, level)
        return [(of["start_seconds"], of["end_seconds"]) for of in found]


def set_levels(speakers: Sequence[Speaker], left_out: int) -> Iterator[tuple[str, float]]:
    """Levels, as scores, by what they are set for, from all speakers but one."""
    others = [speaker for at, speaker in enumerate(speakers) if at != left_out]
    for per_hour in (1, 10):
        recordings = ((of.starts, of.scores, of.seconds) for of in others)
        yield f"{per_hour} alarms per hour", find_hourly_level(recordings, per_hour)
    places = np.repeat(np.arange(len(others)), [len(of.scores) for of in others])
    windows = BonafideWindows(np.concatenate([of.scores for of in others]), places, np.arange(len(others)))
    level = windows.find_level(len(speakers[left_out].scores), 0.05)["level"]
    yield "5 % of recordings", level


def measure(speakers: Sequence[Speaker]) -> None:
    """Print what is found of the passages, and what raises an alarm in bona fide recordings."""
    hours = sum(speaker.seconds for speaker in speakers) / 3600
    alarms, found = defaultdict(list), defaultdict(lambda: defaultdict(list))
    for at, speaker in enumerate(speakers):
        for name, level in set_levels(speakers, at):
            alarms[name].append(len(speaker.list_segments(speaker.scores, level)))
            for passage in speaker.passages:
                start, seconds = passage["first"] / RATE, passage["seconds"]
                segments = speaker.list_segments(speaker.take(passage["scores"]), level)
                is_found = any(first < start + seconds and last > start for first, last in segments)
                found[name][f"{KINDS[passage['kind']]} {seconds:g} s"].append(is_found)
    for name, numbers in alarms.items():
        raised = describe_rate(np.array(numbers) > 0)
        print(f"  {name}: {sum(numbers)} alarms in {hours:.2f} h of bona fide speech, {raised} recordings")
        for passages, are_found in found[name].items():
            print(f"    {passages}: found {describe_rate(are_found)}")
    for seconds in PASSAGES:
        recordings = []
        for speaker in speakers:
            for passage in speaker.passages:
                if (passage["kind"], passage["seconds"]) == ("spoof", seconds):
                    start, edges = passage["first"] / RATE, find_edges(speaker.starts, speaker.seconds)
                    recordings.append((edges, speaker.take(passage["scores"]), [[start, start + seconds]]))
        of = measure_localization(recordings)
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
    parser.add_argument("--num_speakers", type=int, help="drawn at random; default: all")
    parser.add_argument("--num_spliced", type=int, help="of how many of them passages are scored, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    countermeasure = load_countermeasure(args.model)
    countermeasure.model.eval()
    names = sorted(path.stem for path in (args.data_dir / "librispeech_251").glob("*.flac"))
    if args.leave_out:
        known = set(pd.read_csv(args.leave_out, dtype=str)["speaker"])
        names = [name for name in names if name.removeprefix("ls-") not in known]
    names = np.random.default_rng(0).permutation(names)[: args.num_speakers].tolist()
    results = json.loads(args.scores.read_text()) if args.scores.is_file() else {}
    with torch.inference_mode():
        for name in names:
            if name not in results:
                options = {"is_spliced": name in names[: args.num_spliced]}
                results[name] = score_speaker(countermeasure, args.data_dir, name, args.hops, **options)
                args.scores.write_text(json.dumps(results))
    results = json.loads(args.scores.read_text())  # names of samples as text
    print(f"{date.today()}, {args.model}, {describe_environment()['hardware']}")
    for hop in args.hops:
        print(f"Windows every {hop:g} s:")
        measure([Speaker(name, results[name], hop) for name in names])


if __name__ == "__main__":
    main()
