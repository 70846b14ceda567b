"""Evaluate a countermeasure by the official ASVspoof metrics, a score file of any system, or one's own
recordings."""

import dataclasses
import re
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from datasets import Dataset
from tqdm.auto import tqdm
from transformers.hf_argparser import HfArg

import modeling  # noqa: F401  registers the architectures
from hub_cards.recipe import list_systems
from metrics.costs import AsvErrorRates
from metrics.statistics import MIN_TRIALS, Bootstrap
from processing.collation import AudioCollator
from processing.command_line import ArgumentParser, count_cores, keep_freed_memory, share_out_cores
from processing.corpora import CorpusArguments, load_corpus, read_protocol, take_split
from processing.files import hash_files
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
    describe_results,
    describe_split,
    write_plots,
)
from processing.results import (
    SCORE_OF_MODEL,
    compare_scores,
    describe_environment,
    describe_model,
    digest_config,
    evaluate_corpus,
    evaluate_trials,
    find_asv_rates,
    write_results,
)
from processing.resuming import hash_rows
from processing.scores import list_scored_trials, match_scores, read_scores
from processing.scoring import Batches, ScoringCheckpoint, score_rows
from processing.trials import Corpus, count_classes, list_trials


DIRECTIONS = ["bonafide", "spoof"]
# What can be evaluated, and the arguments that go with some of it only.
MODES = {
    "corpus": "--model on a corpus",
    "score_file": "--score_file: the trials are those of the file, or of --protocol",
    "files": "--files: recordings have no key, so there are scores, but no error rates",
}
ONLY_WITH = {
    **dict.fromkeys(["protocol", "higher_is"], {"score_file"}),
    **dict.fromkeys(["window_hop", "plot_timeline"], {"files"}),
    **dict.fromkeys(["set_decision_threshold", "num_workers"], {"corpus"}),
    **dict.fromkeys((f.name for f in dataclasses.fields(CorpusArguments)), {"corpus"}),
    **dict.fromkeys(["split", "asv_score_file", "num_resamples"], {"corpus", "score_file"}),
    **dict.fromkeys(["compare", "compare_higher_is"], {"corpus", "score_file"}),
    **dict.fromkeys(["batch_size", "revision", "trust_remote_code", "use_cpu"], {"corpus", "files"}),
}


@dataclass
class EvaluationArguments:
    """What is evaluated, and how. A model on a corpus, a score file, or a model on recordings (--files)."""

    _argument_group_name = "what is evaluated, and how"

    model: str | None = HfArg(default=None, help="Folder or Hub id of a trained model.")
    split: str | None = HfArg(
        default=None, help="Split of the corpus or protocol; may be a slice of a corpus; default: eval."
    )
    score_file: str | None = HfArg(
        default=None, help="Scores to evaluate: `utterance score`, `utterance [attack] key score`."
    )
    protocol: str | None = HfArg(
        default=None, help="Protocol of the scored trials; needed where the score file has no keys."
    )
    higher_is: str = HfArg(
        default="bonafide",
        help="What a higher score in --score_file means.",
        metadata={"choices": DIRECTIONS},
    )
    compare: str | None = HfArg(
        default=None, help="Score file of another system on the same trials, for a paired test."
    )
    compare_higher_is: str = HfArg(
        default="bonafide", help="What a higher score in --compare means.", metadata={"choices": DIRECTIONS}
    )
    files: list[str] | None = HfArg(
        default=None, help="Recordings, or folders of them, to score with --model.", metadata={"nargs": "+"}
    )
    window_hop: float | None = HfArg(
        default=None, help="Seconds from window to window in longer recordings; default: half a window."
    )
    plot_timeline: bool = HfArg(default=False, help="Plot the scores of each longer recording over its time.")
    asv_score_file: str | None = HfArg(
        default=None, help="ASV scores for the t-DCF; without it, those in the corpus folder are used."
    )
    set_decision_threshold: bool = HfArg(
        default=False,
        help="Write the EER threshold of this evaluation into the config of --model, a folder, as the "
        "threshold of its verdicts; to be done on a development set.",
    )
    output_dir: str | None = HfArg(default=None, help="Where everything is written.")
    overwrite: bool = HfArg(default=False, help="Replace the results in --output_dir.")
    batch_size: int = HfArg(default=32, help="Utterances at a time, on each process.")
    num_workers: int | None = HfArg(
        default=None, help="Processes that decode; default: 0 on a CPU, up to 8 for a GPU."
    )
    num_threads: int | None = HfArg(
        default=None, help="CPU threads of each process; default: the cores, shared out over the processes."
    )
    num_resamples: int = HfArg(
        default=1000, help="Bootstrap resamples of the confidence intervals; 0: no intervals."
    )
    revision: str | None = HfArg(default=None, help="Branch, tag or commit of a Hub model.")
    trust_remote_code: bool = HfArg(
        default=False, help="Run the code that comes with a model of an unknown architecture."
    )
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


@dataclass
class Evaluation:
    """
    What is evaluated.

    Attributes:
        corpus, split: where the trials are from.
        trials: their table.
        asv, asv_files: the ASV scores of the split, and the names of their files.
        compared: the scores of the system that is compared with, by its name, if there is one.
    """

    corpus: Corpus
    split: str
    trials: pd.DataFrame
    asv: AsvErrorRates | None
    asv_files: list[str]
    compared: dict[str, np.ndarray]


def main(argv: list[str]) -> int:
    """Do what the arguments ask for; returns the exit status."""
    keep_freed_memory()
    args, corpus_args = parse_arguments(argv)
    state = PartialState(cpu=args.use_cpu or not torch.accelerator.is_available())
    try:
        share_out_cores(args.num_threads, state.device)
        if args.score_file is not None:
            if state.is_main_process:
                evaluate_score_file(args)
        elif args.files is not None:
            return score_files(args)
        else:
            evaluate_model(args, corpus_args)
    except (ValueError, OSError) as error:
        sys.exit(f"eval.py: error: {error}")
    return 0


def parse_arguments(argv: list[str]) -> tuple[EvaluationArguments, CorpusArguments]:
    """
    Raises:
        SystemExit: an argument that is not known, not valid, or cannot be combined with the others.
    """
    parser = ArgumentParser(
        (EvaluationArguments, CorpusArguments),
        prog="eval.py",
        usage="%(prog)s --model MODEL | --score_file FILE [arguments]",
        description=__doc__,
    )
    (args, corpus_args), given = parser.parse(argv)
    if (args.model is None) == (args.score_file is None):
        parser.error("give either --model, a trained model, or --score_file, the scores of a system")
    if args.score_file is not None and args.files is not None:
        parser.error("--files cannot be combined with --score_file")
    for name in sorted(given):
        if args.mode not in ONLY_WITH.get(name, MODES):
            parser.error(f"--{name} cannot be combined with {MODES[args.mode]}")
    if args.batch_size < 1:
        parser.error(f"--batch_size {args.batch_size}: it must be positive")
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
    with state.main_process_first():
        countermeasure = load_countermeasure(
            args.model, revision=args.revision, trust_remote_code=args.trust_remote_code
        )
        corpus = load_corpus(corpus_args)
    if args.set_decision_threshold and countermeasure.revision:
        raise ValueError(
            f"--set_decision_threshold changes a model's folder, but {args.model} is on the Hub: download "
            "it, and give the folder."
        )
    split = args.split or "eval"
    rows = take_split(corpus, split)
    evaluation = prepare_evaluation(args, corpus, split, list_trials(rows))
    folder = find_output_dir(args, countermeasure, f"{corpus.name} {split}")
    about = describe_countermeasure(countermeasure)
    lines = [corpus.note] if corpus.note else []
    lines += [
        f"Model: {about['model']}, {countermeasure.model.num_parameters():,} parameters",
        f"Corpus: {describe_split(corpus, split, count_classes(evaluation.trials))}",
        f"ASV scores: {', '.join(evaluation.asv_files) or 'none, so there will be no t-DCF'}",
    ]
    state.print("\n".join(lines))
    identity = identify_scoring(args, evaluation, countermeasure, rows)
    checkpoint = ScoringCheckpoint(folder / ".scoring.jsonl", identity, replace=args.overwrite)
    num_workers = args.num_workers
    if num_workers is None:
        num_workers = 0 if state.device.type == "cpu" else min(8, count_cores())
    scores = score_rows(
        countermeasure.model,
        AudioCollator(countermeasure.feature_extractor),
        rows,
        batches=Batches(args.batch_size, num_workers),
        checkpoint=checkpoint,
        description=f"Scoring {corpus.name} {split}",
    ).numpy()
    state.destroy_process_group()  # its threads may abort a process that ends before them
    if not state.is_main_process:
        return
    results = {
        **evaluate_corpus(
            corpus, split, evaluation.trials, scores, asv=evaluation.asv, bootstrap=args.bootstrap
        ),
        "asv_score_files": evaluation.asv_files,
        **about,
        "num_processes": state.num_processes,
        # After a kill, `seconds` are those of the last start, which found so many utterances scored.
        "num_scored_before": checkpoint.num_scored_before,
        "seconds": round(time.time() - started, 1),
        **describe_environment(),
    }
    finish_evaluation(args, evaluation, results, {about["model"]: scores}, folder)
    checkpoint.remove()
    if args.set_decision_threshold:
        change_threshold(countermeasure, results["eer_threshold"])
    card = countermeasure.folder / "README.md"
    if card.is_file() and (args.set_decision_threshold or folder.is_relative_to(card.parent)):
        print(f"{card} does not have this yet: python -m hub_cards.card {card.parent}")


def evaluate_score_file(args: EvaluationArguments) -> None:
    """Evaluate anybody's scores of the trials that the file itself or a protocol describes."""
    file = Path(args.score_file)
    scored = read_scores(file)
    if args.protocol is None:
        corpus, split, elsewhere = Corpus(file.name, {}), args.split or "all", set()
        trials, scores = list_scored_trials(scored, file=file), scored["score"].to_numpy()
    else:
        protocol = read_protocol(Path(args.protocol))
        corpus = Corpus(protocol.corpus, {}, breakdowns=protocol.breakdowns)
        split = args.split or ("eval" if len(protocol.splits) > 1 else [*protocol.splits][0])
        if split not in protocol.splits:
            raise ValueError(
                f"{args.protocol} has no split {split!r}, only {', '.join(protocol.splits)}. "
                "Choose one by --split."
            )
        trials = protocol.splits[split]
        others = [others["utterance_id"] for name, others in protocol.splits.items() if name != split]
        elsewhere = set().union(*others)
        scores = match_scores(
            scored, trials, file=file, source=f"{args.protocol}, split {split}", elsewhere=elsewhere
        )
        if left_out := len(scored) - len(scores):
            noun = "trial" if left_out == 1 else "trials"
            print(f"Left out: scores of {left_out:,} {noun} in other splits of the protocol than {split}.")
    evaluation = prepare_evaluation(args, corpus, split, trials, elsewhere)
    folder = find_output_dir(args)
    scores = scores if args.higher_is == "bonafide" else -scores
    results = {
        "corpus": corpus.name,
        "split": split,
        "score_file": file.name,
        "protocol": args.protocol and Path(args.protocol).name,
        "score": "as in the file" if args.higher_is == "bonafide" else "negated: the file's higher is spoof",
        **evaluate_trials(
            trials, scores, asv=evaluation.asv, breakdowns=corpus.breakdowns, bootstrap=args.bootstrap
        ),
        "asv_score_files": evaluation.asv_files,
        **describe_environment(),
    }
    finish_evaluation(args, evaluation, results, {file.stem: scores}, folder)


def score_files(args: EvaluationArguments) -> int:
    """Score recordings, a printed line each; returns 1 if one could not be read."""
    if PartialState().num_processes > 1:
        raise ValueError("--files is scored by one process: start it by `python eval.py`.")
    files, num_others = find_recordings([Path(file).expanduser() for file in args.files])
    countermeasure = load_countermeasure(
        args.model, revision=args.revision, trust_remote_code=args.trust_remote_code
    )
    if countermeasure.feature_extractor.num_samples is None and (args.window_hop or args.plot_timeline):
        raise ValueError(
            f"{args.model} scores whole recordings: there are no windows for --window_hop or --plot_timeline."
        )
    extractor = countermeasure.feature_extractor
    hop = choose_hop(extractor, args.window_hop)
    folder = find_output_dir(args)
    folder.mkdir(parents=True, exist_ok=True)
    threshold = getattr(countermeasure.model.config, "decision_threshold", None)
    about = {
        **describe_countermeasure(countermeasure),
        "score": SCORE_OF_MODEL,
        "decision_threshold": threshold,
        "window_hop_seconds": hop,
        **describe_environment(),
    }
    if num_others:
        noun = "file" if num_others == 1 else "files"
        print(f"Skipped: {num_others:,} {noun} without the ending of an audio file.")
    print(describe_columns(extractor, threshold, hop))
    recordings = []
    try:
        for recording in score_recordings(countermeasure, files, hop_seconds=hop, batch_size=args.batch_size):
            tqdm.write(describe_recording(recording.summarize(threshold)))
            recordings.append(recording)
    finally:  # what has been scored is kept, whatever ends the rest
        write_recordings(folder, recordings, threshold, about)
    if args.plot_timeline:
        write_timelines(folder, recordings, extractor.num_samples / extractor.sampling_rate, threshold)
    print(f"Written: {folder.resolve()}")
    failed = sum(bool(recording.error) for recording in recordings)
    if failed:
        print(f"{failed:,} of {len(recordings):,} recordings could not be scored.", file=sys.stderr)
    return int(failed > 0)


def prepare_evaluation(
    args: EvaluationArguments,
    corpus: Corpus,
    split: str,
    trials: pd.DataFrame,
    elsewhere: Collection[str] = (),
) -> Evaluation:
    """
    Read the ASV scores and the scores to compare with, so that their errors come before hours of scoring.
    `elsewhere` are utterances of other splits, which score files may hold as well.

    Raises:
        ValueError: ASV scores of other trials, a score file that does not match, too few trials for a test.
    """
    asv_file = args.asv_score_file and Path(args.asv_score_file)
    asv, asv_files = find_asv_rates(corpus, split, trials, asv_file)
    compared = {}
    if args.compare is not None:
        if min(count_classes(trials).values()) < MIN_TRIALS:
            raise ValueError(
                f"--compare needs at least {MIN_TRIALS} bona fide and {MIN_TRIALS} spoofed trials."
            )
        file = Path(args.compare)
        elsewhere = {*elsewhere, *(name for rows in corpus.splits.values() for name in rows["utterance_id"])}
        source = f"{corpus.name} {split}"
        scores = match_scores(read_scores(file), trials, file=file, source=source, elsewhere=elsewhere)
        sign = 1 if args.compare_higher_is == "bonafide" else -1
        compared = {f"{file.stem} (compared)": sign * scores}
    return Evaluation(corpus, split, trials, asv, asv_files, compared)


def find_output_dir(
    args: EvaluationArguments, countermeasure: Countermeasure | None = None, source: str = ""
) -> Path:
    """
    Where results go: --output_dir, or beside a local model, or under `evaluation/`.

    Raises:
        FileExistsError: it holds results, and --overwrite is not given.
    """
    if args.output_dir is not None:
        folder = Path(args.output_dir).expanduser()
    elif args.files is not None:
        folder = Path("evaluation") / time.strftime("files-%Y%m%d-%H%M%S")
    elif countermeasure is None:
        folder = Path("evaluation") / Path(args.score_file).stem
    else:
        name = re.sub(r"[^a-z0-9_]+", "-", source.lower().replace(":", "_")).strip("-")
        of_hub = Path("evaluation") / countermeasure.name.replace("/", "--")
        folder = (of_hub if countermeasure.revision else countermeasure.folder / "results") / name
    for name in ("results.json", "recordings.json"):
        if (folder / name).exists() and not args.overwrite:
            raise FileExistsError(
                f"{folder} holds results already. Replace them by --overwrite, or name another --output_dir."
            )
    return folder


def identify_scoring(
    args: EvaluationArguments, evaluation: Evaluation, countermeasure: Countermeasure, rows: Dataset
) -> dict:
    """All that the scores depend on: a killed scoring goes on only where nothing of it has changed."""
    return {
        **describe_countermeasure(countermeasure),
        "files_sha256": hash_files(countermeasure.folder, ["preprocessor_config.json", "*.py"]),
        "config_sha256": digest_config(countermeasure.folder),
        "corpus": evaluation.corpus.name,
        "split": evaluation.split,
        "rows_sha256": hash_rows(rows),
        "batch_size": args.batch_size,
        "device": PartialState().device.type,
        "torch": torch.__version__,
    }


def describe_countermeasure(countermeasure: Countermeasure) -> dict:
    """What identifies a model in results."""
    about = {**describe_model(countermeasure.folder), "model": countermeasure.name}
    return {**about, "revision": countermeasure.revision} if countermeasure.revision else about


def finish_evaluation(
    args: EvaluationArguments,
    evaluation: Evaluation,
    results: dict,
    evaluated: dict[str, np.ndarray],
    folder: Path,
) -> None:
    """Compare, write and print; `evaluated` are the scores of the evaluated system by its name."""
    (scores,) = evaluated.values()
    text = describe_results(results, "say --higher_is spoof" if args.score_file else REMEDY_OF_MODEL)
    if evaluation.compared:
        results["comparison"], comparison = compare_systems(args, evaluation, evaluated, results)
        text += f"\n\n{comparison}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").unlink(missing_ok=True)  # it is there only when all the rest is
    write_plots(folder, results, evaluation.trials, {**evaluated, **evaluation.compared})
    write_results(folder, results, evaluation.trials, scores)
    print(f"\n{text}\n\nScores, results and plots: {folder.resolve()}")


def compare_systems(
    args: EvaluationArguments, evaluation: Evaluation, evaluated: dict[str, np.ndarray], results: dict
) -> tuple[dict, str]:
    """The paired test of the evaluated system and the other one, as a part of results and as text."""
    ((name, scores),), ((other, other_scores),) = evaluated.items(), evaluation.compared.items()
    options = {"asv": evaluation.asv, "bootstrap": args.bootstrap}
    other_results = {
        **evaluate_trials(evaluation.trials, other_scores, **options),
        "corpus": results["corpus"],
        "split": results["split"],
    }
    comparison = {
        "other": other,
        "other_results": other_results,
        **compare_scores(evaluation.trials, scores, other_scores, **options),
    }
    table = describe_results(other_results, "say --compare_higher_is spoof")
    return comparison, f"{other}, {table}\n\n{describe_comparison(comparison, (name, other))}"


def change_threshold(countermeasure: Countermeasure, threshold: float) -> None:
    """Write the decision threshold into the model's config, and say what it was before."""
    before = getattr(countermeasure.model.config, "decision_threshold", None)
    set_decision_threshold(countermeasure.folder, threshold)
    instead = "" if before is None else f" instead of {before:.4f}"
    print(
        f"Decision threshold: {threshold:.4f}, written into {countermeasure.folder / 'config.json'}{instead}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
