"""What is said of a recording: its LLR with an interval, whether the recording is fit to be judged, and the
decision of the lowest expected cost, which may be to say nothing. Imports no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logit

from metrics.calibration import resample_calibration
from metrics.exact_intervals import measure_error_rate
from metrics.names import format_error_rate
from metrics.statistics import MIN_SPEAKERS, Bootstrap

from .evaluation_arguments import EvaluationArguments
from .fitness import prepare_fitness_test
from .report import EXACT_INTERVALS
from .validation_set import ValidationSet


if TYPE_CHECKING:
    from .recordings import Recording

BOOTSTRAP = Bootstrap(num_resamples=400)
NO_STATEMENT = "no statement"
ERRORS = {  # by name, of which class, and what is said of it
    "miss": ("bonafide", "spoof"),
    "false_alarm": ("spoof", "bonafide"),
    "abstention_bonafide": ("bonafide", NO_STATEMENT),
    "abstention_spoof": ("spoof", NO_STATEMENT),
}


@dataclass(frozen=True)
class Costs:
    """
    Of which decisions are made. Those that are wrong cost something, and so does saying nothing, if it is
    allowed.

    Attributes:
        prior: probability of bona fide before the recording was heard.
        cost_miss: of calling a bona fide recording spoofed.
        cost_false_alarm: of calling a spoofed one bona fide.
        cost_abstain: of saying nothing; `None` does not allow it.
    """

    prior: float = 0.5
    cost_miss: float = 1.0
    cost_false_alarm: float = 1.0
    cost_abstain: float | None = None

    def __post_init__(self):
        if not 0 < self.prior < 1:
            raise ValueError(f"--prior {self.prior} must be above 0 and below 1.")
        costs = (self.cost_miss, self.cost_false_alarm, self.cost_abstain)
        if not all(cost is None or 0 < cost < np.inf for cost in costs):
            raise ValueError("--cost_miss, --cost_false_alarm and --cost_abstain must be above 0.")

    @classmethod
    def from_arguments(cls, args: EvaluationArguments, validation: ValidationSet | None) -> "Costs":
        """ValueError: costs or a prior, but no trials by which the error rates of a decision are known."""
        names = ("prior", "cost_miss", "cost_false_alarm", "cost_abstain")
        given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
        if given and validation is None:
            raise ValueError(
                f"--{next(iter(given))} needs the trials of the calibration of {args.model}, but there are "
                "none beside it. Calibrate the model by --calibrate on a development set."
            )
        return cls(**given)

    @property
    def thresholds(self) -> tuple[float, float]:
        """
        LLRs: below the first the decision of the lowest expected cost is spoof, above the second bona fide,
        and nothing between them. They are the same where saying nothing is not allowed, or never cheapest.
        """
        miss, false_alarm, abstain = self.cost_miss, self.cost_false_alarm, self.cost_abstain
        probabilities = [false_alarm / (miss + false_alarm)] * 2  # of bona fide
        if abstain is not None and abstain < miss * probabilities[0]:
            probabilities = [abstain / miss, 1 - abstain / false_alarm]
        low, high = logit(probabilities) - logit(self.prior)
        return float(low), float(high)

    def decide(self, llrs: np.ndarray) -> np.ndarray:
        """
        "bonafide", "spoof" or "no statement" for each LLR (num,). An LLR of just the threshold is that of
        trials that support nothing, whose bounds are both 0.
        """
        low, high = self.thresholds
        return np.select([llrs > high, llrs < low], ["bonafide", "spoof"], NO_STATEMENT)


def state(recording: "Recording", validation: ValidationSet, costs: Costs) -> dict:
    """
    What is said of a recording with a score, to be written as JSON.

    Returns:
        `llr`: `value` of the first window, cut to its `bounds`, `is_cut`, and `low` and `high`, its 95 %
        interval: percentiles over calibrations that are fitted anew on 400 resamples of the speakers of the
        validation set (of its trials where they are not known, or fewer than 10 of a class), cut as well.
        `fitness`: `is_fit`; `reasons`, why not; and what [`~processing.fitness.FitnessTest`] compared.
        `decision`: `verdict`; what it follows from; and, of such decisions by the LLR on all trials of the
        validation set, `rates` of errors with exact intervals, and `expected_cost`, over that of the best
        decision without hearing anything.
        `windows`: of a recording of several windows.
    """
    bounds = validation.about["bounds"]
    a, b = _resample(validation)
    interval = np.quantile(a * recording.scores[0] + b, [0.025, 0.975])
    low, high = np.clip(interval, *bounds).tolist()
    llr = {"value": recording.llrs[0], "low": low, "high": high}
    llr |= {"is_cut": bool(recording.llrs[0] != recording.uncut[0]), "bounds": bounds}
    test = prepare_fitness_test(validation)
    fitness = test.assess(recording.scores[0], recording.embedding, recording.measurements)
    verdict = str(costs.decide(np.array([llr["value"]]))[0]) if fitness["is_fit"] else NO_STATEMENT
    decision = {"verdict": verdict, **measure_decisions(validation, costs)}
    return {"llr": llr, "fitness": fitness, "decision": decision, "windows": None}


def explain(statement: Mapping) -> str:
    """Why a statement says nothing, or ""."""
    if statement["decision"]["verdict"] != NO_STATEMENT:
        return ""
    low, high = statement["decision"]["thresholds"]
    undecided = "Its LLR decides nothing: the trials of the calibration support no larger one."
    if low < high:
        undecided = (
            f"Its LLR lies between {low:.2f} and {high:.2f}, where either verdict costs more than none."
        )
    return " ".join(statement["fitness"]["reasons"] or [undecided])


def measure_decisions(validation: ValidationSet, costs: Costs) -> dict:
    """Costs, thresholds, and what decisions at them do on all trials of the validation set."""
    decided = costs.decide(validation.llrs)
    of_class = {"bonafide": decided[validation.is_bonafide], "spoof": decided[~validation.is_bonafide]}
    rates = {name: measure_error_rate(of_class[key] == said) for name, (key, said) in ERRORS.items()}
    # Where nothing is said at a threshold itself, either decision costs as much.
    tie = costs.cost_miss * costs.cost_false_alarm / (costs.cost_miss + costs.cost_false_alarm)
    abstain = tie if costs.cost_abstain is None else costs.cost_abstain
    of_bonafide = costs.cost_miss * rates["miss"]["rate"] + abstain * rates["abstention_bonafide"]["rate"]
    of_spoof = costs.cost_false_alarm * rates["false_alarm"]["rate"]
    of_spoof += abstain * rates["abstention_spoof"]["rate"]
    fixed = [costs.prior * costs.cost_miss, (1 - costs.prior) * costs.cost_false_alarm]
    cost = (costs.prior * of_bonafide + (1 - costs.prior) * of_spoof) / min(
        [*fixed, costs.cost_abstain or np.inf]
    )
    return {
        **asdict(costs),
        "thresholds": list(costs.thresholds),
        "expected_cost": float(cost),
        "rates": rates,
    }


def describe_decisions(validation: ValidationSet, costs: Costs) -> list[str]:
    """Sentences on how verdicts come about, and how often they are wrong."""
    of, about = measure_decisions(validation, costs), validation.about
    low, high = of["thresholds"]
    between = "" if low == high else f", nothing between that and {low:.2f}"
    abstaining = "" if costs.cost_abstain is None else f", of no statement {costs.cost_abstain:g}"
    lines = [
        f"Verdict: bona fide if the LLR is above {high:.2f}{between}, else spoof (prior {costs.prior:g}, "
        f"cost of a miss {costs.cost_miss:g}, of a false alarm {costs.cost_false_alarm:g}{abstaining}). No "
        "statement on a recording that is unlike those of the calibration."
    ]
    for name, (key, said) in ERRORS.items():
        if said != NO_STATEMENT or costs.cost_abstain is not None or of["rates"][name]["errors"]:
            lines.append(f"  {f'{key} called {said}':32}{format_error_rate(of['rates'][name])}")
    lines.append(f"  {'expected cost':32}{of['expected_cost']:.4f} (1: decided without hearing anything)")
    level = 100 * of["rates"]["miss"]["level"]
    return [*lines, f"  [of all trials of {about['corpus']} {about['split']}; {level:g} % {EXACT_INTERVALS}]"]


@lru_cache(maxsize=1)
def _resample(validation: ValidationSet) -> tuple[np.ndarray, np.ndarray]:
    """a and b (400,) of calibrations fitted on resamples."""
    is_bonafide, speakers = validation.is_bonafide, None
    groups = validation.speakers[is_bonafide], validation.speakers[~is_bonafide]
    if validation.speakers.min() >= 0 and min(len(set(of)) for of in groups) >= MIN_SPEAKERS:
        speakers = groups
    classes = validation.scores[is_bonafide], validation.scores[~is_bonafide]
    options = {"prior": validation.about["prior"], "speakers": speakers, "bootstrap": BOOTSTRAP}
    fits = resample_calibration(*classes, **options)
    return np.array([fit.a[0] for fit in fits]), np.array([fit.b for fit in fits])
