"""AASIST against its authors' scores, hand-worked cases and an independent float64 computation, and its
behaviour as a `PreTrainedModel`."""

import json

import numpy as np
import pytest
import torch
from aasist_in_float64 import AasistInFloat64
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForAudioClassification

from modeling import AasistConfig, AasistForAudioClassification
from modeling.aasist_block import AasistBlock, pool_frames, selu_
from modeling.graph_attention import GraphAttention, GraphPooling, HeterogeneousStackingGraphAttention


SMALL = {
    "num_samples": 8000,
    "sinc_filters": 13,  # 4 bands, and one filter left over
    "sinc_filter_length": 33,
    "block_channels": [6, 6, 10],
    "graph_size": 8,
    "heterogeneous_graph_size": 5,
    "pool_ratios": [0.6, 0.4, 0.5],
    "temperatures": [2.0, 0.7, 3.0],
}
LIGHT = {"block_channels": [32, 32, 24, 24, 24, 24], "graph_size": 24, "pool_ratios": [0.4, 0.5, 0.7]}


@pytest.fixture
def small_model() -> AasistForAudioClassification:
    torch.manual_seed(0)
    return AasistForAudioClassification(AasistConfig(**SMALL))


def warmed_up(model):
    """Batch norm statistics and affine parameters that are not their initial 0 and 1."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            for tensor, low in (
                (module.running_mean, -0.2),
                (module.running_var, 0.5),
                (module.weight.data, 0.5),
                (module.bias.data, -0.3),
            ):
                tensor.copy_(low + torch.rand(tensor.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize(
    ("settings", "published", "unused"),
    [({}, 297_866, 2 * (32 + 32 + 3 * 64)), (LIGHT, 85_306, 2 * (32 + 32 + 3 * 24))],
    ids=["aasist", "aasist-l"],
)
def test_parameters_are_the_published_ones_without_the_normalisations_that_the_authors_do_not_use(
    settings, published, unused
):
    with torch.device("meta"):
        used = AasistForAudioClassification(AasistConfig(**settings))
        with_pre_activation = AasistForAudioClassification(AasistConfig(**settings, pre_activation=True))

    assert used.num_parameters() == published - unused
    assert with_pre_activation.num_parameters() == published


def test_defaults_have_23_spectral_and_29_temporal_nodes():
    model = AasistForAudioClassification(AasistConfig()).eval()

    hidden_states = model(torch.randn(1, 64_600), output_hidden_states=True).hidden_states

    assert hidden_states[0].shape == (1, 1, 23, 21_490)
    assert hidden_states[-1].shape == (1, 64, 23, 29)


def test_residual_block_of_a_hand_worked_case():
    # conv1 takes the upper of both bands it sees at the middle tap and doubles it, conv2 the lower: together
    # the band itself. Of one channel, so there is no shortcut convolution.
    block = AasistBlock(1, 1, pre_activation=False).eval()
    for convolution, row, factor in ((block.conv1, 0, 2.0), (block.conv2, 1, 1.0)):
        convolution.weight.data.zero_()
        convolution.weight.data[0, 0, row, 1] = factor
        convolution.bias.data.zero_()
    block.norm2.running_var.fill_(1 - block.norm2.eps)
    hidden = torch.tensor([[[[1.0, -1.0, 2.0, 5.0], [0.0, 3.0, -2.0, 9.0]]]])

    output = block(hidden)

    scale, alpha = 1.0507009873554805, 1.6732632423543772
    first = [2 * scale + 1, scale * alpha * np.expm1(-2.0) - 1, 4 * scale + 2]
    second = [0.0, 6 * scale + 3, scale * alpha * np.expm1(-4.0) - 2]
    torch.testing.assert_close(output, torch.tensor([[[[max(first)], [max(second)]]]]))


def test_graph_attention_of_a_hand_worked_case():
    layer = GraphAttention(1, 1, temperature=2.0, dropout=0.5).eval()
    values = {"attention": (1.0, 0.0), "attended": (1.0, 0.0), "own": (3.0, 0.5)}
    for name, (weight, bias) in values.items():
        getattr(layer, name).weight.data.fill_(weight)
        getattr(layer, name).bias.data.fill_(bias)
    layer.energy.data.fill_(4.0)
    layer.norm.running_var.fill_(1 - layer.norm.eps)
    nodes = torch.tensor([[[1.0], [2.0]]])

    output = layer(nodes)

    # The first node sees itself by 4 tanh(1) / 2 and the other by 4 tanh(2) / 2; the second sees them by
    # tanh(2) and tanh(4).
    expected = []
    for own, products in ((1.0, (1.0, 2.0)), (2.0, (2.0, 4.0))):
        weights = np.exp(2 * np.tanh(products))
        attended = weights @ [1.0, 2.0] / weights.sum()
        expected.append([1.0507009873554805 * (attended + 3 * own + 0.5)])
    torch.testing.assert_close(output, torch.tensor([expected], dtype=torch.float32))


def test_graph_pooling_keeps_the_heaviest_nodes_in_the_order_of_their_weights():
    pooling = GraphPooling(1, ratio=0.7, dropout=0.5).eval()
    pooling.weight.weight.data.fill_(-1.0)
    pooling.weight.bias.data.fill_(0.0)
    nodes = torch.tensor([[[3.0], [-2.0], [1.0]]])  # weights sigmoid(-3), sigmoid(2), sigmoid(-1)

    output = pooling(nodes)

    expected = [-2 / (1 + np.exp(-2.0)), 1 / (1 + np.exp(1.0))]  # floor(0.7 * 3) = 2 nodes
    torch.testing.assert_close(output[0, :, 0], torch.tensor(expected, dtype=torch.float32))


def test_graph_pooling_keeps_at_least_one_node():
    assert GraphPooling(2, ratio=0.1, dropout=0.0)(torch.randn(3, 4, 2)).shape == (3, 1, 2)


def test_heterogeneous_attention_tells_pairs_by_the_kinds_of_their_nodes():
    torch.manual_seed(0)
    layer = HeterogeneousStackingGraphAttention(4, 3, temperature=1.0, dropout=0.0).eval()
    for name in ("temporal", "spectral", "mixed", "stack"):
        torch.nn.init.normal_(getattr(layer, f"{name}_energy"), std=3.0)
    temporal, spectral, stack = torch.randn(1, 2, 4), torch.randn(1, 3, 4), torch.randn(1, 1, 4)
    changed = {}

    with torch.no_grad():
        before = layer(temporal, spectral, stack)
        for name in ("temporal", "spectral", "mixed", "stack"):
            energy = getattr(layer, f"{name}_energy")
            energy.neg_()
            after = layer(temporal, spectral, stack)
            energy.neg_()
            changed[name] = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]

    assert changed == {
        "temporal": [True, False, False],
        "spectral": [False, True, False],
        "mixed": [True, True, False],
        "stack": [False, False, True],
    }


def forward_in_float64(model: AasistForAudioClassification, waveform: np.ndarray) -> np.ndarray:
    """The whole network written with numpy from the paper's description; eval mode, one utterance."""
    net, config = AasistInFloat64(model.state_dict()), model.config
    x = np.abs(np.stack([np.correlate(waveform, taps, "valid") for taps in net.state["sinc.filters"][:, 0]]))
    x = net.pool(x[: len(x) // 3 * 3].reshape(-1, 3, x.shape[1]).max(1))[None]
    x = net.selu(net.norm(x, "sinc_norm"))
    for i in range(len(model.blocks)):
        x = net.pool(net.block(x, f"blocks.{i}", pre_activation=config.pre_activation and i > 0))
    x = np.abs(x)
    spectral = x.max(2).T + net.state["band_positions"][0]
    return net.linear(net.read_out(spectral, x.max(1).T, config), "classifier")


@pytest.mark.parametrize("pre_activation", [False, True])
def test_logits_equal_an_independent_float64_computation(pre_activation):
    torch.manual_seed(0)
    model = warmed_up(AasistForAudioClassification(AasistConfig(**SMALL, pre_activation=pre_activation)))
    waveform = np.random.default_rng(0).standard_normal(8000) * 0.1

    with torch.no_grad():
        logits = model(torch.from_numpy(waveform).float()[None]).logits[0]

    np.testing.assert_allclose(logits, forward_in_float64(model, waveform), atol=1e-5)


def test_selu_and_its_derivatives_are_pytorchs():
    values = torch.tensor([-80.0, -3.0, -0.5, -1e-6, 0.0, 1e-6, 0.5, 3.0, 80.0], dtype=torch.float64)

    ours, theirs = (values.clone().requires_grad_() for _ in range(2))
    outputs = selu_(ours * 1), F.selu(theirs)
    first = [
        torch.autograd.grad(y.sin().sum(), x, create_graph=True)[0]
        for y, x in zip(outputs, (ours, theirs), strict=True)
    ]
    second = [torch.autograd.grad(g.sum(), x)[0] for g, x in zip(first, (ours, theirs), strict=True)]

    for a, b in (outputs, first, second):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(selu_(values.float()), F.selu(values.float()), atol=1e-6, rtol=1e-6)


def test_frames_are_pooled_as_max_pool2d_does():
    hidden = torch.randint(3, (2, 3, 4, 11)).float().requires_grad_()  # with the same value several times

    with torch.no_grad():
        assert torch.equal(pool_frames(hidden), max_pool2d(hidden))
    pooled = [f(hidden) for f in (pool_frames, max_pool2d)]
    gradients = [torch.autograd.grad(p.sin().sum(), hidden, create_graph=True)[0] for p in pooled]
    second = [torch.autograd.grad(g.square().sum(), hidden)[0] for g in gradients]
    assert torch.equal(*pooled) and torch.equal(*gradients) and torch.equal(*second)


def max_pool2d(hidden):
    return F.max_pool2d(hidden, (1, 3))


@pytest.mark.parametrize("in_channels", [2, 4])
def test_block_has_the_outputs_and_gradients_of_its_formula_on_the_whole_batch(in_channels):
    block = AasistBlock(in_channels, 4, pre_activation=True).double()
    inputs = torch.randn(3, in_channels, 5, 20, dtype=torch.float64, requires_grad=True)
    weights = [inputs, *block.parameters()]

    hidden = F.selu(block.norm1(inputs))
    hidden = block.conv2(F.selu(block.norm2(block.conv1(hidden))))
    expected = max_pool2d(hidden + (inputs if block.shortcut is None else block.shortcut(inputs)))
    outputs = block(inputs)

    torch.testing.assert_close(outputs, expected)
    found, wanted = (torch.autograd.grad(y.sin().sum(), weights) for y in (outputs, expected))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_inference_gives_what_it_gives_with_autograd(small_model):
    model = warmed_up(small_model)
    waveforms = 0.1 * torch.randn(3, 8000)

    with torch.no_grad():
        without = model(waveforms).logits

    with_autograd = model(waveforms).logits  # by the kernels of training
    assert with_autograd.requires_grad
    torch.testing.assert_close(without, with_autograd.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pre_activation", [False, True])
def test_gradient_reaches_every_parameter(pre_activation):
    torch.manual_seed(0)
    model = AasistForAudioClassification(AasistConfig(**SMALL, pre_activation=pre_activation)).train()

    model(torch.randn(4, 8000), labels=torch.tensor([0, 1, 0, 1])).loss.backward()

    # A normalisation behind them cancels these biases, and a softmax that of the stack node's attention.
    cancelled = ("conv1.bias", "attended.bias", "own.bias")
    without = [
        name
        for name, p in model.named_parameters()
        if p.grad is None or (p.grad.abs().max() == 0 and not name.endswith(cancelled))
    ]
    assert without == []


def test_eval_mode_does_not_depend_on_the_rest_of_the_batch(small_model):
    model = warmed_up(small_model)
    waveforms = 0.1 * torch.randn(5, 8000)

    with torch.no_grad():
        together = model(waveforms).logits
        alone = torch.cat([model(waveform[None]).logits for waveform in waveforms])

    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


DROPOUTS = ("attention_dropout", "pool_dropout", "branch_dropout", "classifier_dropout")


@pytest.mark.parametrize("name", [None, *DROPOUTS])
def test_each_dropout_works_in_training_and_none_in_eval(name):
    torch.manual_seed(0)
    settings = {**dict.fromkeys(DROPOUTS, 0.0), **({name: 0.8} if name else {})}
    model = AasistForAudioClassification(AasistConfig(**SMALL, **settings))
    waveforms = torch.randn(4, 8000)

    in_training = [model.train()(waveforms).logits for _ in range(2)]
    in_eval = [model.eval()(waveforms).logits for _ in range(2)]

    assert torch.equal(*in_training) == (name is None)
    assert torch.equal(*in_eval)


@pytest.mark.parametrize("heterogeneous", [False, True])
def test_dropout_of_attention_is_in_both_kinds_of_layers(heterogeneous):
    torch.manual_seed(0)
    model = AasistForAudioClassification(AasistConfig(**SMALL, **dict.fromkeys(DROPOUTS, 0.0)))
    layers = [branch.first for branch in model.branches] if heterogeneous else [model.temporal_attention]
    for layer in layers:
        layer.dropout.p = 0.8
    waveforms = torch.randn(4, 8000)

    first, second = (model.train()(waveforms).logits for _ in range(2))

    assert not torch.equal(first, second)


def test_network_can_be_exported(small_model):
    model = warmed_up(small_model)
    waveforms = 0.1 * torch.randn(2, 8000)

    with torch.no_grad():
        exported = torch.export.export(model, (waveforms,)).module()
        torch.testing.assert_close(exported(waveforms).logits, model(waveforms).logits, atol=1e-5, rtol=0)


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
        (1, 1, 4, 2656),
        (1, 6, 4, 885),
        (1, 6, 4, 295),
        (1, 10, 4, 98),
    ]


def test_saved_model_comes_back_bit_for_bit_by_the_auto_classes(small_model, tmp_path):
    model = warmed_up(small_model)
    waveforms = torch.randn(2, 8000)

    model.save_pretrained(tmp_path)
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path)

    assert type(loaded) is AasistForAudioClassification
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model(waveforms).logits, loaded(waveforms).logits)


def test_weights_missing_from_a_checkpoint_are_initialised_and_the_bank_is_rebuilt(small_model, tmp_path):
    from safetensors.torch import load_file, save_file

    small_model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    left_out = ("sinc.", "band_positions", "branches.", "spectral_attention.energy", "blocks.0.")
    for name in [n for n in weights if n.startswith(left_out)]:
        del weights[name]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})

    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path)

    assert torch.equal(loaded.sinc.filters, small_model.sinc.filters)
    assert torch.equal(loaded.classifier.weight, small_model.classifier.weight)
    for branch in loaded.branches:
        assert 0.3 < branch.stack.std() < 2  # standard normal
        assert branch.first.norm.weight.eq(1).all() and branch.first.norm.running_var.eq(1).all()
    assert 0.5 < loaded.band_positions.std() < 1.5
    energy = loaded.spectral_attention.energy.detach()
    assert 0.1 < energy.std() < 4 * np.sqrt(2 / 9)  # Xavier's normal, of 8 and 1
    bound = 1 / np.sqrt(6)  # PyTorch's own initialisation of a convolution of 1 channel and 2 × 3 taps
    assert 0.4 * bound < loaded.blocks[0].conv1.weight.detach().abs().max() <= bound


def test_config_round_trip_keeps_every_value(tmp_path):
    config = AasistConfig(**SMALL, class_weights={"spoof": 0.1, "bonafide": 0.9}, decision_threshold=-0.25)

    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)

    assert json.loads(loaded.to_json_string()) == json.loads(config.to_json_string())
    assert loaded.id2label == {0: "spoof", 1: "bonafide"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sinc_scale": "bark"}, "'sinc_scale' expected one of .* got bark"),
        ({"sinc_filters": 2}, "sinc_filters must be at least 3, not 2"),
        ({"sinc_filter_length": -3}, "sinc_filter_length must be at least 3, not -3"),
        ({"block_channels": []}, r"block_channels must be at least 1, not \[\]"),
        ({"num_samples": 2000}, "num_samples 2000 is too short"),
        ({"graph_size": 0}, "graph_size must be at least 1"),
        ({"pool_ratios": [0.5, 0.7]}, "pool_ratios .* must be three numbers"),
        ({"pool_ratios": [0.5, 0.7, 1.5]}, "pool_ratios .* above 0 and at most 1"),
        ({"temperatures": [2.0, 0.0, 100.0]}, "temperatures .* must be three numbers above 0"),
        ({"pool_dropout": 1.1}, "dropout probability has to be between 0 and 1, but got 1.1"),
        ({"class_weights": {"real": 1.0, "fake": 2.0}}, "must give a weight to each of the labels"),
    ],
)
def test_bad_config_is_an_error_that_names_the_field(settings, message):
    with pytest.raises(Exception, match=message):
        AasistForAudioClassification(AasistConfig(**settings))


def test_shortest_allowed_input_passes_and_one_sample_less_is_refused():
    shortest = 129 + 3**7
    model = AasistForAudioClassification(AasistConfig(num_samples=shortest, block_channels=[4] * 6)).eval()

    assert model(torch.randn(1, shortest)).logits.shape == (1, 2)
    with pytest.raises(Exception, match="too short"):
        AasistConfig(num_samples=shortest - 2)
