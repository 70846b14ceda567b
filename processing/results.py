"""`results.json`: every number with what it is of."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from metrics.costs import (
    ASVSPOOF5_COST,
    FORMS,
    AsvErrorRates,
    DetectionCost,
    act_dcf,
    cllr,
    min_cost,
    tdcf_cost,
)
from metrics.det import check_scores, describe_scores, equal_error_range, equal_error_rate
from metrics.exact_intervals import measure_error_rate
from metrics.likelihood_ratios import cllr_min
from metrics.statistics import (
    MIN_SPEAKERS,
    MIN_TRIALS,
    Bootstrap,
    confidence_intervals,
    paired_test,
)

from .files import find_weights, hash_files, write_json
from .report import write_plots
from .scores import ASV_KEYS, read_asv_scores, write_scores
from .trials import Corpus, count_classes, split_classes


if TYPE_CHECKING:
    from .models import Countermeasure

PACKAGES = ("torch", "torchaudio", "transformers", "datasets", "accelerate", "safetensors", "numpy")
SCORE_OF_MODEL = "logit of bonafide minus logit of spoof, of one crop or the whole; higher is more bona fide"
TDCF_FORMS = {f"min_tdcf_{form}": form for form in FORMS}
UNNAMED_ATTACKS = {"-", "unknown"}


def evaluate_corpus(
    corpus: Corpus,
    split: str,
    trials: pd.DataFrame,
    scores: np.ndarray,
    *,
    asv: AsvErrorRates | None = None,
    bootstrap: Bootstrap | None = Bootstrap(),
) -> dict:
    """
    Results of a model's scores on one split: its identity and counts, and what [`evaluate_trials`] computes
    of the other arguments. A slice is named in full as the split ("train[90%:]").
    """
    results = {
        "corpus": corpus.name,
        "split": split,
        "num_missing": None if "[" in split else corpus.missing.get(split, 0),  # unknown for a slice
        "num_unreadable": corpus.unreadable.get(split, 0),
        "score": SCORE_OF_MODEL,
        **evaluate_trials(trials, scores, asv=asv, breakdowns=corpus.breakdowns, bootstrap=bootstrap),
    }
    known = {"left_out": corpus.left_out, "note": corpus.note, "data_set": corpus.hub}
    if corpus.parts:
        known["tdcf_left_out"] = "its ASV scores are of one corpus, and these are trials of several"
    return results | {name: value for name, value in known.items() if value}


def evaluate_trials(
    trials: pd.DataFrame,
    scores: np.ndarray,
    *,
    asv: AsvErrorRates | None = None,
    breakdowns: Sequence[str] = (),
    bootstrap: Bootstrap | None = Bootstrap(),
) -> dict:
    """
    All metrics of scored trials, as fractions, by their names and forms, by attack and by the values of the
    columns that `breakdowns` names; with confidence intervals where each class has at least ten trials.

    Args:
        trials: see [`~processing.trials`].
        scores: (num_trials,), higher = more bona fide.
        asv: what [`find_asv_rates`] finds for the same corpus and split; without it there is no t-DCF.
        bootstrap: how intervals are computed; `None` leaves them out.

    Raises:
        ValueError: a class without trials, NaN or infinity.
    """
    trials = trials.assign(score=np.asarray(scores, dtype=np.float64))
    bonafide, spoof = classes = check_scores(*split_classes(trials, trials["score"]))
    eer, _ = equal_error_rate(*classes)
    threshold, end = equal_error_range(*classes)
    results = {"num_trials": len(trials), "num_bonafide": len(bonafide), "num_spoof": len(spoof)}
    results |= {"eer": eer, "eer_threshold": threshold, "eer_threshold_end": end}
    costs = _list_costs(asv, classes)
    results |= dict.fromkeys(TDCF_FORMS)
    for name, cost in costs.items():
        results[name], results[f"{name}_threshold"] = min_cost(*classes, cost)
    if asv is None:
        results["tdcf_left_out"] = "there are no ASV scores"
    elif TDCF_FORMS.keys() <= costs.keys():
        results["asv"] = dataclasses.asdict(asv)
    else:
        reason = "there are fewer than three distinct scores, and it needs scores, not decisions"
        results["tdcf_left_out"] = reason
    results |= {"act_dcf": act_dcf(*classes), "cllr": cllr(*classes), "cllr_min": cllr_min(*classes)}
    results["calibration_loss"] = results["cllr"] - results["cllr_min"]
    results |= describe_scores(*classes)
    if intervals := _find_intervals(trials, costs, bootstrap):
        results["confidence_intervals"] = intervals
    for name in ("attack", *breakdowns):
        results[f"per_{name}"] = _break_down(trials, name, bootstrap)
    return results


def choose_decision_threshold(trials: pd.DataFrame, scores: np.ndarray) -> float:
    """The middle of the thresholds that have the EER: of the gap, where the classes are separated."""
    return sum(equal_error_range(*split_classes(trials, scores))) / 2


def measure_at_threshold(trials: pd.DataFrame, scores: np.ndarray, threshold: float) -> dict:
    """
    FRR and FAR of the scores (num_trials,) at a decision threshold, above which a trial is accepted; each as
    [`metrics.exact_intervals.measure_error_rate`] has it.
    """
    bonafide, spoof = split_classes(trials, scores)
    errors = {"frr": bonafide <= threshold, "far": spoof > threshold}
    return {"threshold": threshold, **{name: measure_error_rate(of) for name, of in errors.items()}}


def compare_scores(
    trials: pd.DataFrame,
    first: np.ndarray,
    second: np.ndarray,
    *,
    asv: AsvErrorRates | None = None,
    bootstrap: Bootstrap = Bootstrap(),
) -> dict:
    """
    Paired test of two systems' scores of the same trials: the `differences`, first minus second, by metric
    (see [`metrics.statistics.Difference`]), and how they were found. Args and errors as [`evaluate_trials`];
    fewer than ten trials of a class are a ValueError.
    """
    systems = [split_classes(trials, scores) for scores in (first, second)]
    speakers, method = find_speakers(split_classes(trials, trials["speaker_id"]), bootstrap)
    costs = _list_costs(asv, *systems)
    differences = paired_test(*systems, costs=costs, speakers=speakers, bootstrap=bootstrap)
    return {**method, "differences": {name: dataclasses.asdict(of) for name, of in differences.items()}}


def evaluate_condition(
    trials: pd.DataFrame,
    clean: np.ndarray,
    scores: np.ndarray,
    *,
    asv: AsvErrorRates | None = None,
    bootstrap: Bootstrap | None = Bootstrap(),
) -> dict:
    """
    What [`evaluate_trials`] computes of the scores under a condition; their `differences` to the clean scores
    of the same trials, by metric (see [`compare_scores`]); and the error rates at the threshold of the clean
    EER, `clean_frr` and `clean_far`, since a condition may move the scores of both classes alike.
    """
    results = evaluate_trials(trials, scores, asv=asv, bootstrap=bootstrap)
    threshold = choose_decision_threshold(trials, clean)
    bonafide, spoof = split_classes(trials, scores)
    results["clean_frr"] = float((bonafide <= threshold).mean())
    results["clean_far"] = float((spoof > threshold).mean())
    if "confidence_intervals" in results:
        compared = compare_scores(trials, scores, clean, asv=asv, bootstrap=bootstrap)
        results["differences"] = compared["differences"]
    return results


def find_asv_rates(
    corpus: Corpus, split: str, trials: pd.DataFrame, file: Path | None = None
) -> tuple[AsvErrorRates | None, list[str]]:
    """
    Error rates of the ASV system that was attacked as the trials were, and the names of the files of its
    scores: the one given (in the keys of ASVspoof 2021 LA with its metadata), or those in the corpus folder.
    Errors: see [`~processing.scores.read_asv_scores`] and [`compute_asv_rates`].
    """
    split = split.split("[")[0]
    if file is None:
        files = corpus.asv_score_files.get(split, ())
    elif not file.is_file():
        raise FileNotFoundError(f"There is no ASV score file {file}.")
    else:
        metadata = file.parent.parent / "trial_metadata.txt"
        files = (file, metadata) if file.name == "score.txt" and metadata.is_file() else (file,)
    if not files:
        return None, []
    return compute_asv_rates(read_asv_scores(*files, split=split), trials), [path.name for path in files]


def compute_asv_rates(asv_scores: pd.DataFrame, trials: pd.DataFrame) -> AsvErrorRates:
    """Error rates by ASV scores as read; a ValueError for trials of attacks that these are not of."""
    by_key = asv_scores.groupby("key")
    attacks = set(by_key.get_group("spoof")["attack"])
    if other := set(trials["attack"]) - UNNAMED_ATTACKS - attacks:
        raise ValueError(
            f"The ASV scores are of the attacks {', '.join(sorted(attacks))}, but there are trials of "
            f"{', '.join(sorted(other))}. The ASV scores must be of the same corpus and split: dev with dev, "
            "eval with eval."
        )
    return AsvErrorRates.from_scores(*(by_key.get_group(key)["score"] for key in ASV_KEYS))


def write_results(
    folder: Path, results: Mapping, trials: pd.DataFrame, systems: Mapping[str, np.ndarray]
) -> None:
    """
    Write plots of the scores (num_trials,) of all `systems`, `scores.txt` of the first, and its results, with
    what they were computed with, as `results.json`, which is there only when all the rest is.
    """
    (folder / "results.json").unlink(missing_ok=True)
    write_plots(folder, results, trials, systems)
    write_scores(folder / "scores.txt", trials, next(iter(systems.values())))
    write_json(folder / "results.json", {**results, **describe_environment()})


def describe_model(folder: Path) -> dict:
    """Name of the model's folder and the SHA-256 of its weights."""
    return {"model": folder.name, "weights_sha256": hash_files(find_weights(folder))}


def describe_countermeasure(countermeasure: "Countermeasure") -> dict:
    """What [`describe_model`] says, by the name of a loaded model, its commit on the Hub, what of its
    precision is not float32, and what its labels and preprocessing are, if they are its own."""
    about = {**describe_model(countermeasure.folder), "model": countermeasure.name}
    about |= countermeasure.precision.describe()
    if countermeasure.preprocessing:
        about["preprocessing"] = countermeasure.preprocessing
    return {**about, "revision": countermeasure.revision} if countermeasure.revision else about


def digest_config(folder: Path) -> str:
    """SHA-256 of what in a model's config.json its scores depend on: all but threshold and calibration."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for name in ("decision_threshold", "calibration"):
        config.pop(name, None)
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def describe_environment() -> dict:
    """Versions of the libraries and the hardware that a result was computed with: those of torch where it was
    used, and not only scores were read."""
    hardware = {"cpu": _cpu_name(), "cores": os.cpu_count()}
    if torch := sys.modules.get("torch"):
        hardware["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            hardware |= {"gpu": torch.cuda.get_device_name(), "num_gpus": torch.cuda.device_count()}
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"versions": {"python": platform.python_version(), **versions}, "hardware": hardware}


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*:(.+)", info.read_text() if info.is_file() else "", re.MULTILINE)
    return name[1].strip() if name else platform.processor()


def _list_costs(asv: AsvErrorRates | None, *systems: tuple[Sequence, Sequence]) -> dict[str, DetectionCost]:
    """The DCF, and both forms of the t-DCF, which need an ASV system, and scores instead of decisions."""
    costs = {"min_dcf": ASVSPOOF5_COST}
    if asv is None or any(np.unique(np.concatenate(classes)).size < 3 for classes in systems):
        return costs
    return {**{name: tdcf_cost(asv, form) for name, form in TDCF_FORMS.items()}, **costs}


def find_speakers(
    by_class: Sequence[np.ndarray], bootstrap: Bootstrap
) -> tuple[Sequence[np.ndarray] | None, dict]:
    """The speakers of the trials of each class, where they are known and enough to be drawn, and what results
    tell of the bootstrap."""
    by_class = [np.asarray(of_class, dtype=str) for of_class in by_class]
    kinds = [*map(set, by_class)]
    drawn = f"{len(set.union(*kinds)):,} speakers"
    if "-" in set.union(*kinds):
        by_class, drawn = None, "trials in each class (speakers are not known)"
    elif min(map(len, kinds)) < MIN_SPEAKERS:
        by_class, drawn = None, f"trials in each class (fewer than {MIN_SPEAKERS} speakers)"
    method = f"bootstrap of {drawn}, percentiles of {bootstrap.num_resamples} resamples"
    return by_class, {"level": bootstrap.level, "method": method, "seed": bootstrap.seed}


def _find_intervals(
    trials: pd.DataFrame, costs: Mapping[str, DetectionCost] | None, bootstrap: Bootstrap | None
) -> dict:
    """Confidence intervals of the EER, and of all else with costs; none for too few trials of a class."""
    if bootstrap is None or min(count_classes(trials).values()) < MIN_TRIALS:
        return {}
    speakers, method = find_speakers(split_classes(trials, trials["speaker_id"]), bootstrap)
    classes = split_classes(trials, trials["score"])
    intervals = confidence_intervals(*classes, costs=costs, speakers=speakers, bootstrap=bootstrap)
    return {**method, **{name: [interval.low, interval.high] for name, interval in intervals.items()}}


def _break_down(trials: pd.DataFrame, name: str, bootstrap: Bootstrap | None) -> dict[str, dict]:
    """EER of each group, against its own bona fide trials (a codec), or all where it has none (an attack)."""
    is_bonafide = trials["key"] == "bonafide"
    bonafide, spoof = trials[is_bonafide], trials[~is_bonafide]
    of_both = spoof[name].isin(bonafide[name]).any()
    by_value = (trials if of_both else spoof).groupby(name)
    groups = {}
    for value, group in tqdm(by_value, desc="EER by group", leave=False, delay=2):
        group = group if of_both else pd.concat([bonafide, group])
        counts = count_classes(group)
        groups[value] = {"num_bonafide": counts["bonafide"], "num_spoof": counts["spoof"], "eer": None}
        if all(counts.values()):
            groups[value]["eer"], _ = equal_error_rate(*split_classes(group, group["score"]))
        if intervals := _find_intervals(group, None, bootstrap):
            groups[value]["eer_interval"] = intervals["eer"]
    return groups
