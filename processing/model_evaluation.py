"""A trained model on a split of a corpus, or on a person's own recordings."""

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from .arguments import CorpusArguments, EvaluationArguments, ScoringArguments
from .audio import decode_stream
from .augmentation import build_augmentation
from .calibration import apply_calibration, calibrate_trials, find_llrs
from .collation import AudioCollator
from .conditions import choose_conditions
from .corpora import load_corpus, take_readable_splits
from .corpus_names import shorten_name
from .evaluation import Evaluation, choose_output_dir, finish_evaluation
from .examination import make_validation_set
from .files import write_json
from .foreign_model import ForeignFeatureExtractor
from .machine import count_workers, keep_freed_memory, share_out_cores
from .measurements import SignalMeter
from .models import Countermeasure, load_countermeasure, write_into_config
from .pooling import Scope, list_absent, list_scopes
from .precision import Precision
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
from .report import describe_left_out, describe_split
from .results import (
    choose_decision_threshold,
    describe_countermeasure,
    measure_at_threshold,
)
from .scores import write_scores
from .scoring import Batches, ScoringCheckpoint, identify_scoring, score_conditions, score_rows
from .segment_labels import describe_localization, match_labels, measure_windows
from .segments import describe_windows
from .streaming import WINDOW_TITLES, StreamedWindow, StreamingScorer, describe_window, end_on_interrupt
from .submission import Submission
from .trials import KEYS, Corpus, choose_split, list_trials, parse_label_map, read_label_map
from .validation_set import VALIDATION_NAME, ValidationSet
from .verdict import Costs


def run_model(
    args: EvaluationArguments,
    corpus_args: CorpusArguments,
    write_reports: Callable[[Path, Sequence[Path], Path], None],
) -> int:
    """
    Evaluate a model on a corpus or score recordings with it, on this machine; returns the exit status. For
    `--report`, `write_reports` is given the folder of the results, the recordings, and the model's folder.
    """
    keep_freed_memory()
    state = PartialState(cpu=args.use_cpu or not torch.accelerator.is_available())
    if args.mode != "corpus" and state.num_processes > 1:
        raise ValueError(f"--{args.mode} is scored by one process: start it by `python eval.py`.")
    share_out_cores(args.num_threads, state.device)
    if args.mode == "files":
        return score_files(args, corpus_args.label_map, write_reports)
    if args.mode == "stream":
        return score_stream(args, corpus_args.label_map)
    evaluate_model(args, corpus_args)
    return 0


def evaluate_model(args: EvaluationArguments, corpus_args: CorpusArguments) -> None:
    """Score a split of a corpus with a model, from where a killed run was, and write all results."""
    state, started = PartialState(), time.time()
    conditions = choose_conditions(args.conditions or ())
    augmentations = {name: build_augmentation([entry]) for name, entry in conditions.items()}
    num_workers = count_workers(state.device.type != "cpu") if args.num_workers is None else args.num_workers
    batches = Batches(args.batch_size, num_workers)
    with state.main_process_first():
        countermeasure = load_model(args, corpus_args.label_map)
        is_of_model = not find_unused_labels(countermeasure, corpus_args.label_map)
        corpus = load_corpus(corpus_args, needs_label_map=not is_of_model)
    check_arguments(args, countermeasure, corpus)
    split = choose_split(corpus, args.split)
    corpus, splits = take_readable_splits(
        corpus, {split: split}, allow_unreadable=corpus_args.allow_unreadable
    )
    rows = splits[split]
    submission = args.submission and Submission.prepare(
        Path(args.submission), corpus, split, len(rows), overwrite=args.overwrite
    )
    keys = read_label_map(corpus_args.label_map)
    scopes = list_scopes(corpus, split, list_trials(rows))
    evaluations = list(make_evaluations(args, scopes, keys))
    asv_files = [name for _, evaluation in evaluations for name in evaluation.asv_files]
    names = " ".join(shorten_name(part.name) for part in corpus.parts) or corpus.name
    name = re.sub(r"[^a-z0-9_]+", "-", f"{names} {split}".lower().replace(":", "_")).strip("-")
    of_hub = Path("evaluation") / countermeasure.name.replace("/", "--")
    beside = of_hub if countermeasure.revision else countermeasure.folder / "results"
    folder = choose_output_dir(args, beside / name)
    about = describe_countermeasure(countermeasure)
    state.print(describe_evaluation(countermeasure, corpus, split, scopes))
    state.print(f"ASV scores: {', '.join(asv_files) or 'none, so there will be no t-DCF'}")
    identity = identify_scoring(countermeasure, corpus, split, rows, batches)
    checkpoint = ScoringCheckpoint(folder / ".scoring.jsonl", identity, replace=args.overwrite)
    scores = score_rows(
        countermeasure.model,
        AudioCollator(countermeasure.feature_extractor),
        rows,
        batches=batches,
        checkpoint=checkpoint,
        description=f"Scoring {corpus.name} {split}",
    ).numpy()
    begun = time.time()
    under = score_conditions(countermeasure, rows, augmentations, batches, checkpoint)
    started += time.time() - begun  # `seconds` are those of the recordings as they are
    state.destroy_process_group()  # its threads may abort a process that ends before them
    if not state.is_main_process:
        return
    llrs, calibration, whole = None, countermeasure.calibration, scopes[0]
    if args.calibrate:
        fitted_on = {"corpus": whole.corpus.name, "split": whole.split}
        fitted_on |= {of: about[of] for of in ("weights_sha256", "preprocessing") if of in about}
        llrs = calibrate_trials(whole.trials, scores, prior=args.calibration_prior, about=fitted_on)
    elif calibration is not None:
        llrs = apply_calibration(calibration, scores, whole.corpus.name, whole.split)
    about["num_processes"] = state.num_processes
    # After a kill, `seconds` are those of the last start, which found so many utterances scored.
    of_all = {
        "num_scored_before": checkpoint.num_scored_before,
        "seconds": round(time.time() - started, 1),
    }
    threshold = getattr(countermeasure.model.config, "decision_threshold", None)
    if args.set_decision_threshold:
        threshold = choose_decision_threshold(whole.trials, scores)
    for scope, evaluation in evaluations:
        own, own_under = scores[scope.places], {name: of[scope.places] for name, of in under.items()}
        if llrs is not None:
            evaluation.llrs = llrs.take(scope.places)
        results = evaluation.evaluate(own) | about | ({} if scope.folder else of_all)
        if threshold is not None:
            results["at_decision_threshold"] = measure_at_threshold(evaluation.trials, own, threshold)
        if conditions:
            results["conditions"] = evaluation.evaluate_conditions(own, own_under)
        write_conditions(folder / scope.folder / "conditions", evaluation, own_under)
        finish_evaluation(evaluation, results, about["model"], own, folder / scope.folder)
    if submission:
        print(submission.write(whole.trials, scores, countermeasure.model.num_parameters()))
    if args.set_decision_threshold:
        change_threshold(countermeasure, threshold)
    if args.calibrate:
        of_trials = rows, whole.trials, scores, llrs
        validation = make_validation_set(countermeasure, *of_trials, batch_size=args.batch_size)
        change_calibration(countermeasure, validation)
    if not conditions:  # with more of them, only these are scored
        checkpoint.remove()
    card, is_changed = countermeasure.folder / "README.md", args.set_decision_threshold or args.calibrate
    if card.is_file() and (is_changed or folder.is_relative_to(card.parent)):
        print(f"{card} does not have this yet: python -m hub_cards.card {card.parent}")


def describe_evaluation(
    countermeasure: Countermeasure, corpus: Corpus, split: str, scopes: list[Scope]
) -> str:
    """Lines that say what is evaluated on what."""
    lines = [corpus.note] if corpus.note else []
    lines += [
        f"Model: {countermeasure.name}, {countermeasure.model.num_parameters():,} parameters",
        *describe_preprocessing(countermeasure),
        f"Precision: {', '.join(countermeasure.precision.describe()) or 'float32'}",
        *(f"Corpus: {describe_split(scope.corpus, scope.split, scope.counts)}" for scope in scopes),
        *describe_left_out(corpus),
        *(f"Of {name} there is no {split}" for name in list_absent(corpus, scopes)),
    ]
    return "\n".join(lines)


def describe_preprocessing(countermeasure: Countermeasure) -> list[str]:
    """Lines that say what a model does in its own way."""
    own, lines = countermeasure.preprocessing, []
    if "labels" in own:
        lines.append(f"Labels: {', '.join(f'{label} means {key}' for label, key in own['labels'].items())}")
    if "feature_extractor" in own:
        scored = "whole recordings, since what it was trained on is not stated (--seconds takes a crop)"
        if own["seconds"] is not None:
            scored = f"the first {own['seconds']:g} s of each recording"
        extractor = f"the model's own {own['feature_extractor']} at {own['sampling_rate']:,} Hz"
        lines.append(f"Preprocessing: {extractor}, {scored}")
    return lines


def find_unused_labels(countermeasure: Countermeasure, label_map: str | None) -> list[str]:
    """What `--label_map` explains that is no label of the model."""
    own = {label.strip().casefold() for label in countermeasure.preprocessing.get("labels", KEYS)}
    return [label for label in parse_label_map(label_map) if label not in own]


def check_arguments(args: EvaluationArguments, countermeasure: Countermeasure, corpus: Corpus) -> None:
    """ValueError: an argument that the model or the corpus that is named does not allow."""
    if (args.set_decision_threshold or args.calibrate) and countermeasure.revision:
        raise ValueError(
            f"--set_decision_threshold and --calibrate change a model's folder, but {args.model} is on the "
            "Hub: download it, and give the folder."
        )
    if any(part.weight > 1 for part in (*corpus.parts, corpus)):
        raise ValueError("--dataset NAME:2, how often it is seen in an epoch, is for training: leave :2 out.")
    if corpus.parts and args.asv_score_file is not None:
        raise ValueError(
            "--asv_score_file is of one corpus: with several, the scores in their folders count."
        )


def make_evaluations(
    args: EvaluationArguments, scopes: Iterable[Scope], keys: Mapping[str, str]
) -> Iterator[tuple[Scope, Evaluation]]:
    """What the scores of each corpus, and of all together, are held against; not of a corpus of one class,
    which only the results of all count."""
    for scope in scopes:
        if all(scope.counts.values()):
            own_args = replace(args, compare=None) if scope.folder else args  # another system's are of all
            yield scope, Evaluation.from_arguments(own_args, scope.corpus, scope.split, scope.trials, keys)


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
    threshold = getattr(countermeasure.model.config, "decision_threshold", None)
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
        write_recordings(folder, recordings, threshold, describe_scoring(countermeasure, hop))
    if args.plot_timeline:
        write_timelines(folder, recordings, extractor.num_samples / extractor.sampling_rate, threshold)
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
    pipe = sys.stdin.buffer.raw
    if pipe.isatty():
        raise ValueError("--stream reads a pipe: ffmpeg … -f wav - | python eval.py --model M --stream")
    countermeasure, hop, costs = prepare_recordings(args, label_map)
    extractor, calibration = countermeasure.feature_extractor, countermeasure.calibration
    threshold = getattr(countermeasure.model.config, "decision_threshold", None)
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
        write_recordings(folder, [recording], threshold, describe_scoring(countermeasure, hop))
        print(f"Written: {folder.resolve()}")
    return int(bool(recording.error))


def prepare_recordings(
    args: EvaluationArguments, label_map: str | None
) -> tuple[Countermeasure, float | None, Costs]:
    """The model, the seconds from window to window, and the costs by which recordings are judged."""
    countermeasure = load_model(args, label_map)
    if unused := find_unused_labels(countermeasure, label_map):
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
    threshold = getattr(countermeasure.model.config, "decision_threshold", None)
    about = [*describe_preprocessing(countermeasure), describe_columns(countermeasure, threshold, hop, costs)]
    print("\n".join(about), titles, sep="\n\n", flush=True)


def print_recording(
    recording: Recording, countermeasure: Countermeasure, costs: Costs, hop: float | None, rate: float
) -> None:
    """Print a recording, and what a calibrated model says of its windows at this family-wise rate."""
    add_statement(recording, countermeasure, costs, hop_seconds=hop, family_wise_rate=rate)
    threshold = getattr(countermeasure.model.config, "decision_threshold", None)
    tqdm.write(describe_recording(recording.summarize(threshold)))
    if windows := recording.statement and recording.statement["windows"]:
        tqdm.write(f"{'':>10} {describe_windows(windows, rate)}")


def load_model(args: ScoringArguments, label_map: str | None) -> Countermeasure:
    """The trained model that the arguments name."""
    options = {"revision": args.revision, "trust_remote_code": args.trust_remote_code}
    options |= {"label_map": label_map, "seconds": args.seconds}
    countermeasure = load_countermeasure(args.model, **options)
    extractor = countermeasure.feature_extractor
    if args.torch_compile and (
        extractor.num_samples is None or isinstance(extractor, ForeignFeatureExtractor)
    ):
        raise ValueError(
            f"{args.model} scores recordings of any length, and would be compiled for each: leave "
            "--torch_compile out."
        )
    precision = Precision(bf16=args.bf16, tf32=args.tf32, torch_compile=args.torch_compile)
    precision.apply(countermeasure.model, PartialState().device)
    return replace(countermeasure, precision=precision)


def write_conditions(folder: Path, evaluation: Evaluation, scores: Mapping[str, np.ndarray]) -> None:
    """Write the scores (num_trials,) under each condition, and their LLRs, where the model is calibrated."""
    for condition, changed in scores.items():
        write_scores(folder / condition / "scores.txt", evaluation.trials, changed)
        of_llrs = folder / condition / "llrs.txt"
        of_llrs.unlink(missing_ok=True)  # of results that are replaced
        if evaluation.llrs is not None:
            cut, _ = find_llrs(evaluation.llrs.calibration, changed)
            write_scores(of_llrs, evaluation.trials, cut)


def change_calibration(countermeasure: Countermeasure, validation: ValidationSet) -> None:
    """Write a calibration with its trials into the model's folder, and say what it takes the place of."""
    validation.save(countermeasure.folder)
    write_into_config(countermeasure.folder, calibration=validation.about)
    before = countermeasure.calibration
    instead = f" instead of that of {before['date']}" if before else ""
    config = countermeasure.folder / "config.json"
    print(f"Calibration: written into {config}{instead}; its trials, into {VALIDATION_NAME}")


def change_threshold(countermeasure: Countermeasure, threshold: float) -> None:
    """Write the decision threshold into the model's config, and say what it was before."""
    before = getattr(countermeasure.model.config, "decision_threshold", None)
    write_into_config(countermeasure.folder, decision_threshold=threshold)
    instead = "" if before is None else f" instead of {before:.4f}"
    config = countermeasure.folder / "config.json"
    print(f"Decision threshold: {threshold:.4f}, written into {config}{instead}")
