"""The converter of the study's weights, on copies of small networks whose tensors were renamed: the originals
are not at hand."""

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tiny_base_model import ENCODER_SIZES
from torch import nn
from transformers import AutoModelForAudioClassification, PreTrainedModel

from hub_cards.recipe import find_recipe, load_recipe
from modeling.conversion import new_model, rename
from modeling.convert_study_checkpoint import convert, main


SIZES = {
    "rawnet2-plateau": {
        "num_samples": 800,
        "sinc_filters": 8,
        "block_channels": [8, 16],
        "gru_hidden_size": 16,
        "embedding_size": 12,
    },
    "wav2vec2-v2-unfrozen": {
        "num_samples": 800,
        "encoder_config": {"model_type": "wav2vec2", **ENCODER_SIZES, "num_hidden_layers": 4},
        "classifier_proj_size": 20,
    },
}
# Names that another project might give: theirs, ours.
RAWNET2 = {
    "frontend.bn": "sinc_norm",
    "stage1.0.conv_a": "blocks.0.conv1",
    "stage1.0.bn_b": "blocks.0.norm2",
    "stage1.0.conv_b": "blocks.0.conv2",
    "stage1.0.fms.fc": "blocks.0.scaling.linear",
    "stage2.0.bn_a": "blocks.1.norm1",
    "stage2.0.conv_a": "blocks.1.conv1",
    "stage2.0.bn_b": "blocks.1.norm2",
    "stage2.0.conv_b": "blocks.1.conv2",
    "stage2.0.down.0": "blocks.1.shortcut",
    "stage2.0.fms.fc": "blocks.1.scaling.linear",
    "bn_before_gru": "norm",
    "rnn": "gru",
    "head.0": "embedding",
    "head.1": "classifier",
}
HEAD = {"head.0": "backend.projector", "head.3": "classifier"}
POSITIONS = "encoder.pos_conv_embed.conv"


def write_system(folder: Path, system: str, **model) -> Path:
    """A YAML of the system with the sizes of `SIZES` and other settings of the model."""
    recipe = dataclasses.asdict(load_recipe(find_recipe(system)[0]))
    recipe["model"] |= SIZES.get(system, {}) | model
    path = folder / f"{system}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def random_model(system: Path) -> PreTrainedModel:
    """A network with tensors of which no two are equal."""
    generator = torch.Generator().manual_seed(0)
    model = new_model(load_recipe(system))
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(int(torch.randint(1, 1000, (), generator=generator)))
        elif name.endswith(("running_var", "original0")):
            tensor.uniform_(0.5, 2, generator=generator)
        elif name != "sinc.filters":
            tensor.normal_(0, 0.3, generator=generator)
    return model


def renamed(model: PreTrainedModel, names: dict[str, str], prefix: str = "") -> dict[str, torch.Tensor]:
    """The network's tensors as `names` has them, an encoder's under a prefix, without the fixed bank."""
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items() if name != "sinc.filters"}
    theirs = {ours: name for name, ours in names.items()}
    if any(name.startswith("encoder.") for name in tensors):
        modules = {name.split(".")[1] for name in tensors if name.startswith("encoder.")}
        theirs |= {f"encoder.{module}": prefix + module for module in modules}
    return {rename(name, theirs): tensor for name, tensor in tensors.items()}


def write_key_map(folder: Path, names: dict[str, str], *more: str) -> Path:
    path = folder / "names.yaml"
    path.write_text(
        "\n".join([*(f"{theirs}: {ours}" for theirs, ours in names.items()), *more]) + "\n", "utf-8"
    )
    return path


def assert_same_model(folder: Path, model: PreTrainedModel) -> None:
    converted = AutoModelForAudioClassification.from_pretrained(folder)
    tensors = converted.state_dict()
    assert tensors.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0, msg=name)
    waveforms = 0.1 * torch.randn(2, model.config.num_samples, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(waveforms).logits
        assert logits.std() > 0.01
        torch.testing.assert_close(converted(waveforms).logits, logits, rtol=1e-6, atol=1e-6)


class Case:
    """A small network of a system, its renamed tensors and the files that the converter takes."""

    def __init__(self, folder: Path, system: str, names: dict[str, str], prefix: str = ""):
        self.folder, self.names = folder, names
        self.system = write_system(folder, system)
        self.model = random_model(self.system)
        self.tensors = renamed(self.model, names, prefix)
        self.out = folder / "out"

    def arguments(self, *more: str, names: dict[str, str] | None = None) -> list[str]:
        """Those of the command line, for the tensors as they are now and a key map of the names."""
        torch.save(self.tensors, self.folder / "best.pt")
        key_map = write_key_map(self.folder, self.names if names is None else names, *more)
        arguments = {"checkpoint": self.folder / "best.pt", "system": self.system, "key_map": key_map}
        return [str(word) for name, value in arguments.items() for word in (f"--{name}", value)]

    def convert(self, *more: str, names: dict[str, str] | None = None) -> dict:
        """Convert with further lines in the key map; what `conversion.json` says."""
        main([*self.arguments(*more, names=names), "--output_dir", str(self.out)])
        return json.loads((self.out / "conversion.json").read_text())

    def refused(self, capsys, *more: str, names: dict[str, str] | None = None) -> str:
        """What is said where the conversion is refused, which leaves nothing behind."""
        with pytest.raises(SystemExit) as stop:
            self.convert(*more, names=names)
        assert stop.value.code == 1
        assert not self.out.exists()
        return capsys.readouterr().err


@pytest.fixture
def rawnet2(tmp_path) -> Case:
    return Case(tmp_path, "rawnet2-plateau", RAWNET2)


@pytest.fixture
def wav2vec2(tmp_path) -> Case:
    return Case(tmp_path, "wav2vec2-v2-unfrozen", HEAD, "wav2vec2.")


def test_renamed_rawnet2_is_the_model_that_it_was(rawnet2, capsys):
    record = rawnet2.convert()

    assert_same_model(rawnet2.out, rawnet2.model)
    config = json.loads((rawnet2.out / "config.json").read_text())
    assert config["id2label"] == {"0": "spoof", "1": "bonafide"}
    assert record["converter"] == "modeling.convert_study_checkpoint"
    assert record["unused"] == []
    assert record["key_map"]["stage2.0.down.0.weight"] == "blocks.1.shortcut.weight"
    assert f"{rawnet2.model.num_parameters():,} parameters" in capsys.readouterr().out


@pytest.mark.parametrize("prefix", ["", "wav2vec2.", "encoder.", "model.backbone."])
@pytest.mark.parametrize("old_spelling", [False, True])
def test_encoder_is_recognised_under_any_prefix_and_both_spellings(tmp_path, prefix, old_spelling):
    case = Case(tmp_path, "wav2vec2-v2-unfrozen", HEAD, prefix)
    if old_spelling:
        for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
            tensor = case.tensors.pop(f"{prefix}{POSITIONS}.parametrizations.weight.{new}")
            case.tensors[f"{prefix}{POSITIONS}.{old}"] = tensor

    case.convert()

    assert_same_model(case.out, case.model)
    config = json.loads((case.out / "config.json").read_text())
    assert config["id2label"] == {"0": "bonafide", "1": "spoof"}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_old_weight_norm_of_torch_itself_gives_the_same_logits(wav2vec2):
    convolution = nn.Conv1d(32, 32, kernel_size=16, groups=4)
    with torch.no_grad():
        convolution.weight.copy_(wav2vec2.model.encoder.encoder.pos_conv_embed.conv.weight)
    convolution = nn.utils.weight_norm(convolution, dim=2)
    for name in ("original0", "original1"):
        del wav2vec2.tensors[f"wav2vec2.{POSITIONS}.parametrizations.weight.{name}"]
    for name in ("weight_g", "weight_v"):
        wav2vec2.tensors[f"wav2vec2.{POSITIONS}.{name}"] = convolution.state_dict()[name]

    wav2vec2.convert()

    converted = AutoModelForAudioClassification.from_pretrained(wav2vec2.out)
    waveforms = 0.1 * torch.randn(2, 800)
    with torch.no_grad():
        torch.testing.assert_close(converted(waveforms).logits, wav2vec2.model(waveforms).logits)


def test_encoder_that_is_in_the_key_map_needs_no_name_of_its_own(wav2vec2):
    renames = {"wav2vec2.feature_extractor.": "cnn.", "wav2vec2.": "ssl."}
    for old, new in renames.items():
        wav2vec2.tensors = {name.replace(old, new): tensor for name, tensor in wav2vec2.tensors.items()}

    wav2vec2.convert("cnn: encoder.feature_extractor")

    assert_same_model(wav2vec2.out, wav2vec2.model)


def test_masked_spec_embed_is_not_used_and_said_so(wav2vec2, capsys):
    wav2vec2.tensors["wav2vec2.masked_spec_embed"] = torch.randn(32)

    record = wav2vec2.convert()

    assert record["unused"] == ["wav2vec2.masked_spec_embed"]
    assert "Not used: wav2vec2.masked_spec_embed" in capsys.readouterr().out
    left_out = "Tensors in it that the network does not use were left out: `wav2vec2.masked_spec_embed`."
    assert left_out in (wav2vec2.out / "README.md").read_text()
    assert_same_model(wav2vec2.out, wav2vec2.model)


def test_what_an_encoder_lacks_is_listed(wav2vec2, capsys):
    del wav2vec2.tensors["wav2vec2.encoder.layers.2.attention.k_proj.bias"]

    error = wav2vec2.refused(capsys)

    _, misfit = error.splitlines()
    assert misfit == "  encoder.encoder.layers.2.attention.k_proj.bias (32,): not in the checkpoint"


def test_second_whole_encoder_has_no_place(wav2vec2, capsys):
    teacher = {name.replace("wav2vec2.", "teacher."): tensor for name, tensor in wav2vec2.tensors.items()}
    wav2vec2.tensors = teacher | wav2vec2.tensors

    error = wav2vec2.refused(capsys)

    name = "wav2vec2.encoder.layer_norm.bias"
    assert f"  {name} (32,): the network has no {name}\n" in error
    assert "teacher." not in error


def test_line_of_the_key_map_leaves_one_of_two_encoders_out(wav2vec2):
    teacher = {
        name.replace("wav2vec2.", "teacher."): torch.randn(tensor.shape)
        for name, tensor in wav2vec2.tensors.items()
        if name.startswith("wav2vec2.")
    }
    wav2vec2.tensors = teacher | wav2vec2.tensors

    record = wav2vec2.convert('teacher: "-"')

    assert record["unused"] == sorted(teacher)
    assert_same_model(wav2vec2.out, wav2vec2.model)


def test_tensor_of_the_key_map_in_a_place_that_is_recognised_too_is_refused(wav2vec2, capsys):
    wav2vec2.tensors["norm.weight"] = torch.randn(32)

    error = wav2vec2.refused(capsys, "norm.weight: encoder.encoder.layer_norm.weight")

    both = "both wav2vec2.encoder.layer_norm.weight and norm.weight give the network's "
    assert f"best.pt: {both}encoder.encoder.layer_norm.weight." in error


def test_key_map_may_have_comments_empty_lines_and_a_mark_of_its_encoding(wav2vec2):
    lines = ("\ufeff# of the head", "", "head.0.weight: backend.projector.weight")
    lines += ("head.0.bias:   backend.projector.bias  # b",)

    wav2vec2.convert(*lines, "head.3  : classifier", names={})

    assert_same_model(wav2vec2.out, wav2vec2.model)


def test_longest_name_of_the_key_map_counts(rawnet2):
    rawnet2.tensors["other.bias"] = rawnet2.tensors.pop("head.0.bias")
    rawnet2.tensors["head.0.bias"] = torch.randn(2)

    record = rawnet2.convert("other: embedding", 'head.0.bias: "-"')

    assert record["unused"] == ["head.0.bias"]
    assert_same_model(rawnet2.out, rawnet2.model)


def test_tensors_with_the_names_of_this_project_need_no_key_map(wav2vec2):
    wav2vec2.tensors = dict(wav2vec2.model.state_dict())
    main([*wav2vec2.arguments()[:-2], "--output_dir", str(wav2vec2.out)])

    assert_same_model(wav2vec2.out, wav2vec2.model)


def test_tensor_that_is_no_part_of_the_network_is_listed_as_unused(rawnet2, capsys):
    rawnet2.tensors["criterion.weight"] = torch.tensor([8.837, 1.0])

    record = rawnet2.convert('criterion: "-"')

    assert record["unused"] == ["criterion.weight"]
    assert "Not used: criterion\n" in capsys.readouterr().out
    assert_same_model(rawnet2.out, rawnet2.model)


def test_everything_that_an_incomplete_key_map_lacks_is_listed_with_its_shape(rawnet2, capsys):
    error = rawnet2.refused(capsys, names={"rnn": "gru"})

    for name, tensor in rawnet2.tensors.items():
        misfit = f"  {name} {tuple(tensor.shape)}: the network has no {name}\n"
        assert (misfit in error) == (not name.startswith("rnn."))
    for place, tensor in rawnet2.model.state_dict().items():
        needed = not place.startswith(("gru.", "sinc.")) and not place.endswith("num_batches_tracked")
        assert (f"  {place} {tuple(tensor.shape)}: not in the checkpoint\n" in error) == needed


def test_without_a_key_map_the_head_is_listed_and_the_encoder_is_not(wav2vec2, capsys):
    with pytest.raises(SystemExit):
        main([*wav2vec2.arguments()[:-2], "--output_dir", str(wav2vec2.out)])

    error = capsys.readouterr().err
    assert "  head.0.weight (20, 32): the network has no head.0.weight\n" in error
    assert "  backend.projector.weight (20, 32): not in the checkpoint\n" in error
    assert "attention" not in error


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("head.7", "names.yaml is not valid YAML"),
        ("head.0.bias:", "names.yaml must hold two names a line, `theirs: ours`."),
        ("head.0.bias: [embedding]", "names.yaml must hold two names a line, `theirs: ours`."),
        (
            'head.0.bais: "-"',
            "names.yaml: head.0.bais is not in the checkpoint (did you mean 'head.0.bias'?).",
        ),
        ('hea: "-"', "names.yaml: hea is not in the checkpoint."),
    ],
)
def test_line_of_the_key_map_that_names_nothing_is_refused(rawnet2, capsys, line, said):
    assert said in rawnet2.refused(capsys, line)


def test_empty_key_map_leaves_all_to_be_named_and_a_list_is_refused(rawnet2, capsys):
    assert "  head.0.bias (12,): the network has no head.0.bias\n" in rawnet2.refused(capsys, names={})
    assert "must hold two names a line" in rawnet2.refused(capsys, "- head.0", names={})


def test_all_names_that_the_network_does_not_have_are_given(rawnet2, capsys):
    wrong = {"head.0": "embeding", "rnn": "blocks.7", "frontend.bn": "sinc_norm.weights"}

    error = rawnet2.refused(capsys, names=RAWNET2 | wrong)

    for theirs, ours in wrong.items():
        name = "weight_ih_l0" if theirs == "rnn" else "bias"
        assert re.search(rf"  {theirs}.{name} \(.*\): the network has no {ours}.{name}\n", error)
    for place in ("embedding.bias", "gru.bias_ih_l0", "sinc_norm.weight"):
        assert re.search(rf"  {place} \(\d+,\): not in the checkpoint\n", error)


def test_mis_shaped_tensors_and_those_without_a_place_are_listed_together(rawnet2, capsys):
    rawnet2.tensors["head.1.bias"] = torch.randn(3)
    rawnet2.tensors["more"] = torch.randn(1)

    error = rawnet2.refused(capsys)

    assert "  head.1.bias (3,): the network's classifier.bias is (2,)\n" in error
    assert "  more (1,): the network has no more\n" in error


def test_repeated_tensors_are_refused(rawnet2, capsys):
    rawnet2.tensors["aux.weight"] = torch.randn(12, 16)

    error = rawnet2.refused(capsys, "aux: embedding")

    assert "both head.0.weight and aux.weight give the network's embedding.weight" in error


def test_module_with_a_tensor_more_than_ours_is_refused(rawnet2, capsys):
    rawnet2.tensors["head.0.scale"] = torch.randn(1)

    error = rawnet2.refused(capsys)

    assert "  head.0.scale (1,): the network has no embedding.scale\n" in error


@pytest.mark.parametrize("dimensions", [2, 3])
def test_bank_that_is_ours_is_accepted(rawnet2, dimensions):
    bank = rawnet2.model.sinc.filters
    rawnet2.tensors["frontend.taps"] = bank.squeeze(1) if dimensions == 2 else bank.clone()

    record = rawnet2.convert("frontend.taps: sinc.filters")

    assert record["unused"] == []
    assert_same_model(rawnet2.out, rawnet2.model)


def test_bank_of_other_settings_is_refused(rawnet2, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    other = new_model(
        load_recipe(write_system(tmp_path / "other", "rawnet2-plateau", sinc_max_frequency=7800.0))
    )
    rawnet2.tensors["frontend.taps"] = other.sinc.filters

    error = rawnet2.refused(capsys, "frontend.taps: sinc.filters")

    assert "best.pt: frontend.taps (8, 1, 129) is not the sinc bank of" in error
    assert "change sinc_max_frequency" in error


def test_bank_with_another_number_of_taps_is_refused(rawnet2, capsys):
    rawnet2.tensors["frontend.taps"] = torch.randn(8, 127)

    error = rawnet2.refused(capsys, "frontend.taps: sinc.filters")

    assert "frontend.taps (8, 1, 127) is not the sinc bank" in error and "(8, 1, 129)" in error


def test_counts_of_batches_may_be_absent_and_are_zero(rawnet2):
    counts = {name for name in rawnet2.tensors if name.endswith("num_batches_tracked")}
    rawnet2.tensors = {name: tensor for name, tensor in rawnet2.tensors.items() if name not in counts}

    rawnet2.convert()

    for name, tensor in rawnet2.model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.zero_()
    assert_same_model(rawnet2.out, rawnet2.model)
    assert len(counts) == 5


class Malicious:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickle_that_runs_something_is_refused_and_not_run(rawnet2, tmp_path, capsys):
    rawnet2.tensors["head.1.bias"] = Malicious(tmp_path / "trace")

    assert "Nothing of it was run" in rawnet2.refused(capsys)
    assert not (tmp_path / "trace").exists()


def test_output_folder_with_something_in_it_is_left_alone(rawnet2, capsys):
    rawnet2.out.mkdir()
    (rawnet2.out / "mine.txt").write_text("mine")

    with pytest.raises(SystemExit) as stop:
        rawnet2.convert()

    assert stop.value.code == 1
    assert "not an empty folder" in capsys.readouterr().err
    assert [path.name for path in rawnet2.out.iterdir()] == ["mine.txt"]


def test_system_of_another_architecture_is_refused(rawnet2, capsys):
    rawnet2.system = "lcnn"

    assert "lcnn is a lcnn, not rawnet2 or wav2vec2-antispoofing." in rawnet2.refused(capsys)


def test_missing_key_map_is_one_line_of_error(rawnet2, capsys):
    arguments = rawnet2.arguments()
    (rawnet2.folder / "names.yaml").unlink()

    with pytest.raises(SystemExit):
        main([*arguments, "--output_dir", str(rawnet2.out)])

    error = capsys.readouterr().err
    assert "names.yaml" in error
    assert error.count("\n") == 1


def test_help_says_that_the_originals_could_not_be_tried(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])

    assert "The originals could not be tried" in capsys.readouterr().out


def test_card_keeps_the_studys_results_as_reported(rawnet2):
    rawnet2.convert()

    card = (rawnet2.out / "README.md").read_text()
    assert "Its weights were converted, not trained here" in card
    assert "Who trained them, on what and under which licence is not known from the file" in card
    assert "16.79 %" in card.split("eported", 1)[1]


@pytest.fixture(scope="module")
def small_rawnet2(tmp_path_factory) -> tuple[Path, PreTrainedModel]:
    system = write_system(tmp_path_factory.mktemp("small"), "rawnet2-plateau")
    return system, random_model(system)


# A failure is not shrunk: each try writes a model, and any renaming shows what is wrong.
@settings(max_examples=5, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_renaming_of_all_tensors_converts_back(small_rawnet2, tmp_path_factory, data):
    system, model = small_rawnet2
    folder = tmp_path_factory.mktemp("renamed")
    places = [place for place in model.state_dict() if place != "sinc.filters"]
    part = st.text("abwé0_", min_size=1, max_size=3)
    name = st.lists(part, min_size=1, max_size=4).map(".".join)
    names = data.draw(st.lists(name, min_size=len(places), max_size=len(places), unique=True))
    key_map = dict(zip(names, data.draw(st.permutations(places)), strict=True))
    torch.save({theirs: model.state_dict()[ours] for theirs, ours in key_map.items()}, folder / "best.pt")

    convert(folder / "best.pt", folder / "out", str(system), write_key_map(folder, key_map))

    assert_same_model(folder / "out", model)


@pytest.mark.slow
def test_renamed_copy_of_the_studys_own_size_is_converted(tmp_path):
    system = find_recipe("wav2vec2-v2-unfrozen")[0]
    model = random_model(system)
    torch.save(renamed(model, HEAD, "encoder."), tmp_path / "best.pt")

    convert(tmp_path / "best.pt", tmp_path / "out", system.stem, write_key_map(tmp_path, HEAD))

    assert_same_model(tmp_path / "out", model)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["encoder_config"]["num_attention_heads"] == 12
