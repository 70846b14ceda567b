"""The converter of the published PyTorch RawNet2: state dicts with the published names, made here, against a
float64 forward written from the papers' description with those names."""

import dataclasses
import json
import math
import os
import re

import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from hub_cards import publish
from hub_cards.recipe import find_recipe, load_recipe
from modeling.convert_rawnet2_checkpoint import main


# Smaller than both published networks, with as many blocks.
SMALL = {"filters": 6, "channels": [6, 6, 8, 8, 8, 8], "hidden_size": 5, "num_layers": 2, "embedding_size": 7}
SIZES = {  # the same as the config has them
    "sinc_filters": 6,
    "block_channels": SMALL["channels"],
    "gru_hidden_size": 5,
    "num_gru_layers": 2,
    "embedding_size": 7,
}
PUBLISHED = {
    "icassp2021": {"filters": 128, "channels": [128, 128, 512, 512, 512, 512]},
    "asvspoof2021": {"filters": 20, "channels": [20, 20, 128, 128, 128, 128]},
}
# Taps, band edges in Hz and block form, from the published code's description.
ICASSP = {"length": 129, "scale": "linear", "highest": 8000 * 128 / 130, "pre_activation": True}
ASVSPOOF = {"length": 1025, "scale": "mel", "highest": 8000.0, "pre_activation": False}
SETTINGS = {"icassp2021": ICASSP, "asvspoof2021": ASVSPOOF}
UNUSED = sorted(
    f"block{i}.0.bn1.{name}"
    for i in range(1, 6)
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
)


class PublishedBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, first: bool):
        super().__init__()
        if not first:
            self.bn1 = nn.BatchNorm1d(inputs)
        self.conv1 = nn.Conv1d(inputs, outputs, 3)
        self.bn2 = nn.BatchNorm1d(outputs)
        self.conv2 = nn.Conv1d(outputs, outputs, 3)
        if inputs != outputs:
            self.conv_downsample = nn.Conv1d(inputs, outputs, 1)


class PublishedRawNet2(nn.Module):
    """What of the published networks has tensors, under the published names."""

    def __init__(self, filters, channels, hidden_size=1024, num_layers=3, embedding_size=1024):
        super().__init__()
        self.first_bn = nn.BatchNorm1d(filters)
        for i, (inputs, outputs) in enumerate(zip([filters, *channels], channels, strict=False)):
            self.add_module(f"block{i}", nn.Sequential(PublishedBlock(inputs, outputs, first=i == 0)))
            self.add_module(f"fc_attention{i}", nn.Sequential(nn.Linear(outputs, outputs)))
        self.bn_before_gru = nn.BatchNorm1d(channels[-1])
        self.gru = nn.GRU(channels[-1], hidden_size, num_layers, batch_first=True)
        self.fc1_gru = nn.Linear(hidden_size, embedding_size)
        self.fc2_gru = nn.Linear(embedding_size, 2)


def published_state(**sizes) -> dict[str, torch.Tensor]:
    """A state dict with the published names in which no two tensors have a value in common."""
    generator = torch.Generator().manual_seed(0)
    state = PublishedRawNet2(**sizes).state_dict()
    for number, (name, tensor) in enumerate(state.items()):
        noise = torch.rand(tensor.shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(1000 + number)
        elif name.endswith("running_var") or ("bn" in name and name.endswith("weight")):
            state[name] = 0.5 + noise
        else:
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 8
            state[name] = (2 * noise - 1) * 2.6 / math.sqrt(fan_in)  # wide: all that is early reaches the end
    return state


def published_bank(filters: int, length: int, scale: str, highest: float) -> torch.Tensor:
    """(filters, 1, length): Hamming-windowed differences of two low-pass filters from 0 Hz to the highest."""
    if scale == "mel":
        mel = torch.linspace(0, 2595 * math.log10(1 + highest / 700), filters + 1, dtype=torch.float64)
        edges = 700 * (10 ** (mel / 2595) - 1)
    else:
        edges = torch.linspace(0, highest, filters + 1, dtype=torch.float64)
    n = torch.arange(length, dtype=torch.float64)
    window = 0.54 - 0.46 * torch.cos(2 * math.pi * n / (length - 1))
    cutoffs = 2 * edges[:, None] / 16000
    low_pass = cutoffs * torch.special.sinc(cutoffs * (n - (length - 1) / 2))
    return (window * low_pass.diff(dim=0))[:, None]


def published_logits(state, waveform, *, length, scale, highest, pre_activation) -> torch.Tensor:
    """Logits (2,) of spoof and bona fide in eval mode, in float64; waveform (samples,)."""
    state = {name: tensor.double() for name, tensor in state.items()}

    def norm(x, name):
        weight, bias, mean, var = (
            state[f"{name}.{part}"][:, None] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    def conv(x, name, padding):
        return F.conv1d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=padding)

    def linear(x, name):
        return state[f"{name}.weight"] @ x + state[f"{name}.bias"]

    bank = published_bank(len(state["first_bn.weight"]), length, scale, highest)
    x = F.conv1d(waveform.double()[None], bank)
    x = F.selu(norm(F.max_pool1d(x.abs(), 3), "first_bn"))
    for i in range(6):
        block, y = f"block{i}.0", x
        if pre_activation and i > 0:
            y = F.leaky_relu(norm(y, f"{block}.bn1"), 0.3)
        y = conv(y, f"{block}.conv1", 1)
        y = conv(F.leaky_relu(norm(y, f"{block}.bn2"), 0.3), f"{block}.conv2", 1)
        x = F.max_pool1d(
            y + (conv(x, f"{block}.conv_downsample", 0) if f"{block}.conv_downsample.weight" in state else x),
            3,
        )
        s = torch.sigmoid(linear(x.mean(1), f"fc_attention{i}.0"))[:, None]
        x = x * s + s
    sequence = list(F.selu(norm(x, "bn_before_gru")).T)
    for layer in range(sum(name.startswith("gru.weight_ih") for name in state)):
        hidden, outputs = torch.zeros_like(state["gru.weight_hh_l0"][0]), []
        for step in sequence:
            of_input = state[f"gru.weight_ih_l{layer}"] @ step + state[f"gru.bias_ih_l{layer}"]
            of_hidden = state[f"gru.weight_hh_l{layer}"] @ hidden + state[f"gru.bias_hh_l{layer}"]
            (r, z, n), (hr, hz, hn) = of_input.chunk(3), of_hidden.chunk(3)
            z = torch.sigmoid(z + hz)
            hidden = (1 - z) * torch.tanh(n + torch.sigmoid(r + hr) * hn) + z * hidden
            outputs.append(hidden)
        sequence = outputs
    return linear(linear(sequence[-1], "fc1_gru"), "fc2_gru")


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return published_state(**SMALL)


@pytest.fixture(scope="module")
def waveform() -> torch.Tensor:
    """Long enough for four frames after the small network's blocks, which the GRU's memory needs."""
    return 0.3 * torch.randn(10_000, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def convert(tmp_path, capsys):
    """Run the converter on a state dict; its folder and what it prints."""

    def run(state, variant="icassp2021", sizes=SIZES, **changes):
        """`changes`, and sizes, of the model that the YAML states."""
        recipe = dataclasses.asdict(load_recipe(find_recipe(f"rawnet2-{variant}")[0]))
        recipe["model"] |= sizes | changes
        (tmp_path / "system.yaml").write_text(yaml.safe_dump(recipe))
        torch.save(state, tmp_path / "weights.pth")
        paths = {"--checkpoint": "weights.pth", "--output_dir": "out", "--system": "system.yaml"}
        main([str(word) for name, path in paths.items() for word in (name, tmp_path / path)])
        return tmp_path / "out", capsys.readouterr().out

    return run


@pytest.fixture
def refusal(convert, tmp_path, capsys):
    """Run the converter on what it refuses; its error."""

    def run(*arguments, **changes):
        with pytest.raises(SystemExit) as stop:
            convert(*arguments, **changes)
        assert stop.value.code == 1 and not (tmp_path / "out").exists()
        return capsys.readouterr().err

    return run


def logits_of(folder, waveform) -> torch.Tensor:
    model = AutoModelForAudioClassification.from_pretrained(folder)
    with torch.no_grad():
        return model(waveform[None]).logits[0]


@pytest.mark.parametrize("variant", PUBLISHED)
def test_logits_are_those_of_the_published_description(variant, state, waveform, convert):
    folder, _ = convert(state, variant)

    expected = published_logits(state, waveform, **SETTINGS[variant])
    torch.testing.assert_close(logits_of(folder, waveform).double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", PUBLISHED)
def test_every_tensor_of_the_published_description_but_the_unused_moves_the_logits(variant, state, waveform):
    """So that tensors at each other's places are seen above, but for those of the test below."""
    leaves = {name: tensor.double().requires_grad_() for name, tensor in state.items()}

    published_logits(leaves, waveform, **SETTINGS[variant]).sum().backward()

    still = [name for name, leaf in leaves.items() if leaf.grad is None or leaf.grad.abs().max() < 1e-2]
    unused = [] if SETTINGS[variant]["pre_activation"] else UNUSED
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    assert sorted(still) == sorted({*unused, *counters})


@pytest.mark.parametrize("variant", PUBLISHED)
def test_every_used_tensor_arrives_unchanged_at_one_place(variant, state, convert):
    folder, _ = convert(state, variant)

    placed = AutoModelForAudioClassification.from_pretrained(folder).state_dict()
    del placed["sinc.filters"]
    unused = [] if SETTINGS[variant]["pre_activation"] else UNUSED
    for name in state.keys() - set(unused):
        places = [place for place, tensor in placed.items() if torch.equal(tensor, state[name])]
        assert len(places) == 1, (name, places)
        del placed[places[0]]
    assert not placed


def test_tensors_that_no_logits_tell_apart_are_at_their_places(state, convert):
    folder, _ = convert(state)

    placed = AutoModelForAudioClassification.from_pretrained(folder).state_dict()
    # Both are added to the same sum.
    assert torch.equal(placed["blocks.2.conv2.bias"], state["block2.0.conv2.bias"])
    assert torch.equal(placed["blocks.2.shortcut.bias"], state["block2.0.conv_downsample.bias"])
    norms = {"first_bn": "sinc_norm", "bn_before_gru": "norm", "block0.0.bn2": "blocks.0.norm2"}
    norms |= {f"block{i}.0.bn{k}": f"blocks.{i}.norm{k}" for i in range(1, 6) for k in (1, 2)}
    counted = {ours: placed[f"{ours}.num_batches_tracked"].item() for ours in norms.values()}
    assert counted == {ours: state[f"{n}.num_batches_tracked"].item() for n, ours in norms.items()}


@pytest.mark.parametrize(
    ("variant", "num_samples", "num_parameters"),
    [("icassp2021", 64_000, 25_433_602), ("asvspoof2021", 64_600, 17_620_562)],
)
def test_published_sizes_give_the_published_network(variant, num_samples, num_parameters, waveform, convert):
    state = published_state(**PUBLISHED[variant])

    folder, printed = convert(state, variant, sizes={})

    expected = published_logits(state, waveform, **SETTINGS[variant])
    torch.testing.assert_close(logits_of(folder, waveform).double(), expected, atol=1e-5, rtol=0)
    assert AutoFeatureExtractor.from_pretrained(folder).num_samples == num_samples
    assert f"rawnet2-{variant} with {num_parameters:,} parameters" in printed


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        ({"sinc_filter_length": 32}, {"length": 33}),
        ({"sinc_scale": "mel"}, {"scale": "mel"}),
        ({"sinc_max_frequency": 6000.0}, {"highest": 6000.0}),
        ({"pre_activation": False}, {"pre_activation": False}),
    ],
)
def test_settings_of_the_yaml_are_those_of_the_model(changes, changed, state, waveform, convert):
    folder, _ = convert(state, "icassp2021", **changes)

    logits = logits_of(folder, waveform).double()
    expected = published_logits(state, waveform, **{**ICASSP, **changed})
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    assert (logits - published_logits(state, waveform, **ICASSP)).abs().max() > 1e-3


def test_num_samples_of_the_yaml_is_the_crop(state, convert):
    folder, _ = convert(state, "icassp2021", num_samples=64600)

    extractor = AutoFeatureExtractor.from_pretrained(folder)
    crop = extractor(torch.rand(70_000).numpy(), sampling_rate=16_000, return_tensors="pt")
    assert crop["input_values"].shape == (1, 64_600)
    assert AutoModelForAudioClassification.from_pretrained(folder).config.num_samples == 64_600


def test_documented_settings_of_the_icassp_codes_mel_bank_are_its_points(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])

    printed = capsys.readouterr().out
    highest = float(re.search(r"sinc_scale: mel and sinc_max_frequency:\s([\d.]+)\.\s", printed)[1])
    # The first 129 of 131 points that are equally spaced in mel from 0 to 8000 Hz.
    points = torch.linspace(0, 2595 * math.log10(1 + 8000 / 700), 131, dtype=torch.float64)[:129]
    assert highest == pytest.approx(700 * (10 ** (points[-1].item() / 2595) - 1), abs=1e-9)


def test_folder_is_complete_and_its_recipe_has_the_settings_that_were_used(state, convert):
    folder, _ = convert(state, "icassp2021", num_samples=64600)

    assert {path.name for path in folder.iterdir()} >= {
        "README.md",
        "config.json",
        "conversion.json",
        "model.safetensors",
        "modeling_rawnet2.py",
        "preprocessor_config.json",
        "recipe.yaml",
    }
    recipe = load_recipe(folder / "recipe.yaml")
    assert recipe.system == "rawnet2-icassp2021"
    assert (recipe.model["num_samples"], recipe.model["block_channels"]) == (64_600, [6, 6, 8, 8, 8, 8])
    config = json.loads((folder / "config.json").read_text())
    assert {name: config[name] for name in recipe.model if name != "id2label"} == {
        name: value for name, value in recipe.model.items() if name != "id2label"
    }
    assert config["id2label"] == {"0": "spoof", "1": "bonafide"}


def test_unused_normalisations_are_said_and_recorded(state, convert):
    folder, printed = convert(state, "asvspoof2021")

    record = json.loads((folder / "conversion.json").read_text())
    assert record["unused"] == UNUSED
    named = "block1.0.bn1, block2.0.bn1, block3.0.bn1, block4.0.bn1, block5.0.bn1"
    assert printed.splitlines()[-1] == f"Not used: {named}"


def test_checkpoint_of_several_gpus_gives_the_same_model(state, waveform, convert):
    folder, _ = convert({f"module.{name}": tensor for name, tensor in state.items()})

    expected = published_logits(state, waveform, **ICASSP)
    torch.testing.assert_close(logits_of(folder, waveform).double(), expected, atol=1e-5, rtol=0)


def test_file_of_another_system_is_refused_by_the_system(state, refusal):
    error = refusal(state, "asvspoof2021", {})

    assert "weights.pth, as rawnet2-asvspoof2021, does not fit the network:\n" in error
    assert "  first_bn.weight (6,): the network's sinc_norm.weight is (20,)\n" in error


def test_tensors_that_do_not_fit_are_all_named(state, refusal):
    damaged = {**state, "block2.0.conv9.weight": torch.zeros(1), "fc_attention1.0.bias": torch.zeros(3)}
    del damaged["block3.0.conv2.bias"], damaged["bn_before_gru.running_var"]

    error = refusal(damaged)

    assert "  blocks.3.conv2.bias (8,): not in the checkpoint, where it is of block3.0.conv2\n" in error
    assert "  norm.running_var (8,): not in the checkpoint, where it is of bn_before_gru\n" in error
    assert "  block2.0.conv9.weight (1,): the network has no block2.0.conv9.weight\n" in error
    assert "  fc_attention1.0.bias (3,): the network's blocks.1.scaling.linear.bias is (6,)\n" in error


def test_missing_normalisations_before_blocks_are_an_error_that_names_them(state, refusal):
    error = refusal({name: tensor for name, tensor in state.items() if ".bn1." not in name})

    for i in range(1, 6):
        for name in ("weight", "bias", "running_mean", "running_var"):
            place = rf"blocks.{i}.norm1.{name} \(\d+,\)"
            assert re.search(f"  {place}: not in the checkpoint, where it is of block{i}.0.bn1\n", error)


def test_normalisations_that_the_variant_does_not_use_may_be_missing(state, waveform, convert):
    folder, printed = convert({n: t for n, t in state.items() if n not in UNUSED}, "asvspoof2021")

    expected = published_logits(state, waveform, **ASVSPOOF)
    torch.testing.assert_close(logits_of(folder, waveform).double(), expected, atol=1e-5, rtol=0)
    assert "Not used" not in printed


def test_normalisation_of_the_first_block_which_no_variant_has_is_refused(state, refusal):
    error = refusal({**state, "block0.0.bn1.weight": torch.ones(6)}, "asvspoof2021")

    assert "  block0.0.bn1.weight (6,): the network has no blocks.0.norm1.weight\n" in error


def test_setting_that_is_not_valid_is_refused(state, refusal):
    assert "'sinc_scale' expected one of ('linear', 'mel', 'inverse_mel'), got bark" in refusal(
        state, sinc_scale="bark"
    )


class Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_pickle_that_runs_something_is_refused_and_not_run(state, refusal, tmp_path):
    error = refusal({**state, "extra": Malicious(os.mkdir, str(tmp_path / "trace"))})

    assert "Nothing of it was run" in error
    assert not (tmp_path / "trace").exists()


def test_output_folder_with_something_in_it_is_left_alone(state, convert, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")

    with pytest.raises(SystemExit) as stop:
        convert(state)

    assert stop.value.code == 1 and "not an empty folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("variant", PUBLISHED)
def test_converted_folder_can_be_published(variant, state, convert, capsys):
    folder, _ = convert(state, variant)

    publish.main([str(folder), "--repo_id", "org/name", "--dry_run"])

    listed = capsys.readouterr().out
    assert all(name in listed for name in ("README.md", "model.safetensors", "modeling_rawnet2.py"))
