"""A comparison of systems trained on the same corpus: one Markdown table of their sizes, error rates and
speed, and the paired tests between them. `python -m hub_cards.compare --help`."""

import argparse
import itertools
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from metrics.costs import AsvErrorRates
from metrics.statistics import MIN_TRIALS
from processing.files import write_json, write_text
from processing.report import describe_counts

from .run_folder import Evaluation, RunFolder
from .several_runs import find_common_trials, read_runs
from .tables import IN_THE_WILD, MAIN_METRICS
from .templates import render_template


ROLES = {"dev": "dev", "eval": "eval", "in_the_wild": "In-the-Wild"}  # of evaluations, with their titles
COLUMNS = (("dev", "eer"), *(("eval", metric) for metric in MAIN_METRICS), ("in_the_wild", "eer"))
# What is taken from results.json, with `None` for what it has not.
TAKEN = ("corpus", "split", "num_bonafide", "num_spoof", *MAIN_METRICS)
TAKEN += ("confidence_intervals", "tdcf_left_out", "per_corpus")


def compare_runs(runs: Mapping[str, RunFolder], protocol: Path | None = None) -> dict:
    """
    Everything that the page shows of runs that were trained on the same trials, by the names that it gives
    them: error rates as fractions, and `None` for what was not measured. A `protocol` of the eval trials
    names their speakers, which score files do not. ValueError: fewer than two runs; see also
    [`find_common_trials`].
    """
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} run: a comparison is of two or more.")
    common = find_common_trials(runs, ["train", "dev"])
    systems, evaluated = {}, {}
    for name, run in runs.items():
        found = {role: run.evaluation(*run.trials_of(role)) for role in ("dev", "eval")}
        found["in_the_wild"] = run.evaluation(IN_THE_WILD, "eval")
        evaluated[name] = found["eval"]
        systems[name] = {
            "parameters": run.num_parameters,
            "bytes": run.num_bytes,
            **{role: of and {key: of.results.get(key) for key in TAKEN} for role, of in found.items()},
            "time": _measure_time(run, found["eval"]),
        }
    speakers = None if protocol is None else _read_speakers(protocol)
    tests = []
    for first, second in itertools.combinations(runs, 2):
        test = {"first": first, "second": second}
        try:
            test |= _test_pair({name: evaluated[name] for name in (first, second)}, speakers)
        except ValueError as error:
            test["left_out"] = str(error).rstrip(".")
        tests.append(test)
    is_demo = any(run.is_demo for run in runs.values())
    return {**common, "demo": is_demo, "systems": systems, "paired_tests": tests}


def _measure_time(run: RunFolder, evaluation: Evaluation | None) -> dict | None:
    """Milliseconds per file of the eval trials, by which script they were measured, and on what hardware."""
    results = {} if evaluation is None else evaluation.results
    if not results.get("seconds") or results.get("num_scored_before"):  # of a part only
        return None
    by_eval = "num_scored_before" in results
    hardware = results.get("hardware", {})
    processes = (results if by_eval else run.training).get("num_processes", 1)
    parts = [f"{hardware.get('num_gpus', 1)} x {hardware['gpu']}"] if "gpu" in hardware else []
    parts += [hardware.get("cpu") or "unknown CPU", f"threads: {hardware.get('threads', '?')}"]
    parts += [f"processes: {processes}"] if processes > 1 else []
    return {
        "milliseconds_per_file": 1000 * results["seconds"] / results["num_trials"],
        "by": "eval.py" if by_eval else "train.py",
        "hardware": ", ".join(parts),
    }


def _read_speakers(protocol: Path) -> dict[str, str]:
    """Speaker by utterance."""
    from processing.layouts import read_protocol  # loads datasets

    speakers = {}
    for trials in read_protocol(protocol).splits.values():
        speakers |= zip(trials["utterance_id"], trials["speaker_id"], strict=True)
    return speakers


def _test_pair(evaluations: Mapping[str, Evaluation | None], speakers: Mapping[str, str] | None) -> dict:
    """The paired test of two systems. ValueError: no evaluation or usable scores of one of them, different
    trials, or too few."""
    from processing.results import compare_scores  # loads torch
    from processing.scores import list_scored_trials, match_scores

    scores = []
    for name, evaluation in evaluations.items():
        if evaluation is None:
            raise ValueError(f"{name} was not evaluated on eval")
        try:
            scores.append(evaluation.scores)
        except (FileNotFoundError, ValueError):  # whose words have a path of this machine
            raise ValueError(f"{name} has no scores.txt of its results: evaluate it again") from None
    first, second = evaluations
    trials = list_scored_trials(scores[0], file=first)
    of_second = match_scores(scores[1], trials, file=second, source=first)
    if speakers is not None:
        if unknown := set(trials["utterance_id"]) - speakers.keys():
            raise ValueError(f"the protocol does not list {min(unknown)}")
        trials["speaker_id"] = trials["utterance_id"].map(speakers)
    rates = [evaluation.results.get("asv") for evaluation in evaluations.values()]
    asv = AsvErrorRates(**rates[0]) if rates[0] and rates[0] == rates[1] else None
    comparison = compare_scores(trials, scores[0]["score"], of_second, asv=asv)
    differences = comparison["differences"]
    test = {
        **{name: evaluations[first].results[name] for name in ("num_bonafide", "num_spoof")},
        "method": comparison["method"],
        "differences": {name: differences[name] for name in MAIN_METRICS if name in differences},
    }
    if all(rates) and asv is None:
        test["tdcf_left_out"] = "the ASV error rates of the two evaluations differ"
    return test


def render_markdown(comparison: Mapping) -> str:
    """What [`compare_runs`] found, as a Markdown page."""
    systems, tests = comparison["systems"], comparison["paired_tests"]
    page = render_template(
        "comparison_template.md",
        where="The comparison",
        remedy="compare the runs again",
        **comparison,
        evaluations={title: _describe_evaluations(systems, role) for role, title in ROLES.items()},
        roles=ROLES,
        columns=COLUMNS,
        notes=_note_numbers(systems),
        methods=list(dict.fromkeys(test["method"] for test in tests if "method" in test)),
        num_tests=sum(len(test.get("differences", ())) for test in tests),
    )
    return page + "\n"


def _describe_evaluations(systems: Mapping[str, dict], role: str) -> dict[str, list[str]]:
    """Corpus, split, counts and the method of the intervals of evaluations, with the systems of each."""
    described = defaultdict(list)
    for name, system in systems.items():
        if numbers := system[role]:
            counts = describe_counts(numbers["num_bonafide"], numbers["num_spoof"])
            text = f"{numbers['corpus']} {numbers['split']}, {counts}"
            if intervals := numbers["confidence_intervals"]:
                text += f"; in brackets {100 * intervals['level']:g} % intervals: {intervals['method']}"
            described[text].append(name)
    return described


def _note_numbers(systems: Mapping[str, dict]) -> dict[str, list[str]]:
    """What must be known of single numbers: each reason once, with the systems."""
    places = defaultdict(list)
    for (name, system), (role, title) in itertools.product(systems.items(), ROLES.items()):
        if (numbers := system[role]) is None:
            continue
        if not numbers["confidence_intervals"]:
            few = min(numbers["num_bonafide"], numbers["num_spoof"]) < MIN_TRIALS
            why = f"fewer than {MIN_TRIALS} trials of a class" if few else "none was computed"
            places[f"No interval: {why}"].append(f"{name} on {title}")
        elif numbers["eer"] == 0:
            reason = "No trial is an error, which does not mean that errors are impossible"
            places[reason].append(f"{name} on {title}")
        if role == "eval" and numbers["tdcf_left_out"]:
            places[f"No min t-DCF: {numbers['tdcf_left_out']}"].append(f"{name} on {title}")
    return places


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m hub_cards.compare", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="Folder of a trained model.")
    parser.add_argument("--output", type=Path, help="Markdown file; without it, the table is printed.")
    parser.add_argument("--json", type=Path, help="JSON file of the same numbers, as fractions.")
    parser.add_argument(
        "--protocol",
        type=Path,
        help="Protocol of the eval trials. It names their speakers, so that the paired tests draw speakers.",
    )
    args = parser.parse_args(argv)
    try:
        comparison = compare_runs(read_runs(args.runs), args.protocol and args.protocol.expanduser())
        text = render_markdown(comparison)
        if args.json:
            write_json(args.json.expanduser(), comparison)
        if args.output:
            write_text(args.output.expanduser(), text)
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: error: {error}")
    if not args.output:
        print(text, end="")


if __name__ == "__main__":
    main(sys.argv[1:])
