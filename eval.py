"""Evaluate a countermeasure by the official ASVspoof metrics, a score file of any system, or one's own
recordings."""

import dataclasses
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from tqdm.auto import tqdm

import modeling  # noqa: F401  registers the architectures
from hub_cards.recipe import systems
from metrics.statistics import MIN_TRIALS, Bootstrap
from processing.asv_scores import AsvScores
from processing.collation import AudioCollator
from processing.command_line import ArgumentParser, keep_freed_memory, share_out_cores
from processing.corpora import CorpusArguments, load_corpus, read_protocol, take_split
from processing.files import hash_files
from processing.models import Countermeasure, load_countermeasure, set_decision_threshold
from processing.recordings import Recording, Windows, find_recordings, score_recordings, write_recordings
from processing.report import (
    REMEDY_OF_MODEL,
    describe_comparison,
    describe_results,
    describe_split,
    recording_header,
    recording_line,
    write_plots,
    write_timelines,
)
from processing.results import (
    SCORE_OF_MODEL,
    asv_error_rates,
    compare_scores,
    describe_environment,
    describe_model,
    digest_config,
    evaluate_corpus,
    evaluate_trials,
    find_asv_scores,
    write_results,
)
from processing.scores import read_scores, scores_of_trials, trials_of_scores
from processing.scoring import Batches, ScoringCheckpoint, digest_rows, score_rows
from processing.trials import KEYS, Corpus, ProtocolColumns, class_counts, columns_of


DIRECTIONS = ["bonafide", "spoof"]
OF_SCORE_FILES = ("protocol", "higher_is")
OF_TRIALS = ("split", "compare", "compare_higher_is", "asv_score_file", "num_resamples", "num_workers")
OF_MODELS = (
    "batch_size",
    "num_workers",
    "revision",
    "trust_remote_code",
    "use_cpu",
    "set_decision_threshold",
)


@dataclass
class EvaluationArguments:
    """What is evaluated, and how. A model on a corpus, a score file, or a model on recordings (--files)."""

    model: str | None = field(default=None, metadata={"help": "Folder or Hub id of a trained model."})
    split: str | None = field(
        default=None,
        metadata={"help": "Split of the corpus or protocol; may be a slice of a corpus; default: eval."},
    )
    score_file: str | None = field(
        default=None,
        metadata={"help": "Scores to evaluate: `utterance score`, `utterance [attack] key score`."},
    )
    protocol: str | None = field(
        default=None,
        metadata={"help": "Protocol of the scored trials; needed where the score file has no keys."},
    )
    higher_is: str = field(
        default="bonafide",
        metadata={"help": "What a higher score in --score_file means.", "choices": DIRECTIONS},
    )
    compare: str | None = field(
        default=None, metadata={"help": "Score file of another system on the same trials, for a paired test."}
    )
    compare_higher_is: str = field(
        default="bonafide",
        metadata={"help": "What a higher score in --compare means.", "choices": DIRECTIONS},
    )
    files: list[str] | None = field(
        default=None,
        metadata={"help": "Recordings, or folders of them, to score with --model.", "nargs": "+"},
    )
    window_hop: float | None = field(
        default=None,
        metadata={"help": "Seconds from window to window in longer recordings; default: half a window."},
    )
    plot_timeline: bool = field(
        default=False, metadata={"help": "Plot the scores of each longer recording over its time."}
    )
    asv_score_file: str | None = field(
        default=None,
        metadata={"help": "ASV scores for the t-DCF; without it, those in the corpus folder are used."},
    )
    set_decision_threshold: bool = field(
        default=False,
        metadata={
            "help": "Write the EER threshold of this evaluation into the config of --model, a folder, as the "
            "threshold of its verdicts; to be done on a development set."
        },
    )
    output_dir: str | None = field(default=None, metadata={"help": "Where everything is written."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the results in --output_dir."})
    batch_size: int = field(default=32, metadata={"help": "Utterances at a time, on each process."})
    num_workers: int | None = field(
        default=None, metadata={"help": "Processes that decode; default: 0 on a CPU, up to 8 for a GPU."}
    )
    num_threads: int | None = field(
        default=None,
        metadata={"help": "CPU threads of each process; default: the cores, shared out over the processes."},
    )
    num_resamples: int = field(
        default=1000, metadata={"help": "Bootstrap resamples of the confidence intervals; 0: no intervals."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub model."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the code that comes with a model of an unknown architecture."}
    )
    use_cpu: bool = field(default=False, metadata={"help": "Do not use a GPU."})

    @property
    def bootstrap(self) -> Bootstrap | None:
        """How intervals are computed."""
        return Bootstrap(self.num_resamples) if self.num_resamples else None


@dataclass
class Scored:
    """Trials, the scores of each system by its name, the evaluated one first, and the ASV scores."""

    trials: ProtocolColumns
    systems: dict[str, np.ndarray]
    asv: AsvScores | None


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
        SystemExit: an argument that is not known or not valid, or that has no meaning beside the others.
    """
    parser = ArgumentParser(
        (EvaluationArguments, CorpusArguments), prog="eval.py", description=__doc__, allow_abbrev=False
    )
    parser.parse_checked(argv)
    args, corpus_args = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    given = parser.chosen(argv)
    of_corpus = {f.name for f in dataclasses.fields(CorpusArguments)}
    if (args.model is None) == (args.score_file is None):
        parser.error("give either --model, a trained model, or --score_file, the scores of a system")
    if args.score_file is not None:
        senseless = given & {"files", "plot_timeline", "window_hop", *OF_MODELS, *of_corpus}
        reason = "--score_file (the trials are those of the file, or of --protocol)"
    elif args.files is not None:
        senseless = given & {*OF_TRIALS, *OF_SCORE_FILES, *of_corpus, "set_decision_threshold"}
        reason = "--files (recordings have no key: there are scores, but no error rates)"
    else:
        senseless, reason = given & {*OF_SCORE_FILES, "plot_timeline", "window_hop"}, "--model on a corpus"
    if args.num_resamples < 0 or (args.compare is not None and not args.num_resamples):
        parser.error(f"--num_resamples {args.num_resamples}: it must not be negative, nor 0 with --compare")
    if senseless:
        parser.error(f"--{sorted(senseless)[0]} has no meaning beside {reason}")
    if args.set_decision_threshold and (args.split or "eval").split("[")[0] in ("eval", "test"):
        parser.error(
            "--set_decision_threshold needs --split with a development set: a threshold chosen on eval makes "
            "the results on eval too good"
        )
    if args.model in systems() and not Path(args.model).is_dir():
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
    trials = columns_of(rows)
    asv, asv_files = find_asv_scores(corpus, split, args.asv_score_file and Path(args.asv_score_file))
    if asv is not None:
        asv_error_rates(asv, trials)  # rather an error now than after hours of scoring
    elsewhere = set()
    if args.compare is not None:
        elsewhere = elsewhere.union(*(rows["utterance_id"][:] for rows in corpus.splits.values()))
    other = read_other(args, trials, f"{corpus.name} {split}", elsewhere)
    folder = output_folder(args, countermeasure, f"{corpus.name} {split}")
    folder.mkdir(parents=True, exist_ok=True)

    if corpus.note:
        state.print(corpus.note)
    about = describe_countermeasure(countermeasure)
    state.print(f"Model: {about['model']}, {countermeasure.model.num_parameters():,} parameters")
    state.print(f"Corpus: {describe_split(corpus, split, class_counts(rows))}")
    state.print(f"ASV scores: {', '.join(asv_files) if asv_files else 'none, so there will be no t-DCF'}")
    identity = {
        **about,
        "files_sha256": hash_files(countermeasure.folder, ["preprocessor_config.json", "*.py"]),
        "config_sha256": digest_config(countermeasure.folder),
        "corpus": corpus.name,
        "split": split,
        "rows_sha256": digest_rows(rows),
        "batch_size": args.batch_size,
        "device": state.device.type,
        "torch": torch.__version__,
    }
    checkpoint = ScoringCheckpoint(folder / ".scoring", identity, replace=args.overwrite)
    num_workers = args.num_workers
    if num_workers is None:
        num_workers = 0 if state.device.type == "cpu" else min(8, torch.multiprocessing.cpu_count())
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
    results = evaluate_corpus(corpus, split, trials, scores, asv=asv, bootstrap=args.bootstrap)
    results |= {"asv_score_files": asv_files, **about, "num_processes": state.num_processes}
    # After a kill, `seconds` are those of the last start, which found so many utterances scored.
    results |= {"num_scored_before": checkpoint.num_scored_before}
    results |= {"seconds": round(time.time() - started, 1), **describe_environment()}
    finish(args, folder, results, Scored(trials, {about["model"]: scores, **other}, asv))
    checkpoint.remove()
    if args.set_decision_threshold:
        before = getattr(countermeasure.model.config, "decision_threshold", None)
        set_decision_threshold(countermeasure.folder, results["eer_threshold"])
        print(
            f"Decision threshold: {results['eer_threshold']:.4f}, written into "
            f"{countermeasure.folder / 'config.json'}{'' if before is None else f' instead of {before:.4f}'}"
        )
    card = countermeasure.folder / "README.md"
    if card.is_file() and (args.set_decision_threshold or folder.is_relative_to(card.parent)):
        print(f"{card} does not have this yet: python -m hub_cards.card {card.parent}")


def evaluate_score_file(args: EvaluationArguments) -> None:
    """Evaluate anybody's scores of the trials that the file itself or a protocol describes."""
    file = read_scores(Path(args.score_file))
    corpus, breakdowns, split, elsewhere = file.path.name, (), args.split or "all", set()
    if args.protocol is None:
        trials, scores = trials_of_scores(file), file.score
    else:
        protocol = read_protocol(Path(args.protocol))
        corpus, breakdowns = protocol.corpus, protocol.breakdowns
        split = args.split or ("eval" if len(protocol.splits) > 1 else [*protocol.splits][0])
        if split not in protocol.splits:
            raise ValueError(
                f"{args.protocol} has no split {split!r}, only {', '.join(protocol.splits)}. "
                "Choose one by --split."
            )
        trials = protocol.splits[split]
        others = [columns.utterance_id for name, columns in protocol.splits.items() if name != split]
        elsewhere = set().union(*others)
        scores = scores_of_trials(file, trials, source=f"{args.protocol}, split {split}", elsewhere=elsewhere)
        if left_out := len(file.utterance_id) - len(scores):
            print(f"Left out: {left_out:,} scores of other splits of the protocol than {split}.")
    scores = scores if args.higher_is == "bonafide" else -scores
    asv, asv_files = find_asv_scores(
        Corpus(corpus, {}), split, args.asv_score_file and Path(args.asv_score_file)
    )
    other = read_other(args, trials, f"{corpus} {split}", elsewhere)
    folder = output_folder(args)
    results = {
        "corpus": corpus,
        "split": split,
        "score_file": file.path.name,
        "protocol": args.protocol and Path(args.protocol).name,
        "score": "as in the file" if args.higher_is == "bonafide" else "negated: the file's higher is spoof",
        **evaluate_trials(trials, scores, asv=asv, breakdowns=breakdowns, bootstrap=args.bootstrap),
        "asv_score_files": asv_files,
        **describe_environment(),
    }
    finish(args, folder, results, Scored(trials, {file.path.stem: scores, **other}, asv))


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
    folder, windows = output_folder(args), Windows(args.window_hop, args.batch_size)
    folder.mkdir(parents=True, exist_ok=True)
    threshold = getattr(countermeasure.model.config, "decision_threshold", None)
    about = {
        **describe_countermeasure(countermeasure),
        "score": SCORE_OF_MODEL,
        "decision_threshold": threshold,
        "window_hop_seconds": windows.hop(countermeasure.feature_extractor),
        **describe_environment(),
    }
    if num_others:
        print(f"Passed over: {num_others:,} files whose ending is not that of an audio file.")
    print(recording_header(countermeasure, threshold, about["window_hop_seconds"]))
    recordings: list[Recording] = []
    try:
        for recording in score_recordings(countermeasure, files, windows):
            tqdm.write(recording_line(recording.summary(threshold)))
            recordings.append(recording)
    finally:  # what has been scored is kept, whatever ends the rest
        write_recordings(folder, recordings, threshold, about)
    if args.plot_timeline:
        write_timelines(folder, recordings, countermeasure, threshold)
    print(f"Written: {folder.resolve()}")
    failed = sum(bool(recording.error) for recording in recordings)
    if failed:
        print(f"{failed:,} of {len(recordings):,} recordings could not be scored.", file=sys.stderr)
    return int(failed > 0)


def read_other(args: EvaluationArguments, trials: ProtocolColumns, source: str, elsewhere: set[str]) -> dict:
    """
    The scores of the system that is compared with, if there is one, by its name.

    Raises:
        ValueError: a file that does not match the trials, or too few trials for a test.
    """
    if args.compare is None:
        return {}
    if min(trials.key.count(key) for key in KEYS) < MIN_TRIALS:
        raise ValueError(f"--compare needs at least {MIN_TRIALS} bona fide and {MIN_TRIALS} spoofed trials.")
    file = read_scores(Path(args.compare))
    scores = scores_of_trials(file, trials, source=source, elsewhere=elsewhere)
    return {f"{file.path.stem} (compared)": scores if args.compare_higher_is == "bonafide" else -scores}


def describe_countermeasure(countermeasure: Countermeasure) -> dict:
    """What identifies a model in results."""
    about = {**describe_model(countermeasure.folder), "model": countermeasure.name}
    return {**about, "revision": countermeasure.revision} if countermeasure.revision else about


def output_folder(
    args: EvaluationArguments, countermeasure: Countermeasure | None = None, trials: str = ""
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
        place = re.sub(r"[^a-z0-9_]+", "-", trials.lower().replace(":", "_")).strip("-")
        hub = Path("evaluation") / countermeasure.name.replace("/", "--")
        folder = (hub if countermeasure.revision else countermeasure.folder / "results") / place
    for name in ("results.json", "recordings.json"):
        if (folder / name).exists() and not args.overwrite:
            raise FileExistsError(
                f"{folder} holds results already. Replace them by --overwrite, or name another --output_dir."
            )
    return folder


def finish(args: EvaluationArguments, folder: Path, results: dict, scored: Scored) -> None:
    """Compare, write and print."""
    trials, asv = scored.trials, scored.asv
    (name, scores), *others = scored.systems.items()
    text = describe_results(results, "say --higher_is spoof" if args.score_file else REMEDY_OF_MODEL)
    for other, other_scores in others:
        differences, method = compare_scores(trials, scores, other_scores, asv=asv, bootstrap=args.bootstrap)
        of_other = evaluate_trials(trials, other_scores, asv=asv, bootstrap=args.bootstrap)
        of_other |= {"corpus": results["corpus"], "split": results["split"]}
        results["comparison"] = {
            "other": other,
            "other_results": of_other,
            "level": args.bootstrap.level,
            "method": method,
            "seed": args.bootstrap.seed,
            "differences": {key: dataclasses.asdict(value) for key, value in differences.items()},
        }
        table = describe_results(of_other, "say --compare_higher_is spoof")
        text += f"\n\n{other}, {table}\n\n{describe_comparison(differences, (name, other), method)}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").unlink(missing_ok=True)  # it is there only when all the rest is
    write_plots(folder, results, trials, scored.systems)
    write_results(folder, results, trials, scores)
    print(f"\n{text}\n\nScores, results and plots: {folder.resolve()}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
