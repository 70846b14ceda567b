"""The templates of this folder: what they can call, and an error for a value that is missing."""

import json
import re
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError

from metrics.names import METRICS, format_estimate
from processing.corpus_names import CORPORA, DEMO_NOTE, describe_corpus, find_official_trials
from processing.report import (
    NOTE_ON_CONDITIONS,
    describe_calibration,
    describe_caveats,
    describe_counts,
    format_time,
    tabulate_conditions,
)

from . import tables


def group_stages(channels: Iterable[int]) -> list[tuple[int, int]]:
    """Neighbouring blocks of as many channels are a stage: its channels, and its number of blocks."""
    return [(width, len(list(group))) for width, group in groupby(channels)]


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    autoescape=lambda name: name.endswith(".html"),  # Markdown has no escape that suits all places
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.globals |= {
    "describe_counts": describe_counts,
    "find_official_trials": find_official_trials,
    "format_estimate": format_estimate,
    "tabulate_conditions": tabulate_conditions,
    "CORPORA": CORPORA,
    "METRICS": METRICS,
    "MAIN_METRICS": tables.MAIN_METRICS,
    "FURTHER_METRICS": tables.FURTHER_METRICS,
    "NOTE_ON_CONDITIONS": NOTE_ON_CONDITIONS,
    "demo_note": DEMO_NOTE,
}
_ENVIRONMENT.filters |= {
    "number": tables.format_any,
    "count": tables.format_count,
    "metric": tables.format_metric,
    "stated": tables.format_stated,
    "group": tables.format_group,
    "duration": tables.format_duration,
    "code": tables.format_code,
    "visible": tables.show_characters,
    "factor": tables.format_factor,
    "argument": tables.format_argument,
    "calibration": describe_calibration,
    "caveats": describe_caveats,
    "cell": tables.format_cell,
    "corpus": describe_corpus,
    "json": json.dumps,
    "stages": group_stages,
    "time": format_time,
}


def render_template(name: str, *, where: str, remedy: str, **values) -> str:
    """Render a template, without blank lines at its ends or two in succession.
    ValueError: a value that it uses is missing; `where` it should be and the `remedy` are said."""
    try:
        text = _ENVIRONMENT.get_template(name).render(values)
    except UndefinedError as error:
        raise ValueError(f"{where}: {error}. Remedy: {remedy}.") from error
    return re.sub(r"\n{3,}", "\n\n", text).strip()
