"""The trials of an evaluation, and results of scores on them, of a model or in anybody's score file. Imports
no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from metrics.costs import AsvErrorRates
from metrics.likelihood_ratios import measure_llrs
from metrics.statistics import MIN_TRIALS, Bootstrap

from .calibration import LLRs, calibrate_score_file, find_llrs
from .evaluation_arguments import EvaluationArguments
from .files import read_json
from .joint_scores import evaluate_joint_scores, is_joint
from .layouts import find_layout, read_protocol
from .report import LLR_PLOTS, REMEDY_OF_MODEL, describe_comparison, describe_results, make_title, plot_llrs
from .results import (
    compare_scores,
    evaluate_condition,
    evaluate_corpus,
    evaluate_trials,
    find_asv_rates,
    write_results,
)
from .score_folders import SETTINGS_NAME
from .scores import make_scored_corpus, match_scores, read_scores, write_scores
from .text_tables import read_first_line
from .trials import Corpus, choose_split, count_classes, read_label_map, split_classes


def evaluate_score_file(
    args: EvaluationArguments, label_map: str | None, *, allow_unreadable: bool = False
) -> None:
    """Evaluate anybody's scores of the trials that the file itself or a protocol describes; without those of
    recordings that could not be read, where that is allowed."""
    file, keys = Path(args.score_file), read_label_map(label_map)
    if file.is_file() and is_joint(file):
        return evaluate_joint_scores(args, label_map, choose_output_dir(args, Path("evaluation", file.stem)))
    columns = split_names(args.score_columns)
    scored = read_scores(file, columns, keys, allow_unreadable=allow_unreadable)
    if args.protocol is None:
        corpus = make_scored_corpus(scored, file=file, split=args.split)
    else:
        protocol = Path(args.protocol)
        corpus = read_protocol(protocol, keys)
        has_labels = not {"key", "spoof"}.isdisjoint(scored) or find_layout(read_first_line(protocol)) is None
        if label_map is not None and not has_labels and args.compare is None:
            raise ValueError(
                f"--label_map has no effect: {file} has no keys, and those of {protocol} are known."
            )
    split = choose_split(corpus, args.split)
    if split not in corpus.splits:
        raise ValueError(
            f"{args.protocol or file} has no split {split!r}, only {', '.join(corpus.splits)}. Choose one by "
            "--split."
        )
    trials, source = corpus.splits[split], f"{args.protocol or file}, split {split}"
    scores = match_scores(scored, trials, file=file, source=source, elsewhere=list_utterances(corpus))
    if left_out := len(scored) - len(scores):
        noun = "trial" if left_out == 1 else "trials"
        print(f"Left out: scores of {left_out:,} {noun} in other splits of the protocol than {split}.")
    if num_unreadable := int((is_unreadable := np.isnan(scores)).sum()):
        trials, scores = trials[~is_unreadable].reset_index(drop=True), scores[~is_unreadable]
        corpus = replace(corpus, unreadable={split: num_unreadable})
        print(f"Left out: {num_unreadable:,} trials of {split}, whose recordings could not be read.")
    evaluation = Evaluation.from_arguments(args, corpus, split, trials, keys)
    name = "+".join(Path(of).stem for of in (file, *(args.fuse or ())))
    folder = choose_output_dir(args, Path("evaluation") / name)
    how = "bona fide minus spoof, of the file" if "spoof" in scored else "as in the file"
    if args.higher_is == "spoof":
        scores, how = -scores, "negated: the file's higher is spoof"
    if args.calibrate_on is not None:
        evaluation.llrs = calibrate_score_file(args, keys, trials, scores, list_utterances(corpus))
        if args.fuse is not None:
            scores, how = evaluation.llrs.uncut, f"LLR by logistic fusion of {name}"
    results = evaluation.evaluate(scores) | {
        "score_file": file.name,
        "protocol": args.protocol and Path(args.protocol).name,
        "score": how,
    }
    if file.is_dir():
        results["scoring"] = read_json(file / SETTINGS_NAME)
    finish_evaluation(evaluation, results, name, scores, folder)


@dataclass
class Evaluation:
    """
    The trials of a split and what their scores are held against: ASV error rates, with the files that these
    are from, and the scores of another system. It is read before hours of scoring, so that errors come first.
    LLRs are of the scores that are evaluated, where these are calibrated.
    """

    args: EvaluationArguments
    corpus: Corpus
    split: str
    trials: pd.DataFrame
    asv: AsvErrorRates | None
    asv_files: list[str]
    other: np.ndarray | None = None
    llrs: LLRs | None = None

    @property
    def bootstrap(self) -> Bootstrap | None:
        """How intervals are computed."""
        return Bootstrap(self.args.num_resamples) if self.args.num_resamples else None

    @classmethod
    def from_arguments(
        cls,
        args: EvaluationArguments,
        corpus: Corpus,
        split: str,
        trials: pd.DataFrame,
        keys: Mapping[str, str],
    ) -> "Evaluation":
        """ValueError: ASV scores or compared scores of other trials, too few trials for a test."""
        asv_file = args.asv_score_file and Path(args.asv_score_file)
        evaluation = cls(args, corpus, split, trials, *find_asv_rates(corpus, split, trials, asv_file))
        if args.compare is not None:
            if min(count_classes(trials).values()) < MIN_TRIALS:
                raise ValueError(
                    f"--compare needs at least {MIN_TRIALS} bona fide and {MIN_TRIALS} spoofed trials."
                )
            where = {"source": f"{corpus.name} {split}", "elsewhere": list_utterances(corpus)}
            file = Path(args.compare)
            scored = read_scores(file, split_names(args.compare_columns), keys)
            other = match_scores(scored, trials, file=file, **where)
            evaluation.other = other if args.compare_higher_is == "bonafide" else -other
        return evaluation

    def evaluate(self, scores: np.ndarray) -> dict:
        """Results of the scores (num_trials,)."""
        options = {"asv": self.asv, "bootstrap": self.bootstrap}
        results = evaluate_corpus(self.corpus, self.split, self.trials, scores, **options)
        if self.llrs is not None:
            cut = {"num_cut": int((self.llrs.values != self.llrs.uncut).sum())}
            results["calibration"] = {**self.llrs.calibration, "llrs": self.llrs.source, **cut}
            results["llr_metrics"] = measure_llrs(*split_classes(self.trials, self.llrs.values))
        return {**results, "asv_score_files": self.asv_files}

    def evaluate_conditions(self, clean: np.ndarray, under: Mapping[str, np.ndarray]) -> dict[str, dict]:
        """Results of the scores (num_trials,) under each condition, and how they differ from clean ones; and
        of their LLRs by the calibration, which in a cross-validation has seen the clean trials."""
        options = {"asv": self.asv, "bootstrap": self.bootstrap}
        results = {name: evaluate_condition(self.trials, clean, of, **options) for name, of in under.items()}
        for name, scores in under.items() if self.llrs is not None else ():
            llrs, _ = find_llrs(self.llrs.calibration, scores)
            results[name]["llr_metrics"] = measure_llrs(*split_classes(self.trials, llrs))
        return results

    def compare(self, results: dict, name: str, scores: np.ndarray) -> str:
        """Add the paired test with the other system to the results of the named one, and describe it."""
        options = {"asv": self.asv, "bootstrap": self.bootstrap}
        of_other = evaluate_trials(self.trials, self.other, **options)
        of_other |= {"corpus": self.corpus.name, "split": self.split}
        differences = compare_scores(self.trials, scores, self.other, **options)
        results["comparison"] = {"other": self.name_other, "other_results": of_other, **differences}
        table = describe_results(of_other, "say --compare_higher_is spoof")
        return f"{self.name_other}, {table}\n\n{describe_comparison(differences, (name, self.name_other))}"

    @property
    def name_other(self) -> str:
        """What the system that is compared with is called."""
        return f"{Path(self.args.compare).stem} (compared)"


def split_names(columns: str | None) -> list[str] | None:
    """The names of columns that an argument gives, if it does."""
    return columns and columns.split(",")


def list_utterances(corpus: Corpus) -> pd.Series:
    """Utterances of all splits, of which score files may hold more than is evaluated."""
    return pd.concat([pd.Series(rows["utterance_id"][:], dtype="str") for rows in corpus.splits.values()])


def choose_output_dir(args: EvaluationArguments, default: Path) -> Path:
    """Where results go; a FileExistsError if it holds some, and --overwrite is not given."""
    folder = default if args.output_dir is None else Path(args.output_dir).expanduser()
    for name in ("results.json", "recordings.json"):
        if (folder / name).exists() and not args.overwrite:
            raise FileExistsError(
                f"{folder} holds results already. Replace them by --overwrite, or name another --output_dir."
            )
    return folder


def finish_evaluation(
    evaluation: Evaluation, results: dict, name: str, scores: np.ndarray, folder: Path
) -> None:
    """Compare, write and print the results of the named system."""
    remedy = "say --higher_is spoof" if "score_file" in results else REMEDY_OF_MODEL
    text, systems = describe_results(results, remedy), {name: scores}
    if evaluation.other is not None:
        text += f"\n\n{evaluation.compare(results, name, scores)}"
        systems[evaluation.name_other] = evaluation.other
    for file in ("llrs.txt", *(f"{plot}.png" for plot in LLR_PLOTS)):
        (folder / file).unlink(missing_ok=True)  # of results that are replaced
    if evaluation.llrs is not None:
        write_scores(folder / "llrs.txt", evaluation.trials, evaluation.llrs.values)
        llrs = split_classes(evaluation.trials, evaluation.llrs.values)
        plot_llrs(folder, *llrs, title=make_title(results))
    write_results(folder, results, evaluation.trials, systems)
    print(f"\n{text}\n\nScores, results and plots: {folder.resolve()}")
