"""A trained model on a split of a corpus."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState

from .arguments import CorpusArguments
from .augmentation import build_augmentation
from .calibration import LLRs, apply_calibration, calibrate_trials, find_llrs
from .collation import AudioCollator
from .conditions import choose_conditions
from .corpora import load_corpus, take_readable_splits
from .corpus_names import shorten_name
from .evaluation import Evaluation, choose_output_dir, finish_evaluation
from .evaluation_arguments import EvaluationArguments
from .examination import make_validation_set
from .machine import count_workers, keep_freed_memory, share_out_cores
from .models import Countermeasure, load_model, write_into_config
from .pooling import Scope, list_scopes
from .recording_evaluation import score_files, score_stream
from .report import describe_left_out, describe_split, list_absent
from .results import (
    choose_decision_threshold,
    describe_countermeasure,
    measure_at_threshold,
)
from .scores import write_scores
from .scoring import Batches, ScoringCheckpoint, identify_scoring, score_conditions, score_rows
from .submission import Submission
from .trials import Corpus, choose_split, list_trials, read_label_map
from .validation_set import VALIDATION_NAME, ValidationSet


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
        is_of_model = not countermeasure.find_unused_labels(corpus_args.label_map)
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
    folder = choose_output_dir(args, name_folder(countermeasure, corpus, split))
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
    whole = scopes[0]
    llrs = find_evaluated_llrs(args, countermeasure, whole, scores, about)
    about["num_processes"] = state.num_processes
    # After a kill, `seconds` are those of the last start, which found so many utterances scored.
    of_all = {
        "num_scored_before": checkpoint.num_scored_before,
        "seconds": round(time.time() - started, 1),
    }
    threshold = countermeasure.decision_threshold
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


def name_folder(countermeasure: Countermeasure, corpus: Corpus, split: str) -> Path:
    """Where results go if nothing else is said: beside a local model, else in `evaluation`."""
    names = " ".join(shorten_name(part.name) for part in corpus.parts) or corpus.name
    name = re.sub(r"[^a-z0-9_]+", "-", f"{names} {split}".lower().replace(":", "_")).strip("-")
    of_hub = Path("evaluation") / countermeasure.name.replace("/", "--")
    return (of_hub if countermeasure.revision else countermeasure.folder / "results") / name


def find_evaluated_llrs(
    args: EvaluationArguments, countermeasure: Countermeasure, whole: Scope, scores: np.ndarray, about: dict
) -> LLRs | None:
    """LLRs of the scores (num_trials,) by the calibration that `--calibrate` fits to them, or else by that of
    the model, if it has one; `about` is that of the results."""
    if args.calibrate:
        fitted_on = {"corpus": whole.corpus.name, "split": whole.split}
        fitted_on |= {of: about[of] for of in ("weights_sha256", "preprocessing") if of in about}
        return calibrate_trials(whole.trials, scores, prior=args.calibration_prior, about=fitted_on)
    if countermeasure.calibration is None:
        return None
    return apply_calibration(countermeasure.calibration, scores, whole.corpus.name, whole.split)


def describe_evaluation(
    countermeasure: Countermeasure, corpus: Corpus, split: str, scopes: list[Scope]
) -> str:
    """Lines that say what is evaluated on what."""
    lines = [corpus.note] if corpus.note else []
    lines += [
        f"Model: {countermeasure.name}, {countermeasure.model.num_parameters():,} parameters",
        *countermeasure.describe_preprocessing(),
        f"Precision: {', '.join(countermeasure.precision.describe()) or 'float32'}",
        *(f"Corpus: {describe_split(scope.corpus, scope.split, scope.counts)}" for scope in scopes),
        *describe_left_out(corpus),
        *(f"Of {name} there is no {split}" for name in list_absent(corpus, scopes)),
    ]
    return "\n".join(lines)


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
    before = countermeasure.decision_threshold
    write_into_config(countermeasure.folder, decision_threshold=threshold)
    instead = "" if before is None else f" instead of {before:.4f}"
    config = countermeasure.folder / "config.json"
    print(f"Decision threshold: {threshold:.4f}, written into {config}{instead}")
