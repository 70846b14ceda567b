"""Which parts of recordings are spoofed, as labels of partly spoofed corpora tell it in text."""

import re
from pathlib import Path


RTTM = re.compile(r"SPEAKER (\S+) \S+ ([\d.]+) ([\d.]+) \S+ \S+ (bonafide|spoof)( \S+)*")
SPANS = re.compile(r"(\S+) [\d.]+ (?:bonafide|spoof)((?: [\d.]+-[\d.]+-(?:bonafide|spoof))+)")


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
            utterance, start, seconds, label, _ = rttm.groups()
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
