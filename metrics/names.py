"""Every metric of `results.json`: its title, its type in a card's header, and how its value is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A metric as it is printed and published."""

    title: str
    hub_type: str  # `metric.type` in the `model-index` of a model card
    is_rate: bool = False  # a fraction, written as per cent


# By their names in results.json, in the order in which they are printed.
METRICS = {
    "eer": Metric("EER", "eer", is_rate=True),
    "min_tdcf_2019": Metric("min t-DCF (2019 form)", "t-dcf"),
    "min_tdcf_2021": Metric("min t-DCF (2021 form)", "t-dcf"),
    "min_dcf": Metric("minDCF (ASVspoof 5)", "min-dcf"),
    "act_dcf": Metric("actDCF (ASVspoof 5)", "act-dcf"),
    "cllr": Metric("Cllr (bits)", "cllr"),
    "cllr_min": Metric("Cllr_min (bits)", "cllr-min"),
    "calibration_loss": Metric("Calibration loss (bits)", "calibration-loss"),
}
# Of joint scores of ASV and countermeasure, whose results have no others.
TANDEM_METRICS = {
    "min_a_dcf": Metric("min a-DCF", "a-dcf"),
    "t_eer": Metric("t-EER (concurrent)", "t-eer", is_rate=True),
}
_ALL = METRICS | TANDEM_METRICS
CLLR_PARTS = ("cllr", "cllr_min", "calibration_loss")  # the first is the sum of the others


def format_value(name: str, value: float) -> str:
    """A metric's value with its unit: `16.001 %`, `0.3722`."""
    return f"{format_number(name, value)} %" if _ALL[name].is_rate else format_number(name, value)


def format_number(name: str, value: float) -> str:
    """A metric's value without its unit: `16.001` (per cent), `0.3722`."""
    return f"{100 * value:.3f}" if _ALL[name].is_rate else f"{value:.4f}"


def format_estimate(name: str, value: float, bounds: Sequence[float] | None) -> str:
    """A metric's value with its unit and, where it is known, its interval: `16.001 % [11.334, 20.001]`."""
    return format_value(name, value) + (f" {format_bounds(name, bounds)}" if bounds else "")


def format_bounds(name: str, bounds: Sequence[float]) -> str:
    """A confidence interval without its unit: `[11.334, 20.001]`."""
    return f"[{', '.join(format_number(name, bound) for bound in bounds)}]"


def format_error_rate(of: Mapping) -> str:
    """A counted rate: `2.013 % [0.417, 5.771], 3 of 149`, or without errors `at most 2.0 %, 0 of 149`."""
    highest = f"{100 * of['high']:#.2g}".rstrip(".")
    estimate = format_estimate("eer", of["rate"], (of["low"], of["high"]))
    rate = estimate if of["errors"] else f"at most {highest} %"
    return f"{rate}, {of['errors']:,} of {of['trials']:,}"
