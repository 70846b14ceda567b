"""The answer on one recording that the page of demo.py gives, as HTML that holds all that belongs to it. Its
prose is in demo_answer.html."""

import math
import mimetypes
import shlex
from pathlib import Path
from tempfile import TemporaryDirectory

from processing.evaluation_arguments import EvaluationArguments
from processing.files import read_json
from processing.models import Countermeasure
from processing.recordings import (
    add_statement,
    choose_hop,
    describe_scoring,
    score_recordings,
    write_recordings,
    write_timelines,
)
from processing.verdict import Costs

from .case_report import make_address, write_reports
from .templates import render_template


# What of the files that eval.py would write is in the answer.
FILES = {
    "timeline": "timeline-*.png",
    "report": "report-*.html",
    "report_json": "report-*.json",
    "recordings": "recordings.json",
}


def answer(file: Path, countermeasure: Countermeasure, max_seconds: float = math.inf) -> str:
    """
    Score a recording as `eval.py --files` does, and say what follows.

    Args:
        file: of which only the name is shown, and nothing is kept.
        countermeasure: see [`~processing.models.load_countermeasure`].
        max_seconds: a recording that is longer gets no score.

    Returns:
        The verdict, the score or the LLR with its words, the scores over time, what was skipped, and links
        that hold `recordings.json` and, by a calibrated model, the report.
    """
    extractor, hop = countermeasure.feature_extractor, choose_hop(countermeasure.feature_extractor)
    window = hop and extractor.num_samples / extractor.sampling_rate
    about, is_calibrated = describe_scoring(countermeasure, hop), countermeasure.validation is not None
    threshold = about["decision_threshold"]
    (recording,) = score_recordings(countermeasure, [file], hop_seconds=hop, max_seconds=max_seconds)
    recording.file, recording.error = Path(file.name), recording.error.replace(f"{file.parent}/", "")
    options = {"hop_seconds": hop, "family_wise_rate": EvaluationArguments.family_wise_rate}
    add_statement(recording, countermeasure, Costs(), **options)
    with TemporaryDirectory(prefix="answer-") as temporary:
        folder = Path(temporary)
        write_recordings(folder, [recording], about)
        if window is not None:
            # Where a calibrated model states nothing of passages, the picture does not either.
            write_timelines(folder, [recording], window, None if is_calibrated else threshold)
        if is_calibrated:
            command = ["python", "eval.py", "--model", countermeasure.name, "--files", file.name, "--report"]
            write_reports(folder, [file], countermeasure.folder, command=shlex.join(command))
        links = {
            name: make_address(path.read_bytes(), mimetypes.guess_type(path.name)[0])
            for name, pattern in FILES.items()
            for path in folder.glob(pattern)
        }
        reports = [read_json(path) for path in folder.glob("report-*.json")]
        return render_template(
            "demo_answer.html",
            where="the answer",
            remedy="score the recording by eval.py",
            recording=read_json(folder / "recordings.json")["recordings"][0],
            report=reports[0] if reports else None,
            threshold=threshold,
            window_seconds=window,
            links=links,
        )
