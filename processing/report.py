"""Results in words, tables and plots: no number without what it is of. Imports nothing that takes long, as
cards need no model."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metrics.costs import FORMS
from metrics.det import equal_error_rate
from metrics.names import (
    CLLR_PARTS,
    METRICS,
    format_bounds,
    format_error_rate,
    format_estimate,
    format_value,
)

from .conditions import CLEAN
from .corpus_names import describe_corpus
from .files import write_figure


if TYPE_CHECKING:
    import pandas as pd

    from .pooling import Scope
    from .trials import Corpus


REMEDY_OF_MODEL = "check the order of id2label in the model's config.json, or --label_map"


NOTE_ON_CONDITIONS = (
    "Differences are paired on the same trials; p is two-sided, of each condition alone. FRR and FAR are at "
    "the threshold of the clean EER"
)
LLR_PLOTS = ("tippett", "pav", "ece", "bayes_error", "llr_histogram")  # functions of metrics/llr_plots.py
EXACT_INTERVALS = "intervals: exact (Clopper-Pearson), as if all trials were independent"


def describe_counts(bonafide: int, spoof: int, missing: int | None = 0, unreadable: int | None = 0) -> str:
    """Numbers of trials in words: "15 bona fide, 16 spoof", and of those that were left out, if any were."""
    left_out = {"missing": missing, "unreadable": unreadable}
    text = f"{bonafide:,} bona fide, {spoof:,} spoof"
    return ", ".join([text, *(f"{count:,} {why}" for why, count in left_out.items() if count)])


def describe_split(corpus: "Corpus", spec: str, counts: Mapping[str, int]) -> str:
    """Corpus, split and counts by class in words."""
    left_out = {"missing": corpus.missing.get(spec), "unreadable": corpus.unreadable.get(spec)}
    described = describe_counts(**counts, **left_out)
    return f"{describe_corpus(corpus.name)} {spec}, {sum(counts.values()):,} trials ({described})"


def describe_left_out(corpus: "Corpus") -> list[str]:
    """A line for each reason why files of the corpus folder are not used."""
    return [f"Left out, {reason}: {count:,}" for reason, count in corpus.left_out.items()]


def list_absent(corpus: "Corpus", scopes: Iterable["Scope"]) -> list[str]:
    """The names of the pool's corpora of which there are no trials."""
    present = {scope.corpus.name for scope in scopes}
    return [part.name for part in corpus.parts if part.name not in present]


def describe_corpora(corpus: "Corpus", scopes: Mapping[str, Sequence["Scope"]]) -> list[str]:
    """Lines that say what training takes of a corpus, by the scopes of each role, and what it leaves out."""
    lines = []
    for role, of_role in scopes.items():
        lines += [f"Corpus: {describe_split(scope.corpus, scope.split, scope.counts)}" for scope in of_role]
        lines += [f"Of {name} nothing is used as {role}" for name in list_absent(corpus, of_role)]
    lines += describe_left_out(corpus)
    for part in corpus.parts or (corpus,):
        if part.weight > 1:
            lines.append(f"In an epoch, each utterance of {part.name} is seen {part.weight} times")
        lines += [
            f"Left out: {part.name} {split}, all audio of its {missing:,} trials is missing"
            for split, missing in part.missing.items()
            if split not in part.splits
        ]
    return lines


def make_title(results: Mapping) -> str:
    """Corpus, split and counts of results in words."""
    names = ("num_bonafide", "num_spoof", "num_missing", "num_unreadable")
    counts = describe_counts(*map(results.get, names))
    return f"{describe_corpus(results['corpus'])} {results['split']}: {counts}"


def describe_results(results: Mapping, remedy: str = REMEDY_OF_MODEL) -> str:
    """The table of the results of [`~processing.results.evaluate_trials`], and their caveats."""
    intervals = results.get("confidence_intervals", {})
    lines = [make_title(results)]
    for name, metric in METRICS.items():
        if results[name] is not None:
            interval = f"  {format_bounds(name, intervals[name])}" if name in intervals else ""
            lines.append(f"  {metric.title:24}{format_value(name, results[name]):>10}{interval}")
    if intervals:
        lines.append(f"  [{100 * intervals['level']:g} % intervals: {intervals['method']}]")
    if calibration := results.get("calibration"):
        lines += ["", f"  Log-likelihood ratios (LLRs) {calibration['llrs']}"]
        lines += [f"  [{describe_calibration(calibration)}]"]
        if calibration.get("num_cut"):
            cut = f"{calibration['num_cut']:,} of {results['num_trials']:,} LLRs were cut"
            lines.append(f"  [{cut} to the bounds, beyond which the calibration has too few trials]")
        lines += _llr_table(results["llr_metrics"])
    if at := results.get("at_decision_threshold"):
        lines += ["", f"  At the model's decision threshold, {at['threshold']:.4f}"]
        for name in ("frr", "far"):
            lines.append(f"  {name.upper():24}{format_error_rate(at[name])}")
        lines.append(f"  [{100 * at['frr']['level']:g} % {EXACT_INTERVALS}]")
    for key, groups in results.items():
        if key.startswith("per_") and (len(groups) > 1 or key != "per_attack"):
            lines += ["", *_group_table(key.removeprefix("per_"), groups)]
    if "conditions" in results:
        lines.append("")
        header, rows = tabulate_conditions(results)
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        for row in (header, *rows):
            cells = [f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)]
            lines.append(f"  {'  '.join(cells)}".rstrip())
        lines.append(f"  [{NOTE_ON_CONDITIONS}]")
    caveats = describe_caveats(results, remedy)
    return "\n".join([*lines, *([""] if caveats else []), *caveats])


def describe_caveats(results: Mapping, remedy: str = REMEDY_OF_MODEL) -> list[str]:
    """
    Sentences on what limits these results and must be said with them; `remedy` is what to do where higher
    scores seem to mean spoof.
    """
    caveats = [results["note"]] if results.get("note") else []
    if "tdcf_left_out" in results:
        caveats.append(f"The t-DCF is left out: {results['tdcf_left_out']}.")
    if results["eer"] == 0 and "confidence_intervals" in results:
        caveats.append(
            "No trial is an error, so no resample has one: that the intervals end at 0 does not mean that "
            "errors are impossible."
        )
    if results["constant_scores"]:
        caveats.append("All scores are the same: the EER of constant scores says nothing.")
    if results["looks_inverted"]:
        low, _ = results.get("confidence_intervals", {}).get("eer", (1, 1))
        meaning = "that of chance: its interval holds 50 %"
        if low > 0.5:
            meaning = f"above 50 %: higher scores seem to mean spoof. If so, {remedy}; nothing was changed"
        caveats.append(f"The EER of {100 * results['eer']:.1f} % is {meaning}.")
    if (tied := results["num_tied_across_classes"]) and not results["constant_scores"]:
        caveats.append(
            f"{tied:,} of {results['num_trials']:,} trials have the score of a trial of the other class. "
            "Such ties raise the error rates: bona fide is rejected first."
        )
    return caveats


def describe_comparison(comparison: Mapping, names: tuple[str, str]) -> str:
    """The table of a paired test of two systems (see [`~processing.results.compare_scores`])."""
    lines = [f"{names[0]} minus {names[1]}, paired on the same trials"]
    for name, difference in comparison["differences"].items():
        value = f"{'+' if difference['value'] > 0 else ''}{format_value(name, difference['value'])}"
        bounds = format_bounds(name, (difference["low"], difference["high"]))
        lines.append(f"  {METRICS[name].title:24}{value:>10}  {bounds}  p = {difference['p_value']:.3g}")
    level = 100 * comparison["level"]
    lines.append(f"  [{level:g} % intervals and two-sided p: {comparison['method']}]")
    return "\n".join(lines)


def describe_calibration(calibration: Mapping) -> str:
    """A calibration in words: the map, and on what it was fitted."""
    a, names = calibration["a"], calibration.get("systems", ["score"])
    terms = [*zip(a if isinstance(a, list) else [a], names, strict=True), (calibration["b"], "")]
    signed = (f"{'-' if factor < 0 else '+'} {abs(factor):.4g} {name}".rstrip() for factor, name in terms)
    text = f"LLR = {' '.join(signed).removeprefix('+ ')}"
    if "num_bonafide" in calibration:  # which a config need not say
        text += f", fitted on {calibration['num_bonafide']:,} bona fide and "
        text += f"{calibration['num_spoof']:,} spoofed trials"
    if calibration.get("num_speakers") is not None:
        text += f" of {calibration['num_speakers']:,} speakers"
    if "corpus" in calibration:
        text += f" of {calibration['corpus']} {calibration['split']}"
    if "prior" in calibration:
        text += f" at the prior {calibration['prior']:g}"
    if "bounds" in calibration:
        text += ", and cut to the bounds {:.2f} and {:.2f}".format(*calibration["bounds"])
    if calibration.get("is_regularized"):
        text += "; their scores separate the classes, so that regularisation decides how large the LLRs are"
    return text


def tabulate_conditions(results: Mapping) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table of the recordings as they are and under each condition."""
    header, rows = ["Condition", "EER", "EER minus clean", "p", "FRR", "FAR", "Cllr"], []
    for name, of in {CLEAN: results, **results["conditions"]}.items():
        bounds = of.get("confidence_intervals", {})
        eer, cllr = (format_estimate(metric, of[metric], bounds.get(metric)) for metric in ("eer", "cllr"))
        changed, p_value = "–", "–"
        if difference := of.get("differences", {}).get("eer"):
            changed = format_estimate("eer", difference["value"], (difference["low"], difference["high"]))
            changed = f"{'+' if difference['value'] > 0 else ''}{changed}"
            p_value = f"{difference['p_value']:.3g}"
        errors = [f"{100 * of[rate]:.3f} %" if rate in of else "–" for rate in ("clean_frr", "clean_far")]
        rows.append([name, eer, changed, p_value, *errors, cllr])
    return header, rows


def write_plots(
    folder: Path, results: Mapping, trials: "pd.DataFrame", systems: Mapping[str, np.ndarray]
) -> None:
    """
    Write `det.png`, `scores.png` and one bar plot for each breakdown, `per_attack.png`: of the scores
    (num_trials,) of each of the `systems`, and of the results of the first.
    """
    from metrics import plots  # matplotlib takes a second to load

    title = make_title(results)
    is_bonafide = (trials["key"] == "bonafide").to_numpy()
    by_class = {name: (scores[is_bonafide], scores[~is_bonafide]) for name, scores in systems.items()}
    first = next(iter(by_class))
    points = {}
    for name, classes in by_class.items():
        eer, threshold = equal_error_rate(*classes)
        points[name] = [plots.OperatingPoint(f"EER {format_value('eer', eer)}", threshold)]
    for name in (f"min_tdcf_{form}" for form in FORMS):
        if results[name] is not None:
            label = f"{METRICS[name].title} {format_value(name, results[name])}"
            points[first].append(plots.OperatingPoint(label, results[f"{name}_threshold"]))
    write_figure(folder / "det.png", plots.plot_det(by_class, points, title=title))
    title = f"{first}, {title}"
    histogram = plots.plot_score_histograms(*by_class[first], threshold=results["eer_threshold"], title=title)
    write_figure(folder / "scores.png", histogram)
    for key, groups in results.items():
        if key.startswith("per_") and set(groups) != {"unknown"}:
            name = key.removeprefix("per_")
            bars = plots.plot_breakdown(groups, pooled_eer=results["eer"], title=title, name=name)
            write_figure(folder / f"{key}.png", bars)
    (folder / "conditions.png").unlink(missing_ok=True)  # of results that are replaced
    if under := results.get("conditions"):
        intervals = {name: of.get("confidence_intervals", {}).get("eer") for name, of in under.items()}
        groups = {name: {**of, "eer_interval": intervals[name]} for name, of in under.items()}
        about = {"title": title, "name": "condition", "pooled_name": CLEAN}
        bars = plots.plot_breakdown(groups, pooled_eer=results["eer"], **about)
        write_figure(folder / "conditions.png", bars)


def plot_llrs(
    folder: Path,
    bonafide_llrs: np.ndarray,
    spoof_llrs: np.ndarray,
    *,
    case: float | None = None,
    title: str = "",
) -> None:
    """
    Write a PNG for each of [`LLR_PLOTS`], of calibrated log-likelihood ratios, natural logarithms,
    (num_bonafide,) and (num_spoof,), with that of a case marked.
    """
    from metrics import llr_plots, plots

    for name in LLR_PLOTS:
        figure, axes = plots.make_axes(6.4, 4.4, title)
        getattr(llr_plots, f"plot_{name}")(axes, bonafide_llrs, spoof_llrs, case)
        write_figure(folder / f"{name}.png", figure)


def _llr_table(measured: Mapping) -> list[str]:
    """What [`metrics.likelihood_ratios.measure_llrs`] finds."""
    lines = [f"  {METRICS[name].title:24}{format_value(name, measured[name]):>10}" for name in CLLR_PARTS]
    low, high = (bound / np.log(10) for bound in measured["bounds"])
    lines.append(f"  {'Supported log10 LR':24}{low:.2f} to {high:.2f} (ELUB)")
    lines.append(
        f"  {'P(bona fide)':>16}{'Expected cost':>18}{'Minimum':>10}  (1: decided by the prior alone)"
    )
    for prior, costs in measured["expected_costs"].items():
        lines.append("  {:>16}{:>18.4f}{:>10.4f}".format(prior, *costs))
    for factor, rates in measured["misleading_evidence"].items():
        below = f"bona fide below {1 / int(factor):g}"
        for name, wrong in (("bonafide", below), ("spoof", f"spoof above {factor}")):
            lines.append(f"  {f'LR of {wrong}':30}{format_error_rate(rates[name])}")
    level = 100 * rates["spoof"]["level"]
    return [*lines, f"  [{level:g} % {EXACT_INTERVALS}]"]


def _group_table(name: str, groups: Mapping[str, Mapping]) -> list[str]:
    width = max(map(len, [name, *groups])) + 2
    lines = [f"  {name:{width}}{'bona fide':>10}{'spoof':>10}{'EER':>12}"]
    for group, values in groups.items():
        eer = "one class" if values["eer"] is None else format_value("eer", values["eer"])
        interval = f"  {format_bounds('eer', values['eer_interval'])}" if "eer_interval" in values else ""
        counts = f"{values['num_bonafide']:>10,}{values['num_spoof']:>10,}"
        lines.append(f"  {group:{width}}{counts}{eer:>12}{interval}")
    return lines


def format_time(seconds: float) -> str:
    """Hours, minutes and seconds."""
    hours, rest = divmod(round(seconds, 1), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours:.0f}:{minutes:02.0f}:{rest:04.1f}" if hours else f"{minutes:.0f}:{rest:04.1f}"
