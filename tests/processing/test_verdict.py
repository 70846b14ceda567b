"""Statements: LLRs with intervals, recordings that nothing is said of, decisions by costs and their rates."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import beta

from metrics.calibration import fit_calibration
from processing.evaluation_arguments import EvaluationArguments
from processing.fitness import FitnessTest
from processing.measurements import MEASUREMENTS
from processing.recordings import Recording
from processing.validation_set import ValidationSet
from processing.verdict import Costs, describe_decisions, explain, measure_decisions, state


NUM_SPEAKERS, OF_SPEAKER, SIZE = 40, 5, 16
USUAL = {
    "seconds": 5.0,
    "speech_seconds": 3.0,
    "pauses": 40.0,
    "snr": 40.0,
    "bandwidth": 7500.0,
    "clipped": 0.0,
    "level": -20.0,
    "sampling_rate": 16_000.0,
}


def make_validation_set(**changes) -> ValidationSet:
    """200 trials of 40 speakers, half of them bona fide; the calibration is fitted on all."""
    generator = np.random.default_rng(0)
    count = NUM_SPEAKERS * OF_SPEAKER
    is_bonafide = np.arange(count) % 2 == 0
    scores = generator.normal(np.where(is_bonafide, 1, -1), 1)
    calibration = fit_calibration(scores[is_bonafide], scores[~is_bonafide])
    a, b = float(calibration.a[0]), calibration.b
    spread = {"seconds": 1, "speech_seconds": 0.5, "pauses": 5, "snr": 4, "level": 2}
    values = {
        "scores": scores,
        "llrs": np.clip(a * scores + b, -3, 3),
        "is_bonafide": is_bonafide,
        "speakers": np.repeat(np.arange(NUM_SPEAKERS), OF_SPEAKER),
        "examined": np.arange(count),
        "embeddings": 3 + generator.standard_normal((count, SIZE)),
        "window_scores": scores,
        "window_places": np.arange(count),
        "measurements": {
            n: v + spread.get(n, 0) * generator.standard_normal(count) for n, v in USUAL.items()
        },
        "about": {"a": a, "b": b, "prior": 0.5, "bounds": [-3.0, 3.0], "corpus": "made", "split": "dev"},
    }
    return ValidationSet(**(values | changes))


@pytest.fixture(scope="module")
def validation() -> ValidationSet:
    return make_validation_set()


def make_recording(validation, score=1.0, embedding=3.0, **measurements) -> Recording:
    uncut = validation.about["a"] * score + validation.about["b"]
    low, high = validation.about["bounds"]
    embedding = embedding + np.random.default_rng(1).standard_normal(SIZE)
    return Recording(
        Path("a.wav"),
        scores=[score],
        llrs=[min(max(uncut, low), high)],
        uncut=[uncut],
        embedding=embedding,
        measurements=USUAL | measurements,
    )


# LLR


def test_interval_is_that_of_calibrations_of_resampled_speakers_and_cut_as_the_llr_is(validation):
    llrs = [state(make_recording(validation, score), validation, Costs())["llr"] for score in (0.5, 40)]

    assert llrs[0]["low"] < llrs[0]["value"] < llrs[0]["high"] and not llrs[0]["is_cut"]
    assert llrs[1] == {"value": 3.0, "low": 3.0, "high": 3.0, "is_cut": True, "bounds": [-3.0, 3.0]}
    generator, drawn = np.random.default_rng(5), []
    for _ in range(100):  # the same by whole speakers, each of which has trials of both classes
        speakers = generator.integers(NUM_SPEAKERS, size=NUM_SPEAKERS)
        trials = (speakers[:, None] * OF_SPEAKER + np.arange(OF_SPEAKER)).ravel()
        scores, is_bonafide = validation.scores[trials], validation.is_bonafide[trials]
        fit = fit_calibration(scores[is_bonafide], scores[~is_bonafide])
        drawn.append(fit.apply([0.5])[0])
    assert [llrs[0]["low"], llrs[0]["high"]] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.1)


# Whether it is fit


def test_usual_recording_is_fit_and_its_statement_is_json(validation):
    statement = state(make_recording(validation), validation, Costs())

    assert json.loads(json.dumps(statement)) == statement
    fitness = statement["fitness"]
    assert fitness["is_fit"] and fitness["reasons"] == [] and explain(statement) == ""
    assert statement["decision"]["verdict"] == "bonafide"
    assert fitness["measurements"].keys() == MEASUREMENTS.keys()
    assert fitness["score_quantile"] == np.mean(validation.scores < 1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"snr": 5.0}, "Its signal-to-noise ratio, 5 dB, is lower than in the recordings"),
        ({"speech_seconds": 0.4}, "The time of speech in it, 0.4 s, is lower"),
        ({"bandwidth": 3400.0}, "Its bandwidth, 3400 Hz, is lower"),
        ({"clipped": 5.0}, "The part of it that is clipped, 5 %, is higher"),
        (
            {"sampling_rate": 8000.0},
            "Its sampling rate, 8000 Hz, is lower than in the recordings on which the model was validated, "
            "16000 to 16000 Hz.",
        ),
        ({"embedding": -3.0}, "To the network it is more unlike the recordings"),
        (
            {"snr": 48.5, "level": -24.5, "pauses": 51, "score": 3.2},
            "All in all it is more unusual than 95 %",
        ),
    ],
)
def test_nothing_is_said_of_a_recording_unlike_the_validation_set(validation, changes, reason):
    statement = state(make_recording(validation, **changes), validation, Costs())

    assert statement["decision"]["verdict"] == "no statement"
    assert not statement["fitness"]["is_fit"]
    assert any(sentence.startswith(reason) for sentence in statement["fitness"]["reasons"])
    assert explain(statement) == " ".join(statement["fitness"]["reasons"])


def test_longer_louder_or_unmeasured_recordings_are_fit(validation):
    changes = {"seconds": 3600.0, "speech_seconds": 3000.0, "sampling_rate": float("nan")}

    fitness = state(make_recording(validation, **changes), validation, Costs())["fitness"]

    assert fitness["is_fit"] and fitness["measurements"]["seconds"]["is_outside"]
    assert fitness["measurements"]["sampling_rate"]["value"] is None


def test_distances_are_those_to_other_speakers_fifth_nearest(validation):
    embeddings = np.repeat(validation.embeddings[::OF_SPEAKER], OF_SPEAKER, axis=0)  # of a speaker all alike

    test = FitnessTest(replace(validation, embeddings=embeddings))

    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for trial in (0, 77):
        others = unit[validation.speakers != validation.speakers[trial]]
        expected = np.sort(np.linalg.norm(others - unit[trial], axis=1))[4]
        assert test.distances[trial] == pytest.approx(expected)


@pytest.mark.parametrize("is_one_speaker", [False, True])
def test_recordings_like_those_of_the_validation_set_are_seldom_refused(validation, is_one_speaker):
    others = make_validation_set()
    known = replace(validation, speakers=np.zeros(200, int)) if is_one_speaker else validation
    generator, test = np.random.default_rng(9), FitnessTest(known)
    refused = []
    for trial in range(0, 200, 2):
        measured = {name: float(of[trial]) for name, of in others.measurements.items()}
        score, embedding = float(others.scores[trial]), 3 + generator.standard_normal(SIZE)
        refused.append(not test.assess(score, embedding, measured)["is_fit"])

    assert 0 < np.mean(refused) < 0.15


def test_model_without_embeddings_is_judged_by_the_rest(validation):
    without = replace(validation, embeddings=np.zeros((len(validation.scores), 0), np.float32))

    fitness = FitnessTest(without).assess(1.0, np.empty(0, np.float32), USUAL)

    assert fitness["is_fit"] and fitness["distance"] == {"value": None, "quantile": None}


# Decisions


@given(
    prior=st.floats(0.001, 0.999),
    costs=st.tuples(*[st.floats(0.01, 100)] * 2),
    abstain=st.none() | st.floats(0.001, 100),
    llr=st.floats(-20, 20),
)
def test_decision_has_the_lowest_expected_cost(prior, costs, abstain, llr):
    miss, false_alarm = costs
    probability = expit(llr + np.log(prior / (1 - prior)))
    expected = {"spoof": miss * probability, "bonafide": false_alarm * (1 - probability)}
    if abstain is not None:
        expected["no statement"] = abstain

    costs = Costs(prior, miss, false_alarm, abstain)
    assume(llr not in costs.thresholds)

    decided = str(costs.decide(np.array([llr]))[0])

    assert expected[decided] <= min(expected.values()) * (1 + 1e-6)


def test_rates_and_cost_of_decisions_by_hand():
    llrs = np.array([2.0, 1.0, 0.1, -2.0, -3.0, -0.2, 0.3, 2.0, -1.5, -2.5])
    is_bonafide = np.arange(10) < 4
    validation = replace(make_validation_set(), llrs=llrs, is_bonafide=is_bonafide)

    measured = measure_decisions(validation, Costs(prior=0.5, cost_abstain=0.25))

    assert measured["thresholds"] == pytest.approx([-np.log(3), np.log(3)])
    rates = measured["rates"]
    counts = {name: (of["errors"], of["trials"]) for name, of in rates.items()}
    assert counts == {
        "miss": (1, 4),
        "false_alarm": (1, 6),
        "abstention_bonafide": (2, 4),
        "abstention_spoof": (2, 6),
    }
    assert rates["miss"]["low"] == pytest.approx(beta.ppf(0.025, 1, 4))
    # Half of (1 / 4 + 0.25 * 2 / 4) and half of (1 / 6 + 0.25 * 2 / 6), to abstaining always, 0.25
    assert measured["expected_cost"] == pytest.approx((0.375 + 0.25) / 2 / 0.25)


def test_abstaining_is_a_verdict_with_a_reason(validation):
    statement = state(make_recording(validation, 0.05), validation, Costs(cost_abstain=0.1))

    assert statement["fitness"]["is_fit"] and statement["decision"]["verdict"] == "no statement"
    assert explain(statement).startswith("Its LLR lies between -2.20 and 2.20")


def test_trials_that_support_no_llr_give_no_verdict(validation):
    about = {**validation.about, "bounds": [0.0, 0.0]}
    of_none = replace(validation, about=about, llrs=np.zeros_like(validation.llrs))

    statement = state(make_recording(of_none), of_none, Costs())

    assert statement["decision"]["verdict"] == "no statement"
    assert explain(statement).startswith("Its LLR decides nothing")
    # Saying nothing is then not free, and not hidden: it costs what a decision without hearing costs.
    assert statement["decision"]["expected_cost"] == pytest.approx(1)
    told = "\n".join(describe_decisions(of_none, Costs()))
    assert re.search("bonafide called no statement +100", told)


@pytest.mark.parametrize("changes", [{"prior": 1.0}, {"cost_miss": 0.0}, {"cost_abstain": -1.0}])
def test_costs_that_are_none_are_refused(validation, changes):
    (name,) = changes
    with pytest.raises(ValueError, match=f"--{name}"):
        Costs.from_arguments(EvaluationArguments(model="m", **changes), validation)
    with pytest.raises(ValueError, match=f"--{name} needs the trials of the calibration of m"):
        Costs.from_arguments(EvaluationArguments(model="m", **changes), None)
