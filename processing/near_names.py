"""Names that are not known, and the nearest one that is."""

import difflib
from collections.abc import Iterable


def check_keys(given: Iterable[str], valid: Iterable[str], where: str) -> None:
    """ValueError: a given key is not valid; the message names it and the nearest valid one."""
    valid = list(valid)
    for key in given:
        if key not in valid:
            raise ValueError(f"{where}: unknown key {key!r}{suggest(key, valid)}.")


def suggest(name: str, valid: Iterable[str]) -> str:
    """ " (did you mean 'lcnn'?)" where a valid name is near, else ""."""
    matches = difflib.get_close_matches(str(name), list(valid), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
