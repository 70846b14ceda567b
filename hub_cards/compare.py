"""A comparison of systems trained on the same corpus: one Markdown table of their sizes, error rates and
speed, and the paired tests between them. `python -m hub_cards.compare --help`."""

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from processing.files import write_text

from .comparison_table import METRICS, ROLES, describe_classes, render_markdown
from .run_folder import Evaluation, RunFolder, read_runs
from .tables import IN_THE_WILD


def compare_runs(runs: Mapping[str, RunFolder], protocol: Path | None = None) -> dict:
    """
    Everything that the table shows, as fractions; what was not measured is `None`.

    Args:
        runs: trained on the same corpus, by the names that the table gives them.
        protocol: of the eval trials, which names their speakers; score files do not.

    Raises:
        FileNotFoundError: a run without `training.json`; no such protocol.
        ValueError: fewer than two runs, or runs trained on different corpora, splits or counts; a
            protocol that does not parse.
    """
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} run: a comparison is of two or more.")
    trained_on = _trained_on(runs)
    evaluations = {name: _evaluations(run) for name, run in runs.items()}
    systems = {
        name: {
            "parameters": run.num_parameters,
            "bytes": run.num_bytes,
            **{role: _numbers(found) for role, found in evaluations[name].items()},
            "time": _time(run, evaluations[name]["eval"]),
        }
        for name, run in runs.items()
    }
    evals = {name: of_run["eval"] for name, of_run in evaluations.items()}
    speakers = None if protocol is None else _speakers(protocol)
    tests = [_test(evals, pair, speakers) for pair in itertools.combinations(runs, 2)]
    notes = [*_notes(systems), *_notes_on_trials(evaluations)]
    demo = any(run.is_demo for run in runs.values())
    return {**trained_on, "demo": demo, "systems": systems, "paired_tests": tests, "notes": notes}


def _trained_on(runs: Mapping[str, RunFolder]) -> dict:
    """The corpus, splits and counts of training, the same for all."""
    found = {}
    for name, run in runs.items():
        path = run.folder / "training.json"
        if run.training is None:
            raise FileNotFoundError(
                f"There is no {path}, so what {name} was trained on is not known: only models that train.py "
                "trained are compared."
            )
        try:
            found[name] = {
                "corpus": run.training["corpus"],
                "splits": {role: run.training["splits"][role] for role in ("train", "dev")},
                "counts": {role: run.training["counts"][role] for role in ("train", "dev")},
            }
        except KeyError as error:
            raise ValueError(
                f"{path} has no {error}: an older train.py wrote it, and what {name} was trained on is not "
                "known. Train anew."
            ) from None
    (first, expected), *others = found.items()
    for name, trained_on in others:
        if trained_on != expected:
            raise ValueError(
                f"{first} was trained on {_describe(expected)}, {name} on {_describe(trained_on)}: only "
                "systems trained on the same trials are compared."
            )
    return expected


def _describe(trained_on: Mapping) -> str:
    counts = (
        f"{trained_on['splits'][role]} ({describe_classes(trained_on['counts'][role])})"
        for role in ("train", "dev")
    )
    return f"{trained_on['corpus']}: {', '.join(counts)}"


def _evaluations(run: RunFolder) -> dict[str, Evaluation | None]:
    """The evaluations of the columns, on the corpus of training and on In-the-Wild."""
    corpus, splits = run.training["corpus"], run.training["splits"]
    return {
        "dev": run.evaluation(corpus, splits["dev"]),
        "eval": run.evaluation(corpus, splits.get("eval", "eval")),
        "in_the_wild": run.evaluation(IN_THE_WILD, "eval"),
    }


def _numbers(evaluation: Evaluation | None) -> dict | None:
    if evaluation is None:
        return None
    results = evaluation.results
    intervals = results.get("confidence_intervals", {})
    return {
        "corpus": results["corpus"],
        "split": results["split"],
        "num_bonafide": results["num_bonafide"],
        "num_spoof": results["num_spoof"],
        **{metric: results.get(metric) for metric in METRICS},
        "tdcf_left_out": results.get("tdcf_left_out"),
        "intervals": {metric: intervals.get(metric) for metric in METRICS},
        "level": intervals.get("level"),
        "method": intervals.get("method"),
    }


def _time(run: RunFolder, evaluation: Evaluation | None) -> dict | None:
    """Milliseconds per file of the eval trials, by which script they were measured, and on what hardware."""
    results = {} if evaluation is None else evaluation.results
    if not results.get("seconds") or results.get("num_scored_before"):
        return None
    hardware = results.get("hardware", {})
    parts = [f"{hardware.get('num_gpus', 1)} x {hardware['gpu']}"] if "gpu" in hardware else []
    threads = hardware.get("threads", "?")
    parts += [hardware.get("cpu") or "unknown CPU", f"{threads} thread{'' if threads == 1 else 's'}"]
    by_eval = "num_scored_before" in results
    processes = (results if by_eval else run.training).get("num_processes", 1)
    return {
        "milliseconds_per_file": 1000 * results["seconds"] / results["num_trials"],
        "by": "eval.py" if by_eval else "train.py",
        "hardware": ", ".join([*parts, *([f"{processes} processes"] if processes > 1 else [])]),
    }


def _speakers(protocol: Path) -> dict[str, str]:
    """Speaker by utterance."""
    from processing.corpora import read_protocol

    splits = read_protocol(protocol).splits.values()
    return {
        utterance: speaker
        for columns in splits
        for utterance, speaker in zip(columns.utterance_id, columns.speaker_id, strict=True)
    }


def _test(
    evaluations: Mapping[str, Evaluation | None], pair: tuple[str, str], speakers: Mapping[str, str] | None
) -> dict:
    """The paired test of two systems on their eval trials, or the reason why there is none."""
    first, second = pair
    test = {"first": first, "second": second}
    without = [name for name in (first, second) if evaluations[name] is None]
    if without:
        return {**test, "left_out": f"{' and '.join(without)} was not evaluated on eval"}
    try:
        return {**test, **_differences(evaluations[first], evaluations[second], speakers)}
    except (ValueError, FileNotFoundError) as error:
        return {**test, "left_out": str(error).rstrip(".")}


def _differences(first: Evaluation, second: Evaluation, speakers: Mapping[str, str] | None) -> dict:
    """
    Raises:
        FileNotFoundError, ValueError: score files that are missing, damaged or not of the same trials, or too
            few trials; paths in the message begin in the runs' folders.
    """
    from metrics.costs import AsvErrorRates
    from metrics.statistics import MIN_TRIALS
    from processing.results import compare_scores
    from processing.scores import scores_of_trials, trials_of_scores

    counts = [first.results[f"num_{key}"] for key in ("bonafide", "spoof")]
    if min(counts) < MIN_TRIALS:
        raise ValueError(
            f"{counts[0]} bona fide and {counts[1]} spoofed trials are too few: at least {MIN_TRIALS} of "
            "each are needed"
        )
    one, other = _scores(first), _scores(second)
    trials = trials_of_scores(one)
    try:
        of_other = scores_of_trials(other, trials, source=str(one.path))
    except ValueError:
        raise ValueError(f"{one.path} and {other.path} are not of the same trials") from None
    if speakers is not None:
        trials.speaker_id = [_speaker(speakers, utterance) for utterance in trials.utterance_id]
    rates = [evaluation.results.get("asv") for evaluation in (first, second)]
    same = rates[0] is not None and rates[0] == rates[1]
    asv = AsvErrorRates(**rates[0]) if same else None
    differences, method = compare_scores(trials, one.score, of_other, asv=asv)
    result = {
        "num_bonafide": trials.key.count("bonafide"),
        "num_spoof": trials.key.count("spoof"),
        "method": method,
        "differences": {
            metric: dataclasses.asdict(differences[metric]) for metric in METRICS if metric in differences
        },
    }
    if None not in rates and not same:
        result["tdcf_left_out"] = "the ASV error rates of the two evaluations differ"
    return result


def _speaker(speakers: Mapping[str, str], utterance: str) -> str:
    if utterance not in speakers:
        raise ValueError(f"the protocol does not list {utterance}")
    return speakers[utterance]


def _scores(evaluation: Evaluation):
    """The score file of an evaluation, named from the run's folder on: the table may be published."""
    from processing.scores import read_scores

    folder = evaluation.folder.resolve()
    name = Path(folder.parts[-3], *folder.parts[-2:], "scores.txt")
    try:
        file = read_scores(folder / name.name)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {name}") from None
    except ValueError as error:
        raise ValueError(str(error).replace(str(folder / name.name), str(name))) from None
    if len(file.score) != evaluation.results["num_trials"]:
        raise ValueError(
            f"{name} holds {len(file.score):,} scores, its results.json {evaluation.results['num_trials']:,}"
        )
    return dataclasses.replace(file, path=name)


def _notes(systems: Mapping[str, dict]) -> list[str]:
    """What must be known of single numbers."""
    from metrics.statistics import MIN_TRIALS

    by_reason: dict[str, list[str]] = {}
    for name, system in systems.items():
        for role, title in ROLES.items():
            if (numbers := system[role]) is None:
                continue
            where = f"{name} on {title}"
            if numbers["method"] is None:
                few = min(numbers["num_bonafide"], numbers["num_spoof"]) < MIN_TRIALS
                reason = f"fewer than {MIN_TRIALS} trials of a class" if few else "none was computed"
                by_reason.setdefault(f"No interval: {reason}", []).append(where)
            elif numbers["eer"] == 0:
                reason = "No trial is an error, which does not mean that errors are impossible"
                by_reason.setdefault(reason, []).append(where)
            if role == "eval" and numbers["min_tdcf_2019"] is None:
                reason = numbers["tdcf_left_out"] or "the results were written without it"
                by_reason.setdefault(f"No min t-DCF: {reason}", []).append(where)
    return [f"{reason} ({'; '.join(places)})." for reason, places in by_reason.items()]


def _notes_on_trials(evaluations: Mapping[str, Mapping[str, Evaluation | None]]) -> list[str]:
    """Where the numbers of a column are of different trials, or of different ASV systems."""
    notes = []
    for role, title in ROLES.items():
        found = [of_run[role] for of_run in evaluations.values() if of_run[role] is not None]
        counts = {tuple(one.results[f"num_{key}"] for key in ("bonafide", "spoof")) for one in found}
        utterances = {listed for one in found if (listed := _utterances(one)) is not None}
        if len(counts) > 1 or len(utterances) > 1:
            notes.append(f"The {title} numbers are of different trials: they can't be compared.")
        if role == "eval" and len({str(one.results["asv"]) for one in found if one.results.get("asv")}) > 1:
            notes.append("The eval min t-DCF are with different ASV error rates: they can't be compared.")
    return notes


def _utterances(evaluation: Evaluation) -> frozenset[str] | None:
    """Of the score file; `None` where there is none that fits the results."""
    try:
        return frozenset(_scores(evaluation).utterance_id)
    except (ValueError, FileNotFoundError):
        return None


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
            write_text(args.json.expanduser(), json.dumps(comparison, indent=2) + "\n")
        if args.output:
            write_text(args.output.expanduser(), text)
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: error: {error}")
    if not args.output:
        print(text, end="")


if __name__ == "__main__":
    main(sys.argv[1:])
