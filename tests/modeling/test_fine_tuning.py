"""The countermeasures in the hands of who knows the Hugging Face libraries: transformers' scripts of audio
classification, other labels, adapters. A Wav2Vec2ForSequenceClassification of the library is the control."""

from pathlib import Path

import numpy as np
import peft
import pytest
import soundfile
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from huggingface_hub.errors import StrictDataclassError
from tiny_base_model import ENCODER_SIZES
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    pipeline,
)

from modeling import (
    AasistConfig,
    AntiSpoofingFeatureExtractor,
    LCNNConfig,
    LFCCGMMConfig,
    RawNet2Config,
    Wav2Vec2AntiSpoofingConfig,
)


SPOOF_FIRST = {0: "spoof", 1: "bonafide"}
BONAFIDE_FIRST = {0: "bonafide", 1: "spoof"}  # as audiofolder sorts them
CONFIGS = {
    "aasist": AasistConfig(
        sinc_filters=10, block_channels=[4, 4, 6], graph_size=5, heterogeneous_graph_size=3, num_samples=8000
    ),
    "rawnet2": RawNet2Config(
        sinc_filters=8,
        block_channels=[8, 16],
        gru_hidden_size=16,
        num_gru_layers=1,
        embedding_size=8,
        num_samples=8000,
    ),
    "lcnn": LCNNConfig(num_samples=8000, id2label=SPOOF_FIRST),
    "wav2vec2": Wav2Vec2AntiSpoofingConfig(
        encoder_config={"model_type": "wav2vec2", **ENCODER_SIZES}, num_samples=8000, id2label=SPOOF_FIRST
    ),
}
OURS = [*CONFIGS]
WITH_CONTROL = ["control", *CONFIGS]


def save_model(folder: Path, system: str, **settings) -> Path:
    """A small new model, spoof first, and its feature extractor."""
    torch.manual_seed(0)
    if system == "control":
        labels = {"id2label": SPOOF_FIRST, "label2id": {"spoof": 0, "bonafide": 1}}
        model = Wav2Vec2ForSequenceClassification(
            Wav2Vec2Config(**ENCODER_SIZES, classifier_proj_size=8, layerdrop=0.0, **labels)
        )
        extractor = Wav2Vec2FeatureExtractor()
    else:
        config = type(CONFIGS[system]).from_dict(CONFIGS[system].to_dict(), **settings)
        model = AutoModelForAudioClassification.from_config(config)
        extractor = AntiSpoofingFeatureExtractor(num_samples=8000)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> DatasetDict:
    """
    8 recordings of noise to train on and 4 to test, low-passed where they are spoof, with the labels of an
    audiofolder. (That itself needs torchcodec, and that needs FFmpeg's libraries.)
    """
    folder, generator, splits = tmp_path_factory.mktemp("recordings"), np.random.default_rng(0), {}
    features = Features(audio=Value("string"), label=ClassLabel(names=[*BONAFIDE_FIRST.values()]))
    for split, count in (("train", 8), ("test", 4)):
        rows = {"audio": [], "label": [index % 2 for index in range(count)]}
        for index, label in enumerate(rows["label"]):
            waveform = 0.1 * generator.standard_normal(int(generator.integers(4000, 12000)))
            waveform = np.convolve(waveform, np.ones(6) / 6, mode="same") if label else waveform
            rows["audio"].append(str(folder / f"{split}{index}.wav"))
            soundfile.write(rows["audio"][-1], waveform, 16000)
        splits[split] = Dataset.from_dict(rows, features=features)
    return DatasetDict(splits)


def read(files: list[str]) -> list[np.ndarray]:
    return [soundfile.read(file, dtype="float32")[0] for file in files]


def map_labels(recordings: DatasetDict) -> dict:
    """As the tutorial and the script write it: ids are strings."""
    labels = recordings["train"].features["label"].names
    label2id, id2label = {}, {}
    for i, label in enumerate(labels):
        label2id[label] = str(i)
        id2label[str(i)] = label
    return {"num_labels": len(labels), "label2id": label2id, "id2label": id2label}


def as_the_tutorial(folder: Path, recordings: DatasetDict):
    """https://huggingface.co/docs/transformers/tasks/audio_classification"""
    feature_extractor = AutoFeatureExtractor.from_pretrained(folder)

    def preprocess_function(examples):
        return feature_extractor(
            read(examples["audio"]),
            sampling_rate=feature_extractor.sampling_rate,
            max_length=6000,
            truncation=True,
        )

    encoded = recordings.map(preprocess_function, remove_columns="audio", batched=True)
    model = AutoModelForAudioClassification.from_pretrained(folder, **map_labels(recordings))
    return model, feature_extractor, encoded, {}


def as_run_audio_classification(folder: Path, recordings: DatasetDict):
    """transformers' examples/pytorch/audio-classification/run_audio_classification.py, with its defaults"""
    feature_extractor = AutoFeatureExtractor.from_pretrained(folder, return_attention_mask=True)

    def transforms(batch):
        inputs = feature_extractor(read(batch["audio"]), sampling_rate=feature_extractor.sampling_rate)
        return {"input_values": inputs.get("input_values"), "labels": list(batch["label"])}

    config = AutoConfig.from_pretrained(
        folder, finetuning_task="audio-classification", **map_labels(recordings)
    )
    model = AutoModelForAudioClassification.from_pretrained(
        folder, config=config, ignore_mismatched_sizes=False
    )
    if hasattr(model, "freeze_feature_encoder"):
        model.freeze_feature_encoder()
    recordings = recordings.with_transform(transforms)
    return model, feature_extractor, recordings, {"remove_unused_columns": False}


@pytest.mark.parametrize("script", [as_the_tutorial, as_run_audio_classification])
@pytest.mark.parametrize("system", WITH_CONTROL)
def test_stock_trainer_fine_tunes_as_the_scripts_of_transformers_write_it(
    system, script, recordings, tmp_path
):
    folder = save_model(tmp_path / "model", system)
    model, feature_extractor, encoded, settings = script(folder, recordings)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"),
        eval_strategy="epoch",
        save_strategy="epoch",
        learning_rate=1e-3,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        num_train_epochs=1,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        **settings,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=encoded["train"],
        eval_dataset=encoded["test"],
        processing_class=feature_extractor,
        compute_metrics=lambda found: {
            "accuracy": (found.predictions.argmax(axis=1) == found.label_ids).mean()
        },
    )

    trainer.train()
    trainer.save_model()
    trainer.create_model_card()

    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if not torch.equal(model.get_parameter(name), before[name])} >= {
        "classifier.weight",
        "classifier.bias",
    }
    classifier = pipeline("audio-classification", model=str(tmp_path / "run"))
    assert {answer["label"] for answer in classifier(np.zeros(8000, np.float32))} == {"bonafide", "spoof"}


@pytest.mark.parametrize("system", OURS)
def test_fixed_length_has_no_mask_and_a_mask_that_marks_padding_is_refused(system, tmp_path):
    folder = save_model(tmp_path, system)
    model = AutoModelForAudioClassification.from_pretrained(folder)
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    values = extractor([np.ones(300, np.float32), np.ones(9000, np.float32)], 16000)["input_values"]
    batch = extractor.pad([{"input_values": each} for each in values], return_tensors="pt")  # as the Trainer
    mask = torch.ones(2, 8000, dtype=torch.int32)

    logits = model(**batch).logits

    assert [*batch] == ["input_values"]
    assert torch.equal(model(**batch, attention_mask=mask).logits, logits)
    mask[0, 300:] = 0
    with pytest.raises(ValueError, match="attention_mask marks padding"):
        model(**batch, attention_mask=mask)


# Other labels


def waveforms() -> torch.Tensor:
    return 0.1 * torch.randn(4, 8000, generator=torch.Generator().manual_seed(1))


def run(model: PreTrainedModel, names: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores, and the loss of utterances whose classes are named."""
    label2id = model.config.label2id
    with torch.no_grad():
        output = model(waveforms(), labels=torch.tensor([label2id[name] for name in names]))
    return output.logits[:, label2id["bonafide"]] - output.logits[:, label2id["spoof"]], output.loss


@pytest.mark.parametrize(
    "given",
    [
        {"id2label": BONAFIDE_FIRST},
        {"id2label": {"0": "bonafide", "1": "spoof"}, "label2id": {"bonafide": "0", "spoof": "1"}},
        {"label2id": {"bonafide": 0, "spoof": 1}, "num_labels": 2},
        {"config": BONAFIDE_FIRST},
    ],
    ids=["ids", "strings", "label2id", "config"],
)
@pytest.mark.parametrize("system", [*OURS, "lfcc-gmm"])
def test_labels_in_another_order_permute_the_last_layer_and_the_class_weights(system, given, tmp_path):
    settings = {"class_weights": {"spoof": 1.0, "bonafide": 9.0}, "decision_threshold": 0.5}
    if system == "lfcc-gmm":
        config = LFCCGMMConfig(num_components=4, id2label=SPOOF_FIRST, **settings)
        AutoModelForAudioClassification.from_config(config).save_pretrained(tmp_path)
    else:
        save_model(tmp_path, system, **settings)
    if "config" in given:  # changed by hand
        given = {"config": AutoConfig.from_pretrained(tmp_path)}
        given["config"].id2label, given["config"].label2id = BONAFIDE_FIRST, {"bonafide": 0, "spoof": 1}
    names = ["bonafide", "spoof", "spoof", "bonafide"]

    model = AutoModelForAudioClassification.from_pretrained(tmp_path, **given)
    model.save_pretrained(tmp_path / "again")

    scores, loss = run(AutoModelForAudioClassification.from_pretrained(tmp_path), names)
    for other in (model, AutoModelForAudioClassification.from_pretrained(tmp_path / "again")):
        assert other.config.id2label == BONAFIDE_FIRST
        assert other.config.label2id == {"bonafide": 0, "spoof": 1}
        assert other.config.decision_threshold == 0.5
        other_scores, other_loss = run(other, names)
        torch.testing.assert_close(other_scores, scores, atol=1e-6, rtol=0)
        torch.testing.assert_close(other_loss, loss, atol=1e-6, rtol=0)


@pytest.mark.parametrize("system", [*OURS, "lfcc-gmm"])
def test_logits_of_a_calibrated_model_are_its_log_likelihood_ratio_and_the_loss_is_of_its_scores(
    system, tmp_path
):
    if system == "lfcc-gmm":
        config = LFCCGMMConfig(num_components=4, id2label=SPOOF_FIRST)
        AutoModelForAudioClassification.from_config(config).save_pretrained(tmp_path)
    else:
        save_model(tmp_path, system)
    calibration, names = {"a": 2.0, "b": -0.5}, ["bonafide", "spoof", "spoof", "bonafide"]
    scores, loss = run(AutoModelForAudioClassification.from_pretrained(tmp_path), names)

    model = AutoModelForAudioClassification.from_pretrained(tmp_path, calibration=calibration)
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForAudioClassification.from_pretrained(tmp_path / "again", id2label=BONAFIDE_FIRST)

    for other in (model, again):
        llrs, of_scores = run(other, names)
        torch.testing.assert_close(llrs, 2 * scores - 0.5, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(of_scores, loss, atol=1e-6, rtol=1e-6)
        assert other.config.calibration == calibration
    model.set_decision_threshold(0.25)  # where it changes the scores, the calibration is not of them
    assert (model.config.calibration is None) == (system != "lfcc-gmm")
    again.train()
    assert again.config.calibration is None


@pytest.mark.parametrize("labels", [["fake", "real"], ["bonafide", "tts", "vc"]], ids=["names", "number"])
@pytest.mark.parametrize("system", OURS)
def test_other_labels_make_a_new_last_layer_where_that_is_asked_for(system, labels, tmp_path):
    save_model(tmp_path, system, class_weights={"spoof": 2.0, "bonafide": 1.0}, decision_threshold=0.5)
    before = AutoModelForAudioClassification.from_pretrained(tmp_path).state_dict()
    given = {"id2label": dict(enumerate(labels)), "class_weights": None}

    with pytest.raises((ValueError, RuntimeError), match="ignore_mismatched_sizes"):
        AutoModelForAudioClassification.from_pretrained(tmp_path, **given)
    model = AutoModelForAudioClassification.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **given)

    after = model.state_dict()
    head = {"classifier.weight", "classifier.bias"}
    assert {name for name in after if not torch.equal(after[name], before[name])} == head
    assert after["classifier.weight"].isfinite().all() and len(after["classifier.bias"]) == len(labels)
    assert [*model.config.id2label.values()] == labels and model.config.decision_threshold is None


def test_weights_without_a_config_have_the_labels_of_the_one_that_is_given(tmp_path):
    config = AutoConfig.from_pretrained(save_model(tmp_path, "aasist"))
    expected = AutoModelForAudioClassification.from_pretrained(tmp_path).state_dict()
    (tmp_path / "config.json").unlink()

    model = AutoModelForAudioClassification.from_pretrained(tmp_path, config=config)

    assert torch.equal(model.classifier.weight, expected["classifier.weight"])


def test_class_weights_that_name_other_labels_are_refused(tmp_path):
    save_model(tmp_path, "aasist", class_weights={"spoof": 2.0, "bonafide": 1.0})

    with pytest.raises(StrictDataclassError, match="each of the labels fake, real, by name; None weighs"):
        AutoModelForAudioClassification.from_pretrained(
            tmp_path, id2label={0: "fake", 1: "real"}, ignore_mismatched_sizes=True
        )


def test_ids_and_labels_that_contradict_each_other_are_refused(tmp_path):
    save_model(tmp_path, "aasist")

    with pytest.raises(StrictDataclassError, match="contradict each other"):
        AutoConfig.from_pretrained(tmp_path, id2label=SPOOF_FIRST, label2id={"bonafide": 0, "spoof": 1})


# Adapters and further training


def test_training_mode_removes_the_decision_threshold_that_is_saved(tmp_path):
    save_model(tmp_path, "aasist", decision_threshold=0.5)
    model = AutoModelForAudioClassification.from_pretrained(tmp_path)

    model.eval().save_pretrained(tmp_path / "same")
    model.train()
    model.save_pretrained(tmp_path / "trained")

    assert AutoConfig.from_pretrained(tmp_path / "same").decision_threshold == 0.5
    assert AutoConfig.from_pretrained(tmp_path / "trained").decision_threshold is None


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("system", ["control", "wav2vec2"])
def test_lora_trains_on_the_frozen_encoder(system, checkpointing, tmp_path):
    save_model(tmp_path, system, **({} if system == "control" else {"decision_threshold": 0.5}))
    model = AutoModelForAudioClassification.from_pretrained(tmp_path)
    head = ["projector" if system == "control" else "backend", "classifier"]
    lora = peft.LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=head)
    model = peft.get_peft_model(model, lora)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    rows = [{"input_values": waveform, "labels": index % 2} for index, waveform in enumerate(waveforms())]
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=2,  # in the first, the first factor of LoRA has no gradient, because the second is 0
        learning_rate=1e-2,
        gradient_checkpointing=checkpointing,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
    )

    Trainer(model=model, args=arguments, train_dataset=rows).train()
    model.eval().save_pretrained(tmp_path / "adapter")

    changed = {
        name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])
    }
    assert sum("lora_" in name for name in changed) == 12  # two factors of two projections in three blocks
    assert sum("modules_to_save" in name for name in changed) == 4
    assert len(changed) == 16
    with torch.no_grad():
        logits = model(waveforms()).logits
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(waveforms()).logits, logits, atol=1e-5, rtol=0)
        if system != "control":  # which has another `load_adapter`
            loaded = AutoModelForAudioClassification.from_pretrained(tmp_path / "adapter")
            torch.testing.assert_close(loaded(waveforms()).logits, logits, atol=1e-6, rtol=0)
            assert loaded.config.decision_threshold is None


def test_trunk_below_an_adapter_runs_without_autograd(tmp_path):
    model = AutoModelForAudioClassification.from_pretrained(save_model(tmp_path, "wav2vec2"))
    inside = []
    for module in (model.encoder.feature_extractor, model.encoder.encoder.layers[0]):
        module.register_forward_hook(lambda module, inputs, output: inside.append(output.requires_grad))

    model.train()(waveforms())
    model = peft.get_peft_model(model, peft.LoraConfig(target_modules=r".*layers\.1\..*q_proj"))
    model.train()(waveforms())

    assert len(inside) >= 4 and not any(inside)
    assert not model.base_model.model.encoder.encoder.layers[0].training
    assert model.base_model.model.encoder.encoder.layers[1].training
