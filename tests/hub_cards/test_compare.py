"""The comparison of systems: its numbers against those computed here, and what it refuses to compare."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from made_run import COUNTS, add_evaluation, made_asv, made_scores, made_trials, make_run

from hub_cards.compare import compare_runs, render_markdown
from hub_cards.several_runs import read_runs
from processing.results import compare_scores


def two_runs(tmp_path, *, trials=None, asv=None, about=None, **training):
    """Runs `first` and `second` that are evaluated on the same eval trials, by trials, scores and results."""
    trials = made_trials() if trials is None else trials
    found = {}
    for i, name in enumerate(("first", "second")):
        folder = make_run(tmp_path / name, system=name, seed=i, **training)
        scores = made_scores(trials, seed=i, distance=1 + i)
        found[name] = scores, add_evaluation(folder, trials, scores, asv=asv, **(about or {}).get(name, {}))
    return trials, found


def compare(tmp_path, *names: str) -> dict:
    return compare_runs(read_runs([tmp_path / name for name in names or ("first", "second")]))


def table(text: str, first_column: str) -> dict[str, dict[str, str]]:
    """A Markdown table's rows, by its first column, as cells by the names of their columns."""
    lines = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    start = next(i for i, cells in enumerate(lines) if cells[0] == first_column)
    header, rows = lines[start], {}
    for cells in lines[start + 2 :]:
        if len(cells) != len(header):
            break
        rows[cells[0]] = dict(zip(header, cells, strict=True))
    return rows


def test_row_holds_size_speed_and_what_was_measured(tmp_path):
    _, found = two_runs(tmp_path, asv=made_asv())
    wild = made_trials(12, 14, prefix="wild")
    scores = made_scores(wild, seed=7, distance=0.5)
    about = {"corpus": "In-the-Wild", "split": "eval"}
    of_wild = add_evaluation(tmp_path / "first", wild, scores, name="in-the-wild-eval", **about)
    results = found["first"][1]

    rows = table(render_markdown(compare(tmp_path)), "system")

    size = (tmp_path / "first" / "model.safetensors").stat().st_size
    low, high = (100 * bound for bound in results["confidence_intervals"]["eer"])
    tdcf_low, tdcf_high = results["confidence_intervals"]["min_tdcf_2021"]
    wild_low, wild_high = (100 * bound for bound in of_wild["confidence_intervals"]["eer"])
    assert rows["first"] == {
        "system": "first",
        "parameters": "498",
        "checkpoint (MB)": f"{size / 1e6:.2f}",
        "dev EER": "not measured",
        "eval EER": f"{100 * results['eer']:.3f} % [{low:.3f}, {high:.3f}]",
        "eval min t-DCF (2019 form)": rows["first"]["eval min t-DCF (2019 form)"],
        "eval min t-DCF (2021 form)": f"{results['min_tdcf_2021']:.4f} [{tdcf_low:.4f}, {tdcf_high:.4f}]",
        "In-the-Wild EER": f"{100 * of_wild['eer']:.3f} % [{wild_low:.3f}, {wild_high:.3f}]",
        "trials (bona fide + spoof) of dev / eval / In-the-Wild": "not measured / 24 + 36 / 12 + 14",
    }
    assert rows["first"]["eval min t-DCF (2019 form)"].startswith(f"{results['min_tdcf_2019']:.4f} [")
    assert rows["second"]["In-the-Wild EER"] == "not measured"


def test_json_holds_the_same_numbers_as_fractions(tmp_path):
    _, found = two_runs(tmp_path, asv=made_asv())

    comparison = json.loads(json.dumps(compare(tmp_path)))

    for name, (_, results) in found.items():
        system = comparison["systems"][name]
        assert system["eval"]["eer"] == results["eer"]
        assert system["eval"]["min_tdcf_2019"] == results["min_tdcf_2019"]
        assert system["eval"]["confidence_intervals"]["eer"] == results["confidence_intervals"]["eer"]
        assert system["in_the_wild"] is None
        assert system["time"]["milliseconds_per_file"] == 50


def test_paired_test_is_that_of_the_scores_with_the_asv_of_the_results(tmp_path):
    trials, found = two_runs(tmp_path, asv=made_asv())
    trials["speaker_id"] = "-"  # score files do not name them
    scores = found["first"][0], found["second"][0]
    expected = compare_scores(trials, *scores, asv=made_asv())

    comparison = compare(tmp_path)
    text = render_markdown(comparison)

    (test,) = comparison["paired_tests"]
    for metric in ("eer", "min_tdcf_2019", "min_tdcf_2021"):
        assert test["differences"][metric] == expected["differences"][metric]
    eer = expected["differences"]["eer"]
    bounds = f"[{100 * eer['low']:.3f}, {100 * eer['high']:.3f}]"
    cell = table(text, "difference")["first minus second"]["EER"]
    assert cell.removeprefix("+") == f"{100 * eer['value']:.3f} % {bounds}, p = {eer['p_value']:.3g}"
    assert expected["method"] in text
    assert "not corrected for the number of tests, 3" in text


def test_paired_test_draws_the_speakers_that_a_protocol_names(tmp_path):
    trials, found = two_runs(tmp_path)
    trials["speaker_id"] = [f"speaker{i % 12}" for i in range(len(trials))]
    columns = zip(trials.speaker_id, trials.utterance_id, trials.attack, trials.key, strict=True)
    protocol = tmp_path / "protocol.txt"
    protocol.write_text("".join(f"{s} {u} - {attack} {key}\n" for s, u, attack, key in columns))
    expected = compare_scores(trials, found["first"][0], found["second"][0])

    comparison = compare_runs(read_runs([tmp_path / "first", tmp_path / "second"]), protocol)

    (test,) = comparison["paired_tests"]
    assert test["differences"]["eer"] == expected["differences"]["eer"]
    assert test["method"] == expected["method"]
    assert "12 speakers" in test["method"]
    assert "speakers are not known" not in render_markdown(comparison)


def test_order_of_a_score_file_does_not_matter_to_the_paired_test(tmp_path):
    two_runs(tmp_path)
    expected = compare(tmp_path)["paired_tests"]
    path = tmp_path / "second" / "results" / "eval" / "scores.txt"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))

    assert compare(tmp_path)["paired_tests"] == expected


def test_every_pair_of_three_systems_is_tested(tmp_path):
    trials, _ = two_runs(tmp_path)
    third = make_run(tmp_path / "third", system="third", seed=2)
    add_evaluation(third, trials, made_scores(trials, seed=2))

    text = render_markdown(compare(tmp_path, "first", "second", "third"))

    rows = table(text, "difference")
    assert list(rows) == ["first minus second", "first minus third", "second minus third"]
    assert {row["min t-DCF (2019 form)"] for row in rows.values()} == {"not measured"}
    assert "No min t-DCF: there are no ASV scores" in text


def test_systems_of_different_eval_trials_are_not_tested(tmp_path):
    two_runs(tmp_path)
    other = made_trials(prefix="other")
    add_evaluation(tmp_path / "second", other, made_scores(other, seed=1))

    text = render_markdown(compare(tmp_path))

    row = table(text, "difference")["first minus second"]
    assert row["EER"] == "not tested"
    reason = "second has no score for 60 of the 60 trials of first"
    assert row["trials (bona fide + spoof)"].startswith(reason)
    assert str(tmp_path) not in text


def test_too_few_trials_are_not_tested_and_have_no_interval(tmp_path):
    two_runs(tmp_path, trials=made_trials(9, 36))

    text = render_markdown(compare(tmp_path))

    row = table(text, "difference")["first minus second"]
    reason = row["trials (bona fide + spoof)"]
    assert "9 bona fide and 36 spoofed trials would say nothing: at least 10" in reason
    assert table(text, "system")["first"]["eval EER"].endswith(" %")
    assert "fewer than 10 trials of a class (first on eval; second on eval)" in text


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_score_file_that_does_not_fit_is_named_instead_of_a_number(tmp_path, damage):
    two_runs(tmp_path)
    path = tmp_path / "second" / "results" / "eval" / "scores.txt"
    lines = path.read_text().splitlines(keepends=True)
    path.unlink() if damage == "missing" else path.write_text("".join(lines[:-1]))

    text = render_markdown(compare(tmp_path))

    reason = table(text, "difference")["first minus second"]["trials (bona fide + spoof)"]
    assert reason == "second has no scores.txt of its results: evaluate it again"
    assert str(tmp_path) not in text


def test_tdcf_of_different_asv_systems_is_not_tested(tmp_path):
    trials, found = two_runs(tmp_path, asv=made_asv())
    other = dataclasses.replace(made_asv(), p_fa_spoof=0.5)
    add_evaluation(tmp_path / "second", trials, found["second"][0], asv=other)

    comparison = compare(tmp_path)

    (test,) = comparison["paired_tests"]
    assert list(test["differences"]) == ["eer"]
    assert "ASV error rates of the two evaluations differ" in render_markdown(comparison)


def test_system_without_eval_is_listed_but_not_tested(tmp_path):
    two_runs(tmp_path)
    make_run(tmp_path / "third", system="third", seed=2)

    text = render_markdown(compare(tmp_path, "first", "third"))

    assert table(text, "system")["third"]["eval EER"] == "not measured"
    assert "| third | not measured | – | – |" in text
    assert "third was not evaluated on eval" in text


def test_times_on_different_hardware_name_it(tmp_path):
    gpu = {"cpu": "Other CPU", "cores": 16, "threads": 8, "gpu": "Some GPU", "num_gpus": 1}
    two_runs(tmp_path, about={"second": {"hardware": gpu, "num_scored_before": 0, "num_processes": 2}})

    text = render_markdown(compare(tmp_path))

    assert "| first | 50.0 | train.py | Test CPU, threads: 1 |" in text  # 3 s of 60 trials
    other = "1 x Some GPU, Other CPU, threads: 8, processes: 2"
    assert f"| second | 50.0 | eval.py | {other} |" in text
    assert "Only those of one script and one hardware can be compared" in text


def test_time_of_an_interrupted_scoring_is_not_measured(tmp_path):
    two_runs(tmp_path, about={"second": {"num_scored_before": 32}})

    text = render_markdown(compare(tmp_path))

    assert "| second | not measured | – | – |" in text
    assert "interrupted" in text


def test_page_states_corpus_splits_counts_and_the_intervals_method(tmp_path):
    _, found = two_runs(tmp_path)

    text = render_markdown(compare(tmp_path))

    assert text.startswith("# Systems trained on ASVspoof 2019 LA\n")
    assert "- Train: split train, 30 bona fide, 40 spoof." in text
    assert "- Columns eval: ASVspoof 2019 LA eval, 24 bona fide, 36 spoof; in brackets 95 %" in text
    assert found["first"][1]["confidence_intervals"]["method"] in text
    assert "mean nothing" not in text


def test_comparison_of_demo_models_says_at_the_top_that_it_means_nothing(tmp_path):
    two_runs(tmp_path, about={name: {"corpus": "demo"} for name in ("first", "second")}, corpus="demo")

    top = render_markdown(compare(tmp_path)).split("\n|")[0]

    assert "its numbers mean nothing about real speech" in top


def test_two_runs_of_one_system_are_told_apart_by_their_folders(tmp_path):
    for i, name in enumerate(("a", "b")):
        make_run(tmp_path / name, system="lcnn|x", seed=i)

    text = render_markdown(compare(tmp_path, "a", "b"))

    assert list(table(text, "system")) == ["lcnn\\|x (a)", "lcnn\\|x (b)"]


@pytest.mark.parametrize(
    "other",
    [{"corpus": "ASVspoof 5"}, {"counts": {"train": {"bonafide": 1, "spoof": 40}, "dev": COUNTS}}],
    ids=["corpus", "counts"],
)
def test_systems_trained_on_different_data_are_refused(tmp_path, other):
    make_run(tmp_path / "first", system="first")
    make_run(tmp_path / "second", system="second", **other)

    with pytest.raises(ValueError, match="train trials of first are .*, those of second are "):
        compare(tmp_path)


def test_model_that_was_not_trained_here_is_refused(tmp_path):
    two_runs(tmp_path)
    (tmp_path / "second" / "training.json").unlink()

    with pytest.raises(FileNotFoundError, match=str(tmp_path / "second" / "training.json")):
        compare(tmp_path)


def test_one_run_is_no_comparison(tmp_path):
    two_runs(tmp_path)

    with pytest.raises(ValueError, match="two or more"):
        compare(tmp_path, "first")


def test_command_writes_markdown_and_json(tmp_path):
    two_runs(tmp_path, asv=made_asv())
    page, numbers = tmp_path / "out" / "comparison.md", tmp_path / "out" / "comparison.json"
    command = [sys.executable, "-m", "hub_cards.compare", tmp_path / "first"]

    done = subprocess.run(
        [*command, tmp_path / "second", "--output", page, "--json", numbers], cwd=ROOT, capture_output=True
    )
    failed = subprocess.run([*command, tmp_path / "none"], cwd=ROOT, capture_output=True)

    assert (done.returncode, done.stderr) == (0, b"")
    expected = compare(tmp_path)
    assert page.read_text() == render_markdown(expected)
    read = json.loads(numbers.read_text())
    assert np.isclose(read["systems"]["first"]["eval"]["eer"], expected["systems"]["first"]["eval"]["eer"])
    assert failed.returncode == 1
    assert failed.stderr.startswith(b"python -m hub_cards.compare: error: ")
