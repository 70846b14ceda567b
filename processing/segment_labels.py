"""Which parts of recordings are spoofed, as labels of partly spoofed corpora tell it in text, and how well
the scores of windows tell them."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metrics.localization import measure_localization

from .segments import find_edges


if TYPE_CHECKING:
    from .recordings import Recording


LABEL, NUMBER = "bonafide|spoof", r"\d+(?:\.\d*)?"
RTTM = re.compile(rf"SPEAKER (\S+) \S+ ({NUMBER}) ({NUMBER}) \S+ \S+ ({LABEL})(?: \S+)*")
SPANS = re.compile(rf"(\S+) {NUMBER} (?:{LABEL})((?: {NUMBER}-{NUMBER}-(?:{LABEL}))+)")


def read_segment_labels(path: Path) -> dict[str, list[tuple[float, float]]]:
    """
    Start and end in seconds of the spoofed segments of each utterance, by its name.

    A line is as in the labels of LlamaPartialSpoof, `utterance seconds label start-end-label …`, or RTTM,
    `SPEAKER utterance 1 start seconds <NA> <NA> label <NA> <NA>`; the labels are bonafide and spoof. What no
    segment covers is bona fide, but an utterance without spoof needs a line, too.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another line, or a file of NumPy.
    """
    if path.suffix in (".npy", ".npz"):
        raise ValueError(
            f"{path} may hold pickled objects, which can run code when they are read. Give the labels as "
            "text: those of PartialSpoof are label_PartialSpoof_eval.txt and the like among the releases of "
            "github.com/hieuthi/MultiResoModel-Simple."
        )
    segments: dict[str, list[tuple[float, float]]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = " ".join(line.split())
        if rttm := RTTM.fullmatch(text):
            utterance, start, seconds, label = rttm.groups()
            spans = [(float(start), float(start) + float(seconds), label)]
        elif with_spans := SPANS.fullmatch(text):
            utterance = with_spans[1]
            spans = [span.split("-") for span in with_spans[2].split()]
        elif text:
            raise ValueError(
                f"{path}, line {number}: {text!r} is neither `utterance seconds label start-end-label …` nor "
                "RTTM, with the labels bonafide and spoof."
            )
        else:
            continue
        found = segments.setdefault(utterance, [])
        found += [(float(start), float(end)) for start, end, label in spans if label == "spoof"]
    return segments


def match_labels(path: Path, files: Iterable[Path]) -> dict[Path, list[tuple[float, float]]]:
    """
    The spoofed segments of recordings, from a file of [`read_segment_labels`], by their names without folder
    and ending.

    Raises:
        ValueError: a recording without labels, or several that have the same; see [`read_segment_labels`].
    """
    files, labels = list(files), read_segment_labels(path)
    if missing := [file for file in files if file.stem not in labels]:
        raise ValueError(
            f"{path} has no line for {len(missing):,} of the {len(files):,} recordings; the first is "
            f"{missing[0]}. Of a bona fide recording, too, a line says that it is one."
        )
    if shared := [name for name, number in Counter(file.stem for file in files).items() if number > 1]:
        raise ValueError(f"The labels of {shared[0]} in {path} are of several recordings: give one of them.")
    return {file: labels[file.stem] for file in files}


def measure_windows(
    recordings: Iterable["Recording"], labels: Mapping[Path, Sequence[tuple[float, float]]]
) -> dict:
    """
    Range and frame EER of the scores of windows, as [`~metrics.localization.measure_localization`] gives
    them. At any time the score is that of the window whose middle is nearest. Recordings with an error are
    left out.
    """
    steps = []
    for recording in recordings:
        if not recording.error:
            edges, scores = find_edges(recording.starts, recording.seconds), recording.scores
            steps.append((edges, recording.hide_withheld(scores), labels[recording.file]))
    return {"num_recordings": len(steps), **measure_localization(steps)}


def describe_localization(results: Mapping) -> str:
    """The printed lines on [`measure_windows`]."""
    lines = [f"Spoofed segments of {results['num_recordings']:,} recordings, by the scores of windows:"]
    milliseconds = 1000 * results["frame_seconds"]
    for name, unit in (("range", "s"), ("frame", f"frames of {milliseconds:g} ms")):
        of = results[name]
        text = f"  {name.capitalize()} EER {100 * of['eer']:.2f} % at the score {of['threshold']:.4f}, of"
        text += f" {of['bonafide']:,.6g} {unit} bona fide and {of['spoof']:,.6g} {unit} spoofed"
        if of["without_score"]:
            text += f"; {of['without_score']:,.6g} {unit} have no score"
        lines.append(text)
    return "\n".join(lines)
