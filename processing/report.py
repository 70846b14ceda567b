"""Results in words and tables, as train.py and eval.py print them: no number without what it is of."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from metrics.costs import FORMS
from metrics.det import equal_error_rate
from metrics.statistics import Difference

from .base_model import RANDOM
from .files import write_figure
from .pretrained import Countermeasure
from .problems import REMEDY_OF_MODEL, describe_problems
from .recordings import Recording, printable
from .trials import Corpus, ProtocolColumns


NAMES = {
    "eer": "EER",
    **{f"min_tdcf_{form}": f"min t-DCF ({form} form)" for form in FORMS},
    "min_dcf": "minDCF (ASVspoof 5)",
    "act_dcf": "actDCF (ASVspoof 5)",
    "cllr": "Cllr (bits)",
}


def describe_split(corpus: Corpus, spec: str, counts: dict[str, int]) -> str:
    """Corpus, split and counts in words."""
    missing = corpus.missing.get(spec, 0)
    classes = f"{counts['bonafide']:,} bona fide, {counts['spoof']:,} spoof"
    text = f"{corpus.name} {spec}, {sum(counts.values()):,} trials ({classes}"
    return text + (f", {missing:,} missing)" if missing else ")")


def describe_trials(results: Mapping) -> str:
    """Corpus, split and counts of results in words."""
    text = (
        f"{results['corpus']} {results['split']}: {results['num_bonafide']:,} bona fide, "
        f"{results['num_spoof']:,} spoof"
    )
    return text + (f", {results['num_missing']:,} missing" if results.get("num_missing") else "")


def describe_parameters(model: PreTrainedModel, base_model: dict | None) -> str:
    """
    How large a model is, how much of it is trained, and what [`~processing.base_model.load_base_model`] says
    of its base model, where it has one.
    """
    trained, total = model.num_parameters(only_trainable=True), model.num_parameters()
    frozen = "" if trained == total else f", {trained:,} of them trained"
    text = f"Model: {model.config.model_type}, {total:,} parameters{frozen}"
    if base_model is None:
        return text
    if base_model["name"] == RANDOM:
        return f"{text}\nEncoder: random weights, not pretrained ones"
    rest = f"; not used of it: {', '.join(base_model['unused'])}" if base_model["unused"] else ""
    return f"{text}\nEncoder: all {base_model['num_tensors']} tensors from {base_model['name']}{rest}"


def describe_results(results: Mapping, remedy: str = REMEDY_OF_MODEL) -> str:
    """
    The table of one split's results, and what must be known of them.

    Args:
        results: see [`~processing.results.evaluate_trials`].
        remedy: what to do where the sign of the scores looks inverted.
    """
    intervals = results.get("confidence_intervals", {})
    lines = [describe_trials(results)]
    for name, title in NAMES.items():
        if results[name] is not None:
            interval = f"  [{_bounds(name, intervals[name])}]" if name in intervals else ""
            lines.append(f"  {title:24}{_value(name, results[name]):>10}{interval}".rstrip())
    if intervals:
        lines.append(f"  [{100 * intervals['level']:g} % intervals: {intervals['method']}]")
    for key, groups in results.items():
        if key.startswith("per_") and (len(groups) > 1 or key != "per_attack"):
            lines += ["", *_group_table(key.removeprefix("per_"), groups)]
    notes = describe_problems(results, remedy)
    return "\n".join([*lines, *([""] if notes else []), *notes])


def describe_comparison(differences: Mapping[str, Difference], names: tuple[str, str], method: str) -> str:
    """The table of a paired test of two systems, and how it was made."""
    lines = [f"{names[0]} minus {names[1]}, paired on the same trials"]
    for name, difference in differences.items():
        bounds = _bounds(name, (difference.low, difference.high))
        value = f"{'+' if difference.value > 0 else ''}{_value(name, difference.value)}"
        lines.append(f"  {NAMES[name]:24}{value:>10}  [{bounds}]  p = {difference.p_value:.3g}")
    lines.append(f"  [95 % intervals and two-sided p: {method}]")
    return "\n".join(lines)


def _group_table(name: str, groups: Mapping[str, Mapping]) -> list[str]:
    width = max(map(len, [name, *groups])) + 2
    lines = [f"  {name:{width}}{'bona fide':>10}{'spoof':>10}{'EER':>12}"]
    for group, values in groups.items():
        eer = "one class" if values["eer"] is None else _value("eer", values["eer"])
        interval = f"  [{_bounds('eer', values['eer_interval'])}]" if "eer_interval" in values else ""
        counts = f"{values['num_bonafide']:>10,}{values['num_spoof']:>10,}"
        lines.append(f"  {group:{width}}{counts}{eer:>12}{interval}")
    return lines


def _value(name: str, value: float) -> str:
    return f"{100 * value:.3f} %" if name == "eer" else f"{value:.4f}"


def _bounds(name: str, bounds) -> str:
    return ", ".join(_value(name, bound).removesuffix(" %") for bound in bounds)


def write_plots(
    folder: Path, results: Mapping, trials: ProtocolColumns, systems: Mapping[str, np.ndarray]
) -> None:
    """
    Write `det.png`, `scores.png` and one bar plot for each breakdown, `per_attack.png`.

    Args:
        folder: where.
        results: of the first system; see [`~processing.results.evaluate_trials`].
        trials: of all systems.
        systems: (num_trials,) scores by the name of each system.
    """
    from metrics import plots  # matplotlib takes a second to load

    folder.mkdir(parents=True, exist_ok=True)
    title = describe_trials(results)
    is_bonafide = np.array(trials.key) == "bonafide"
    by_class = {name: (scores[is_bonafide], scores[~is_bonafide]) for name, scores in systems.items()}
    first = next(iter(by_class))
    points = {}
    for name, classes in by_class.items():
        eer, threshold = equal_error_rate(*classes)
        points[name] = [plots.OperatingPoint(f"EER {_value('eer', eer)}", threshold)]
    for form in FORMS:
        if (value := results[f"min_tdcf_{form}"]) is not None:
            name = f"min t-DCF ({form} form) {value:.4f}"
            points[first].append(plots.OperatingPoint(name, results[f"min_tdcf_{form}_threshold"]))
    write_figure(folder / "det.png", plots.plot_det(by_class, points, title=title))
    histogram = plots.plot_score_histograms(
        *by_class[first], threshold=results["eer_threshold"], title=f"{first}, {title}"
    )
    write_figure(folder / "scores.png", histogram)
    for key, groups in results.items():
        if key.startswith("per_") and set(groups) != {"unknown"}:
            name = key.removeprefix("per_")
            bars = plots.plot_breakdown(
                groups, pooled_eer=results["eer"], title=f"{first}, {title}", name=name
            )
            write_figure(folder / f"{key}.png", bars)


def recording_header(countermeasure: Countermeasure, threshold: float | None, hop_seconds: float) -> str:
    """What the lines of [`recording_line`] mean."""
    extractor = countermeasure.feature_extractor
    crop = "whole recording"
    lines = []
    if extractor.num_samples is not None:
        seconds = extractor.num_samples / extractor.sampling_rate
        crop = f"first {seconds:g} s"
        lines.append(
            f"Mean and min: over windows of {seconds:g} s every {hop_seconds:g} s. The threshold does not "
            "hold for them: of many windows of bona fide speech some fall below it."
        )
    lines.insert(0, f"Score: of the {crop}; higher is more bona fide.")
    if threshold is None:
        lines.insert(
            1,
            "Verdict: none, as the model's config states no decision_threshold; an evaluation on a "
            "development set with --set_decision_threshold gives it one.",
        )
    else:
        lines.insert(
            1,
            f"Verdict: bona fide if the score is above {threshold:.4f}, the model's decision threshold, an "
            "EER threshold for single crops; on recordings of another kind it can be far off.",
        )
    columns = f"{'score':>9} {'p(bonafide)':>11} {'verdict':>9} {'length':>11} {'windows':>7}"
    return "\n".join([*lines, "", f"{columns} {'mean':>9} {'min':>9} {'at':>10}  file"])


def recording_line(summary: Mapping) -> str:
    """One recording of `Recording.summary` as a line."""
    if summary["error"]:
        return f"{'not scored':>10}: {summary['error']}"
    return (
        f"{summary['score']:>9.4f} {summary['probability_bonafide']:>11.4f} {summary['verdict'] or '-':>9} "
        f"{_clock(summary['seconds']):>11} {summary['num_windows']:>7,} {summary['mean_score']:>9.4f} "
        f"{summary['min_score']:>9.4f} {_clock(summary['min_start_seconds']):>10}  {summary['file']}"
    )


def write_timelines(
    folder: Path, recordings: Iterable[Recording], countermeasure: Countermeasure, threshold: float | None
) -> None:
    """Write `timeline-<number>-<name>.png` for every recording of more than one window."""
    from metrics import plots

    extractor = countermeasure.feature_extractor
    for number, recording in enumerate(recordings, start=1):
        if recording.error or len(recording.scores) < 2:
            continue
        figure = plots.plot_timeline(
            recording.starts,
            recording.scores,
            window_seconds=extractor.num_samples / extractor.sampling_rate,
            threshold=threshold,
            title=printable(recording.file.name),
        )
        write_figure(folder / f"timeline-{number:03}-{recording.file.stem[:60]}.png", figure)


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    hours, rest = divmod(round(seconds, 1), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours:.0f}:{minutes:02.0f}:{rest:04.1f}" if hours else f"{minutes:.0f}:{rest:04.1f}"
