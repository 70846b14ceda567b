"""Scores of a person's own recordings: of the first crop, and over windows where a recording is longer."""

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate import PartialState
from tqdm.auto import tqdm
from transformers import SequenceFeatureExtractor

from .audio import AudioSource, decode_audio, decode_windows, read_header
from .audio_file import Remarks
from .files import write_figure, write_json, write_text
from .folder_tree import FolderTree, read_tree
from .measurements import SignalMeter
from .models import Countermeasure
from .report import describe_calibration, format_time
from .results import SCORE_OF_MODEL, describe_countermeasure, describe_environment
from .segments import state_windows, write_segments
from .signal_check import check_channels
from .verdict import Costs, describe_decisions, explain, state
from .windows import Window, score_windows


COLUMNS = (
    *("file", "score", "llr", "llr_low", "llr_high", "llr_is_cut", "probability_bonafide"),
    *("verdict", "no_statement", "withheld", "seconds", "num_windows", "num_withheld"),
    *("mean_score", "min_score", "min_start_seconds"),
    *("skipped_packets", "skipped_seconds", "remark", "error"),
)
TITLES = (  # of the columns of `describe_recording`
    f"{'score':>9} {'LLR':>20} {'p(bonafide)':>11} {'verdict':>12} {'length':>11} {'windows':>7} "
    f"{'mean':>9} {'min':>9} {'at':>10}  file"
)


@dataclass
class Recording:
    """
    One recording and its scores, higher = more bona fide.

    Attributes:
        file: its path.
        seconds: its length.
        starts: (num_windows,) seconds, where each window begins; the first is the crop that the model was
            trained on.
        scores: (num_windows,), of each window.
        probabilities: (num_windows,), of bona fide: softmax outputs, at equal priors if calibrated.
        doubts: why the score of a window must not be used, by its index; see [`~processing.windows.Window`].
        remarks: what of it could not be decoded, and what else a reader of the scores has to know.
        error: why it could not be scored, or "".
        llrs: (num_windows,), log-likelihood ratios, if the model is calibrated, cut to its bounds.
        uncut: (num_windows,), the same as the calibration gives them.
        embedding: (size,), of the first window; of size 0 where the model gives none.
        measurements: of the whole recording, by the names of [`~processing.measurements.MEASUREMENTS`].
        header: what the file says of itself; see [`~processing.audio.read_header`].
        statement: what [`~processing.verdict.state`] says of it, if the model has a validation set.
    """

    file: Path
    seconds: float = 0.0
    starts: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    doubts: dict[int, str] = field(default_factory=dict)
    remarks: Remarks = field(default_factory=Remarks)
    error: str = ""
    llrs: list[float] = field(default_factory=list)
    uncut: list[float] = field(default_factory=list)
    embedding: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    measurements: dict[str, float] = field(default_factory=dict)
    header: dict = field(default_factory=dict)
    statement: dict | None = None

    def add(self, window: Window) -> None:
        """Take the next window and its score."""
        if window.doubt:
            self.doubts[len(self.scores)] = window.doubt
        elif not math.isfinite(window.score):
            self.error = f"The score of {self.file} is {window.score}: check the model's weights."
        if not self.starts:
            self.embedding = window.embedding.copy()  # without the others of the batch
        self.starts.append(window.start_seconds)
        self.scores.append(window.score)
        self.probabilities.append(window.probability)
        if window.llr is not None:
            self.llrs.append(window.llr)
            self.uncut.append(window.uncut)
        self.seconds = window.end_seconds

    def summarize(self, threshold: float | None) -> dict:
        """
        The values of `COLUMNS`, of the windows that are not in doubt. The verdict is that of the statement,
        or else that of the first crop at `threshold`, if there is one.
        """
        summary = {**dict.fromkeys(COLUMNS), "file": printable(self.file)}
        if self.error:
            return {**summary, "error": printable(self.error)}
        windows = self.list_windows()
        summary |= {"seconds": self.seconds, "num_windows": len(windows), "withheld": windows[0]["withheld"]}
        summary |= {
            "skipped_packets": self.remarks.skipped_packets,
            "skipped_seconds": self.remarks.skipped_seconds,
            "remark": self.remarks.describe() or None,
        }
        summary["num_withheld"] = sum(window["score"] is None for window in windows)
        if (score := windows[0]["score"]) is not None:
            summary |= {"score": score, "probability_bonafide": self.probabilities[0]}
            if self.llrs:
                summary |= {"llr": self.llrs[0], "llr_is_cut": self.llrs[0] != self.uncut[0]}
            if threshold is not None:
                summary["verdict"] = "bonafide" if score > threshold else "spoof"
            if of := self.statement:
                summary |= {"llr_low": of["llr"]["low"], "llr_high": of["llr"]["high"]}
                summary |= {"verdict": of["decision"]["verdict"], "no_statement": explain(of) or None}
        if scored := [window for window in windows if window["score"] is not None]:
            lowest = min(scored, key=lambda window: window["score"])
            summary["mean_score"] = float(np.mean([window["score"] for window in scored]))
            summary |= {"min_score": lowest["score"], "min_start_seconds": lowest["start_seconds"]}
        return summary

    @property
    def has_score(self) -> bool:
        """Whether the score of the first crop may be used."""
        return not self.error and self.list_windows()[0]["score"] is not None

    def list_windows(self) -> list[dict]:
        """The start and score of every window, or why its score is withheld."""
        cancelled = check_channels(self.remarks)
        windows = []
        for index, (start, score) in enumerate(zip(self.starts, self.scores, strict=True)):
            doubt = cancelled or self.doubts.get(index)
            windows.append({"start_seconds": start, "score": None if doubt else score, "withheld": doubt})
            if self.llrs:
                windows[-1]["llr"] = None if doubt else self.llrs[index]
        return windows

    def hide_withheld(self, values: Sequence[float]) -> np.ndarray:
        """Values of the windows, (num_windows,), NaN where a window's score is withheld."""
        is_withheld = [window["score"] is None for window in self.list_windows()]
        return np.where(is_withheld, np.nan, values)


def printable(value: Path | str) -> str:
    """As text that can be written: bytes of a file's name that are not UTF-8 as `\\xe9`."""
    return str(value).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def find_recordings(paths: Iterable[Path]) -> tuple[list[Path], int]:
    """
    The files named, and those in the folders named that have the ending of an audio file, each once; and how
    many other files lie in those folders. A folder without one stands for itself, and cannot be read.
    """
    found, num_others = {}, 0  # by absolute path
    for path in paths:
        tree = read_tree(path) if path.is_dir() else FolderTree(path)
        audio = [path / folder / name for folder, names in tree.recordings.items() for name in names]
        num_others += len(tree.list_others()) + tree.left_out.total()
        for file in audio or [path]:
            found.setdefault(os.path.abspath(file), file)
    return list(found.values()), num_others


def choose_hop(extractor: SequenceFeatureExtractor, seconds: float | None = None) -> float | None:
    """Seconds from window to window, by default half a window; `None` for a model of whole recordings."""
    if extractor.num_samples is None:
        return None
    window = extractor.num_samples / extractor.sampling_rate
    hop = window / 2 if seconds is None else seconds
    if not 1 / extractor.sampling_rate <= hop <= window:
        raise ValueError(
            f"Windows every {hop:g} s of {window:g} s each leave gaps or do not move on. Choose a distance "
            f"above 0 and up to {window:g} s."
        )
    return hop


def score_recordings(
    countermeasure: Countermeasure,
    files: Iterable[AudioSource],
    *,
    hop_seconds: float | None = None,
    batch_size: int = 32,
    max_seconds: float = math.inf,
) -> Iterator[Recording]:
    """
    Score recordings of any format and length, one after the other, as they are finished. Memory does not grow
    with the length, but for a model that takes whole utterances: it gets each as one window.

    Args:
        countermeasure: see [`~processing.models.load_countermeasure`].
        files: audio files, or values of `Audio(decode=False)`. What cannot be read is not raised, but named
            in the recording's `error`.
        hop_seconds: from the start of a window to that of the next; see [`choose_hop`].
        batch_size: windows that are scored at once, of short recordings those of several.
        max_seconds: a recording that turns out to be longer is not scored.

    Raises:
        ValueError: windows that are further apart than they are long, or a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be positive.")
    model, extractor = countermeasure.model.to(PartialState().device).eval(), countermeasure.feature_extractor
    hop = choose_hop(extractor, hop_seconds)
    if hop is None:
        batch_size = 1  # whole utterances would all be padded to the longest
    begun: list[Recording] = []  # and not handed out yet
    with tqdm(desc="Scoring", unit=" s", unit_scale=True, total=0) as bar:
        windows = _decode_files(files, begun, extractor, hop, max_seconds, bar)
        while batch := list(itertools.islice(windows, batch_size)):  # of one file or of several
            scored = score_windows(model, extractor, [of[1:] for of in batch], countermeasure.calibration)
            for (recording, _, _), window in zip(batch, scored, strict=True):
                before = recording.seconds
                recording.add(window)
                bar.total = max(bar.total, bar.n + recording.seconds - before)  # which was an estimate
                bar.update(recording.seconds - before)
            while begun[0] is not batch[-1][0]:
                yield begun.pop(0)
    yield from begun


def _decode_files(
    files: Iterable[AudioSource],
    begun: list[Recording],
    extractor: SequenceFeatureExtractor,
    hop: float | None,
    max_seconds: float,
    bar: tqdm,
) -> Iterator[tuple[Recording, int, np.ndarray]]:
    """The windows of all files: the recording, which is added to `begun`, the first sample, the samples."""
    rate = extractor.sampling_rate
    for file in files:
        path = Path(file["path"] or "audio") if isinstance(file, Mapping) else Path(file)
        bar.set_postfix_str(printable(path.name), refresh=False)
        recording = Recording(path, header=read_header(file))
        bar.total += recording.header["seconds"]
        meter, num_measured = SignalMeter(rate), 0
        begun.append(recording)
        options = {"sampling_rate": rate, "remarks": recording.remarks}
        try:
            _check_length(recording.header["seconds"], max_seconds, path)  # before so much is decoded
            if hop is None:
                windows = [(0, decode_audio(file, **options))]
            else:
                lengths = {"num_samples": extractor.num_samples, "hop": round(hop * rate)}
                windows = decode_windows(file, **lengths, **options)
            for start, samples in windows:
                _check_length((start + len(samples)) / rate, max_seconds, path)
                yield recording, start, samples
                meter.add(samples[num_measured - start :])
                num_measured = start + len(samples)
            # Whole before the recording is handed out, which is when the next one has begun.
            recording.measurements = meter.measure()
            recording.measurements["sampling_rate"] = recording.header.get("sampling_rate") or math.nan
        except (ValueError, OSError) as error:
            recording.error = str(error)


def _check_length(seconds: float, max_seconds: float, path: Path) -> None:
    if seconds > max_seconds:
        raise ValueError(f"{path} is longer than {format_time(max_seconds)}: cut out what is in question.")


def add_statement(
    recording: Recording,
    countermeasure: Countermeasure,
    costs: Costs,
    *,
    hop_seconds: float | None,
    family_wise_rate: float,
) -> None:
    """Give a recording its statement, if it has a score and the model a validation set; on its passages only
    where the windows are as far apart as those of that set."""
    validation = countermeasure.validation
    if validation is None or not recording.has_score:
        return
    recording.statement = state(recording, validation, costs)
    is_validated = hop_seconds == choose_hop(countermeasure.feature_extractor)
    if recording.statement["fitness"]["is_fit"] and is_validated:
        recording.statement["windows"] = state_windows(recording, validation, family_wise_rate)


def describe_scoring(countermeasure: Countermeasure, hop_seconds: float | None) -> dict:
    """What recordings are scored with, as recordings.json has it."""
    return {
        **describe_countermeasure(countermeasure),
        "score": SCORE_OF_MODEL,
        "decision_threshold": countermeasure.decision_threshold,
        "calibration": countermeasure.calibration,
        "window_hop_seconds": hop_seconds,
        **describe_environment(),
    }


def write_recordings(folder: Path, recordings: Iterable[Recording], about: Mapping) -> None:
    """Write `recordings.csv`, a line each, and `recordings.json`: `about`, as [`describe_scoring`] gives it,
    and all windows. Where statements have windows, also the files of
    [`~processing.segments.write_segments`]."""
    recordings = list(recordings)
    stated = [of for of in recordings if of.statement and of.statement["windows"]]
    if (folder / "recordings.json").exists():  # results that are replaced, maybe of more recordings
        for pattern in ("segments.*", "timeline-[0-9]*.png", "report-[0-9]*.html", "report-[0-9]*.json"):
            for path in folder.glob(pattern):
                path.unlink()
    if stated:
        write_segments(folder, ((printable(of.file), of.statement["windows"]["segments"]) for of in stated))
    content = [recording.summarize(about["decision_threshold"]) for recording in recordings]
    table = pd.DataFrame(content, columns=COLUMNS, dtype=object)  # keeps whole numbers beside no number
    write_text(folder / "recordings.csv", table.to_csv(index=False, lineterminator="\n"))
    for summary, recording in zip(content, recordings, strict=True):
        # How many windows were scored before an error depends on the batches.
        summary["windows"] = [] if recording.error else recording.list_windows()
        summary |= {"file_format": recording.header, "statement": recording.statement}
    write_json(folder / "recordings.json", {**about, "recordings": content})


def describe_columns(countermeasure: Countermeasure, hop_seconds: float | None, costs: Costs) -> str:
    """What is scored, and what the columns of [`describe_recording`] are."""
    extractor, calibration = countermeasure.feature_extractor, countermeasure.calibration
    verdict = (
        "none, because the model's config has no decision_threshold. To set one, evaluate the model on a "
        "development set with --set_decision_threshold."
    )
    if (threshold := countermeasure.decision_threshold) is not None:
        verdict = (
            f"bona fide if the score is above {threshold:.4f}, the model's decision threshold (an EER "
            "threshold for single crops). It can be far off on recordings of another kind."
        )
    seconds = hop_seconds and extractor.num_samples / extractor.sampling_rate
    scored = f"the first {seconds:g} s" if seconds else "the whole recording"
    lines = [f"Score: of {scored}; higher is more bona fide.", f"Verdict: {verdict}"]
    if countermeasure.validation is not None:
        lines[1:] = describe_decisions(countermeasure.validation, costs)
    if calibration is not None:
        lines.append(
            f"Calibration: {describe_calibration(calibration)}. It holds for recordings like those. LLR is "
            "a natural logarithm, with its 95 % interval where the trials of the calibration are known; "
            "p(bonafide) is the probability where both classes are equally frequent."
        )
    if seconds:
        lines.append(
            f"Mean and min: over windows of {seconds:g} s, one every {hop_seconds:g} s. The threshold does "
            "not hold for them: of many windows of bona fide speech some fall below it."
        )
    return "\n".join(lines)


def describe_recording(summary: Mapping) -> str:
    """One recording of [`Recording.summarize`] as a line."""
    if summary["error"]:
        return f"{'not scored':>10}: {summary['error']}"
    names = ("score", "probability_bonafide", "mean_score", "min_score")
    llr = "-" if summary["llr"] is None else f"{summary['llr']:.2f}"
    if summary["llr_low"] is not None:
        llr += f" [{summary['llr_low']:.2f}, {summary['llr_high']:.2f}]"
    score, probability, mean, low = (
        "-" if summary[name] is None else f"{summary[name]:.4f}" for name in names
    )
    at = "-" if summary["min_start_seconds"] is None else format_time(summary["min_start_seconds"])
    withheld = summary["withheld"] and f"No score, because {summary['withheld']}."
    cut = summary["llr_is_cut"] and "Its LLR was cut to the bounds."
    remarks = " ".join(filter(None, (withheld, summary["no_statement"], cut, summary["remark"])))
    return (
        f"{score:>9} {llr:>20} {probability:>11} {summary['verdict'] or '-':>12} "
        f"{format_time(summary['seconds']):>11} {summary['num_windows']:>7,} {mean:>9} {low:>9} {at:>10}  "
        f"{summary['file']}{': ' + remarks if remarks else ''}"
    )


def write_timelines(
    folder: Path, recordings: Iterable[Recording], window_seconds: float, threshold: float | None
) -> None:
    """Write `timeline-<number>-<name>.png` for every recording of more than one window."""
    from metrics import plots  # matplotlib takes a second to load

    for number, recording in enumerate(recordings, start=1):
        if recording.error or len(recording.scores) < 2:
            continue
        title = printable(recording.file.name)
        options = {"window_seconds": window_seconds, "threshold": threshold, "title": title}
        values = recording.scores
        if windows := recording.statement and recording.statement["windows"]:
            segments = [(of["start_seconds"], of["end_seconds"]) for of in windows["segments"]]
            options |= {"threshold": windows["level"], "segments": segments}
            values = recording.uncut
        figure = plots.plot_timeline(recording.starts, recording.hide_withheld(values), **options)
        write_figure(folder / f"timeline-{number:03}-{recording.file.stem[:60]}.png", figure)
