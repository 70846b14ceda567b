"""Numbers as a card writes them, Markdown tables, and the rows of a card's tables of results and training."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from metrics.names import METRICS, format_estimate
from processing.corpus_names import CORPORA, describe_corpus
from processing.files import strip_folder, strip_folders

from .run_folder import Evaluation, RunFolder


NOT_MEASURED = "not measured"
IN_THE_WILD = CORPORA["in-the-wild"].title
MAIN_METRICS = ("eer", "min_tdcf_2019", "min_tdcf_2021")
FURTHER_METRICS = ("min_dcf", "act_dcf", "cllr", "cllr_min", "calibration_loss")


def format_any(value: float) -> str:
    """Write a number of a config: 64,000, 0.3, 7,876.92, 1e-5."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.2f}"
    return re.sub(r"e([+-])0*", r"e\1", f"{value:.6g}")


def format_count(count: int, noun: str) -> str:
    """Write a count with its noun: 1 evaluation, 1,200 trials."""
    return f"{format_any(count)} {noun}{'' if count == 1 else 's'}"


def format_stated(rate: float) -> str:
    """Write a rate that a source states, as per cent with its own digits."""
    return f"{100 * rate:.4g} %"


def format_metric(results: Mapping, name: str) -> str:
    """Write a metric of results with its interval, or that it was not measured."""
    if results.get(name) is None:
        return NOT_MEASURED
    bounds = (results.get("confidence_intervals") or {}).get(name)
    return format_estimate(name, results[name], bounds)


def format_group(group: Mapping) -> str:
    """Write the EER of a group of trials with its interval, or that it has one class only."""
    if group.get("eer") is None:
        return "one class only"
    return format_estimate("eer", group["eer"], group.get("eer_interval"))


def format_size(num_bytes: int) -> str:
    """Write a file's size in bytes and decimal megabytes."""
    return f"{num_bytes:,} bytes ({num_bytes / 1e6:,.1f} MB)"


def format_memory(num_bytes: int | None) -> str:
    """Write an amount of memory in GiB."""
    return NOT_MEASURED if num_bytes is None else f"{num_bytes / 2**30:.1f} GiB"


def format_duration(seconds: float | None) -> str:
    """Write seconds, and hours and minutes where there are some."""
    if seconds is None:
        return NOT_MEASURED
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:g} s"
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{whole:,} s ({f'{hours} h ' if hours else ''}{minutes} min)"


def show_characters(text: str) -> str:
    """A text from elsewhere, with a sign for each character that is not seen or changes the others' order."""
    return "".join(c if c.isprintable() else "�" for c in text)


def format_factor(factor: float) -> str:
    """Write how many times more, by two digits: 1.4, 320, 12,000."""
    return format_any(float(f"{factor:.2g}"))


def format_code(text: str) -> str:
    """Write a name from elsewhere as code in Markdown, whatever is in it."""
    text = show_characters(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def format_argument(value) -> str:
    """Write the value of an argument of training; of a path of this machine, its last name."""
    if isinstance(value, bool) or value is None:
        return {True: "on", False: "off", None: "not stated"}[value]
    if isinstance(value, (int, float)):
        return format_any(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {format_argument(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        if any(isinstance(item, Mapping) for item in value):  # as the command line takes it
            return format_code(json.dumps(strip_folders(value), ensure_ascii=False))
        return ", ".join(map(format_argument, value)) or "none"
    return strip_folder(str(value))


def format_cell(text: str) -> str:
    """Write a text as one line of Markdown that fits a cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def make_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, align_right: bool = False) -> str:
    """A Markdown table; `align_right` puts all columns but the first to the right. ValueError: an empty cell:
    what is not known must be said."""
    lines = [list(header), ["---", *["---:" if align_right else "---"] * (len(header) - 1)]]
    for row in rows:
        cells = [format_cell(cell) for cell in row]
        if len(cells) != len(header) or not all(cells):
            raise ValueError(f"A row of the table {' | '.join(header)} has an empty cell: {cells}.")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def tabulate_results(trials: Iterable[tuple[str, str, Evaluation | None]]) -> str:
    """The main metrics of evaluations: each a corpus, a split, and what was measured of it, if anything."""
    rows = []
    for corpus, split, evaluation in trials:
        results = evaluation.results if evaluation else {}
        counts = [f"{results[name]:,}" if results else "–" for name in ("num_bonafide", "num_spoof")]
        metrics = [format_metric(results, name) for name in MAIN_METRICS]
        rows.append([describe_corpus(corpus), split, *metrics, *counts])
    titles = [METRICS[name].title for name in MAIN_METRICS]
    return make_table(["Corpus", "Split", *titles, "Bona fide trials", "Spoof trials"], rows)


def tabulate_further_metrics(evaluations: Iterable[Evaluation]) -> str | None:
    """The metrics of ASVspoof 5 track 1 of each evaluation; `None` where none has them."""
    rows = []
    for results in (evaluation.results for evaluation in evaluations):
        if any(results.get(name) is not None for name in FURTHER_METRICS):
            metrics = [format_metric(results, name) for name in FURTHER_METRICS]
            rows.append([describe_corpus(results["corpus"]), results["split"], *metrics])
    titles = [METRICS[name].title for name in FURTHER_METRICS]
    return make_table(["Corpus", "Split", *titles], rows) if rows else None


def tabulate_breakdowns(evaluation: Evaluation) -> dict[str, str]:
    """Tables of the EER by attack, codec … of an evaluation, by what they go by."""
    found = {}
    for key, groups in evaluation.results.items():
        name = key.removeprefix("per_").replace("_", " ")
        if not key.startswith("per_") or not groups or set(groups) <= {"-", "unknown"}:
            continue
        rows = [
            [group, format_group(values), f"{values['num_bonafide']:,}", f"{values['num_spoof']:,}"]
            for group, values in groups.items()
        ]
        found[name] = make_table([name.capitalize(), "EER", "Bona fide trials", "Spoof trials"], rows)
    return found


def tabulate_reported(reported: Mapping) -> str | None:
    """What a source reports for its own weights, by corpus and split `eer` and a t-DCF by its form; `None`
    where that is no result."""
    rows = []
    for corpus, splits in reported.items():
        title = CORPORA[corpus].title if corpus in CORPORA else corpus
        for split, values in splits.items() if isinstance(splits, Mapping) else ():
            eer = format_stated(values["eer"]) if "eer" in values else "not reported"
            costs = []
            for name, value in values.items():
                if name.startswith("min_tdcf_"):
                    form = name.removeprefix("min_tdcf_")
                    form = "form unstated" if form == "form_unstated" else f"{form} form"
                    costs.append(f"{value:g} ({form})")
            rows.append([title, split, eer, ", ".join(costs) or "not reported"])
    return make_table(["Corpus", "Split", "EER", "min t-DCF"], rows) if rows else None


def tabulate_counts(run: RunFolder) -> str:
    """Each split that was used in training, the part of the corpus that it is, and its counts; of several
    corpora, those of each, and how often its utterances were seen in an epoch."""
    rows, are_several = [], len(run.corpora) > 1
    for corpus, record in (run.corpora or {"": run.training}).items():
        for role, counts in record.get("counts", {}).items():
            split, left_out = record.get("splits", {}).get(role, role), []
            for why, of in (("missing", split.split("[")[0]), ("unreadable", split)):
                known = record.get(why)
                left_out.append("not recorded" if known is None else format_any(known.get(of, 0)))
            in_use = (format_any(counts[key]) for key in ("bonafide", "spoof"))
            times = f"{record['weight']}x" if are_several and role == "train" else "–"
            of_corpus = [describe_corpus(corpus), times] if are_several else []
            rows.append([*of_corpus, role, f"`{split}`", *in_use, *left_out])
    names = ["Used as", "Split", "Bona fide", "Spoof", "Audio missing", "Audio unreadable"]
    return make_table([*["Corpus", "In an epoch"][: 2 * are_several], *names], rows)


def tabulate_log_likelihoods(histories: Mapping[str, Sequence[float]]) -> str:
    """The log-likelihoods of a run by iteration."""
    rows = [
        [str(i + 1), *(f"{h[i]:.4f}" if i < len(h) else "–" for h in histories.values())]
        for i in range(max(map(len, histories.values())))
    ]
    return make_table(["Iteration", *(f"Log-likelihood per frame, {label}" for label in histories)], rows)
