"""RawNet2 against hand-worked cases and an independent float64 computation, and its behaviour as a
`PreTrainedModel`."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForAudioClassification

from modeling import RawNet2Config, RawNet2ForAudioClassification
from modeling.modeling_rawnet2 import RawNet2Block, RawNet2FeatureMapScaling


SMALL = {
    "num_samples": 8000,
    "sinc_filters": 8,
    "sinc_filter_length": 33,
    "block_channels": [8, 8, 16, 16],
    "gru_hidden_size": 12,
    "num_gru_layers": 2,
    "embedding_size": 10,
}


@pytest.fixture
def small_model() -> RawNet2ForAudioClassification:
    torch.manual_seed(0)
    return RawNet2ForAudioClassification(RawNet2Config(**SMALL))


def warmed_up(model):
    """Batch norm statistics and affine parameters that are not their initial 0 and 1."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low in (
                (module.running_mean, -0.2),
                (module.running_var, 0.5),
                (module.weight.data, 0.5),
                (module.bias.data, -0.3),
            ):
                tensor.copy_(low + torch.rand(tensor.shape, generator=generator))
    return model.eval()


def test_default_config_has_the_parameters_of_the_published_system():
    model = RawNet2ForAudioClassification(RawNet2Config())

    assert model.num_parameters() == 25_433_602


def test_feature_map_scaling_of_a_hand_worked_case():
    scaling = RawNet2FeatureMapScaling(2)
    scaling.linear.weight.data = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    scaling.linear.bias.data = torch.tensor([0.0, -1.0])
    hidden = torch.tensor([[[[1.0, 3.0]], [[0.0, 1.0]]]])  # means 2 and 0.5, so s = sigmoid(2) and sigmoid(0)

    output = scaling(hidden)

    s = 1 / (1 + np.exp(-2))
    torch.testing.assert_close(output, torch.tensor([[[[2 * s, 4 * s]], [[0.5, 1.0]]]], dtype=torch.float32))


def test_residual_block_of_a_hand_worked_case():
    # One channel, both convolutions pass the middle tap: conv1 doubles, conv2 adds 1. FMS weights 0: s = 0.5.
    block = RawNet2Block(1, 1, pre_activation=True, leaky_relu_slope=0.3).eval()
    block.conv1.weight.data = torch.tensor([[[0.0, 2.0, 0.0]]])
    block.conv1.bias.data.zero_()
    block.conv2.weight.data = torch.tensor([[[0.0, 1.0, 0.0]]])
    block.conv2.bias.data.fill_(1.0)
    block.scaling.linear.weight.data.zero_()
    block.scaling.linear.bias.data.zero_()
    for norm in (block.norm1, block.norm2):
        norm.running_var.fill_(1 - norm.eps)
    hidden = torch.tensor([[[[1.0, -1.0, 2.0, -3.0, -2.0, -4.0, 7.0]]]])

    output = block(hidden)

    # After lrelu: 1 -0.3 2 -0.9 -0.6 -1.2 7; doubled, lrelu: 2 -0.18 4 -0.54 -0.36 -0.72 14; plus 1 plus the
    # input: 4 -0.18 7 | -2.54 -1.36 -3.72 | 22 is left over. Pooled 7, -1.36; times 0.5 plus 0.5.
    torch.testing.assert_close(output, torch.tensor([[[[4.0, -0.18]]]]), atol=1e-6, rtol=0)


def test_block_without_pre_activation_convolves_its_input_itself():
    torch.manual_seed(0)
    block = RawNet2Block(2, 4, pre_activation=False, leaky_relu_slope=0.3).eval()
    hidden = torch.randn(1, 2, 9)

    inner = F.conv1d(hidden, block.conv1.weight, block.conv1.bias, padding=1)
    inner = F.leaky_relu(inner / np.sqrt(1 + 1e-5), 0.3)  # initial statistics: mean 0, variance 1
    inner = F.conv1d(inner, block.conv2.weight, block.conv2.bias, padding=1)
    summed = inner + F.conv1d(hidden, block.shortcut.weight, block.shortcut.bias)

    expected = block.scaling(F.max_pool1d(summed, 3).unsqueeze(2))
    torch.testing.assert_close(block(hidden.unsqueeze(2)), expected)


def test_only_blocks_after_the_first_have_a_pre_activation(small_model):
    assert [block.norm1 is not None for block in small_model.blocks] == [False, True, True, True]


def test_config_without_pre_activation_has_none_in_any_block():
    model = RawNet2ForAudioClassification(RawNet2Config(**SMALL, pre_activation=False))

    assert all(block.norm1 is None for block in model.blocks)


def forward_in_float64(model: RawNet2ForAudioClassification, waveform: np.ndarray) -> np.ndarray:
    """The whole network written with numpy from the paper's description; eval mode, one utterance."""
    state = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}

    def norm(x, name):
        w, b, mean, var = (state[f"{name}.{p}"] for p in ("weight", "bias", "running_mean", "running_var"))
        return ((x.T - mean) / np.sqrt(var + 1e-5) * w + b).T

    def conv(x, name, padding):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        x = np.pad(x, ((0, 0), (padding, padding)))
        windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2], axis=1)
        return np.einsum("oik,ifk->of", weight, windows) + bias[:, None]

    def pool(x):
        return x[:, : x.shape[1] // 3 * 3].reshape(len(x), -1, 3).max(-1)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def selu(x):
        return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x))

    def leaky(x):
        return np.where(x > 0, x, 0.3 * x)

    x = np.stack([np.correlate(waveform, taps, "valid") for taps in state["sinc.filters"][:, 0]])
    x = selu(norm(pool(np.abs(x)), "sinc_norm"))
    for i in range(len(model.blocks)):
        name, y = f"blocks.{i}", x
        if i > 0:
            y = leaky(norm(y, f"{name}.norm1"))
        y = conv(leaky(norm(conv(y, f"{name}.conv1", 1), f"{name}.norm2")), f"{name}.conv2", 1)
        x = pool(y + (conv(x, f"{name}.shortcut", 0) if f"{name}.shortcut.weight" in state else x))
        linear = f"{name}.scaling.linear"
        s = sigmoid(state[f"{linear}.weight"] @ x.mean(1) + state[f"{linear}.bias"])[:, None]
        x = x * s + s
    sequence = list(selu(norm(x, "norm")).T)
    for layer in range(model.config.num_gru_layers):
        h, outputs = np.zeros(model.config.gru_hidden_size), []
        for step in sequence:
            gi = state[f"gru.weight_ih_l{layer}"] @ step + state[f"gru.bias_ih_l{layer}"]
            gh = state[f"gru.weight_hh_l{layer}"] @ h + state[f"gru.bias_hh_l{layer}"]
            (ir, iz, inn), (hr, hz, hn) = np.split(gi, 3), np.split(gh, 3)
            z = sigmoid(iz + hz)
            h = (1 - z) * np.tanh(inn + sigmoid(ir + hr) * hn) + z * h
            outputs.append(h)
        sequence = outputs
    embedding = state["embedding.weight"] @ sequence[-1] + state["embedding.bias"]
    return state["classifier.weight"] @ embedding + state["classifier.bias"]


def test_logits_equal_an_independent_float64_computation(small_model):
    model = warmed_up(small_model)
    waveform = np.random.default_rng(0).standard_normal(8000) * 0.1

    with torch.no_grad():
        logits = model(torch.from_numpy(waveform).float()[None]).logits[0]

    np.testing.assert_allclose(logits, forward_in_float64(model, waveform), atol=1e-5)


def test_gradient_reaches_every_parameter(small_model):
    small_model.train()

    small_model(torch.randn(4, 8000), labels=torch.tensor([0, 1, 0, 1])).loss.backward()

    # The batch normalisation behind conv1 cancels its bias: that gradient is 0 but for rounding.
    without = [
        name
        for name, p in small_model.named_parameters()
        if p.grad is None or (p.grad.abs().max() == 0 and not name.endswith("conv1.bias"))
    ]
    assert without == []


@pytest.mark.parametrize("training", [True, False])
def test_gradient_equals_finite_differences_in_float64(small_model, training):
    model = warmed_up(small_model).double().train(training)
    waveforms = torch.randn(4, 8000, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    parameters = list(model.parameters())
    directions = [torch.randn_like(parameter) for parameter in parameters]

    def loss_at(step: float) -> torch.Tensor:
        moved = [p + step * direction for p, direction in zip(parameters, directions, strict=True)]
        named = dict(zip(dict(model.named_parameters()), moved, strict=True))
        return torch.func.functional_call(model, named, (waveforms, torch.tensor([0, 1, 0, 1]))).loss

    gradients = torch.autograd.grad(loss_at(0.0), parameters)
    slope = sum((g * direction).sum() for g, direction in zip(gradients, directions, strict=True))

    with torch.no_grad():
        expected = (loss_at(1e-7) - loss_at(-1e-7)) / 2e-7
    torch.testing.assert_close(slope, expected, rtol=1e-5, atol=1e-7)


def test_exported_network_gives_the_same_logits(small_model):
    model, waveforms = warmed_up(small_model), torch.randn(2, 8000)

    exported = torch.export.export(model, (waveforms,)).module()

    torch.testing.assert_close(exported(waveforms)["logits"], model(waveforms).logits)


def test_eval_mode_does_not_depend_on_the_rest_of_the_batch(small_model):
    model = warmed_up(small_model)
    waveforms = torch.randn(5, 8000)

    with torch.no_grad():
        together = model(waveforms).logits
        alone = torch.cat([model(waveform[None]).logits for waveform in waveforms])

    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_logits_keep_float32_resolution_under_autocast(small_model):
    small_model.eval()

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = small_model(torch.randn(4, 8000)).logits

    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


def test_forward_does_not_change_its_input(small_model):
    waveforms = torch.randn(2, 8000)
    before = waveforms.clone()

    small_model(waveforms)

    assert torch.equal(waveforms, before)


def test_hidden_states_are_the_front_end_and_each_block(small_model):
    output = small_model(torch.randn(1, 8000), output_hidden_states=True)

    assert [tuple(h.shape) for h in output.hidden_states] == [
        (1, 8, 2656),
        (1, 8, 885),
        (1, 8, 295),
        (1, 16, 98),
        (1, 16, 32),
    ]


def test_saved_model_comes_back_bit_for_bit_by_the_auto_classes(small_model, tmp_path):
    model = warmed_up(small_model)
    waveforms = torch.randn(2, 8000)

    model.save_pretrained(tmp_path)
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path)

    assert type(loaded) is RawNet2ForAudioClassification
    assert (tmp_path / "model.safetensors").is_file() and not list(tmp_path.glob("*.bin"))
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model(waveforms).logits, loaded(waveforms).logits)


def test_weights_missing_from_a_checkpoint_are_initialised_and_the_bank_is_rebuilt(small_model, tmp_path):
    from safetensors.torch import load_file, save_file

    small_model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name in [n for n in weights if n.startswith(("sinc.", "gru.", "classifier."))]:
        del weights[name]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})

    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path)

    assert torch.equal(loaded.sinc.filters, small_model.sinc.filters)
    bound = 1 / np.sqrt(SMALL["gru_hidden_size"])  # PyTorch's own initialisation of a GRU
    recurrent = loaded.gru.weight_hh_l0.detach()
    assert recurrent.abs().max() <= bound and recurrent.std() > 0.4 * bound
    assert torch.equal(loaded.embedding.weight, small_model.embedding.weight)


def test_new_model_has_pytorchs_initialisation():
    torch.manual_seed(0)
    model = RawNet2ForAudioClassification(RawNet2Config(**SMALL))

    convolution = model.blocks[3].conv2.weight.detach()
    bound = 1 / np.sqrt(16 * 3)
    assert convolution.abs().max() <= bound and convolution.std() == pytest.approx(
        bound / np.sqrt(3), rel=0.1
    )


def test_label_order_is_read_from_the_config(tmp_path):
    RawNet2Config(**SMALL, id2label={0: "bonafide", 1: "spoof"}).save_pretrained(tmp_path)

    config = AutoConfig.from_pretrained(tmp_path)

    assert config.id2label == {0: "bonafide", 1: "spoof"}
    assert config.label2id == {"bonafide": 0, "spoof": 1}


def test_config_round_trip_keeps_every_value(tmp_path):
    config = RawNet2Config(**SMALL, class_weights={"spoof": 8.837, "bonafide": 1.0}, decision_threshold=-0.25)

    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)

    assert json.loads(loaded.to_json_string()) == json.loads(config.to_json_string())
    assert loaded.decision_threshold == -0.25


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sinc_scale": "bark"}, "'sinc_scale' expected one of .* got bark"),
        ({"sinc_max_frequency": 9000.0}, "half the sampling rate, 8000.0 Hz"),
        ({"sinc_min_frequency": 8000.0}, "must rise"),
        ({"num_samples": 1000}, "num_samples 1000 is too short"),
        ({"class_weights": {"real": 1.0, "fake": 2.0}}, "must give a weight to each of the labels"),
        ({"num_gru_layers": "three"}, "num_gru_layers"),
    ],
)
def test_bad_config_is_an_error_that_names_the_field(settings, message):
    with pytest.raises(Exception, match=message):
        RawNet2Config(**settings)


def test_shortest_allowed_input_passes_and_one_sample_less_is_refused():
    shortest = 129 + 3**7
    model = RawNet2ForAudioClassification(
        RawNet2Config(
            num_samples=shortest, block_channels=[4] * 6, sinc_filters=4, gru_hidden_size=4, embedding_size=4
        )
    ).eval()

    assert model(torch.randn(1, shortest)).logits.shape == (1, 2)
    with pytest.raises(Exception, match="too short"):
        RawNet2Config(num_samples=shortest - 2)
