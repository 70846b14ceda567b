"""The corpora that have a layout of their own, and protocols without audio. Imports no torch."""

from collections.abc import Mapping
from pathlib import Path

from . import asvspoof2019, asvspoof2021
from .asvspoof5 import ASVSPOOF5
from .columns import is_header_line, read_columns
from .in_the_wild import IN_THE_WILD
from .layout import Layout
from .text_tables import read_first_line
from .trials import KEY_OF_LABEL, Corpus, check_trials, complete_trials


LAYOUTS = {
    "asvspoof2019-la": asvspoof2019.LA,
    "asvspoof2021-la": asvspoof2021.LA,
    "asvspoof2021-df": asvspoof2021.DF,
    "asvspoof5": ASVSPOOF5,
    "in-the-wild": IN_THE_WILD,
}


def read_protocol(path: Path, keys: Mapping[str, str] = KEY_OF_LABEL) -> Corpus:
    """
    Read a protocol by itself, for scoring by a score file alone: that of a named corpus, which its layout
    tells, or any file whose first line names the columns of utterance and key, spelt as `keys` say. One under
    another than an official name may list other trials, and goes by its own name. The splits are tables of
    trials instead of rows.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no protocol {path}.")
    first = read_first_line(path)
    layout = find_layout(first)
    if layout is None and is_header_line(first):
        trials = complete_trials(read_columns(path, "key", keys=keys))
        check_trials(trials, str(path))
        return Corpus(path.name, {"all": trials})
    if layout is None:
        found = f"has {len(first.split())} fields in its first line" if first else "is empty"
        known = ", ".join(f"{x.name.title} ({len(x.columns)})" for x in LAYOUTS.values() if not x.is_csv)
        raise ValueError(
            f"{path} {found}. The layouts known, by the number of fields of a line: {known}; and "
            f"{IN_THE_WILD.name.title}, by the header {','.join(IN_THE_WILD.columns)}. The "
            f"first line of any other file must name its columns: utterance,key. Here it is {first!r}."
        )
    splits = layout.split_trials(layout.read_protocol(path), path)
    name = layout.name.title if layout.is_official(path) else path.name
    return Corpus(name, splits, breakdowns=layout.breakdowns)


def find_layout(first_line: str) -> Layout | None:
    """That of a protocol that begins so; `None` where it is none of a named corpus."""
    layout = next((layout for layout in LAYOUTS.values() if layout.matches(first_line)), None)
    return layout if layout and (layout.is_csv or not is_header_line(first_line)) else None
