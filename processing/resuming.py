"""What a killed run has left: read once for all processes, and never taken for something else's."""

import json
from collections.abc import Callable, Mapping
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list


T = TypeVar("T")


def read_on_main(read: Callable[[], T]) -> T:
    """What `read` returns on the main process, or the `ValueError` that it raises there, in every process."""
    outcome = [None]
    if PartialState().is_main_process:
        try:
            outcome = [read()]
        except ValueError as error:
            outcome = [error]
    broadcast_object_list(outcome)
    if isinstance(outcome[0], ValueError):
        raise outcome[0]
    return outcome[0]


def describe_difference(before: Mapping, now: Mapping) -> str:
    """
    The entries that differ of two descriptions, of which one may have gone through JSON: "seed was 1, now 2",
    or "" where they are the same.
    """
    before, now = (json.loads(json.dumps(each, default=str)) for each in (before, now))
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return "; ".join(f"{key} was {before.get(key)!r}, now {now.get(key)!r}" for key in keys)
