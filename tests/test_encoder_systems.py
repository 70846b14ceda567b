"""Every system on a pretrained encoder, with a small one of the same kind: trained by its own recipe for two
steps, saved, loaded and scored."""

import pytest
import torch
import yaml
from tiny_base_model import ENCODER_SIZES, WHISPER_SIZES
from transformers import AutoModelForAudioClassification

import train
from hub_cards.recipe import find_recipe, list_systems, load_recipe
from processing.averaging import keep_better_average
from processing.collation import AudioCollator, label_ids
from processing.corpora import load_corpus
from processing.models import build_model
from processing.scoring import score_rows
from processing.training import build_trainer


SYSTEMS = [
    name
    for name in list_systems()
    if load_recipe(find_recipe(name)[0]).model["model_type"] == "wav2vec2-antispoofing"
]


@pytest.fixture(params=SYSTEMS)
def run(request, la_corpus, tmp_path) -> train.Run:
    """The run of a system as its YAML states it, with another encoder and shorter crops."""
    recipe = yaml.safe_load(find_recipe(request.param)[0].read_text())
    encoder = recipe["model"]["encoder_config"]
    wide = {**ENCODER_SIZES, "hidden_size": 64, "num_hidden_layers": 2}  # Nes2Net-X takes multiples of 64
    encoder |= WHISPER_SIZES if encoder["model_type"] == "whisper" else wide
    recipe["model"] |= {"num_samples": 8000}
    if recipe["model"]["num_trainable_layers"] != "all":
        recipe["model"]["num_trainable_layers"] = min(recipe["model"]["num_trainable_layers"], 1)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(recipe))
    arguments = (
        *("--model", tmp_path / "small.yaml", "--base_model", "none", "--data_dir", la_corpus),
        *("--output_dir", tmp_path / "run", "--max_steps", 2, "--per_device_train_batch_size", 4),
        *("--eval_strategy", "steps", "--eval_steps", 1, "--save_strategy", "steps", "--save_steps", 1),
        *("--warmup_steps", 0),  # of two steps one would have a learning rate of 0
        *("--use_cpu", "--report_to", "none", "--dataloader_num_workers", 0),
    )
    return train.parse_arguments([*map(str, arguments)])


def test_system_is_trained_by_its_recipe_saved_loaded_and_scored(run, tmp_path):
    corpus = load_corpus(run.corpus_args)
    model, extractor, _ = build_model(run.recipe, {"bonafide": 12, "spoof": 12}, base_model="none")
    ids = label_ids(corpus.splits["train"].features["label"].names, model.config.label2id)
    collator = AudioCollator(extractor, ids)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    trainer = build_trainer(model, collator, corpus.splits, run.args, run.choose_method())
    trainer.train()
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))  # which was the last
    assert trainer.state.global_step == 2
    if run.gradient_args.is_averaging:
        assert keep_better_average(trainer, run.gradient_args.average_checkpoints)
    trainer.save_model(tmp_path / "saved")
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path / "saved").eval()

    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    changed = {name for name, tensor in model.named_parameters() if not torch.equal(tensor, before[name])}
    is_frozen = run.recipe.model["num_trainable_layers"] == 0
    parts = {"backend", "classifier"} | (set() if is_frozen else {"encoder"})
    assert changed <= trained and {name.split(".")[0] for name in changed} == parts
    rows = corpus.splits["eval"]
    scores = score_rows(loaded, collator, rows)
    assert scores.isfinite().all() and scores.unique().numel() == len(rows)
    torch.testing.assert_close(scores, score_rows(model.eval(), collator, rows), rtol=0, atol=1e-6)
