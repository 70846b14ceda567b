"""A trained model on a person's own recordings: files, or what comes through a pipe."""

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tqdm.auto import tqdm

from .audio import decode_stream
from .evaluation import choose_output_dir
from .evaluation_arguments import EvaluationArguments
from .files import write_json
from .measurements import SignalMeter
from .models import Countermeasure, load_model
from .recordings import (
    TITLES,
    Recording,
    add_statement,
    choose_hop,
    describe_columns,
    describe_recording,
    describe_scoring,
    find_recordings,
    score_recordings,
    write_recordings,
    write_timelines,
)
from .segment_labels import describe_localization, match_labels, measure_windows
from .segments import describe_windows
from .streaming import WINDOW_TITLES, StreamedWindow, StreamingScorer, describe_window, end_on_interrupt
from .verdict import Costs


def score_files(args: EvaluationArguments, label_map: str | None, write_reports: Callable[..., None]) -> int:
    """Score recordings, a printed line each; returns 1 if one could not be read."""
    files, num_others = find_recordings(Path(file).expanduser() for file in args.files)
    labels = args.segment_labels and match_labels(Path(args.segment_labels).expanduser(), files)
    countermeasure, hop, costs = prepare_recordings(args, label_map)
    extractor, validation = countermeasure.feature_extractor, countermeasure.validation
    if args.report and validation is None:
        raise ValueError(
            f"--report needs a calibrated model: calibrate {args.model} by --calibrate on a development set."
        )
    folder = choose_output_dir(args, Path("evaluation") / time.strftime("files-%Y%m%d-%H%M%S"))
    folder.mkdir(parents=True, exist_ok=True)
    if num_others:
        noun = "file" if num_others == 1 else "files"
        print(f"Skipped: {num_others:,} {noun} without the ending of an audio file, hidden, or gone.")
    print_scoring(countermeasure, hop, costs, TITLES)
    recordings = []
    try:
        for recording in score_recordings(countermeasure, files, hop_seconds=hop, batch_size=args.batch_size):
            print_recording(recording, countermeasure, costs, hop, args.family_wise_rate)
            recordings.append(recording)
    finally:  # what has been scored is kept, whatever ends the rest
        write_recordings(folder, recordings, describe_scoring(countermeasure, hop))
    if args.plot_timeline:
        seconds = extractor.num_samples / extractor.sampling_rate
        write_timelines(folder, recordings, seconds, countermeasure.decision_threshold)
    if labels:
        localization = measure_windows(recordings, labels)
        write_json(folder / "localization.json", localization)
        print(describe_localization(localization))
    if args.report:
        write_reports(folder, [recording.file for recording in recordings], countermeasure.folder)
    print(f"Written: {folder.resolve()}")
    failed = sum(bool(recording.error) for recording in recordings)
    if failed:
        print(f"{failed:,} of {len(recordings):,} recordings could not be scored.", file=sys.stderr)
    return int(failed > 0)


def score_stream(args: EvaluationArguments, label_map: str | None) -> int:
    """Score what comes through standard input, a printed line for each window and one for all; returns 1 if
    it could not be read."""
    if sys.stdin is None or (pipe := sys.stdin.buffer.raw).isatty():
        raise ValueError("--stream reads a pipe: ffmpeg … -f wav - | python eval.py --model M --stream")
    countermeasure, hop, costs = prepare_recordings(args, label_map)
    extractor, calibration = countermeasure.feature_extractor, countermeasure.calibration
    folder = args.output_dir and choose_output_dir(args, Path())
    options = {"hop_seconds": hop, "min_seconds": args.min_seconds, "calibration": calibration}
    scorer = StreamingScorer(countermeasure.model, extractor, **options)
    recording, meter = Recording(Path("stream")), SignalMeter(extractor.sampling_rate)

    def take(results: Iterable[StreamedWindow]) -> None:
        for result in results:
            print(describe_window(result), flush=True)
            if not result.is_early:
                recording.add(result.window)

    print_scoring(countermeasure, hop, costs, WINDOW_TITLES)
    try:
        with end_on_interrupt(pipe):
            options = {"sampling_rate": extractor.sampling_rate, "remarks": recording.remarks}
            rate, parts = decode_stream(pipe, **options)
            recording.header = {"sampling_rate": rate}
            for samples in parts:
                meter.add(samples)
                take(scorer.push(samples))
            take(scorer.finish())
            recording.measurements = meter.measure() | recording.header
    except (ValueError, OSError) as error:
        recording.error = str(error)
    print(f"\n{TITLES}")
    print_recording(recording, countermeasure, costs, hop, args.family_wise_rate)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        write_recordings(folder, [recording], describe_scoring(countermeasure, hop))
        print(f"Written: {folder.resolve()}")
    return int(bool(recording.error))


def prepare_recordings(
    args: EvaluationArguments, label_map: str | None
) -> tuple[Countermeasure, float | None, Costs]:
    """The model, the seconds from window to window, and the costs by which recordings are judged."""
    countermeasure = load_model(args, label_map)
    if unused := countermeasure.find_unused_labels(label_map):
        raise ValueError(f"--label_map: {args.model} has no label {unused[0]!r}. Leave it out.")
    extractor = countermeasure.feature_extractor
    if extractor.num_samples is None and (args.window_hop or args.plot_timeline):
        raise ValueError(
            f"{args.model} scores whole recordings: there are no windows for --window_hop or --plot_timeline."
        )
    hop = choose_hop(extractor, args.window_hop)
    return countermeasure, hop, Costs.from_arguments(args, countermeasure.validation)


def print_scoring(countermeasure: Countermeasure, hop: float | None, costs: Costs, titles: str) -> None:
    """Print how recordings are scored, and the titles of what follows."""
    if countermeasure.validation is not None and hop != choose_hop(countermeasure.feature_extractor):
        print("Passages that look spoofed are not named: the model was calibrated without --window_hop.")
    columns = describe_columns(countermeasure, hop, costs)
    print("\n".join([*countermeasure.describe_preprocessing(), columns]), titles, sep="\n\n", flush=True)


def print_recording(
    recording: Recording, countermeasure: Countermeasure, costs: Costs, hop: float | None, rate: float
) -> None:
    """Print a recording, and what a calibrated model says of its windows at this family-wise rate."""
    add_statement(recording, countermeasure, costs, hop_seconds=hop, family_wise_rate=rate)
    tqdm.write(describe_recording(recording.summarize(countermeasure.decision_threshold)))
    if windows := recording.statement and recording.statement["windows"]:
        tqdm.write(f"{'':>10} {describe_windows(windows, rate)}")
