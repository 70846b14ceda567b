"""A comparison of systems trained on the same corpus: one Markdown table of their sizes, error rates and
speed, and the paired tests between them. `python -m hub_cards.compare --help`."""

import argparse
import itertools
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from metrics.costs import AsvErrorRates
from metrics.names import METRICS, format_bounds, format_number
from metrics.statistics import MIN_TRIALS
from processing.files import write_json, write_text
from processing.report import describe_counts

from .run_folder import Evaluation, RunFolder
from .several_runs import find_common_trials, read_runs
from .tables import IN_THE_WILD, MAIN_METRICS, NOT_MEASURED, make_table
from .templates import render_template


ROLES = {"dev": "dev", "eval": "eval", "in_the_wild": "In-the-Wild"}  # of evaluations, with their titles
COLUMNS = (("dev", "eer"), *(("eval", metric) for metric in MAIN_METRICS), ("in_the_wild", "eer"))
TITLES = {name: METRICS[name].title + (" (%)" if METRICS[name].is_rate else "") for name in MAIN_METRICS}


def compare_runs(runs: Mapping[str, RunFolder], protocol: Path | None = None) -> dict:
    """
    Everything that the table shows of runs that were trained on the same trials, by the names that it gives
    them: error rates as fractions, and `None` for what was not measured. A `protocol` of the eval trials
    names their speakers, which score files do not. ValueError: fewer than two runs; see also
    [`find_common_trials`].
    """
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} run: a comparison is of two or more.")
    common = find_common_trials(runs, ["train", "dev"])
    evaluations = {role: _find_evaluations(runs, role) for role in ROLES}
    systems = {
        name: {
            "parameters": run.num_parameters,
            "bytes": run.num_bytes,
            **{role: _list_numbers(found.get(name)) for role, found in evaluations.items()},
            "time": _measure_time(run, evaluations["eval"].get(name)),
        }
        for name, run in runs.items()
    }
    speakers = None if protocol is None else _read_speakers(protocol)
    tests = []
    for first, second in itertools.combinations(runs, 2):
        test = {"first": first, "second": second}
        try:
            test |= _test_pair(first, second, evaluations["eval"], speakers)
        except ValueError as error:
            test["left_out"] = str(error).rstrip(".")
        tests.append(test)
    return {
        **common,
        "demo": any(run.is_demo for run in runs.values()),
        "systems": systems,
        "paired_tests": tests,
        "notes": [*_note_numbers(systems), *_note_different_trials(evaluations)],
    }


def _find_evaluations(runs: Mapping[str, RunFolder], role: str) -> dict[str, Evaluation]:
    """The evaluations on one split of the corpus of training, or on In-the-Wild, of those that have one."""
    found = {}
    for name, run in runs.items():
        trials = (IN_THE_WILD, "eval") if role == "in_the_wild" else run.trials_of(role)
        if evaluation := run.evaluation(*trials):
            found[name] = evaluation
    return found


def _list_numbers(evaluation: Evaluation | None) -> dict | None:
    if evaluation is None:
        return None
    results = evaluation.results
    intervals = results.get("confidence_intervals", {})
    return {
        **{name: results[name] for name in ("corpus", "split", "num_bonafide", "num_spoof")},
        **{metric: results.get(metric) for metric in MAIN_METRICS},
        "tdcf_left_out": results.get("tdcf_left_out"),
        **({"per_corpus": results["per_corpus"]} if "per_corpus" in results else {}),
        "intervals": {metric: intervals.get(metric) for metric in MAIN_METRICS},
        "level": intervals.get("level"),
        "method": intervals.get("method"),
    }


def _measure_time(run: RunFolder, evaluation: Evaluation | None) -> dict | None:
    """Milliseconds per file of the eval trials, by which script they were measured, and on what hardware."""
    results = {} if evaluation is None else evaluation.results
    if not results.get("seconds") or results.get("num_scored_before"):
        return None
    by_eval = "num_scored_before" in results
    hardware = results.get("hardware", {})
    threads = hardware.get("threads", "?")
    processes = (results if by_eval else run.training).get("num_processes", 1)
    parts = [f"{hardware.get('num_gpus', 1)} x {hardware['gpu']}"] if "gpu" in hardware else []
    parts += [hardware.get("cpu") or "unknown CPU", f"{threads} thread{'' if threads == 1 else 's'}"]
    parts += [f"{processes} processes"] if processes > 1 else []
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


def _test_pair(
    first: str, second: str, evaluations: Mapping[str, Evaluation], speakers: Mapping[str, str] | None
) -> dict:
    """The paired test of two systems. ValueError: no evaluation or usable scores of one of them, different
    trials, or too few."""
    from processing.results import compare_scores  # loads torch
    from processing.scores import list_scored_trials, match_scores

    if missing := [name for name in (first, second) if name not in evaluations]:
        raise ValueError(f"{' and '.join(missing)} was not evaluated on eval")
    pair = [evaluations[name] for name in (first, second)]
    try:
        scores = [evaluation.scores for evaluation in pair]
    except (FileNotFoundError, ValueError) as error:  # the page may be published: no path of this machine
        places = [f"{evaluation.folder.parents[2]}/" for evaluation in pair]
        raise ValueError(str(error).replace(places[0], "").replace(places[1], "")) from None
    trials = list_scored_trials(scores[0], file=first)
    of_second = match_scores(scores[1], trials, file=second, source=first)
    if speakers is not None:
        if unknown := set(trials["utterance_id"]) - speakers.keys():
            raise ValueError(f"the protocol does not list {min(unknown)}")
        trials["speaker_id"] = trials["utterance_id"].map(speakers)
    rates = [evaluation.results.get("asv") for evaluation in pair]
    asv = AsvErrorRates(**rates[0]) if rates[0] and rates[0] == rates[1] else None
    comparison = compare_scores(trials, scores[0]["score"], of_second, asv=asv)
    differences = comparison["differences"]
    test = {
        **{name: pair[0].results[name] for name in ("num_bonafide", "num_spoof")},
        "method": comparison["method"],
        "differences": {name: differences[name] for name in MAIN_METRICS if name in differences},
    }
    if all(rates) and asv is None:
        test["tdcf_left_out"] = "the ASV error rates of the two evaluations differ"
    return test


def _note_numbers(systems: Mapping[str, dict]) -> list[str]:
    """What must be known of single numbers: each reason once, with the systems."""
    places = defaultdict(list)
    for name, system in systems.items():
        for role, title in ROLES.items():
            if (numbers := system[role]) is None:
                continue
            reasons = []
            if numbers["method"] is None:
                few = min(numbers["num_bonafide"], numbers["num_spoof"]) < MIN_TRIALS
                why = f"fewer than {MIN_TRIALS} trials of a class" if few else "none was computed"
                reasons.append(f"No interval: {why}")
            elif numbers["eer"] == 0:
                reasons.append("No trial is an error, which does not mean that errors are impossible")
            if role == "eval" and numbers["min_tdcf_2019"] is None:
                why = numbers["tdcf_left_out"] or "the results were written without it"
                reasons.append(f"No min t-DCF: {why}")
            for reason in reasons:
                places[reason].append(f"{name} on {title}")
    return [f"{reason} ({'; '.join(names)})." for reason, names in places.items()]


def _note_different_trials(evaluations: Mapping[str, Mapping[str, Evaluation]]) -> list[str]:
    """Where the numbers of a column are of different trials, or of different ASV systems."""
    notes = []
    for role, found in evaluations.items():
        counts, utterances, asv_rates = set(), set(), set()
        for evaluation in found.values():
            results = evaluation.results
            counts.add((results["num_bonafide"], results["num_spoof"]))
            asv_rates |= {str(results["asv"])} if results.get("asv") else set()
            with suppress(FileNotFoundError, ValueError):  # the paired test says so
                utterances.add(frozenset(evaluation.scores["utterance_id"]))
        if len(counts) > 1 or len(utterances) > 1:
            notes.append(f"The {ROLES[role]} numbers are of different trials: they cannot be compared.")
        if role == "eval" and len(asv_rates) > 1:
            notes.append("The eval min t-DCF are with different ASV error rates: they cannot be compared.")
    return notes


def render_markdown(comparison: Mapping) -> str:
    """What [`compare_runs`] found, as a Markdown page."""
    systems, tests = comparison["systems"], comparison["paired_tests"]
    times = [system["time"] for system in systems.values() if system["time"]]
    page = render_template(
        "comparison_template.md",
        where="The comparison",
        remedy="compare the runs again",
        **comparison,
        evaluations={title: _describe_evaluations(systems, role) for role, title in ROLES.items()},
        systems_table=_make_systems_table(systems, times),
        corpora_table=_make_corpora_table(systems),
        scripts=_find_values(times, "by"),
        hardware=_find_values(times, "hardware"),
        interrupted=any(system["eval"] and not system["time"] for system in systems.values()),
        tests_table=_make_tests_table(tests),
        methods=_find_values([test for test in tests if "method" in test], "method"),
        num_tests=sum(len(test.get("differences", ())) for test in tests),
    )
    return page + "\n"


def _find_values(records: Iterable[Mapping], key: str) -> list:
    """The different values of a key."""
    return list(dict.fromkeys(record[key] for record in records))


def _describe_evaluations(systems: Mapping[str, dict], role: str) -> dict[str, list[str]]:
    """Corpus, split, counts and the method of the intervals of evaluations, with the systems of each."""
    described = defaultdict(list)
    for name, system in systems.items():
        if numbers := system[role]:
            counts = describe_counts(numbers["num_bonafide"], numbers["num_spoof"])
            text = f"{numbers['corpus']} {numbers['split']}, {counts}"
            if numbers["method"]:
                text += f"; in brackets {100 * numbers['level']:g} % intervals: {numbers['method']}"
            described[text].append(name)
    return described


def _make_systems_table(systems: Mapping[str, dict], times: Sequence[Mapping]) -> str:
    header = ["system", "parameters", "checkpoint (MB)"]
    header += [f"{ROLES[role]} {TITLES[metric]}" for role, metric in COLUMNS]
    header += ["ms per file", f"trials of {' / '.join(ROLES.values())} (bona fide + spoof)"]
    differing = [key for key in ("hardware", "by") if len(_find_values(times, key)) > 1]
    rows = []
    for name, system in systems.items():
        parameters = NOT_MEASURED if system["parameters"] is None else f"{system['parameters']:,}"
        values = [_format_value(system[role], metric) for role, metric in COLUMNS]
        trials = " / ".join(_format_trials(system[role]) for role in ROLES)
        time = _format_time(system["time"], differing)
        rows.append([name, parameters, f"{system['bytes'] / 1e6:.2f}", *values, time, trials])
    return make_table(header, rows, align_right=True)


def _make_corpora_table(systems: Mapping[str, dict]) -> str | None:
    """The EER of each system on each corpus of a pool; `None` where no evaluation is of a pool."""
    rows = []
    for name, system in systems.items():
        for role, title in ROLES.items():
            for corpus, group in (system[role] or {}).get("per_corpus", {}).items():
                numbers = {**group, "intervals": {"eer": group.get("eer_interval")}}
                rows.append([name, title, corpus, _format_value(numbers, "eer"), _format_trials(group)])
    header = ["system", "split", "corpus", TITLES["eer"], "trials (bona fide + spoof)"]
    return make_table(header, rows) if rows else None


def _make_tests_table(tests: Sequence[Mapping]) -> str:
    rows = []
    for test in tests:
        if "left_out" in test:
            cells = [*["not tested"] * len(MAIN_METRICS), test["left_out"]]
        else:
            cells = [*(_format_difference(test, metric) for metric in MAIN_METRICS), _format_trials(test)]
        rows.append([f"{test['first']} minus {test['second']}", *cells])
    return make_table(["difference", *TITLES.values(), "trials (bona fide + spoof)"], rows, align_right=True)


def _format_value(numbers: Mapping | None, metric: str) -> str:
    if numbers is None or numbers[metric] is None:
        return NOT_MEASURED
    interval = numbers["intervals"][metric]
    bounds = format_bounds(metric, interval) if interval else "(no interval)"
    return f"{format_number(metric, numbers[metric])} {bounds}"


def _format_time(time: Mapping | None, differing: Sequence[str]) -> str:
    """Milliseconds per file, and beside them what differs between the systems."""
    if time is None:
        return NOT_MEASURED
    beside = [f"by {time[key]}" if key == "by" else time[key] for key in differing]
    return f"{time['milliseconds_per_file']:.1f}" + (f" ({'; '.join(beside)})" if beside else "")


def _format_difference(test: Mapping, metric: str) -> str:
    if metric not in test["differences"]:
        return f"{NOT_MEASURED}: {test['tdcf_left_out']}" if "tdcf_left_out" in test else NOT_MEASURED
    difference = test["differences"][metric]
    number = ("+" if difference["value"] > 0 else "") + format_number(metric, difference["value"])
    bounds = format_bounds(metric, (difference["low"], difference["high"]))
    return f"{number} {bounds}, p = {difference['p_value']:.3g}"


def _format_trials(numbers: Mapping | None) -> str:
    return f"{numbers['num_bonafide']:,} + {numbers['num_spoof']:,}" if numbers else NOT_MEASURED


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
