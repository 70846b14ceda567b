"""The Markdown page of a comparison of systems: what it was made from, the table, and the paired tests."""

from collections.abc import Mapping, Sequence

from .tables import NOT_MEASURED


METRICS = {  # in the table and in the paired tests
    "eer": "EER (%)",
    "min_tdcf_2019": "min t-DCF (2019 form)",
    "min_tdcf_2021": "min t-DCF (2021 form)",
}
ROLES = {"dev": "dev", "eval": "eval", "in_the_wild": "In-the-Wild"}  # of evaluations
COLUMNS = (("dev", "eer"), *(("eval", metric) for metric in METRICS), ("in_the_wild", "eer"))
TIME_CONTAINS = {
    "train.py": "decoding and scoring, the model being loaded already (train.py)",
    "eval.py": "loading model and corpus, decoding, scoring, the metrics and their intervals (eval.py)",
}


def render_markdown(comparison: Mapping) -> str:
    """What [`~hub_cards.compare.compare_runs`] found, as a Markdown page."""
    lines = [f"# Systems trained on {_text(comparison['corpus'])}", ""]
    if comparison["demo"]:
        lines += [
            "**These systems were trained on a synthetic demo corpus without any human voice: the numbers "
            "mean nothing about real speech.**",
            "",
        ]
    for role in ("train", "dev"):
        counts = describe_classes(comparison["counts"][role])
        lines.append(f"- {role.capitalize()}: split {_text(comparison['splits'][role])}, {counts}.")
    lines += [f"- {line}" for line in _evaluated_on(comparison["systems"])]
    lines += ["", *_table_of_systems(comparison["systems"]), ""]
    lines += [_caption_of_time(comparison["systems"]), ""]
    if comparison["notes"]:
        lines += [*(f"- {_text(note)}" for note in comparison["notes"]), ""]
    lines += ["## Paired tests on eval", "", *_table_of_tests(comparison["paired_tests"])]
    return "\n".join(lines) + "\n"


def _evaluated_on(systems: Mapping[str, dict]) -> list[str]:
    """Corpus, split, counts and the method of the intervals of each evaluation."""
    lines = []
    for role, title in ROLES.items():
        described = {}
        for name, system in systems.items():
            if (numbers := system[role]) is None:
                continue
            counts = {"bonafide": numbers["num_bonafide"], "spoof": numbers["num_spoof"]}
            text = f"{numbers['corpus']} {numbers['split']}, {describe_classes(counts)}"
            if numbers["method"]:
                text += f"; in brackets {100 * numbers['level']:g} % intervals: {numbers['method']}"
            described.setdefault(text, []).append(name)
        for text, names in described.items():
            of = f" of {', '.join(names)}" if len(described) > 1 else ""
            lines.append(_text(f"Columns {title}{of}: {text}."))
    return lines


def _table_of_systems(systems: Mapping[str, dict]) -> list[str]:
    header = ["system", "parameters", "checkpoint (MB)"]
    header += [f"{ROLES[role]} {METRICS[metric]}" for role, metric in COLUMNS]
    header += ["ms per file", "trials of dev / eval / In-the-Wild (bona fide + spoof)"]
    rows = []
    for name, system in systems.items():
        parameters = system["parameters"]
        row = [name, NOT_MEASURED if parameters is None else f"{parameters:,}"]
        row.append(f"{system['bytes'] / 1e6:.2f}")
        row += [_value(system[role], metric) for role, metric in COLUMNS]
        row.append(_milliseconds(system["time"], systems))
        row.append(" / ".join(_trials(system[role]) for role in ROLES))
        rows.append(row)
    return _markdown_table(header, rows)


def _value(numbers: Mapping | None, metric: str) -> str:
    if numbers is None or numbers[metric] is None:
        return NOT_MEASURED
    interval = numbers["intervals"][metric]
    text = _number(metric, numbers[metric])
    return text + (f" [{_bounds(metric, interval)}]" if interval else " (no interval)")


def _number(metric: str, value: float) -> str:
    return f"{100 * value:.3f}" if metric == "eer" else f"{value:.4f}"


def _bounds(metric: str, interval: Sequence[float]) -> str:
    return ", ".join(_number(metric, bound) for bound in interval)


def _trials(numbers: Mapping | None) -> str:
    return NOT_MEASURED if numbers is None else f"{numbers['num_bonafide']:,} + {numbers['num_spoof']:,}"


def _times(systems: Mapping[str, dict], key: str) -> list[str]:
    """The different values of what describes the times."""
    return list(dict.fromkeys(system["time"][key] for system in systems.values() if system["time"]))


def _milliseconds(time: Mapping | None, systems: Mapping[str, dict]) -> str:
    """The number, and beside it what differs between the systems: hardware, what it contains."""
    if time is None:
        return NOT_MEASURED
    beside = [time["hardware"]] if len(_times(systems, "hardware")) > 1 else []
    if len(_times(systems, "by")) > 1:
        beside.append(f"by {time['by']}")
    text = f"{time['milliseconds_per_file']:.1f}"
    return f"{text} ({'; '.join(beside)})" if beside else text


def _caption_of_time(systems: Mapping[str, dict]) -> str:
    by, hardware = _times(systems, "by"), _times(systems, "hardware")
    if not by:
        return "Milliseconds per file were not measured."
    text = "Milliseconds per file: wall time of one evaluation on eval by the number of its trials, with "
    text += "; or ".join(TIME_CONTAINS[script] for script in by) + "."
    text += f" On {hardware[0]}." if len(hardware) == 1 else " The hardware differs and is named."
    if len(by) > 1 or len(hardware) > 1:
        text += " Such times can't be compared."
    if any(system["eval"] and not system["time"] for system in systems.values()):
        text += " Of a scoring that was interrupted, the time of the whole is not known."
    return _text(text)


def _table_of_tests(tests: Sequence[Mapping]) -> list[str]:
    header = ["difference", *METRICS.values(), "trials (bona fide + spoof)"]
    rows, methods = [], []
    for test in tests:
        row = [f"{test['first']} minus {test['second']}"]
        if "left_out" in test:
            rows.append([*row, *["not tested"] * len(METRICS), test["left_out"]])
            continue
        for metric in METRICS:
            row.append(_difference(metric, test["differences"].get(metric), test.get("tdcf_left_out")))
        rows.append([*row, f"{test['num_bonafide']:,} + {test['num_spoof']:,}"])
        methods.append(test["method"])
    lines = _markdown_table(header, rows)
    if methods:
        text = f"In brackets 95 % intervals, p two-sided: {'; '.join(dict.fromkeys(methods))}."
        if any("speakers are not known" in method for method in methods):
            text += (
                " Score files do not name speakers (a protocol given by --protocol does). Trials of one "
                "speaker are alike, so these intervals are rather too narrow, and the p-values too low."
            )
        count = sum(len(test.get("differences", ())) for test in tests)
        if count > 1:
            text += (
                f" The p-values are not corrected for the number of tests, {count}: by Bonferroni's rule one "
                f"below {0.05 / count:.2g} is significant at 5 %."
            )
        lines += ["", _text(text)]
    return lines


def _difference(metric: str, difference: Mapping | None, reason: str | None) -> str:
    if difference is None:
        return f"{NOT_MEASURED}: {reason}" if reason else NOT_MEASURED
    bounds = _bounds(metric, (difference["low"], difference["high"]))
    sign = "+" if difference["value"] > 0 else ""
    return f"{sign}{_number(metric, difference['value'])} [{bounds}], p = {difference['p_value']:.3g}"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return [f"| {' | '.join(map(_text, line))} |" for line in lines]


def _text(text: str) -> str:
    """On one line, and no part of a table's frame."""
    return " ".join(text.split()).replace("|", "\\|")


def describe_classes(counts: Mapping) -> str:
    """Counts of trials by class in words."""
    return f"{counts['bonafide']:,} bona fide, {counts['spoof']:,} spoof"
