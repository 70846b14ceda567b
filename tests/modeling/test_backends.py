"""Back ends against their formulas in float64, and what all of them hold: gradients, batches, masks."""

import pytest
import torch
from aasist_in_float64 import AasistInFloat64
from safetensors.torch import load_file, save_file
from tiny_base_model import ENCODER_SIZES
from torch.nn import functional as F
from transformers import AutoModelForAudioClassification

from modeling import Wav2Vec2AntiSpoofingConfig, Wav2Vec2AntiSpoofingForAudioClassification
from modeling.backends import BACKENDS, make_last_layer
from modeling.graph_attention import GraphPooling, GraphSettings


STATES, FRAMES, SIZE = 4, 24, 128
ENCODER = {**ENCODER_SIZES, "model_type": "wav2vec2", "hidden_size": SIZE}
SETTINGS = {"attention_size": 6, "attention_heads": 5, "classifier_proj_size": 7}
WITH_MASK = ["mean", "attentive", "mhfa", "nes2net"]
NAMES = [*WITH_MASK, "sls", "aasist"]
WITHOUT_GRADIENT = {  # what is added to all energies of a softmax has no effect
    "attentive": {"energy.bias"},
    "mhfa": {"key.bias", "attention.bias"},
    "aasist": {"attention.2.bias", "attention.3.bias"},
}
STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}  # as XLS-R
WHISPER = {"model_type": "whisper", "d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 2}
XLS_R = {
    "model_type": "wav2vec2",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}


def small_backend(name: str) -> torch.nn.Module:
    """A back end whose parameters and statistics all differ, and matter; in eval mode."""
    torch.manual_seed(0)
    config = Wav2Vec2AntiSpoofingConfig(encoder_config=ENCODER, num_samples=8000, backend=name, **SETTINGS)
    backend = BACKENDS[config.backend](config)
    with torch.no_grad():
        for key, tensor in backend.state_dict().items():
            if key.endswith("running_var") or (tensor.dim() == 1 and key.endswith("weight")):  # of norms
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.copy_(torch.randn_like(tensor) * max(tensor[:1].numel(), 9) ** -0.5)
    return backend.eval()


def states_of(name: str, batch: int = 3) -> torch.Tensor:
    num_states = STATES if name in Wav2Vec2AntiSpoofingConfig.backends_of_all_layers else 1
    return torch.randn(batch, num_states, FRAMES, SIZE, generator=torch.Generator().manual_seed(1))


# The definitions, of one utterance's states (states, frames, hidden_size) in float64


def linear(name: str, inputs: torch.Tensor, p: dict) -> torch.Tensor:
    return inputs @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def mean_by_hand(states, p):
    return F.gelu(linear("projector", states[0].sum(0) / len(states[0]), p))


def attentive_by_hand(states, p):
    energies = torch.exp(linear("energy", torch.tanh(linear("attention", states[0], p)), p))[:, 0]
    pooled = sum(energy * frame for energy, frame in zip(energies, states[0], strict=True)) / energies.sum()
    return F.gelu(linear("projector", pooled, p))


def mhfa_by_hand(states, p):
    sums = {}
    for kind in ("key", "value"):
        weights = torch.exp(p[f"{kind}_layer_weights"])
        total = sum(weight * state for weight, state in zip(weights, states, strict=True)) / weights.sum()
        sums[kind] = linear(kind, total, p)
    pooled = []
    for head in linear("attention", sums["key"], p).T:  # (frames,)
        pooled.append((torch.exp(head)[:, None] * sums["value"]).sum(0) / torch.exp(head).sum())
    return linear("projector", torch.cat(pooled), p)


def norm(name: str, channels: torch.Tensor, p: dict) -> torch.Tensor:
    """Batch normalisation in eval mode; channels first."""
    shape = (-1, *[1] * (channels.dim() - 1))
    w, b, mean, var = (
        p[f"{name}.{part}"].view(shape) for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (channels - mean) / torch.sqrt(var + 1e-5) * w + b


def sls_by_hand(states, p):
    total = 0
    for output in states[1:]:  # of the blocks
        total = total + torch.sigmoid(linear("layer_gate", output.mean(0), p)) * output
    image = F.selu(norm("norm", total[None], p)[0])
    frames, channels = FRAMES // 3, SIZE // 3
    cells = [
        image[3 * t : 3 * t + 3, 3 * c : 3 * c + 3].max() for t in range(frames) for c in range(channels)
    ]
    return F.selu(linear("projector", torch.stack(cells), p))


def res2net_by_hand(x, name, p):
    """One block of (channels, frames); the convolutions by shifted sums."""

    def convolve(group, i):
        weight, bias = p[f"{name}.convs.{i}.weight"][..., 0], p[f"{name}.convs.{i}.bias"]
        padded = F.pad(group, (2, 2))
        taps = [padded[:, start : start + group.shape[1]] for start in (0, 2, 4)]  # dilation 2
        return sum(weight[:, :, tap] @ shifted for tap, shifted in enumerate(taps)) + bias[:, None]

    def pointwise(layer, hidden):
        return p[f"{name}.{layer}.weight"][..., 0] @ hidden + p[f"{name}.{layer}.bias"][:, None]

    hidden = norm(f"{name}.norm1", F.relu(pointwise("conv1", x)), p)
    groups = hidden.split(len(x) // 8)
    members, outputs = [groups[7]], []
    for i in range(7):
        members = [convolve(member, i) for member in [*members, groups[i]]]
        members = [norm(f"{name}.norms.{i}", F.relu(member), p) for member in members]
        outputs.append(
            sum(w * member for w, member in zip(p[f"{name}.sums.{i}.weight"], members, strict=True))
        )
    hidden = norm(f"{name}.norm2", F.relu(pointwise("conv2", torch.cat([*outputs, groups[7]]))), p)
    squeezed = F.relu(linear(f"{name}.squeeze", hidden.mean(1), p))
    return x + torch.sigmoid(linear(f"{name}.excite", squeezed, p))[:, None] * hidden


def nes2net_by_hand(states, p):
    groups = states[0].T.split(SIZE // 8)
    outputs, before = [], 0
    for i in range(7):
        before = norm(f"norms.{i}", F.relu(res2net_by_hand(groups[i] + before, f"blocks.{i}", p)), p)
        outputs.append(before)
    return F.relu(norm("last_norm", torch.cat([*outputs, groups[7]]), p)).mean(1)


def aasist_by_hand(states, p):
    net = AasistInFloat64(p)
    x = net.linear(states[0].numpy(), "projector").T  # (128, frames)
    x = net.pool(net.pool(x).T).T[None]
    x = net.selu(net.norm(x, "first_norm"))
    for i in range(6):
        x = net.block(x, f"blocks.{i}")
    x = net.selu(net.norm(x, "last_norm"))
    energies = net.norm(net.selu(net.conv(x, "attention.0")), "attention.2")
    energies = net.conv(energies, "attention.3")
    spectral = (x * net.softmax(energies, 2)).sum(2).T + net.state["band_positions"][0]
    temporal = (x * net.softmax(energies, 1)).sum(1).T
    return torch.from_numpy(net.read_out(spectral, temporal, GraphSettings()))


BY_HAND = {
    "mean": mean_by_hand,
    "attentive": attentive_by_hand,
    "mhfa": mhfa_by_hand,
    "sls": sls_by_hand,
    "nes2net": nes2net_by_hand,
    "aasist": aasist_by_hand,
}


@pytest.mark.parametrize("name", NAMES)
def test_back_end_is_its_formula(name):
    backend, states = small_backend(name), states_of(name)

    output = backend(states)

    state = {key: tensor.double() for key, tensor in backend.state_dict().items()}
    expected = torch.stack([BY_HAND[name](utterance.double(), state) for utterance in states])
    assert output.shape == (3, backend.output_size)
    torch.testing.assert_close(output.double(), expected, atol=2e-5, rtol=1e-5)


# What all of them hold


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter_of_a_back_end(name):
    backend = small_backend(name).double()

    backend(states_of(name, batch=8).double()).square().sum().backward()

    largest = {name: parameter.grad.abs().max() for name, parameter in backend.named_parameters()}
    assert {name for name, value in largest.items() if value < 1e-12} == WITHOUT_GRADIENT.get(name, set())


@pytest.mark.parametrize("name", NAMES)
def test_back_end_trains_under_bfloat16_autocast(name):
    backend, states = small_backend(name), states_of(name)
    for module in backend.modules():
        if isinstance(module, GraphPooling):
            module.ratio = 1.0  # which nodes are kept depends on the last digit
    expected = backend(states)

    with torch.autocast("cpu", torch.bfloat16):
        output = backend(states)
        backend.train()(states).float().square().sum().backward()

    assert (output.float() - expected).norm() < 0.05 * expected.norm()
    assert all(parameter.grad.isfinite().all() for parameter in backend.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_vector_of_an_utterance_does_not_depend_on_the_rest_of_the_batch(name):
    backend, states = small_backend(name), states_of(name, batch=5)

    together = backend(states)

    alone = torch.cat([backend(utterance[None]) for utterance in states])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", WITH_MASK)
def test_frames_that_the_mask_leaves_out_count_for_nothing(name):
    backend, states = small_backend(name), states_of(name)
    lengths = torch.tensor([FRAMES, 17, 3])
    frame_mask = torch.arange(FRAMES) < lengths[:, None]

    masked = backend(states.masked_fill(~frame_mask[:, None, :, None], 1e3), frame_mask)

    alone = [backend(s[None, :, :n]) for s, n in zip(states, lengths.tolist(), strict=True)]
    torch.testing.assert_close(masked, torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "published", "difference"),
    [
        # The authors count batch normalisations that their code does not use, of blocks' inputs.
        ({"backend": "aasist"}, 447_242, -2 * (32 + 32 + 64 + 64 + 64)),
        ({"backend": "sls", "classifier_proj_size": 1024}, 23_399_429, 0),
        # 511 thousand, with one logit; two here.
        ({"backend": "nes2net"}, 511_014, 1025),
        ({"backend": "mhfa"}, 2 * 25 + 2 * (1024 + 1) * 128 + (128 + 1) * 32 + (4096 + 1) * 256, 257 * 2),
    ],
    ids=lambda case: case.get("backend") if isinstance(case, dict) else None,
)
def test_parameters_on_xls_r_are_the_published_ones(settings, published, difference):
    config = Wav2Vec2AntiSpoofingConfig(encoder_config=XLS_R, num_samples=64_600, **settings)
    with torch.device("meta"):
        backend = BACKENDS[config.backend](config)
        last_layer = make_last_layer(backend.output_size, config)

    parameters = [*backend.parameters(), *last_layer.parameters()]
    assert sum(parameter.numel() for parameter in parameters) == published + difference


def test_logits_of_sls_are_selu_and_a_threshold_shifts_them_afterwards():
    config = Wav2Vec2AntiSpoofingConfig(encoder_config=ENCODER, num_samples=8000, backend="sls")
    model = Wav2Vec2AntiSpoofingForAudioClassification(config).eval()
    waveforms = torch.randn(2, 8000)
    inputs = []
    model.classifier.register_forward_pre_hook(lambda module, args: inputs.append(args[0].double()))

    before = model(waveforms).logits
    model.set_decision_threshold(0.5)
    after = model(waveforms).logits

    state = {name: tensor.double() for name, tensor in model.classifier.state_dict().items()}
    linear = inputs[0] @ state["weight"].T + state["inner_bias"]
    torch.testing.assert_close(before.double(), F.selu(linear), atol=1e-6, rtol=0)
    torch.testing.assert_close(after, before + torch.tensor([-0.25, 0.25]))


# In the model


def small_model(name: str, **encoder) -> Wav2Vec2AntiSpoofingForAudioClassification:
    torch.manual_seed(0)
    config = Wav2Vec2AntiSpoofingConfig(
        encoder_config={**ENCODER, **STABLE, **encoder}, num_samples=8000, backend=name, **SETTINGS
    )
    return Wav2Vec2AntiSpoofingForAudioClassification(config).eval()


@pytest.mark.parametrize(
    ("name", "model_type"),
    [("mean", "wav2vec2"), ("attentive", "hubert"), ("mhfa", "wavlm"), ("nes2net", "unispeech-sat")],
)
@torch.no_grad()
def test_padding_that_the_attention_mask_marks_changes_no_logits(name, model_type):
    model = small_model(name, model_type=model_type)
    lengths = torch.tensor([8000, 5555, 800])
    attention_mask = torch.arange(8000) < lengths[:, None]
    waveforms = torch.randn(3, 8000)  # what is padded is no silence either

    output = model(waveforms, attention_mask=attention_mask.long(), output_hidden_states=True)

    alone = [model(w[None, :n]) for w, n in zip(waveforms, lengths.tolist(), strict=True)]
    torch.testing.assert_close(output.logits, torch.cat([one.logits for one in alone]), atol=1e-5, rtol=0)
    assert [len(output.hidden_states), *output.hidden_states[0].shape] == [STATES, 3, FRAMES, SIZE]


@pytest.mark.parametrize(
    ("name", "encoder"), [("sls", {}), ("aasist", {}), ("mean", {"feat_extract_norm": "group"})]
)
def test_padding_is_refused_where_the_logits_would_depend_on_it(name, encoder):
    attention_mask = torch.ones(1, 8000, dtype=torch.long)
    attention_mask[:, 7000:] = 0

    with pytest.raises(ValueError, match="attention_mask marks padding"):
        small_model(name, **encoder)(torch.randn(1, 8000), attention_mask=attention_mask)


def test_sls_takes_the_outputs_of_all_blocks_without_the_norm_above_them():
    model, seen, outputs = small_model("sls"), [], []
    model.backend.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for layer in model.encoder.encoder.layers:
        layer.register_forward_hook(lambda module, args, output: outputs.append(output))

    model.train()(torch.randn(2, 8000))

    assert torch.equal(seen[0][:, 1:], torch.stack(outputs, dim=1))
    assert not model.encoder.encoder.layer_norm.weight.requires_grad


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_model_comes_back_by_the_auto_class_and_a_back_end_that_a_checkpoint_lacks_is_new(name, tmp_path):
    model, waveforms = small_model(name), torch.randn(2, 8000)
    model.save_pretrained(tmp_path)

    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(waveforms).logits, model(waveforms).logits, rtol=0, atol=0)

    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("backend.")}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    torch.manual_seed(0)
    new = AutoModelForAudioClassification.from_pretrained(tmp_path).backend.state_dict()
    for key, tensor in model.backend.state_dict().items():
        if tensor.numel() > 1 and tensor.unique().numel() == 1:
            assert torch.equal(new[key], tensor), key
        elif tensor.numel() > 100:
            assert new[key].std() == pytest.approx(tensor.std().item(), rel=0.3), key


@pytest.mark.parametrize("num_samples", [7840, 7999, 8000, 8160])
@pytest.mark.parametrize("encoder", [ENCODER, WHISPER], ids=lambda encoder: encoder["model_type"])
def test_sls_has_as_many_inputs_as_the_encoder_makes_frames(encoder, num_samples):
    config = Wav2Vec2AntiSpoofingConfig(encoder_config=encoder, num_samples=num_samples, backend="sls")
    model = Wav2Vec2AntiSpoofingForAudioClassification(config).eval()

    output = model(torch.randn(1, num_samples), output_hidden_states=True)

    assert config.count_frames(num_samples) == output.hidden_states[-1].shape[1]
    assert output.logits.shape == (1, 2)
