"""All metrics of one split together: which trials each is of, and what goes without saying nowhere."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import official
import pandas as pd
import pytest

from metrics.statistics import Bootstrap
from processing.layouts import read_protocol
from processing.report import describe_caveats, describe_comparison, describe_results, make_title
from processing.results import (
    compare_scores,
    compute_asv_rates,
    describe_environment,
    digest_config,
    evaluate_condition,
    evaluate_corpus,
    evaluate_trials,
    find_asv_rates,
    write_results,
)
from processing.scores import ASV_KEYS, match_scores, read_asv_scores, read_scores
from processing.trials import Corpus


REPOSITORY = Path(__file__).parents[2]
QUICK = Bootstrap(num_resamples=20)
NUM = 120  # trials, of which every third is bona fide


def make_trials(**extra) -> pd.DataFrame:
    keys = ["spoof" if i % 3 else "bonafide" for i in range(NUM)]
    attacks = [f"A0{1 + i % 2}" if key == "spoof" else "-" for i, key in enumerate(keys)]
    return pd.DataFrame(
        {
            "utterance_id": [f"u{i}" for i in range(NUM)],
            "speaker_id": [f"s{i % 11}" for i in range(NUM)],
            "attack": attacks,
            "key": keys,
            **extra,
        }
    )


@pytest.fixture
def trials():
    return make_trials()


@pytest.fixture
def scores():
    generator = np.random.default_rng(0)
    return generator.normal(size=NUM) + 1.5 * (np.arange(NUM) % 3 == 0)


@pytest.fixture
def asv_scores():
    generator = np.random.default_rng(1)
    keys = np.repeat(["target", "nontarget", "spoof"], 200)
    attacks = np.concatenate([["-"] * 400, np.resize(["A01", "A02", "A03"], 200)])
    scores = np.concatenate([generator.normal(mean, 1, 200) for mean in (4, 0, 3)])
    return pd.DataFrame({"attack": attacks, "key": keys, "score": scores})


@pytest.fixture
def asv(asv_scores, trials):
    return compute_asv_rates(asv_scores, trials)


def split(trials, scores, attack=None):
    keys, attacks = np.array(trials.key), np.array(trials.attack)
    spoof = (keys == "spoof") if attack is None else attacks == attack
    return scores[keys == "bonafide"], scores[spoof]


def test_pooled_metrics_equal_the_official_ones(trials, scores, asv, asv_scores):
    results = evaluate_trials(trials, scores, asv=asv, bootstrap=QUICK)

    classes = split(trials, scores)
    rates = official.asv_rates(*(asv_scores.score[asv_scores.key == key] for key in ASV_KEYS))
    assert results["eer"] == pytest.approx(official.eer(*classes)[0], abs=1e-12)
    assert results["min_tdcf_2019"] == pytest.approx(official.min_tdcf_2019(*classes, *rates), abs=1e-12)
    assert results["min_tdcf_2021"] == pytest.approx(official.min_tdcf_2021(*classes, *rates), abs=1e-12)
    assert results["min_dcf"] == pytest.approx(official.min_dcf(*classes), abs=1e-12)
    assert results["act_dcf"] == pytest.approx(official.act_dcf(*classes), abs=1e-12)
    assert results["cllr"] == pytest.approx(official.cllr(*classes), abs=1e-12)
    assert (results["num_trials"], results["num_bonafide"], results["num_spoof"]) == (120, 40, 80)
    assert results["asv"]["p_fa_spoof"] == pytest.approx(rates[2])


def test_published_scores_give_the_published_numbers_and_every_attacks_eer(shared_data):
    protocol = read_protocol(
        shared_data / "asvspoof2019_la_protocols" / "ASVspoof2019.LA.cm.eval.trl.txt"
    ).splits["eval"]
    file = shared_data / "published_scores" / "RawGAT_ST_cat.asvspoof2019_la_eval.txt"
    scores = match_scores(read_scores(file), protocol, file=file, source="the protocol")
    folder = shared_data / "asvspoof2019_la_mini" / "ASVspoof2019_LA_asv_scores"
    asv_scores = read_asv_scores(folder / "ASVspoof2019.LA.asv.eval.gi.trl.scores.txt")
    asv = compute_asv_rates(asv_scores, protocol)

    results = evaluate_trials(protocol, scores, asv=asv, bootstrap=None)

    assert 100 * results["eer"] == pytest.approx(1.235388940, abs=5e-10)
    assert results["min_tdcf_2019"] == pytest.approx(0.038810095, abs=5e-10)
    assert results["min_tdcf_2021"] == pytest.approx(0.099108305, abs=5e-10)
    expected = {
        attack: pytest.approx(official.eer(*split(protocol, scores, attack))[0], abs=1e-12)
        for attack in results["per_attack"]
    }
    assert {attack: values["eer"] for attack, values in results["per_attack"].items()} == expected
    assert {values["num_spoof"] for values in results["per_attack"].values()} == {4914}
    assert len(expected) == 13


def test_each_attack_is_measured_against_all_bona_fide_trials(trials, scores):
    results = evaluate_trials(trials, scores, bootstrap=QUICK)

    assert list(results["per_attack"]) == ["A01", "A02"]
    for attack, values in results["per_attack"].items():
        assert values["eer"] == pytest.approx(official.eer(*split(trials, scores, attack))[0])
        assert (values["num_bonafide"], values["num_spoof"]) == (40, 40)


def test_condition_of_both_classes_is_measured_within_each_condition(scores):
    codec = ["alaw" if i % 2 else "none" for i in range(NUM)]
    trials = make_trials(codec=codec)

    results = evaluate_trials(trials, scores, breakdowns=["codec"], bootstrap=QUICK)

    of_alaw = np.array(codec) == "alaw"
    is_bonafide = np.array(trials.key) == "bonafide"
    expected = official.eer(scores[of_alaw & is_bonafide], scores[of_alaw & ~is_bonafide])[0]
    assert results["per_codec"]["alaw"]["eer"] == pytest.approx(expected)
    assert results["per_codec"]["alaw"]["num_bonafide"] == 20


def test_column_that_belongs_to_the_attack_is_measured_against_all_bona_fide_trials(scores):
    keys = make_trials().key
    vocoders = [
        "bonafide" if key == "bonafide" else "neural" if i % 2 else "classic" for i, key in enumerate(keys)
    ]
    trials = make_trials(vocoder=vocoders)

    results = evaluate_trials(trials, scores, breakdowns=["vocoder"], bootstrap=QUICK)

    assert {name: group["num_bonafide"] for name, group in results["per_vocoder"].items()} == {
        "classic": 40,
        "neural": 40,
    }


def test_condition_of_one_class_only_has_no_eer(scores):
    trials = make_trials(codec=["rare" if i == 1 else "none" for i in range(NUM)])

    group = evaluate_trials(trials, scores, breakdowns=["codec"], bootstrap=QUICK)["per_codec"]["rare"]

    assert group == {"num_bonafide": 0, "num_spoof": 1, "eer": None}


def test_intervals_are_by_speaker_where_speakers_are_known(trials, scores):
    intervals = evaluate_trials(trials, scores, bootstrap=QUICK)["confidence_intervals"]

    assert intervals["method"] == "bootstrap of 11 speakers, percentiles of 20 resamples"
    low, high = intervals["eer"]
    assert 0 < low < high < 1


@pytest.mark.parametrize(
    ("speakers", "reason"),
    [(["-"] * NUM, "not known"), (["s1", "s2"] * (NUM // 2), "fewer than 10 speakers")],
)
def test_intervals_say_why_they_are_not_by_speaker(trials, scores, speakers, reason):
    trials["speaker_id"] = speakers

    method = evaluate_trials(trials, scores, bootstrap=QUICK)["confidence_intervals"]["method"]

    assert "bootstrap of trials in each class" in method and reason in method


def test_few_trials_have_no_interval():
    trials = make_trials()[:3].assign(speaker_id="-")

    results = evaluate_trials(trials, np.array([1.0, 0.0, 0.5]))

    assert results["eer"] == 0 and "confidence_intervals" not in results
    assert "eer_interval" not in results["per_attack"]["A01"]


def test_without_asv_scores_the_tdcf_is_left_out_and_said_to_be(trials, scores):
    results = evaluate_trials(trials, scores, bootstrap=QUICK)

    assert (results["min_tdcf_2019"], results["min_tdcf_2021"]) == (None, None)
    assert describe_caveats(results) == ["The t-DCF is left out: there are no ASV scores."]


def test_decisions_have_an_eer_but_no_tdcf(trials, scores, asv):
    results = evaluate_trials(trials, (scores > 0).astype(float), asv=asv, bootstrap=QUICK)

    assert results["min_tdcf_2019"] is None and results["eer"] is not None
    assert "fewer than three distinct scores" in results["tdcf_left_out"]
    assert any("have the score of a trial of the other class" in note for note in describe_caveats(results))


def test_constant_scores_are_reported_as_constant_and_never_as_inverted(trials, asv):
    notes = describe_caveats(evaluate_trials(trials, np.zeros(NUM), asv=asv, bootstrap=QUICK))

    assert any("EER of constant scores says nothing" in note for note in notes)
    assert not any("higher_is" in note for note in notes)


def test_inverted_scores_are_reported_with_the_remedy_and_not_flipped(trials, scores):
    results = evaluate_trials(trials, -scores)

    assert results["eer"] > 0.5
    (note,) = [note for note in describe_caveats(results, "say --higher_is spoof") if "50 %" in note]
    assert "If so, say --higher_is spoof; nothing was changed" in note
    assert any("check the order of id2label" in note for note in describe_caveats(results))


def test_error_rate_of_chance_is_not_called_inverted(trials):
    chance = np.random.default_rng(3).normal(size=NUM) - 0.05 * (np.arange(NUM) % 3 == 0)

    results = evaluate_trials(trials, chance)

    assert results["eer"] > 0.5 > results["confidence_intervals"]["eer"][0]
    assert any("is that of chance" in note for note in describe_caveats(results))


def test_asv_scores_of_another_splits_attacks_are_refused(trials, asv_scores):
    of_eval = asv_scores.replace({"attack": {"A01": "A07", "A02": "A08", "A03": "A08"}})

    with pytest.raises(ValueError, match="attacks A07, A08, but there are trials of A01, A02.*dev with dev"):
        compute_asv_rates(of_eval, trials)


def test_real_asv_scores_go_with_their_own_split_only(shared_data):
    folder = shared_data / "asvspoof2019_la_mini" / "ASVspoof2019_LA_asv_scores"
    dev = folder / "ASVspoof2019.LA.asv.dev.gi.trl.scores.txt"
    trials = read_protocol(
        shared_data
        / "asvspoof2019_la_mini"
        / "ASVspoof2019_LA_cm_protocols"
        / "ASVspoof2019.LA.cm.eval.trl.txt"
    ).splits["eval"]

    with pytest.raises(ValueError, match="dev with dev, eval with eval"):
        find_asv_rates(Corpus("c", {}), "eval", trials, dev)


def test_nan_among_the_scores_is_refused(trials, scores):
    scores[3] = math.nan

    with pytest.raises(ValueError, match="nan"):
        evaluate_trials(trials, scores)


def test_asv_scores_are_found_in_the_corpus_by_split_and_by_slice(tmp_path, trials):
    path = tmp_path / "dev.txt"
    path.write_text("bonafide target 2\nbonafide nontarget 1\nA01 spoof 3\nA02 spoof 3\n")
    corpus = Corpus("c", {}, asv_score_files={"dev": (path,)})

    assert find_asv_rates(corpus, "dev[:50%]", trials)[1] == ["dev.txt"]
    assert find_asv_rates(corpus, "eval", trials) == (None, [])
    assert find_asv_rates(corpus, "eval", trials, path)[1] == ["dev.txt"]
    with pytest.raises(FileNotFoundError, match="no ASV score file .*other.txt"):
        find_asv_rates(corpus, "eval", trials, tmp_path / "other.txt")


def test_keys_of_asvspoof2021_complete_their_score_file(tmp_path, trials):
    (tmp_path / "ASVTorch_Kaldi").mkdir()
    metadata, score = tmp_path / "trial_metadata.txt", tmp_path / "ASVTorch_Kaldi" / "score.txt"
    kinds = ["bonafide target", "bonafide nontarget", "A01 spoof", "A02 spoof"]
    metadata.write_text("".join(f"s u{i} none loc_tx {kind} trim eval\n" for i, kind in enumerate(kinds)))
    score.write_text("".join(f"s u{i} {i}\n" for i in range(4)))
    other = tmp_path / "ASVTorch_Kaldi" / "other.txt"
    other.write_text("".join(f"{kind} {i}\n" for i, kind in enumerate(kinds)))

    corpus = Corpus("c", {})
    rates, names = find_asv_rates(corpus, "eval", trials, score)
    assert names == ["score.txt", "trial_metadata.txt"]
    assert find_asv_rates(corpus, "eval", trials, other) == (rates, ["other.txt"])


def test_results_name_corpus_split_counts_and_note(trials, scores):
    corpus = Corpus("Corpus X", {}, {"eval": 3}, note="Means nothing.")

    results = evaluate_corpus(corpus, "eval", trials, scores, bootstrap=QUICK)

    text = describe_results(results)
    assert text.splitlines()[0] == "Corpus X eval: 40 bona fide, 80 spoof, 3 missing"
    assert "Means nothing." in text
    assert (results["corpus"], results["split"], results["num_missing"]) == ("Corpus X", "eval", 3)
    assert evaluate_corpus(corpus, "eval[:50%]", trials, scores, bootstrap=QUICK)["num_missing"] is None


def test_titles_of_the_demo_corpus_say_that_it_is_synthetic():
    results = {"corpus": "demo", "split": "eval", "num_bonafide": 15, "num_spoof": 16}

    assert make_title(results) == "Demo corpus (synthetic, no speech) eval: 15 bona fide, 16 spoof"
    assert make_title({**results, "corpus": "c", "num_missing": 1_000}).endswith("16 spoof, 1,000 missing")


def test_words_on_results_need_no_torch():
    script = "import sys, processing.report; print(sorted({'torch', 'transformers'} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True)

    assert done.stdout.strip() == "[]", done.stderr


def test_table_names_the_form_of_each_tdcf(trials, scores, asv):
    text = describe_results(
        {"corpus": "c", "split": "s", **evaluate_trials(trials, scores, asv=asv, bootstrap=QUICK)}
    )

    assert "min t-DCF (2019 form)" in text and "min t-DCF (2021 form)" in text
    assert "A01" in text and "95 % intervals: bootstrap of 11 speakers" in text


def test_written_results_are_json_without_nan(tmp_path, trials, scores, asv):
    results = evaluate_trials(trials, scores, asv=asv, bootstrap=QUICK) | {"corpus": "c", "split": "s"}

    write_results(tmp_path / "out", results, trials, {"mine": scores})

    def refuse(constant):
        raise AssertionError(constant)

    text = (tmp_path / "out" / "results.json").read_text()
    assert json.loads(text, parse_constant=refuse) == results | describe_environment()
    plots = {"det.png", "scores.png", "per_attack.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.json", "scores.txt", *plots}


def test_comparison_is_paired_and_printed_with_its_p_value(trials, scores, asv):
    worse = scores + np.random.default_rng(5).normal(size=NUM)

    comparison = compare_scores(trials, scores, worse, asv=asv, bootstrap=QUICK)

    own = evaluate_trials(trials, scores, asv=asv, bootstrap=None)
    other = evaluate_trials(trials, worse, asv=asv, bootstrap=None)
    for name in ("eer", "min_tdcf_2019", "min_tdcf_2021", "min_dcf"):
        assert comparison["differences"][name]["value"] == pytest.approx(own[name] - other[name], abs=1e-12)
    table = describe_comparison(comparison, ("a", "b"))
    assert "a minus b" in table and f"p = {comparison['differences']['eer']['p_value']:.3g}" in table
    assert "bootstrap of 11 speakers, percentiles of 20 resamples" in table


def test_condition_that_moves_all_scores_keeps_the_eer_and_raises_one_error(trials, scores, asv):
    eer, threshold = official.eer(*split(trials, scores))

    moved = evaluate_condition(trials, scores, scores - 1, asv=asv, bootstrap=QUICK)

    bonafide, spoof = split(trials, scores)
    assert moved["eer"] == pytest.approx(eer, abs=1e-12)
    assert moved["differences"]["eer"] == {"value": 0, "low": 0, "high": 0, "p_value": 1}
    assert moved["differences"]["cllr"]["value"] == pytest.approx(
        official.cllr(bonafide - 1, spoof - 1) - official.cllr(bonafide, spoof), abs=1e-12
    )
    assert moved["clean_frr"] == np.mean(bonafide - 1 < threshold) > eer
    assert moved["clean_far"] == np.mean(spoof - 1 >= threshold) < eer


def test_condition_of_few_trials_has_no_paired_difference(trials, scores):
    few = evaluate_condition(trials[:12], scores[:12], scores[:12] + 1, bootstrap=QUICK)

    assert "differences" not in few and few["eer"] is not None


def test_scores_are_of_a_config_whatever_its_decision_threshold(tmp_path):
    digests = []
    for config in (
        {"a": 1},
        {"a": 1, "decision_threshold": None},
        {"decision_threshold": 2.5, "a": 1},
        {"a": 2},
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        digests.append(digest_config(tmp_path))

    assert digests[0] == digests[1] == digests[2] != digests[3]
