"""The report on one recording, for a reader who is no engineer: an HTML page that fetches nothing, and the
same as JSON. Its prose is in case_report.html; the numbers come from here."""

import base64
import io
import math
import mimetypes
import subprocess
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from metrics.exact_intervals import measure_error_rate
from metrics.likelihood_ratios import measure_llrs
from processing.audio import decode_windows
from processing.audio_file import Remarks
from processing.files import hash_file, read_json, write_json, write_text
from processing.measurements import MEASUREMENTS
from processing.results import evaluate_trials, measure_at_threshold
from processing.validation_set import ValidationSet

from .run_folder import RunFolder, read_run
from .templates import render_template


PROPOSITIONS = {
    "bonafide": "The speech was uttered by a human and recorded.",
    "spoof": "The speech was made by a machine: synthesised from text, or converted from another voice.",
    "not_covered": [
        "human or synthetic speech that was played back and recorded again (replay)",
        "cuts in human speech, and synthetic passages that are shorter than what is listened to at once",
        "ways of making synthetic speech that neither the training nor the validation had",
    ],
}
# Verbal equivalents of likelihood ratios from 1 up; below 1 they are those of the reciprocal.
SCALE = {
    "limits": [2, 10, 100, 1_000, 10_000, 1_000_000],
    "words": ["no", "weak", "moderate", "moderately strong", "strong", "very strong", "extremely strong"],
    "source": "ENFSI Guideline for Evaluative Reporting in Forensic Science (2015)",
}
NUM_COLUMNS = 1_000  # of the picture of a waveform


@dataclass(frozen=True)
class Basis:
    """What the reports on all recordings of one scoring have in common."""

    content: dict  # of recordings.json
    run: RunFolder  # of the model
    validation: ValidationSet

    @cached_property
    def classes(self) -> tuple[np.ndarray, np.ndarray]:
        """LLRs of the validation set, (num_bonafide,) and (num_spoof,)."""
        return tuple(self.validation.llrs[self.validation.is_bonafide == is_so] for is_so in (True, False))

    @cached_property
    def performance(self) -> dict:
        """How often the system is wrong on the validation set, and what its LLRs are worth there."""
        validation, llrs = self.validation, self.validation.llrs
        speakers = np.where(validation.speakers < 0, "-", validation.speakers.astype(str))
        keys = np.where(validation.is_bonafide, "bonafide", "spoof")
        trials = pd.DataFrame({"key": keys, "speaker_id": speakers, "attack": "-"})
        results = evaluate_trials(trials, llrs)
        return {
            "held_out": "speaker" if validation.has_speakers else "recording",
            **{name: validation.about[name] for name in ("num_bonafide", "num_spoof", "num_speakers")},
            **{name: results[name] for name in ("eer", "confidence_intervals") if name in results},
            **measure_llrs(*self.classes),
            "bounds": validation.about["bounds"],  # those of a case, and not of LLRs that are cut already
            "at_llr_0": measure_at_threshold(trials, llrs, 0.0),
        }


def write_reports(
    folder: Path, files: Sequence[Path], model: Path, *, command: str, has_audio: bool = False
) -> None:
    """
    Write `report-<number>-<name>.html` and `.json` on each recording of the `recordings.json` in `folder`.

    Args:
        files: the recordings, in its order.
        model: folder of the model, with its validation set.
        command: what was called, for whoever repeats it.
        has_audio: whether the page holds the recording, to be listened to, and not only its picture.

    Raises:
        ValueError: a damaged record of the model; the message names it.
    """
    basis = Basis(read_json(folder / "recordings.json"), read_run(model), ValidationSet.load(model))
    for number, (file, recording) in enumerate(zip(files, basis.content["recordings"], strict=True), start=1):
        report = make_report(file, recording, basis) | {"command": command}
        name = f"report-{number:03}-{file.stem[:60]}"
        write_json(folder / f"{name}.json", report)
        page = render_template(
            "case_report.html",
            where=f"{folder / 'recordings.json'} or a record in {model}",
            remedy="calibrate the model and score the recording again",
            report=report,
            pictures=draw_pictures(file, recording, report, basis),
            audio=make_address(file.read_bytes(), _guess_type(file))
            if has_audio and file.is_file()
            else None,
            scale=SCALE,
            titles={name: of.title for name, of in MEASUREMENTS.items()},
        )
        write_text(folder / f"{name}.html", page)


def make_report(file: Path, recording: Mapping, basis: Basis) -> dict:
    """All that a report says but the command, to be written as JSON; `recording` is the file's entry in
    recordings.json."""
    content, run, seconds = basis.content, basis.run, recording["seconds"]
    own = {**run.feature_extractor, **content.get("preprocessing", {})}
    rate, window = own["sampling_rate"], own.get("seconds")  # `None`: the whole recording
    if length := own.get("num_samples"):
        window = length / rate
    known = {"num_bytes": file.stat().st_size, "sha256": hash_file(file)} if file.is_file() else {}
    known |= recording["file_format"]
    corpora = {"trained": run.corpus, "unknown": None}  # that of other converted weights is not known, either
    corpora["converted"] = run.stated.get("corpus") if run.origin["published"] else None
    names = ("num_bytes", "sha256", "container", "codec", "sampling_rate", "channels")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "propositions": PROPOSITIONS,
        "answer": make_answer(recording, basis.classes),
        "material": {
            "name": Path(recording["file"]).name,
            **{of: known.get(of) for of in names},
            **{of: recording[of] for of in ("seconds", "skipped_packets", "skipped_seconds", "remark")},
            "scored_seconds": seconds and [0.0, min(seconds, window or seconds)],
            "scored_at": rate,
            "window_seconds": window,
            "padding": own.get("padding"),
        },
        **{of: recording[of] for of in ("score", "statement")},
        "performance": basis.performance,
        "system": {
            **{of: content.get(of) for of in ("model", "revision", "weights_sha256", "score")},
            "origin": run.origin,
            "corpus": corpora[run.origin["kind"]],
            "trained": run.training.get("date"),
            "code": find_commit(),
        },
        **{of: content[of] for of in ("calibration", "versions", "hardware")},
    }


def make_answer(recording: Mapping, classes: tuple[np.ndarray, np.ndarray]) -> dict:
    """What the evidence says, or the `reasons` why nothing is said; by the LLRs of the validation set,
    (num_bonafide,) and (num_spoof,), also how many of the other class are as misleading."""
    statement, reasons = recording["statement"], []
    if recording["error"]:
        reasons.append(recording["error"])
    elif recording["withheld"]:
        reasons.append(f"There is no score, because {recording['withheld']}.")
    elif not statement["fitness"]["is_fit"]:
        reasons += statement["fitness"]["reasons"]
    if reasons:
        return {"reasons": reasons}
    llr, (bonafide, spoof) = statement["llr"], classes
    misleading = spoof >= llr["value"] if llr["value"] >= 0 else bonafide <= llr["value"]
    return {
        "reasons": [],
        **{of: weigh_evidence(llr[of]) for of in ("value", "low", "high")},
        "bounds": [weigh_evidence(bound) for bound in llr["bounds"]],
        "misleading": measure_error_rate(misleading),
    }


def weigh_evidence(llr: float) -> dict:
    """A natural LLR in log10, as how many times more probable the evidence is under the proposition that it
    favours, and on [`SCALE`]: step 0 is no support, from there it goes up for bona fide, down for spoof."""
    factor = math.exp(abs(llr))
    step = bisect_right(SCALE["limits"], factor)
    return {
        "log10": llr / math.log(10),
        "favours": "bonafide" if llr >= 0 else "spoof",
        "factor": factor,
        "step": step if llr >= 0 else -step,
        "support": SCALE["words"][step],
    }


def find_commit() -> str | None:
    """The commit of this checkout, with "-dirty" where files were changed; `None` where git knows none."""
    root = Path(__file__).parents[1]
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        commit = subprocess.run(command, cwd=root, capture_output=True, text=True).stdout.strip()
    except OSError:  # no git
        return None
    return commit if (root / ".git").exists() else None  # and not that of a folder around it


def draw_pictures(file: Path, recording: Mapping, report: Mapping, basis: Basis) -> dict[str, str]:
    """
    The recording, where it can be decoded, and the plots of the validation set, with the recording's LLR
    where one is stated. Each picture is an address that holds it, as SVG, in which text stays text.
    """
    from matplotlib import rc_context  # takes a second to load

    from metrics import llr_plots, plots

    is_silent, statement, figures = bool(report["answer"]["reasons"]), report["statement"], {}
    for name in ("tippett", "pav", "ece"):
        figures[name], axes = plots.make_axes(5, 3.7, "")
        llr = None if is_silent else statement["llr"]["value"]
        getattr(llr_plots, f"plot_{name}")(axes, *basis.classes, llr)
    if seconds := recording["seconds"]:
        timeline, windows = {}, recording["windows"]
        if not is_silent and (found := statement["windows"]):
            starts, scores = (np.array([w[of] for w in windows], float) for of in ("start_seconds", "score"))
            timeline = {"level": found["level"], "segments": found["segments"]}
            # Not cut to the bounds, as the level is not.
            timeline["llrs"] = report["calibration"]["a"] * scores + report["calibration"]["b"]
            timeline["middles"] = starts + report["material"]["window_seconds"] / 2
        scored, envelope = report["material"]["scored_seconds"], measure_envelope(file, seconds)
        figures["recording"] = plots.plot_recording(envelope, seconds, scored, timeline)
    addresses = {}
    for name, figure in figures.items():
        stream = io.BytesIO()
        with rc_context({"svg.fonttype": "none"}):
            figure.savefig(stream, format="svg", metadata={"Date": None})
        addresses[name] = make_address(stream.getvalue(), "image/svg+xml")
    return addresses


def _guess_type(file: Path) -> str:
    return mimetypes.guess_type(file.name)[0] or "application/octet-stream"


def make_address(content: bytes, media_type: str) -> str:
    """An address that holds the content."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def measure_envelope(file: Path, seconds: float, rate: int = 16_000) -> np.ndarray:
    """The lowest and the highest sample of each of about a thousand stretches, (num_stretches, 2)."""
    step = max(1, math.ceil(seconds * rate / NUM_COLUMNS))
    blocks = decode_windows(file, num_samples=step, hop=step, sampling_rate=rate, remarks=Remarks())
    return np.array([(block.min(), block.max()) for _, block in blocks])
