"""`train.py` on a pretrained encoder of which one block is trained: with and without the cache of what the
frozen part gives, and a resumed run without the base model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_base_model import save_base_model
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    Wav2Vec2Config,
    Wav2Vec2ForPreTraining,
    Wav2Vec2Model,
)

import train
from processing.collation import AudioCollator
from processing.layouts import LAYOUTS
from processing.resuming import hash_tensors


RECIPE = {
    "system": "tiny-wav2vec2",
    "description": "A wav2vec 2.0 small enough for the tests.",
    "corpus": "asvspoof2019-la",
    "model": {
        "model_type": "wav2vec2-antispoofing",
        "num_samples": 8000,
        "encoder_config": {"model_type": "wav2vec2", "num_hidden_layers": 3, "hidden_dropout": 0.1},
        "num_trainable_layers": 1,
        "class_weights": {"bonafide": 3.0, "spoof": 1.0},
        "classifier_proj_size": 16,
    },
    "feature_extractor": {"do_normalize": "base_model"},
    "training": {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "logging_steps": 1,
    },
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny-wav2vec2.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


@pytest.fixture(scope="module")
def base_model(tmp_path_factory) -> Path:
    return save_base_model(tmp_path_factory.mktemp("somewhere") / "w2v", do_normalize=True)


@pytest.fixture(scope="module")
def arguments(recipe, la_corpus, base_model) -> list:
    return ["--model", recipe, "--data_dir", la_corpus, "--base_model", base_model, "--save_total_limit", 9]


@pytest.fixture(scope="module")
def on_audio(tmp_path_factory, arguments, train_script) -> tuple[Path, str]:
    """Folder and output of a run on audio."""
    folder = tmp_path_factory.mktemp("on_audio") / "run"
    return folder, train_script.run(*arguments, "--output_dir", folder)


@pytest.fixture(scope="module")
def on_cache(tmp_path_factory, arguments, train_script) -> tuple[Path, str]:
    """Folder and output of the same run on what the frozen part gives."""
    folder = tmp_path_factory.mktemp("on_cache") / "run"
    return folder, train_script.run(*arguments, "--output_dir", folder, "--cache_frozen_trunk")


def logged(run: Path, name: str) -> list[float]:
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    return [entry[name] for entry in history if name in entry]


def logits_of(run: Path, corpus: Path) -> torch.Tensor:
    model = AutoModelForAudioClassification.from_pretrained(run).eval()
    collator = AudioCollator(AutoFeatureExtractor.from_pretrained(run))
    with torch.no_grad():
        return model(**collator(list(LAYOUTS["asvspoof2019-la"].load(corpus).splits["eval"]))).logits


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def frozen(name: str) -> bool:
    return name.startswith("encoder.") and not name.startswith("encoder.encoder.layers.2.")


def test_losses_on_the_cache_are_those_on_audio(on_audio, on_cache):
    (audio, _), (cache, _) = on_audio, on_cache

    assert len(logged(audio, "loss")) == 12 and len(logged(audio, "eval_loss")) == 2
    for name in ("loss", "eval_loss"):
        assert logged(cache, name) == pytest.approx(logged(audio, name), rel=2e-3)
    assert min(logged(audio, "grad_norm")) > 0.1  # there was something to learn


def test_model_of_the_cache_gives_the_logits_of_the_one_of_audio(on_audio, on_cache, la_corpus):
    expected, logits = (logits_of(run, la_corpus) for run, _ in (on_audio, on_cache))

    torch.testing.assert_close(logits, expected, rtol=0, atol=5e-3)
    assert expected.std() > 0.02  # they differ by more than that


def test_cache_is_announced_with_its_size_and_not_made_without_the_option(on_audio, on_cache):
    (_, without), (_, output) = on_audio, on_cache

    assert "Frozen trunk of train: 1 x 24 x 32 values" in output
    assert "of each of 24 utterances, 0 of 24 are there: 0.0 MB in " in output
    assert "Frozen trunk of dev: 1 x 24 x 32 values" in output
    assert "Frozen trunk" not in without


def test_frozen_tensors_are_the_base_models_and_the_others_were_trained(on_audio, on_cache, base_model):
    source = {f"encoder.{k.removeprefix('wav2vec2.')}": v for k, v in weights_of(base_model).items()}

    for run, _ in (on_audio, on_cache):
        saved = weights_of(run)
        changed = {k for k in saved if k in source and not torch.equal(saved[k], source[k])}
        trained = {name for name in saved if name.startswith("encoder.") and not frozen(name)}
        # The bias of keys has no gradient: softmax does not see what is added to all scores of a row.
        assert changed | {"encoder.encoder.layers.2.attention.k_proj.bias"} == trained
        assert len(trained) == 16
        assert {name for name in saved if name.startswith("encoder.")} <= set(source)


def test_record_names_the_base_model_its_hash_and_what_is_not_used_of_it(on_audio, base_model):
    run, output = on_audio
    record = json.loads((run / "training.json").read_text())["base_model"]

    state = Wav2Vec2Model.from_pretrained(base_model, mask_time_prob=0.0).state_dict()
    assert (record["name"], record["num_tensors"]) == ("w2v", len(state))
    assert record["sha256"] == hash_tensors(state.items())
    assert "project_q.weight" in record["unused"] and "quantizer.codevectors" in record["unused"]
    assert f"Encoder: all {len(state)} tensors from w2v; not used of it: project_hid.bias" in output


def test_parameters_and_the_trained_ones_among_them_are_printed(on_audio):
    run, output = on_audio
    sizes = {name: tensor.numel() for name, tensor in weights_of(run).items()}
    total, trained = sum(sizes.values()), sum(n for name, n in sizes.items() if not frozen(name))

    assert f"wav2vec2-antispoofing, {total:,} parameters, {trained:,} of them trained" in output


def test_configs_of_the_trained_model_follow_the_base_model_and_hold_no_local_path(on_cache, base_model):
    run, _ = on_cache
    names = ("config.json", "preprocessor_config.json", "recipe.yaml", "training.json")
    texts = {name: (run / name).read_text() for name in names}

    assert json.loads(texts["preprocessor_config.json"])["do_normalize"] is True
    assert json.loads(texts["config.json"])["encoder_config"]["intermediate_size"] == 64
    assert not [name for name, text in texts.items() if str(base_model.parent) in text or "/tmp" in text]


@pytest.mark.slow
def test_run_resumed_without_its_base_model_ends_with_the_weights_of_the_uninterrupted_one(
    on_cache, arguments, train_script, tmp_path
):
    whole, _ = on_cache
    stopped = tmp_path / "stopped"
    shutil.copytree(whole / "checkpoint-6", stopped / "checkpoint-6")  # as if killed in the second epoch
    shutil.copy(whole / "training.json", stopped)  # of which the base model's part is written at the start
    arguments = list(arguments)
    arguments[arguments.index("--base_model") + 1] = tmp_path / "is" / "gone"

    output = train_script.run(
        *(*arguments, "--output_dir", stopped, "--cache_frozen_trunk", "--resume_from_checkpoint", "last")
    )

    expected, resumed = weights_of(whole), weights_of(stopped)
    assert [name for name in expected if not torch.equal(expected[name], resumed[name])] == []
    assert logged(stopped, "loss") == logged(whole, "loss")
    assert "Encoder: all" not in output  # nothing was loaded but the checkpoint
    assert output.count("of each of 0 utterances") == 2  # and nothing was computed again
    records = [json.loads((run / "training.json").read_text())["base_model"] for run in (whole, stopped)]
    assert records[0] == records[1]


# What is refused


@pytest.mark.parametrize(
    "given", [("--crop", "random"), ("--augmentation", '[{"rawboost": {"algorithm": 3}}]')]
)
def test_cache_and_what_changes_utterances_are_refused_together(refused, given):
    message = refused("--model", "wav2vec2", "--cache_frozen_trunk", *given)

    assert "cannot be combined with --crop random or augmentation: it keeps one crop of each" in message
    assert "Leave it out, or add --crop start --augmentation '[]'" in message


def test_cache_where_nothing_is_frozen_is_refused(refused, la_corpus, base_model, tmp_path):
    parts = ("train_feature_encoder", "train_feature_projection", "train_positional_convolution")
    trained = {"num_trainable_layers": "all", **dict.fromkeys(parts, True)}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "model": {**RECIPE["model"], **trained}}))

    message = refused(
        *("--model", path, "--data_dir", la_corpus, "--output_dir", tmp_path / "run"),
        *("--base_model", base_model, "--cache_frozen_trunk"),
    )

    assert "nothing of this wav2vec2-antispoofing is frozen" in message and "Leave the option out" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_config": "wav2vec2"}, "encoder_config: its model_type must be stated, one of wav2vec2"),
        ({"encoder_config": None}, "encoder_config: its model_type must be stated, one of wav2vec2"),
        ({"encoder_config": {"model_type": "bert"}}, "its model_type must be stated, one of wav2vec2"),
        ({"encoder_config": {"model_type": "wav2vec2", "hiden_size": 32}}, "did you mean 'hidden_size'"),
        ({"num_trainable_layers": 99}, "num_trainable_layers 99 is neither 'all' nor a number from 0 to 3"),
        ({"num_trainable_layers": 2.5}, "'num_trainable_layers' with value 2.5"),
        ({"sampling_rate": 8000}, "sampling_rate 8000: the encoders take 16000 Hz"),
    ],
)
def test_mistake_in_the_model_of_a_recipe_is_one_line(
    refused, la_corpus, base_model, tmp_path, changes, message
):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "model": {**RECIPE["model"], **changes}}))

    error = refused("--model", path, "--data_dir", la_corpus, "--base_model", base_model)

    assert message in error and "Traceback" not in error


def test_normalisation_is_stated_as_true_or_false_or_left_to_the_base_model(
    refused, la_corpus, base_model, tmp_path
):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "feature_extractor": {"do_normalize": "base-model"}}))

    error = refused("--model", path, "--data_dir", la_corpus, "--base_model", base_model)

    assert "do_normalize must be true or false, not 'base-model'" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["rawnet2", "--base_model", "facebook/wav2vec2-base"],
            "--base_model has no effect on rawnet2. Leave",
        ),
        (
            ["rawnet2", "--crop", "start", "--cache_frozen_trunk"],
            "--cache_frozen_trunk has no effect on rawnet2",
        ),
        (["rawnet2", "--layer_decay", "0.9"], "--layer_decay has no effect on rawnet2. Leave it out."),
        (["aasist", "--num_trainable_layers", "4"], "--num_trainable_layers has no effect on aasist"),
        (["wav2vec2", "--layer_decay", "1.5"], "layer_decay 1.5 must be above 0 and at most 1"),
        (["wav2vec2-v2-unfrozen", "--lora_rank", "4"], "layers 4: add --num_trainable_layers 0"),
    ],
)
def test_fine_tuning_that_is_not_possible_is_refused(refused, arguments, message):
    assert message in refused("--model", *arguments)


def test_number_of_trained_blocks_on_the_command_line_freezes_all_below(tmp_path):
    path = tmp_path / "recipe.yaml"
    trained = {"num_trainable_layers": "all", "train_feature_encoder": True}
    path.write_text(yaml.safe_dump({**RECIPE, "model": {**RECIPE["model"], **trained}}))
    given = ["--model", str(path), "--data_dir", "LA", "--num_trainable_layers"]

    all_blocks, two = (train.parse_arguments([*given, number]).recipe for number in ("all", "2"))

    assert all_blocks.model.items() >= trained.items()
    config = two.build_config()
    assert config.num_trainable_layers == 2 and not config.train_feature_encoder


def test_no_base_model_is_an_error_with_the_ways_to_name_one(refused, recipe, la_corpus, tmp_path):
    message = refused("--model", recipe, "--data_dir", la_corpus, "--output_dir", tmp_path / "run")

    assert "Name it by --base_model" in message and "base_model under training in the recipe" in message


def test_base_model_that_can_not_be_had_is_an_error_of_one_line(refused, recipe, la_corpus, tmp_path):
    message = refused(
        *("--model", recipe, "--data_dir", la_corpus, "--output_dir", tmp_path / "run"),
        *("--base_model", tmp_path / "gone"),
    )

    first = next(line for line in message.splitlines() if "train.py: error" in line)
    assert f"There is no folder {tmp_path / 'gone'} to take the base model from" in first


def test_base_model_of_another_size_than_the_systems_is_refused(refused, la_corpus, base_model, tmp_path):
    message = refused(
        *("--model", "wav2vec2-v2-unfrozen", "--data_dir", la_corpus, "--output_dir", tmp_path / "run"),
        *("--base_model", base_model),
    )

    assert "has num_hidden_layers 3, but the recipe's encoder_config says 12" in message


def test_base_model_for_a_model_that_was_trained_already_is_refused(refused, on_audio, base_model):
    run, _ = on_audio

    assert "--base_model has no effect on the trained wav2vec2-antispoofing in" in refused(
        "--model", run, "--base_model", base_model
    )


# Further runs


@pytest.mark.slow
def test_gradient_checkpointing_gives_the_losses_of_training_without(
    on_audio, arguments, train_script, tmp_path
):
    train_script.run(*arguments, "--output_dir", tmp_path / "run", "--gradient_checkpointing")

    assert logged(tmp_path / "run", "loss") == pytest.approx(logged(on_audio[0], "loss"), rel=1e-4)


@pytest.mark.slow
def test_gradient_checkpointing_on_the_cache_gives_the_losses_of_training_without(
    on_cache, arguments, train_script, tmp_path
):
    options = ("--gradient_checkpointing", "--cache_frozen_trunk")
    train_script.run(*arguments, "--output_dir", tmp_path / "run", *options)

    assert logged(tmp_path / "run", "loss") == pytest.approx(logged(on_cache[0], "loss"), rel=1e-4)


@pytest.mark.slow
def test_adapters_are_averaged_merged_and_named_in_record_and_card(arguments, train_script, tmp_path):
    options = ("--lora_rank", 4, "--num_trainable_layers", 0, "--average_checkpoints", 2)
    output = train_script.run(*arguments, "--output_dir", tmp_path / "run", *options)

    of_adapters = 3 * 2 * 4 * (32 + 32)
    num_trained = of_adapters + (32 * 16 + 16) + (16 * 2 + 2)  # of projector and classifier
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    total = sum(tensor.numel() for tensor in weights_of(tmp_path / "run").values())
    counts = f"{total:,} parameters and {of_adapters:,} of adapters, {num_trained:,} of them trained"
    assert counts in output
    assert (record["num_trainable_parameters"], record["num_parameters"]) == (num_trained, total)
    assert record["overridden"]["lora_rank"] == 4 and record["averaging"]["steps"] == [6, 12]
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| Trained in the encoder | adapters of rank 4 (LoRA)" in card
    assert f"| Parameters | {total:,}; {num_trained:,} were trained, adapters among them |" in card


@pytest.mark.slow
def test_two_processes_share_out_the_cache_and_leave_one_of_one_process(
    on_cache, arguments, train_script, tmp_path
):
    environment = dict(train_script.environment)
    train_script.environment["HF_DATASETS_CACHE"] = str(tmp_path / "cache")
    try:
        train_script.run(
            *(*arguments, "--output_dir", tmp_path / "run", "--cache_frozen_trunk", "--use_cpu"),
            launch=("--multi_gpu", "--num_processes", "2", "--main_process_port", "0"),
        )
    finally:
        train_script.environment = environment

    keys = {path.parent.name for path in Path(tmp_path, "cache").rglob("frozen-trunk/*/*.safetensors")}
    of_one = {path.parent.name for path in Path(environment["HF_HOME"]).rglob("frozen-trunk/*/*.safetensors")}
    assert len(keys) == 2 and keys <= of_one


@pytest.mark.slow
def test_system_of_the_study_is_trained_saved_loaded_and_scored_at_its_real_size(
    la_corpus, train_script, eval_script, tmp_path
):
    base, run = tmp_path / "base", tmp_path / "run"
    Wav2Vec2ForPreTraining(Wav2Vec2Config()).save_pretrained(base)

    output = train_script.run(
        *("--model", "wav2vec2-v2-unfrozen", "--data_dir", la_corpus, "--base_model", base),
        *("--output_dir", run, "--max_steps", 2, "--eval_strategy", "no", "--save_strategy", "no"),
        *("--load_best_model_at_end", "False", "--num_threads", 2),
    )
    # As train.py scored: the last bits depend on the batch size, and on the number of threads.
    options = ("--batch_size", 8, "--num_threads", 2)
    eval_script.run("--model", run, "--data_dir", la_corpus, "--split", "eval", *options)

    assert "94,568,322 parameters, 28,548,866 of them trained" in output
    assert (run / "model.safetensors").stat().st_size / 2**20 == pytest.approx(360.8, abs=0.2)
    scores = [path.read_text() for path in (run / "results").glob("*eval/scores.txt")]
    assert len(scores) == 2 and scores[0] == scores[1]
    logits = logits_of(run, la_corpus)
    written = [float(line.split()[-1]) for line in scores[0].splitlines()]
    torch.testing.assert_close(logits[:, 0] - logits[:, 1], torch.tensor(written), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "flash attention needs --bf16 or --fp16"),
        (
            ["--bf16", "--use_cpu", "--cache_frozen_trunk"],
            "cannot be combined with flash attention: it computes in float32",
        ),
    ],
)
def test_flash_attention_is_refused_where_it_can_not_run(refused, options, message):
    assert message in refused("--model", "wav2vec2", "--attn_implementation", "flash_attention_2", *options)
