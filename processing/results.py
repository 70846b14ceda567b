"""`results.json`: every number with what it is of."""

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from metrics.costs import (
    ASVSPOOF5_COST,
    FORMS,
    AsvErrorRates,
    DetectionCost,
    act_dcf,
    cllr,
    min_dcf,
    min_tdcf,
    tdcf_cost,
)
from metrics.det import check_scores, describe_scores, equal_error_rate
from metrics.statistics import (
    MIN_SPEAKERS,
    MIN_TRIALS,
    Bootstrap,
    Difference,
    Speakers,
    confidence_intervals,
    paired_test,
)

from .asv_scores import AsvScores, read_asv_scores
from .files import hash_files, write_text
from .scores import write_scores
from .trials import Corpus, ProtocolColumns


PACKAGES = ("torch", "torchaudio", "transformers", "datasets", "accelerate", "safetensors", "numpy")
SCORE_OF_MODEL = "logit of bonafide minus logit of spoof, single crop; higher is more bona fide"
UNNAMED_ATTACKS = {"-", "unknown"}


@dataclass(frozen=True)
class _Scored:
    """Trials as arrays: scores, keys and speakers, (num_trials,) each."""

    scores: np.ndarray
    is_bonafide: np.ndarray
    speakers: np.ndarray

    @classmethod
    def of(cls, trials: ProtocolColumns, scores) -> "_Scored":
        is_bonafide = np.array(trials.key) == "bonafide"
        return cls(np.asarray(scores, dtype=np.float64), is_bonafide, np.array(trials.speaker_id))

    def select(self, chosen: np.ndarray) -> "_Scored":
        return _Scored(self.scores[chosen], self.is_bonafide[chosen], self.speakers[chosen])

    def classes(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the bona fide and of the spoofed trials."""
        return check_scores(self.scores[self.is_bonafide], self.scores[~self.is_bonafide])

    def are_enough(self) -> bool:
        """Whether there are enough trials of each class for a confidence interval."""
        return min(map(len, self.classes())) >= MIN_TRIALS

    def drawn(self) -> tuple[Speakers | None, str]:
        """The speakers, where they are known and enough to be drawn, and in words what is drawn."""
        bonafide, spoof = self.speakers[self.is_bonafide], self.speakers[~self.is_bonafide]
        kinds = set(bonafide.tolist()), set(spoof.tolist())
        if "-" in kinds[0] | kinds[1]:
            return None, "trials in each class (speakers are not known)"
        if min(map(len, kinds)) < MIN_SPEAKERS:
            return None, f"trials in each class (fewer than {MIN_SPEAKERS} speakers)"
        return Speakers(bonafide, spoof), f"{len(kinds[0] | kinds[1]):,} speakers"


def evaluate_corpus(
    corpus: Corpus,
    split: str,
    trials: ProtocolColumns,
    scores: np.ndarray,
    *,
    asv: AsvScores | None = None,
    bootstrap: Bootstrap | None = Bootstrap(),
) -> dict:
    """
    Results of a model's scores on one split: its identity and counts, and what [`evaluate_trials`] computes.

    Args:
        corpus, split: where the trials are from; a slice is named in full ("train[90%:]").
        trials, scores, asv, bootstrap: as in [`evaluate_trials`].
    """
    results = {
        "corpus": corpus.name,
        "split": split,
        "num_missing": None if "[" in split else corpus.missing.get(split, 0),  # unknown for a slice
        "score": SCORE_OF_MODEL,
        **evaluate_trials(trials, scores, asv=asv, breakdowns=corpus.breakdowns, bootstrap=bootstrap),
    }
    return {**results, "note": corpus.note} if corpus.note else results


def evaluate_trials(
    trials: ProtocolColumns,
    scores: np.ndarray,
    *,
    asv: AsvScores | None = None,
    breakdowns: Sequence[str] = (),
    bootstrap: Bootstrap | None = Bootstrap(),
) -> dict:
    """
    All metrics of scored trials, as fractions, by their names and forms, by attack and by the values of the
    columns that `breakdowns` names; with confidence intervals where each class has at least ten trials.

    Args:
        trials: their keys, attacks and speakers, and the columns of `breakdowns` in `extra`.
        scores: (num_trials,), higher = more bona fide.
        asv: scores of the ASV system on the same corpus and split; without them there is no t-DCF.
        bootstrap: how intervals are computed; `None` leaves them out.

    Raises:
        ValueError: a class without trials, NaN or infinity, or ASV scores of other attacks than the trials'.
    """
    scored = _Scored.of(trials, scores)
    bonafide, spoof = scored.classes()
    eer, threshold = equal_error_rate(bonafide, spoof)
    description = describe_scores(bonafide, spoof)
    rates = None if asv is None else asv_error_rates(asv, trials)
    costs = {}
    if rates is not None and description["num_distinct_scores"] >= 3:
        costs = {f"min_tdcf_{form}": tdcf_cost(rates, form) for form in FORMS}
    results = {
        "num_trials": len(scored.scores),
        "num_bonafide": len(bonafide),
        "num_spoof": len(spoof),
        "eer": eer,
        "eer_threshold": threshold,
        **_tdcf(bonafide, spoof, rates, costs),
    }
    results["min_dcf"], results["min_dcf_threshold"] = min_dcf(bonafide, spoof)
    results |= {"act_dcf": act_dcf(bonafide, spoof), "cllr": cllr(bonafide, spoof), **description}
    if bootstrap is not None and scored.are_enough():
        speakers, drawn = scored.drawn()
        intervals = confidence_intervals(
            bonafide,
            spoof,
            costs={**costs, "min_dcf": ASVSPOOF5_COST},
            speakers=speakers,
            bootstrap=bootstrap,
        )
        results["confidence_intervals"] = {
            "level": bootstrap.level,
            "method": _method(drawn, bootstrap),
            "seed": bootstrap.seed,
            **{name: [interval.low, interval.high] for name, interval in intervals.items()},
        }
    groups = {
        "attack": np.array(trials.attack),
        **{name: np.array(trials.extra[name]) for name in breakdowns},
    }
    for name, values in groups.items():
        results[f"per_{name}"] = _breakdown(values, scored, bootstrap)
    return results


def compare_scores(
    trials: ProtocolColumns,
    first: np.ndarray,
    second: np.ndarray,
    *,
    asv: AsvScores | AsvErrorRates | None = None,
    bootstrap: Bootstrap = Bootstrap(),
) -> tuple[dict[str, Difference], str]:
    """
    Paired test of two systems' scores of the same trials, and in words how it was made; see
    [`metrics.statistics.paired_test`].

    Args as [`evaluate_trials`]; `asv` may also be the error rates that results state.

    Raises:
        ValueError: as [`evaluate_trials`]; fewer than ten trials of a class.
    """
    scored = [_Scored.of(trials, scores) for scores in (first, second)]
    systems = [system.classes() for system in scored]
    costs = {"min_dcf": ASVSPOOF5_COST}
    if asv is not None and all(describe_scores(*s)["num_distinct_scores"] >= 3 for s in systems):
        rates = asv if isinstance(asv, AsvErrorRates) else asv_error_rates(asv, trials)
        costs = {**{f"min_tdcf_{form}": tdcf_cost(rates, form) for form in FORMS}, **costs}
    speakers, drawn = scored[0].drawn()
    differences = paired_test(*systems, costs=costs, speakers=speakers, bootstrap=bootstrap)
    return differences, _method(drawn, bootstrap)


def find_asv_scores(
    corpus: Corpus, split: str, file: Path | None = None
) -> tuple[AsvScores | None, list[str]]:
    """
    The ASV scores of a split, and the names of their files: those given, or those found in the corpus folder.

    Raises:
        FileNotFoundError: the file given is not there.
        ValueError: see [`read_asv_scores`].
    """
    split = split.split("[")[0]
    if file is not None and not file.is_file():
        raise FileNotFoundError(f"There is no ASV score file {file}.")
    files = corpus.asv_score_files.get(split, ()) if file is None else asv_score_files(file)
    if not files:
        return None, []
    return read_asv_scores(files, split=split), [path.name for path in files]


def asv_score_files(file: Path) -> tuple[Path, ...]:
    """The file, and the `trial_metadata.txt` that goes with it in the keys of ASVspoof 2021 LA."""
    metadata = file.parent.parent / "trial_metadata.txt"
    return (file, metadata) if file.name == "score.txt" and metadata.is_file() else (file,)


def write_results(folder: Path, results: Mapping, trials: ProtocolColumns, scores: np.ndarray) -> None:
    """Write `scores.txt` and `results.json` into `folder`, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_scores(folder / "scores.txt", trials, scores)
    write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")


def describe_model(folder: Path) -> dict:
    """Name of the model's folder and the SHA-256 of its weights."""
    return {"model": folder.name, "weights_sha256": hash_files(folder, ["*.safetensors"])}


def digest_config(folder: Path) -> str:
    """SHA-256 of what in a model's config.json its scores depend on: all but the decision threshold."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("decision_threshold", None)
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def describe_environment() -> dict:
    """Versions of the libraries and the hardware that a result was computed with."""
    hardware = {"cpu": _cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        hardware["gpu"] = torch.cuda.get_device_name()
        hardware["num_gpus"] = torch.cuda.device_count()
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"versions": {"python": platform.python_version(), **versions}, "hardware": hardware}


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def asv_error_rates(asv: AsvScores, trials: ProtocolColumns) -> AsvErrorRates:
    """
    Error rates of an ASV system that was attacked as the trials were.

    Raises:
        ValueError: the trials are of attacks that the ASV scores are not of.
    """
    other = set(trials.attack) - UNNAMED_ATTACKS - asv.attacks
    if other:
        raise ValueError(
            f"The ASV scores are of the attacks {', '.join(sorted(asv.attacks))}, but there are trials of "
            f"{', '.join(sorted(other))}. The ASV scores must be of the same corpus and split: dev with dev, "
            "eval with eval."
        )
    return AsvErrorRates.from_scores(asv.target, asv.nontarget, asv.spoof)


def _method(drawn: str, bootstrap: Bootstrap) -> str:
    return f"bootstrap of {drawn}, percentiles of {bootstrap.num_resamples} resamples"


def _tdcf(
    bonafide: np.ndarray, spoof: np.ndarray, rates: AsvErrorRates | None, costs: Mapping[str, DetectionCost]
) -> dict:
    """Both forms of the min t-DCF, or why there is none."""
    if not costs:
        reason = "there are no ASV scores"
        if rates is not None:
            reason = "there are fewer than three distinct scores, and it needs scores, not decisions"
        return {**{f"min_tdcf_{form}": None for form in FORMS}, "tdcf_left_out": reason}
    values = {}
    for form in FORMS:
        values[f"min_tdcf_{form}"], values[f"min_tdcf_{form}_threshold"] = min_tdcf(
            bonafide, spoof, rates, form
        )
    asv = {name: getattr(rates, name) for name in ("p_miss", "p_fa", "p_fa_spoof", "threshold")}
    return {**values, "asv": asv}


def _breakdown(values: np.ndarray, scored: _Scored, bootstrap: Bootstrap | None) -> dict[str, dict]:
    """
    EER of each group of trials with the same value: against the bona fide trials of the same group where the
    column is a condition of both classes (codec), against all of them where it belongs to the attack.
    """
    of_spoof = values[~scored.is_bonafide]
    of_both = bool(set(values[scored.is_bonafide]) & set(of_spoof))
    groups = {}
    names = sorted(set(values if of_both else of_spoof))
    for group in tqdm(names, desc="EER by group", leave=False, delay=2):
        chosen = values == group
        trials = scored.select(chosen if of_both else chosen | scored.is_bonafide)
        num_bonafide = int(trials.is_bonafide.sum())
        result = {"num_bonafide": num_bonafide, "num_spoof": len(trials.scores) - num_bonafide, "eer": None}
        groups[str(group)] = result
        if not result["num_bonafide"] or not result["num_spoof"]:
            continue
        result["eer"], _ = equal_error_rate(*trials.classes())
        if bootstrap is not None and trials.are_enough():
            speakers, _ = trials.drawn()
            interval = confidence_intervals(*trials.classes(), speakers=speakers, bootstrap=bootstrap)["eer"]
            result["eer_interval"] = [interval.low, interval.high]
    return groups
