"""Numbers and values as cards write them."""

import json
import re
from collections.abc import Mapping
from datetime import timedelta

from metrics.names import format_estimate
from processing.corpus_names import CORPORA
from processing.files import strip_folder, strip_folders


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


def format_duration(seconds: float | None) -> str:
    """Write seconds as hours, minutes and seconds."""
    return NOT_MEASURED if seconds is None else str(timedelta(seconds=round(seconds)))


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
