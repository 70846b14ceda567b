"""Runs beside each other, which must be of the same trials: for one table, or for one figure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from processing.report import make_title

from .run_folder import RunFolder, read_run


def read_runs(folders: Sequence[Path]) -> dict[str, RunFolder]:
    """Runs by the names of their systems; where two have one name, with as much of their folders' as tells
    them apart. ValueError: a folder given twice; see also [`read_run`]."""
    folders = [Path(folder).expanduser().resolve() for folder in folders]
    if twice := [folder for folder, count in Counter(folders).items() if count > 1]:
        raise ValueError(f"{twice[0]} is given twice. Name each run once.")
    runs = [read_run(folder) for folder in folders]
    labelled = {}
    for run in runs:
        same = [other.folder.parts for other in runs if other.system == run.system and other is not run]
        length = 1
        while any(parts[-length:] == run.folder.parts[-length:] for parts in same):
            length += 1
        place = "/".join(run.folder.parts[-length:])
        labelled[f"{run.system} ({place})" if same else run.system] = run
    return labelled


def find_common_trials(runs: Mapping[str, RunFolder], roles: Sequence[str]) -> dict:
    """
    Corpus, splits and counts of the train or dev trials of training, which must be the same for all runs.
    FileNotFoundError: a run without `training.json`. ValueError: an older one that does not name them; runs
    of different trials.
    """
    found = {}
    for name, run in runs.items():
        path = run.folder / "training.json"
        if not run.training:
            raise FileNotFoundError(f"{path} not found: only models that train.py trained can be compared.")
        try:
            of_roles = {
                key: {role: run.training[key][role] for role in roles} for key in ("splits", "counts")
            }
            found[name] = {"corpus": run.training["corpus"], **of_roles}
        except KeyError as error:
            raise ValueError(f"{path} has no {error}: an older train.py wrote it. Train again.") from None
    (first, common), *others = found.items()
    for name, other in others:
        for role in roles:
            texts = describe_trials(common, role), describe_trials(other, role)
            if texts[0] != texts[1]:
                raise ValueError(
                    f"The {role} trials of {first} are {texts[0]}, those of {name} are {texts[1]}: they "
                    "cannot be compared."
                )
    return common


def describe_trials(record: Mapping, role: str) -> str:
    """Corpus, split and counts of a record of training in words."""
    counts = {f"num_{key}": count for key, count in record["counts"][role].items()}
    return make_title({"corpus": record["corpus"], "split": record["splits"][role], **counts})
