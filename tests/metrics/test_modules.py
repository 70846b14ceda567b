"""The `evaluate` modules as their users load them: by path, from elsewhere, with what their cards say."""

import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import official
import pytest
from huggingface_hub import ModelCard


FOLDER = Path(__file__).resolve().parents[2] / "metrics"
NAMES = ("eer", "min_tdcf", "asvspoof5")
TANDEM_NAMES = ("a_dcf", "t_eer")
KEYS = ["bonafide", "bonafide", "spoof", "spoof"]
SCORES = [2.0, 0.5, 1.0, -1.0]


@pytest.fixture(scope="module")
def modules():
    return {name: evaluate.load(str(FOLDER / f"{name}.py")) for name in (*NAMES, *TANDEM_NAMES)}


@pytest.fixture(scope="module")
def published(shared_data):
    path = shared_data / "published_scores" / "RawGAT_ST_cat.asvspoof2019_la_eval.txt"
    lines = [line.split() for line in path.read_text().splitlines()]
    return {"predictions": [float(line[3]) for line in lines], "references": [line[2] for line in lines]}


def test_eer_of_the_published_score_file(modules, published):
    results = modules["eer"].compute(**published)

    assert 100 * results["eer"] == pytest.approx(1.235388940, abs=5e-10)
    assert (results["num_bonafide"], results["num_spoof"]) == (7355, 63882)
    assert (results["num_tied_across_classes"], results["looks_inverted"]) == (2, False)


def test_both_forms_of_the_tdcf_of_the_published_score_file(modules, published, shared_data):
    folder = shared_data / "asvspoof2019_la_mini" / "ASVspoof2019_LA_asv_scores"
    asv = [
        line.split()
        for line in (folder / "ASVspoof2019.LA.asv.eval.gi.trl.scores.txt").read_text().splitlines()
    ]

    results = modules["min_tdcf"].compute(
        **published, asv_scores=[float(line[2]) for line in asv], asv_keys=[line[1] for line in asv]
    )

    assert results["min_tdcf_2019"] == pytest.approx(0.038810095, abs=5e-10)
    assert results["min_tdcf_2021"] == pytest.approx(0.099108305, abs=5e-10)
    assert results["p_fa_spoof_asv"] == pytest.approx(0.7606525, abs=5e-8)


def test_asvspoof5_metrics_of_the_published_score_file(modules, published):
    scores, keys = np.array(published["predictions"]), np.array(published["references"])
    trials = scores[keys == "bonafide"], scores[keys == "spoof"]

    results = modules["asvspoof5"].compute(**published)

    assert results["min_dcf"] == pytest.approx(official.min_dcf(*trials), abs=1e-12)
    assert results["act_dcf"] == pytest.approx(official.act_dcf(*trials), abs=1e-12)
    assert results["cllr"] == pytest.approx(official.cllr(*trials), abs=1e-12)


def test_given_asv_error_rates_are_used_and_returned(modules):
    rates = {"p_miss_asv": 0.02, "p_fa_asv": 0.03, "p_fa_spoof_asv": 0.7}
    trials = [2.0, 0.5], [1.0, -1.0]

    results = modules["min_tdcf"].compute(predictions=SCORES, references=KEYS, **rates)

    assert results["min_tdcf_2019"] == pytest.approx(official.min_tdcf_2019(*trials, 0.02, 0.03, 0.7))
    assert results["min_tdcf_2021"] == pytest.approx(official.min_tdcf_2021(*trials, 0.02, 0.03, 0.7))
    assert {key: results[key] for key in rates} == rates


@pytest.mark.parametrize(
    "asv",
    [
        {},
        {"p_miss_asv": 0.1, "p_fa_asv": 0.1},
        {"asv_scores": [1.0, 0.0]},
        {"asv_scores": [1.0], "asv_keys": ["target"], "p_miss_asv": 0.1},
    ],
)
def test_tdcf_needs_the_asv_system_in_one_way(modules, asv):
    with pytest.raises(ValueError, match="Give either asv_scores and asv_keys, or all of"):
        modules["min_tdcf"].compute(predictions=SCORES, references=KEYS, **asv)


@pytest.mark.parametrize(
    ("keys", "message"),
    [(["target", "client"], "not 'client'"), (["target"], "2 scores, but 1 keys")],
)
def test_tdcf_refuses_unknown_asv_keys(modules, keys, message):
    with pytest.raises(ValueError, match=message):
        modules["min_tdcf"].compute(predictions=SCORES, references=KEYS, asv_scores=[1.0, 2.0], asv_keys=keys)


@pytest.mark.parametrize(
    "id2label", [{0: "spoof", 1: "bonafide"}, {"0": "spoof", "1": "bonafide"}, ["spoof", "bonafide"]]
)
@pytest.mark.parametrize("name", NAMES)
def test_modules_take_class_indices_with_what_they_mean(modules, name, id2label):
    asv = {"p_miss_asv": 0.02, "p_fa_asv": 0.03, "p_fa_spoof_asv": 0.7} if name == "min_tdcf" else {}

    results = modules[name].compute(
        predictions=SCORES, references=np.array([1, 1, 0, 0]), id2label=id2label, **asv
    )

    assert results == modules[name].compute(predictions=SCORES, references=KEYS, **asv)


@pytest.mark.parametrize(
    ("references", "given", "message"),
    [
        ([1, 1, 0, 0], {}, "id2label"),
        (KEYS, {"id2label": ["spoof", "bonafide"]}, "go together"),
        ([1, 1, 0, 2], {"id2label": ["spoof", "bonafide"]}, "not '2'"),
        ([1, 1, 0, 0], {"id2label": ["fake", "real"]}, "not 'real'"),
    ],
)
def test_modules_refuse_references_whose_meaning_is_not_said(modules, references, given, message):
    with pytest.raises(ValueError, match=message):
        modules["eer"].compute(predictions=SCORES, references=references, **given)


@pytest.mark.parametrize("name", ["eer", "asvspoof5"])
@pytest.mark.parametrize(
    ("scores", "keys", "message"),
    [
        ([1.0, 0.0], ["genuine", "spoof"], "not 'genuine'"),
        ([1.0, 0.0], ["spoof", "spoof"], "no bona fide trial"),
        ([np.nan, 0.0], ["bonafide", "spoof"], "bona fide scores contain nan"),
    ],
)
def test_modules_refuse_what_has_no_error_rate(modules, name, scores, keys, message):
    with pytest.raises(ValueError, match=message):
        modules[name].compute(predictions=scores, references=keys)


@pytest.mark.parametrize("name", TANDEM_NAMES)
def test_modules_of_joint_scores_follow_the_official_scripts(modules, name):
    cm, asv = np.random.default_rng(0).normal(0, 1, (2, 120)) + np.repeat([[1, 1, 0], [2, 0, 1]], 40, axis=1)
    keys = {"references": np.repeat([2, 0, 1], 40), "id2label": ["nontarget", "spoof", "target"]}

    results = modules[name].compute(
        predictions=cm, **keys, **({"asv_scores": asv} if name == "t_eer" else {})
    )

    cm, asv = np.split(cm, 3), np.split(asv, 3)
    expected = {"t_eer": official.t_eer(cm, asv)[0], "a_dcf": official.min_a_dcf(*cm)}[name]
    assert results["t_eer" if name == "t_eer" else "min_a_dcf"] == pytest.approx(expected, abs=1e-12)
    assert [results[f"num_{kind}"] for kind in ("target", "nontarget", "spoof")] == [40] * 3


def test_scores_and_keys_of_different_number_are_refused(modules):
    with pytest.raises(ValueError, match="3 scores, but 2 keys|Mismatch in the number of predictions"):
        modules["eer"].compute(predictions=[1.0, 2.0, 3.0], references=["bonafide", "spoof"])


def test_module_keeps_float64(modules):
    # These scores are equal in float32.
    results = modules["eer"].compute(predictions=[1.0 + 1e-12, 1.0], references=["bonafide", "spoof"])

    assert results["eer"] == 0.0


@pytest.mark.parametrize("name", [*NAMES, *TANDEM_NAMES])
def test_example_of_the_documentation_is_true(modules, name, monkeypatch):
    monkeypatch.chdir(FOLDER.parent)
    examples = doctest.DocTestParser().get_doctest(
        modules[name].inputs_description, {"evaluate": evaluate}, name, None, None
    )

    result = doctest.DocTestRunner().run(examples)

    assert (result.failed, result.attempted > 1) == (0, True)


@pytest.mark.parametrize("name", [*NAMES, *TANDEM_NAMES])
def test_example_of_the_card_prints_what_it_says(name, monkeypatch, capsys):
    monkeypatch.chdir(FOLDER.parent)
    card = ModelCard.load(FOLDER / f"{name}.md")
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)

    exec(code, {})

    assert capsys.readouterr().out.strip() == code.strip().splitlines()[-1].split("  # ")[1]
    assert {"evaluate", "metric"} <= set(card.data.to_dict()["tags"])


def test_modules_work_alone_in_another_place(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "copied", ignore=shutil.ignore_patterns("__pycache__"))
    script = (
        "import evaluate, sys\n"
        "assert not any(name.split('.')[0] == 'metrics' for name in sys.modules)\n"
        f"print(evaluate.load('copied/min_tdcf.py').compute(predictions={SCORES}, references={KEYS}, "
        "p_miss_asv=0.0, p_fa_asv=0.0, p_fa_spoof_asv=1.0)['min_tdcf_2019'])"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}

    output = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )

    assert output.stdout.strip() == "0.5", output.stderr
