"""The YAMLs of the systems, and the errors of those that are wrong."""

import pytest
import torch
import yaml
from transformers import Wav2Vec2Config, Wav2Vec2Model, get_scheduler

from hub_cards.recipe import find_recipe, list_systems, load_recipe
from modeling import (
    LCNNConfig,
    LCNNForAudioClassification,
    LFCCGMMConfig,
    LFCCGMMForAudioClassification,
    RawNet2Config,
    Wav2Vec2AntiSpoofingConfig,
    Wav2Vec2AntiSpoofingForAudioClassification,
)


XLS_R = {  # of config.json of facebook/wav2vec2-xls-r-300m
    "num_hidden_layers": 24,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "do_stable_layer_norm": True,
}


def write(path, **changes):
    content = {"system": "mine", "description": "d", "corpus": "demo", "model": {}, "training": {}, **changes}
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return path


@pytest.mark.parametrize("name", ["../x", "/x", "..", "a\\b", "a\nb"])
def test_system_whose_name_is_a_path_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="Choose a name without a path"):
        load_recipe(write(tmp_path / "mine.yaml", system=name))


def test_aliases_by_which_a_few_lines_become_gigabytes_are_refused(tmp_path):
    path = write(tmp_path / "mine.yaml")
    path.write_text(path.read_text() + "reported:\n  a: &a [x, x]\n  b: [*a, *a]\n")

    with pytest.raises(ValueError, match="YAML aliases"):
        load_recipe(path)


@pytest.mark.parametrize("system", list_systems())
def test_every_system_loads_under_its_own_name(system):
    assert load_recipe(find_recipe(system)[0]).system == system


@pytest.mark.parametrize("system", ["rawnet2", "rawnet2-plateau"])
def test_rawnet2_states_what_the_studys_card_states(system):
    recipe = load_recipe(find_recipe(system)[0])
    settings = {k: v for k, v in recipe.model.items() if k != "model_type"}
    config = RawNet2Config(**settings)

    assert config.id2label == {0: "spoof", 1: "bonafide"}
    assert config.class_weights == {"spoof": 8.837, "bonafide": 1.0}
    assert config.num_samples == 64_000 and config.sinc_filters == 128 and config.sinc_filter_length == 129
    assert list(config.block_channels) == [128, 128, 512, 512, 512, 512]
    assert recipe.training["per_device_train_batch_size"] == 32
    assert float(recipe.training["learning_rate"]) == 1e-4
    assert float(recipe.training["weight_decay"]) == 2e-4
    assert recipe.training["max_grad_norm"] == 1.0
    assert recipe.training["num_train_epochs"] == 60 and recipe.training["early_stopping_patience"] == 15


def test_plateau_and_cosine_schedules():
    plateau, cosine = (load_recipe(find_recipe(name)[0]).training for name in ("rawnet2-plateau", "rawnet2"))

    assert plateau["lr_scheduler_type"] == "reduce_lr_on_plateau"
    assert plateau["lr_scheduler_kwargs"]["patience"] == 3 and plateau["lr_scheduler_kwargs"]["mode"] == "min"
    assert cosine["lr_scheduler_type"] == "cosine"


def wav2vec2_config(system) -> Wav2Vec2AntiSpoofingConfig:
    settings = {k: v for k, v in load_recipe(find_recipe(system)[0]).model.items() if k != "model_type"}
    return Wav2Vec2AntiSpoofingConfig(**settings)


@pytest.mark.parametrize("system", ["wav2vec2", "wav2vec2-v2-unfrozen"])
def test_wav2vec2_is_trained_as_the_studys_card_states(system):
    recipe = load_recipe(find_recipe(system)[0])

    assert recipe.corpus == "asvspoof2019-la"
    stated = {
        "base_model": "facebook/wav2vec2-base",
        "num_train_epochs": 40,
        "early_stopping_patience": 12,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "cosine",
        "weight_decay": 1e-4,
        "max_grad_norm": 1.0,
    }
    assert recipe.training.items() >= stated.items()


@pytest.mark.parametrize("system", ["wav2vec2", "wav2vec2-v2-unfrozen"])
def test_wav2vec2_states_the_head_the_input_and_the_labels_of_the_studys_card(system):
    stated, config = load_recipe(find_recipe(system)[0]).model, wav2vec2_config(system)

    assert config.id2label == {0: "bonafide", 1: "spoof"}  # the card: [:, 0] = bonafide, [:, 1] = spoof
    assert config.class_weights == {"bonafide": 3.0, "spoof": 1.0}  # the card: [3.0, 1.0]
    assert (config.num_samples, config.sampling_rate) == (64_000, 16_000)
    assert (config.encoder_config.hidden_size, config.classifier_proj_size) == (768, 256)
    assert config.classifier_dropout == 0.1
    off = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    assert stated["encoder_config"].items() >= {"model_type": "wav2vec2", **off}.items()


@pytest.mark.parametrize(
    ("system", "num_trainable_layers", "num_trained"),
    [("wav2vec2", 0, 197_378), ("wav2vec2-v2-unfrozen", 4, 28_548_866)],
)
def test_wav2vec2_has_the_parameters_of_its_base_model_and_trains_those_that_the_card_states(
    system, num_trainable_layers, num_trained
):
    config = wav2vec2_config(system)
    with torch.device("meta"):
        model = Wav2Vec2AntiSpoofingForAudioClassification(config)

    assert config.num_trainable_layers == num_trainable_layers
    assert model.num_parameters() == 94_568_322
    assert model.num_parameters(only_trainable=True) == num_trained
    trained = {name.split(".")[3] for name, p in model.encoder.named_parameters("x") if p.requires_grad}
    assert trained == {str(index) for index in range(12 - num_trainable_layers, 12)}


def test_wav2vec2_reports_the_numbers_of_the_studys_card():
    frozen, unfrozen = (
        load_recipe(find_recipe(name)[0]).reported for name in ("wav2vec2", "wav2vec2-v2-unfrozen")
    )

    eval_of_unfrozen = unfrozen["asvspoof2019-la"]["eval"]
    assert frozen["asvspoof2019-la"] == {"dev": {"eer": 0.04199}, "eval": {"eer": 0.0753}}
    assert unfrozen["asvspoof2019-la"]["dev"] == {"eer": 0.00197}
    assert (eval_of_unfrozen["eer"], eval_of_unfrozen["min_tdcf_form_unstated"]) == (0.0155, 0.3966)
    assert unfrozen["in-the-wild"] == {"eval": {"eer": 0.2768}}
    assert unfrozen["epochs"] == 35
    assert unfrozen["source"].endswith("caa-speech-detection-asvspoof2019/wav2vec2-v2-unfrozen")


@pytest.mark.parametrize("system", ["wav2vec2", "wav2vec2-v2-unfrozen"])
def test_what_the_studys_card_does_not_state_is_marked_as_inferred(system):
    inferred = load_recipe(find_recipe(system)[0]).inferred

    assert not any(of in key for key in inferred for of in ("learning_rate", "num_samples", "dropout"))
    assert any(key.startswith("feature_extractor") for key in inferred)
    assert any(key.startswith("training") for key in inferred)


def settings_of(system) -> dict:
    """The `model:` of a system's YAML without its type."""
    return {k: v for k, v in load_recipe(find_recipe(system)[0]).model.items() if k != "model_type"}


@pytest.mark.parametrize("system", ["lcnn", "lcnn-v7-cqt"])
def test_lcnn_has_the_network_and_the_training_that_are_known_of_the_studys(system):
    recipe, config = load_recipe(find_recipe(system)[0]), LCNNConfig(**settings_of(system))

    assert list(config.channels) == [32, 48, 64, 128] and list(config.kernel_sizes) == [5, 5, 3, 3]
    assert (config.fc_size, config.dropout) == (64, 0.3)
    assert (config.num_samples, config.sampling_rate) == (64_000, 16_000)
    stated = {"per_device_train_batch_size": 128, "learning_rate": 1e-4, "lr_scheduler_type": "cosine"}
    assert recipe.training.items() >= stated.items() and recipe.corpus == "asvspoof2019-la"
    inferred = {key.split(".")[1] for key in recipe.inferred}
    assert {"id2label", "class_weights", "pool_sizes", "num_train_epochs"} <= inferred
    assert not {"kernel_sizes", "per_device_train_batch_size", "learning_rate"} & inferred


def test_front_ends_of_both_lcnn_are_the_studys():
    lfcc, cqt = LCNNConfig(**settings_of("lcnn")), LCNNConfig(**settings_of("lcnn-v7-cqt"))

    assert (lfcc.front_end, lfcc.lfcc_fft_size, lfcc.lfcc_hop_length) == ("lfcc", 512, 160)
    assert (1 + lfcc.lfcc_num_deltas) * lfcc.lfcc_num_coefficients == 60
    top = cqt.cqt_min_frequency * 2 ** (cqt.cqt_num_bins / cqt.cqt_bins_per_octave)
    assert (cqt.front_end, cqt.cqt_hop_length / cqt.sampling_rate) == ("cqt", 0.01)
    assert (round(cqt.cqt_min_frequency), top) == (16, 8000)


def test_weights_of_lcnn_on_the_constant_q_transform_have_the_size_that_the_study_gives():
    with torch.device("meta"):
        model = LCNNForAudioClassification(LCNNConfig(**settings_of("lcnn-v7-cqt")))

    assert 4 * model.num_parameters() == pytest.approx(3.5e6, rel=0.01)  # float32, without fixed kernels
    assert load_recipe(find_recipe("lcnn-v7-cqt")[0]).reported["checkpoint_size"] == "about 3.5 MB"


def test_lfcc_gmm_is_the_baseline_of_the_challenge():
    recipe, config = load_recipe(find_recipe("lfcc-gmm")[0]), LFCCGMMConfig(**settings_of("lfcc-gmm"))
    with torch.device("meta"):
        model = LFCCGMMForAudioClassification(config)

    assert (config.lfcc_window_length, config.lfcc_hop_length, config.lfcc_fft_size) == (320, 160, 512)
    assert (config.lfcc_num_coefficients, config.lfcc_num_deltas, config.num_components) == (20, 2, 512)
    assert config.num_samples is None  # whole utterances
    assert model.num_parameters() == 2 * 512 * (1 + 60 + 60)
    assert recipe.reported["asvspoof2019-la"]["eval"] == {"eer": 0.0809, "min_tdcf_2019": 0.2116}


def test_published_rawnet2_have_the_network_of_their_code():
    icassp, baseline = (
        RawNet2Config(**settings_of(name)) for name in ("rawnet2-icassp2021", "rawnet2-asvspoof2021")
    )

    assert (icassp.sinc_filters, icassp.sinc_filter_length, icassp.sinc_scale) == (128, 129, "linear")
    assert (baseline.sinc_filters, baseline.sinc_filter_length, baseline.sinc_scale) == (20, 1025, "mel")
    assert (icassp.sinc_max_frequency, baseline.sinc_max_frequency) == (8000 * 128 / 130, 8000)
    assert list(icassp.block_channels) == [128, 128, 512, 512, 512, 512]
    assert list(baseline.block_channels) == [20, 20, 128, 128, 128, 128]
    assert icassp.pre_activation and not baseline.pre_activation
    assert (icassp.num_samples, baseline.num_samples) == (64_000, 64_600)
    for config in (icassp, baseline):
        assert (config.gru_hidden_size, config.num_gru_layers, config.embedding_size) == (1024, 3, 1024)
        assert config.id2label == {0: "spoof", 1: "bonafide"}


@pytest.mark.parametrize(
    ("system", "class_weights", "of_its_own"),
    [
        ("rawnet2-icassp2021", {"spoof": 1.0, "bonafide": 9.0}, {}),
        ("rawnet2-asvspoof2021", {"spoof": 0.1, "bonafide": 0.9}, {"dataloader_drop_last": True}),
        (
            "rawnet2-rawboost",
            {"spoof": 0.1, "bonafide": 0.9},
            {
                "dataloader_drop_last": True,
                "per_device_train_batch_size": 128,
                "augmentation": [{"rawboost": {"algorithm": 5}}],
            },
        ),
    ],
)
def test_published_rawnet2_is_trained_as_its_code_trains_it(system, class_weights, of_its_own):
    recipe = load_recipe(find_recipe(system)[0])

    assert recipe.corpus == "asvspoof2019-la" and recipe.feature_extractor == {"padding": "repeat"}
    assert recipe.model["class_weights"] == class_weights
    assert recipe.training == {
        "num_train_epochs": 100,
        "per_device_train_batch_size": 32,
        "optimizer": "adam",
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "weight_decay": 1e-4,
        "max_grad_norm": 0.0,
        "crop": "start",
        "seed": 1234,
        **of_its_own,
    }


def test_published_rawnet2_says_what_is_known_of_it_and_what_is_not():
    icassp, baseline, boosted = (
        load_recipe(find_recipe(f"rawnet2-{name}")[0]) for name in ("icassp2021", "asvspoof2021", "rawboost")
    )

    assert icassp.reported["asvspoof2019-la"] == {"eval": {"eer": 0.0466, "min_tdcf_2019": 0.1294}}
    assert baseline.reported == {} and boosted.model == baseline.model
    assert boosted.reported["asvspoof2021-la"] == {"eval": {"eer": 0.0531}}
    assert "every utterance" in boosted.inferred["training.augmentation"]
    assert "license" not in icassp.card and baseline.card["license"] == "mit"
    assert "64,600" in icassp.inferred["model.num_samples"]


@pytest.mark.parametrize(
    ("system", "num_backend", "of_its_own"),
    [
        # Their code counts 512 more, of batch normalisations that it does not use.
        (
            "xlsr-aasist",
            447_242 - 512,
            {"num_train_epochs": 100, "per_device_train_batch_size": 14, "seed": 1234},
        ),
        (
            "xlsr-sls",
            23_399_429,
            {"num_train_epochs": 50, "per_device_train_batch_size": 5, "seed": 1234},
        ),
        (
            "xlsr-nes2net",
            512_039,
            {
                "num_train_epochs": 100,
                "per_device_train_batch_size": 12,
                "seed": 12345,
                "learning_rate": 2.5e-7,
                "average_checkpoints": 5,
            },
        ),
    ],
)
def test_systems_on_xls_r_have_the_network_and_the_training_of_their_code(system, num_backend, of_its_own):
    recipe = load_recipe(find_recipe(system)[0])
    config = wav2vec2_config(system)
    with torch.device("meta"):
        model = Wav2Vec2AntiSpoofingForAudioClassification(config)
        encoder = Wav2Vec2Model(Wav2Vec2Config(**XLS_R, mask_time_prob=0.0))

    assert {n: p.shape for n, p in model.encoder.named_parameters()} == {
        n: p.shape for n, p in encoder.named_parameters()
    }
    assert model.num_parameters() - encoder.num_parameters() == num_backend
    unused = 2 * 1024 if system == "xlsr-sls" else 0  # the layer norm above the last block
    assert model.num_parameters(only_trainable=True) == model.num_parameters() - unused
    assert config.id2label == {0: "spoof", 1: "bonafide"} and config.num_samples == 64_600
    assert config.class_weights == {"spoof": 0.1, "bonafide": 0.9}
    algorithm = {"xlsr-aasist": 3, "xlsr-sls": 3, "xlsr-nes2net": 4}[system]
    assert recipe.training == {
        "base_model": "facebook/wav2vec2-xls-r-300m",
        "dataloader_drop_last": True,
        "optimizer": "adam",
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "weight_decay": 1e-4,
        "max_grad_norm": 0.0,
        "augmentation": [{"rawboost": {"algorithm": algorithm}}],
        "crop": "start",
        **of_its_own,
    }


def test_learning_rate_of_wavlm_mhfa_is_close_to_that_of_its_toolkit():
    training, num_epochs, num_steps = load_recipe(find_recipe("wavlm-mhfa")[0]).training, 5, 1000
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=training["learning_rate"])
    schedule = get_scheduler(
        training["lr_scheduler_type"],
        optimizer,
        num_warmup_steps=int(training["warmup_steps"] * num_steps),
        num_training_steps=num_steps,
        scheduler_specific_kwargs=training["lr_scheduler_kwargs"],
    )
    ours, theirs = [], []
    for step in range(num_steps):
        done = step / num_steps
        warm_up = min(1, done * num_epochs / 2) * 32 / 64
        theirs.append(warm_up * 1e-4 * (1e-6 / 1e-4) ** done)
        ours.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()

    difference = (torch.tensor(ours) - torch.tensor(theirs)).abs()
    assert max(ours) == pytest.approx(max(theirs), rel=0.01)
    assert difference.max() < 3e-6 and difference[200:].max() < 1.3e-6


@pytest.mark.parametrize("system", ["whisper-mhfa", "wav2vec2-full"])
def test_system_of_this_repository_says_that_nobody_has_published_it(system):
    recipe = load_recipe(find_recipe(system)[0])

    assert recipe.reported == {} and "not a published one" in recipe.description
    assert any("Nobody has published" in note for note in recipe.card["notes"])


def test_unknown_system_is_an_error_with_the_nearest_name():
    with pytest.raises(FileNotFoundError, match="did you mean 'rawnet2'"):
        find_recipe("rawnet")


def test_name_of_a_system_means_the_system_even_beside_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "rawnet2").mkdir()
    (tmp_path / "rawnet2" / "recipe.yaml").write_text("system: another")
    monkeypatch.chdir(tmp_path)

    path, weights = find_recipe("rawnet2")

    assert load_recipe(path).system == "rawnet2" and weights is None


def test_folder_of_a_trained_model_is_found_under_the_home_directory(tmp_path, monkeypatch):
    write(tmp_path / "recipe.yaml")
    monkeypatch.setenv("HOME", str(tmp_path.parent))

    path, weights = find_recipe(f"~/{tmp_path.name}")

    assert load_recipe(path).system == "mine" and weights == tmp_path


def test_empty_section_is_an_error_that_names_it(tmp_path):
    path = write(tmp_path / "mine.yaml", training="")

    with pytest.raises(ValueError, match="training must be a mapping"):
        load_recipe(path)


def test_folder_without_recipe_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no recipe.yaml"):
        find_recipe(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainning": {}}, "unknown key 'trainning' .did you mean 'training'"),
        ({"corpus": None}, "missing 1 required positional argument: 'corpus'"),
    ],
)
def test_wrong_key_is_an_error_that_names_the_file_and_the_key(tmp_path, changes, message):
    path = write(tmp_path / "mine.yaml", **changes)

    with pytest.raises(ValueError, match=f"mine.yaml.*{message}"):
        load_recipe(path)


@pytest.mark.parametrize("text", ["just text", "a: [1", ""])
def test_file_that_is_no_mapping_is_an_error_that_names_it(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)

    with pytest.raises(ValueError, match="mine.yaml is not"):
        load_recipe(path)
