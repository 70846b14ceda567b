"""Back ends against their formulas in float64, and what all of them hold: gradients, batches, masks."""

import pytest
import torch
from tiny_base_model import ENCODER_SIZES
from torch.nn import functional as F

from modeling import Wav2Vec2AntiSpoofingConfig
from modeling.backends import make_backend


STATES, FRAMES, SIZE = ENCODER_SIZES["num_hidden_layers"] + 1, 24, ENCODER_SIZES["hidden_size"]
SETTINGS = {"attention_size": 6, "attention_heads": 5, "classifier_proj_size": 7}
WITH_MASK = ["mean", "attentive", "mhfa"]
BACKENDS = [*WITH_MASK]


def small_backend(name: str, **settings):
    """A back end whose parameters all differ, and matter."""
    torch.manual_seed(0)
    config = Wav2Vec2AntiSpoofingConfig(
        encoder_config={"model_type": "wav2vec2", **ENCODER_SIZES},
        num_samples=8000,
        backend=name,
        **{**SETTINGS, **settings},
    )
    backend = make_backend(config)
    with torch.no_grad():
        for parameter in backend.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return backend.eval()


def states_of(backend_name: str, batch: int = 3, frames: int = FRAMES) -> torch.Tensor:
    num_states = STATES if backend_name == "mhfa" else 1
    return torch.randn(batch, num_states, frames, SIZE, generator=torch.Generator().manual_seed(1))


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


BY_HAND = {"mean": mean_by_hand, "attentive": attentive_by_hand, "mhfa": mhfa_by_hand}


@pytest.mark.parametrize("name", BACKENDS)
def test_back_end_is_its_formula(name):
    backend, states = small_backend(name), states_of(name)

    output = backend(states)

    state = {key: tensor.double() for key, tensor in backend.state_dict().items()}
    expected = torch.stack([BY_HAND[name](utterance.double(), state) for utterance in states])
    assert output.shape == (3, backend.output_size)
    torch.testing.assert_close(output.double(), expected, atol=2e-5, rtol=1e-5)


# What all of them hold


@pytest.mark.parametrize("name", BACKENDS)
def test_every_parameter_of_a_back_end_has_gradients_under_bfloat16_autocast_as_well(name):
    backend = small_backend(name).train()

    with torch.autocast("cpu", torch.bfloat16):
        backend(states_of(name)).float().square().sum().backward()

    gradients = {name: parameter.grad for name, parameter in backend.named_parameters()}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    # What is added to all energies of a softmax has no effect.
    zero = {n for n, gradient in gradients.items() if not gradient.abs().max() > 1e-6}
    assert zero <= {"energy.bias", "attention.bias"}


@pytest.mark.parametrize("name", BACKENDS)
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


def test_mhfa_has_the_parameters_of_its_paper():
    encoder = {"model_type": "wavlm", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
    with torch.device("meta"):
        backend = make_backend(Wav2Vec2AntiSpoofingConfig(encoder_config=encoder, backend="mhfa"))

    layers, compression = 2 * 13, 2 * (768 * 128 + 128)
    attention, embedding = 128 * 32 + 32, 32 * 128 * 256 + 256
    assert sum(p.numel() for p in backend.parameters()) == layers + compression + attention + embedding
