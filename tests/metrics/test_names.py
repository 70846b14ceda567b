"""The one table of metrics: how each is called and written, wherever it is printed."""

import numpy as np
import pandas as pd
import pytest

from metrics import costs
from metrics.names import METRICS, format_bounds, format_number, format_value
from processing.results import evaluate_trials


def test_metrics_are_printed_in_one_order_and_the_eer_is_the_first():
    costs = ["min_tdcf_2019", "min_tdcf_2021", "min_dcf", "act_dcf"]

    assert list(METRICS) == ["eer", *costs, "cllr", "cllr_min", "calibration_loss"]


def test_results_have_every_metric_of_the_table_in_its_order():
    keys = ["bonafide", "spoof"] * 2
    trials = pd.DataFrame({"utterance_id": list("abcd"), "speaker_id": "-", "attack": "-", "key": keys})
    asv = costs.AsvErrorRates(0.02, 0.02, 0.7)

    results = evaluate_trials(trials, np.array([2.0, 0.0, 1.0, 0.5]), asv=asv, bootstrap=None)

    assert [name for name in results if name in METRICS] == list(METRICS)


def test_titles_tell_all_metrics_apart():
    titles = [metric.title for metric in METRICS.values()]

    assert len(set(titles)) == len(METRICS)


@pytest.mark.parametrize("form", costs.FORMS)
def test_title_of_a_tdcf_names_its_form_since_the_forms_must_not_be_compared(form):
    assert f"({form} form)" in METRICS[f"min_tdcf_{form}"].title


def test_both_forms_of_the_tdcf_are_of_one_type_on_the_hub():
    assert METRICS["min_tdcf_2019"].hub_type == METRICS["min_tdcf_2021"].hub_type == "t-dcf"


def test_rate_is_written_in_per_cent_with_three_decimals():
    assert format_value("eer", 0.01235388940) == "1.235 %"
    assert format_number("eer", 0.16) == "16.000"


@pytest.mark.parametrize("name", [name for name in METRICS if name != "eer"])
def test_cost_is_written_as_it_is_with_four_decimals(name):
    assert format_value(name, 0.0388100948) == format_number(name, 0.0388100948) == "0.0388"


def test_bounds_of_an_interval_are_written_like_the_value_between_them():
    assert format_bounds("eer", (0.11334, 0.2)) == "[11.334, 20.000]"
    assert format_bounds("min_dcf", (0.3, 1.0)) == "[0.3000, 1.0000]"
