"""Evaluate a countermeasure by the official ASVspoof metrics, a score file of any system, or one's own
recordings."""

import dataclasses
import os
import shlex
import sys
from functools import partial
from pathlib import Path

from hub_cards.recipe import list_systems
from processing.arguments import ArgumentParser, CorpusArguments
from processing.evaluation_arguments import EvaluationArguments


# What can be evaluated, and the arguments that go with some of it only.
MODES = {
    "corpus": "--model on a corpus",
    "score_file": "--score_file: the trials are those of the file, or of --protocol",
    "files": "--files: recordings have no key, so there are scores, but no error rates",
    "stream": "--stream: it scores one recording, which comes through a pipe",
}
CORPUS_ARGUMENTS = [f.name for f in dataclasses.fields(CorpusArguments)]
ONLY_WITH = {
    **dict.fromkeys(["protocol", "higher_is", "score_columns"], {"score_file"}),
    **dict.fromkeys(["calibrate_on", "calibrate_protocol", "fuse"], {"score_file"}),
    **dict.fromkeys(["files", "plot_timeline", "segment_labels", "report", "report_audio"], {"files"}),
    **dict.fromkeys(["stream", "min_seconds"], {"stream"}),
    **dict.fromkeys(["window_hop", "family_wise_rate"], {"files", "stream"}),
    **dict.fromkeys(["prior", "cost_miss", "cost_false_alarm", "cost_abstain"], {"files", "stream"}),
    **dict.fromkeys([*CORPUS_ARGUMENTS, "num_workers", "conditions"], {"corpus"}),
    **dict.fromkeys(["set_decision_threshold", "calibrate", "submission"], {"corpus"}),
    **dict.fromkeys(["split", "asv_score_file", "num_resamples"], {"corpus", "score_file"}),
    **dict.fromkeys(["calibration_prior", "allow_unreadable"], {"corpus", "score_file"}),
    "label_map": set(MODES),
    **dict.fromkeys(["compare", "compare_higher_is", "compare_columns"], {"corpus", "score_file"}),
    "batch_size": {"corpus", "files"},
    **dict.fromkeys(["revision", "trust_remote_code", "use_cpu", "seconds"], set(MODES) - {"score_file"}),
    **dict.fromkeys(["bf16", "tf32", "torch_compile"], set(MODES) - {"score_file"}),
}


def main(argv: list[str]) -> int:
    """Do what the arguments ask for; returns the exit status."""
    args, corpus_args = parse_arguments(argv)
    # What takes seconds to import comes after the arguments, and torch only where a model runs.
    try:
        if args.mode != "score_file":
            import modeling  # noqa: F401  registers the architectures
            from hub_cards.case_report import write_reports
            from processing.model_evaluation import run_model

            options = {"command": shlex.join(["python", "eval.py", *argv]), "has_audio": args.report_audio}
            return run_model(args, corpus_args, partial(write_reports, **options))
        from processing.evaluation import evaluate_score_file

        if os.environ.get("RANK", "0") == "0":  # under accelerate launch, too, one process is enough
            evaluate_score_file(args, corpus_args.label_map, allow_unreadable=corpus_args.allow_unreadable)
    except (ImportError, OSError, ValueError) as error:
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
    args.report |= args.report_audio
    if args.num_resamples < 0 or (args.compare is not None and not args.num_resamples):
        parser.error(f"--num_resamples {args.num_resamples}: it must not be negative, nor 0 with --compare")
    for name in ("calibration_prior", "family_wise_rate"):
        if not 0 < (value := getattr(args, name)) < 1:
            parser.error(f"--{name} {value}: it must be above 0 and below 1")
    development, others = args.calibrate_on or (), args.fuse or ()
    if (development or others) and len(development) != 1 + len(others):
        parser.error(
            "--calibrate_on takes a score file of a development set, and one more for each of --fuse"
        )
    for name in ("set_decision_threshold", "calibrate"):
        if given.get(name) and (args.split or "eval").split("[")[0] in ("eval", "test"):
            parser.error(
                f"--{name} needs --split with a development set: what is chosen on eval makes the results on "
                "eval too good"
            )
    if args.model in list_systems() and not Path(args.model).is_dir():
        parser.error(
            f"--model {args.model} is the recipe of a system. Train it first, by train.py --model "
            f"{args.model}, or convert published weights, and give the folder that is written"
        )
    return args, corpus_args


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
