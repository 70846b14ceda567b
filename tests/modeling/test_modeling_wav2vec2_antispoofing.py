"""The anti-spoofing model on pretrained encoders against transformers' own forward of each, and by the names
of the parameters that it trains."""

import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from tiny_base_model import ENCODER_SIZES, WHISPER_SIZES
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForAudioClassification,
    BertConfig,
    Trainer,
    TrainingArguments,
    Wav2Vec2Config,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from modeling import Wav2Vec2AntiSpoofingConfig, Wav2Vec2AntiSpoofingForAudioClassification
from modeling.encoder_stages import make_encoder


FRAMES = 24  # that the convolutions of wav2vec 2.0 leave of 8000 samples
WHISPER = {"model_type": "whisper"}
POSITION_TABLE = "embed_positions.weight"  # of Whisper's encoder
STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}  # as XLS-R and the large models
NO_DROPOUT = dict.fromkeys(
    ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "dropout"), 0.0
)
MUCH_DROPOUT = dict.fromkeys(NO_DROPOUT, 0.5)
ENCODERS = [
    pytest.param({"model_type": model_type, **norm}, id=f"{model_type}-{'stable' if norm else 'post-norm'}")
    for model_type in ("wav2vec2", "hubert", "wavlm", "unispeech-sat")
    for norm in ({}, STABLE)
] + [pytest.param({"model_type": model_type}, id=model_type) for model_type in ("data2vec-audio", "whisper")]


def encoder_sizes(encoder: dict) -> dict:
    """The config of a small encoder of a kind, wav2vec 2.0 by default."""
    sizes = WHISPER_SIZES if encoder.get("model_type") == "whisper" else ENCODER_SIZES
    return {"model_type": "wav2vec2", **sizes, **encoder}


def small_model(encoder: dict | None = None, **settings) -> Wav2Vec2AntiSpoofingForAudioClassification:
    """
    A model whose blocks, norms, biases and attention all change what passes through; as initialised, they
    hardly do.
    """
    torch.manual_seed(0)
    config = Wav2Vec2AntiSpoofingConfig(
        encoder_config=encoder_sizes(encoder or {}),
        **{"num_samples": 8000, "classifier_proj_size": 20, **settings},
    )
    model = Wav2Vec2AntiSpoofingForAudioClassification(config)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                module.weight.normal_(0, module.weight.shape[1] ** -0.5)
            elif isinstance(module, (nn.LayerNorm, nn.GroupNorm)) and module.weight is not None:
                module.weight.uniform_(0.5, 1.5)
            if getattr(module, "bias", None) is not None:
                module.bias.uniform_(-0.3, 0.3)
        if model.layer_weights is not None:
            model.layer_weights.normal_()
    return model.eval()


@pytest.fixture
def waveforms() -> torch.Tensor:
    return 0.1 * torch.randn(3, 8000, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.tensor([0, 1, 0])


@torch.no_grad()
def states_of_transformers(model, waveforms) -> list[torch.Tensor]:
    """The first block's input and every block's output; the last one after the final layer norm."""
    if model.config.encoder_config.model_type == "whisper":
        extractor = WhisperFeatureExtractor(feature_size=20)
        waveforms = extractor(
            list(waveforms.numpy()), padding="do_not_pad", sampling_rate=16000, return_tensors="pt"
        ).input_features
    output = model.encoder.eval()(waveforms, output_hidden_states=True)
    return [*output.hidden_states[:-1], output.last_hidden_state]


def head_by_hand(model, pooled: torch.Tensor) -> torch.Tensor:
    """Linear, GELU with the error function, linear; of (batch, hidden_size)."""
    state = model.state_dict()
    hidden = pooled @ state["backend.projector.weight"].T + state["backend.projector.bias"]
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
    return hidden @ state["classifier.weight"].T + state["classifier.bias"]


# The forward pass


@pytest.mark.parametrize("num_trainable_layers", [0, 2, "all"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_hidden_states_are_those_of_transformers(encoder, num_trainable_layers, waveforms):
    model = small_model(encoder, num_trainable_layers=num_trainable_layers)

    states = model(waveforms, output_hidden_states=True).hidden_states

    expected = states_of_transformers(model, waveforms)
    frames = 25 if encoder == WHISPER else FRAMES
    assert [tuple(state.shape) for state in states] == [(3, frames, 32)] * 4
    for state, expected_state in zip(states, expected, strict=True):
        torch.testing.assert_close(state, expected_state, atol=2e-5, rtol=0)


def test_whispers_positions_are_cut_to_the_crop(waveforms):
    model = small_model(WHISPER)

    states = model(waveforms[:, :4160], output_hidden_states=True).hidden_states

    short = small_model({**WHISPER, "max_source_positions": 13}, num_samples=4160)  # 26 frames of 10 ms
    weights = model.encoder.state_dict()
    short.encoder.load_state_dict(weights | {POSITION_TABLE: weights[POSITION_TABLE][:13]})
    expected = states_of_transformers(short, waveforms[:, :4160])
    torch.testing.assert_close(states, tuple(expected), atol=2e-5, rtol=0)


@pytest.mark.parametrize("num_trainable_layers", [0, 2, "all"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_logits_are_those_of_the_head_on_the_mean_of_transformers_last_state(
    encoder, num_trainable_layers, waveforms
):
    model = small_model(encoder, num_trainable_layers=num_trainable_layers)

    logits = model(waveforms).logits

    expected = head_by_hand(model, states_of_transformers(model, waveforms)[-1].mean(1))
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=0)


def test_weighted_sum_begins_as_the_mean_of_the_states(waveforms):
    config = small_model(STABLE, use_weighted_layer_sum=True).config
    model = Wav2Vec2AntiSpoofingForAudioClassification(config).eval()

    logits = model(waveforms).logits

    states = torch.stack(states_of_transformers(model, waveforms))
    torch.testing.assert_close(logits, head_by_hand(model, states.mean(0).mean(1)), atol=2e-5, rtol=0)


@pytest.mark.parametrize("chosen", [0, 1, 3])
@pytest.mark.parametrize("num_trainable_layers", [0, 1, "all"])
def test_weighted_sum_can_pick_one_state(num_trainable_layers, chosen, waveforms):
    model = small_model(STABLE, num_trainable_layers=num_trainable_layers, use_weighted_layer_sum=True)
    model.layer_weights.data = torch.where(torch.arange(4) == chosen, 0.0, -1e4)

    logits = model(waveforms).logits

    expected = head_by_hand(model, states_of_transformers(model, waveforms)[chosen].mean(1))
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=0)


def test_attentive_pooling_takes_the_place_of_the_mean(waveforms):
    model = small_model(num_trainable_layers=1, backend="attentive", attention_size=8)

    logits = model(waveforms).logits

    with torch.no_grad():
        pooled = model.backend.pool(states_of_transformers(model, waveforms)[-1], None)
    assert model.backend.attention.weight.shape == (8, 32)
    torch.testing.assert_close(logits, head_by_hand(model, pooled), atol=2e-5, rtol=0)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_logits_do_not_depend_on_the_rest_of_the_batch(encoder):
    model = small_model(encoder, num_trainable_layers=1)
    waveforms = 0.1 * torch.randn(5, 8000)

    with torch.no_grad():
        together = model(waveforms).logits
        alone = torch.cat([model(waveform[None]).logits for waveform in waveforms])

    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_forward_does_not_change_its_input(waveforms):
    model = small_model(num_trainable_layers="all", train_feature_encoder=True).train()
    before = waveforms.clone()

    model(waveforms)

    assert torch.equal(waveforms, before) and not waveforms.requires_grad


def test_logits_keep_float32_resolution_under_autocast(waveforms):
    model = small_model(num_trainable_layers=1)

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model(waveforms).logits

    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


def test_without_return_dict_the_output_is_a_tuple(waveforms, labels):
    model = small_model()

    loss, logits, embeddings = model(waveforms, labels=labels, return_dict=False)

    assert loss.shape == () and logits.shape == (3, 2) and embeddings.shape[0] == 3


def test_loss_without_class_weights_is_the_mean_cross_entropy(waveforms, labels):
    output = small_model()(waveforms, labels=labels)

    losses = -torch.log_softmax(output.logits, -1)[torch.arange(3), labels]
    torch.testing.assert_close(output.loss, losses.mean())


# What the trained part takes from the frozen one


@pytest.mark.parametrize(
    ("settings", "states_and_frames"),
    [
        ({"num_trainable_layers": 0}, (1, 1)),
        ({"num_trainable_layers": 0, "backend": "attentive"}, (1, FRAMES)),
        ({"num_trainable_layers": 0, "use_weighted_layer_sum": True}, (4, 1)),
        ({"num_trainable_layers": 0, "use_weighted_layer_sum": True, "backend": "attentive"}, (4, FRAMES)),
        ({"num_trainable_layers": 0, "backend": "mhfa"}, (4, FRAMES)),
        ({"num_trainable_layers": 2}, (1, FRAMES)),
        ({"num_trainable_layers": 2, "use_weighted_layer_sum": True}, (2, FRAMES)),
        ({"num_trainable_layers": 2, "backend": "mhfa"}, (2, FRAMES)),
        ({"num_trainable_layers": "all"}, (1, FRAMES)),
        ({"num_trainable_layers": "all", "use_weighted_layer_sum": True}, (1, FRAMES)),
    ],
)
@pytest.mark.parametrize(
    "encoder", [{"model_type": "wavlm"}, STABLE, WHISPER], ids=["wavlm", "stable", "whisper"]
)
def test_trunk_states_are_as_small_as_can_be_and_give_the_logits_of_their_waveforms(
    encoder, settings, states_and_frames, waveforms
):
    model = small_model(encoder, **settings)
    states, frames = states_and_frames

    trunk_states = model.run_trunk(waveforms)

    assert trunk_states.shape == (3, states, 25 if frames > 1 and encoder == WHISPER else frames, 32)
    expected = model(waveforms).logits
    torch.testing.assert_close(model(trunk_states=trunk_states).logits, expected, atol=1e-6, rtol=0)
    every_state = model(waveforms, output_hidden_states=True).logits
    torch.testing.assert_close(every_state, expected, atol=1e-5, rtol=0)


def test_trunk_states_may_be_of_half_precision(waveforms):
    model = small_model(num_trainable_layers=1)

    logits = model(trunk_states=model.run_trunk(waveforms).half()).logits

    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, model(waveforms).logits, atol=5e-3, rtol=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "either input_values or trunk_states"),
        (
            {"input_values": torch.zeros(1, 8000), "trunk_states": torch.zeros(1, 1, 1, 32)},
            "either input_values or trunk_states",
        ),
        ({"trunk_states": torch.zeros(1, 1, 1, 32), "output_hidden_states": True}, "needs input_values"),
    ],
)
def test_input_that_does_not_say_what_to_compute_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        small_model()(**given)


# What is trained

HEAD = ("backend.", "classifier.")
UPPER_BLOCKS = ("encoder.encoder.layers.1.", "encoder.encoder.layers.2.")
ALL_BLOCKS = ("encoder.encoder.layers.0.", *UPPER_BLOCKS)
CONVOLUTIONS = ("encoder.feature_extractor.",)
PROJECTION = ("encoder.feature_projection.",)
POSITIONS = ("encoder.encoder.pos_conv_embed.",)
NORM = ("encoder.encoder.layer_norm.",)  # before the first block, or, where stable, after the last
WHISPER_BLOCKS = tuple(f"encoder.layers.{index}." for index in range(3))
WHISPER_NORM = ("encoder.layer_norm.",)
WHISPER_CONVOLUTIONS = ("encoder.conv1.", "encoder.conv2.")

TRAINED = [
    ({}, {"num_trainable_layers": 0}, HEAD),
    (STABLE, {"num_trainable_layers": 0}, HEAD),
    (
        {},
        {"num_trainable_layers": 0, "use_weighted_layer_sum": True, "backend": "attentive"},
        (*HEAD, "layer_weights"),
    ),
    ({}, {"num_trainable_layers": 2}, HEAD + UPPER_BLOCKS),
    (STABLE, {"num_trainable_layers": 2}, HEAD + UPPER_BLOCKS + NORM),
    ({"model_type": "hubert", **STABLE}, {"num_trainable_layers": 2}, HEAD + UPPER_BLOCKS + NORM),
    ({"model_type": "wavlm"}, {"num_trainable_layers": 2}, HEAD + UPPER_BLOCKS),
    ({}, {"num_trainable_layers": 3}, HEAD + ALL_BLOCKS),
    ({}, {"num_trainable_layers": "all"}, HEAD + ALL_BLOCKS),
    (STABLE, {"num_trainable_layers": "all"}, HEAD + ALL_BLOCKS + NORM),
    ({"model_type": "wavlm"}, {"num_trainable_layers": "all"}, HEAD + ALL_BLOCKS),
    (
        {},
        {"num_trainable_layers": "all", "train_feature_encoder": True},
        HEAD + ALL_BLOCKS + CONVOLUTIONS,
    ),
    (
        {},
        {"num_trainable_layers": "all", "train_feature_projection": True},
        HEAD + ALL_BLOCKS + PROJECTION,
    ),
    (
        {},
        {"num_trainable_layers": "all", "train_positional_convolution": True},
        HEAD + ALL_BLOCKS + POSITIONS + NORM,
    ),
    (
        STABLE,
        {"num_trainable_layers": "all", "train_positional_convolution": True},
        HEAD + ALL_BLOCKS + POSITIONS + NORM,
    ),
    (
        STABLE,
        {
            "num_trainable_layers": "all",
            "train_feature_encoder": True,
            "train_feature_projection": True,
            "train_positional_convolution": True,
        },
        HEAD + ("encoder.",),
    ),
    (WHISPER, {"num_trainable_layers": 0}, HEAD),
    (WHISPER, {"num_trainable_layers": 2}, HEAD + WHISPER_BLOCKS[1:] + WHISPER_NORM),
    (WHISPER, {"num_trainable_layers": "all"}, HEAD + WHISPER_BLOCKS + WHISPER_NORM),
    (
        WHISPER,
        {"num_trainable_layers": "all", "train_feature_encoder": True},
        HEAD + WHISPER_BLOCKS + WHISPER_NORM + WHISPER_CONVOLUTIONS,
    ),
]
CASES = [
    pytest.param(
        *case,
        id="-".join(
            [
                case[0].get("model_type", ""),
                *(key for key in STABLE if key in case[0]),
                *map(str, case[1].values()),
            ]
        ),
    )
    for case in TRAINED
]


def as_built(model, folder):
    return model


def as_loaded(model, folder):
    model.save_pretrained(folder)
    return AutoModelForAudioClassification.from_pretrained(folder)


def names_with(model, prefixes: tuple[str, ...]) -> set[str]:
    names = {name for name, _ in model.named_parameters()}
    assert all(any(name.startswith(prefix) for name in names) for prefix in prefixes)
    return {name for name in names if name.startswith(prefixes)}


def without_gradient_in_theory(name: str) -> bool:
    """What shifts all of a softmax's inputs alike: only rounding gives it a gradient."""
    return name.endswith(("k_proj.bias", "energy.bias"))


@pytest.mark.parametrize("made", [as_built, as_loaded])
@pytest.mark.parametrize(("encoder", "settings", "prefixes"), CASES)
def test_gradients_reach_the_parameters_that_are_to_be_trained_and_no_others(
    encoder, settings, prefixes, made, waveforms, labels, tmp_path
):
    model = made(small_model(encoder, **settings), tmp_path)
    trained = names_with(model, prefixes)

    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trained

    model.train()
    model(waveforms, labels=labels).loss.backward()

    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert {name for name, gradient in gradients.items() if gradient is not None} == trained
    zero = {name for name in trained if not gradients[name].any() and not without_gradient_in_theory(name)}
    assert zero == set()


@pytest.mark.parametrize(("encoder", "settings", "prefixes"), CASES)
def test_modules_with_frozen_parameters_stay_in_eval_mode(encoder, settings, prefixes):
    model = small_model(encoder, **settings)

    model.train()

    modes = {
        name: model.get_submodule(name.rpartition(".")[0]).training for name, _ in model.named_parameters()
    }
    assert {name for name, training in modes.items() if training} == names_with(model, prefixes)


@pytest.mark.parametrize("settings", [{}, {"use_weighted_layer_sum": True}, {"backend": "mhfa"}])
def test_gradient_factor_multiplies_the_encoders_gradients_and_nothing_else(settings, waveforms, labels):
    settings = {**settings, "num_trainable_layers": "all", "train_feature_projection": True}
    whole, scaled = (small_model(encoder_gradient_factor=factor, **settings) for factor in (1, 0.125))

    outputs = [model(waveforms, labels=labels) for model in (whole, scaled)]
    for output in outputs:
        output.loss.backward()

    assert torch.equal(outputs[0].logits, outputs[1].logits)
    for (name, one), other in zip(whole.named_parameters(), scaled.parameters(), strict=True):
        if one.requires_grad:  # 1 / 8 is exact in binary, whatever is added up
            assert torch.equal(other.grad, one.grad * (0.125 if name.startswith("encoder.") else 1)), name


def test_requires_grad_that_is_set_later_holds(waveforms, labels):
    model = small_model(MUCH_DROPOUT, num_trainable_layers=1)
    model.requires_grad_(True)
    model.encoder.encoder.layers[2].requires_grad_(False)  # which the config says is trained

    model.train()
    model(waveforms, labels=labels).loss.backward()

    gradients = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert gradients == {name for name, _ in model.named_parameters() if ".encoder.layers.2." not in name}
    assert (model.run_trunk(waveforms) - model.run_trunk(waveforms)).abs().max() > 1e-3  # dropout


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("num_trainable_layers", [0, 2, "all"])
def test_train_mode_has_no_dropout_in_the_frozen_part(encoder, num_trainable_layers, waveforms):
    model = small_model({**encoder, **MUCH_DROPOUT}, num_trainable_layers=num_trainable_layers)
    expected = model.run_trunk(waveforms)

    model.train()

    assert torch.equal(model.run_trunk(waveforms), expected)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_train_mode_has_dropout_in_the_trained_blocks(encoder, waveforms):
    model = small_model({**encoder, **MUCH_DROPOUT}, num_trainable_layers=1, classifier_dropout=0.0).train()
    trunk_states = model.run_trunk(waveforms)

    first, second = (model(trunk_states=trunk_states).logits for _ in range(2))

    assert (first - second).abs().max() > 1e-3


def test_train_mode_has_dropout_below_the_blocks_where_that_is_trained(waveforms):
    parts = ("train_feature_encoder", "train_feature_projection", "train_positional_convolution")
    model = small_model(MUCH_DROPOUT, num_trainable_layers="all", **dict.fromkeys(parts, True)).train()

    assert (model.run_trunk(waveforms) - model.run_trunk(waveforms)).abs().max() > 1e-3


def test_train_mode_drops_out_in_the_head_before_the_last_layer(waveforms):
    model = small_model(classifier_dropout=0.5).train()
    trunk_states, dropped = model.run_trunk(waveforms), []
    model.classifier.register_forward_pre_hook(lambda module, inputs: dropped.append(inputs[0] == 0))

    model(trunk_states=trunk_states)

    assert 0.2 < dropped[0].float().mean() < 0.8


@pytest.mark.parametrize("num_trainable_layers", [0, 2, "all"])
def test_frozen_part_records_no_autograd_even_for_an_input_with_gradients(num_trainable_layers, waveforms):
    model = small_model(num_trainable_layers=num_trainable_layers).train()

    trunk_states = model.run_trunk(waveforms.requires_grad_())

    assert not trunk_states.requires_grad


def test_part_below_the_blocks_records_autograd_where_it_is_trained(waveforms):
    model = small_model(num_trainable_layers="all", train_feature_projection=True).train()

    assert model.run_trunk(waveforms).requires_grad


@pytest.mark.parametrize(
    "model_type", ["wav2vec2", "hubert", "wavlm", "unispeech-sat", "data2vec-audio", "whisper"]
)
def test_masking_and_layerdrop_are_off_whatever_the_encoder_says(model_type, waveforms):
    layerdrop = "encoder_layerdrop" if model_type == "whisper" else "layerdrop"
    encoder = {"mask_time_prob": 0.5, "mask_feature_prob": 0.5, layerdrop: 1.0, **NO_DROPOUT}
    model = small_model(
        {"model_type": model_type, **encoder}, num_trainable_layers="all", classifier_dropout=0.0
    )
    expected = model(waveforms).logits

    logits = model.train()(waveforms).logits

    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    used = model.encoder.config
    assert (used.mask_time_prob, used.mask_feature_prob, getattr(used, layerdrop)) == (0, 0, 0)
    assert not [name for name, _ in model.named_parameters() if "masked_spec_embed" in name]


@pytest.mark.parametrize(
    ("settings", "prefixes"),
    [
        ({"num_trainable_layers": 0}, HEAD),
        ({"num_trainable_layers": 2}, HEAD + UPPER_BLOCKS + NORM),
        (
            {"num_trainable_layers": "all", "train_feature_encoder": True},
            HEAD + ALL_BLOCKS + NORM + CONVOLUTIONS,
        ),
    ],
)
def test_step_of_the_trainers_optimizer_changes_the_parameters_that_are_to_be_trained(
    settings, prefixes, waveforms, labels, tmp_path
):
    model = as_loaded(small_model(STABLE, **settings), tmp_path / "model")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    rows = [
        {"input_values": waveform, "labels": label}
        for waveform, label in zip(waveforms, labels.tolist(), strict=True)
    ]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=1,
        learning_rate=1e-2,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)

    trainer.train()

    after = dict(trainer.model.named_parameters())
    changed = {name for name, parameter in after.items() if not torch.equal(parameter, before[name])}
    with_state = {name for name, parameter in after.items() if parameter in trainer.optimizer.state}
    trained = names_with(model, prefixes)
    assert {n for n in trained if not without_gradient_in_theory(n)} <= changed <= trained
    assert with_state == trained


@pytest.mark.parametrize("encoder", ENCODERS)
def test_activation_checkpointing_gives_the_same_gradients_and_computes_trained_blocks_twice(
    encoder, waveforms, labels
):
    plain, checkpointed = (
        small_model({**encoder, **NO_DROPOUT}, num_trainable_layers=2, classifier_dropout=0.0).train()
        for _ in range(2)
    )
    checkpointed.activation_checkpointing_enable()
    computed = []
    for index, block in enumerate(checkpointed.stages.layers):  # the block's own hooks run only once
        next(block.children()).register_forward_pre_hook(lambda *_, index=index: computed.append(index))

    losses = [model(waveforms, labels=labels).loss for model in (plain, checkpointed)]
    for loss in losses:
        loss.backward()

    torch.testing.assert_close(losses[1], losses[0])
    gradients = [{n: p.grad for n, p in m.named_parameters()} for m in (plain, checkpointed)]
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-5)
    assert sorted(computed) == [0, 1, 1, 2, 2]


# Building, saving and loading


def test_default_config_has_the_parameters_of_the_study():
    with torch.device("meta"):
        model = Wav2Vec2AntiSpoofingForAudioClassification(Wav2Vec2AntiSpoofingConfig(num_trainable_layers=4))

    assert model.num_parameters() == 94_568_322
    assert model.num_parameters(only_trainable=True) == 28_548_866


def test_whispers_encoder_has_the_parameters_of_whisper_base_without_its_decoder():
    base = {"d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048}
    with torch.device("meta"):
        encoder = make_encoder(WhisperConfig(**base))

    assert encoder.num_parameters() == 20_590_592


def test_new_model_has_transformers_initialisation_in_the_encoder_and_pytorchs_in_the_head():
    model = Wav2Vec2AntiSpoofingForAudioClassification(
        small_model(use_weighted_layer_sum=True, backend="attentive").config
    )

    weights = torch.cat(
        [
            module.weight.detach().flatten()
            for module in model.encoder.encoder.layers.modules()
            if isinstance(module, nn.Linear)
        ]
    )
    assert weights.std() == pytest.approx(0.02, rel=0.05)
    bound = 32**-0.5
    for layer in (model.backend.projector, model.backend.attention):
        assert layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert 0 < layer.bias.abs().max() <= bound
    assert model.layer_weights.tolist() == [0, 0, 0, 0]


def test_weights_missing_from_a_checkpoint_are_initialised_and_the_others_kept(tmp_path):
    model = small_model(num_trainable_layers=2, use_weighted_layer_sum=True)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    missing = (
        "layer_weights",
        "classifier.weight",
        "backend.projector.bias",
        "encoder.encoder.layers.2.feed_forward.intermediate_dense.weight",
    )
    for name in missing:
        del weights[name]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})

    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path)

    state = loaded.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())
    assert state["layer_weights"].tolist() == [0, 0, 0, 0]
    assert 0 < state["backend.projector.bias"].abs().max() <= 32**-0.5
    assert state["classifier.weight"].std() == pytest.approx((3 * 20) ** -0.5, rel=0.3)
    assert state[missing[-1]].std() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_saved_model_comes_back_bit_for_bit_by_the_auto_classes(encoder, waveforms, tmp_path):
    model = small_model(encoder, num_trainable_layers=1, use_weighted_layer_sum=True, backend="attentive")

    model.save_pretrained(tmp_path)
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path)

    assert type(loaded) is Wav2Vec2AntiSpoofingForAudioClassification
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(loaded(waveforms).logits, model(waveforms).logits)


def test_attention_implementation_is_handed_to_the_encoder_and_does_not_change_the_logits(
    waveforms, tmp_path
):
    small_model(num_trainable_layers=1).save_pretrained(tmp_path)

    loaded = {
        name: AutoModelForAudioClassification.from_pretrained(tmp_path, attn_implementation=name)
        for name in ("eager", "sdpa")
    }

    for name, model in loaded.items():
        assert model.encoder.encoder.layers[0].attention.config._attn_implementation == name
    logits = {name: model(waveforms).logits for name, model in loaded.items()}
    torch.testing.assert_close(logits["eager"], logits["sdpa"], atol=1e-5, rtol=0)


def test_sdpa_is_transformers_own_error_for_wavlm(tmp_path):
    small_model({"model_type": "wavlm"}).save_pretrained(tmp_path)

    with pytest.raises(ValueError, match="WavLMModel does not support an attention implementation"):
        AutoModelForAudioClassification.from_pretrained(tmp_path, attn_implementation="sdpa")


def test_model_in_bfloat16_takes_float32_waveforms(waveforms, tmp_path):
    model = small_model(num_trainable_layers=1)
    model.save_pretrained(tmp_path)

    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    with torch.backends.mkldnn.flags(enabled=False):  # whose bfloat16 convolutions round more on some CPUs
        logits = loaded(waveforms).logits
        assert torch.equal(logits, loaded(waveforms.bfloat16()).logits)

    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(logits.float(), model(waveforms).logits, atol=0.02, rtol=0)


# The config


def test_encoder_is_wav2vec2_base_by_default():
    config = Wav2Vec2AntiSpoofingConfig()

    assert type(config.encoder_config) is Wav2Vec2Config
    assert config.encoder_config.num_hidden_layers == 12
    assert config.id2label == {0: "bonafide", 1: "spoof"}


def test_encoder_config_may_be_a_dict_or_a_config():
    settings = {"hidden_size": 32, "num_attention_heads": 2, "hidden_dropout": 0.3}

    from_dict = Wav2Vec2AntiSpoofingConfig(encoder_config={"model_type": "wav2vec2", **settings})
    from_config = Wav2Vec2AntiSpoofingConfig(encoder_config=Wav2Vec2Config(**settings))

    assert from_dict.encoder_config.hidden_dropout == 0.3
    assert from_dict.to_dict() == from_config.to_dict()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_config_round_trip_keeps_every_value(encoder, tmp_path):
    config = Wav2Vec2AntiSpoofingConfig(
        encoder_config=encoder_sizes({**encoder, "attention_dropout": 0.25}),
        num_trainable_layers="all",
        train_feature_encoder=True,
        use_weighted_layer_sum=True,
        backend="attentive",
        num_samples=4_000,
        class_weights={"spoof": 1.0, "bonafide": 8.837},
        decision_threshold=-0.25,
    )

    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)

    assert type(loaded.encoder_config) is type(config.encoder_config)
    assert loaded.encoder_config.attention_dropout == 0.25 and loaded.decision_threshold == -0.25
    assert json.loads(loaded.to_json_string()) == json.loads(config.to_json_string())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"encoder_config": {"model_type": "bert"}},
            "encoder_config: model_type 'bert' is not one of wav2vec2",
        ),
        ({"encoder_config": {"hidden_size": 32}}, "encoder_config: model_type None"),
        ({"encoder_config": BertConfig()}, "encoder_config: model_type 'bert' is not one of wav2vec2"),
        ({"encoder_config": {"model_type": "wav2vec2", "add_adapter": True}}, "add_adapter must be False"),
        ({"num_trainable_layers": 13}, "num_trainable_layers 13 is neither 'all' nor a number from 0 to 12"),
        ({"num_trainable_layers": -1}, "num_trainable_layers -1 is neither"),
        ({"num_trainable_layers": "most"}, "num_trainable_layers 'most' is neither"),
        ({"train_feature_encoder": True}, "num_trainable_layers 'all' and not 0"),
        (
            {"train_feature_projection": True, "num_trainable_layers": 4},
            "num_trainable_layers 'all' and not 4",
        ),
        ({"train_positional_convolution": True}, "num_trainable_layers 'all' and not 0"),
        ({"backend": "max"}, "'backend' expected one of .'mean', .*, got max"),
        ({"backend": "mhfa", "use_weighted_layer_sum": True}, "'mhfa' weighs all layers itself"),
        (
            {"backend": "nes2net", "encoder_config": {"model_type": "wav2vec2", **ENCODER_SIZES}},
            "by 64, and 32",
        ),
        (
            {"backend": "sls", "num_samples": 1000},
            "back end need at least 1040 samples",
        ),
        ({"num_samples": None}, "num_samples None, whole utterances, is not for backend 'mean' on this"),
        (
            {"encoder_config": WHISPER, "train_feature_projection": True, "num_trainable_layers": "all"},
            "Whisper's encoder has only convolutions",
        ),
        ({"encoder_config": WHISPER, "num_samples": 200}, "spectrogram needs at least 201 samples"),
        ({"encoder_config": WHISPER, "num_samples": 480_160}, "1500 positions.* at most 480159 samples"),
        (
            {"num_samples": 399},
            "num_samples 399 is too short: the encoder's convolutions and the back end need at least 400",
        ),
        ({"class_weights": {"real": 1.0, "fake": 2.0}}, "must give a weight to each of the labels"),
    ],
)
def test_bad_config_is_an_error_that_names_the_field(settings, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        Wav2Vec2AntiSpoofingConfig(**settings)


@pytest.mark.parametrize(("encoder", "num_samples"), [({}, 400), (WHISPER, 201)], ids=["wav2vec2", "whisper"])
def test_shortest_allowed_input_is_one_frame(encoder, num_samples):
    model = small_model(encoder, num_samples=num_samples)

    states = model(torch.randn(1, num_samples), output_hidden_states=True)

    assert states.hidden_states[-1].shape == (1, 1, 32)
