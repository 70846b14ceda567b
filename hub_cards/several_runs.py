"""Runs beside each other, which must be of the same trials: for one table, or for one figure."""

import itertools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from processing.report import make_title

from .run_folder import RunFolder, read_run


def read_runs(folders: Sequence[Path]) -> dict[str, RunFolder]:
    """Runs by the names of their systems; those of one name with their folders, from where all lie.
    ValueError: a folder given twice; see also [`read_run`]."""
    folders = [Path(folder).expanduser().resolve() for folder in folders]
    runs = [read_run(folder) for folder in folders]
    counts = Counter(run.system for run in runs)
    top = os.path.commonpath(folders)
    names = [
        f"{run.system} ({run.folder.relative_to(top)})" if counts[run.system] > 1 else run.system
        for run in runs
    ]
    if len(set(names)) < len(names):
        raise ValueError(f"A run is given twice: {', '.join(map(str, folders))}. Name each once.")
    return dict(zip(names, runs, strict=True))


def find_common_trials(runs: Mapping[str, RunFolder], roles: Sequence[str]) -> dict:
    """
    Corpus, splits and counts of the train or dev trials of training, which must be the same for all runs.
    FileNotFoundError: a run without `training.json`. ValueError: runs of different trials.
    """
    for run in runs.values():
        if not run.training:
            path = run.folder / "training.json"
            raise FileNotFoundError(f"{path} not found: only models that train.py trained can be compared.")
    (first, common), *others = ((name, run.training) for name, run in runs.items())
    for (name, other), role in itertools.product(others, roles):
        texts = describe_trials(common, role), describe_trials(other, role)
        if texts[0] != texts[1]:
            raise ValueError(
                f"The {role} trials of {first} are {texts[0]}, those of {name} are {texts[1]}: they cannot "
                "be compared."
            )
    of_roles = {key: {role: common[key][role] for role in roles} for key in ("splits", "counts")}
    return {"corpus": common["corpus"], **of_roles}


def describe_trials(record: Mapping, role: str) -> str:
    """Corpus, split and counts of a record of training in words."""
    counts = {f"num_{key}": count for key, count in record["counts"][role].items()}
    return make_title({"corpus": record["corpus"], "split": record["splits"][role], **counts})
