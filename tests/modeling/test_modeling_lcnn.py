"""LCNN against an independent float64 computation, and its behaviour as a `PreTrainedModel`."""

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from scipy.signal import correlate2d
from transformers import AutoConfig, AutoModelForAudioClassification

from modeling import LCNNConfig, LCNNForAudioClassification
from modeling.modeling_lcnn import LCNNBlock, max_feature_map


SMALL = {
    "num_samples": 8000,
    "channels": [3, 4, 5],
    "kernel_sizes": [5, 3, 3],
    "pool_sizes": [2, 2, 3],
    "fc_size": 6,
    "cqt_min_frequency": 125.0,
    "cqt_num_bins": 36,
    "cqt_bins_per_octave": 6,
}


def small_model(**settings) -> LCNNForAudioClassification:
    torch.manual_seed(0)
    model = LCNNForAudioClassification(LCNNConfig(**{**SMALL, **settings}))
    for module in model.modules():  # statistics that are not their initial 0 and 1
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low in (
                (module.running_mean, -0.2),
                (module.running_var, 0.5),
                (module.weight.data, 0.5),
            ):
                tensor.copy_(low + torch.rand(tensor.shape))
    return model.eval()


def waveforms(count: int, num_samples: int = 8000) -> torch.Tensor:
    return 0.1 * torch.randn(count, num_samples, generator=torch.Generator().manual_seed(1))


def test_max_feature_map_takes_the_larger_of_the_two_halves():
    hidden = torch.tensor([[[1.0], [5.0], [2.0], [3.0]]])  # channels 0 and 2, 1 and 3

    torch.testing.assert_close(max_feature_map(hidden), torch.tensor([[[2.0], [5.0]]]))


def test_block_of_a_hand_worked_case():
    block = LCNNBlock(1, 1, kernel_size=1, pool_size=2).eval()
    block.conv.weight.data = torch.tensor([2.0, -3.0]).view(2, 1, 1, 1)
    block.conv.bias.data = torch.tensor([0.0, 1.0])
    block.norm.running_var.fill_(1 - block.norm.eps)
    hidden = torch.tensor([[[[1.0, -1.0, 7.0], [0.0, 3.0, 7.0]]]])  # max(2 h, 1 - 3 h): 2, 4 | 1, 6

    torch.testing.assert_close(block(hidden), torch.tensor([[[[6.0]]]]), atol=1e-6, rtol=0)


def head_in_float64(model: LCNNForAudioClassification, features: np.ndarray) -> np.ndarray:
    """Everything behind the front end, written with numpy and SciPy; one utterance of (bins, frames)."""
    state = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    x = features[None]
    for i, (kernel_size, pool) in enumerate(
        zip(model.config.kernel_sizes, model.config.pool_sizes, strict=True)
    ):
        weight, bias = state[f"blocks.{i}.conv.weight"], state[f"blocks.{i}.conv.bias"]
        margin = kernel_size // 2
        padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin)))
        convolved = np.stack(
            [
                sum(correlate2d(channel, taps, "valid") for channel, taps in zip(padded, of, strict=True)) + b
                for of, b in zip(weight, bias, strict=True)
            ]
        )
        x = np.maximum(*np.split(convolved, 2))
        bins, frames = x.shape[1] // pool, x.shape[2] // pool
        x = x[:, : bins * pool, : frames * pool].reshape(len(x), bins, pool, frames, pool).max(axis=(2, 4))
        w, b, mean, var = (
            state[f"blocks.{i}.norm.{name}"][:, None, None]
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        x = (x - mean) / np.sqrt(var + 1e-5) * w + b
    hidden = state["fc.weight"] @ x.ravel() + state["fc.bias"]
    return state["classifier.weight"] @ np.maximum(*np.split(hidden, 2)) + state["classifier.bias"]


@pytest.mark.parametrize("front_end", ["lfcc", "cqt"])
def test_logits_equal_an_independent_float64_computation(front_end):
    model, waveform = small_model(front_end=front_end), waveforms(1)

    with torch.no_grad():
        logits = model(waveform).logits[0]
        features = model.front_end(waveform)[0].double().numpy()

    np.testing.assert_allclose(logits, head_in_float64(model, features), atol=1e-4)


@pytest.mark.parametrize(("front_end", "shape"), [("lfcc", (60, 49)), ("cqt", (36, 51))])
def test_front_end_is_the_one_of_the_config(front_end, shape):
    output = small_model(front_end=front_end)(waveforms(2), output_hidden_states=True)

    assert output.hidden_states[0].shape == (2, 1, *shape)
    assert len(output.hidden_states) == 4


def test_cqt_network_has_the_weights_that_the_study_gives_for_it():
    with torch.device("meta"):
        model = LCNNForAudioClassification(LCNNConfig(front_end="cqt"))

    assert model.num_parameters() == 872_322  # 3.49 MB, the study: about 3.5 MB


def test_eval_mode_does_not_depend_on_the_rest_of_the_batch():
    model, batch = small_model(), waveforms(4)

    with torch.no_grad():
        together, alone = model(batch).logits, torch.cat([model(waveform[None]).logits for waveform in batch])

    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("front_end", ["lfcc", "cqt"])
def test_gradient_reaches_every_parameter(front_end):
    model = small_model(front_end=front_end).train()

    model(waveforms(4), labels=torch.tensor([0, 1, 0, 1])).loss.backward()

    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max()] == []


@pytest.mark.parametrize("front_end", ["lfcc", "cqt"])
def test_saved_model_gives_the_same_logits(front_end, tmp_path):
    model, batch = small_model(front_end=front_end), waveforms(2)
    model.save_pretrained(tmp_path)

    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path)

    assert isinstance(AutoConfig.from_pretrained(tmp_path), LCNNConfig)
    with torch.no_grad():
        assert torch.equal(loaded(batch).logits, model(batch).logits)


@pytest.mark.parametrize("front_end", ["lfcc", "cqt"])
def test_bfloat16_weights_and_autocast_take_float32_input(front_end, tmp_path):
    model, batch = small_model(front_end=front_end), waveforms(2)
    model.save_pretrained(tmp_path)
    half = AutoModelForAudioClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)

    with torch.no_grad():
        expected, logits = model(batch).logits, half(batch).logits
        images = [m.to(dtype).front_end(batch) for m, dtype in ((half, torch.bfloat16), (half, torch.half))]
        assert all(torch.equal(image, model.front_end(batch)) for image in images)
        with torch.autocast("cpu", torch.bfloat16):
            autocast = model(batch).logits

    assert autocast.dtype == torch.float32
    torch.testing.assert_close(logits.float(), expected, atol=0.3, rtol=0)
    torch.testing.assert_close(autocast, expected, atol=0.3, rtol=0)


def test_waveform_of_another_length_is_an_error_that_names_both():
    with pytest.raises(ValueError, match="have 5000 samples, but this network takes 8000"):
        small_model()(waveforms(1)[:, :5000])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"front_end": "mfcc"}, "'front_end' expected one of .'lfcc', 'cqt'., got mfcc"),
        ({"channels": [3, 4]}, "must be of one length, not 2, 3 and 3"),
        ({"kernel_sizes": [4, 3, 3]}, "must be odd"),
        ({"kernel_sizes": [-1, 3, 3]}, r"kernel_sizes must be at least 1, not \[-1, 3, 3\]"),
        ({"channels": [4, 0, 4]}, r"channels must be at least 1, not \[4, 0, 4\]"),
        ({"channels": [], "kernel_sizes": [], "pool_sizes": []}, r"channels must be at least 1, not \[\]"),
        ({"pool_sizes": [0, 2, 2]}, r"pool_sizes must be at least 1, not \[0, 2, 2\]"),
        ({"fc_size": 0}, "fc_size must be at least 1, not 0"),
        ({"front_end": "cqt", "cqt_log_floor": 1e-60}, "cqt_log_floor must be at least 1.18e-38, not 1e-60"),
        ({"pool_sizes": [9, 9, 9]}, "too small for pool_sizes"),
    ],
)
def test_bad_config_is_an_error_that_names_the_field(settings, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        LCNNForAudioClassification(LCNNConfig(**{**SMALL, **settings}))
