"""How a pretrained encoder is fine-tuned: learning rates by layer, adapters, another number of blocks."""

import dataclasses
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file
from tiny_base_model import ENCODER_SIZES, WHISPER_SIZES, save_base_model
from torch import nn
from transformers import AutoModelForAudioClassification, Trainer, TrainingArguments, set_seed

from hub_cards.recipe import Recipe
from modeling import Wav2Vec2AntiSpoofingConfig, Wav2Vec2AntiSpoofingForAudioClassification
from processing.arguments import GradientArguments
from processing.collation import AudioCollator
from processing.layouts import LAYOUTS
from processing.lora import add_lora, merge_lora
from processing.models import build_model
from processing.training import AntiSpoofingTrainer, build_trainer
from processing.trunk_cache import cache_trunk


STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}  # a norm above the last block
BELOW = ("train_feature_encoder", "train_feature_projection", "train_positional_convolution")


def make_model(model_type="wav2vec2", encoder=None, **settings) -> Wav2Vec2AntiSpoofingForAudioClassification:
    torch.manual_seed(0)
    sizes = WHISPER_SIZES if model_type == "whisper" else ENCODER_SIZES
    encoder = {**sizes, "model_type": model_type, **(encoder or {})}
    config = Wav2Vec2AntiSpoofingConfig(encoder_config=encoder, num_samples=4000, **settings)
    return Wav2Vec2AntiSpoofingForAudioClassification(config).eval()


def waveforms() -> torch.Tensor:
    return 0.1 * torch.randn(3, 4000, generator=torch.Generator().manual_seed(1))


# Learning rates by layer


@pytest.mark.parametrize("encoder", [{}, STABLE])
def test_learning_rate_decays_from_the_head_down_and_weight_decay_stays_that_of_the_library(
    encoder, tmp_path
):
    model = make_model(encoder=encoder, num_trainable_layers="all", **dict.fromkeys(BELOW, True))
    args = TrainingArguments(
        str(tmp_path), learning_rate=0.01, weight_decay=0.3, use_cpu=True, report_to="none"
    )
    common = {"model": model, "args": args, "data_collator": list}
    names = {parameter: name for name, parameter in model.named_parameters()}

    optimizer = AntiSpoofingTrainer(eval_collator=list, layer_decay=0.5, **common).create_optimizer()

    found, of_library = (
        {names[p]: group for group in each.param_groups for p in group["params"]}
        for each in (optimizer, Trainer(**common).create_optimizer())
    )
    assert found.keys() == of_library.keys() == set(names.values())
    for name, group in found.items():
        block = re.match(r"encoder\.encoder\.layers\.(\d)\.", name)
        is_top_norm = encoder and name.startswith("encoder.encoder.layer_norm.")
        if block:
            num_above = 3 - int(block[1])
        else:
            num_above = 4 if name.startswith("encoder.") and not is_top_norm else 0
        assert group["lr"] == pytest.approx(0.01 * 0.5**num_above), name
        assert group["weight_decay"] == of_library[name]["weight_decay"], name
    assert optimizer.param_groups[0]["lr"] == 0.01  # which is the one that is logged


# Adapters


# WavLM takes the weights past the layers.
@pytest.mark.parametrize("model_type", ["wav2vec2", "wavlm", "whisper"])
def test_adapters_and_head_alone_are_trained_and_merging_gives_w_plus_2_b_a(model_type):
    model = make_model(model_type)
    names, before = [*model.state_dict()], {k: v.double() for k, v in model.state_dict().items()}
    logits = model(waveforms()).logits

    add_lora(model.encoder, 4)
    torch.testing.assert_close(model(waveforms()).logits, logits)  # B begins as 0

    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    of_adapters = [name for name in trained if name.startswith("encoder.")]
    assert len(of_adapters) == 3 * 2 * 2 and all(".lora_" in name for name in of_adapters)
    assert sum(trained[name].numel() for name in of_adapters) == 3 * 2 * 4 * (32 + 32)
    of_head = {name for name, _ in model.named_parameters() if not name.startswith("encoder.")}
    assert {*trained} == {*of_adapters} | of_head
    for name in of_adapters:
        nn.init.normal_(trained[name], std=0.3)
    adapted = model(waveforms(), labels=torch.tensor([0, 1, 0]))
    adapted.loss.backward()
    assert [name for name, p in trained.items() if not p.grad.abs().sum() > 0] == []
    assert (adapted.logits - logits).abs().max() > 0.01

    expected = {
        f"{name.removesuffix('.lora_A.default.weight')}.weight": 2
        * trained[name.replace("lora_A", "lora_B")].double()
        @ trained[name].double()
        for name in of_adapters
        if "lora_A" in name
    }
    merge_lora(model.encoder)

    assert [*model.state_dict()] == names
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor.double(), before[name] + expected.get(name, 0), rtol=0, atol=1e-6)
    torch.testing.assert_close(model(waveforms()).logits, adapted.logits, rtol=0, atol=1e-5)


RECIPE = Recipe(
    system="tiny",
    description="",
    corpus="asvspoof2019-la",
    model={
        "model_type": "wav2vec2-antispoofing",
        "num_samples": 4000,
        "encoder_config": {"model_type": "wav2vec2", "hidden_dropout": 0.1},
    },
    training={},
)


def test_run_with_adapters_that_was_killed_ends_with_the_weights_of_the_whole_one(la_corpus, tmp_path):
    base_model = save_base_model(tmp_path / "base")
    splits = LAYOUTS["asvspoof2019-la"].load(la_corpus).splits

    def train(folder, checkpoint=None):
        set_seed(1)
        model, extractor, _ = build_model(
            RECIPE, {}, checkpoint=checkpoint, base_model=str(base_model), lora_rank=2
        )
        args = TrainingArguments(
            str(folder),
            num_train_epochs=2,
            per_device_train_batch_size=8,
            learning_rate=1e-2,
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="loss",
            remove_unused_columns=False,
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
        )
        trainer = build_trainer(
            model, AudioCollator(extractor, [0, 1]), splits, args, GradientArguments(layer_decay=0.9)
        )
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        merge_lora(model.encoder)
        model.save_pretrained(folder)
        extractor.save_pretrained(folder)
        return load_file(folder / "model.safetensors")

    whole = train(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "killed" / "checkpoint-3")
    base = load_file(base_model / "model.safetensors")
    base = {f"encoder.{name.removeprefix('wav2vec2.')}": tensor for name, tensor in base.items()}
    shutil.rmtree(base_model)
    resumed = train(tmp_path / "killed", tmp_path / "killed" / "checkpoint-3")

    assert [name for name, tensor in whole.items() if not torch.equal(resumed[name], tensor)] == []
    changed = {name for name in whole if name in base and not torch.equal(whole[name], base[name])}
    assert changed == {
        f"encoder.encoder.layers.{i}.attention.{name}_proj.weight" for i in range(3) for name in "qv"
    }
    _, report = AutoModelForAudioClassification.from_pretrained(tmp_path / "whole", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]  # which needs no peft

    # A trained model may be trained on with more of its blocks.
    more = dataclasses.replace(RECIPE, model={**RECIPE.model, "num_trainable_layers": 2})
    model, *_ = build_model(more, {}, weights=tmp_path / "whole")
    assert not any(p.requires_grad for p in model.encoder.encoder.layers[0].parameters())
    assert all(p.requires_grad for layer in model.encoder.encoder.layers[1:] for p in layer.parameters())
    assert torch.equal(model.state_dict()["classifier.weight"], whole["classifier.weight"])


def test_cache_of_what_adapters_change_is_refused(la_corpus):
    model, rows = make_model(), LAYOUTS["asvspoof2019-la"].load(la_corpus).splits["dev"]
    add_lora(model.encoder, 2)

    with pytest.raises(ValueError, match="adapters are trained in it.*Leave out the cache or --lora_rank"):
        cache_trunk(model, AudioCollator(None), rows)
