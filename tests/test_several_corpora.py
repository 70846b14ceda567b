"""Several corpora at once: rows whose names keep them apart, and a training and an evaluation on two."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from conftest import TINY_RECIPE
from made_run import add_evaluation, made_scores, made_trials, make_run

import eval as eval_script
import train
from hub_cards.card import render_card
from hub_cards.compare import compare_runs, render_markdown
from hub_cards.run_folder import read_run
from metrics.det import equal_error_rate
from processing.arguments import CorpusArguments
from processing.collation import AudioCollator
from processing.corpora import load_corpus, take_readable_splits, take_split
from processing.feature_extraction_antispoofing import AntiSpoofingFeatureExtractor
from processing.pooling import list_scopes, repeat_rows
from processing.scores import read_scores
from processing.trials import choose_split, count_classes, list_trials


LA = "ASVspoof 2019 LA"


@pytest.fixture(scope="module")
def la(tmp_path_factory, la_corpus) -> Path:
    """The made corpus with made ASV scores of its dev and eval."""
    root = shutil.copytree(la_corpus, tmp_path_factory.mktemp("several") / "LA")
    scores = root / "ASVspoof2019_LA_asv_scores"
    scores.mkdir()
    generator = np.random.default_rng(0)
    for split in ("dev", "eval"):
        lines = [
            f"{source} {key} {score}\n"
            for source, key, mean in (
                ("bonafide", "target", 4),
                ("bonafide", "nontarget", 0),
                ("A01", "spoof", 3),
            )
            for score in generator.normal(mean, 1, 50)
        ]
        (scores / f"ASVspoof2019.LA.asv.{split}.gi.trl.scores.txt").write_text("".join(lines))
    return root


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """A folder of 12 training recordings, in which an utterance and a speaker are called as in LA."""
    root = tmp_path_factory.mktemp("several") / "own"
    generator = np.random.default_rng(1)
    lines = ["file_name,label,speaker\n"]
    (root / "train").mkdir(parents=True)
    for i in range(12):
        waveform = 0.1 * generator.standard_normal(20000)
        if i % 2:
            waveform = np.convolve(waveform, np.ones(6) / 6, mode="same")
        soundfile.write(root / "train" / f"LA_T_{i:07d}.flac", waveform, 16000)
        lines.append(f"LA_T_{i:07d}.flac,{'fake' if i % 2 else 'real'},LA_{i % 2:04d}\n")
    (root / "train" / "metadata.csv").write_text("".join(lines))
    return root


def load(*names, **arguments):
    return load_corpus(CorpusArguments(dataset=[str(name) for name in names], **arguments))


def test_utterances_speakers_and_attacks_of_the_same_name_are_kept_apart(la, own):
    alone, trials = list_trials(load(la).splits["train"]), list_trials(take_split(load(la, own), "train"))

    first, second = (trials[trials["corpus"] == name] for name in (LA, "own"))
    assert len(first) == 24 and len(second) == 12 and trials["utterance_id"].is_unique
    assert [*first["utterance_id"]] == [f"asvspoof2019-la/{name}" for name in alone["utterance_id"]]
    assert {*second["speaker_id"]} == {"own/LA_0000", "own/LA_0001"}
    assert {*trials["attack"]} == {"-", "asvspoof2019-la/A01", "own/unknown"}


def test_each_corpus_has_its_own_trials_again_and_the_pool_is_of_those_that_have_the_split(la, own):
    corpus = load(la, own)
    pool, *each = list_scopes(corpus, "train", list_trials(take_split(corpus, "train")))

    assert (pool.corpus.name, pool.counts) == (f"{LA} + own", {"bonafide": 18, "spoof": 18})
    for scope, path in zip(each, (la, own), strict=True):
        expected = list_trials(load(path).splits["train"])
        assert [*scope.trials["utterance_id"]] == [*expected["utterance_id"]]
        assert [*scope.trials["speaker_id"]] == [*expected["speaker_id"]]
        assert [*pool.trials["key"].iloc[scope.places]] == [*expected["key"]]
    (dev,) = list_scopes(corpus, "dev", list_trials(take_split(corpus, "dev")))
    assert (dev.corpus.name, dev.split, dev.folder) == (LA, "dev", "")


@pytest.mark.parametrize(
    ("spec", "counts"),
    [
        ("train[:50%]", {LA: 12, "own": 6}),  # of each
        ("dev, train[50%:]", {LA: 16, "own": 6}),
        ("-, train", {"own": 12}),
    ],
)
def test_splits_are_taken_of_each_corpus(la, own, spec, counts):
    rows = take_split(load(la, own), spec)
    assert list_trials(rows)["corpus"].value_counts().to_dict() == counts


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("test", "has no split 'test', only train"),
        ("dev, train, train", "names 3 splits, but there are 2 corpora"),
        ("dev, train[:1]", "own, split train"),  # which has one class of two
    ],
)
def test_splits_that_cannot_be_taken_are_refused(la, own, spec, message):
    with pytest.raises(ValueError) as error:
        take_split(load(la, own), spec)
    assert message in str(error.value)


def test_evaluation_takes_eval_or_the_only_split_of_each(la, own):
    assert choose_split(load(la, own), None) == "eval, train"
    assert choose_split(load(la, own), "train") == "train"


def test_a_corpus_of_one_class_may_be_part_of_a_pool(la, own, tmp_path):
    real = tmp_path / "more" / "real"
    real.mkdir(parents=True)
    shutil.copy(own / "train" / "LA_T_0000000.flac", real)

    assert count_classes(list_trials(take_split(load(own, tmp_path / "more"), "train"))) == {
        "bonafide": 7,
        "spoof": 6,
    }


def test_unreadable_recordings_are_counted_for_their_corpus(la, own, tmp_path):
    damaged = shutil.copytree(own, tmp_path / "damaged")
    (damaged / "train" / "LA_T_0000003.flac").write_bytes(b"no audio")

    corpus, splits = take_readable_splits(load(la, damaged), {"train": "train"}, allow_unreadable=True)

    assert [part.unreadable for part in corpus.parts] == [{"train": 0}, {"train": 1}]
    assert (corpus.unreadable, len(splits["train"])) == ({"train": 1}, 35)


def test_a_weight_is_how_often_an_utterance_is_seen_in_an_epoch_each_time_by_another_crop(la, own):
    corpus = load(la, f"{own}:3")
    rows = repeat_rows(corpus, take_split(corpus, "train"))
    collator = AudioCollator(AntiSpoofingFeatureExtractor(num_samples=4000), crop="random")

    trials = list_trials(rows)
    assert trials["corpus"].value_counts().to_dict() == {"own": 36, LA: 24}
    assert trials["utterance_id"].is_unique
    paths = [row["audio"]["path"] for row in rows]
    own_paths = [path for path in paths if path.startswith(str(own))]
    assert {own_paths.count(path) for path in own_paths} == {3}
    same = [i for i, path in enumerate(paths) if path.endswith("own/train/LA_T_0000004.flac")]
    crops = collator([rows[i] for i in same])["input_values"]
    assert not torch.equal(crops[0], crops[1]) and not torch.equal(crops[1], crops[2])
    assert torch.equal(crops, collator([rows[i] for i in same])["input_values"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["{own}:0.5"], "0.5 is not how many times each utterance is seen in an epoch"),
        (["{own}", "{own}"], "Two of the corpora are called own"),
        (["{own}", "asvspoof2019-la"], "give that folder in place of the name"),
    ],
)
def test_what_cannot_be_pooled_is_refused(own, names, message):
    with pytest.raises(ValueError) as error:
        load(*(name.format(own=own) for name in names))
    assert message in str(error.value)


def test_data_dir_is_of_one_corpus(la, own):
    with pytest.raises(ValueError, match="--data_dir is the folder of one corpus"):
        load(la, own, data_dir="LA")


@pytest.fixture(scope="module")
def run(tmp_path_factory, la, own) -> tuple[Path, str]:
    """The folder of a small RawNet2 that was trained on both corpora, and what was printed."""
    folder = tmp_path_factory.mktemp("several_run")
    data = {"dataset": [str(la), f"{own}:2"], "train_split": "train, train[:50%]"}
    recipe = TINY_RECIPE | {"training": TINY_RECIPE["training"] | data}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    arguments = ["--output_dir", str(folder / "run"), "--num_threads", "1"]
    arguments += ["--dev_split", "dev, train[50%:]"]
    arguments += ["--num_train_epochs", "2", "--metric_for_best_model", "eer_mean", "--report_to", "none"]
    threads, output = torch.get_num_threads(), io.StringIO()
    with contextlib.redirect_stdout(output):
        train.main(["--model", str(folder / "tiny.yaml"), *arguments])
    torch.set_num_threads(threads)
    return folder / "run", output.getvalue()


def read_results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_training_has_results_of_each_corpus_and_of_both(run, la):
    folder, output = run
    pooled, *each = (
        read_results(folder / "results" / "dev" / name) for name in ("", "asvspoof2019-la", "own")
    )

    assert [(r["corpus"], r["split"], r["num_trials"]) for r in (pooled, *each)] == [
        (f"{LA} + own", "dev, train[50%:]", 22),
        (LA, "dev", 16),
        ("own", "train[50%:]", 6),
    ]
    assert {name: group["eer"] for name, group in pooled["per_corpus"].items()} == {
        r["corpus"]: r["eer"] for r in each
    }
    assert [r["min_tdcf_2019"] is None for r in (pooled, *each)] == [True, False, True]
    assert "of several" in pooled["tdcf_left_out"]
    scores = read_scores(folder / "results" / "dev" / "scores.txt")
    of_la = read_scores(folder / "results" / "dev" / "asvspoof2019-la" / "scores.txt")
    assert [*of_la["utterance_id"]] == [*list_trials(load(la).splits["dev"])["utterance_id"]]
    assert [*of_la["score"]] == [*scores["score"]][:16]
    is_bonafide = scores["key"] == "bonafide"
    eer, _ = equal_error_rate(scores.loc[is_bonafide, "score"], scores.loc[~is_bonafide, "score"])
    assert pooled["eer"] == eer
    assert read_results(folder / "results" / "eval")["corpus"] == LA  # the only one that has it
    assert f"{LA} + own dev, train[50%:]: 11 bona fide, 11 spoof" in output
    assert "In an epoch, each utterance of own is seen 2 times" in output
    assert "Model choice: eer_mean on dev" in output


def test_the_model_is_chosen_by_the_mean_of_the_eers_of_each_corpus(run):
    folder, _ = run
    state = json.loads((folder / "trainer_state.json").read_text())
    logs = [entry for entry in state["log_history"] if "eval_eer" in entry]

    for log in logs:
        assert log["eval_eer_mean"] == (log["eval_eer_asvspoof2019-la"] + log["eval_eer_own"]) / 2
    best = min(logs, key=lambda log: log["eval_eer_mean"])
    assert state["best_global_step"] == best["step"]
    dev = folder / "results" / "dev"
    assert best["eval_eer_own"] == read_results(dev / "own")["eer"]
    assert best["eval_eer"] == read_results(dev)["eer"]
    assert logs[-1]["step"] == 2 * (24 + 2 * 6) / 4  # epochs, utterances, batch size


def test_the_record_and_the_card_name_every_corpus(run):
    folder, _ = run
    record = json.loads((folder / "training.json").read_text())
    card = (folder / "README.md").read_text()
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())

    assert recipe["training"].keys().isdisjoint({"dataset", "train_split", "dev_split"})  # of this machine
    assert (record["corpus"], record["origin"]["corpus"]) == (f"{LA} + own", f"{LA} + own")
    assert record["corpora"]["own"] == {
        "weight": 2,
        "splits": {"train": "train[:50%]", "dev": "train[50%:]"},
        "counts": {"train": {"bonafide": 3, "spoof": 3}, "dev": {"bonafide": 3, "spoof": 3}},
        "missing": {"train": 0},
        "unreadable": {"train[:50%]": 0, "train[50%:]": 0},
    }
    assert "| own | 2x | train | `train[:50%]` | 3 | 3 | 0 | 0 |" in card
    assert "| own | – | dev | `train[50%:]` | 3 | 3 | 0 | 0 |" in card
    assert (
        f"| {LA} + own | dev, train[50%:] |" in card
        and f"| {LA} | dev |" in card
        and "| own | train[50%:] |" in card
    )
    results = card.split("**Results:**")[1].split("\n")[0]
    assert f"on {LA}, eval" in results and "dev" not in results


def test_evaluation_gives_the_scores_of_each_corpus_alone(run, la, own, tmp_path):
    folder, _ = run
    model = ["--model", str(folder), "--num_threads", "1", "--num_resamples", "0"]
    model += ["--batch_size", "5"]  # a batch of LA would take in the first of own
    together = [*model, "--dataset", str(la), str(own), "--output_dir", str(tmp_path / "both")]
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert eval_script.main(together) == 0
        assert eval_script.main([*model, "--dataset", str(own), "--output_dir", str(tmp_path / "own")]) == 0

    results = [read_results(tmp_path / "both" / name) for name in ("", "asvspoof2019-la", "own")]
    assert [(r["corpus"], r["split"], r["num_trials"]) for r in results] == [
        (f"{LA} + own", "eval, train", 24),
        (LA, "eval", 12),
        ("own", "train", 12),
    ]
    assert results[1]["asv_score_files"] == ["ASVspoof2019.LA.asv.eval.gi.trl.scores.txt"]
    scores = {
        name: read_scores(tmp_path / name / "scores.txt")
        for name in ("own", "both/own", "both/asvspoof2019-la")
    }
    assert [*scores["both/own"]["score"]] == [*scores["own"]["score"]]
    assert [*scores["both/own"]["utterance_id"]] == [*scores["own"]["utterance_id"]]
    in_training = read_scores(folder / "results" / "eval" / "scores.txt")
    np.testing.assert_allclose(
        scores["both/asvspoof2019-la"]["score"], in_training["score"], rtol=0, atol=1e-5
    )
    assert f"Corpus: {LA} + own eval, train, 24 trials (12 bona fide, 12 spoof)" in output.getvalue()


def test_the_header_of_a_card_lists_the_corpora_that_are_on_the_hub(tmp_path):
    about = {"weight": 1, "splits": {"train": "train"}, "counts": {"train": {"bonafide": 1, "spoof": 1}}}
    about |= {"missing": {}, "unreadable": {}}
    names = ("ASVspoof 5", "own", "org/name")
    folder = make_run(tmp_path / "run", corpus=" + ".join(names), corpora=dict.fromkeys(names, about))

    header = render_card(read_run(folder)).data

    assert header.datasets == ["jungjee/asvspoof5", "org/name"]


def test_a_comparison_has_the_eer_of_each_corpus(tmp_path):
    trials, runs = made_trials(), {}
    for seed, name in enumerate(("first", "second")):
        folder = make_run(tmp_path / name, seed=seed, corpus="A + B")
        group = {"num_bonafide": 12, "num_spoof": 30, "eer": (1 + seed) / 8, "eer_interval": [0.1, 0.3]}
        scores = made_scores(trials, seed=seed)
        add_evaluation(
            folder, trials, scores, corpus="A + B", per_corpus={"A": group, "B": {**group, "eer": None}}
        )
        runs[name] = read_run(folder)

    page = render_markdown(compare_runs(runs))

    assert (
        "EER of second on each corpus of eval:" in page
        and "| A | 25.000 % [10.000, 30.000] | 12 | 30 |" in page
    )
    assert "| B | one class only | 12 | 30 |" in page
