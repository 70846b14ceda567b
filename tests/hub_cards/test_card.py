"""Cards of real runs: what they say, and that they say nothing that was not run."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from made_run import add_evaluation, made_scores, made_trials
from small_aasist import converted_aasist

from hub_cards.card import render_card
from hub_cards.citations import BIBTEX, find_citations
from hub_cards.recipe import find_recipe, list_systems, load_recipe
from hub_cards.run_folder import read_run
from hub_cards.staging import find_files
from hub_cards.tables import format_any, format_stated
from metrics.names import format_value
from modeling import (
    AntiSpoofingFeatureExtractor,
    LFCCGMMConfig,
    LFCCGMMForAudioClassification,
    Wav2Vec2AntiSpoofingConfig,
)
from processing.corpora import LAYOUTS
from processing.corpus_names import CORPORA
from processing.origin import describe_start, describe_training
from processing.results import evaluate_condition
from processing.validation_set import VALIDATION_NAME


@pytest.fixture
def run_folder(trained, tmp_path) -> Path:
    """A copy of a trained run, which a test may change."""
    return shutil.copytree(trained, tmp_path / "my-run", ignore=shutil.ignore_patterns("checkpoint-*"))


@pytest.fixture
def gmm_folder(tmp_path) -> Path:
    """An LFCC-GMM that nobody trained here."""
    torch.manual_seed(0)
    config = LFCCGMMConfig(num_components=4, decision_threshold=-0.25)
    LFCCGMMForAudioClassification(config).save_pretrained(tmp_path / "gmm")
    AntiSpoofingFeatureExtractor(num_samples=None).save_pretrained(tmp_path / "gmm")
    return tmp_path / "gmm"


def change(path: Path, **changes) -> None:
    """Change keys of a JSON or YAML file."""
    read, write = (json.loads, json.dumps) if path.suffix == ".json" else (yaml.safe_load, yaml.safe_dump)
    path.write_text(write(read(path.read_text()) | changes))


def start_from(folder: Path, other: Path) -> None:
    """Record, as train.py does, that the training of a run went on from other weights."""
    before = describe_start(other)
    corpus = json.loads((folder / "training.json").read_text())["corpus"]
    change(folder / "training.json", origin=describe_training(corpus, before))


def text_of(folder: Path, repo_id: str | None = None) -> str:
    return str(render_card(read_run(folder), repo_id))


def section(text: str, title: str) -> str:
    """From a heading to the next of its rank or a higher one."""
    rank = len(title.split()[0])
    found = re.search(rf"^{re.escape(title)}$(.*?)(?=^#{{1,{rank}}} |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"no section {title} in\n{text}"
    return found[1]


def cells(text: str, first: str) -> list[str]:
    """The other cells of the table rows that begin with a cell."""
    rows = re.findall(rf"^\| {re.escape(first)} \| (.*) \|$", text, re.MULTILINE)
    assert rows, f"no row {first} in\n{text}"
    return [cell for row in rows for cell in row.split(" | ")]


def test_header_names_every_metric_with_its_form_corpus_split_and_counts(run_folder):
    data = render_card(read_run(run_folder)).data

    assert (data.library_name, data.pipeline_tag) == ("transformers", "audio-classification")
    assert data.datasets is None and data.metrics == ["eer"]  # no ASV scores, so no t-DCF
    for role in ("dev", "eval"):
        results = json.loads((run_folder / "results" / role / "results.json").read_text())
        found = {r.metric_name: r for r in data.eval_results if r.dataset_split == role}
        assert found.keys() == {
            "EER (%)",
            "minDCF (ASVspoof 5)",
            "actDCF (ASVspoof 5)",
            "Cllr (bits)",
            "Cllr_min (bits)",
            "Calibration loss (bits)",
        }
        eer = found["EER (%)"]
        assert eer.metric_value == pytest.approx(100 * results["eer"], abs=1e-6)
        official = {"dev": "24,844", "eval": "71,237"}[role]  # a part of a corpus is not called the corpus
        assert eer.dataset_name == f"ASVspoof 2019 LA ({results['num_trials']} of {official} trials)"
        assert eer.dataset_type == "asvspoof2019-la"
        assert eer.dataset_args == {k: results[k] for k in ("num_trials", "num_bonafide", "num_spoof")}


def test_parts_of_a_challenge_stay_apart_in_the_header(run_folder):
    for part in ("LA", "DF"):
        folder = shutil.copytree(run_folder / "results" / "eval", run_folder / "results" / f"2021-{part}")
        change(folder / "results.json", corpus=f"ASVspoof 2021 {part}", min_tdcf_2019=0.25, min_tdcf_2021=0.5)

    text = text_of(run_folder)

    data = ModelCard(text).data
    of_2021 = [r for r in data.eval_results if "2021" in r.dataset_type]
    assert {(r.dataset_type, r.dataset_name) for r in of_2021} == {
        (f"asvspoof2021-{part.lower()}", f"ASVspoof 2021 {part}") for part in ("LA", "DF")
    }
    forms = {r.metric_name: r.metric_value for r in of_2021 if r.metric_type == "t-dcf"}
    assert forms == {"min t-DCF (2019 form)": 0.25, "min t-DCF (2021 form)": 0.5}
    assert data.metrics == ["eer", "t-dcf"]
    assert cells(section(text, "## Results"), "ASVspoof 2021 DF")[2:4] == ["0.2500", "0.5000"]


def test_slice_of_a_split_is_no_result_of_the_header_and_says_what_it_is_of(run_folder):
    folder = shutil.copytree(run_folder / "results" / "dev", run_folder / "results" / "sliced")
    change(folder / "results.json", split="dev[:8]", num_trials=8, num_bonafide=4, num_spoof=4)

    card = render_card(read_run(run_folder))

    assert {result.dataset_split for result in card.data.eval_results} == {"dev", "eval"}
    assert "dev[:8]: 8 of the 24,844 trials of the official protocol" in str(card)


def test_precision_of_an_evaluation_is_said_where_it_is_not_float32(run_folder):
    assert "float32" not in section(text_of(run_folder), "## Results")

    change(run_folder / "results" / "eval" / "results.json", bf16=True)

    said = "The network was computed in bfloat16, not in float32."
    assert section(text_of(run_folder), "## Results").count(said) == 1


def test_error_rate_of_zero_and_missing_intervals_are_explained(run_folder):
    path = run_folder / "results" / "eval" / "results.json"
    change(path, eer=0.0, confidence_intervals={"level": 0.95, "method": "bootstrap", "eer": [0.0, 0.0]})
    assert "does not mean that errors are impossible" in section(text_of(run_folder), "## Results")

    change(path, eer=0.1, per_attack={}, confidence_intervals={})
    results = section(text_of(run_folder), "## Results")
    assert results.count("No intervals: a class has too few trials.") == 2  # the made corpus is small


@pytest.mark.parametrize(
    ("chosen_by", "said", "note"),
    [
        ("eer", ", the lowest of ", "The model and its threshold were chosen on dev"),
        ("loss", ", chosen by `loss` of ", "The model and its threshold were chosen on dev"),
        (None, "the last state: none was chosen on dev", "The threshold was chosen on dev"),
    ],
)
def test_state_that_was_kept_is_named_with_what_chose_it(run_folder, chosen_by, said, note):
    assert json.loads((run_folder / "training.json").read_text())["chosen_by"] == "eer"
    change(run_folder / "training.json", chosen_by=chosen_by)

    text = text_of(run_folder)

    assert said in cells(text, "Chosen state")[0]
    assert note in text


@pytest.mark.parametrize(
    ("eer", "chosen", "kept"), [(0.01, "the average", "average"), (0.03, "epoch", "best checkpoint")]
)
def test_average_of_checkpoints_stands_beside_the_best_one(run_folder, eer, chosen, kept):
    averaging = {"steps": [6, 18], "eer": eer, "eer_of_best": 0.02, "is_kept": eer < 0.02}
    change(run_folder / "training.json", averaging=averaging, overridden={"average_checkpoints": "2"})

    text = text_of(run_folder)

    assert cells(text, "`average_checkpoints`") == ["2 (of lowest dev EER) (from the command line)"]
    assert cells(text, "Chosen state")[0].startswith(chosen)
    said = f"of 2 checkpoints (steps 6, 18): dev EER {100 * eer:.3f} %; the best checkpoint has 2.000 %"
    assert cells(text, "Average") == [f"{said}: the {kept} is kept"]
    assert "The model and its threshold were chosen on dev" in text


def test_licence_is_stated_or_said_not_to_be(run_folder):
    assert "**License:** not stated by the source of this system" in text_of(run_folder)

    change(run_folder / "recipe.yaml", card={"license": "mit"})

    assert "**License:** mit" in text_of(run_folder)


def test_results_without_a_count_are_an_error_that_names_the_field(run_folder):
    path = run_folder / "results" / "eval" / "results.json"
    results = json.loads(path.read_text())
    del results["num_bonafide"]
    path.write_text(json.dumps(results))

    with pytest.raises(ValueError, match="eval/results.json has no num_bonafide"):
        read_run(run_folder)


def test_results_stand_with_intervals_and_trials(run_folder):
    path = run_folder / "results" / "eval" / "results.json"
    intervals = {"level": 0.95, "method": "bootstrap of 40 speakers", "seed": 0, "eer": [0.1, 0.25]}
    change(path, eer=0.1234, confidence_intervals=intervals)

    results = section(text_of(run_folder), "## Results")

    assert (
        "| ASVspoof 2019 LA | eval | 12.340 % [10.000, 25.000] | not measured | not measured | 6 | 6 |"
        in results
    )
    assert "95 % intervals: bootstrap of 40 speakers" in results
    assert "The t-DCF is left out: there are no ASV scores." in results


def test_attack_table_names_each_attack(run_folder):
    attacks = {
        "A07": {"num_bonafide": 6, "num_spoof": 4, "eer": 0.25},
        "A08": {"num_bonafide": 6, "num_spoof": 2, "eer": 0.5, "eer_interval": [0.25, 0.75]},
    }
    change(run_folder / "results" / "eval" / "results.json", per_attack=attacks)

    evaluation = section(text_of(run_folder), "### ASVspoof 2019 LA, eval")

    assert cells(evaluation, "A07") == ["25.000 %", "6", "4"]
    assert cells(evaluation, "A08") == ["50.000 % [25.000, 75.000]", "6", "2"]


def test_what_was_not_evaluated_is_said_not_to_be_measured(run_folder):
    shutil.rmtree(run_folder / "results" / "eval")

    text = text_of(run_folder)

    row = r"\| {} \| eval \| not measured \| not measured \| not measured \| – \| – \|"
    for corpus in ("ASVspoof 2019 LA", "In-the-Wild"):
        assert re.search(row.format(corpus), text)
    assert "Not evaluated on the eval split of ASVspoof 2019 LA" in section(text, "## Limitations")
    assert {r.dataset_split for r in ModelCard(text).data.eval_results} == {"dev"}


def test_results_on_in_the_wild_stand_once_also_where_it_was_trained_on(run_folder):
    change(run_folder / "training.json", corpus="In-the-Wild")

    results = section(text_of(run_folder), "## Results")

    assert results.count("| In-the-Wild | eval | not measured |") == 1


def test_card_of_a_run_without_any_results_has_no_model_index(run_folder):
    shutil.rmtree(run_folder / "results")

    card = render_card(read_run(run_folder))

    assert card.data.eval_results is None and card.data.metrics is None
    assert "Not measured." in section(str(card), "## Results")


def test_card_of_a_demo_model_says_so_at_the_top(run_folder):
    assert "[!WARNING]" not in text_of(run_folder)
    change(run_folder / "training.json", corpus="demo")
    for role in ("dev", "eval"):
        change(run_folder / "results" / role / "results.json", corpus="demo")

    text = text_of(run_folder)

    top = text.split("\n# tiny\n")[1].strip()
    assert top.startswith(
        "> [!WARNING]\n> **This model was trained on the built-in demo corpus. Its numbers mean"
    )
    data = ModelCard(text).data
    assert data.datasets is None and {r.dataset_name for r in data.eval_results} == {
        "Demo corpus (synthetic, no speech)"
    }


def test_architecture_is_that_of_the_config(run_folder):
    before = section(text_of(run_folder), "## Architecture")
    change(run_folder / "config.json", sinc_filters=20, sinc_scale="mel", block_channels=[8, 8, 8, 32])

    after = section(text_of(run_folder), "## Architecture")

    assert cells(before, "Sinc filter bank")[0].startswith("8 filters of 129 taps, linear scale")
    assert cells(after, "Sinc filter bank")[0].startswith("20 filters of 129 taps, mel scale")
    assert cells(after, "Residual blocks, stage 1") == ["3 × 8 channels"]
    assert cells(after, "Residual blocks, stage 2") == ["1 × 32 channels"]


def test_whispers_encoder_is_described_with_its_front_end_and_its_fixed_positions(run_folder):
    sizes = {"model_type": "whisper", "d_model": 512, "encoder_layers": 6, "num_mel_bins": 80}
    Wav2Vec2AntiSpoofingConfig(encoder_config=sizes, num_trainable_layers="all").save_pretrained(run_folder)

    architecture = section(text_of(run_folder), "## Architecture")

    assert cells(architecture, "Front end")[0].startswith("log-mel spectrogram: 80 filters")
    assert cells(architecture, "Encoder") == [
        "whisper, without its decoder, 6 transformer blocks of width 512"
    ]
    assert cells(architecture, "Trained in the encoder")[0].endswith("frozen: convolutions, positions")


@pytest.mark.parametrize(
    ("backend", "sees", "begins", "last"),
    [
        ("attentive", "last block's output", "mean over time weighted by an attention of width 128", 256),
        ("mhfa", "two sums with trained weights", "multi-head factorized attentive pooling: 32 means", 256),
        ("sls", "all blocks' outputs", "sensitive layer selection", 256),
        ("aasist", "last block's output", "linear(768 → 128)", 160),
        ("nes2net", "last block's output", "Nes2Net-X", 768),
    ],
)
def test_back_end_of_an_encoder_is_described(backend, sees, begins, last, run_folder):
    Wav2Vec2AntiSpoofingConfig(backend=backend).save_pretrained(run_folder)

    architecture = section(text_of(run_folder), "## Architecture")

    assert sees in cells(architecture, "What the back end sees")[0]
    assert cells(architecture, "Back end")[0].startswith(begins)
    selu = ", SELU" if backend == "sls" else ""
    assert cells(architecture, "Last layer") == [f"dropout 0.1, linear({last} → 2){selu}"]


def test_value_that_a_record_lacks_is_an_error_that_names_it(run_folder):
    state = json.loads((run_folder / "trainer_state.json").read_text())
    del state["global_step"]
    (run_folder / "trainer_state.json").write_text(json.dumps(state))

    with pytest.raises(ValueError, match="my-run: .* no attribute 'global_step'. Remedy: train, convert or"):
        text_of(run_folder)


def test_unknown_architecture_is_described_by_its_own_fields(run_folder):
    change(run_folder / "config.json", model_type="conformer", graph_sizes=[4, 2])

    architecture = section(text_of(run_folder), "## Architecture")

    assert cells(architecture, "Model type") == ["conformer"]
    assert cells(architecture, "`graph_sizes`") == ["`[4, 2]`"]


def test_field_that_the_config_lacks_is_an_error_that_names_it(run_folder):
    config = json.loads((run_folder / "config.json").read_text())
    del config["sinc_scale"]
    (run_folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(ValueError, match="my-run: .* no attribute 'sinc_scale'"):
        text_of(run_folder)


@pytest.mark.parametrize("system", list_systems())
def test_every_system_has_a_card(system, run_folder):
    """The config that the system's YAML states, without weights of that size."""
    path, _ = find_recipe(system)
    recipe = load_recipe(path)
    shutil.copy(path, run_folder / "recipe.yaml")
    config = recipe.build_config(decision_threshold=0.5, dtype="float32")
    (run_folder / "config.json").write_text(config.to_json_string(use_diff=False))

    text = text_of(run_folder)

    assert cells(text, "Label order (of the logits)") == [
        ", ".join(f"{index} `{label}`" for index, label in sorted(recipe.model["id2label"].items()))
    ]
    if recipe.reported:
        by = recipe.reported.get("by", "the study for its own weights")
        reported = section(text, f"### Reported by {by}, not measured here")
        results = next(value for value in recipe.reported.values() if isinstance(value, dict))
        assert format_stated(next(iter(results.values()))["eer"]) in reported
    else:
        assert "### Reported by" not in text
    assert ModelCard(text).data.license == recipe.card.get("license")
    assert "@" in section(text, "## Citation") and section(text, "### Notes").count("\n- ") >= 2
    assert not [name for name in BIBTEX if name in text.split("## Citation")[0]]


def test_reported_numbers_are_labelled_and_never_in_the_header(run_folder):
    recipe = yaml.safe_load((run_folder / "recipe.yaml").read_text())
    reported = {"asvspoof2019-la": {"eval": {"eer": 0.01234, "min_tdcf_form_unstated": 0.3966}}}
    (run_folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"reported": reported}))

    text = text_of(run_folder)

    header = text.split("\n---\n")[0]
    assert "1.234" not in header and "0.3966" not in header
    part = section(text, "### Reported by the study for its own weights, not measured here")
    assert "| ASVspoof 2019 LA | eval | 1.234 % | 0.3966 (form unstated) |" in part
    assert "1.234" not in text.replace(part, "")


def test_training_table_shows_what_was_run(run_folder):
    change(run_folder / "training.json", overridden={"learning_rate": 3e-5, "eval_steps": 7})

    training = section(text_of(run_folder), "## Training")

    assert cells(training, "`learning_rate`") == ["3e-5 (from the command line)"]
    assert cells(training, "`eval_steps`") == ["7 (from the command line)"]
    assert cells(training, "`num_train_epochs`") == ["4"]
    assert cells(training, "`per_device_train_batch_size`") == ["4"]
    assert cells(training, "`optim`") == ["default of transformers' Trainer"]
    state = json.loads((run_folder / "trainer_state.json").read_text())
    assert f"(step {state['best_global_step']}): dev EER" in cells(training, "Chosen state")[0]
    assert cells(training, "Loss") == ["`weighted_cross_entropy`"]
    assert cells(training, "Class weights") == ["spoof 2, bonafide 1"]
    assert cells(training, "train")[1:] == ["12", "12", "0", "0"]


def test_card_states_the_loss_with_its_parameters_and_the_last_layer_that_it_takes(run_folder):
    margins = {"bonafide": 0.9, "spoof": 0.2}
    change(run_folder / "config.json", loss="oc_softmax", loss_scale=20.0, loss_margin=margins)

    text = text_of(run_folder)

    expected = "`oc_softmax`, `loss_scale` 20, `loss_margin` bonafide 0.9, spoof 0.2"
    assert cells(section(text, "## Training"), "Loss") == [expected]
    assert cells(text, "Classifier") == [
        "cosine of the 8 values with one learnt direction, that of bona fide"
    ]


def test_training_that_ended_before_its_last_step_was_stopped_early(run_folder):
    state = json.loads((run_folder / "trainer_state.json").read_text())
    change(run_folder / "trainer_state.json", max_steps=2 * state["max_steps"])

    assert "stopped early" in cells(text_of(run_folder), "Epochs done")[0]


def test_what_the_demo_corpus_reduced_is_shown(run_folder):
    change(run_folder / "training.json", reduced_on_demo={"num_train_epochs": 2})

    shown = cells(text_of(run_folder), "`num_train_epochs`")

    assert shown == ["2 (reduced on the demo corpus; the recipe has 4)"]


def test_inferred_values_are_listed_unless_the_command_line_changed_them(run_folder):
    inferred = {"training.optim": "not stated", "training.crop": "not stated where"}
    inferred["model.num_trainable_layers"] = "all, as others do"
    change(run_folder / "recipe.yaml", inferred=inferred)
    change(run_folder / "training.json", overridden={"optim": "sgd", "num_trainable_layers": "0"})

    text = text_of(run_folder)

    training = section(text, "## Training")
    assert "as others do" not in text
    assert cells(training, "`training.crop`") == ["not stated where"] and "`training.optim`" not in training


def test_folder_of_the_machine_in_an_override_does_not_reach_the_card(run_folder):
    overridden = {"deepspeed": "/home/ann/secret/ds.json", "logging_dir": "C:\\Users\\ann\\logs"}
    overridden["augmentation"] = [{"noise": {"folder": "/home/ann/musan"}}]
    change(run_folder / "training.json", overridden=overridden)

    text = text_of(run_folder)

    assert cells(text, "`deepspeed`") == ["ds.json (from the command line)"]
    assert "ann" not in cells(text, "`logging_dir`")[0]
    said = '`[{"noise": {"folder": "musan"}}]` (one after the other) (from the command line)'
    assert cells(text, "`augmentation`") == [said] and "without data augmentation" not in text


def test_augmentation_that_the_command_line_takes_away_is_none(run_folder):
    change(run_folder / "training.json", overridden={"augmentation": []})

    text = text_of(run_folder)

    assert cells(text, "`augmentation`") == ["none (from the command line)"]
    assert "No data augmentation." in text


@pytest.mark.parametrize(
    ("name", "shown"), [("facebook/wav2vec2-base", ["facebook/wav2vec2-base"]), ("w2v-random", None)]
)
def test_base_model_is_in_the_header_where_it_is_a_hub_id(run_folder, name, shown):
    change(run_folder / "training.json", base_model={"name": name})

    data = render_card(read_run(run_folder)).data

    assert data.base_model == (shown and shown[0])


@pytest.mark.parametrize(
    ("corpus", "datasets"),
    [
        ("org/recordings", ["org/recordings"]),
        ("my_recordings", None),
        ("ASVspoof 5", ["jungjee/asvspoof5"]),
        ("ASVspoof 2019 LA", None),
    ],
)
def test_data_set_is_in_the_header_where_it_is_on_the_hub(run_folder, corpus, datasets):
    change(run_folder / "training.json", corpus=corpus)

    assert render_card(read_run(run_folder)).data.datasets == datasets


def test_input_says_how_it_is_cropped_and_padded(run_folder):
    assert cells(text_of(run_folder), "Shorter recordings") == ["tiled (repeated) to 8,000 samples"]
    change(run_folder / "preprocessor_config.json", padding="zero", num_samples=16000)

    text = text_of(run_folder)

    assert cells(text, "Shorter recordings") == ["zero-padded at the end to 16,000 samples"]
    assert cells(text, "Longer recordings") == ["cropped: the first 16,000 samples"]
    assert "16,000 samples (1 s)" in cells(text, "Input")[0]


def test_arguments_of_the_machine_are_no_hyperparameters(run_folder):
    overridden = {"disable_tqdm": True, "use_cpu": True, "report_to": "none", "dataloader_num_workers": 2}
    change(run_folder / "training.json", overridden={**overridden, "weight_decay": 0.5})

    training = section(text_of(run_folder), "## Training")

    table_of_machine = training.index("| Machine | Value |")
    assert all(training.find(f"`{name}`") > table_of_machine for name in overridden)
    assert cells(training, "`weight_decay`") == ["0.5 (from the command line)"]
    assert cells(training, "Settings of the machine") == [
        "`disable_tqdm` on, `use_cpu` on, `report_to` none, `dataloader_num_workers` 2"
    ]


def test_one_evaluation_is_not_called_evaluations(run_folder):
    path = run_folder / "trainer_state.json"
    state = json.loads(path.read_text())
    best = [e for e in state["log_history"] if e["step"] == state["best_global_step"] and "eval_loss" in e]
    change(path, log_history=best, global_step=1, max_steps=1)

    text = text_of(run_folder)

    assert cells(text, "Chosen state")[0].endswith(", the lowest of 1 evaluation in training")
    assert "(1 step)" in cells(text, "Epochs done")[0]


def test_conditions_stand_with_what_they_change_and_their_scores_are_published(gmm_folder):
    trials, folder = made_trials(), gmm_folder / "results" / "eval"
    scores = made_scores(trials, seed=0)
    moved = evaluate_condition(trials, scores, scores - 9)
    add_evaluation(gmm_folder, trials, scores, conditions={"8khz": moved})
    (folder / "conditions" / "8khz").mkdir(parents=True)
    (folder / "conditions" / "8khz" / "scores.txt").write_text("")
    (folder / "llrs.txt").write_text("")

    text = text_of(gmm_folder)

    eer, difference, p_value, frr, far, cllr = cells(text, "8khz")
    assert eer == cells(text, "clean")[0] and p_value == "1"
    assert difference == "0.000 % [0.000, 0.000]" and (frr, far) == ("100.000 %", "0.000 %")
    assert cllr.startswith(f"{moved['cllr']:.4f} [")
    assert "FRR and FAR are at the threshold of the clean EER." in text
    published = find_files(read_run(gmm_folder))
    assert {"results/eval/conditions/8khz/scores.txt", "results/eval/llrs.txt"} <= published.keys()


def test_calibration_that_states_no_counts_is_described_without_them(run_folder):
    change(run_folder / "config.json", calibration={"a": 2.0, "b": -1.0})

    said = cells(text_of(run_folder), "Calibration")[0]

    assert said.startswith("LLR = 2 score - 1 (`config.calibration`)")


def test_trials_of_the_calibration_are_published_where_there_is_one(run_folder):
    (run_folder / VALIDATION_NAME).write_bytes(b"")
    assert VALIDATION_NAME not in find_files(read_run(run_folder))  # of weights as they were

    change(run_folder / "config.json", calibration={"a": 2.0, "b": -1.0})

    assert VALIDATION_NAME in find_files(read_run(run_folder))


def test_usage_comes_before_all_details_and_one_line_of_results_before_it(run_folder):
    text = text_of(run_folder)

    titles = re.findall("^## (.*)$", text, re.MULTILINE)
    assert titles == ["Usage", "Results", "Limitations", "Training", "Architecture", "Citation"]
    results = json.loads((run_folder / "results" / "eval" / "results.json").read_text())
    line = f"**Results:** EER {format_value('eer', results['eer'])} on ASVspoof 2019 LA, eval (12 trials)."
    assert line in text.split("## Usage")[0]


def test_size_and_parameters_are_counted(run_folder):
    run = read_run(run_folder)

    architecture = section(str(render_card(run)), "## Architecture")

    assert cells(architecture, "Parameters") == [f"{run.training['num_parameters']:,}"]
    size = (run_folder / "model.safetensors").stat().st_size
    assert cells(architecture, "Checkpoint size")[0].startswith(f"{size:,} bytes")


def test_pictures_that_exist_are_embedded(run_folder):
    for picture in run_folder.rglob("*.png"):
        picture.unlink()
    assert "![" not in text_of(run_folder)
    for name in ("results/eval/det.png", "results/eval/scores.png", "learning_curves/tiny.png"):
        (run_folder / name).parent.mkdir(exist_ok=True)
        (run_folder / name).write_bytes(b"picture")

    text = text_of(run_folder)

    assert "![DET plot, ASVspoof 2019 LA, eval](results/eval/det.png)" in section(text, "## Results")
    assert "(results/eval/scores.png)" in text
    assert "(learning_curves/tiny.png)" in section(text, "### Learning curves")


def test_model_that_was_not_trained_here_says_so(gmm_folder):
    text = text_of(gmm_folder)

    assert "Not trained here" in section(text, "## Training")
    assert "Not measured: this model was not trained here." in section(text, "### Learning curves")
    assert cells(text, "Crop")[0].startswith("none: whole utterances")
    assert "license" not in text.split("\n---\n")[0]


@pytest.fixture
def converted(tmp_path) -> Path:
    """A small AASIST that was converted."""
    return converted_aasist(tmp_path)


def test_converted_model_says_where_its_weights_come_from_and_nothing_of_a_training(converted):
    text = text_of(converted)

    record = json.loads((converted / "conversion.json").read_text())
    assert f"converted, not trained here: from `best.pth` (SHA-256 `{record['sha256']}`)" in text
    assert "left out: `encoder.1.0.bn1`, `encoder.2.0.bn1`." in text
    assert "They fit the system small. Who trained them, on what and under which licence is not known" in text
    assert re.search(r"^- Authors of the system: Jee-weon Jung,", text, re.MULTILINE)
    assert "**License:** not known; the authors of the system publish theirs under mit" in text
    assert "NAVER" not in text and "Trained by its authors" not in text
    training = section(text, "## Training")
    assert "Its weights were converted, not trained here" in training and "Epochs" not in training
    assert "`training.optimizer`" not in training and "`model.pre_activation`" in training
    assert "holds no log of its training" in section(text, "### Learning curves")
    assert cells(text, "Parameters") == [f"{record['num_parameters']:,}"]


def test_file_that_the_authors_publish_is_said_to_be_theirs(tmp_path):
    text = text_of(converted_aasist(tmp_path, is_published=True))

    assert "It is the file that the authors named below publish." in text
    assert re.search(r"^- Authors: Jee-weon Jung,", text, re.MULTILINE)
    assert re.search(r"^- Weights: https://github.com/clovaai/aasist", text, re.MULTILINE)
    assert "Trained by its authors, not here" in section(text, "## Limitations")
    notice = section(text, "## Licence of the published weights")
    assert "Copyright (c) 2021-present NAVER Corp." in notice and "Permission is hereby granted" in notice
    assert (ModelCard(text).data.license, ModelCard(text).data.datasets) == ("mit", None)


@pytest.mark.parametrize("name", ["a`b.pth", "new\n# Title.pth", "x\u202ey<script>.pth", "``.pth"])
def test_name_of_a_checkpoint_stays_code_in_the_card(converted, name):
    record = json.loads((converted / "conversion.json").read_text())
    origin = record["origin"] | {"checkpoint": name}
    change(converted / "conversion.json", checkpoint=name, unused=[f"{name}.bias"], origin=origin)

    text = text_of(converted)

    assert "\n# Title" not in text and "\u202e" not in text
    paragraph = next(part for part in text.split("\n\n") if "converted, not trained here" in part)
    assert not re.search("[<>]|a`b|Title", re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", paragraph))


def test_converted_model_was_not_evaluated_unless_it_was(converted):
    before = text_of(converted)
    trials = made_trials(15, 16)
    add_evaluation(converted, trials, made_scores(trials, seed=0), name="eval")

    text = text_of(converted)

    measured = section(before, "## Results").split("### Reported")[0]
    assert cells(measured, "ASVspoof 2019 LA") == [
        *("dev", *["not measured"] * 3, "–", "–"),
        *("eval", *["not measured"] * 3, "–", "–"),
    ]
    assert "Not evaluated on the eval split of ASVspoof 2019 LA" in section(before, "## Limitations")
    assert "15 bona fide and 16 spoofed trials of the eval split" in section(text, "## Limitations")
    assert "eval: 31 of the 71,237 trials of the official protocol were scored" in section(text, "### Notes")
    data = ModelCard(text).data
    assert (data.license, data.datasets) == (None, None)  # of weights that may be anybody's
    assert {r.dataset_name for r in data.eval_results} == {"ASVspoof 2019 LA (31 of 71,237 trials)"}
    assert "0.83 %" in section(text, "### Reported by its authors for their own weights, not measured here")


def test_threshold_is_said_to_be_of_the_evaluation_that_it_is_of(converted):
    trials = made_trials()
    dev = add_evaluation(converted, trials, made_scores(trials, seed=0), name="dev")
    without = cells(text_of(converted), "Decision threshold")

    change(
        converted / "config.json", decision_threshold=(dev["eer_threshold"] + dev["eer_threshold_end"]) / 2
    )
    of_dev = text_of(converted)
    change(converted / "config.json", decision_threshold=0.125)
    of_nothing = text_of(converted)

    assert without == ["not measured: the config states none"]
    said = "the EER threshold on ASVspoof 2019 LA, split `dev` (60 trials), of the first 0.25 s"
    assert said in cells(of_dev, "Decision threshold")[0]
    assert "is that of the dev split of ASVspoof 2019 LA" in section(of_dev, "## Limitations")
    assert "It is what the config states" in cells(of_nothing, "Decision threshold")[0]
    assert "that of the recordings that it was set on" in section(of_nothing, "## Limitations")


def test_threshold_that_was_set_on_other_recordings_than_dev_is_not_said_to_be_of_dev(run_folder):
    before = cells(text_of(run_folder), "Decision threshold")[0]
    dev = json.loads((run_folder / "results" / "dev" / "results.json").read_text())

    # between the two scores of dev whose middle is 0
    change(run_folder / "config.json", decision_threshold=dev["eer_threshold_end"] / 2)

    assert "the EER threshold on ASVspoof 2019 LA, split `dev` (16 trials)" in before
    assert "It is what the config states" in cells(text_of(run_folder), "Decision threshold")[0]


def test_model_that_was_trained_on_from_converted_weights_says_so(run_folder, converted):
    assert "went on from" not in text_of(run_folder)
    start_from(run_folder, converted)

    record = json.loads((converted / "conversion.json").read_text())
    said = f"from the weights of `converted`, converted from `best.pth` (SHA-256 `{record['sha256']}`)."
    text = text_of(run_folder)
    assert f"Training went on {said}" in text
    assert "Trained further on ASVspoof 2019 LA" in section(text, "## Limitations")


@pytest.mark.parametrize("is_published", [True, False])
def test_origin_of_the_weights_is_known_after_several_trainings(run_folder, tmp_path, is_published):
    converted = converted_aasist(tmp_path, is_published=is_published)
    change(run_folder / "recipe.yaml", card=load_recipe(converted / "recipe.yaml").card)
    start_from(run_folder, converted)
    between = shutil.copytree(run_folder, tmp_path / "between")

    start_from(run_folder, between)

    text = text_of(run_folder)
    said = "the weights of `between`, trained on ASVspoof 2019 LA from the weights of `converted`, converted"
    assert f"Training went on from {said} from `best.pth`" in text
    assert ("Copyright (c) 2021-present NAVER Corp." in text) == is_published
    assert ModelCard(text).data.license == ("mit" if is_published else None)


def test_weights_that_went_on_from_some_of_unknown_origin_have_no_licence(run_folder, tmp_path):
    change(run_folder / "recipe.yaml", card={"license": "mit"})
    bare = shutil.copytree(run_folder, tmp_path / "bare")
    (bare / "training.json").unlink()

    start_from(run_folder, bare)

    text = text_of(run_folder)
    assert "from the weights of `bare`, whose own origin is not recorded." in text
    assert ModelCard(text).data.license is None and "**License:** not known" in text


def test_damaged_record_of_a_training_is_named_before_anything_is_trained_on(run_folder):
    (run_folder / "training.json").write_text("{")

    with pytest.raises(ValueError, match="training.json is not valid JSON"):
        describe_start(run_folder)


@pytest.mark.parametrize("is_published", [True, False])
def test_licence_of_published_weights_goes_on_with_what_is_trained_on_from_them(
    run_folder, tmp_path, is_published
):
    converted = converted_aasist(tmp_path, is_published=is_published)
    change(run_folder / "recipe.yaml", card=load_recipe(converted / "recipe.yaml").card)
    start_from(run_folder, converted)

    text = text_of(run_folder)

    assert ("Copyright (c) 2021-present NAVER Corp." in text) == is_published
    assert ModelCard(text).data.license == ("mit" if is_published else None)


def test_log_likelihoods_of_em_stand_for_learning_curves(gmm_folder, trained):
    logged = [{"epoch": i, "log_likelihood_bonafide": -30.0 + i, "step": 0} for i in (1, 2)]
    (gmm_folder / "trainer_state.json").write_text(json.dumps({"log_history": logged}))
    shutil.copy(trained / "training.json", gmm_folder)

    text = text_of(gmm_folder)

    assert cells(text, "Log-likelihood per frame, bona fide") == ["-29.000 → -28.000 nats in 2 iterations"]
    assert cells(section(text, "### Learning curves"), "2") == ["-28.0000"]


@pytest.mark.parametrize("text", ["see /home/ann/data", "hf_" + "aB3" * 11])
def test_card_with_a_path_or_a_token_is_refused(run_folder, text):
    change(run_folder / "recipe.yaml", description=text)

    with pytest.raises(ValueError, match="The card cannot be published"):
        text_of(run_folder)


def test_unknown_reference_is_an_error_with_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'tak2021rawnet2'"):
        find_citations(["tak2021rawnet"])


def test_reference_of_ones_own_is_text():
    assert find_citations(["Doe, On speech, 2026"]) == ([], ["Doe, On speech, 2026"])


def test_licences_of_the_systems_are_the_hubs():
    stated = {load_recipe(find_recipe(system)[0]).card.get("license") for system in list_systems()}

    assert stated == {None, "mit"}


def test_corpora_are_called_as_results_call_them():
    assert {name: corpus.title for name, corpus in CORPORA.items()} == {
        name: layout.name.title for name, layout in LAYOUTS.items()
    }


def test_numbers_are_written_for_people():
    assert [format_any(n) for n in (64000, 0.3, 7876.923, 1e-5, 2.0, True)] == [
        "64,000",
        "0.3",
        "7,876.92",
        "1e-5",
        "2",
        "yes",
    ]
    assert [format_value("eer", rate) for rate in (0.12345, 0.0012345)] == ["12.345 %", "0.123 %"]
