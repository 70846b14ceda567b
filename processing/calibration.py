"""Calibrations of scores to log-likelihood ratios (LLRs): on which trials they are fitted, and what is
recorded of them. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from metrics.calibration import cross_validate_calibration, fit_calibration
from metrics.likelihood_ratios import find_llr_bounds

from .evaluation_arguments import EvaluationArguments
from .layouts import read_protocol
from .scores import hash_scores, list_scored_trials, match_scores, read_scores
from .trials import count_classes, split_classes


@dataclass(frozen=True)
class LLRs:
    """
    LLRs of trials.

    Attributes:
        values: (num_trials,), natural logarithms, cut to the bounds.
        uncut: (num_trials,), as the calibration gives them.
        source: how they follow from the calibration, in words.
        calibration: what is recorded of it; see [`calibrate_trials`].
    """

    values: np.ndarray
    uncut: np.ndarray
    source: str
    calibration: dict

    def take(self, places: np.ndarray | slice) -> "LLRs":
        """Those of some of the trials."""
        return replace(self, values=self.values[places], uncut=self.uncut[places])


def apply_calibration(calibration: Mapping, scores: np.ndarray, corpus: str, split: str) -> LLRs:
    """LLRs of a model's scores (num_trials,) of a corpus's split by its calibration."""
    source = "by the calibration in the model's config"
    if (calibration["corpus"], calibration["split"]) == (corpus, split):
        source += ", which was fitted on these trials: of others Cllr is usually higher"
    return LLRs(*find_llrs(calibration, scores), source, dict(calibration))


def find_llrs(calibration: Mapping, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    LLRs (num_trials,) of scores (num_trials,), or (num_trials, num_systems), by what is recorded of a
    calibration: cut to its bounds, where it has some, and as they are.
    """
    columns = np.asarray(scores, np.float64).reshape(len(scores), -1)
    llrs = columns @ np.atleast_1d(calibration["a"]) + calibration["b"]
    return np.clip(llrs, *calibration.get("bounds", (-np.inf, np.inf))), llrs


def calibrate_trials(
    trials: pd.DataFrame, scores: np.ndarray, *, prior: float, about: Mapping | None = None
) -> LLRs:
    """
    Calibrate the scores (num_trials,), or those of several systems (num_trials, num_systems).

    Returns:
        LLRs of these very trials, each by a fit without the trial's speaker, or without the trial where too
        few speakers are known, and cut to the bounds; with the calibration that is fitted on all of them: a,
        a list for several systems, b, prior, the bounds of its LLRs, which are found on the cross-validated
        ones, counts, today's date, and `about`.

    Raises:
        ValueError: of one system, higher scores that mean spoof; see [`metrics.calibration.fit_calibration`].
    """
    classes, (groups, over) = split_classes(trials, scores), _group_trials(trials)
    calibration = fit_calibration(*classes, prior=prior)
    a = calibration.a.tolist()
    if len(a) == 1 and a[0] <= 0:
        raise ValueError(
            "The scores cannot be calibrated: on the trials of the calibration, higher scores mean spoof."
        )
    validated = cross_validate_calibration(*classes, groups=groups, prior=prior)
    llrs, is_bonafide = np.empty(len(trials)), (trials["key"] == "bonafide").to_numpy()
    llrs[is_bonafide], llrs[~is_bonafide] = validated
    counts, speakers = count_classes(trials), set(trials["speaker_id"])
    record = {
        "a": a[0] if len(a) == 1 else a,
        "b": calibration.b,
        "prior": prior,
        "bounds": list(find_llr_bounds(*validated)),
        "is_regularized": calibration.is_regularized,
        "num_bonafide": counts["bonafide"],
        "num_spoof": counts["spoof"],
        "num_speakers": None if "-" in speakers else len(speakers),
        "date": date.today().isoformat(),
        **(about or {}),
    }
    source = f"cross-validated over {over}, because the calibration was fitted on these trials"
    return LLRs(np.clip(llrs, *record["bounds"]), llrs, source, record)


def _group_trials(trials: pd.DataFrame) -> tuple[tuple[np.ndarray, np.ndarray] | None, str]:
    """What of each class is never divided between the folds of a cross-validation, `None` for nothing; and
    over what this one goes, in words."""
    groups = split_classes(trials, trials["speaker_id"].to_numpy(str))
    if "-" in set(trials["speaker_id"]) or min(len(set(of)) for of in groups) < 2:
        return None, "trials (speakers are not known, or a class has one only)"
    return groups, "speakers"


def calibrate_score_file(
    args: EvaluationArguments,
    keys: Mapping[str, str],
    trials: pd.DataFrame,
    scores: np.ndarray,
    elsewhere: pd.Series | None = None,
) -> LLRs:
    """
    LLRs of the scores (num_trials,) of `--score_file`, higher = more bona fide, or of their fusion with those
    of `--fuse`, by a calibration that is fitted on `--calibrate_on`, or is cross-validated where that is
    `--score_file` itself. `elsewhere`: see [`~processing.scores.match_scores`].

    Raises:
        ValueError: files of other trials; trials in both sets; see [`calibrate_trials`].
    """
    own, fused = Path(args.score_file), [Path(file) for file in args.fuse or ()]
    where = {"source": args.protocol or own, "elsewhere": elsewhere}
    others = [match_scores(read_scores(file, keys=keys), trials, file=file, **where) for file in fused]
    scores = np.column_stack([scores, *others])
    files = [Path(file) for file in args.calibrate_on]
    is_same = [file.resolve() for file in files] == [file.resolve() for file in (own, *fused)]
    fitted, of_fitted = (trials, scores) if is_same else _read_development_set(args, keys, files)
    if not is_same and (shared := {*trials["utterance_id"]} & {*fitted["utterance_id"]}):
        raise ValueError(
            f"{files[0]} has {len(shared):,} of the trials of {own}: on trials that it is fitted on, a "
            "calibration looks better than it is. Calibrate on others, or cross-validate by --calibrate_on "
            f"{' '.join(map(str, (own, *fused)))}."
        )
    # Lists in the order of the systems, whose files may well have the same name.
    about = {"files": [file.name for file in files], "sha256": [*map(hash_scores, files)]}
    if fused:
        about["systems"] = [file.name for file in (own, *fused)]
    of_fitted = calibrate_trials(fitted, of_fitted, prior=args.calibration_prior, about=about)
    if is_same:
        return of_fitted
    source = f"by the calibration on {', '.join(about['files'])}"
    return LLRs(*find_llrs(of_fitted.calibration, scores), source, of_fitted.calibration)


def _read_development_set(
    args: EvaluationArguments, keys: Mapping[str, str], files: Sequence[Path]
) -> tuple[pd.DataFrame, np.ndarray]:
    """The trials of `--calibrate_on`, and the scores of all its files (num_trials, num_systems)."""
    columns = args.score_columns and args.score_columns.split(",")
    tables = [read_scores(file, None if i else columns, keys) for i, file in enumerate(files)]
    if args.calibrate_protocol is None:
        trials = list_scored_trials(tables[0], file=files[0], remedy="--calibrate_protocol")
    else:
        trials = pd.concat(read_protocol(Path(args.calibrate_protocol), keys).splits.values())
    source = args.calibrate_protocol or files[0]
    tables = zip(tables, files, strict=True)
    scores = [match_scores(table, trials, file=file, source=source) for table, file in tables]
    return trials, np.column_stack([-scores[0] if args.higher_is == "spoof" else scores[0], *scores[1:]])
