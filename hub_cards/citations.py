"""BibTeX of what the systems are built on, by the names that the `references:` of their YAMLs use."""

import re
from collections.abc import Iterable
from pathlib import Path

from processing.near_names import suggest


_ENTRIES = Path(__file__).with_name("references.bib").read_text(encoding="utf-8").strip().split("\n\n")
BIBTEX = {re.match(r"@\w+\{(\w+),", entry)[1]: entry for entry in _ENTRIES}


def find_citations(references: Iterable[str]) -> tuple[list[str], list[str]]:
    """The BibTeX entries of references by name, and those that are text of their own. ValueError: a name that
    is not known."""
    references = list(references)
    for name in references:
        if name not in BIBTEX and re.fullmatch(r"\w+", name):
            raise ValueError(
                f"references: {name!r} is no entry of hub_cards/references.bib{suggest(name, BIBTEX)}. A "
                "reference of your own is written out as text."
            )
    entries = [BIBTEX[name] for name in references if name in BIBTEX]
    return entries, [text for text in references if text not in BIBTEX]
