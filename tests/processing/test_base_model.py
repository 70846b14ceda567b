"""Starting from a pretrained encoder: which weights arrive, what of its config holds, and what is refused."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import serve
from safetensors.torch import load_file, save_file
from tiny_base_model import WHISPER_SIZES, save_base_model
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    Data2VecAudioModel,
    HubertModel,
    SeamlessM4TFeatureExtractor,
    UniSpeechSatModel,
    Wav2Vec2Model,
    WavLMModel,
    WhisperConfig,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
    WhisperModel,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from modeling import Wav2Vec2AntiSpoofingConfig, Wav2Vec2AntiSpoofingForAudioClassification
from processing.base_model import follow_base_model, load_base_model
from processing.feature_extraction_antispoofing import AntiSpoofingFeatureExtractor
from processing.resuming import hash_tensors


ROOT = Path(__file__).parents[2]
HEADS = [
    *("project_hid.bias", "project_hid.weight", "project_q.bias", "project_q.weight"),
    *("quantizer.codevectors", "quantizer.weight_proj.bias", "quantizer.weight_proj.weight"),
    "wav2vec2.masked_spec_embed",  # masking is off
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save_base_model(tmp_path_factory.mktemp("base") / "w2v")


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy of the base model, to be changed."""
    return shutil.copytree(saved, tmp_path / "w2v")


def new_model(source, stated: dict | None = None) -> Wav2Vec2AntiSpoofingForAudioClassification:
    """A model whose encoder has the config of the source and random weights."""
    settings, _ = follow_base_model({"model_type": "wav2vec2", **(stated or {})}, {}, str(source), None)
    config = Wav2Vec2AntiSpoofingConfig(encoder_config=settings, num_samples=4000)
    torch.manual_seed(1)
    return Wav2Vec2AntiSpoofingForAudioClassification(config)


def assert_loads_all(source: Path, weights: dict[str, torch.Tensor], model_type: str = "wav2vec2") -> dict:
    """Every tensor of the encoder is the source's; returns what `load_base_model` says."""
    model = new_model(source, {"model_type": model_type})

    loaded = load_base_model(model.encoder, str(source))

    state = model.encoder.state_dict()
    assert [name for name, tensor in state.items() if not torch.equal(tensor, weights[name])] == []
    assert loaded["num_tensors"] == len(state) and loaded["name"] == source.name
    return loaded


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Tensors of all safetensors of a folder, under the encoder's own names."""
    files = [load_file(path) for path in folder.glob("*.safetensors")]
    return {name.removeprefix("wav2vec2."): value for file in files for name, value in file.items()}


def test_encoder_is_the_pretrained_one_and_the_heads_of_its_pretraining_are_named_as_unused(saved):
    loaded = assert_loads_all(saved, weights_of(saved))

    assert loaded["unused"] == HEADS


@pytest.mark.parametrize(
    ("model_class", "model_type"),
    [
        (Wav2Vec2Model, "wav2vec2"),
        (HubertModel, "hubert"),
        (WavLMModel, "wavlm"),
        (UniSpeechSatModel, "unispeech-sat"),
        (Data2VecAudioModel, "data2vec-audio"),
    ],
)
def test_bare_encoder_of_every_kind_loads(tmp_path, model_class, model_type):
    source = save_base_model(tmp_path / "bare", model_class)

    loaded = assert_loads_all(source, weights_of(source), model_type)

    assert loaded["unused"] == ["masked_spec_embed"]


@pytest.mark.parametrize(
    ("model_class", "prefix", "unused"),
    [
        (WhisperForConditionalGeneration, "model.encoder.", []),  # as published
        (WhisperModel, "encoder.", []),
        (WhisperForAudioClassification, "encoder.", ["classifier", "projector"]),
        (WhisperEncoder, "", []),
    ],
)
def test_whispers_encoder_loads_and_its_decoder_is_left_out(tmp_path, model_class, prefix, unused):
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "vocab_size": 8}
    torch.manual_seed(0)
    model_class(WhisperConfig(**WHISPER_SIZES, **decoder, **tokens)).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    stated = {"model_type": "whisper", "d_model": 32, "encoder_layers": 3}

    settings, extractor = follow_base_model(stated, {"do_normalize": "base_model"}, str(tmp_path), None)
    config = Wav2Vec2AntiSpoofingConfig(encoder_config=settings, num_samples=4000)
    model = Wav2Vec2AntiSpoofingForAudioClassification(config)
    loaded = load_base_model(model.encoder, str(tmp_path))

    state = model.encoder.state_dict()
    assert all(torch.equal(tensor, weights[prefix + name]) for name, tensor in state.items())
    assert loaded["num_tensors"] == len(state) == 52
    assert {name.split(".")[0] for name in loaded["unused"]} == set(unused)
    assert extractor == {"do_normalize": False}  # Whisper takes the waveform as it is


@pytest.mark.slow  # fetches 133 MB
def test_whisper_base_gives_the_states_that_transformers_makes_of_30_seconds(tmp_path):
    tool = ROOT.parent / "shared" / "tools" / "whisper_base.py"
    if not tool.is_file():
        pytest.skip("../shared/tools/whisper_base.py, which fetches Whisper base, is not here")
    fetched = subprocess.run([sys.executable, tool, tmp_path], capture_output=True, text=True)
    if fetched.returncode:
        pytest.skip(f"Whisper base could not be fetched: {fetched.stderr[-200:]}")
    settings, _ = follow_base_model({"model_type": "whisper", "d_model": 512}, {}, str(tmp_path), None)
    config = Wav2Vec2AntiSpoofingConfig(encoder_config=settings, num_samples=480_000)
    model = Wav2Vec2AntiSpoofingForAudioClassification(config).eval()
    load_base_model(model.encoder, str(tmp_path))
    waveform = 0.1 * torch.randn(1, 480_000, generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        states = model(waveform, output_hidden_states=True).hidden_states

    theirs = WhisperEncoder(AutoConfig.from_pretrained(tmp_path)).eval()
    weights = load_file(tmp_path / "model.safetensors")
    theirs.load_state_dict({name.removeprefix("model.encoder."): value for name, value in weights.items()})
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    features = extractor(waveform[0].numpy(), sampling_rate=16000, return_tensors="pt").input_features
    with torch.no_grad():
        expected = theirs(features, output_hidden_states=True)
    assert model.encoder.num_parameters() == 20_590_592
    for state, expected_state in zip(
        states, [*expected.hidden_states[:-1], expected.last_hidden_state], strict=True
    ):
        torch.testing.assert_close(state, expected_state, atol=2e-5 * expected_state.abs().max(), rtol=0)


def test_encoder_in_several_files_loads(saved, tmp_path):
    source = save_base_model(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list(source.glob("*.safetensors"))) > 2

    assert_loads_all(source, weights_of(saved))


@pytest.mark.parametrize("as_zip", [True, False])
def test_old_pickled_weights_with_the_old_names_of_weight_norm_load(folder, as_zip):
    weights = load_file(folder / "model.safetensors")
    prefix = "wav2vec2.encoder.pos_conv_embed.conv."
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        weights[prefix + old] = weights.pop(f"{prefix}parametrizations.weight.{new}")
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=as_zip)
    expected = weights_of(folder)
    (folder / "model.safetensors").unlink()

    loaded = assert_loads_all(folder, expected)

    assert loaded["unused"] == HEADS


def test_half_precision_weights_become_float32(folder):
    weights = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model = new_model(folder)

    load_base_model(model.encoder, str(folder))

    assert {tensor.dtype for tensor in model.encoder.state_dict().values()} == {torch.float32}
    name = "encoder.layers.0.attention.k_proj.weight"
    assert torch.equal(model.encoder.state_dict()[name], weights[f"wav2vec2.{name}"].float())


def test_hash_is_that_of_the_encoders_weights_alone(folder):
    before = load_base_model(new_model(folder).encoder, str(folder))["sha256"]
    weights = load_file(folder / "model.safetensors")
    weights["project_hid.bias"] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with_other_head = load_base_model(new_model(folder).encoder, str(folder))["sha256"]
    weights["wav2vec2.encoder.layers.2.final_layer_norm.bias"][-1] += 1e-6
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    with_other_weight = load_base_model(new_model(folder).encoder, str(folder))["sha256"]

    assert before == with_other_head != with_other_weight


def test_digest_is_the_sha256_of_names_types_shapes_and_bytes():
    tensor = torch.tensor([[1.0, 2.0]])

    expected = hashlib.sha256(b"a torch.float32 (1, 2)" + tensor.numpy().tobytes()).hexdigest()

    assert hash_tensors([("a", tensor)]) == expected
    assert hash_tensors([("b", tensor)]) != expected
    assert hash_tensors([("a", tensor.T)]) != expected


# What of the config holds


def test_what_the_recipe_leaves_out_is_the_base_models_own(tmp_path):
    source = save_base_model(tmp_path / "w2v", hidden_dropout=0.3, layer_norm_eps=1e-3, hidden_act="relu")

    encoder = new_model(source).config.encoder_config

    assert (encoder.hidden_dropout, encoder.layer_norm_eps, encoder.hidden_act) == (0.3, 1e-3, "relu")
    assert (encoder.hidden_size, encoder.conv_dim) == (32, [16] * 7)


def test_dropout_of_the_recipe_wins(tmp_path):
    source = save_base_model(tmp_path / "w2v", hidden_dropout=0.3, attention_dropout=0.4)
    stated = {"hidden_dropout": 0.0, "mask_time_prob": 0.0, "layerdrop": 0.0}

    settings, _ = follow_base_model(stated, {}, str(source), None)

    assert settings.items() >= stated.items()
    assert settings["attention_dropout"] == 0.4


@pytest.mark.parametrize("name", ["mask_time_prob", "mask_feature_prob", "layerdrop"])
def test_masking_and_layerdrop_can_not_be_turned_on(saved, name):
    with pytest.raises(ValueError, match=f"{name} 0.1 is not possible"):
        follow_base_model({name: 0.1}, {}, str(saved), None)


def test_sizes_that_the_recipe_states_rightly_are_accepted(saved):
    stated = {"hidden_size": 32, "num_hidden_layers": 3, "conv_dim": (16,) * 7}

    settings, _ = follow_base_model(stated, {}, str(saved), None)

    assert (settings["hidden_size"], settings["conv_dim"]) == (32, [16] * 7)


@pytest.mark.parametrize(
    ("key", "stated", "found"),
    [("hidden_size", 768, 32), ("num_hidden_layers", 12, 3), ("model_type", "hubert", "'wav2vec2'")],
)
def test_base_model_of_another_size_than_the_recipe_states_is_refused(saved, key, stated, found):
    with pytest.raises(ValueError) as error:
        follow_base_model({key: stated}, {}, str(saved), None)

    message = str(error.value)
    assert f"The base model {saved} has {key} {found}" in message
    assert f"says {stated!r}. Choose the base model that the recipe is for" in message


def test_config_of_the_model_does_not_tell_where_the_base_model_lies(folder):
    model = new_model(folder)
    load_base_model(model.encoder, str(folder))

    assert str(folder.parent) not in model.config.to_json_string()
    assert str(folder.parent) not in model.encoder.config.to_json_string()
    assert "Wav2Vec2ForPreTraining" not in model.config.to_json_string()


@pytest.mark.parametrize("normalizes", [True, False])
def test_normalisation_follows_the_base_model(tmp_path, normalizes):
    source = save_base_model(tmp_path / "w2v", do_normalize=normalizes)

    _, settings = follow_base_model({}, {"do_normalize": "base_model", "padding": "zero"}, str(source), None)

    assert settings == {"do_normalize": normalizes, "padding": "zero"}


def test_normalisation_that_the_recipe_states_needs_no_word_of_the_base_model(saved):
    _, settings = follow_base_model({}, {"do_normalize": True}, str(saved), None)

    assert settings == {"do_normalize": True}


def test_base_model_that_does_not_say_whether_it_normalises_is_an_error(folder):
    SeamlessM4TFeatureExtractor().save_pretrained(folder)

    with pytest.raises(ValueError, match=f"of {folder} does not say.*State do_normalize in the recipe"):
        follow_base_model({}, {"do_normalize": "base_model"}, str(folder), None)


def test_base_model_without_a_feature_extractor_is_an_error_where_it_is_to_be_followed(folder):
    with pytest.raises(FileNotFoundError, match=f"{folder}.*preprocessor_config.json"):
        follow_base_model({}, {"do_normalize": "base_model"}, str(folder), None)


def test_without_a_base_model_there_is_no_normalisation_to_follow():
    with pytest.raises(ValueError, match="State true or false"):
        follow_base_model({}, {"do_normalize": "base_model"}, "none", None)


def test_random_weights_take_the_recipes_settings_as_they_are():
    stated, extractor = {"model_type": "wav2vec2", "hidden_size": 64}, {"do_normalize": False}

    assert follow_base_model(stated, extractor, "none", None) == (stated, extractor)


def test_no_base_model_at_all_is_an_error_with_the_ways_to_name_one():
    with pytest.raises(ValueError, match="--base_model.*'none' for random.*base_model under training"):
        follow_base_model({}, {}, None, None)


def test_checkpoint_takes_the_place_of_a_base_model_that_is_gone(folder, tmp_path):
    model = new_model(folder, {"hidden_dropout": 0.25})
    model.save_pretrained(tmp_path / "checkpoint")
    AntiSpoofingFeatureExtractor(num_samples=4000, do_normalize=True).save_pretrained(tmp_path / "checkpoint")
    shutil.rmtree(folder)

    settings, extractor = follow_base_model(
        {"hidden_dropout": 0.25, "hidden_size": 32},
        {"do_normalize": "base_model"},
        str(folder),
        tmp_path / "checkpoint",
    )

    resumed = Wav2Vec2AntiSpoofingConfig(encoder_config=settings, num_samples=4000)
    assert resumed.encoder_config.to_dict() == model.config.encoder_config.to_dict()
    assert extractor == {"do_normalize": True}


# What can't be loaded


def test_folder_that_is_not_there_is_named_with_a_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no folder {tmp_path}/gone to take the base model from"):
        new_model(tmp_path / "gone")


def test_base_model_of_the_hub_without_a_connection_is_named_with_a_remedy():
    with pytest.raises(FileNotFoundError, match="lab/unknown is not found.*hf download lab/unknown"):
        new_model("lab/unknown")


def test_folder_without_weights_is_an_error(folder):
    model = new_model(folder)
    (folder / "model.safetensors").unlink()

    with pytest.raises(FileNotFoundError, match=f"{folder} is not found, or not complete.*model.safetensors"):
        load_base_model(model.encoder, str(folder))


def test_missing_one_of_several_files_is_an_error_that_names_it(tmp_path):
    source = save_base_model(tmp_path / "sharded", max_shard_size="20KB")
    path = min(source.glob("*.safetensors"))
    path.unlink()

    with pytest.raises(FileNotFoundError, match=path.name):
        load_base_model(new_model(source).encoder, str(source))


def test_config_that_lies_about_the_weights_is_an_error_with_both_shapes(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))

    with pytest.raises(
        ValueError,
        match=rf"{folder} does not fit its config: \S+intermediate_dense.bias .*\(64,\), but \(48,\).*9 such",
    ):
        load_base_model(new_model(folder).encoder, str(folder))


def test_source_that_lacks_a_tensor_is_refused(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["wav2vec2.encoder.layers.1.attention.k_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(
        ValueError, match=rf"{folder} lacks 1 of .* encoder.layers.1.attention.k_proj.weight: .*random"
    ):
        load_base_model(new_model(folder).encoder, str(folder))


@pytest.mark.parametrize("size", [0, 100, 5000, -4])
def test_safetensors_that_were_cut_off_are_refused(folder, size):
    path = folder / "model.safetensors"
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)

    with pytest.raises(ValueError, match=f"{folder} cannot be read.*Download or copy them again"):
        load_base_model(new_model(folder).encoder, str(folder))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("size", [0, 100, 5000])
def test_pickled_weights_that_were_cut_off_are_refused(folder, size):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    os.truncate(folder / "pytorch_model.bin", size)

    with pytest.raises(
        (ValueError, FileNotFoundError), match=f"base model {folder} (cannot be read|is not found)"
    ):
        load_base_model(new_model(folder).encoder, str(folder))


def test_folder_below_the_home_folder_is_found(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    source = f"~/{folder.name}"

    settings, _ = follow_base_model({}, {}, source, None)

    assert settings["hidden_size"] == 32
    assert load_base_model(new_model(folder).encoder, source)["name"] == folder.name


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", ["pickle", "torch"])
def test_pickle_that_would_run_code_is_refused_and_does_not_run_it(folder, tmp_path, write):
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    content = {"wav2vec2.masked_spec_embed": Bomb(tmp_path / "ran")}
    torch.save(content, path) if write == "torch" else path.write_bytes(pickle.dumps(content, 2))

    with pytest.raises(
        ValueError, match=f"{folder} cannot be read: its weights are damaged or more than tensors"
    ):
        load_base_model(new_model(folder).encoder, str(folder))

    assert not (tmp_path / "ran").exists()


# The Hub


SCRIPT = """
import json, sys
import modeling
from processing.base_model import follow_base_model, load_base_model

answers = []
for source in sys.argv[1:]:
    try:
        settings, extractor = follow_base_model(
            {"model_type": "wav2vec2"}, {"do_normalize": "base_model"}, source, None
        )
        config = modeling.Wav2Vec2AntiSpoofingConfig(encoder_config=settings, num_samples=4000)
        model = modeling.Wav2Vec2AntiSpoofingForAudioClassification(config)
        answers.append([load_base_model(model.encoder, source), extractor])
    except FileNotFoundError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


def test_base_model_of_the_hub_is_the_one_that_was_published(tmp_path):
    published = save_base_model(tmp_path / "hub" / "models" / "lab" / "base", do_normalize=False)
    expected = load_base_model(new_model(published).encoder, str(published))
    with serve(tmp_path / "hub") as hub:
        process = subprocess.run(
            [sys.executable, "-c", SCRIPT, "lab/base", "lab/nothing"],
            cwd=ROOT,
            env=hub.environment(tmp_path / "home") | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
        )
    assert process.returncode == 0, process.stderr
    (loaded, extractor), unknown = json.loads(process.stdout.splitlines()[-1])

    assert loaded == {**expected, "name": "lab/base"}
    assert extractor == {"do_normalize": False}
    assert "lab/nothing is not found" in unknown
