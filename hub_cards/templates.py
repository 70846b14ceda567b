"""The templates of this folder: what they can call, and an error for a value that is missing."""

import json
import re
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError

from processing.corpus_names import DEMO_NOTE, describe_corpus, find_official_trials
from processing.report import describe_calibration, describe_counts

from . import tables


class _Missing(StrictUndefined):
    """A value that a template needs and that is not there: an error that names it."""

    @property
    def _undefined_message(self) -> str:
        return f"lacks {self._undefined_name!r}"


def group_stages(channels: Iterable[int]) -> list[tuple[int, int]]:
    """Neighbouring blocks of as many channels are a stage: its channels, and its number of blocks."""
    return [(width, len(list(group))) for width, group in groupby(channels)]


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=_Missing,
    autoescape=lambda name: name.endswith(".html"),  # Markdown has no escape that suits all places
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.globals |= {
    "describe_counts": describe_counts,
    "find_official_trials": find_official_trials,
    "tabulate_counts": tables.tabulate_counts,
    "tabulate_log_likelihoods": tables.tabulate_log_likelihoods,
    "tabulate_reported": tables.tabulate_reported,
    "demo_note": DEMO_NOTE,
}
_ENVIRONMENT.filters |= {
    "number": tables.format_any,
    "count": tables.format_count,
    "metric": tables.format_metric,
    "size": tables.format_size,
    "memory": tables.format_memory,
    "duration": tables.format_duration,
    "code": tables.format_code,
    "visible": tables.show_characters,
    "factor": tables.format_factor,
    "argument": tables.format_argument,
    "calibration": describe_calibration,
    "cell": tables.format_cell,
    "corpus": describe_corpus,
    "json": json.dumps,
    "stages": group_stages,
}


def render_template(*names: str, where: str, remedy: str, **values) -> str:
    """Render the first of these templates that exists, without blank lines at its ends or two in succession.
    ValueError: a value that it uses is missing; `where` it should be and the `remedy` are said."""
    try:
        text = _ENVIRONMENT.select_template(names).render(values)
    except UndefinedError as error:
        raise ValueError(f"{where} {error}: {remedy}.") from error
    return re.sub(r"\n{3,}", "\n\n", text).strip()
