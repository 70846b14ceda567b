"""Evaluate a countermeasure by the official ASVspoof metrics, a score file of any system, or one's own
recordings."""

import dataclasses
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from tqdm.auto import tqdm
from transformers.hf_argparser import HfArg

import modeling  # noqa: F401  registers the architectures
from hub_cards.recipe import list_systems
from metrics.costs import AsvErrorRates
from metrics.statistics import MIN_TRIALS, Bootstrap
from processing.collation import AudioCollator
from processing.command_line import ArgumentParser, count_workers, keep_freed_memory, share_out_cores
from processing.corpora import (
    CorpusArguments,
    choose_split,
    load_corpus,
    read_protocol,
    take_readable_splits,
)
from processing.models import Countermeasure, load_countermeasure, set_decision_threshold
from processing.recordings import (
    choose_hop,
    describe_columns,
    describe_recording,
    find_recordings,
    score_recordings,
    write_recordings,
    write_timelines,
)
from processing.report import (
    REMEDY_OF_MODEL,
    describe_comparison,
    describe_left_out,
    describe_results,
    describe_split,
)
from processing.results import (
    SCORE_OF_MODEL,
    choose_decision_threshold,
    compare_scores,
    describe_countermeasure,
    describe_environment,
    evaluate_corpus,
    evaluate_trials,
    find_asv_rates,
    write_results,
)
from processing.scores import make_scored_corpus, match_scores, read_scores
from processing.scoring import Batches, ScoringCheckpoint, identify_scoring, score_rows
from processing.trials import Corpus, count_classes, list_trials, read_label_map


# What can be evaluated, and the arguments that go with some of it only.
MODES = {
    "corpus": "--model on a corpus",
    "score_file": "--score_file: the trials are those of the file, or of --protocol",
    "files": "--files: recordings have no key, so there are scores, but no error rates",
}
CORPUS_ARGUMENTS = [f.name for f in dataclasses.fields(CorpusArguments)]
ONLY_WITH = {
    **dict.fromkeys(["protocol", "higher_is", "score_columns"], {"score_file"}),
    **dict.fromkeys(["files", "window_hop", "plot_timeline"], {"files"}),
    **dict.fromkeys([*CORPUS_ARGUMENTS, "set_decision_threshold", "num_workers"], {"corpus"}),
    **dict.fromkeys(["split", "asv_score_file", "num_resamples", "label_map"], {"corpus", "score_file"}),
    **dict.fromkeys(["compare", "compare_higher_is", "compare_columns"], {"corpus", "score_file"}),
    **dict.fromkeys(["batch_size", "revision", "trust_remote_code", "use_cpu"], {"corpus", "files"}),
}
Direction = Literal["bonafide", "spoof"]


@dataclass
class EvaluationArguments:
    """What is evaluated, and how. A model on a corpus, a score file, or a model on recordings (--files)."""

    _argument_group_name = "what is evaluated, and how"

    model: str | None = HfArg(default=None, help="Folder or Hub id of a trained model.")
    split: str | None = HfArg(
        default=None,
        help="Split of the corpus or protocol; may be a slice of a corpus; default: the only one, or eval.",
    )
    score_file: str | None = HfArg(
        default=None,
        help="Scores to evaluate: `utterance score`, `utterance [attack] key score`, CSV with a header, …",
    )
    score_columns: str | None = HfArg(
        default=None,
        help="What the columns of --score_file are, where it does not say it: _,utterance,key,score, with "
        "spoof,bonafide for a score of each class.",
    )
    protocol: str | None = HfArg(
        default=None,
        help="Protocol of the scored trials, or any key file with a header; needed where the score file has "
        "no keys.",
    )
    higher_is: Direction = HfArg(default="bonafide", help="What a higher score in --score_file means.")
    compare: str | None = HfArg(
        default=None, help="Score file of another system on the same trials, for a paired test."
    )
    compare_columns: str | None = HfArg(default=None, help="As --score_columns, of --compare.")
    compare_higher_is: Direction = HfArg(default="bonafide", help="What a higher score in --compare means.")
    files: list[str] | None = HfArg(default=None, help="Recordings, or folders of them, for --model.")
    window_hop: float | None = HfArg(
        default=None, help="Seconds from window to window in longer recordings; default: half a window."
    )
    plot_timeline: bool = HfArg(default=False, help="Plot the scores of each longer recording over its time.")
    asv_score_file: str | None = HfArg(
        default=None, help="ASV scores for the t-DCF; default: those in the corpus folder."
    )
    set_decision_threshold: bool = HfArg(
        default=False,
        help="Write the EER threshold of this evaluation into the config of --model, a folder, as the "
        "threshold of its verdicts; to be done on a development set.",
    )
    output_dir: str | None = HfArg(
        default=None, help="Where results go; default: beside a local model, else in evaluation/."
    )
    overwrite: bool = HfArg(default=False, help="Replace the results in --output_dir.")
    batch_size: int = HfArg(default=32, help="Utterances at a time, on each process.")
    num_workers: int | None = HfArg(
        default=None, help="Processes that decode; default: 0 on a CPU, up to 8 for a GPU."
    )
    num_threads: int | None = HfArg(
        default=None, help="CPU threads of each process; default: the cores, shared out over the processes."
    )
    num_resamples: int = HfArg(default=1000, help="Bootstrap resamples for the intervals; 0: no intervals.")
    revision: str | None = HfArg(default=None, help="Branch, tag or commit of a Hub model.")
    trust_remote_code: bool = HfArg(default=False, help="Run the code of a model of an unknown architecture.")
    use_cpu: bool = HfArg(default=False, help="Do not use a GPU.")

    @property
    def mode(self) -> str:
        """One of `MODES`."""
        if self.score_file is not None:
            return "score_file"
        return "corpus" if self.files is None else "files"

    @property
    def bootstrap(self) -> Bootstrap | None:
        """How intervals are computed."""
        return Bootstrap(self.num_resamples) if self.num_resamples else None


def main(argv: list[str]) -> int:
    """Do what the arguments ask for; returns the exit status."""
    keep_freed_memory()
    args, corpus_args = parse_arguments(argv)
    state = PartialState(cpu=args.use_cpu or not torch.accelerator.is_available())
    try:
        share_out_cores(args.num_threads, state.device)
        if args.mode == "corpus":
            evaluate_model(args, corpus_args)
        elif args.mode == "files":
            return score_files(args)
        elif state.is_main_process:
            evaluate_score_file(args, corpus_args.label_map)
    except (ValueError, OSError) as error:
        sys.exit(f"eval.py: error: {error}")
    return 0


def parse_arguments(argv: list[str]) -> tuple[EvaluationArguments, CorpusArguments]:
    """Parse and check; what cannot be combined or is not valid ends the program, with one line of error."""
    parser = ArgumentParser(
        (EvaluationArguments, CorpusArguments),
        prog="eval.py",
        usage="%(prog)s --model MODEL | --score_file FILE [arguments]",
        description=__doc__,
    )
    (args, corpus_args), given = parser.parse(argv)
    if (args.model is None) == (args.score_file is None):
        parser.error("give either --model, a trained model, or --score_file, the scores of a system")
    for name in sorted(given):
        if args.mode not in ONLY_WITH.get(name, MODES):
            parser.error(f"--{name} cannot be combined with {MODES[args.mode]}")
    if args.num_resamples < 0 or (args.compare is not None and not args.num_resamples):
        parser.error(f"--num_resamples {args.num_resamples}: it must not be negative, nor 0 with --compare")
    if args.set_decision_threshold and (args.split or "eval").split("[")[0] in ("eval", "test"):
        parser.error(
            "--set_decision_threshold needs --split with a development set: a threshold chosen on eval makes "
            "the results on eval too good"
        )
    if args.model in list_systems() and not Path(args.model).is_dir():
        parser.error(
            f"--model {args.model} is the recipe of a system. Train it first, by train.py --model "
            f"{args.model}, or convert published weights, and give the folder that is written"
        )
    return args, corpus_args


def evaluate_model(args: EvaluationArguments, corpus_args: CorpusArguments) -> None:
    """Score a split of a corpus with a model, from where a killed run was, and write all results."""
    state, started = PartialState(), time.time()
    num_workers = count_workers(state.device.type != "cpu") if args.num_workers is None else args.num_workers
    batches = Batches(args.batch_size, num_workers)
    with state.main_process_first():
        countermeasure = load_model(args)
        corpus = load_corpus(corpus_args)
    if args.set_decision_threshold and countermeasure.revision:
        raise ValueError(
            f"--set_decision_threshold changes a model's folder, but {args.model} is on the Hub: download "
            "it, and give the folder."
        )
    split = choose_split(corpus, args.split)
    corpus, splits = take_readable_splits(
        corpus, {split: split}, allow_unreadable=corpus_args.allow_unreadable
    )
    rows = splits[split]
    keys = read_label_map(corpus_args.label_map)
    evaluation = Evaluation.from_arguments(args, corpus, split, list_trials(rows), keys)
    name = re.sub(r"[^a-z0-9_]+", "-", f"{corpus.name} {split}".lower().replace(":", "_")).strip("-")
    of_hub = Path("evaluation") / countermeasure.name.replace("/", "--")
    beside = of_hub if countermeasure.revision else countermeasure.folder / "results"
    folder = choose_output_dir(args, beside / name)
    about = describe_countermeasure(countermeasure)
    lines = [corpus.note] if corpus.note else []
    lines += [
        f"Model: {about['model']}, {countermeasure.model.num_parameters():,} parameters",
        f"Corpus: {describe_split(corpus, split, count_classes(evaluation.trials))}",
        *describe_left_out(corpus),
        f"ASV scores: {', '.join(evaluation.asv_files) or 'none, so there will be no t-DCF'}",
    ]
    state.print("\n".join(lines))
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
    state.destroy_process_group()  # its threads may abort a process that ends before them
    if not state.is_main_process:
        return
    results = evaluation.evaluate(scores) | {
        **about,
        "num_processes": state.num_processes,
        # After a kill, `seconds` are those of the last start, which found so many utterances scored.
        "num_scored_before": checkpoint.num_scored_before,
        "seconds": round(time.time() - started, 1),
    }
    finish_evaluation(evaluation, results, about["model"], scores, folder)
    checkpoint.remove()
    if args.set_decision_threshold:
        change_threshold(countermeasure, choose_decision_threshold(evaluation.trials, scores))
    card = countermeasure.folder / "README.md"
    if card.is_file() and (args.set_decision_threshold or folder.is_relative_to(card.parent)):
        print(f"{card} does not have this yet: python -m hub_cards.card {card.parent}")


def evaluate_score_file(args: EvaluationArguments, label_map: str | None) -> None:
    """Evaluate anybody's scores of the trials that the file itself or a protocol describes."""
    file, keys = Path(args.score_file), read_label_map(label_map)
    scored = read_scores(file, split_names(args.score_columns), keys)
    if args.protocol is None:
        corpus = make_scored_corpus(scored, file=file, split=args.split)
    else:
        corpus = read_protocol(Path(args.protocol), keys)
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
    evaluation = Evaluation.from_arguments(args, corpus, split, trials, keys)
    folder = choose_output_dir(args, Path("evaluation") / file.stem)
    how = "bona fide minus spoof, of the file" if "spoof" in scored else "as in the file"
    if args.higher_is == "spoof":
        scores, how = -scores, "negated: the file's higher is spoof"
    results = evaluation.evaluate(scores) | {
        "score_file": file.name,
        "protocol": args.protocol and Path(args.protocol).name,
        "score": how,
    }
    finish_evaluation(evaluation, results, file.stem, scores, folder)


def score_files(args: EvaluationArguments) -> int:
    """Score recordings, a printed line each; returns 1 if one could not be read."""
    if PartialState().num_processes > 1:
        raise ValueError("--files is scored by one process: start it by `python eval.py`.")
    files, num_others = find_recordings(Path(file).expanduser() for file in args.files)
    countermeasure = load_model(args)
    extractor = countermeasure.feature_extractor
    if extractor.num_samples is None and (args.window_hop or args.plot_timeline):
        raise ValueError(
            f"{args.model} scores whole recordings: there are no windows for --window_hop or --plot_timeline."
        )
    hop = choose_hop(extractor, args.window_hop)
    threshold = getattr(countermeasure.model.config, "decision_threshold", None)
    folder = choose_output_dir(args, Path("evaluation") / time.strftime("files-%Y%m%d-%H%M%S"))
    folder.mkdir(parents=True, exist_ok=True)
    if num_others:
        noun = "file" if num_others == 1 else "files"
        print(f"Skipped: {num_others:,} {noun} without the ending of an audio file, hidden, or gone.")
    print(describe_columns(extractor, threshold, hop))
    recordings = []
    try:
        for recording in score_recordings(countermeasure, files, hop_seconds=hop, batch_size=args.batch_size):
            tqdm.write(describe_recording(recording.summarize(threshold)))
            recordings.append(recording)
    finally:  # what has been scored is kept, whatever ends the rest
        about = {
            **describe_countermeasure(countermeasure),
            "score": SCORE_OF_MODEL,
            "decision_threshold": threshold,
            "window_hop_seconds": hop,
            **describe_environment(),
        }
        write_recordings(folder, recordings, threshold, about)
    if args.plot_timeline:
        write_timelines(folder, recordings, extractor.num_samples / extractor.sampling_rate, threshold)
    print(f"Written: {folder.resolve()}")
    failed = sum(bool(recording.error) for recording in recordings)
    if failed:
        print(f"{failed:,} of {len(recordings):,} recordings could not be scored.", file=sys.stderr)
    return int(failed > 0)


@dataclass
class Evaluation:
    """
    The trials of a split and what their scores are held against: ASV error rates, with the files that these
    are from, and the scores of another system. It is read before hours of scoring, so that errors come first.
    """

    args: EvaluationArguments
    corpus: Corpus
    split: str
    trials: pd.DataFrame
    asv: AsvErrorRates | None
    asv_files: list[str]
    other: np.ndarray | None = None

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
        options = {"asv": self.asv, "bootstrap": self.args.bootstrap}
        results = evaluate_corpus(self.corpus, self.split, self.trials, scores, **options)
        return {**results, "asv_score_files": self.asv_files}

    def compare(self, results: dict, name: str, scores: np.ndarray) -> str:
        """Add the paired test with the other system to the results of the named one, and describe it."""
        options = {"asv": self.asv, "bootstrap": self.args.bootstrap}
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


def list_utterances(corpus: Corpus) -> set[str]:
    """Utterances of all splits, of which score files may hold more than is evaluated."""
    return {utterance for rows in corpus.splits.values() for utterance in rows["utterance_id"]}


def load_model(args: EvaluationArguments) -> Countermeasure:
    """The trained model that the arguments name."""
    options = {"revision": args.revision, "trust_remote_code": args.trust_remote_code}
    return load_countermeasure(args.model, **options)


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
    write_results(folder, results, evaluation.trials, systems)
    print(f"\n{text}\n\nScores, results and plots: {folder.resolve()}")


def change_threshold(countermeasure: Countermeasure, threshold: float) -> None:
    """Write the decision threshold into the model's config, and say what it was before."""
    before = getattr(countermeasure.model.config, "decision_threshold", None)
    set_decision_threshold(countermeasure.folder, threshold)
    instead = "" if before is None else f" instead of {before:.4f}"
    config = countermeasure.folder / "config.json"
    print(f"Decision threshold: {threshold:.4f}, written into {config}{instead}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
