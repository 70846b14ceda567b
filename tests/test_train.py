"""`train.py` as its users run it: what it prints and writes, what it refuses, and a run that is killed and
resumed."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
import soundfile
import torch
import yaml
from conftest import TINY_RECIPE
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

import train
from metrics.det import equal_error_rate
from processing.collation import AudioCollator
from processing.layouts import LAYOUTS
from processing.scoring import score_rows


def read_scores(path) -> dict[str, float]:
    return {line.split()[0]: float(line.split()[3]) for line in path.read_text().splitlines()}


def results_of(run, split) -> dict:
    return json.loads((run / "results" / split / "results.json").read_text())


def test_trained_folder_is_complete_and_holds_no_pickle(trained):
    names = {path.name for path in trained.iterdir()}

    assert names >= {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "configuration_rawnet2.py",
        "modeling_rawnet2.py",
        "sinc.py",
        "feature_extraction_antispoofing.py",
        "recipe.yaml",
        "trainer_state.json",
        "training.json",
        "results",
    }
    record = json.loads((trained / "training.json").read_text())
    assert (record["corpus"], record["splits"]["train"]) == ("ASVspoof 2019 LA", "train")
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert list(trained.glob("**/events.out.tfevents.*"))


def test_small_network_learns_the_made_corpus(trained):
    assert results_of(trained, "dev")["eer"] < 0.2


@pytest.mark.parametrize(
    ("split", "ending", "classes"), [("dev", "dev.trl", (8, 8)), ("eval", "eval.trl", (6, 6))]
)
def test_score_file_has_the_protocols_trials_and_gives_the_reported_eer(
    trained, la_corpus, split, ending, classes
):
    protocol = la_corpus / "ASVspoof2019_LA_cm_protocols" / f"ASVspoof2019.LA.cm.{ending}.txt"
    expected = [(f[1], f[3], f[4]) for f in map(str.split, protocol.read_text().splitlines())]

    lines = [line.split() for line in (trained / "results" / split / "scores.txt").read_text().splitlines()]
    results = results_of(trained, split)

    assert [tuple(line[:3]) for line in lines] == expected
    scores = {key: [float(line[3]) for line in lines if line[2] == key] for key in ("bonafide", "spoof")}
    assert results["eer"] == equal_error_rate(scores["bonafide"], scores["spoof"])[0]
    assert (results["num_bonafide"], results["num_spoof"], results["num_missing"]) == (*classes, 0)
    assert (results["corpus"], results["split"]) == ("ASVspoof 2019 LA", split)


def test_scores_are_shifted_so_that_the_dev_eer_threshold_is_0_and_pipeline_gives_the_verdict(
    trained, la_corpus
):
    config = json.loads((trained / "config.json").read_text())
    dev = results_of(trained, "dev")
    lines = [line.split() for line in (trained / "results" / "dev" / "scores.txt").read_text().splitlines()]
    files = [la_corpus / "ASVspoof2019_LA_dev" / "flac" / f"{line[0]}.flac" for line in lines]

    answers = pipeline("audio-classification", model=str(trained))(
        [soundfile.read(file, dtype="float32")[0] for file in files]
    )

    assert config["decision_threshold"] == 0
    assert dev["eer_threshold"] < 0 < dev["eer_threshold_end"]
    # the middle of the gap, or of the two scores, to what the shift rounds
    assert dev["eer_threshold"] + dev["eer_threshold_end"] == pytest.approx(0, abs=1e-5)
    scores = [float(line[3]) for line in lines]
    verdicts = ["bonafide" if score > 0 else "spoof" for score in scores]
    assert [answer[0]["label"] for answer in answers] == verdicts
    assert {*verdicts} == {"bonafide", "spoof"}


def test_saved_weights_are_those_of_the_lowest_dev_eer(trained):
    state = json.loads((trained / "trainer_state.json").read_text())
    history = [entry for entry in state["log_history"] if "eval_eer" in entry]
    best = min(history, key=lambda entry: entry["eval_eer"])  # the first of equals

    saved = load_file(trained / "model.safetensors")
    checkpoint = load_file(trained / f"checkpoint-{best['step']}" / "model.safetensors")

    assert best["eval_eer"] == results_of(trained, "dev")["eer"]
    shifts = saved.pop("classifier.bias") - checkpoint.pop("classifier.bias")  # by the threshold
    assert abs(shifts.sum()) < 1e-6 < abs(shifts[0])
    assert all(torch.equal(saved[name], checkpoint[name]) for name in checkpoint)


def test_scores_are_the_logit_of_bonafide_minus_that_of_spoof(trained, la_corpus):
    model = AutoModelForAudioClassification.from_pretrained(trained).eval()
    extractor = AutoFeatureExtractor.from_pretrained(trained)
    scores = read_scores(trained / "results" / "dev" / "scores.txt")

    for utterance in list(scores)[:4]:
        waveform, rate = soundfile.read(
            la_corpus / "ASVspoof2019_LA_dev" / "flac" / f"{utterance}.flac", dtype="float32"
        )
        with torch.no_grad():
            logits = model(**extractor(waveform, sampling_rate=rate, return_tensors="pt")).logits[0]
        assert scores[utterance] == pytest.approx(float(logits[1] - logits[0]), abs=1e-5)  # 1 is bona fide


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(tmp_path, tiny_recipe, la_corpus, train_script):
    two = ("--multi_gpu", "--num_processes", "2", "--main_process_port", "0")
    output = train_script.run(
        *("--model", tiny_recipe, "--data_dir", la_corpus, "--output_dir", tmp_path / "run", "--use_cpu"),
        *("--num_train_epochs", 2, "--per_device_eval_batch_size", 1),
        launch=(*two, "tests/process_group_at_exit.py"),
    )

    model = AutoModelForAudioClassification.from_pretrained(tmp_path / "run")
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "run")
    rows = LAYOUTS["asvspoof2019-la"].load(la_corpus).splits["eval"]
    one_process = score_rows(model, AudioCollator(extractor), rows)
    scores = read_scores(tmp_path / "run" / "results" / "eval" / "scores.txt")

    assert json.loads((tmp_path / "run" / "training.json").read_text())["num_processes"] == 2
    assert list(scores) == rows["utterance_id"][:]
    np.testing.assert_allclose(list(scores.values()), one_process, atol=1e-5)
    assert output.count("Model, card, scores and results") == 1  # one process speaks
    assert output.count("Process group at exit: False") == 2
    # The evaluation that chose the best model saw the weights that were saved: the loss is the weighted mean
    # over all trials of the cross-entropy, a function of the score.
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    history = [entry for entry in state["log_history"] if "eval_eer" in entry]
    best = min(history, key=lambda entry: entry["eval_eer"])
    lines = (tmp_path / "run" / "results" / "dev" / "scores.txt").read_text().splitlines()
    is_bonafide = np.array([line.split()[2] == "bonafide" for line in lines])
    saved, checkpoint = (
        AutoModelForAudioClassification.from_pretrained(tmp_path / "run" / each).classifier.bias.detach()
        for each in ("", f"checkpoint-{best['step']}")
    )
    shift = float((saved - checkpoint) @ torch.tensor([-1.0, 1.0]))  # of the scores; spoof comes first
    scores = np.array([float(line.split()[3]) for line in lines]) - shift
    margins = scores * np.where(is_bonafide, 1, -1)
    losses, weights = np.log1p(np.exp(-margins)), np.where(is_bonafide, 1, 2)
    assert best["eval_loss"] == pytest.approx(np.average(losses, weights=weights), abs=2e-6)


def test_run_killed_while_it_writes_a_checkpoint_resumes_bit_for_bit(
    tmp_path, tiny_recipe, la_corpus, train_script
):
    # Checkpoints every 4 of 6 steps per epoch, so most lie in the middle of an epoch; the crop is random.
    arguments = [
        "--model",
        tiny_recipe,
        "--data_dir",
        la_corpus,
        "--eval_strategy",
        "steps",
        "--eval_steps",
        4,
    ]
    arguments += ["--save_strategy", "steps", "--save_steps", 4, "--logging_steps", 1]
    augmentation = [{"rawboost": {"algorithm": 5}, "probability": 0.5}]
    arguments += ["--augmentation", json.dumps(augmentation)]
    arguments += ["--average_checkpoints", 3]
    train_script.run(*arguments, "--output_dir", tmp_path / "whole")

    killed = tmp_path / "killed"
    half_written = killed / "checkpoint-8" / "optimizer.pt"
    half_written.parent.mkdir(parents=True)
    os.mkfifo(half_written)  # the run blocks here, in the middle of its second checkpoint
    process = train_script.start(*arguments, "--output_dir", killed, "--resume_from_checkpoint", "last")
    with open(half_written, "rb") as pipe:
        written = pipe.read(100)
        train_script.kill(process)
    half_written.unlink()
    half_written.write_bytes(written)
    assert not (killed / "config.json").exists()
    output = train_script.run(*arguments, "--output_dir", killed, "--resume_from_checkpoint", "last")

    assert "checkpoint-8 is incomplete" in output
    whole_weights, resumed_weights = (
        load_file(run / "model.safetensors") for run in (tmp_path / "whole", killed)
    )
    assert all(torch.equal(value, resumed_weights[name]) for name, value in whole_weights.items())
    for split in ("dev", "eval"):
        texts = [(run / "results" / split / "scores.txt").read_text() for run in (tmp_path / "whole", killed)]
        assert texts[0] == texts[1]
    losses = [
        [
            e["loss"]
            for e in json.loads((run / "trainer_state.json").read_text())["log_history"]
            if "loss" in e
        ]
        for run in (tmp_path / "whole", killed)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 24
    # What was done to the training utterances is in the records and in the card.
    record = json.loads((killed / "training.json").read_text())
    recipe = yaml.safe_load((killed / "recipe.yaml").read_text())
    card = (killed / "README.md").read_text()
    stated = record["settings"]["augmentation"]
    [step] = stated
    assert (step["rawboost"]["algorithm"], step["probability"]) == (5, 0.5)
    assert step["rawboost"]["snr"] == [10.0, 40.0]  # which is its default
    assert record["overridden"]["augmentation"] == recipe["training"]["augmentation"] == stated
    assert f"| `augmentation` | `{json.dumps(stated)}` (one after the other" in card
    assert "Training utterances are augmented" in card and "No data augmentation" not in card
    records = [json.loads((run / "training.json").read_text()) for run in (tmp_path / "whole", killed)]
    assert records[0]["averaging"] == records[1]["averaging"] and len(records[0]["averaging"]["steps"]) == 3


@pytest.mark.slow
def test_resuming_a_run_that_had_stopped_early_does_not_train_on(
    tmp_path, tiny_recipe, la_corpus, train_script
):
    arguments = ["--model", tiny_recipe, "--data_dir", la_corpus, "--output_dir", tmp_path / "run"]
    arguments += ["--learning_rate", 0, "--early_stopping_patience", 1, "--num_train_epochs", 50]
    arguments += ["--average_checkpoints", 2]
    train_script.run(*arguments)
    scores = (tmp_path / "run" / "results" / "eval" / "scores.txt").read_text()
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    for path in ("config.json", "model.safetensors", "results"):  # as if killed after the last checkpoint
        shutil.rmtree(moved / path) if (moved / path).is_dir() else (moved / path).unlink()
    arguments[arguments.index("--output_dir") + 1] = moved

    train_script.run(*arguments, "--resume_from_checkpoint", "last")

    assert json.loads((moved / "trainer_state.json").read_text())["global_step"] == 12
    assert json.loads((moved / "training.json").read_text())["averaging"]["steps"] == [6, 12]
    assert (moved / "results" / "eval" / "scores.txt").read_text() == scores


def test_training_goes_on_from_a_saved_models_folder(tmp_path, trained, la_corpus, train_script):
    train_script.run(
        *("--model", trained, "--data_dir", la_corpus, "--output_dir", tmp_path / "next"),
        *("--learning_rate", 0, "--num_train_epochs", 1),
    )

    before, after = (load_file(folder / "model.safetensors") for folder in (trained, tmp_path / "next"))
    changed = ("running_", "num_batches", "classifier.bias")  # which the threshold on dev shifts
    parameters = [name for name in before if not any(part in name for part in changed)]
    assert all(torch.equal(before[name], after[name]) for name in parameters)
    digest = hashlib.sha256((trained / "model.safetensors").read_bytes()).hexdigest()
    record = json.loads((tmp_path / "next" / "training.json").read_text())
    trained_here = {"kind": "trained", "corpus": "ASVspoof 2019 LA", "published": False}
    new = {**trained_here, "license_from_recipe": True, "before": None}
    about = {"model": "run", "weights_sha256": {"model.safetensors": digest}}
    assert record["origin"] == {**new, "before": {**about, **new}}
    said = "Training went on from the weights of `run`, trained on ASVspoof 2019 LA."
    assert said in (tmp_path / "next" / "README.md").read_text()


def test_command_line_overrides_the_recipe_and_is_recorded(
    trained, tmp_path, tiny_recipe, la_corpus, train_script
):
    stated = {"demo_training": {"num_train_epochs": 3, "max_steps": 5}}
    stated["inferred"] = {"training.weight_decay": "a choice", "training.crop": "not stated"}
    tiny_recipe.write_text(yaml.safe_dump(yaml.safe_load(tiny_recipe.read_text()) | stated))

    output = train_script.run(
        *("--model", tiny_recipe, "--data_dir", la_corpus, "--output_dir", tmp_path / "run"),
        *(
            "--num_train_epochs",
            1,
            "--lr_scheduler_type",
            "linear",
            "--weight_decay",
            0.5,
            "--bf16",
            "--use_cpu",
            "--run_name",
            "/data/anna/run7",
        ),
    )

    record = json.loads((tmp_path / "run" / "training.json").read_text())
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    expected = {"num_train_epochs": 1.0, "lr_scheduler_type": "linear", "weight_decay": 0.5}
    assert record["overridden"] == {**expected, "bf16": True, "use_cpu": True, "run_name": "run7"}
    assert recipe["training"]["lr_scheduler_type"] == "linear"
    assert recipe["demo_training"] == {"max_steps": 5}  # for a training that goes on from here
    assert recipe["inferred"] == {"training.crop": "not stated"}
    assert "From the command line: weight_decay 0.5" in output
    assert json.loads((trained / "training.json").read_text())["overridden"] == {}


@pytest.mark.slow
def test_folder_in_audiofolder_layout_trains_and_balances_its_classes(tmp_path, tiny_recipe, train_script):
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("dev", 8)):
        for i in range(count):
            label = "Real" if i % 4 == 0 else "FAKE"
            (tmp_path / "data" / split / label).mkdir(parents=True, exist_ok=True)
            path = tmp_path / "data" / split / label / f"{i}.wav"
            soundfile.write(path, 0.1 * generator.standard_normal((6000, 2)), 22050)
    recipe = yaml.safe_load(tiny_recipe.read_text())
    recipe["model"] |= {"class_weights": "balanced", "loss": "oc_softmax"}
    tiny_recipe.write_text(yaml.safe_dump(recipe))

    output = train_script.run(
        *("--model", tiny_recipe, "--dataset", tmp_path / "data", "--output_dir", tmp_path / "run"),
        *("--num_train_epochs", 1),
    )

    assert "There is no eval split" in output
    results = results_of(tmp_path / "run", "dev")
    assert results["corpus"] == "data" and results["num_spoof"] == 6  # no path of this machine
    assert "of data" in (tmp_path / "run" / "README.md").read_text()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["class_weights"] == {"bonafide": 12 / (2 * 3), "spoof": 12 / (2 * 9)}
    assert config["loss"] == "oc_softmax" and config["decision_threshold"] == 0


def test_unknown_argument_is_an_error_with_the_nearest_name(refused):
    assert "unknown argument --learning_rat (did you mean '--learning_rate'?)" in refused(
        "--model", "rawnet2", "--learning_rat", "1e-3"
    )


def test_help_is_printed(capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(["--help"])

    assert stop.value.code == 0
    assert "train[:90%]" in " ".join(capsys.readouterr().out.split())


def test_help_of_a_system_shows_the_defaults_that_it_has_under_headings(capsys):
    with pytest.raises(SystemExit):
        train.main(["--model", "aasist", "--data_dir", "LA", "--help"])

    text = capsys.readouterr().out
    headings = ["\nmodel:", "\ncorpus:", "\nsplits:", "\ntraining by gradient", "\nlfcc-gmm only:"]
    places = [text.index(heading) for heading in [*headings, "\narguments of transformers' Trainer:"]]
    assert places == sorted(places)
    text = " ".join(text.split())
    assert "Total number of training epochs to perform. (default: 100)" in text
    assert "gradient of every parameter. (default: adam)" in text


def test_another_schedule_drops_the_arguments_of_the_recipes():
    run = train.parse_arguments(["--model", "rawnet2-plateau", "--lr_scheduler_type", "cosine"])

    assert run.args.lr_scheduler_type == "cosine" and not run.args.lr_scheduler_kwargs
    assert "lr_scheduler_kwargs" not in run.recipe.training


@pytest.mark.parametrize("system", ["aasist", "aasist-l"])
def test_aasist_is_trained_as_its_authors_do(system):
    run = train.parse_arguments(["--model", system, "--data_dir", "LA"])

    assert run.gradient_args.optimizer == "adam" and run.gradient_args.crop == "random"
    assert run.gradient_args.average_checkpoints == "swa"
    args = run.args
    assert (args.learning_rate, args.weight_decay, args.max_grad_norm, args.seed) == (1e-4, 1e-4, 0, 1234)
    assert (args.num_train_epochs, args.per_device_train_batch_size) == (100, 24)
    assert args.dataloader_drop_last
    assert (args.lr_scheduler_type, args.lr_scheduler_kwargs) == ("cosine_with_min_lr", {"min_lr": 5e-6})
    assert run.recipe.model["class_weights"] == {"spoof": 0.1, "bonafide": 0.9}


def test_optimizer_of_the_command_line_takes_the_place_of_the_recipes():
    run = train.parse_arguments(["--model", "aasist", "--data_dir", "LA", "--optim", "adamw_torch"])

    assert run.gradient_args.optimizer is None and run.args.optim == "adamw_torch"
    assert "optimizer" not in run.recipe.training and run.overrides == {"optim": "adamw_torch"}


def test_average_that_could_not_be_compared_with_the_best_checkpoint_is_refused(refused):
    without_best = ("--model", "aasist", "--load_best_model_at_end", "False", "--data_dir", "LA")

    assert "--average_checkpoints 1 makes no average" in refused(*without_best)
    run = train.parse_arguments([*without_best, "--average_checkpoints", "1"])
    assert not run.gradient_args.is_averaging


def test_recipe_gives_the_defaults_and_the_demo_corpus_reduces_the_schedule():
    on_corpus = train.parse_arguments(["--model", "rawnet2-plateau", "--data_dir", "LA"])
    on_demo = train.parse_arguments(["--model", "rawnet2-plateau", "--per_device_train_batch_size", "4"])

    assert (on_corpus.args.num_train_epochs, on_corpus.args.weight_decay) == (60, 2e-4)
    assert on_corpus.args.lr_scheduler_kwargs == {"mode": "min", "patience": 3, "factor": 0.1}
    assert on_corpus.gradient_args.early_stopping_patience == 15 and on_corpus.reduced == {}
    assert on_demo.reduced == {"num_train_epochs": 3}
    assert (on_demo.args.num_train_epochs, on_demo.args.per_device_train_batch_size) == (3, 4)


def test_label_smoothing_that_would_bypass_the_class_weights_is_refused(refused):
    assert "class weights" in refused("--model", "rawnet2", "--label_smoothing_factor", "0.1")


def test_trained_model_that_lacks_a_tensor_is_not_trained_on(refused, trained, la_corpus, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    name = "classifier.weight"
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    message = refused("--model", folder, "--data_dir", la_corpus, "--output_dir", tmp_path / "run")

    assert f"lacks 1 of the needed tensors, among them {name}" in message


def test_resuming_with_other_settings_is_refused(refused, trained, la_corpus, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["model"]["id2label"] = {0: "bonafide", 1: "spoof"}
    (tmp_path / "flipped.yaml").write_text(yaml.safe_dump(recipe))

    message = refused(
        *("--model", tmp_path / "flipped.yaml", "--data_dir", la_corpus, "--output_dir", run),
        *("--resume_from_checkpoint", "last"),
    )

    assert "other settings: model.id2label was None, now {'0': 'bonafide', '1': 'spoof'}" in message


@pytest.mark.parametrize(
    ("argument", "value", "before"),
    [
        ("learning_rate", 0.01, 0.001),
        ("per_device_train_batch_size", 2, 4),
        ("gradient_accumulation_steps", 2, 1),
        ("weight_decay", 0.5, 0.0),
        ("seed", 3, 42),
        ("crop", "start", "random"),
        ("augmentation", [{"resample": {"sampling_rate": 8000}, "probability": 1.0}], None),
        ("lr_scheduler_type", "linear", "cosine"),
        ("metric_for_best_model", "loss", "eer"),
        ("train_split", "train[:20]", "train"),
    ],
)
def test_argument_that_differs_from_how_the_run_began_is_refused(
    refused, trained, la_corpus, tmp_path, argument, value, before
):
    run = resumable(trained, tmp_path)

    given = json.dumps(value) if isinstance(value, list) else value
    message = refused(*run, "--data_dir", la_corpus, f"--{argument}", given)

    name = argument.replace("train_split", "train.split")
    assert f"other settings: {name} was {before!r}, now {value!r}" in message
    assert "What may change: number of epochs and steps, logging, workers" in message


def test_audio_or_labels_that_differ_from_how_the_run_began_are_refused(
    refused, trained, la_corpus, tmp_path
):
    run, corpus = resumable(trained, tmp_path), shutil.copytree(la_corpus, tmp_path / "LA")
    audio = corpus / "ASVspoof2019_LA_train" / "flac"
    shutil.copy(audio / "LA_T_0000000.flac", audio / "LA_T_0000001.flac")
    protocol = corpus / "ASVspoof2019_LA_cm_protocols" / "ASVspoof2019.LA.cm.dev.trl.txt"
    lines = protocol.read_text().splitlines(keepends=True)
    protocol.write_text("".join(lines[2:]))

    message = refused(*run, "--data_dir", corpus)

    assert "train.audio_bytes was " in message and "train.split" not in message
    assert "dev.bonafide was 8, now 7; dev.spoof was 8, now 7" in message


@pytest.mark.slow
def test_epochs_logging_and_workers_may_change_when_a_run_is_resumed(
    trained, la_corpus, tmp_path, train_script
):
    changes = ("--num_train_epochs", 5, "--logging_steps", 1, "--dataloader_num_workers", 1)

    train_script.run(*resumable(trained, tmp_path), "--data_dir", la_corpus, *changes)

    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert state["global_step"] == 30
    before, after = (json.loads((run / "training.json").read_text()) for run in (trained, tmp_path / "run"))
    assert after["settings"] == before["settings"]
    assert after["overridden"]["num_train_epochs"] == 5.0


def resumable(trained, folder) -> tuple:
    """Arguments of `train.py` that go on with a copy of a run."""
    recipe = folder / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(TINY_RECIPE))
    run = shutil.copytree(trained, folder / "run")
    return "--model", recipe, "--output_dir", run, "--resume_from_checkpoint", "last"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"crop": "middle"}}, "crop 'middle' is not one of start, random"),
        ({"training": {"optimizer": "sgd"}}, "optimizer 'sgd' is not one of adam"),
        ({"training": {"augmentation": [{"rawbost": {}}]}}, "key 'rawbost' (did you mean 'rawboost'?)"),
        ({"training": {"per_device_train_batch_size": 8.5}}, "invalid int value: '8.5'"),
        ({"training": {"output_dir": "runs"}}, "unknown key 'output_dir'"),
        ({"model": {"model_type": "wav2vec2"}}, "model_type 'wav2vec2' is not one of aasist, lcnn"),
    ],
)
def test_bad_value_in_the_yaml_is_an_error_of_one_line(refused, tiny_recipe, la_corpus, changes, message):
    recipe = yaml.safe_load(tiny_recipe.read_text())
    for section, values in changes.items():
        recipe[section] |= values
    tiny_recipe.write_text(yaml.safe_dump(recipe))

    assert message in refused(
        "--model", tiny_recipe, "--data_dir", la_corpus, "--output_dir", tiny_recipe.parent / "run"
    )


def test_abbreviated_argument_is_unknown(refused):
    assert "unknown argument --num_train_epoch" in refused("--model", "rawnet2", "--num_train_epoch=3")


def test_unknown_model_is_an_error_that_lists_the_systems(refused):
    message = refused("--model", "rawnet3")

    assert "rawnet2-plateau" in message and "did you mean 'rawnet2'" in message


def test_missing_model_is_an_error_of_one_line(refused):
    message = refused()

    assert "--model" in message and len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("section", "key", "nearest"),
    [
        ("training", "learning_rte", "learning_rate"),
        ("model", "sinc_filter", "sinc_filters"),
        ("feature_extractor", "paddin", "padding"),
        ("demo_training", "max_step", "max_steps"),
    ],
)
def test_unknown_yaml_key_is_an_error_with_the_nearest_name_before_data_are_loaded(
    refused, tiny_recipe, section, key, nearest
):
    recipe = yaml.safe_load(tiny_recipe.read_text())
    recipe.setdefault(section, {})[key] = 1
    tiny_recipe.write_text(yaml.safe_dump(recipe))

    message = refused("--model", tiny_recipe, "--data_dir", "not_there")

    assert f"{section}: unknown key '{key}' (did you mean '{nearest}'?)" in message


def test_value_of_the_wrong_type_in_the_yaml_is_an_error(refused, tiny_recipe, la_corpus):
    recipe = yaml.safe_load(tiny_recipe.read_text())
    recipe["training"]["learning_rate"] = "small"
    tiny_recipe.write_text(yaml.safe_dump(recipe))

    assert "invalid float value: 'small'" in refused("--model", tiny_recipe, "--data_dir", la_corpus)


def test_named_corpus_without_folder_says_where_it_is_to_be_had(refused):
    message = refused("--model", "rawnet2", "--dataset", "asvspoof2019-la")

    assert "needs --data_dir" in message and "datashare.ed.ac.uk" in message


def test_existing_run_is_not_overwritten(refused, trained, tiny_recipe, la_corpus):
    message = refused("--model", tiny_recipe, "--data_dir", la_corpus, "--output_dir", trained)

    assert "already holds a run" in message and "--resume_from_checkpoint last" in message


def test_missing_and_unreadable_audio_is_counted_and_left_out_only_where_allowed(
    refused, tmp_path, tiny_recipe, la_corpus, train_script
):
    corpus = shutil.copytree(la_corpus, tmp_path / "LA")
    (corpus / "ASVspoof2019_LA_eval" / "flac" / "LA_E_0000003.flac").unlink()
    bad = [corpus / f"ASVspoof2019_LA_{s}" / "flac" for s in ("train", "dev", "eval")]
    bad = [bad[0] / "LA_T_0000005.flac", bad[0] / "LA_T_0000008.flac", bad[2] / "LA_E_0000002.flac"]
    bad[0].write_bytes(b"<html>Not found</html>")
    bad[1].write_bytes(b"")
    bad[2].write_bytes(bad[2].read_bytes()[:-500])
    arguments = ["--model", tiny_recipe, "--data_dir", corpus, "--output_dir", tmp_path / "run"]
    arguments += ["--num_train_epochs", 1]

    message = refused(*arguments)
    assert "1 of the 12 utterances" in message and "LA_E_0000003.flac" in message
    assert "--allow_missing" in message
    message = refused(*arguments, "--allow_missing")
    assert "3 recordings of 51 cannot be read:" in message and all(str(path) in message for path in bad)
    assert "Replace them, or leave them out with --allow_unreadable." in message
    output = train_script.run(*arguments, "--allow_missing", "--allow_unreadable")

    assert "train, 22 trials (11 bona fide, 11 spoof, 2 unreadable)" in output
    assert "10 trials (5 bona fide, 5 spoof, 1 missing, 1 unreadable)" in output
    results = results_of(tmp_path / "run", "eval")
    assert (results["num_missing"], results["num_unreadable"]) == (1, 1)
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert record["unreadable"] == {"train": 2, "dev": 0, "eval": 1}
    card = (tmp_path / "run" / "README.md").read_text()
    assert "1 without audio left out, 1 left out that cannot be read" in card


@pytest.mark.slow
def test_damage_that_only_training_finds_ends_it_in_one_line(tmp_path, tiny_recipe, la_corpus, train_script):
    corpus = shutil.copytree(la_corpus, tmp_path / "LA")
    damaged = corpus / "ASVspoof2019_LA_train" / "flac" / "LA_T_0000005.flac"
    soundfile.write(damaged, np.where(np.arange(8000) == 9, np.nan, 0), 16000, format="WAV", subtype="FLOAT")

    output = train_script.run(
        *("--model", tiny_recipe, "--data_dir", corpus, "--output_dir", tmp_path / "run"),
        *("--dataloader_num_workers", 1),
        status=1,
    )

    (line,) = [line for line in output.splitlines() if line.startswith("train.py: error: ")]
    assert f"{damaged} holds NaN or infinite samples" in line
    assert "collation.py" not in output  # nor a traceback of it


def test_corpus_without_training_split_is_an_error_that_says_what_there_is(refused, tmp_path):
    for i, label in enumerate(("bona-fide", "spoof")):
        soundfile.write(tmp_path / f"{i}.wav", np.zeros(100), 16000)
        with open(tmp_path / "meta.csv", "a") as meta:
            meta.write(("file,speaker,label\n" if i == 0 else "") + f"{i}.wav,Somebody,{label}\n")

    message = refused("--model", "rawnet2", "--dataset", "in-the-wild", "--data_dir", tmp_path)

    assert "In-the-Wild has no split 'train', only eval (2)" in message and "train[:90%]" in message


@pytest.mark.slow
def test_real_rawnet2_trains_on_real_recordings(tmp_path, shared_data, train_script):
    corpus = shared_data / "asvspoof2019_la_mini"

    output = train_script.run(
        *("--model", "rawnet2-plateau", "--data_dir", corpus, "--output_dir", tmp_path / "run"),
        *(
            "--max_steps",
            2,
            "--per_device_train_batch_size",
            4,
            "--eval_strategy",
            "no",
            "--save_strategy",
            "no",
        ),
        *(
            "--lr_scheduler_type",
            "constant",
            "--load_best_model_at_end",
            "False",
        ),
    )

    assert "25,433,602" in output
    assert results_of(tmp_path / "run", "eval")["num_trials"] == 31


@pytest.mark.slow
def test_compiled_training_gives_a_model_that_loads(tmp_path, tiny_recipe, la_corpus, train_script):
    train_script.run(
        *("--model", tiny_recipe, "--data_dir", la_corpus, "--output_dir", tmp_path / "run"),
        *("--num_train_epochs", 1, "--torch_compile"),
    )

    model = AutoModelForAudioClassification.from_pretrained(tmp_path / "run")
    assert torch.isfinite(model(torch.randn(1, 8000)).logits).all()


def test_two_optimizers_are_refused(refused):
    message = refused("--model", "aasist", "--optim", "adamw_torch", "--optimizer", "adam")

    assert "--optim and --optimizer both name the optimizer" in message
